"""Small files of shoal: read with one call, and rebuilt without the machinery that arrays and large files need."""

from __future__ import annotations

import json
import os
import pickle
import stat
from typing import Any

import xxhash

from shoal._platform.files import open_shared
from shoal.persistence._format import HEAD, MAGIC, POP, PROTO, STOP, TAIL, TAIL_BYTES, VERSION, are_versions, differing

#: A file of fewer bytes is small.
SMALL = 2**14

#: Returned instead of an object if this module cannot rebuild it, and the general way must.
OTHER: Any = object()

_BEGINNING = PROTO + b"\x05" + HEAD
_END = MAGIC + POP + STOP
_ARRAYS = b',"arrays":[],"versions":'

#: Ends of footers whose versions were compared, and are those that are loaded here.
_agreed: set[bytes] = set()


def read_small(path: str) -> bytes:
    """Return the contents of a regular file if it is small, else its first bytes.

    Raises
    ------
    OSError
        If the file cannot be read.
    """
    fd = open_shared(path, os.O_RDONLY)
    try:
        return os.read(fd, SMALL)
    finally:
        os.close(fd)


def whole_if_small(path: str) -> bytes | None:
    """Return the contents of a file if it is small, regular and can be read; else None."""
    try:
        status = os.stat(path)  # before the file is opened, because a pipe can be opened only once
        if status.st_size >= SMALL or not stat.S_ISREG(status.st_mode):
            return None
        data = read_small(path)
    except OSError:
        return None
    return data if len(data) < SMALL else None


def rebuilt(data: bytes) -> Any:
    """Return the object in a small file.

    Parameters
    ----------
    data
        The contents of the file.

    Returns
    -------
    The object; or OTHER if shoal has not written the file, it is damaged or compressed, arrays are outside of the
    pickle, or other versions of its packages are loaded here.

    Raises
    ------
    Exception
        If a class of the object raises it.
    """
    if not (data.startswith(_BEGINNING) and data.endswith(_END)):
        return OTHER
    checksum, size, _ = TAIL.unpack_from(data, len(data) - TAIL_BYTES)
    begin = len(data) - TAIL_BYTES - size
    text, start = data[begin:-TAIL_BYTES], begin - 5
    if start < 0 or xxhash.xxh3_64_intdigest(text) != checksum:
        return OTHER
    head, _, versions = text.partition(_ARRAYS)
    if head != b'{"format":%d,"start":%d,"checksum":%d' % (VERSION, start, xxhash.xxh3_64_intdigest(data[:start])):
        return OTHER
    if data[start:begin] != b"B" + (size + TAIL.size).to_bytes(4, "little"):
        return OTHER
    stored = None
    if versions not in _agreed:
        stored = json.loads(b'{"versions":' + versions)["versions"]
        if not are_versions(stored):
            return OTHER
    try:
        value = pickle.loads(data)  # imports the packages whose versions are compared
    except ModuleNotFoundError:  # another release of NumPy may have another name for the module
        return OTHER
    if stored is None:
        return value
    unlike, unknown = differing(stored)
    if unlike:
        return OTHER
    if not unknown:
        _agreed.add(versions)
    return value
