"""Output: writes bytes to a file in few system calls, without copying large buffers.

::

    write(data) ──> gathered, up to 256 KiB or 512 parts ──> one writev() for all of them
                                                             without writev: short parts are joined, long ones are not
"""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable
from typing import Any

#: Gathered data is written when it reaches this many bytes or parts. The system accepts 1024 parts at a time.
_MOST_BYTES, _MOST_PARTS = 2**18, 512
#: Mutable buffers that are smaller than this are copied; larger ones are written at once. In bytes.
_COPIED = 2**16
#: More bytes are written part by part. macOS refuses a writev() of 2 GiB, and Linux writes only a part of it.
_MOST_AT_ONCE = 2**30
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)


class WritesAll:
    """The base of file objects whose ``write`` writes all bytes that it is given."""

    __slots__ = ()


class Output(WritesAll):
    """A file that is written from its current position. It gathers writes and copies only small mutable buffers.

    Not thread-safe.

    Parameters
    ----------
    fd : int
        A descriptor of the file. Nothing else may write to it meanwhile.
    closefd : bool, default True
        Whether the end of a ``with`` block closes the descriptor.

    Attributes
    ----------
    nbytes : int
        The number of bytes written so far, including gathered ones.
    """

    __slots__ = ("_closefd", "_fd", "_gathered", "_parts", "nbytes")

    def __init__(self, fd: int, closefd: bool = True) -> None:
        self._fd, self._closefd = fd, closefd
        self._parts: list[Any] = []
        self._gathered = 0
        self.nbytes = 0

    @classmethod
    def new(cls, path: str) -> Output:
        """Create a file and return an Output for it. Raise FileExistsError if it exists."""
        return cls(os.open(path, _NEW, 0o666))

    def fileno(self) -> int:
        """Return the descriptor. Bytes that are gathered have not been written to it yet."""
        return self._fd

    def tell(self) -> int:
        """Return the position of the next byte, counted from the position at which this object began."""
        return self.nbytes

    def write(self, data: Any) -> None:
        """Write all bytes of a buffer. The caller may change the buffer when this returns."""
        stays = True
        if type(data) is bytes:
            size = len(data)
        else:
            size = memoryview(data).nbytes
            if size < _COPIED:
                data = bytes(data)
            else:
                stays = False
        self.nbytes += size
        self._gathered = gathered = self._gathered + size
        self._parts.append(data)
        if not stays or gathered >= _MOST_BYTES or len(self._parts) == _MOST_PARTS:
            self.flush()

    def flush(self) -> None:
        """Write the gathered data to the file."""
        parts, left = self._parts, self._gathered
        self._parts, self._gathered = [], 0
        written = _written(self._fd, parts) if parts and left <= _MOST_AT_ONCE else 0
        if written == left:
            return
        for part in parts:
            view = memoryview(part).cast("B")
            step = min(written, len(view))
            written -= step
            write_all(self._fd, view[step:])

    def __enter__(self) -> Output:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.flush()
        finally:
            if self._closefd:
                os.close(self._fd)


def _one_by_one(fd: int, parts: list[Any]) -> int:
    """Write all parts where there is no writev(); return their bytes. Short parts are joined, long ones not copied."""
    written, short = 0, bytearray()
    for part in parts:
        data = memoryview(part).cast("B")
        written += len(data)
        if len(data) < _COPIED:
            short += data
            continue
        write_all(fd, short)
        write_all(fd, data)
        short = bytearray()
    write_all(fd, short)
    return written


def write_all(fd: int, data: bytes | bytearray | memoryview) -> None:
    """Write all bytes of a buffer to a descriptor."""
    while data:
        data = memoryview(data)[os.write(fd, data) :]


def write_new(path: str, data: bytes) -> int:
    """Create a file with these bytes; return their number. Raise FileExistsError if it exists."""
    fd = os.open(path, _NEW, 0o666)
    try:
        write_all(fd, data)
    finally:
        os.close(fd)
    return len(data)


_written: Callable[[int, list[Any]], int] = getattr(os, "writev", _one_by_one)


def writes_all(file: Any) -> bool:
    """Return whether ``file.write`` is known to write all bytes that it is given."""
    # A subclass may override write().
    return isinstance(file, WritesAll) or type(file) in (io.BufferedWriter, io.BufferedRandom, io.BytesIO)


def putter(file: Any) -> Callable[[Any], None]:
    """Return a function that writes all bytes of a buffer to `file`. A raw file may write fewer in one call.

    The function raises BlockingIOError if a raw file in non-blocking mode accepts no more bytes.
    """
    write: Callable[[Any], Any] = file.write
    if writes_all(file):
        return write

    def put(data: Any) -> None:
        count = write(data)
        if isinstance(count, int) and count < len(data):
            view = memoryview(data)[count:]
            while view and (count := write(view)) is not None:
                view = view[count:]
        if count is None and isinstance(file, io.RawIOBase):
            raise BlockingIOError(errno.EAGAIN, "the file is in non-blocking mode and accepts no more bytes now", 0)

    return put
