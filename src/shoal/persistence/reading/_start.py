"""Where an object begins in a file, and how it is compressed; and files that cannot seek."""

from __future__ import annotations

import io
import os
import weakref
from typing import Any, NamedTuple

from shoal.errors import EmptyFile
from shoal.persistence.compression import COMPRESSORS, detect
from shoal.persistence.compression._decompress import READ
from shoal.persistence.reading._legacy import PREFIX

#: Bytes that were read from a file behind an object and that the file cannot take back. The next load gets them.
_leftovers: weakref.WeakKeyDictionary[Any, bytes] = weakref.WeakKeyDictionary()


class Start(NamedTuple):
    """A file that stands at an object.

    Attributes
    ----------
    file
        The file, if it can seek; else a :class:`Forwards`.
    begin
        The position of the object in the file; 0 if it cannot seek.
    left
        The number of bytes from there to the end of the file; None if it cannot seek.
    head
        The first bytes of the object. The file still stands before them.
    compressor
        The name of the compressor; None if there is none.
    """

    file: Any
    begin: int
    left: int | None
    head: bytes
    compressor: str | None

    @property
    def legacy(self) -> bool:
        """Whether joblib before 0.10 has compressed the file."""
        return self.head.startswith(PREFIX)


def start_of(file: Any, name: str) -> Start:
    """Look at a file at its current position, and leave it there.

    Parameters
    ----------
    file
        Has ``read``.
    name
        The name of the file, for errors.

    Raises
    ------
    EmptyFile
        If the file has no more bytes.
    """
    left, begin = None, 0
    inner = getattr(file, "file", file)  # the file inside of one of tempfile
    if isinstance(getattr(inner, "raw", inner), (io.FileIO, io.BytesIO)):  # else seeking may be expensive
        try:
            begin = int(file.tell())
            left = int(file.seek(0, os.SEEK_END)) - begin
            file.seek(begin)
        except (OSError, AttributeError):  # an object with such a file inside may be unable to seek itself
            left, begin = None, 0
    prefixes = [PREFIX, *(record.prefix for record in COMPRESSORS.values() if record.prefix)]
    if left is None:
        file = Forwards(file)
        head = file.beginning(prefixes)
    else:
        head = file.read(max(map(len, prefixes)))
        file.seek(begin)
    if not head:
        raise EmptyFile(name, begin)
    return Start(file, begin, left, head, "zlib" if head.startswith(PREFIX) else detect(head))


def name_of(file: Any) -> str:
    """Return the name of a file object; "" if it has none but the number of its descriptor."""
    name = getattr(file, "name", "")
    return "" if isinstance(name, int) else str(name)


class Forwards(io.RawIOBase):
    """A file that cannot seek, or not cheaply, and the bytes that were read ahead from it.

    If the file has ``peek``, compressed data are looked at before they are read, so no byte behind them is read. From
    any other file, compressed data are read ahead. Bytes that are left over are given back if the file can seek after
    all; otherwise they are kept for the next object that is loaded from the same file. To be used from one thread.

    Parameters
    ----------
    file
        Has ``read``.

    Attributes
    ----------
    record
        Receives a copy of all bytes that are read from now on; None if no copy is needed.
    counted
        Whether :meth:`count` will be called.
    """

    def __init__(self, file: Any) -> None:
        self._file = file
        self.record: bytearray | None = None
        self.counted = False
        self._read = 0
        try:
            hash(weakref.ref(file))
            self._ahead, self._step = _leftovers.pop(file, b""), READ
        except TypeError:  # no leftovers can be kept for this object, so nothing may be read ahead
            self._ahead, self._step = b"", 1
        self._at = 0

    def count(self) -> int:
        """Return the number of bytes that were read."""
        return self._read

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        """Return some of the next bytes, at most `size` of them."""
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
        """Return the next bytes without reading them: at least one, or none at the end of the file."""
        if not self._ahead:
            if hasattr(self._file, "peek"):
                return bytes(self._file.peek(1))
            # read1 returns what has arrived, and does not wait for more.
            self._ahead = getattr(self._file, "read1", self._file.read)(self._step) or b""
        return self._ahead[self._at :]

    def unread(self, data: bytes) -> None:
        """Put back the bytes that were read last."""
        self._ahead, self._at = data + self._ahead[self._at :], 0
        self._read -= len(data)
        if self.record is not None:
            del self.record[len(self.record) - len(data) :]

    def beginning(self, prefixes: list[bytes]) -> bytes:
        """Return the first bytes without reading them: as few as tell whether they begin with one of `prefixes`.

        The bytes come one at a time, because a pipe may not have more yet.
        """
        head = b""
        while not head.startswith(tuple(prefixes)) and any(prefix.startswith(head) for prefix in prefixes):
            more = self.read(1)
            if not more:
                break
            head += more
        if head:
            self.unread(head)
        return head

    def behind(self, head: bytes) -> Any:
        """Return a file that stands behind `head`, the next bytes of this one: the file itself if that is possible."""
        self.read(len(head))
        unchanged = not self._ahead and self.record is None and not self.counted
        return self._file if unchanged else self

    def end(self) -> None:
        """Give back the bytes that were read behind the object, or keep them for the next load from the same file."""
        rest = self._ahead[self._at :]
        if rest and hasattr(self._file, "seekable") and self._file.seekable():
            self._file.seek(-len(rest), os.SEEK_CUR)
        elif rest:
            _leftovers[self._file] = rest
