"""``dump`` and ``load`` under joblib's names, and joblib's picklers in Python, which other projects subclass or patch.

::

    dump ──> shoal.dump. If a program has replaced a part of joblib's way here: NumpyPickler, into _write_fileobject
    load ──> shoal.load. If a program has replaced a part: NumpyUnpickler, from _validate_fileobject_and_memmap
"""

from __future__ import annotations

import io
import math
import os
import pickle
from typing import Any, ClassVar

from shoal._tracebacks import warn
from shoal.persistence import _dump
from shoal.persistence._dump import dump as _shoal_dump
from shoal.persistence._load import load as _shoal_load

from .backports import make_memmap
from .compressor import _COMPRESSORS, BinaryZlibFile, register_compressor  # noqa: F401 other projects import it from here
from .numpy_pickle_compat import PYTHON_2, NDArrayWrapper, ZNDArrayWrapper, load_compatibility
from .numpy_pickle_utils import (
    BUFFER_SIZE,
    JOBLIB_MMAPS,
    Pickler,
    Unpickler,
    _ensure_native_byte_order,
    _read_bytes,
    _reconstruct,
    _validate_fileobject_and_memmap,
    _write_fileobject,
)

__all__ = [
    "BUFFER_SIZE",
    "NumpyArrayWrapper",
    "NumpyPickler",
    "NumpyUnpickler",
    "ZNDArrayWrapper",
    "dump",
    "load",
    "load_compatibility",
    "load_temporary_memmap",
    "register_compressor",
]

NUMPY_ARRAY_ALIGNMENT_BYTES = 16


class NumpyArrayWrapper:
    """Represents, in a pickle, the array whose bytes follow it.

    Parameters
    ----------
    subclass, shape, order, dtype
        Those of the array.
    allow_mmap
        Whether the array may be mapped from the file.
    numpy_array_alignment_bytes
        The alignment of the bytes in the file. None: they follow without padding.
    """

    def __init__(
        self,
        subclass: Any,
        shape: tuple[int, ...],
        order: str,
        dtype: Any,
        allow_mmap: bool = False,
        numpy_array_alignment_bytes: int | None = NUMPY_ARRAY_ALIGNMENT_BYTES,
    ) -> None:
        self.subclass = subclass
        self.shape = shape
        self.order = order
        self.dtype = dtype
        self.allow_mmap = allow_mmap
        self.numpy_array_alignment_bytes = numpy_array_alignment_bytes

    def safe_get_numpy_array_alignment_bytes(self) -> int | None:
        """Return the alignment; None also for wrappers of joblib before 1.2, which lack the attribute."""
        return getattr(self, "numpy_array_alignment_bytes", None)

    def write_array(self, array: Any, pickler: Any) -> None:
        """Write the array's bytes to the pickler's file, or a pickle of it if it contains objects."""
        file = pickler.file_handle
        if array.dtype.hasobject:
            pickle.dump(array, file, protocol=5)
            return
        alignment = self.safe_get_numpy_array_alignment_bytes()
        if alignment is not None:
            padding = alignment - (file.tell() + 1) % alignment
            file.write(bytes([padding]) + b"\xff" * padding)
        step = max(16 * 1024**2 // (array.itemsize or 1), 1)
        flags = ["external_loop", "buffered", "zerosize_ok"]
        for chunk in pickler.np.nditer(array, flags=flags, buffersize=step, order=self.order):
            file.write(chunk.tobytes("C"))

    def read_array(self, unpickler: Any, ensure_native_byte_order: bool) -> Any:
        """Read the array from the unpickler's file."""
        np, file = unpickler.np, unpickler.file_handle
        if self.dtype.hasobject:
            inner = Unpickler(file)
            inner.find_class = unpickler.find_class
            array = inner.load()
        else:
            if self.safe_get_numpy_array_alignment_bytes() is not None:
                file.read(file.read(1)[0])
            array = np.empty(self.shape, self.dtype, self.order)
            raw: Any = array.reshape(-1, order=self.order).view(np.uint8) if array.nbytes else ()
            for start in range(0, array.nbytes, BUFFER_SIZE):
                size = min(BUFFER_SIZE, array.nbytes - start)
                raw[start : start + size] = np.frombuffer(_read_bytes(file, size, "array data"), np.uint8)
        return _ensure_native_byte_order(array) if ensure_native_byte_order else array

    def read_mmap(self, unpickler: Any) -> Any:
        """Map the array from the unpickler's file."""
        file = unpickler.file_handle
        begin = file.tell()
        alignment = self.safe_get_numpy_array_alignment_bytes()
        offset = begin if alignment is None else begin + 1 + file.read(1)[0]
        if unpickler.mmap_mode == "w+":
            unpickler.mmap_mode = "r+"
        array = make_memmap(
            unpickler.filename,
            dtype=self.dtype,
            shape=self.shape,
            order=self.order,
            mode=unpickler.mmap_mode,
            offset=offset,
        )
        file.seek(offset + math.prod(self.shape) * self.dtype.itemsize)
        if alignment is None and begin % NUMPY_ARRAY_ALIGNMENT_BYTES:
            warn(
                f"The memmapped array {array} loaded from the file {file.name} is not byte aligned. This may cause "
                "segmentation faults if this memmapped array is used in some libraries like BLAS or PyTorch. To get "
                "rid of this warning, regenerate your pickle file with joblib >= 1.2.0. See "
                "https://github.com/joblib/joblib/issues/563 for more details",
            )
        return array

    def read(self, unpickler: Any, ensure_native_byte_order: bool) -> Any:
        """Return the array: mapped if the unpickler maps arrays and this one allows it, else read."""
        if unpickler.mmap_mode is not None and self.allow_mmap:
            return self.read_mmap(unpickler)
        array = self.read_array(unpickler, ensure_native_byte_order)
        np = unpickler.np
        if self.subclass in (np.ndarray, np.memmap) or not hasattr(array, "__array_prepare__"):
            return array
        return _reconstruct(self.subclass, (0,), "b").__array_prepare__(array)


class NumpyPickler(pickle._Pickler):
    """A pickler in Python that writes the bytes of arrays to the file as they are in memory."""

    proto: Any
    framer: Any
    dispatch: ClassVar[dict[Any, Any]] = Pickler.dispatch.copy()

    def __init__(self, fp: Any, protocol: int | None = None) -> None:
        self.file_handle = fp
        self.buffered: bool = isinstance(fp, BinaryZlibFile)
        super().__init__(fp, protocol=pickle.DEFAULT_PROTOCOL if protocol is None else protocol)
        import numpy as np

        self.np = np

    def _create_array_wrapper(self, array: Any) -> NumpyArrayWrapper:
        flags = array.flags
        alignment: int | None = NUMPY_ARRAY_ALIGNMENT_BYTES
        try:
            self.file_handle.tell()
        except io.UnsupportedOperation:
            alignment = None
        return NumpyArrayWrapper(
            type(array),
            array.shape,
            "F" if flags.f_contiguous and not flags.c_contiguous else "C",
            array.dtype,
            allow_mmap=not self.buffered and not array.dtype.hasobject,
            numpy_array_alignment_bytes=alignment,
        )

    def save(self, obj: Any) -> None:
        """Pickle an object. For an array, pickle a wrapper and write the array's bytes behind it."""
        np = self.np
        if type(obj) not in (np.ndarray, np.matrix, np.memmap):
            Pickler.save(self, obj)
            return
        if type(obj) is np.memmap:
            obj = np.asarray(obj)
        wrapper = self._create_array_wrapper(obj)
        Pickler.save(self, wrapper)
        if self.proto >= 4:  # write the current frame before the array
            self.framer.commit_frame(force=True)
        wrapper.write_array(obj, self)


class NumpyUnpickler(pickle._Unpickler):
    """An unpickler in Python that reads or maps arrays.

    Parameters
    ----------
    filename, file_handle
        The name of the file, and the file.
    ensure_native_byte_order
        Whether arrays are converted to this machine's byte order.
    mmap_mode
        The mode in which arrays are mapped. None: they are read.
    """

    stack: Any
    dispatch: ClassVar[dict[Any, Any]] = Unpickler.dispatch.copy()

    def __init__(
        self, filename: str, file_handle: Any, ensure_native_byte_order: bool, mmap_mode: str | None = None
    ) -> None:
        self._dirname = os.path.dirname(filename)
        self.filename = filename
        self.file_handle = file_handle
        self.mmap_mode = mmap_mode
        self.compat_mode: bool = False
        self.ensure_native_byte_order = ensure_native_byte_order
        super().__init__(file_handle)
        import numpy as np

        self.np = np

    def load_build(self) -> None:
        """Set the state of an object; replace a wrapper by its array."""
        Unpickler.load_build(self)
        top = self.stack[-1]
        if isinstance(top, NDArrayWrapper):
            self.compat_mode = True
            self.stack[-1] = top.read(self)
        elif isinstance(top, NumpyArrayWrapper):
            self.stack[-1] = top.read(self, self.ensure_native_byte_order)

    dispatch[pickle.BUILD[0]] = load_build


def _replaceable() -> tuple[Any, ...]:
    """Return the current values of what other projects replace in this module."""
    return (
        _write_fileobject,
        NumpyPickler,
        NumpyPickler.__init__,
        NumpyPickler.save,
        _validate_fileobject_and_memmap,
        NumpyUnpickler,
        NumpyUnpickler.__init__,
        NumpyUnpickler.load_build,
        NumpyArrayWrapper,
    )


_ORIGINALS = _replaceable()
_IN_DUMP, _IN_LOAD = slice(0, 4), slice(4, None)


def dump(value: Any, filename: Any, compress: Any = 0, protocol: int | None = None) -> list[str] | None:
    """Write an object to a file, as :func:`shoal.dump` does."""
    if _replaceable()[_IN_DUMP] == _ORIGINALS[_IN_DUMP]:
        return _shoal_dump(value, filename, compress, protocol)
    filename = os.fspath(filename) if isinstance(filename, os.PathLike) else filename
    writable = hasattr(filename, "write")
    if not (writable or isinstance(filename, str)):
        raise ValueError(
            f"Second argument should be a filename or a file-like object, {filename} (type {type(filename)}) was given."
        )
    compression = _dump.compression_of(compress, "" if writable else filename)
    if compression is not None:
        with _write_fileobject(filename, compress=compression) as file:
            NumpyPickler(file, protocol=protocol).dump(value)
    elif writable:
        NumpyPickler(filename, protocol=protocol).dump(value)
    else:
        with open(filename, "wb") as file:
            NumpyPickler(file, protocol=protocol).dump(value)
    return None if writable else [filename]


def load(filename: Any, mmap_mode: str | None = None, ensure_native_byte_order: bool | str = "auto") -> Any:
    """Rebuild an object from a file, as :func:`shoal.load` does. A ``BytesIO`` is read from its beginning."""
    if isinstance(filename, io.BytesIO):
        filename.seek(0)
    if _replaceable()[_IN_LOAD] == _ORIGINALS[_IN_LOAD]:
        try:
            return _shoal_load(filename, mmap_mode, ensure_native_byte_order)
        except ValueError as error:
            if isinstance(error.__cause__, UnicodeDecodeError):
                raise ValueError(PYTHON_2) from error.__cause__
            raise
    native = mmap_mode is None if ensure_native_byte_order == "auto" else bool(ensure_native_byte_order)
    if native and mmap_mode is not None:
        raise ValueError(
            "Native byte ordering can only be enforced if 'mmap_mode' parameter is set to None, but got "
            f"'mmap_mode={mmap_mode}' instead."
        )
    if hasattr(filename, "read"):
        return _load_from(filename, getattr(filename, "name", ""), None, native)
    path = os.fspath(filename)
    with open(path, "rb") as file:
        return _load_from(file, path, mmap_mode, native)


def _load_from(file: Any, name: str, mmap_mode: str | None, native: bool) -> Any:
    with _validate_fileobject_and_memmap(file, name, mmap_mode) as (source, mode):
        if isinstance(source, str):
            return load_compatibility(source)
        return _unpickle(source, native, name, mode)


def _unpickle(fobj: Any, ensure_native_byte_order: bool, filename: str = "", mmap_mode: str | None = None) -> Any:
    """Rebuild an object by :class:`NumpyUnpickler`."""
    unpickler = NumpyUnpickler(filename, fobj, ensure_native_byte_order, mmap_mode=mmap_mode)
    try:
        value = unpickler.load()
    except UnicodeDecodeError as error:
        raise ValueError(PYTHON_2) from error
    if unpickler.compat_mode:
        warn(
            f"The file '{filename}' has been generated with a joblib version less than 0.10. Please regenerate this "
            "pickle file.",
            DeprecationWarning,
        )
    return value


def load_temporary_memmap(filename: str, mmap_mode: str | None, unlink_on_gc_collect: bool) -> Any:
    """Map an array from a file that exists only for workers. Results do not refer to such files."""
    array = _shoal_load(filename, mmap_mode)
    JOBLIB_MMAPS.add(array.filename)
    return array
