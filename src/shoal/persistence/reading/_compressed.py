"""Loading a compressed file.

::

    the file ─┬─> InflateBlocks: zlib and gzip with a table of blocks in the footer ──┐
              ├─> DecompressFile: other streams of a known compressor ────────────────┼──> Decompressed ──> Input
              └─> the file class of a compressor that a user has registered ──────────┘
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import xxhash

from shoal.errors import DamagedFile, TruncatedFile
from shoal.persistence._format import Footer
from shoal.persistence.compression import COMPRESSORS, DecompressFile, InflateBlocks
from shoal.persistence.reading._footers import stored_footer
from shoal.persistence.reading._input import Input
from shoal.persistence.reading._reader import Reader
from shoal.persistence.reading._start import Start
from shoal.persistence.reading._steps import Options, compare_after, mappable, rebuild, warn_of_age

#: If dump or joblib has written a compressed stream, it holds at most this many bytes behind the object.
MOST_BEHIND = 2**20


def load_compressed(start: Start, options: Options) -> Any:
    """Rebuild an object from a compressed file, and leave the file behind the object.

    Parameters
    ----------
    start
        The file.
    options
        The arguments of :func:`load`.

    Raises
    ------
    CorruptFile
        If the file is damaged.
    """
    with decompressed(start, options.name) as stream:
        mappable(stream, options, compressed=True)
        source = Input(stream, options.name, stream.nbytes, known=stream.footer)
        source.checked = stream.footer is not None  # the table in the footer has a checksum of each block
        if not source.checked and options.verify is not False:
            source.checksum = xxhash.xxh3_64()
        wanted = options.verify or (options.verify is None and not source.checked)
        sums: dict[int, int] | None = {} if wanted else None
        reader = Reader(source, options.native, sums)
        value = rebuild(reader, source)
        if reader.legacy:
            warn_of_age(options.name)
        if options.several:
            stream.leave()
    compare_after(source, stream.footer, sums, options)
    return value


@contextmanager
def decompressed(start: Start, name: str) -> Iterator[Decompressed]:
    """Open the compressed stream of a file; close the stream, but not the file, at the end.

    Raises
    ------
    CorruptFile
        If the stream is damaged. Reads raise it too.
    """
    file, begin, left, compressor = start.file, start.begin, start.left, start.compressor or ""
    record = COMPRESSORS[compressor]
    end = begin + (left or 0)
    footer = stored_footer(file, begin, end) if left is not None and compressor in ("zlib", "gzip") else None
    decompressor = getattr(record, "decompressor", None)
    if footer is not None:
        blocks, opcodes = footer.blocks, footer.opcodes
        stream = Decompressed(name, lambda: InflateBlocks(file, blocks, begin, opcodes), footer)
    elif decompressor is not None:
        stream = Decompressed(name, lambda: DecompressFile(file, decompressor))
    else:
        source = io.BufferedReader(file) if left is None else file
        stream = Decompressed(name, lambda: record.decompressor_file(source))
    try:
        yield stream
    finally:
        stream.close()
    if footer is not None:
        file.seek(end)


class Decompressed:
    """The decompressed bytes of a stream. An error of the compression library becomes a :class:`CorruptFile`.

    Errors of the file itself are raised as they are. To be used from one thread.

    Parameters
    ----------
    name
        The name of the file, for errors.
    opening
        Returns a file object that decompresses the stream.
    footer
        The footer, if it was already read. Then the table in it says which blocks there are, and each block is checked.

    Attributes
    ----------
    footer
        As given.
    nbytes
        The number of decompressed bytes, if the footer tells; else None.
    """

    def __init__(self, name: str, opening: Callable[[], Any], footer: Footer | None = None) -> None:
        self.footer = footer
        self.nbytes = None if footer is None else footer.blocks[-1][1] + len(footer.opcodes)
        self._name, self._position = name, 0
        self._stream = self._call(opening)

    def read(self, size: int) -> bytes:
        """Return at most `size` of the next bytes; none only at the end."""
        data: bytes = self._call(self._stream.read, size)
        while size and not data and self._next_stream():
            data = self._call(self._stream.read, size)
        self._position += len(data)
        return data

    def readinto(self, buffer: Any) -> int:
        """Read bytes into `buffer`, and return their number; 0 only at the end."""
        count: int = self._call(self._stream.readinto, buffer)
        while len(buffer) and not count and self._next_stream():
            count = self._call(self._stream.readinto, buffer)
        self._position += count
        return count

    def _next_stream(self) -> bool:
        """Go on with the next stream, if one follows: parallel compressors such as pigz and pbzip2 write several."""
        return isinstance(self._stream, DecompressFile) and bool(self._call(self._stream.follow))

    def leave(self) -> None:
        """Read to the end of the stream, where its checksum is, unless it holds much more than one object."""
        if self.footer is None:  # else the end of the stream is known, and the file is set to it
            self._call(self._stream.read, MOST_BEHIND)

    def last(self, nbytes: int) -> bytes:
        """Read to the end of the stream, and return the last bytes, at most `nbytes` of them."""
        end = b""
        while data := self._call(self._stream.read, MOST_BEHIND):
            end = (end + data)[-nbytes:]
        return end

    def close(self) -> None:
        """Close the stream, but not the file."""
        self._stream.close()

    def _call(self, method: Callable[..., Any], *arguments: Any) -> Any:
        """Return what a method of the compression library returns, or raise CorruptFile instead of its error."""
        try:
            return method(*arguments)
        except EOFError as error:
            raise TruncatedFile(self._name, self._position, "more compressed data", "0 bytes") from error
        except Exception as error:
            if isinstance(error, MemoryError) or (isinstance(error, OSError) and _of_system(error)):
                raise
            found = f"data that cannot be decompressed ({type(error).__name__}: {error})"
            raise DamagedFile(self._name, self._position, "compressed data", found) from error


def _of_system(error: OSError) -> bool:
    # Compression libraries raise OSError itself, without an errno.
    return error.errno is not None or type(error) is not OSError
