"""For joblib's picklers: byte order, detection of compressors, and opening of files."""

from __future__ import annotations

import contextlib
import io
import pickle
import sys
from collections.abc import Iterator
from typing import Any

from shoal._tracebacks import warn

from .compressor import _COMPRESSORS, _ZFILE_PREFIX

Pickler: Any = pickle._Pickler
Unpickler: Any = pickle._Unpickler
xrange = range

_IO_BUFFER_SIZE = 1024**2
BUFFER_SIZE = 2**18

#: Files of arrays that exist only for workers and that this process has mapped.
JOBLIB_MMAPS: set[str] = set()


def _is_raw_file(fileobj: Any) -> bool:
    return isinstance(getattr(fileobj, "raw", fileobj), io.FileIO)


def _is_numpy_array_byte_order_mismatch(array: Any) -> bool:
    """Tell whether an array, or each field of its records, has the other byte order."""
    other = ">" if sys.byteorder == "little" else "<"
    dtype = array.dtype
    if dtype.byteorder == other:
        return True
    fields: Any = dtype.fields if dtype.byteorder == "|" else None
    return bool(fields) and all(field[0].byteorder == other for field in fields.values())


def _ensure_native_byte_order(array: Any) -> Any:
    """Return an array in this machine's byte order."""
    if _is_numpy_array_byte_order_mismatch(array):
        return array.byteswap().view(array.dtype.newbyteorder("="))
    return array


def _detect_compressor(fileobj: Any) -> str:
    """Return the name of a file's compressor, "compat" for files of joblib before 0.10, or "not-compressed"."""
    longest = max(len(prefix) for prefix in (_ZFILE_PREFIX, *(known.prefix for known in _COMPRESSORS.values())))
    if hasattr(fileobj, "peek"):
        head = fileobj.peek(longest)
    else:
        head = fileobj.read(longest)
        fileobj.seek(0)
    if head.startswith(_ZFILE_PREFIX):
        return "compat"
    return next((name for name, known in _COMPRESSORS.items() if head.startswith(known.prefix)), "not-compressed")


def _buffered_read_file(fobj: Any) -> io.BufferedReader:
    return io.BufferedReader(fobj, buffer_size=_IO_BUFFER_SIZE)


def _buffered_write_file(fobj: Any) -> io.BufferedWriter:
    return io.BufferedWriter(fobj, buffer_size=_IO_BUFFER_SIZE)


@contextlib.contextmanager
def _validate_fileobject_and_memmap(
    fileobj: Any, filename: str, mmap_mode: str | None = None
) -> Iterator[tuple[Any, str | None]]:
    """Give the decompressed file, or its name if joblib before 0.10 wrote it, and the mode in which to map arrays."""
    compressor = _detect_compressor(fileobj)
    if compressor == "compat":
        warn(
            f"The file '{filename}' has been generated with a joblib version less than 0.10. Please regenerate this "
            "pickle file.",
            DeprecationWarning,
        )
        yield filename, mmap_mode
        return
    if compressor in _COMPRESSORS:
        fileobj = _buffered_read_file(_COMPRESSORS[compressor].decompressor_file(fileobj))
    if mmap_mode is not None:
        refusal = None
        if isinstance(fileobj, io.BytesIO):
            refusal = (
                f'In memory persistence is not compatible with mmap_mode "{mmap_mode}" flag passed. mmap_mode option '
                "will be ignored."
            )
        elif compressor != "not-compressed":
            refusal = (
                f'mmap_mode "{mmap_mode}" is not compatible with compressed file {filename}. "{mmap_mode}" flag will '
                "be ignored."
            )
        elif not _is_raw_file(fileobj):
            refusal = f'"{fileobj!r}" is not a raw file, mmap_mode "{mmap_mode}" flag will be ignored.'
        if refusal is not None:
            warn(refusal)
            mmap_mode = None
    yield fileobj, mmap_mode


def _write_fileobject(filename: Any, compress: tuple[Any, Any] = ("zlib", 3)) -> Any:
    """Return a file that compresses its input; with zlib if the method is unknown."""
    method, level = compress
    record = _COMPRESSORS[method if method in _COMPRESSORS else "zlib"]
    return _buffered_write_file(record.compressor_file(filename, compresslevel=level))


def _read_bytes(fp: Any, size: int, error_template: str = "ran out of data") -> bytes:
    """Read `size` bytes; raises ValueError if the file has fewer."""
    data = b""
    while len(data) < size:
        with contextlib.suppress(io.BlockingIOError):
            part = fp.read(size - len(data))
            if not part:
                raise ValueError(f"EOF: reading {error_template}, expected {size} bytes got {len(data)}")
            data += part
    return data


def _reconstruct(*args: Any, **kwargs: Any) -> Any:
    """Make an empty array by the function that numpy's pickles call."""
    import numpy

    core: Any = numpy._shoal_name if hasattr(numpy, "_shoal_name") else numpy.core
    return core.multiarray._reconstruct(*args, **kwargs)
