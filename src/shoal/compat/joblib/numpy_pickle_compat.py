"""Files of joblib before 0.10, which keeps each array in a file of its own."""

from __future__ import annotations

import io
import os
import pickle
import zlib
from typing import Any, ClassVar

from shoal.persistence.reading import _legacy

from .compressor import _ZFILE_PREFIX
from .numpy_pickle_utils import Unpickler, _ensure_native_byte_order

__all__ = ["NDArrayWrapper", "ZNDArrayWrapper", "ZipNumpyUnpickler", "load_compatibility", "read_zfile", "write_zfile"]

PYTHON_2 = (
    "You may be trying to read with python 3 a joblib pickle generated with python 2. This feature is not supported by "
    "joblib."
)


def hex_str(an_int: int) -> str:
    """Return a number in hexadecimal digits."""
    return f"{an_int:#x}"


_MAX_LEN = len(hex_str(2**64))


def asbytes(s: str | bytes) -> bytes:
    """Return text as bytes."""
    return s if isinstance(s, bytes) else s.encode("latin1")


def read_zfile(file_handle: Any) -> bytes:
    """Return the decompressed contents of a compressed file of joblib before 0.10."""
    file_handle.seek(0)
    return _legacy.payload(file_handle, str(getattr(file_handle, "name", "")))


def write_zfile(file_handle: Any, data: Any, compress: int = 1) -> None:
    """Write a compressed file of joblib before 0.10."""
    raw = asbytes(data)
    length = hex_str(len(raw)).ljust(_MAX_LEN)
    file_handle.write(_ZFILE_PREFIX + asbytes(length) + zlib.compress(raw, compress))


class NDArrayWrapper:
    """Represents an array in a file of its own.

    Parameters
    ----------
    filename
        The name of the file, which is in the folder of the pickle.
    subclass
        The class of the array.
    allow_mmap
        Whether the array may be mapped.
    """

    def __init__(self, filename: str, subclass: Any, allow_mmap: bool = True) -> None:
        self.filename = filename
        self.subclass = subclass
        self.allow_mmap = allow_mmap

    def read(self, unpickler: Any) -> Any:
        """Return the array."""
        return _ensure_native_byte_order(_legacy.read_array(vars(self), unpickler._dirname, unpickler.mmap_mode))


class ZNDArrayWrapper(NDArrayWrapper):
    """Represents an array in a compressed file of its own.

    Parameters
    ----------
    filename
        The name of the file, which is in the folder of the pickle.
    init_args, state
        The arguments and the state that rebuild the array.
    """

    def __init__(self, filename: str, init_args: Any, state: Any) -> None:
        self.filename = filename
        self.init_args = init_args
        self.state = state

    def read(self, unpickler: Any) -> Any:
        """Return the array."""
        return _legacy.read_array(vars(self), unpickler._dirname, None)


class ZipNumpyUnpickler(pickle._Unpickler):
    """Unpickles a compressed file of joblib before 0.10."""

    stack: Any
    dispatch: ClassVar[dict[Any, Any]] = Unpickler.dispatch.copy()

    def __init__(self, filename: str, file_handle: Any, mmap_mode: str | None = None) -> None:
        self._filename = os.path.basename(filename)
        self._dirname = os.path.dirname(filename)
        self.mmap_mode = mmap_mode
        self.file_handle: Any = self._open_pickle(file_handle)
        super().__init__(self.file_handle)

    def _open_pickle(self, file_handle: Any) -> io.BytesIO:
        return io.BytesIO(read_zfile(file_handle))

    def load_build(self) -> None:
        """Set the state of an object; replace a wrapper by its array."""
        Unpickler.load_build(self)
        if isinstance(self.stack[-1], NDArrayWrapper):
            self.stack[-1] = self.stack[-1].read(self)

    dispatch[pickle.BUILD[0]] = load_build


def load_compatibility(filename: str) -> Any:
    """Rebuild an object from a compressed file of joblib before 0.10.

    Raises
    ------
    ValueError
        If Python 2 wrote the file, or it is damaged.
    """
    with open(filename, "rb") as file:
        try:
            return ZipNumpyUnpickler(filename, file).load()
        except UnicodeDecodeError as error:
            raise ValueError(PYTHON_2) from error
