"""Writing zlib and gzip streams: blocks are deflated on several threads. `_stream` draws the layout."""

from __future__ import annotations

import io
import operator
import pickle
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any

import xxhash

from shoal._output import putter
from shoal._tracebacks import warn
from shoal.persistence.compression import _stream
from shoal.persistence.compression._ahead import Ahead
from shoal.persistence.compression._stream import CONTAINERS, fastest, opened, stored

if TYPE_CHECKING:
    from types import TracebackType

#: The number of bytes of a block before it is deflated. With a third of it, files of levels 4 to 9 are 0.7 % larger;
#: with more, threads are idle at the end of files of a few MB.
BLOCK = 3 << 18

# One block in this many is sampled. The others are assumed to be similar.
_ALIKE = 16

# How much larger than zlib's output a sample may become, at levels 1 to 3 and at the others.
_CLOSE, _CLOSER = 1.04, 1.01

# With this memLevel, zlib-ng is 5 % faster at levels 2 and 3 than with the default.
_MOST_MEMORY = 9

# zlib gathers 2 ** (memLevel + 6) literals and matches, and clears tables of the same size. For a small stream, this
# memLevel is enough up to 2 kB; to clear the tables of the default takes longer than anything else.
_LEAST_MEMORY = 5

#: A stream of fewer bytes is small. Smaller blocks are not sampled, because a sixteenth of them tells nothing.
SMALL = 1 << 15

# The number of blocks in the queue, for each thread.
_WAITING = 4

# A buffer of at least this many blocks is deflated in place, and `write` waits for that. A smaller one is copied.
_BLOCKS_LENT = 4

# Pieces of a block that have fewer bytes are joined.
_PIECE = 1 << 14

Deflate = Callable[[Any], bytes]


def _deflate(module: ModuleType, level: int, block: Any, memory: int = zlib.DEF_MEM_LEVEL) -> bytes:
    stream = module.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS, memory)
    # Few calls, because after each one the thread waits for the GIL, while another thread pickles.
    deflated: bytes = stream.compress(block) + stream.flush(zlib.Z_FULL_FLUSH)
    return deflated


class _Choice:
    """Chooses the library that deflates the blocks of a stream, by trying all of them on samples of the data.

    ISA-L is ten times as fast as zlib, but finds fewer repetitions: most data do not become larger, some become a fifth
    larger. zlib-ng is three to six times as fast as zlib, and its output is sometimes a little larger. So each library
    deflates a sixteenth of every 16th block, and the fastest one whose output is about as small as zlib's at the
    requested level is chosen. The choice depends only on the data, never on the time.
    """

    def __init__(self, level: int) -> None:
        self._zlib: Deflate = partial(_deflate, zlib, level)
        self._chosen: Deflate = self._zlib
        quick = 1 <= level <= 3
        self._close = _CLOSE if quick else _CLOSER
        self._fast: list[Deflate] = []
        if _stream.isal is not None and quick:
            self._fast = [partial(_deflate, _stream.isal, its_level) for its_level in (1, 3)]
        if _stream.zlib_ng is not None and quick:
            self._fast += [partial(_deflate, _stream.zlib_ng, its_level, memory=_MOST_MEMORY) for its_level in (2, 3)]
        elif _stream.zlib_ng is not None and level:
            self._fast = [partial(_deflate, _stream.zlib_ng, level)]
        self._blocks = 0

    def for_block(self, block: Any) -> Deflate:
        """Return the function that deflates the next block of the stream."""
        if self._fast and self._blocks % _ALIKE == 0 and len(block) >= SMALL:
            sample = _sample(block)
            enough = self._close * len(self._zlib(sample))
            close = (way for way in self._fast if len(way(sample)) <= enough)
            self._chosen = next(close, self._zlib)
        self._blocks += 1
        return self._chosen


def _sample(block: Any) -> bytes:
    """Return a sixteenth of a block, made of four parts."""
    step, length = len(block) // 4, len(block) // 64
    return b"".join(block[start : start + length] for start in range(0, 4 * step, step))


def small_stream(data: bytes, level: int, container: str, footer: Callable[[list[tuple[int, ...]]], bytes]) -> bytes:
    """Return what a :class:`DeflateFile` would write for at least one and fewer than :data:`SMALL` bytes, and a footer.

    Parameters
    ----------
    data, level, container
        The bytes, and the arguments of :class:`DeflateFile`.
    footer
        As for :meth:`DeflateFile.finish`.
    """
    kind, checksum = CONTAINERS[container], getattr(fastest(), CONTAINERS[container].checksum)
    memory = min(max(_LEAST_MEMORY, len(data).bit_length() - 6), zlib.DEF_MEM_LEVEL)
    header, block = kind.header(level), _deflate(zlib, level, data, memory)
    end = len(header) + len(block)
    tail = footer([(len(header), 0, xxhash.xxh3_64_intdigest(block)), (end, len(data), 0)])
    trailer = kind.trailer(checksum(tail, checksum(data)), len(data) + len(tail))
    return header + block + stored(tail) + trailer


class DeflateFile(io.BufferedIOBase):
    """A file object that writes a zlib or gzip stream of the bytes that are written to it.

    Blocks are deflated by ISA-L (levels 1 to 3) or zlib-ng (all levels) if these are installed and their output is
    about as small as zlib's; else by zlib. As soon as there are two blocks of 768 KiB, they are deflated on as many
    threads as there are CPUs to use, at most eight. The threads end when the file is closed. Memory is bounded by six
    blocks for each thread. To be used from one thread.

    Parameters
    ----------
    fileobj : path or file object
        The file for the stream. Only the calling thread writes to a file object, and it is left open.
    compresslevel : int, default 3
        0 (stored) to 9 (smallest).
    container : {"zlib", "gzip"}
        The kind of stream.

    Raises
    ------
    ValueError
        If `compresslevel` is not from 0 to 9.
    TypeError
        If `fileobj` is neither a path nor an object with ``write``.
    """

    def __init__(self, fileobj: Any, compresslevel: int = 3, container: str = "zlib") -> None:
        self._ended, self._owned = True, False
        self._blocks: Ahead[bytes] = Ahead(_WAITING)
        level = operator.index(compresslevel)
        if not 0 <= level <= 9:
            raise ValueError(f"compresslevel must be an integer between 0 and 9, not {compresslevel!r}")
        self._container = CONTAINERS[container]
        self._checksum = getattr(fastest(), self._container.checksum)
        self._check: int = self._checksum(b"")
        self._choice = _Choice(level)
        self._pieces: list[Any] = []  # parts of the next block
        self._size = 0  # the number of bytes in them
        self._position = self._offset = 0  # the numbers of bytes before and after compression
        self._table: list[tuple[int, int, int]] = []
        self._file, self._owned = opened(fileobj, "wb")
        try:
            self._write(self._container.header(level))
        except BaseException:
            self._give_up()
            raise
        self._ended = False

    def write(self, buffer: Any) -> int:
        """Write all bytes of `buffer`, any object with a contiguous buffer; return their number.

        Raises
        ------
        BufferError
            If the buffer is not contiguous.
        ValueError
            If the file is closed.
        Exception
            If writing to the file object raises it. Then no more can be written, but the file must still be closed.
        """
        self._check_open()
        view = pickle.PickleBuffer(buffer).raw()
        with self._unless_it_fails():
            lent = len(view) >= _BLOCKS_LENT * BLOCK
            for part in self._parts(view):
                self._check = self._checksum(part, self._check)
                stays = type(buffer) is bytes or (lent and self._size + len(part) == BLOCK)
                self._add(part if stays else bytes(part))
            if lent:
                self._drain()
        self._position += len(view)
        return len(view)

    def _parts(self, view: memoryview) -> Iterator[memoryview]:
        """Yield the part that completes the current block, then whole blocks, then the rest."""
        while view:
            missing = BLOCK - self._size
            yield view[:missing]
            view = view[missing:]

    def _add(self, piece: bytes | memoryview) -> None:
        """Add a piece to the next block. The bytes of `piece` must not change until the block is deflated."""
        if len(piece) >= _PIECE:
            self._pieces.append(piece)
        elif self._pieces and isinstance(self._pieces[-1], bytearray):
            self._pieces[-1] += piece
        else:
            self._pieces.append(bytearray(piece))
        self._size += len(piece)
        if self._size == BLOCK:
            self._deflate_block()

    def _deflate_block(self) -> None:
        """Put the next block into the queue of blocks to be deflated; write blocks until it has room."""
        block = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces, self._size = [], 0
        while self._blocks.full:
            self._write_block()
        self._blocks.put(self._choice.for_block(block), block)

    def _write_block(self) -> None:
        """Wait for the oldest block in the queue, and write it."""
        deflated = self._blocks.result()
        self._table.append((self._offset, len(self._table) * BLOCK, xxhash.xxh3_64_intdigest(deflated)))
        self._write(deflated)

    def _drain(self) -> None:
        """Write all blocks in the queue."""
        while len(self._blocks):
            self._write_block()

    def _write(self, data: bytes) -> None:
        putter(self._file)(data)
        self._offset += len(data)

    def finish(self, footer: Callable[[list[tuple[int, int, int]]], bytes]) -> None:
        """End the stream with a footer behind the data. Readers get it as the last bytes of the data.

        Parameters
        ----------
        footer : callable
            It is called with the table of blocks, and returns the footer as bytes. The table has for each block the
            offset of its first byte in the stream (whose header begins at 0), the offset in the data, and the xxh3_64
            of the block in the stream; a last entry says where the last block ends. The footer is stored without
            compression: `shoal.persistence.compression._stream.read_stored` reads it back.

        Raises
        ------
        ValueError
            If the stream has ended.
        """
        self._check_open()
        with self._unless_it_fails():
            if self._size:
                self._deflate_block()
            self._drain()
            self._blocks.close()
            self._table.append((self._offset, self._position, 0))
            tail = footer(self._table)
            check, size = self._checksum(tail, self._check), self._position + len(tail)
            self._write(stored(tail) + self._container.trailer(check, size))
        self._ended = True

    def close(self) -> None:
        """End the stream unless it has ended or failed, and close the file if it was opened here."""
        if self.closed:
            return
        try:
            if not self._ended:
                self.finish(lambda _: b"")
        finally:
            self._give_up()

    def __del__(self) -> None:
        # Do nothing that waits or takes a lock, because this may run anywhere. The threads end with the executor.
        if not self._ended:
            warn(f"{self!r} was not closed, so its stream has no end", ResourceWarning, source=self)

    def _give_up(self) -> None:
        self._ended = True
        self._blocks.close()
        try:
            if self._owned:
                self._file.close()
        finally:
            self._file = None
            super().close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # After an exception, the stream must not look complete.
        if kind is not None and not self.closed:
            self._give_up()
        self.close()

    def tell(self) -> int:
        """Return the number of bytes that were written to this object so far."""
        return self._position

    def writable(self) -> bool:
        """Return True."""
        return True

    @contextmanager
    def _unless_it_fails(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._ended = True
            self._blocks.close()
            raise

    def _check_open(self) -> None:
        if self.closed or self._ended:
            raise ValueError("write to a stream that has ended, was closed, or has failed before")
