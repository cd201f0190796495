"""Reading zlib and gzip streams: any stream on one thread, and the blocks of `DeflateFile` on several."""

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

# The number of blocks that are inflated ahead, for each thread.
_WAITING = 2

# Deflate makes at most this many bytes of one: 258 bytes of two bits.
_MOST_PER_BYTE = 1032


class _Inflater:
    """Inflates one stream. Its interface is that of ``bz2.BZ2Decompressor``."""

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
        # ISA-L may consume all input, and keep output for which max_length left no room.
        self.needs_input = not stream.unconsumed_tail and len(piece) < max_length
        return piece


def inflater(container: str) -> _Inflater:
    """Return a decompressor for one stream in a container: "zlib" or "gzip"."""
    return _Inflater(CONTAINERS[container].wbits)


class InflateFile(DecompressFile):
    """A file object from which the data of a zlib or gzip stream can be read, forwards.

    Parameters
    ----------
    fileobj : path or file object
        The file, at the stream. It need not be able to seek.
    container : {"zlib", "gzip"}
        The kind of stream.
    """

    def __init__(self, fileobj: Any, container: str = "zlib") -> None:
        super().__init__(fileobj, partial(inflater, container))


class InflateBlocks(Pieces):
    """A file object for the data of a stream of `DeflateFile`. Several threads inflate blocks ahead of the reader.

    The footer is not read. The checksum of the stream is not compared, because each block has its own. To be used from
    one thread.

    Parameters
    ----------
    file : file object
        Seekable. Only the calling thread reads it, in order. It is left open.
    blocks : sequence of three ints each
        The table that ``DeflateFile.finish`` passes to its callback, with the entry for the end. A block whose checksum
        differs is not inflated.
    start : int, default 0
        The position in `file`, in bytes, where the stream begins.
    tail : bytes, default b""
        Bytes to return after the data of the last block: the footer.

    Raises
    ------
    zlib.error
        If the table is not possible. Reads raise it if a block is damaged.
    EOFError
        If the stream is truncated.
    """

    def __init__(self, file: Any, blocks: Sequence[Sequence[int]], start: int = 0, tail: bytes = b"") -> None:
        super().__init__(file, False)
        self._ahead: Ahead[bytes] = Ahead(_WAITING)
        self._waiting = 0  # the number of bytes of the blocks in the queue
        self._tail = tail
        file.seek(start)
        container_of(read_exactly(file, 2))
        self._sizes = deque(_sizes(blocks))
        file.seek(0, io.SEEK_END)
        if file.tell() < start + blocks[-1][0]:
            raise EOFError(TRUNCATED)
        file.seek(start + blocks[0][0])

    def _next(self) -> bytes:
        while self._sizes and not self._ahead.full:
            self._waiting += self._inflate_next(None)
        if not len(self._ahead):
            tail, self._tail = self._tail, b""
            return tail
        block = self._ahead.result()
        self._waiting -= len(block)
        return block

    def _inflate_next(self, target: memoryview | None) -> int:
        """Put the next block into the queue of blocks to be inflated, into `target` if given; return its size."""
        compressed_size, size, checksum = self._sizes.popleft()
        self._ahead.put(_inflate, read_exactly(self._file, compressed_size), size, checksum, target)
        return size

    def readinto(self, buffer: Any, /) -> int:
        """Fill `buffer`, and return the number of bytes, which is less than its size only at the end.

        Threads inflate blocks directly into `buffer`, if they fit into it behind the bytes that are already inflated.
        """
        view = pickle.PickleBuffer(buffer).raw()
        filled = 0
        fits = self._sizes and len(self._piece) + self._waiting + self._sizes[0][1] <= len(view)
        if fits and not (self.closed or self._failed):
            filled = self._filled_by_threads(view)
        return filled + super().readinto(view[filled:])

    def _filled_by_threads(self, view: memoryview) -> int:
        """Copy the bytes that are already inflated, let threads inflate blocks behind them, and return the size."""
        filled = begin = len(self._piece)
        end = begin + self._waiting
        view[:begin] = self._consume(begin)
        self._failed = True
        while True:
            if self._sizes and end + self._sizes[0][1] <= len(view) and not self._ahead.full:
                end += self._inflate_next(view[end : end + self._sizes[0][1]])
            elif len(self._ahead):
                block = self._ahead.result()
                view[filled : filled + len(block)] = block
                filled += len(block)
            else:
                break
        self._failed = False
        self._waiting = 0
        self._position += end - begin
        return end

    def close(self) -> None:
        """End the threads, and leave the file open."""
        if not self.closed:
            self._ahead.close()
        super().close()


def _sizes(blocks: Sequence[Sequence[int]]) -> list[tuple[int, int, int]]:
    """Return the sizes of each block, deflated and inflated, and the checksum of the deflated block."""
    sizes = [
        (there - here, after - before, checksum) for (here, before, checksum), (there, after, _) in pairwise(blocks)
    ]
    if not blocks or blocks[0][1] or not all(0 < size <= _MOST_PER_BYTE * deflated for deflated, size, _ in sizes):
        raise zlib.error("the table of compressed blocks is damaged")
    return sizes


def _inflate(compressed: bytes, size: int, checksum: int, target: memoryview | None) -> bytes:
    """Return an inflated block; or write it to `target`, if given, and return nothing."""
    if xxhash.xxh3_64_intdigest(compressed) != checksum:
        raise zlib.error("the compressed data are damaged: the checksum of a block differs")
    module = fastest()
    try:
        block: bytes = module.decompressobj(-zlib.MAX_WBITS).decompress(compressed, size + 1)
    except module.error as error:
        raise zlib.error(f"the compressed data are damaged: {error}") from error
    if len(block) != size:
        raise zlib.error(f"the compressed data are damaged: a block does not have {size} bytes")
    if target is None:
        return block
    target[:] = block
    return b""
