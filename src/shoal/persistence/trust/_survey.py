"""A dry run: a file goes through the unpickler, with stand-ins for all that it would import.

::

    Survey.load() <── read() <── Watched <── the file        find_class: a stand-in; its name is written down
                                   │                          an array: skipped; its dtype, shape and place are
                                   └──> opcodes, kept

    Rebuilder.load() <── read() <── Input <── Woven <── opcodes as they were kept, arrays from the file (_rebuild.py)

It is the very machine that rebuilds objects which says what it is asked for, so that nothing can be understood in two
ways; and it is later given the very opcodes that were gone through, whatever the file has become.
"""

from __future__ import annotations

from typing import Any

import xxhash

from shoal.errors import CorruptFile, DamagedFile
from shoal.persistence._format import WRAPPER, WRAPPER_MODULE, Footer
from shoal.persistence.reading._input import Input
from shoal.persistence.reading._legacy import WRAPPERS, of_python_2
from shoal.persistence.reading._reader import TAKE_ARRAY, Reader, as_named_now, is_wrapper
from shoal.persistence.trust._dtypes import Dtype
from shoal.persistence.trust._limits import PER_OPCODE, Budget, Misuse
from shoal.persistence.trust._opcodes import Walk, memo_uses
from shoal.persistence.trust._rebuild import Met
from shoal.persistence.trust._reconstructors import RECONSTRUCTORS
from shoal.persistence.trust._safe import SAFE
from shoal.persistence.trust._standins import GETATTR, Container, Global, Notes


class CheckedBytes:
    """The bytes of a file that belong to no array, with their checksum."""

    def __init__(self) -> None:
        self.data = bytearray()
        self._sum = xxhash.xxh3_64()
        self.copy = self._sum.copy
        self.intdigest = self._sum.intdigest

    def update(self, data: Any) -> None:
        """Append bytes."""
        self.data += data
        self._sum.update(data)


class Watched(Input):
    """An input whose opcodes are checked before the unpickler gets them, and kept.

    Attributes
    ----------
    kept
        The bytes that were read and belong to no array.
    damage
        The damage that was found. The unpickler itself reports it as a missing rest of the input.
    """

    def __init__(
        self, file: Any, name: str, left: int | None, budget: Budget, ahead: bytes = b"", exact: bool = False
    ) -> None:
        super().__init__(file, name, left, ahead, exact)
        self.checksum = self.kept = CheckedBytes()
        self.budget = budget
        self.walk = Walk(self._refuse, budget)
        self.damage: DamagedFile | None = None

    def _refuse(self, expected: str, found: str) -> None:
        self.damage = DamagedFile(self.name, self.position, expected, found)
        raise self.damage

    def read(self, size: int = -1) -> bytes | memoryview:
        """Return what the unpickler needs next."""
        data = super().read(size)
        self.budget.charge(len(data))
        before = self.walk.text
        self.walk.feed(data)
        self.budget.charge((PER_OPCODE - 1) * (len(data) - self.walk.text + before))
        return data

    def _no_footer(self) -> None:
        """Go on: what is taken is kept in any case."""

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer of the unpickler's."""
        self.budget.charge(len(buffer))
        count = super().readinto(buffer)
        self.walk.feed(buffer)
        return count

    def readline(self) -> bytes:
        """Return a line."""
        data = super().readline()
        self.budget.charge(PER_OPCODE + len(data))
        self.walk.feed(data)
        return data


class Survey(Reader):
    """Goes through one object, and builds nothing but plain data.

    Parameters
    ----------
    source
        Where it is read from.

    Attributes
    ----------
    notes
        What is to be told of it.
    failure
        What was raised when it could not be gone through to its end.
    compressor
        What the file is compressed by.
    met
        The arrays outside of the pickle, in the order in which their wrappers were met.
    """

    failure: Exception | None = None
    compressor: str | None = None

    def __init__(self, source: Watched) -> None:
        super().__init__(source, native=False)
        self._watched = source
        self.notes = Notes(SAFE, RECONSTRUCTORS, source.budget)
        self.met: list[Met] = []
        self.wrapper = self._stand_in(WRAPPER, self._met)
        self._begin = len(source.kept.data)
        self._parts: list[tuple[int, int]] = []  # where its own opcodes are among those that were kept

    def load(self) -> Any:
        """Go through the object."""
        notes, walk = self.notes, self._watched.walk
        events, built = notes.events, len(notes.built)
        outer = walk.enter(lambda: self.memo.copy())
        try:
            value = super().load()
        finally:
            walk.leave(outer)
        self._pause()
        if notes.events > events and len(notes.built) > built:
            self._compare_uses(notes.built[built:])
        del notes.built[built:]
        return value

    def _pause(self) -> None:
        """Take note that what comes next is not an opcode of this object."""
        self._parts.append((self._begin, len(self._watched.kept.data)))

    def _go_on(self) -> None:
        self._begin = len(self._watched.kept.data)

    def _compare_uses(self, built: list[tuple[Any, Any]]) -> None:
        """Refuse dictionaries and lists that numpy is given, if anything else may have them as well.

        Code of what is trusted could change these: fields of a dtype after they were checked, or the list of an array's
        objects before numpy takes as many of them as there were. Pickle pushes such a list once, and gives it to one
        object; whoever wants it in two places has it taken from the memo, which the opcodes tell.
        """
        data = self._watched.kept.data
        gets, puts = memo_uses(b"".join(data[begin:end] for begin, end in self._parts))
        memo = self.memo.copy()
        if puts != len(memo):
            self.notes.misused("it puts several objects at one place of the memo")
            return
        place = {id(value): index for index, value in memo.items() if type(value) in (tuple, dict, list)}
        states: dict[int, int] = {}
        holders: dict[int, set[int]] = {}
        for state, inner in built:
            states[id(state)] = states.get(id(state), 0) + 1
            holders.setdefault(id(inner), set()).add(id(state))
        wanted = {**{key: len(value) for key, value in holders.items()}, **states}
        if any(count != 1 + gets.get(place.get(key, -1), 0) for key, count in wanted.items()):
            self.notes.misused("the fields of a dtype, or the list of an array's objects, are used elsewhere as well")

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a global."""
        if is_wrapper(module, name):
            return self.wrapper
        module, name = as_named_now(module, name)
        if name in WRAPPERS and module.startswith(WRAPPER_MODULE):
            self.notes.misused("its arrays are in files of their own, which joblib before 0.10 has written")
        return self.notes.attribute_getter() if (module, name) == GETATTR else self.notes.stand_in(module, name)

    @property
    def opcodes(self) -> bytearray:
        """What belongs to no array."""
        return self._watched.kept.data

    @property
    def size(self) -> int:
        """The number of bytes that it takes, arrays included."""
        return self._watched.position

    @property
    def protocol(self) -> int:
        """That of pickle; 0 for 1 as well, which files do not tell apart."""
        return self._watched.walk.protocol

    @property
    def footer(self) -> Footer | None:
        """The footer, if there is one."""
        return self._watched.footer

    def go_through(self) -> None:
        """Do it, and note what goes wrong."""
        source = self._watched
        try:
            self.load()
            if self.footer is not None:
                self.footer.compare(source.name, source.before_footer, None)
            elif source.promised:
                self.failure = DamagedFile(source.name, source.position, "a footer", "the end of the object")
        except Misuse as error:
            self.notes.misused(str(error))
        except (CorruptFile, RecursionError, MemoryError) as error:
            self.failure = error
        except UnicodeDecodeError as error:
            self.failure = of_python_2(source.name)
            self.failure.__cause__ = error
        except Exception as error:
            found = f"what raises {type(error).__name__} ({error})"
            self.failure = source.damage or DamagedFile(source.name, source.position, "opcodes of pickle", found)

    def persistent_load(self, pid: Any) -> Any:
        """Return what stands for the array that was just skipped."""
        if pid is not None or self._array is None:
            self.notes.misused("it names an object outside of the file, by a persistent id")
            return None
        return super().persistent_load(pid)

    def _met(self, state: Any) -> None:
        """Skip an array."""
        source, begin = self._watched, self._watched.position
        if self._array is not None:
            raise self._damage("the end of a frame", "another array")
        try:
            shape, dtype = state["shape"], state["dtype"]
            kind, order, mappable = state["subclass"], state["order"], state["allow_mmap"]
            right = type(state) is dict and all(type(key) is str for key in state)
            right = right and type(shape) is tuple and all(type(size) is int and size >= 0 for size in shape)
            right = right and order in ("C", "F") and type(mappable) is bool and isinstance(kind, Global)
            aligned = state.get("numpy_array_alignment_bytes") is not None
        except (AttributeError, KeyError, TypeError) as error:
            raise self._damage("what describes an array", f"{type(error).__name__}: {error}") from None
        if not (right and isinstance(dtype, Dtype)):
            raise Misuse("an array is described by something else than plain data and a dtype of numpy's")
        self._pause()
        if dtype.real.hasobject:
            self.met.append(Met(begin, begin, 0, shape, dtype.real, order, aligned))
            array = self._nested()
            if not isinstance(array, Container):  # what it holds, nobody knows here
                raise Misuse("there is something else in the place of an array of objects")
        else:
            if aligned:
                source.padding()
            stored = dtype.described(shape, source.position)
            self.met.append(Met(begin, source.position, stored.nbytes, shape, dtype.real, order, aligned))
            self.notes.array(stored)
            source.budget.charge(stored.nbytes)
            source.skip(stored.nbytes, "an array")
            array = kind.result
        self._go_on()
        self._array = array
        source.go_on(TAKE_ARRAY)

    def _inner(self) -> Survey:
        inner = Survey(self._watched)
        inner.notes, inner.met = self.notes, self.met
        return inner
