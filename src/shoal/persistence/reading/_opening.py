"""Opening: what a file holds, and what it says of itself, before anything is rebuilt from it.

::

    file ──> the first bytes ──> compressed? ── no ──> the file itself; its footer at the end
                                     │
                                     └── yes ─> blocks, checked one by one, if a stored footer tells of them
                                                (zlib, gzip), else what the decompressor gives
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import xxhash

from shoal._arrays import PIECE
from shoal.errors import DamagedFile, EmptyFile, TruncatedFile
from shoal.persistence._format import HEAD, POP, PROTO, STOP, TAIL_BYTES, Footer
from shoal.persistence.compression import (
    COMPRESSORS,
    DecompressFile,
    InflateBlocks,
    detect,
    read_stored,
    stream_size,
)
from shoal.persistence.reading._forwards import Forwards, left_of
from shoal.persistence.reading._legacy import PREFIX, payload

#: Behind an object, its compressed stream holds no more bytes than these, if dump or joblib has written it.
_MORE = 2**20


@dataclass
class Opened:
    """A file that was opened for reading.

    Attributes
    ----------
    stream
        What it holds, decompressed: has ``read`` and ``readinto``.
    ahead
        Bytes of it that were read already.
    begin
        Where in `stream` the object begins, if that can seek.
    left
        The number of bytes from there to the end; None if it cannot seek.
    size
        The number of bytes of a compressed stream, if that is known and certain.
    compressor
        The name of its compressor; None if there is none.
    old
        Whether joblib before 0.10 has compressed it.
    footer
        Its footer, if that is known by now.
    sound
        Whether what is read is certainly what was written.
    """

    stream: Any
    ahead: bytes = b""
    begin: int = 0
    left: int | None = None
    size: int | None = None
    compressor: str | None = None
    old: bool = False
    footer: Footer | None = None
    sound: bool = False

    def leave(self, nbytes: int) -> None:
        """Have the file stand behind the object, which takes so many bytes."""
        if isinstance(self.stream, _Decompressed):
            if self.footer is None:  # else it is known where the stream ends
                self.stream.end()
        elif self.left is not None and not self.old:
            self.stream.seek(self.begin + nbytes)


@contextmanager
def opened(file: Any, name: str) -> Iterator[Opened]:
    """Open a file from where it stands: what can seek, or a :class:`Forwards`.

    Raises
    ------
    CorruptFile
        If its compressed data are damaged, also by reads.
    """
    left = left_of(file)
    begin = 0 if left is None else file.tell()
    head, compressor = _detected(file)
    if not head:
        raise EmptyFile(name, begin)
    if head.startswith(PREFIX):
        _unread(file, head)
        inner = io.BytesIO(payload(file, name))
        yield Opened(inner, left=left_of(inner), compressor="zlib", old=True)
    elif compressor is None:
        yield Opened(file.direct if left is None else file, head, begin, left)
    else:
        _unread(file, head)
        with _decompressed(file, name, left, compressor) as what:
            yield what


def _detected(file: Any) -> tuple[bytes, str | None]:
    """Return the compressor of what comes, None for none, and the bytes that were read to tell."""
    prefixes = [PREFIX, *(record.prefix for record in COMPRESSORS.values() if record.prefix)]
    # Of what cannot be set back no more than needed: a pipe may have no more.
    step = 1 if isinstance(file, Forwards) else max(map(len, prefixes))
    head, compressor = b"", None
    while compressor is None and not head.startswith(PREFIX) and any(prefix.startswith(head) for prefix in prefixes):
        more = file.read(step)
        if not more:
            break
        head += more
        compressor = detect(head)
    return head, compressor


def _unread(file: Any, head: bytes) -> None:
    """Take back what was just read."""
    if isinstance(file, Forwards):
        file.unread(head)
    else:
        file.seek(-len(head), os.SEEK_CUR)


@contextmanager
def _decompressed(file: Any, name: str, left: int | None, compressor: str) -> Iterator[Opened]:
    record = COMPRESSORS[compressor]
    begin = 0 if left is None else file.tell()
    end = begin + (left or 0)
    footer = _stored_footer(file, begin, end) if left is not None and compressor in ("zlib", "gzip") else None
    one_stream = getattr(record, "decompressor", None)
    size = None
    if footer is not None:
        blocks, opcodes = footer.blocks, footer.opcodes
        stream = _Decompressed(name, lambda: _Followed(InflateBlocks(file, blocks, begin), opcodes))
        size = blocks[-1][1] + len(opcodes)
    elif one_stream is not None:
        stream = _Decompressed(name, lambda: DecompressFile(file, one_stream))
    else:
        source = io.BufferedReader(file) if left is None else file
        stream = _Decompressed(name, lambda: record.decompressor_file(source))
    try:
        yield Opened(stream, size=size, compressor=compressor, footer=footer, sound=footer is not None)
    finally:
        stream.close()
    if footer is not None:
        file.seek(end)


def _stored_footer(file: Any, begin: int, end: int) -> Footer | None:
    """Return the footer that stands at the end of a zlib or gzip stream, as it is.

    None if there is none, or if it is that of another stream: the last of several dumps in the file.
    """
    try:
        length = Footer.length(read_stored(file, end, TAIL_BYTES, begin) or b"")
        opcodes = None if length is None else read_stored(file, end, length, begin)
        if opcodes is None:
            return None
        footer = Footer.decoded(opcodes)
        head = file.read(2)
        file.seek(begin)
        whole = bool(footer.blocks) and stream_size(head, footer.blocks[-1][0], len(opcodes)) == end - begin
        return footer if whole else None
    except ValueError:  # damaged: so is the stream, as will be found
        return None


class _Followed(io.RawIOBase):
    """A stream after which others bytes come."""

    def __init__(self, stream: Any, rest: bytes) -> None:
        self._stream, self._rest = stream, io.BytesIO(rest)

    def read(self, size: int = -1) -> bytes:
        return self._stream.read(size) or self._rest.read(size)

    def readinto(self, buffer: Any) -> int:
        return self._stream.readinto(buffer) or self._rest.readinto(buffer)

    def close(self) -> None:
        self._stream.close()
        super().close()


class _Decompressed:
    """What a decompressor reads. The errors of its library say that the file is damaged; those of the file are its own.

    Parameters
    ----------
    name
        What to call the file.
    opening
        Returns the decompressor.
    """

    def __init__(self, name: str, opening: Callable[[], Any]) -> None:
        self._name, self._position = name, 0
        self._stream = self._taken(opening)

    def read(self, size: int) -> bytes:
        data: bytes = self._taken(self._stream.read, size)
        while size and not data and self._follows():
            data = self._taken(self._stream.read, size)
        self._position += len(data)
        return data

    def readinto(self, buffer: Any) -> int:
        count: int = self._taken(self._stream.readinto, buffer)
        while len(buffer) and not count and self._follows():
            count = self._taken(self._stream.readinto, buffer)
        self._position += count
        return count

    def _follows(self) -> bool:
        """Go on with the next stream: what is compressed in parts at once is several of them in a row."""
        return isinstance(self._stream, DecompressFile) and bool(self._taken(self._stream.follow))

    def end(self) -> None:
        """Read to the end of the stream, where its checksum stands, unless it holds much more than one object."""
        self._taken(self._stream.read, _MORE)

    def last(self, nbytes: int) -> bytes:
        """Return the last bytes of the stream, at most so many."""
        end = b""
        while data := self._taken(self._stream.read, _MORE):
            end = (end + data)[-nbytes:]
        return end

    def close(self) -> None:
        self._stream.close()

    def _taken(self, method: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return method(*arguments)
        except EOFError as error:
            raise TruncatedFile(self._name, self._position, "more compressed data", "0 bytes") from error
        except Exception as error:
            if isinstance(error, MemoryError) or (isinstance(error, OSError) and _of_system(error)):
                raise
            found = f"what cannot be decompressed ({type(error).__name__}: {error})"
            raise DamagedFile(self._name, self._position, "compressed data", found) from error


def _of_system(error: OSError) -> bool:
    # Libraries of compression raise OSError itself, with a text alone.
    return error.errno is not None or type(error) is not OSError


def find_footer(file: Any, name: str, left: int, whole: bool) -> Footer | None:
    """Return the footer at the end of a file, if there is one and it is about the object that comes."""
    here = file.tell()
    try:
        beginning = file.read(len(PROTO) + 1 + len(HEAD))
        file.seek(here + max(left - TAIL_BYTES, 0))
        end = file.read()
        length = Footer.length(end)
        if length is not None and length <= left:
            file.seek(here + left - length)
            footer = Footer.decoded(file.read())
            begin = left - length - footer.start
            if not begin:
                return footer
            if begin > len(PROTO) + 1:  # it may be that of the last of several dumps in the file
                file.seek(here + begin)
                last = file.read(len(PROTO) + 1 + len(HEAD))
                if last.startswith(HEAD, len(PROTO) + 1 if last.startswith(PROTO) else 0):
                    return None
            raise ValueError("the file is longer or shorter than it says")
    except ValueError as error:
        raise DamagedFile(name, left, "a footer", f"one of which {error}") from None
    finally:
        file.seek(here)
    if whole and HEAD in beginning:
        if end.endswith(POP + STOP):
            raise DamagedFile(name, left, "a footer", "something else")
        raise TruncatedFile(name, left, "a footer", "0 bytes")
    return None


def footer_of(file: Any, name: str) -> Footer | None:
    """Return the footer of the object that comes in a file that can seek, without rebuilding anything."""
    with opened(file, name) as what:
        if what.footer is not None:
            return what.footer
        if isinstance(what.stream, _Decompressed):
            end = what.stream.last(_MORE)
            length = Footer.length(end)
            return None if length is None or length > len(end) else _decoded(end[-length:])
        what.stream.seek(what.begin)
        return find_footer(what.stream, name, what.left or 0, False)


def _decoded(opcodes: bytes) -> Footer | None:
    try:
        return Footer.decoded(opcodes)
    except ValueError:
        return None


def check(file: Any, name: str, footer: Footer, arrays: bool) -> None:
    """Compare the checksum of what is no array with what is in the file, before anything is rebuilt from it."""
    begin = file.tell()
    checksum, position = xxhash.xxh3_64(), 0
    for stored in (*footer.arrays, None):
        end = footer.start if stored is None else stored.position
        _digest(file, end - position, checksum)
        if stored is not None:
            of_array = xxhash.xxh3_64()
            if arrays:
                _digest(file, stored.nbytes, of_array)
                footer.compare(name, None, {stored.position: of_array.intdigest()})
            position = end + stored.nbytes
            file.seek(begin + position)
    file.seek(begin)
    footer.compare(name, checksum.intdigest(), None)


def _digest(file: Any, nbytes: int, checksum: Any) -> None:
    while nbytes:
        data = file.read(min(nbytes, PIECE))
        checksum.update(data)
        nbytes -= len(data) or nbytes
