"""Bytes on their way into a file: in few calls of the system, and all of them."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable
from typing import Any

#: Writes are gathered up to so many bytes, and so many parts, of which the system takes 1024 at a time.
_GATHERED, _PARTS = 2**18, 512
#: What could be changed later is copied if it is smaller.
_COPIED = 2**16
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)


class Output:
    """A file that is written to from where it stands: what is written is gathered without being copied.

    Parameters
    ----------
    fd
        A descriptor of the file; nobody else writes to it meanwhile.
    closefd
        Whether it is closed at the end of a ``with`` block.

    Attributes
    ----------
    nbytes
        The number of bytes that were written.
    """

    __slots__ = ("_closefd", "_fd", "_gathered", "_parts", "nbytes")

    def __init__(self, fd: int, closefd: bool = True) -> None:
        self._fd, self._closefd = fd, closefd
        self._parts: list[Any] = []
        self._gathered = 0
        self.nbytes = 0

    @classmethod
    def new(cls, path: str) -> Output:
        """Make a file.

        Raises
        ------
        FileExistsError
            If it is there.
        """
        return cls(os.open(path, _NEW, 0o666))

    def tell(self) -> int:
        """Return where the next byte goes, counted from where the file stood."""
        return self.nbytes

    def write(self, data: Any) -> None:
        """Write all of some bytes; they may be changed when this returns."""
        size = data.nbytes if isinstance(data, memoryview) else len(data)
        self.nbytes += size
        self._gathered += size
        stays = type(data) is bytes
        self._parts.append(data if stays or size >= _COPIED else bytes(data))
        if self._gathered >= _GATHERED or len(self._parts) == _PARTS or not (stays or size < _COPIED):
            self.flush()

    def flush(self) -> None:
        """Give to the system what was gathered."""
        parts, left = self._parts, self._gathered
        self._parts, self._gathered = [], 0
        written = _written(self._fd, parts) if parts else 0
        if written == left:
            return
        for part in parts:
            view = memoryview(part).cast("B")
            step = min(written, len(view))
            written -= step
            _write(self._fd, view[step:])

    def __enter__(self) -> Output:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.flush()
        finally:
            if self._closefd:
                os.close(self._fd)


def _joined(fd: int, parts: list[Any]) -> int:
    return os.write(fd, b"".join(parts))


def _write(fd: int, data: bytes | memoryview) -> None:
    while data:
        data = memoryview(data)[os.write(fd, data) :]


def write_new(path: str, data: bytes) -> int:
    """Make a file; return the number of its bytes.

    Raises
    ------
    FileExistsError
        If it is there.
    """
    fd = os.open(path, _NEW, 0o666)
    try:
        _write(fd, data)
    finally:
        os.close(fd)
    return len(data)


_written: Callable[[int, list[Any]], int] = getattr(os, "writev", _joined)


def takes_all(file: Any) -> bool:
    """Tell whether a file certainly writes all that it is given."""
    # A subclass may have a write of its own.
    return type(file) in (Output, io.BufferedWriter, io.BufferedRandom, io.BytesIO)


def putter(file: Any) -> Callable[[Any], None]:
    """Return what writes all of some bytes: a raw file may take fewer at a time."""
    write: Callable[[Any], Any] = file.write
    if takes_all(file):
        return write

    def put(data: Any) -> None:
        count = write(data)
        if isinstance(count, int) and count < len(data):
            view = memoryview(data)[count:]
            while view and (count := write(view)) is not None:
                view = view[count:]
        if count is None and isinstance(file, io.RawIOBase):
            raise BlockingIOError(errno.EAGAIN, "the file does not wait until it can take more", 0)

    return put
