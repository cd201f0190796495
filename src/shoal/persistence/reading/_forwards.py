"""Files that objects are read from one after the other, whether or not they can be set back."""

from __future__ import annotations

import io
import os
import weakref
from typing import Any

from shoal.persistence.compression._decompress import READ

#: What was read of files beyond an object, and cannot be given back.
_kept: weakref.WeakKeyDictionary[Any, bytes] = weakref.WeakKeyDictionary()


def from_here(file: Any) -> Any:
    """Return a file if it can be set back, else a :class:`Forwards`: call its ``end`` when the object is there."""
    known = type(file) is io.BytesIO or isinstance(file, Forwards)  # as opposed to what has to be tried
    return file if known or left_of(file) is not None else Forwards(file)


def left_of(file: Any) -> int | None:
    """Return the number of bytes from where a file stands to its end; None if that is not cheap to tell."""
    inner = getattr(file, "file", file)  # of tempfile
    if not isinstance(getattr(inner, "raw", inner), (io.FileIO, io.BytesIO)):
        return None
    try:
        here = file.tell()
        end = file.seek(0, os.SEEK_END)
        file.seek(here)
    except (OSError, AttributeError):  # what has such a file need not be able to seek as that is
        return None
    return int(end) - int(here)


class Forwards(io.RawIOBase):
    """A file that cannot seek, or not cheaply, with what was read ahead of it.

    Compressed data are looked at before they are taken if the file has ``peek``: no more is taken than is used. Of any
    other file they are read ahead. What is left over is then given back, if the file can seek after all, or is kept for
    the next object that is loaded from the same file.

    Parameters
    ----------
    file
        Has ``read``.

    Attributes
    ----------
    record
        Takes what is read from now on; None if nobody is interested.
    counted
        Whether :meth:`count` is going to be asked for.
    """

    def __init__(self, file: Any) -> None:
        self._file = file
        self.record: bytearray | None = None
        self.counted = False
        self._read = 0
        try:
            hash(weakref.ref(file))
            self._ahead, self._step = _kept.pop(file, b""), READ
        except TypeError:  # nothing can be kept for such an object, so nothing may be read ahead
            self._ahead, self._step = b"", 1
        self._at = 0

    @property
    def direct(self) -> Any:
        """The file itself, if that is no different."""
        return self if self._ahead or self.record is not None or self.counted else self._file

    def count(self) -> int:
        """Return how many bytes were read."""
        return self._read

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        """Return some of the next bytes, at most so many."""
        if self._ahead:
            data = self._ahead[self._at : None if size < 0 else self._at + size]
            self._at += len(data)
            if self._at == len(self._ahead):
                self._ahead, self._at = b"", 0
        else:
            data = self._file.read(size) or b""
        self._read += len(data)
        if self.record is not None:
            self.record += data
        return data

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def peek(self, size: int = 1) -> bytes:
        """Return the next bytes, at least one but at the end, and leave them there."""
        if not self._ahead:
            if hasattr(self._file, "peek"):
                return bytes(self._file.peek(1))
            # read1 does not wait for more than there is.
            self._ahead = getattr(self._file, "read1", self._file.read)(self._step) or b""
        return self._ahead[self._at :]

    def unread(self, data: bytes) -> None:
        """Take back what was just read."""
        self._ahead, self._at = data + self._ahead[self._at :], 0
        self._read -= len(data)
        if self.record is not None:
            del self.record[len(self.record) - len(data) :]

    def end(self) -> None:
        """Leave in the file, or keep for it, what was read too far."""
        rest = self._ahead[self._at :]
        if rest and hasattr(self._file, "seekable") and self._file.seekable():
            self._file.seek(-len(rest), os.SEEK_CUR)
        elif rest:
            _kept[self._file] = rest
