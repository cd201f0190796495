"""Deflating: zlib and gzip streams, in blocks, on several threads. `_stream` draws their layout."""

from __future__ import annotations

import io
import operator
import pickle
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any

import xxhash

from shoal._output import putter
from shoal.persistence.compression import _stream
from shoal.persistence.compression._ahead import Ahead
from shoal.persistence.compression._stream import CONTAINERS, fastest, opened, stored

if TYPE_CHECKING:
    from types import TracebackType

#: Bytes of a block before it is deflated. With a third of it, files of levels 4 to 9 grow by another 0.7 %; with more,
#: files of a few MB leave threads idle at their end.
BLOCK = 3 << 18

# How many blocks are taken to be like the one that is looked at.
_ALIKE = 16

# How much larger than zlib's a sample may become, at levels 1 to 3 and at the others.
_CLOSE, _CLOSER = 1.04, 1.01

# The memLevel with which zlib-ng is a twentieth faster than with the default at levels 2 and 3.
_MOST_MEMORY = 9

# A sixteenth of fewer bytes tells nothing about them.
_LEAST = 1 << 15

# How many blocks wait for each thread.
_WAITING = 4

# A buffer of so many blocks is deflated where it lies, and `write` waits for that; a smaller one is copied.
_BLOCKS_LENT = 4

# Smaller pieces of a block are put together.
_PIECE = 1 << 14

Deflate = Callable[[Any], bytes]


def _deflate(module: ModuleType, level: int, block: Any, memory: int = zlib.DEF_MEM_LEVEL) -> bytes:
    stream = module.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS, memory)
    # One call, since after each the thread waits for the interpreter, which pickles.
    deflated: bytes = stream.compress(block) + stream.flush(zlib.Z_FULL_FLUSH)
    return deflated


class _Choice:
    """Which of several ways deflates the blocks of a stream; what the blocks are like decides.

    ISA-L is ten times as fast as zlib, but looks for fewer repetitions: on most data that costs nothing, on some a
    fifth of the size. zlib-ng is three to six times as fast, and sometimes a little worse. So a sixteenth of every 16th
    block is deflated by each, and the fastest that comes close to zlib at the level asked for is taken. The choice
    depends on the data alone, never on the time.
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

    def of(self, block: Any) -> Deflate:
        """Return what deflates the next block of the stream."""
        if self._fast and self._blocks % _ALIKE == 0 and len(block) >= _LEAST:
            sample = _sample(block)
            enough = self._close * len(self._zlib(sample))
            close = (way for way in self._fast if len(way(sample)) <= enough)
            self._chosen = next(close, self._zlib)
        self._blocks += 1
        return self._chosen


def _sample(block: Any) -> bytes:
    """A sixteenth of a block, from four places."""
    step, length = len(block) // 4, len(block) // 64
    return b"".join(block[start : start + length] for start in range(0, 4 * step, step))


class DeflateFile(io.BufferedIOBase):
    """A file to write to, that makes a zlib or gzip stream of what it is given.

    Levels 1 to 3 are deflated by ISA-L, and all by zlib-ng, where these are installed and make
    files about as small as zlib does; else by zlib. Blocks of 768 KiB are deflated on
    as many threads as there are CPUs to use, eight at most, once there are two of them; the threads
    end with the file. Memory is bounded by six blocks for each thread. To be used from one thread.

    Parameters
    ----------
    fileobj : path or file object
        Where the stream goes. A file object is written to by the calling thread alone, and left open.
    compresslevel : int, default 3
        0 (stored) to 9 (smallest).
    container : {"zlib", "gzip"}
        The kind of stream.

    Raises
    ------
    ValueError
        If `compresslevel` is out of its range.
    TypeError
        If `fileobj` can be neither opened nor written to.
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
        self._pieces: list[Any] = []  # of the next block
        self._size = 0  # theirs
        self._position = self._offset = 0  # bytes taken, bytes written
        self._table: list[tuple[int, int, int]] = []
        self._file, self._owned = opened(fileobj, "wb")
        try:
            self._write(self._container.header(level))
        except BaseException:
            self._give_up()
            raise
        self._ended = False

    def write(self, buffer: Any) -> int:
        """Take all bytes of `buffer`, which any object with a contiguous buffer may be; return their number.

        Raises
        ------
        BufferError
            If the buffer is not contiguous.
        ValueError
            If the file is closed.
        Exception
            What writing to the file object raises. No more can be written then, but the file must still be closed.
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
        """Yield what is still missing of a block, then whole ones, then the rest."""
        while view:
            missing = BLOCK - self._size
            yield view[:missing]
            view = view[missing:]

    def _add(self, piece: bytes | memoryview) -> None:
        """Take what belongs to the next block; it stays as it is until that is deflated."""
        if len(piece) >= _PIECE:
            self._pieces.append(piece)
        elif self._pieces and isinstance(self._pieces[-1], bytearray):
            self._pieces[-1] += piece
        else:
            self._pieces.append(bytearray(piece))
        self._size += len(piece)
        if self._size == BLOCK:
            self._put()

    def _put(self) -> None:
        """Have the next block deflated."""
        block = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces, self._size = [], 0
        while self._blocks.full:
            self._take()
        self._blocks.put(self._choice.of(block), block)

    def _take(self) -> None:
        deflated = self._blocks.take()
        self._table.append((self._offset, len(self._table) * BLOCK, xxhash.xxh3_64_intdigest(deflated)))
        self._write(deflated)

    def _drain(self) -> None:
        while len(self._blocks):
            self._take()

    def _write(self, data: bytes) -> None:
        putter(self._file)(data)
        self._offset += len(data)

    def finish(self, footer: Callable[[list[tuple[int, int, int]]], bytes]) -> None:
        """End the stream, with a footer behind the data that readers of the data need not know of.

        Parameters
        ----------
        footer : callable
            Is given the table of blocks: for each the offset of its first byte in the stream (the
            header's first is 0) and in the data, and the xxh3_64 of what is in the stream; and one
            entry more, where the last block ends. What it returns is written as it is:
            `shoal.persistence.compression._stream.read_stored` reads it back.

        Raises
        ------
        ValueError
            If the stream has ended.
        """
        self._check_open()
        with self._unless_it_fails():
            if self._size:
                self._put()
            self._drain()
            self._blocks.close()
            self._table.append((self._offset, self._position, 0))
            tail = footer(self._table)
            check, size = self._checksum(tail, self._check), self._position + len(tail)
            self._write(stored(tail) + self._container.trailer(check, size))
        self._ended = True

    def close(self) -> None:
        """End the stream, unless it has ended or failed, and close the file if it was opened here."""
        if self.closed:
            return
        try:
            if not self._ended:
                self.finish(lambda _: b"")
        finally:
            self._give_up()

    def __del__(self) -> None:
        # Nothing that waits or takes a lock: this may run anywhere. The threads end when the executor is gone.
        if not self._ended:
            warnings.warn(
                f"{self!r} was not closed, so the stream has no end", ResourceWarning, stacklevel=2, source=self
            )

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
        # A stream that was broken off must not look whole.
        if kind is not None and not self.closed:
            self._give_up()
        self.close()

    def tell(self) -> int:
        """Return the number of bytes taken so far."""
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
            raise ValueError("write to a stream that has ended, was closed or failed to be written")
