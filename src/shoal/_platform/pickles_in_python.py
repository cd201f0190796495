"""The pickler and the unpickler of Python's library, but for what they read and write at a time: as those in C.

For PyPy, which has none in C.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any, ClassVar

_PythonPickler: Any = vars(pickle)["_Pickler"]
_PythonUnpickler: Any = vars(pickle)["_Unpickler"]


class Pickler(_PythonPickler):  # type: ignore[misc]
    """A pickler that calls ``write`` as the C pickler does.

    A frame is written at once, with its header and all that is before it; a large string or buffer by itself.

    Parameters
    ----------
    file
        Has ``write``.
    protocol, options
        As for :class:`pickle.Pickler`.
    """

    def __init__(self, file: Any, protocol: int | None = None, **options: Any) -> None:
        self._output = _Gathering(file)
        super().__init__(self._output, protocol, **options)
        self._write_large_bytes = self._large

    def dump(self, obj: Any) -> None:
        """Write an object."""
        super().dump(obj)
        self._output.flush()

    def _large(self, header: bytes, payload: Any) -> None:
        self.framer.commit_frame(force=True)
        self._output.write(header)
        self._output.flush()
        self._output.file.write(payload)


class _Gathering:
    """A file that writes what it was given when a frame is complete, or when it is flushed."""

    def __init__(self, file: Any) -> None:
        self.file = file
        self._parts: list[Any] = []

    def write(self, data: Any) -> None:
        """Take opcodes, or the content of a frame, which is a memoryview."""
        self._parts.append(data)
        if isinstance(data, memoryview):
            self.flush()

    def flush(self) -> None:
        """Write everything that was given until now, at once."""
        parts, self._parts = self._parts, []
        if parts:
            self.file.write(b"".join(parts))


class Unpickler(_PythonUnpickler):  # type: ignore[misc]
    """An unpickler that calls the methods of its file as the C unpickler does.

    ``read`` may return more bytes than were asked for. A frame is asked for as a whole. Bytes are read by ``readinto``.

    Parameters
    ----------
    file
        Has ``read``, ``readline`` and ``readinto``.
    options
        As for :class:`pickle.Unpickler`.
    """

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(_PythonUnpickler.dispatch)

    def __init__(self, file: Any, **options: Any) -> None:
        self._input = _Ahead(file)
        super().__init__(self._input, **options)

    def _length(self, width: int) -> int:
        return int.from_bytes(self.read(width), "little")

    def _bytes(self, width: int) -> bytearray:
        data = bytearray(self._length(width))
        self._input.readinto(data)
        return data

    dispatch[pickle.FRAME[0]] = lambda self: self._input.fetch(self._length(8))
    dispatch[pickle.SHORT_BINBYTES[0]] = lambda self: self.append(bytes(self._bytes(1)))
    dispatch[pickle.BINBYTES[0]] = lambda self: self.append(bytes(self._bytes(4)))
    dispatch[pickle.BINBYTES8[0]] = lambda self: self.append(bytes(self._bytes(8)))
    dispatch[pickle.BYTEARRAY8[0]] = lambda self: self.append(self._bytes(8))


class _Ahead:
    """A file whose ``read`` may return more bytes than it was asked for: the rest is kept for the next calls."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._rest = memoryview(b"")

    def fetch(self, size: int) -> None:
        """Make sure that `size` bytes are here, or all that the file still has."""
        if size > len(self._rest):
            self._rest = memoryview(self._file.read(size))

    def read(self, size: int) -> bytes:
        """Return the next `size` bytes, or fewer at the end of the file."""
        self.fetch(size)
        data, self._rest = self._rest[:size], self._rest[size:]
        return bytes(data)

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer: from what is here, or else from the file."""
        if self._rest:
            buffer[:] = self.read(len(buffer))
            return len(buffer)
        return int(self._file.readinto(buffer))

    def readline(self) -> bytes:
        """Return the next line."""
        rest = bytes(self._rest)
        end = rest.find(b"\n") + 1
        if not end:
            return bytes(self._file.readline())
        self._rest = self._rest[end:]
        return rest[:end]
