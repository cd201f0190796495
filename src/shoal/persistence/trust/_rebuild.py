"""The second pass over a file that is not trusted: rebuild what the dry run has found to be harmless.

::

    opcodes, kept by the dry run ──┐
                                   ├──> Woven ──> Input ──> Rebuilder: imports what the dry run has found to be trusted
    arrays, from the file        ──┘      ^                     │
                                          └──── Met: an array that the dry run has met at this position

Trusted code runs in this pass, and may have changed the description of an array. So each description is compared with
what the dry run has found. Otherwise bytes of an array could be read as opcodes, or opcodes as an array.
"""

from __future__ import annotations

import io
from collections import deque
from typing import Any, NamedTuple

from shoal._platform.files import READS_INTO_PARTS
from shoal.errors import DamagedFile, UntrustedFile
from shoal.persistence.reading._input import BLOCK
from shoal.persistence.reading._reader import Reader, as_named_now, is_wrapper
from shoal.persistence.trust._standins import GETATTR


class Met(NamedTuple):
    """An array that the dry run has met.

    Attributes
    ----------
    at
        The number of bytes that had been read when the wrapper of the array was rebuilt.
    begin, nbytes
        The position and the number of the bytes of the array. `nbytes` is 0 for an array of objects, which follows as a
        pickle of its own.
    shape, dtype, order
        As in the wrapper.
    aligned
        Whether padding comes before the bytes.
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
    """A reader that imports only what the dry run has found, and reads only the arrays that it has met.

    Attributes
    ----------
    found
        The globals that may be used, by module and qualified name.
    woven
        The stream of opcodes and arrays.
    """

    found: dict[tuple[str, str], Any]
    woven: Woven

    def find_class(self, module: str, name: str) -> Any:
        """Return a global. A name that the dry run has not found is a KeyError."""
        if is_wrapper(module, name):
            return super().find_class(module, name)
        name_now = as_named_now(module, name)
        if name_now == GETATTR and name_now not in self.found:
            return self._attribute
        return self.found[name_now]

    def _attribute(self, kind: Any, name: str) -> Any:
        """Return an attribute of a class, as ``getattr`` in a pickle does, if the dry run has found it."""
        for (module, qualname), value in self.found.items():
            parent, _, last = qualname.rpartition(".")
            if last == name and self.found.get((module, parent)) is kind:
                return value
        raise UntrustedFile(self._source.name, (".".join(GETATTR),))

    def _met(self, state: Any) -> None:
        state = dict(state)  # a copy, because trusted code may have a reference to the original
        self.woven.open_array(state, self._source.position)
        super()._met(state)

    def _inner(self) -> Rebuilder:
        inner: Rebuilder = super()._inner()
        inner.found, inner.woven = self.found, self.woven
        return inner


class Woven(io.RawIOBase):
    """A stream of opcodes from memory and of arrays from a file, in the order in which they are in the file.

    The bytes of an array can be read only after :meth:`open_array` has accepted its description.

    Parameters
    ----------
    opcodes
        All bytes that belong to no array.
    met
        The arrays.
    stream
        The decompressed contents of the file.
    begin
        The position of the object in `stream`; None if that cannot seek, and stands at the object.
    name
        The name of the file, for errors.
    """

    def __init__(self, opcodes: bytearray, met: list[Met], stream: Any, begin: int | None, name: str) -> None:
        self._opcodes, self._stream, self._begin, self._name = opcodes, stream, begin, name
        self._next = deque(met)
        self._open: Met | None = None  # the array whose bytes may be read
        self._of_arrays = 0  # bytes of arrays that were read
        self._at = 0
        self._stream_at = 0  # the position in the stream, from the object on
        self.size = len(opcodes) + sum(array.nbytes for array in met)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def open_array(self, state: dict[str, Any], position: int) -> None:
        """Allow the bytes of the next array to be read.

        Parameters
        ----------
        state
            The attributes of its wrapper.
        position
            The number of bytes that were read so far.

        Raises
        ------
        DamagedFile
            If these are not what the dry run has found.
        """
        import numpy as np

        expected = self._next.popleft() if self._next else None
        dtype = state.get("dtype")
        if (
            expected is None
            or position != expected.at
            or state.get("shape") != expected.shape
            or not isinstance(dtype, np.dtype)
            or not _same(dtype, expected.dtype)
            or dtype.itemsize != expected.dtype.itemsize
            or dtype.hasobject != expected.dtype.hasobject
            or state.get("order") != expected.order
            or (state.get("numpy_array_alignment_bytes") is not None) != expected.aligned
        ):
            found = f"{dtype} {state.get('shape')} at {position}, which trusted code has changed"
            raise DamagedFile(self._name, position, str(expected or "no array"), found)
        if expected.nbytes:
            self._open = expected

    def seek(self, offset: int, whence: int = 0) -> int:
        """Skip `offset` bytes of an array. `whence` must be 1: relative to the current position.

        Raises
        ------
        io.UnsupportedOperation
            If it is not 1.
        """
        if whence != io.SEEK_CUR:
            raise io.UnsupportedOperation("this stream can only be sought forwards from its position")
        self._count(offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        array = self._open
        with memoryview(buffer).cast("B") as memory, memoryview(self._opcodes) as opcodes:
            if array is None or self._at < array.begin:
                end = array.begin if array is not None else self._next[0].at if self._next else self.size
                if self._at == end < self.size:
                    raise DamagedFile(self._name, self._at, str(self._next[0]), "opcodes instead")
                at = self._at - self._of_arrays
                data = opcodes[at : at + min(end - self._at, len(memory))]
                memory[: len(data)] = data
                self._at += len(data)
                return len(data)
            if self._stream_at != self._at:
                self._seek_stream()
            part = memory[: array.begin + array.nbytes - self._at]
            if READS_INTO_PARTS:
                count: int = self._stream.readinto(part)
            else:
                data = self._stream.read(len(part))
                count = len(data)
                part[:count] = data
            self._stream_at += count
            self._count(count)
            return count

    def _seek_stream(self) -> None:
        """Set the file to the position of this stream."""
        if self._begin is not None:
            self._stream.seek(self._begin + self._at)
        else:
            missing = self._at - self._stream_at
            while missing:
                missing -= len(self._stream.read(min(missing, BLOCK))) or missing
        self._stream_at = self._at

    def _count(self, nbytes: int) -> None:
        """Count bytes of an array that were read or skipped. After the last one, opcodes come again."""
        self._at += nbytes
        array = self._open
        if array is not None and self._at == array.begin + array.nbytes:
            self._of_arrays += array.nbytes
            self._open = None


def _same(dtype: Any, expected: Any) -> bool:
    """Tell whether a dtype is what the dry run has found.

    A missing value of StringDType is a global, which the dry run does not import. Its array is a pickle of its own.
    """
    return type(dtype) is type(expected) if expected.kind == "T" else bool(dtype == expected)
