"""The second pass over a file that nobody trusts: what the dry run has found to be harmless is rebuilt.

::

    opcodes that were kept ──┐
                             ├──> Woven ──> Input ──> Rebuilder, which imports what was found to be trusted
    arrays from the file   ──┘      ^                     │
                                    └──── Met: only the array that the dry run has met at this place opens the way

What is trusted runs now, and may have changed what an array is described by. So the bytes of an array never come where
opcodes are read, nor the other way round: each array is compared with what the dry run has found.
"""

from __future__ import annotations

import io
from collections import deque
from typing import Any, NamedTuple

from shoal.errors import DamagedFile, UntrustedFile
from shoal.persistence.reading._input import BLOCK
from shoal.persistence.reading._names import as_named_now
from shoal.persistence.reading._reader import Reader, is_wrapper
from shoal.persistence.trust._standins import GETATTR


class Met(NamedTuple):
    """An array that the dry run has met.

    Attributes
    ----------
    at
        How much was read when its wrapper was rebuilt.
    begin, nbytes
        Where its bytes are, and how many; none of an array of objects, which a pickle of its own follows.
    shape, dtype, order, aligned
        What its wrapper says.
    """

    at: int
    begin: int
    nbytes: int
    shape: tuple[int, ...]
    dtype: Any
    order: str
    aligned: bool

    def __str__(self) -> str:
        return f"an array of {self.dtype} {self.shape} at {self.begin}"


class Rebuilder(Reader):
    """Rebuilds one object from opcodes that were gone through.

    Attributes
    ----------
    found
        What it may import.
    woven
        Where the opcodes and arrays come from.
    """

    found: dict[tuple[str, str], Any]
    woven: Woven

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

    def _met(self, state: Any) -> None:
        state = dict(state)  # nobody else has this one
        self.woven.opened_by(state, self._source.position)
        super()._met(state)

    def _inner(self) -> Rebuilder:
        inner: Rebuilder = super()._inner()
        inner.found, inner.woven = self.found, self.woven
        return inner


class Woven(io.RawIOBase):
    """A stream made of opcodes that were kept, and of arrays from the file.

    Parameters
    ----------
    opcodes
        All that belongs to no array.
    met
        The arrays.
    stream
        Where they are.
    begin
        From where on; None if it cannot seek, and stands there.
    name
        What to call the file in errors.
    """

    def __init__(self, opcodes: bytearray, met: list[Met], stream: Any, begin: int | None, name: str) -> None:
        self._opcodes, self._stream, self._begin, self._name = opcodes, stream, begin, name
        self._next = deque(met)
        self._open: Met | None = None  # the array whose bytes come next
        self._passed = 0  # bytes of arrays that were passed
        self._at = 0
        self._stands = 0  # where the stream does
        self.size = len(opcodes) + sum(array.nbytes for array in met)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def opened_by(self, state: dict[str, Any], position: int) -> None:
        """Let the bytes of the next array through, if this is what describes it.

        Raises
        ------
        DamagedFile
            If it is not what the dry run has found.
        """
        import numpy as np

        expected = self._next.popleft() if self._next else None
        dtype = state.get("dtype")
        if (
            expected is None
            or position != expected.at
            or state.get("shape") != expected.shape
            or not isinstance(dtype, np.dtype)
            or dtype != expected.dtype
            or dtype.itemsize != expected.dtype.itemsize
            or dtype.hasobject != expected.dtype.hasobject
            or state.get("order") != expected.order
            or (state.get("numpy_array_alignment_bytes") is not None) != expected.aligned
        ):
            found = f"{dtype} {state.get('shape')} at {position}, which something that is trusted has changed"
            raise DamagedFile(self._name, position, str(expected or "no array"), found)
        if expected.nbytes:
            self._open = expected

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go on by so many bytes of an array."""
        assert whence == 1
        self._pass(offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        array = self._open
        with memoryview(buffer).cast("B") as memory, memoryview(self._opcodes) as opcodes:
            if array is None or self._at < array.begin:
                end = array.begin if array is not None else self._next[0].at if self._next else self.size
                if self._at == end < self.size:
                    raise DamagedFile(self._name, self._at, str(self._next[0]), "opcodes instead")
                at = self._at - self._passed
                data = opcodes[at : at + min(end - self._at, len(memory))]
                memory[: len(data)] = data
                self._at += len(data)
                return len(data)
            if self._stands != self._at:
                self._go()
            count: int = self._stream.readinto(memory[: array.begin + array.nbytes - self._at])
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
        array = self._open
        if array is not None and self._at == array.begin + array.nbytes:
            self._passed += array.nbytes
            self._open = None
