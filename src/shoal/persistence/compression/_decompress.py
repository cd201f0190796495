"""Compressed streams, read in one go, and no further than they go.

::

    the file ──> Compressed ──> decompressor ──> Pieces ──> whoever reads
                     ^               │ unused_data
                     └───────────────┘ at the end: given back to the file
"""

from __future__ import annotations

import io
import pickle
import zlib
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Protocol

from shoal.persistence.compression._stream import TRUNCATED, opened

#: Bytes that are read and decompressed at a time.
READ, PIECE = 1 << 17, 1 << 20


class Decompressor(Protocol):
    """What decompresses one stream, as ``bz2.BZ2Decompressor`` of the standard library does."""

    @property
    def eof(self) -> bool:
        """Whether the stream has ended."""

    @property
    def needs_input(self) -> bool:
        """Whether nothing comes without more compressed data."""

    @property
    def unused_data(self) -> bytes | None:
        """What of the data that it was given last stands behind the stream."""

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """Return at most so many bytes, given the next compressed data."""


class Pieces(io.BufferedIOBase):
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
        Exception
            What the library of the format raises, if it is damaged.
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
        """Return up to `size` bytes of those that are decompressed, or of the next ones."""
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


class Compressed:
    """The compressed bytes of a file, taken as they are needed.

    Parameters
    ----------
    file
        It is read from where it stands.

    Attributes
    ----------
    unused
        What was read behind the end of the stream and could not be left in the file.
    """

    def __init__(self, file: Any) -> None:
        self._file = file
        self._seekable = hasattr(file, "seekable") and file.seekable()
        self._peek = None if self._seekable else getattr(file, "peek", None)
        # read1 does not wait for more than there is: what stands behind the stream may be long in coming.
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
        self._taken(self._peeked)
        data = bytes(self._peek(1))
        self._peeked = len(data)
        return data

    def end(self, unused: bytes) -> None:
        """Leave the last bytes of what was returned last in the file, if that can be done."""
        if self._peek is not None:
            self._taken(self._peeked - len(unused))
            self._peeked = 0
        elif unused and self._seekable:
            self._file.seek(-len(unused), io.SEEK_CUR)
        else:
            self.unused = unused

    def _taken(self, nbytes: int) -> None:
        while nbytes:
            nbytes -= len(self._file.read(nbytes)) or nbytes


class DecompressFile(Pieces):
    """A file to read from, forwards, which holds what one compressed stream does.

    Parameters
    ----------
    fileobj : path or file object
        Where the stream is, from the current position on. It need not be seekable.
    decompressor : callable
        Returns what decompresses one stream: a :class:`Decompressor`.

    Attributes
    ----------
    unused : bytes
        What was read from the file object behind the end of the stream, if it could not be left there: a file that can
        seek is set back, and one that has ``peek`` is read no further. Known once the end has been read.
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
        """Go on with the stream behind this one, which was read to its end; tell whether there is one.

        Zeros between the two are skipped: tapes and disks leave some.
        """
        while data := self._compressed.more():
            data = data.lstrip(b"\0")
            self._compressed.end(data)
            if data:
                self._stream, self._ended = self._decompressor(), False
                return True
        return False
