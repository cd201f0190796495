"""Reading compressed streams forwards, and no further than to their ends.

::

    the file ──> Compressed ──> decompressor ──> Pieces ──> the caller of read
                     ^               │ unused_data
                     └───────────────┘ at the end of the stream: given back to the file
"""

from __future__ import annotations

import io
import pickle
import zlib
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Protocol

from shoal.persistence.compression._stream import TRUNCATED, opened

#: The number of bytes that are read at a time, and that are decompressed at a time at most.
READ, PIECE = 1 << 17, 1 << 20


class Decompressor(Protocol):
    """An object that decompresses one stream. ``bz2.BZ2Decompressor`` of the standard library is one."""

    @property
    def eof(self) -> bool:
        """Whether the stream has ended."""

    @property
    def needs_input(self) -> bool:
        """Whether it needs more compressed data to return anything."""

    @property
    def unused_data(self) -> bytes | None:
        """The end of the data that it was given last: the bytes behind the stream."""

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """Return at most `max_length` decompressed bytes, given the next compressed data."""


class Pieces(io.BufferedIOBase):
    """A file object that is read forwards, and gets its bytes in pieces. To be used from one thread.

    Parameters
    ----------
    file
        The file object that the pieces come from.
    owned
        Whether it is closed with this one.
    """

    def __init__(self, file: Any, owned: bool) -> None:
        self._file, self._owned = file, owned
        self._piece = memoryview(b"")
        self._position = 0
        self._failed = False

    @abstractmethod
    def _next(self) -> bytes:
        """Return the next bytes: at least one, or none at the end."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next `size` bytes, fewer only at the end; all remaining bytes if `size` is negative or None.

        Raises
        ------
        EOFError
            If the stream is truncated.
        Exception
            The error of the format's library, if the stream is damaged.
        """
        wanted = -1 if size is None or size < 0 else size
        if 0 <= wanted <= len(self._piece):
            return bytes(self._consume(wanted))
        pieces = [self._consume(len(self._piece))]
        missing = wanted - len(pieces[0])
        while missing and self._refilled():
            piece = self._consume(len(self._piece) if wanted < 0 else missing)
            pieces.append(piece)
            missing -= len(piece)
        return b"".join(pieces)

    def read1(self, size: int = -1, /) -> bytes:
        """Return at most `size` bytes: of those that are already decompressed, else of the next piece."""
        if size and self._refilled():
            return bytes(self._consume(len(self._piece) if size < 0 else size))
        return b""

    def readinto(self, buffer: Any, /) -> int:
        """Fill `buffer`, and return the number of bytes, which is less than its size only at the end."""
        view = pickle.PickleBuffer(buffer).raw()
        filled = 0
        while filled < len(view) and self._refilled():
            piece = self._consume(len(view) - filled)
            view[filled : filled + len(piece)] = piece
            filled += len(piece)
        return filled

    def __del__(self) -> None:
        pass  # `close` would wait for threads, but this may run anywhere. The threads end with the executor.

    def _consume(self, size: int) -> memoryview:
        """Return at most `size` bytes of the current piece, and move on behind them."""
        data = self._piece[:size]
        self._piece = self._piece[size:]
        self._position += len(data)
        return data

    def _refilled(self) -> bool:
        if not self._piece:
            if self.closed:
                raise ValueError("read from a closed file")
            if self._failed:  # the next bytes must not be returned as if they were those that failed
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


class Compressed:
    """The compressed bytes of a file, read as they are needed.

    Parameters
    ----------
    file
        The file, at the stream.

    Attributes
    ----------
    unused
        Bytes that were read behind the end of the stream and that the file cannot take back.
    """

    def __init__(self, file: Any) -> None:
        self._file = file
        self._seekable = hasattr(file, "seekable") and file.seekable()
        self._peek = None if self._seekable else getattr(file, "peek", None)
        # read1 returns what has arrived. The bytes behind the stream may arrive much later.
        self._fetch = getattr(file, "read1", file.read)
        self._peeked = 0
        self.unused = b""

    def more(self) -> bytes:
        """Return the next bytes; none at the end of the file."""
        if self.unused:
            data, self.unused = self.unused, b""
            return data
        if self._peek is None:
            return bytes(self._fetch(READ) or b"")
        self._skip(self._peeked)
        data = bytes(self._peek(1))
        self._peeked = len(data)
        return data

    def end(self, unused: bytes) -> None:
        """Give `unused`, the end of the bytes that were returned last, back to the file, or keep it for `more`."""
        if self._peek is not None:
            self._skip(self._peeked - len(unused))
            self._peeked = 0
        elif unused and self._seekable:
            self._file.seek(-len(unused), io.SEEK_CUR)
        else:
            self.unused = unused

    def _skip(self, nbytes: int) -> None:
        while nbytes:
            nbytes -= len(self._file.read(nbytes)) or nbytes


class DecompressFile(Pieces):
    """A file object from which the data of one compressed stream can be read, forwards.

    Parameters
    ----------
    fileobj : path or file object
        The file, at the stream. It need not be able to seek.
    decompressor : callable
        Returns a :class:`Decompressor` for one stream.

    Attributes
    ----------
    unused : bytes
        Bytes that were read from the file object behind the end of the stream and that it cannot take back: a file that
        can seek is set back, and one that has ``peek`` is read no further. Known once the end of the stream was read.
    """

    def __init__(self, fileobj: Any, decompressor: Callable[[], Decompressor]) -> None:
        super().__init__(*opened(fileobj, "rb"))
        self._compressed = Compressed(self._file)
        self._decompressor = decompressor
        self._stream = decompressor()
        self._ended = False

    @property
    def unused(self) -> bytes:
        return self._compressed.unused

    def _next(self) -> bytes:
        stream = self._stream
        while not self._ended:
            data = b""
            if stream.needs_input and not (data := self._compressed.more()):
                raise EOFError(TRUNCATED)
            piece = stream.decompress(data, PIECE)
            self._ended = stream.eof
            if self._ended:
                self._compressed.end(stream.unused_data or b"")
            if piece:
                return piece
        return b""

    def follow(self) -> bool:
        """Go on with the stream behind this one, which was read to its end. Return False if there is none.

        Zeros between the two are skipped, because tapes and disks pad files with them.
        """
        while data := self._compressed.more():
            data = data.lstrip(b"\0")
            self._compressed.end(data)
            if data:
                self._stream, self._ended = self._decompressor(), False
                return True
        return False
