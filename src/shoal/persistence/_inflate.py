"""zlib and gzip streams, inflated: any of them in one go, those of `DeflateFile` block by block on several threads."""

from __future__ import annotations

import io
import pickle
import zlib
from abc import abstractmethod
from collections import deque
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import xxhash

from shoal.persistence._ahead import Ahead
from shoal.persistence._stream import (
    CONTAINERS,
    TRUNCATED,
    container_of,
    fastest,
    opened,
    read_exactly,
)

# Bytes read and inflated at a time where the blocks are not known.
_READ, _PIECE = 1 << 17, 1 << 20

# How many blocks are inflated ahead, for each thread.
_WAITING = 2

# Deflate never inflates to more: 258 bytes for two bits.
_MOST_PER_BYTE = 1032


class _Inflated(io.BufferedIOBase):
    """A file to read from, forwards, made of pieces that come one after the other. To be used from one thread."""

    def __init__(self, file: Any, owned: bool) -> None:
        self._file, self._owned = file, owned
        self._piece = memoryview(b"")
        self._position = 0
        self._failed = False

    @abstractmethod
    def _next(self) -> bytes:
        """Return the next bytes, at least one; none at the end."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next `size` bytes, less only at the end; all that are left if it is negative or None.

        Raises
        ------
        EOFError
            If the stream is truncated.
        zlib.error
            If it is damaged.
        """
        wanted = -1 if size is None or size < 0 else size
        if 0 <= wanted <= len(self._piece):
            return bytes(self._taken(wanted))
        pieces = [self._taken(len(self._piece))]
        missing = wanted - len(pieces[0])
        while missing and self._refilled():
            piece = self._taken(len(self._piece) if wanted < 0 else missing)
            pieces.append(piece)
            missing -= len(piece)
        return b"".join(pieces)

    def read1(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes of those that are inflated, or of the next ones."""
        if size and self._refilled():
            return bytes(self._taken(len(self._piece) if size < 0 else size))
        return b""

    def readinto(self, buffer: Any, /) -> int:
        """Fill `buffer`, and return the number of bytes, which is less than its size only at the end."""
        view = pickle.PickleBuffer(buffer).raw()
        filled = 0
        while filled < len(view) and self._refilled():
            piece = self._taken(len(view) - filled)
            view[filled : filled + len(piece)] = piece
            filled += len(piece)
        return filled

    def __del__(self) -> None:
        pass  # not `close`, which waits for threads: this may run anywhere. They end when the executor is gone.

    def _taken(self, size: int) -> memoryview:
        """Up to `size` bytes of the piece at hand."""
        taken = self._piece[:size]
        self._piece = self._piece[size:]
        self._position += len(taken)
        return taken

    def _refilled(self) -> bool:
        if not self._piece:
            if self.closed:
                raise ValueError("read from a closed file")
            if self._failed:  # what follows must not be taken for what was to come
                raise zlib.error("the compressed data could not be read up to here")
            self._failed = True
            self._piece = memoryview(self._next())
            self._failed = False
        return bool(self._piece)

    def tell(self) -> int:
        """Return the number of bytes that were read."""
        return self._position

    def readable(self) -> bool:
        """Return True."""
        return True

    def close(self) -> None:
        """Close the file if it was opened here."""
        if not self.closed:
            self._piece = memoryview(b"")
            try:
                if self._owned:
                    self._file.close()
            finally:
                super().close()


class InflateFile(_Inflated):
    """A file to read from, forwards, which holds what a zlib or gzip stream does.

    Parameters
    ----------
    fileobj : path or file object
        Where the stream is, from the current position on. It need not be seekable.
    container : {"zlib", "gzip"}
        The kind of stream.

    Attributes
    ----------
    unused : bytes
        What was read from the file object behind the end of the stream, if it could not be given
        back by seeking. Known once the end has been read.
    """

    def __init__(self, fileobj: Any, container: str = "zlib") -> None:
        super().__init__(*opened(fileobj, "rb"))
        # read1 does not wait for more than there is: what stands behind the stream may be long in coming.
        self._fetch = getattr(self._file, "read1", self._file.read)
        self._inflater = fastest().decompressobj(CONTAINERS[container].wbits)
        self.unused = b""

    def _next(self) -> bytes:
        inflater = self._inflater
        while not inflater.eof:
            compressed = inflater.unconsumed_tail or self._fetch(_READ)
            if not compressed:
                raise EOFError(TRUNCATED)
            try:
                piece: bytes = inflater.decompress(compressed, _PIECE)
            except fastest().error as error:
                raise zlib.error(f"the compressed data are damaged: {error}") from error
            if inflater.eof:
                self._give_back(inflater.unused_data)
            if piece:
                return piece
        return b""

    def _give_back(self, unused: bytes) -> None:
        if unused:
            if hasattr(self._file, "seekable") and self._file.seekable():
                self._file.seek(-len(unused), io.SEEK_CUR)
            else:
                self.unused = unused


class InflateBlocks(_Inflated):
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
