"""Files of joblib before 0.10, whose arrays are in files of their own, beside the pickle.

::

    model.pkl            a pickle, in which an NDArrayWrapper names model.pkl_01.npy
    model.gz             "ZF", the length of what follows in hexadecimal digits, zlib's stream of a pickle, in which a
                         ZNDArrayWrapper names model.gz_01.npy.z, which begins with "ZF" too
"""

from __future__ import annotations

import os
import zlib
from typing import Any

from shoal.errors import DamagedFile, TruncatedFile

#: The first bytes of a file, or of an array, that is compressed.
PREFIX = b"ZF"
#: The classes of the objects in the pickle that name the files of arrays.
WRAPPERS = ("NDArrayWrapper", "ZNDArrayWrapper")

_LENGTH_DIGITS = len(hex(2**64))
_STEP = 2**20


def read_array(state: dict[str, Any], folder: str, mmap_mode: str | None) -> Any:
    """Return the array that a wrapper names, read or mapped from its file.

    Parameters
    ----------
    state
        The attributes of the wrapper.
    folder
        The folder of the pickle.
    mmap_mode
        As for :func:`shoal.load`.

    Raises
    ------
    CorruptFile, OSError
        If the file of the array is damaged or missing.
    """
    import numpy as np

    path = os.path.join(folder, os.path.basename(state["filename"]))
    if "init_args" not in state:
        mmap_mode = mmap_mode if state.get("allow_mmap", True) else None
        return np.load(path, mmap_mode=mmap_mode, allow_pickle=True)  # type: ignore[arg-type]
    with open(path, "rb") as file:
        data = payload(file, path)
    kind, *rest = state["init_args"]
    array = np.ndarray.__new__(kind, *rest)
    array.__setstate__((*state["state"], data))
    return array


def of_python_2(name: str) -> ValueError:
    """Return the error to raise for a file whose strings cannot be decoded."""
    return ValueError(
        f"{name or 'The stream'} seems to be written by Python 2, whose strings cannot be told from bytes. "
        "Load it with Python 2, and write the object in another format"
    )


def payload(file: Any, name: str) -> bytes:
    """Return the decompressed contents of a file that stands at :data:`PREFIX`.

    Raises
    ------
    CorruptFile
        If the file is damaged, or has more or fewer bytes than it says.
    """
    header = file.read(len(PREFIX) + _LENGTH_DIGITS)
    try:
        length = int(header[len(PREFIX) :], 16)
    except ValueError:
        raise DamagedFile(name, len(PREFIX), "a length in hexadecimal digits", repr(header[len(PREFIX) :])) from None
    data, inflater = bytearray(), zlib.decompressobj()
    compressed = file.read(_STEP).lstrip(b" ")  # joblib 0.8 has written one more blank
    while compressed and len(data) <= length:
        try:
            data += inflater.decompress(compressed)
        except zlib.error as error:
            raise DamagedFile(name, len(data), "a zlib stream", str(error)) from None
        compressed = file.read(_STEP)
    if len(data) != length:
        raise TruncatedFile(name, len(data), f"{length} bytes", f"{len(data)}")
    return bytes(data)
