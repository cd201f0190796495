"""zlib and gzip streams, inflated: any of them in one go, those of `DeflateFile` block by block on several threads."""

from __future__ import annotations

import io
import pickle
import zlib
from collections import deque
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import xxhash

from shoal.persistence.compression._ahead import Ahead
from shoal.persistence.compression._decompress import DecompressFile, Pieces
from shoal.persistence.compression._stream import CONTAINERS, TRUNCATED, container_of, fastest, read_exactly

# How many blocks are inflated ahead, for each thread.
_WAITING = 2

# Deflate never inflates to more: 258 bytes for two bits.
_MOST_PER_BYTE = 1032


class _Inflater:
    """Inflates one stream, with the interface that the decompressors of other formats have."""

    def __init__(self, wbits: int) -> None:
        self._stream = fastest().decompressobj(wbits)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return bool(self._stream.eof)

    @property
    def unused_data(self) -> bytes:
        return bytes(self._stream.unused_data)

    def decompress(self, data: bytes, max_length: int) -> bytes:
        stream = self._stream
        try:
            piece: bytes = stream.decompress(stream.unconsumed_tail + data, max_length)
        except fastest().error as error:
            raise zlib.error(f"the compressed data are damaged: {error}") from error
        # A library may have taken all of its input and hold back what it had no room for: ISA-L does.
        self.needs_input = not stream.unconsumed_tail and len(piece) < max_length
        return piece


def inflater(container: str) -> _Inflater:
    """Return what inflates one stream of a kind: "zlib" or "gzip"."""
    return _Inflater(CONTAINERS[container].wbits)


class InflateFile(DecompressFile):
    """A file to read from, forwards, which holds what a zlib or gzip stream does.

    Parameters
    ----------
    fileobj : path or file object
        Where the stream is, from the current position on. It need not be seekable.
    container : {"zlib", "gzip"}
        The kind of stream.
    """

    def __init__(self, fileobj: Any, container: str = "zlib") -> None:
        super().__init__(fileobj, partial(inflater, container))


class InflateBlocks(Pieces):
    """The data of a stream of `DeflateFile`, whose blocks several threads inflate ahead of the reader.

    It ends where the data do: the footer does not belong to them. The checksum of the stream is not looked at: each
    block has one of its own.

    Parameters
    ----------
    file : file object
        Seekable; it is read by the calling thread, in order, and stays open.
    blocks : sequence of three ints each
        The table that ``DeflateFile.finish`` handed out, with the entry for the end. No block is inflated whose
        checksum is another.
    start : int, default 0
        Where the stream begins in `file`, bytes.

    Raises
    ------
    zlib.error
        If the table cannot be right, here; and by reads, if a block is not.
    EOFError
        If the stream is truncated.
    """

    def __init__(self, file: Any, blocks: Sequence[Sequence[int]], start: int = 0) -> None:
        super().__init__(file, False)
        self._ahead: Ahead[bytes] = Ahead(_WAITING)
        self._waiting = 0  # bytes that are inflated ahead
        file.seek(start)
        container_of(read_exactly(file, 2))
        self._sizes = deque(_sizes(blocks))
        file.seek(0, io.SEEK_END)
        if file.tell() < start + blocks[-1][0]:
            raise EOFError(TRUNCATED)
        file.seek(start + blocks[0][0])

    def _next(self) -> bytes:
        while self._sizes and not self._ahead.full:
            self._waiting += self._put(None)
        block = self._ahead.take() if len(self._ahead) else b""
        self._waiting -= len(block)
        return block

    def _put(self, place: memoryview | None) -> int:
        """Have the next block inflated, and put into a place if there is one; return its size."""
        compressed_size, size, checksum = self._sizes.popleft()
        self._ahead.put(_inflate, read_exactly(self._file, compressed_size), size, checksum, place)
        return size

    def readinto(self, buffer: Any, /) -> int:
        """Fill `buffer`, and return the number of bytes, which is less than its size only at the end.

        Blocks that fit into it as a whole, behind what is inflated ahead, are put there by the threads.
        """
        view = pickle.PickleBuffer(buffer).raw()
        filled = 0
        fits = self._sizes and len(self._piece) + self._waiting + self._sizes[0][1] <= len(view)
        if fits and not (self.closed or self._failed):
            filled = self._filled_by_threads(view)
        return filled + super().readinto(view[filled:])

    def _filled_by_threads(self, view: memoryview) -> int:
        """Take what is inflated ahead, and have the next blocks put behind it; return the number of bytes."""
        filled = begin = len(self._piece)
        end = begin + self._waiting
        view[:begin] = self._taken(begin)
        self._failed = True
        while True:
            if self._sizes and end + self._sizes[0][1] <= len(view) and not self._ahead.full:
                end += self._put(view[end : end + self._sizes[0][1]])
            elif len(self._ahead):
                block = self._ahead.take()
                view[filled : filled + len(block)] = block
                filled += len(block)
            else:
                break
        self._failed = False
        self._waiting = 0
        self._position += end - begin
        return end

    def close(self) -> None:
        """End the threads."""
        if not self.closed:
            self._ahead.close()
        super().close()


def _sizes(blocks: Sequence[Sequence[int]]) -> list[tuple[int, int, int]]:
    """The sizes of each block, deflated and inflated, and the checksum of the former."""
    sizes = [
        (there - here, after - before, checksum) for (here, before, checksum), (there, after, _) in pairwise(blocks)
    ]
    if not blocks or blocks[0][1] or not all(0 < size <= _MOST_PER_BYTE * deflated for deflated, size, _ in sizes):
        raise zlib.error("the table of compressed blocks is damaged")
    return sizes


def _inflate(compressed: bytes, size: int, checksum: int, place: memoryview | None) -> bytes:
    """Return a block; nothing if it has a place, where it is then put."""
    if xxhash.xxh3_64_intdigest(compressed) != checksum:
        raise zlib.error("the compressed data are damaged: a block has another checksum")
    module = fastest()
    try:
        block: bytes = module.decompressobj(-zlib.MAX_WBITS).decompress(compressed, size + 1)
    except module.error as error:
        raise zlib.error(f"the compressed data are damaged: {error}") from error
    if len(block) != size:
        raise zlib.error(f"the compressed data are damaged: a block is not of {size} bytes")
    if place is None:
        return block
    place[:] = block
    return b""
