"""A dry run: a file goes through the unpickler, with stand-ins for all that it would import.

::

    Survey.load() <── read() <── Watched <── the file        find_class: a stand-in; its name is written down
                                   │                          an array: skipped; its dtype, shape and place are
                                   └──> opcodes, kept

    Reader.load() <── read() <── Input <── Woven <── opcodes as they were kept, arrays from the file

It is the very machine that rebuilds objects which says what it is asked for, so that nothing can be understood in two
ways; and it is later given the very opcodes that were gone through, whatever the file has become.
"""

from __future__ import annotations

import _compat_pickle
import io
from collections import deque
from typing import Any

import xxhash

from shoal.errors import CorruptFile, DamagedFile, UntrustedFile
from shoal.persistence._dtypes import Dtype, SurveyedArray
from shoal.persistence._format import WRAPPER, WRAPPER_MODULE, Footer
from shoal.persistence._input import BLOCK, Input
from shoal.persistence._legacy import WRAPPERS, of_python_2
from shoal.persistence._opcodes import Misuse, Walk
from shoal.persistence._reader import TAKE_ARRAY, Reader, is_wrapper
from shoal.persistence._safe import SAFE
from shoal.persistence._standins import GETATTR, Global, Notes


class Kept:
    """Keeps what it is given, and takes its checksum."""

    def __init__(self) -> None:
        self.data = bytearray()
        self._sum = xxhash.xxh3_64()
        self.copy = self._sum.copy
        self.intdigest = self._sum.intdigest

    def update(self, data: Any) -> None:
        """Take some bytes."""
        self.data += data
        self._sum.update(data)


class Watched(Input):
    """An input all of whose opcodes are walked over before the unpickler has them, and kept.

    Attributes
    ----------
    kept
        What was taken that belongs to no array.
    damage
        What was found: the unpickler says of it that there is no more input.
    """

    def __init__(self, file: Any, name: str, left: int | None, ahead: bytes = b"", exact: bool = False) -> None:
        super().__init__(file, name, left, ahead, exact)
        self.checksum = self.kept = Kept()
        self.walk = Walk(self._refuse)
        self.damage: DamagedFile | None = None

    def _refuse(self, expected: str, found: str) -> None:
        self.damage = DamagedFile(self.name, self.position, expected, found)
        raise self.damage

    def read(self, size: int = -1) -> bytes | memoryview:
        """Return what the unpickler needs next."""
        data = super().read(size)
        self.walk.feed(data)
        return data

    def _no_footer(self) -> None:
        """Go on: what is taken is kept in any case."""

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer of the unpickler's."""
        count = super().readinto(buffer)
        self.walk.feed(buffer)
        return count

    def readline(self) -> bytes:
        """Return a line."""
        data = super().readline()
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
    """

    failure: Exception | None = None
    compressor: str | None = None

    def __init__(self, source: Watched) -> None:
        super().__init__(source, native=False)
        self._watched = source
        self.notes = Notes(SAFE)
        self.wrapper = self._stand_in(WRAPPER, self._met)

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
        source = self._watched
        if self._array is not None:
            raise self._damage("the end of a frame", "another array")
        try:
            shape, dtype = state["shape"], state["dtype"]
            kind, order, mappable = state["subclass"], state["order"], state["allow_mmap"]
            right = type(state) is dict and all(type(key) is str for key in state)
            right = right and type(shape) is tuple and all(type(size) is int and size >= 0 for size in shape)
            right = right and order in ("C", "F") and type(mappable) is bool and isinstance(kind, Global)
            aligned = state.get("numpy_array_alignment_bytes")
        except (AttributeError, KeyError, TypeError) as error:
            raise self._damage("what describes an array", f"{type(error).__name__}: {error}") from None
        if not (right and isinstance(dtype, Dtype)):
            raise Misuse("an array is described by something else than plain data and a dtype of numpy's")
        if dtype.real.hasobject:
            array = self._nested()
        else:
            if aligned is not None:
                source.padding()
            stored = dtype.described(shape, source.position)
            self.notes.arrays.append(stored)
            source.skip(stored.nbytes, "an array")
            array = kind.result
        self._array = array
        source.go_on(TAKE_ARRAY)

    def _inner(self) -> Survey:
        inner = Survey(self._watched)
        inner.notes = self.notes
        return inner


class Allowed(Reader):
    """Rebuilds one object from opcodes that were gone through.

    Parameters
    ----------
    found
        What it may import.
    """

    found: dict[tuple[str, str], Any]

    def find_class(self, module: str, name: str) -> Any:
        """Return a global, if it is among them."""
        if is_wrapper(module, name):
            return super().find_class(module, name)
        name_now = as_named_now(module, name)
        if name_now == GETATTR and name_now not in self.found:
            return self._attribute
        return self.found[name_now]

    def _attribute(self, kind: Any, name: str) -> Any:
        """Return what is named by a class and the name of an attribute."""
        for (module, qualname), value in self.found.items():
            parent, _, last = qualname.rpartition(".")
            if last == name and self.found.get((module, parent)) is kind:
                return value
        raise UntrustedFile(self._source.name, (".".join(GETATTR),))

    def _inner(self) -> Allowed:
        inner: Allowed = super()._inner()
        inner.found = self.found
        return inner


def as_named_now(module: str, name: str) -> tuple[str, str]:
    """Return what Python 2 called otherwise."""
    known = _compat_pickle.NAME_MAPPING.get((module, name))
    return known or (_compat_pickle.IMPORT_MAPPING.get(module, module), name)


class Woven(io.RawIOBase):
    """A stream made of opcodes that were kept, and of arrays from the file.

    Parameters
    ----------
    opcodes
        All that belongs to no array.
    arrays
        The arrays.
    stream
        Where they are.
    begin
        From where on; None if it cannot seek, and stands there.
    """

    def __init__(self, opcodes: bytearray, arrays: list[SurveyedArray], stream: Any, begin: int | None) -> None:
        self._opcodes, self._stream, self._begin = opcodes, stream, begin
        self._arrays = deque(
            (array.position, array.position + array.nbytes)
            for array in arrays
            if array.position is not None and array.nbytes
        )
        self._passed = 0  # bytes of arrays that were passed
        self._at = 0
        self._stands = 0  # where the stream does
        self.size = len(opcodes) + sum(stop - start for start, stop in self._arrays)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go on by so many bytes of an array."""
        assert whence == 1
        self._pass(offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        start, stop = self._arrays[0] if self._arrays else (self.size, self.size)
        with memoryview(buffer).cast("B") as memory, memoryview(self._opcodes) as opcodes:
            if self._at < start or not self._arrays:
                at = self._at - self._passed
                data = opcodes[at : at + min(start - self._at, len(memory))]
                memory[: len(data)] = data
                self._at += len(data)
                return len(data)
            if self._stands != self._at:
                self._go()
            count: int = self._stream.readinto(memory[: stop - self._at])
            self._stands += count
            self._pass(count)
            return count

    def _go(self) -> None:
        """Have the stream stand where this one does."""
        if self._begin is not None:
            self._stream.seek(self._begin + self._at)
        else:
            missing = self._at - self._stands
            while missing:
                missing -= len(self._stream.read(min(missing, BLOCK))) or missing
        self._stands = self._at

    def _pass(self, nbytes: int) -> None:
        """Take note that so many bytes of an array were taken."""
        self._at += nbytes
        start, stop = self._arrays[0]
        if self._at == stop:
            self._passed += stop - start
            self._arrays.popleft()
