"""Compressors under joblib's names."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator, MutableMapping
from typing import Any, ClassVar

from shoal.persistence import compression
from shoal.persistence.compression import CompressorWrapper, DeflateFile, InflateFile

__all__ = ["BinaryGzipFile", "BinaryZlibFile", "CompressorWrapper", "register_compressor"]

LZ4_NOT_INSTALLED_ERROR = "LZ4 is not installed. Install it with pip: https://python-lz4.readthedocs.io/"

#: The compressors that shoal brings.
_SHOAL = dict(compression.COMPRESSORS)

_ZFILE_PREFIX = b"ZF"
_ZLIB_PREFIX = b"\x78"
_GZIP_PREFIX = b"\x1f\x8b"
_BZ2_PREFIX = b"BZ"
_XZ_PREFIX = b"\xfd7zXZ"
_LZMA_PREFIX = b"\x5d\x00"
_LZ4_PREFIX = b"\x04\x22\x4d\x18"


def register_compressor(compressor_name: str, compressor: CompressorWrapper, force: bool = False) -> None:
    """Register a compressor.

    Raises
    ------
    ValueError
        If an argument is wrong, or the name is registered already and `force` is False.
    """
    if not isinstance(compressor_name, str):
        raise ValueError(f"Compressor name should be a string, '{compressor_name}' given.")
    if not isinstance(compressor, CompressorWrapper):
        raise ValueError(f"Compressor should implement the CompressorWrapper interface, '{compressor}' given.")
    factory = compressor.fileobj_factory
    if factory is not None and not all(hasattr(factory, name) for name in ("read", "write", "seek", "tell")):
        raise ValueError(
            f"Compressor 'fileobj_factory' attribute should implement the file object interface, '{factory}' given."
        )
    if compressor_name in _COMPRESSORS and not force:
        raise ValueError(f"Compressor '{compressor_name}' already registered.")
    _COMPRESSORS[compressor_name] = compressor


class _ShoalCompressor(CompressorWrapper):
    """One of shoal's compressors."""

    _name = ""
    prefix: bytes
    extension: str

    def __init_subclass__(cls) -> None:
        cls.prefix, cls.extension = _SHOAL[cls._name].prefix, _SHOAL[cls._name].extension

    def __init__(self) -> None:
        record = _SHOAL[self._name]
        super().__init__(record.fileobj_factory, record.prefix, record.extension)


class ZlibCompressorWrapper(_ShoalCompressor):
    """zlib."""

    _name = "zlib"


class GzipCompressorWrapper(_ShoalCompressor):
    """gzip."""

    _name = "gzip"


class BZ2CompressorWrapper(_ShoalCompressor):
    """bz2."""

    _name = "bz2"


class LZMACompressorWrapper(_ShoalCompressor):
    """lzma."""

    _name = "lzma"


class XZCompressorWrapper(_ShoalCompressor):
    """xz."""

    _name = "xz"


class LZ4CompressorWrapper(_ShoalCompressor):
    """lz4. Its class of file objects is imported when it is first needed."""

    _name = "lz4"

    def __init__(self) -> None:
        super().__init__()
        self._opened = self.__dict__.pop("fileobj_factory")

    def __getattr__(self, name: str) -> Any:
        if name != "fileobj_factory":
            raise AttributeError(name)
        try:
            from lz4.frame import LZ4FrameFile
        except ImportError:
            return None
        return LZ4FrameFile

    def compressor_file(self, fileobj: Any, compresslevel: int | None = None) -> Any:
        """Return a file object that compresses its input."""
        return self._opened(fileobj, "wb", *(() if compresslevel is None else (compresslevel,)))

    def decompressor_file(self, fileobj: Any) -> Any:
        """Return a file object that decompresses."""
        return self._opened(fileobj, "rb")


class _Table(MutableMapping[str, CompressorWrapper]):
    """shoal's table of compressors, with a record of lz4 that also has the class of its file objects."""

    _lz4 = LZ4CompressorWrapper()

    def __getitem__(self, name: str) -> CompressorWrapper:
        record = compression.COMPRESSORS[name]
        return self._lz4 if record is _SHOAL["lz4"] else record

    def __setitem__(self, name: str, record: CompressorWrapper) -> None:
        compression.COMPRESSORS[name] = record

    def __delitem__(self, name: str) -> None:
        del compression.COMPRESSORS[name]

    def __iter__(self) -> Iterator[str]:
        return iter(compression.COMPRESSORS)

    def __len__(self) -> int:
        return len(compression.COMPRESSORS)


#: The compressors by name; the same as shoal's.
_COMPRESSORS = _Table()


class BinaryZlibFile(io.BufferedIOBase):
    """A compressed file in zlib's format, open for reading or for writing.

    Parameters
    ----------
    filename
        A path or a file object. A file object is not closed with this one.
    mode
        "rb" or "wb".
    compresslevel
        1 to 9.

    Raises
    ------
    ValueError, TypeError
        If an argument is wrong.
    """

    wbits: ClassVar[int] = zlib.MAX_WBITS
    _container = "zlib"

    def __init__(self, filename: Any, mode: str = "rb", compresslevel: int = 3) -> None:
        self._fp: Any = None
        self._stream: Any = None
        self.compresslevel = compresslevel
        if compresslevel not in range(1, 10):
            raise ValueError(
                f"'compresslevel' must be an integer between 1 and 9. You provided 'compresslevel={compresslevel}'"
            )
        if mode not in ("rb", "wb"):
            raise ValueError(f"Invalid mode: {mode!r}")
        self._owned = isinstance(filename, str)
        if self._owned:
            self._fp = open(filename, mode)  # noqa: SIM115 close() closes it
        elif hasattr(filename, "read") or hasattr(filename, "write"):
            self._fp = filename
        else:
            raise TypeError("filename must be a str or bytes object, or a file")
        self._reads = mode == "rb"
        self._begin()

    def _begin(self) -> None:
        if self._reads:
            self._start = self._fp.tell() if self._fp.seekable() else 0
            self._stream = InflateFile(self._fp, self._container)
        else:
            self._stream = DeflateFile(self._fp, self.compresslevel, self._container)

    @property
    def closed(self) -> bool:
        """Whether the file is closed."""
        return self._stream is None

    def close(self) -> None:
        """Write the remaining data, and close the file."""
        stream, self._stream = self._stream, None
        if stream is None:
            return
        try:
            stream.close()
        finally:
            if self._owned:
                self._fp.close()

    def _check_not_closed(self) -> None:
        if self.closed:
            name = getattr(self._fp, "name", None)
            raise ValueError(f"I/O operation on closed file{'' if name is None else f' {name}'}.")

    def _check_can_read(self) -> None:
        self._check_not_closed()
        if not self._reads:
            raise io.UnsupportedOperation("File not open for reading")

    def _check_can_write(self) -> None:
        self._check_not_closed()
        if self._reads:
            raise io.UnsupportedOperation("File not open for writing")

    def _check_can_seek(self) -> None:
        self._check_not_closed()
        if not self._reads:
            raise io.UnsupportedOperation("Seeking is only supported on files open for reading")
        if not self._fp.seekable():
            raise io.UnsupportedOperation("The underlying file object does not support seeking")

    def fileno(self) -> int:
        """Return the descriptor of the compressed file."""
        self._check_not_closed()
        return int(self._fp.fileno())

    def readable(self) -> bool:
        """Tell whether the file is open for reading."""
        self._check_not_closed()
        return self._reads

    def writable(self) -> bool:
        """Tell whether the file is open for writing."""
        self._check_not_closed()
        return not self._reads

    def seekable(self) -> bool:
        """Tell whether the file can seek."""
        return self.readable() and bool(self._fp.seekable())

    def tell(self) -> int:
        """Return the position in the uncompressed data."""
        self._check_not_closed()
        return int(self._stream.tell())

    def read(self, size: int | None = -1, /) -> bytes:
        """Read up to `size` bytes; all that remain if `size` is negative."""
        self._check_can_read()
        return bytes(self._stream.read(size))

    def readinto(self, b: Any) -> int:
        """Read into a buffer; return the number of bytes read."""
        self._check_can_read()
        return int(self._stream.readinto(b))

    def write(self, data: Any, /) -> int:
        """Write bytes; return their number."""
        self._check_can_write()
        return int(self._stream.write(data))

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move to a position. Moving backwards decompresses the file from its beginning again."""
        self._check_can_seek()
        if whence == io.SEEK_CUR:
            offset += self.tell()
        elif whence == io.SEEK_END:
            while self._stream.read(2**20):
                pass
            offset += self.tell()
        elif whence != io.SEEK_SET:
            raise ValueError(f"Invalid value for whence: {whence}")
        if offset < self.tell():
            self._stream.close()
            self._fp.seek(self._start)
            self._begin()
        while (left := offset - self.tell()) > 0 and self._stream.read(min(left, 2**20)):
            pass
        return self.tell()


class BinaryGzipFile(BinaryZlibFile):
    """A compressed file in gzip's format, open for reading or for writing."""

    wbits: ClassVar[int] = zlib.MAX_WBITS | 16
    _container = "gzip"
