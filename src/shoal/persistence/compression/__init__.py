"""How are bytes compressed on their way into a file, and decompressed on their way out?

In: a file object, and the name of a compressor. Out: a file object that compresses what is written to it, or one from
which the decompressed bytes can be read. This file has a record for each compressor; users register others. Open it
first, then ``_stream.py``, which draws the layout of zlib and gzip streams.

=======  ==================  =========  =============  =======================================
name     file begins with    extension  default level  made by
=======  ==================  =========  =============  =======================================
zlib     78                  .z         3              `shoal.persistence.compression._deflate`
gzip     1f 8b               .gz        3              the same
bz2      "BZ"                .bz2       9              the standard library
lzma     5d 00               .lzma      6              the standard library, the format "alone"
xz       fd "7zXZ"           .xz        6              the standard library
lz4      04 22 4d 18         .lz4       0              lz4.frame, of the package lz4
zstd     28 b5 2f fd         .zst       3              Python 3.14, or backports.zstd
=======  ==================  =========  =============  =======================================
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from types import ModuleType
from typing import Any

from shoal.persistence.compression._decompress import DecompressFile, Decompressor
from shoal.persistence.compression._deflate import SMALL, DeflateFile, small_stream
from shoal.persistence.compression._inflate import InflateBlocks, InflateFile, inflater
from shoal.persistence.compression._stream import read_stored, stream_size
from shoal.persistence.compression._zstd import ZstdWriter

__all__ = [
    "COMPRESSORS",
    "SMALL",
    "CompressorWrapper",
    "DecompressFile",
    "Deflate",
    "DeflateFile",
    "InflateBlocks",
    "InflateFile",
    "detect",
    "extensions",
    "read_stored",
    "register_compressor",
    "stream_size",
]


class CompressorWrapper:
    """How files of one compressed format are recognised, written and read. Thread-safe, because it never changes.

    Parameters
    ----------
    obj : class
        ``obj(fileobj, "wb")`` or ``obj(fileobj, "wb", compresslevel=level)`` returns a file object to
        write to, ``obj(fileobj, "rb")`` one to read from. `fileobj` is a path or a file object.
    prefix : bytes, default b""
        The first bytes of every file of the format.
    extension : str, default ""
        The end of the names of such files, with the dot.
    decompressor : callable, optional
        ``decompressor()`` returns an object that decompresses one stream, with the interface of
        ``bz2.BZ2Decompressor``: ``decompress(data, max_length)``, ``eof``, ``needs_input``, ``unused_data``. With it,
        :func:`shoal.load` reads a file object no further than to the end of the stream, so several dumps can follow
        each other in it. Without it, `obj` may read further.

    Attributes
    ----------
    fileobj_factory : callable
        `obj`.
    prefix, extension, decompressor
        As given.
    """

    def __init__(
        self,
        obj: Callable[..., Any] | None,
        prefix: bytes = b"",
        extension: str = "",
        decompressor: Callable[[], Decompressor] | None = None,
    ) -> None:
        self.fileobj_factory: Any = obj
        self.prefix = prefix
        self.extension = extension
        self.decompressor = decompressor

    def compressor_file(self, fileobj: Any, compresslevel: int | None = None) -> Any:
        """Return a file object that compresses what is written to it into `fileobj`.

        Parameters
        ----------
        fileobj : path or file object
            The file for the compressed bytes. A file object is left open.
        compresslevel : int, optional
            0 to 9; by default, the default level of the format.

        Raises
        ------
        ValueError
            If a package that the format needs is not installed. The message says how to install it.
        """
        if compresslevel is None:
            return self.fileobj_factory(fileobj, "wb")
        return self.fileobj_factory(fileobj, "wb", compresslevel=compresslevel)

    def decompressor_file(self, fileobj: Any) -> Any:
        """Return a file object from which the decompressed bytes of `fileobj` can be read.

        Parameters
        ----------
        fileobj : path or file object
            The file with the compressed bytes.

        Raises
        ------
        ValueError
            If a package that the format needs is not installed. The message says how to install it.

        Notes
        -----
        Reads raise EOFError if the stream is truncated. If it is damaged, they raise the error of the format's library:
        ``zlib.error`` (zlib, gzip), OSError without an errno (bz2), ``lzma.LZMAError`` (lzma, xz), RuntimeError (lz4),
        ``ZstdError`` (zstd).
        """
        return self.fileobj_factory(fileobj, "rb")


def _deflate_file(container: str, fileobj: Any, mode: str, compresslevel: int = 3) -> DeflateFile | InflateFile:
    if mode == "wb":
        return DeflateFile(fileobj, compresslevel, container)
    return InflateFile(fileobj, container)


class Deflate(CompressorWrapper):
    """The record of zlib or gzip. Their small streams need no file object."""

    def __init__(self, container: str, prefix: bytes, extension: str) -> None:
        super().__init__(partial(_deflate_file, container), prefix, extension, partial(inflater, container))
        self._container = container

    def small(self, data: bytes, level: int | None, footer: Callable[[list[tuple[int, ...]]], bytes]) -> bytes:
        """Return the stream of fewer than :data:`SMALL` bytes, with a footer as for ``DeflateFile.finish``."""
        return small_stream(data, 3 if level is None else level, self._container, footer)


def _bz2_file(fileobj: Any, mode: str, compresslevel: int = 9) -> Any:
    return _stdlib("bz2").BZ2File(fileobj, mode, compresslevel=compresslevel)


def _lzma_file(container: str, fileobj: Any, mode: str, compresslevel: int | None = None) -> Any:
    lzma = _stdlib("lzma")
    if mode == "wb":
        return lzma.LZMAFile(fileobj, mode, format=getattr(lzma, container), preset=compresslevel)
    return lzma.LZMAFile(fileobj, mode)


def _stdlib(name: str) -> ModuleType:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(f"the module {name} is not compiled into this Python's standard library") from error


def _lz4_file(fileobj: Any, mode: str, compresslevel: int = 0) -> Any:
    # Checksums of blocks cost next to nothing, and reveal damage before anything is rebuilt from it.
    return _lz4_frame().LZ4FrameFile(fileobj, mode, compression_level=compresslevel, block_checksum=True)


def _lz4_frame() -> Any:
    try:
        import lz4.frame
    except ImportError as error:
        raise ValueError("LZ4 is not installed. Install it with pip: pip install 'shoal[lz4]'") from error
    return lz4.frame


def _zstd_file(fileobj: Any, mode: str, compresslevel: int = 3) -> Any:
    module = _zstandard()
    return module.ZstdFile(fileobj, mode) if mode != "wb" else ZstdWriter(module, fileobj, compresslevel)


def _zstandard() -> Any:
    import importlib

    for name in ("compression.zstd", "backports.zstd"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise ValueError("Zstandard is not installed. Install it with pip: pip install 'shoal[zstd]'")


#: All compressors, by name. `register_compressor` adds to them.
COMPRESSORS: dict[str, CompressorWrapper] = {
    "zlib": Deflate("zlib", b"\x78", ".z"),
    "gzip": Deflate("gzip", b"\x1f\x8b", ".gz"),
    "bz2": CompressorWrapper(_bz2_file, b"BZ", ".bz2", lambda: _stdlib("bz2").BZ2Decompressor()),
    "lzma": CompressorWrapper(
        partial(_lzma_file, "FORMAT_ALONE"), b"\x5d\x00", ".lzma", lambda: _stdlib("lzma").LZMADecompressor()
    ),
    "xz": CompressorWrapper(
        partial(_lzma_file, "FORMAT_XZ"), b"\xfd7zXZ", ".xz", lambda: _stdlib("lzma").LZMADecompressor()
    ),
    "lz4": CompressorWrapper(_lz4_file, b"\x04\x22\x4d\x18", ".lz4", lambda: _lz4_frame().LZ4FrameDecompressor()),
    "zstd": CompressorWrapper(_zstd_file, b"\x28\xb5\x2f\xfd", ".zst", lambda: _zstandard().ZstdDecompressor()),
}


def register_compressor(compressor_name: str, compressor: CompressorWrapper, force: bool = False) -> None:
    """Add a compressor that `dump` and `load` can use.

    Parameters
    ----------
    compressor_name : str
        The name for ``compress=``.
    compressor : CompressorWrapper
        Its ``fileobj_factory`` must be a class of file objects, with ``read``, ``write``, ``seek`` and ``tell``, or be
        None in a subclass that overrides the methods.
    force : bool, default False
        Replace the compressor that has this name, if there is one.

    Raises
    ------
    ValueError
        If an argument is of the wrong type, or the name is taken and `force` is false.

    Notes
    -----
    Thread-safe. It is in effect for the whole process.
    """
    if not isinstance(compressor_name, str):
        raise ValueError(f"the name of a compressor must be a string, not {compressor_name!r}")
    if not isinstance(compressor, CompressorWrapper):
        raise ValueError(f"a compressor must be an instance of CompressorWrapper, not {compressor!r}")
    factory = compressor.fileobj_factory
    missing = [name for name in ("read", "write", "seek", "tell") if not hasattr(factory, name)]
    if factory is not None and missing:
        raise ValueError(
            f"the fileobj_factory of a compressor must be a class of file objects, but {factory!r} has no {missing}"
        )
    if compressor_name in COMPRESSORS and not force:
        raise ValueError(f"a compressor named {compressor_name!r} is registered already; force=True replaces it")
    COMPRESSORS[compressor_name] = compressor


@lru_cache(maxsize=1)
def extensions(*compressors: CompressorWrapper) -> tuple[str, ...]:
    """Return the extensions that these compressors have."""
    return tuple(compressor.extension for compressor in compressors if compressor.extension)


def detect(head: bytes) -> str | None:
    """Return the name of the compressor of a file that begins with `head`; None if the file is not compressed.

    Parameters
    ----------
    head : bytes
        The first bytes of the file, at least as many as the longest prefix has: 6 for the compressors of shoal.
    """
    for name, compressor in COMPRESSORS.items():
        if compressor.prefix and head.startswith(compressor.prefix):
            return name
    return None
