"""Small files: read as a whole, by one call, and rebuilt without what large ones and arrays need."""

from __future__ import annotations

import json
import os
import pickle
import stat
from typing import Any

import xxhash

from shoal.persistence._format import HEAD, MAGIC, POP, PROTO, STOP, TAIL, TAIL_BYTES, VERSION, are_versions, differing

#: Files of fewer bytes are small.
SMALL = 2**14

#: What is returned in the place of an object if it takes more than this module to rebuild it.
OTHER: Any = object()

_BEGINNING = PROTO + b"\x05" + HEAD
_END = MAGIC + POP + STOP
_ARRAYS = b',"arrays":[],"versions":'
_OPEN = os.O_RDONLY | getattr(os, "O_BINARY", 0)

#: The ends of footers whose versions are those that are loaded here.
_agreed: set[bytes] = set()


def read_small(path: str) -> bytes:
    """Return what a regular file holds, if it is small, else its first bytes.

    Raises
    ------
    OSError
        If it cannot be read.
    """
    fd = os.open(path, _OPEN)
    try:
        return os.read(fd, SMALL)
    finally:
        os.close(fd)


def whole_if_small(path: str) -> bytes | None:
    """Return what a regular file holds if it is small and can be read, else None."""
    try:
        status = os.stat(path)  # before it is opened: a pipe can be opened only once
        if status.st_size >= SMALL or not stat.S_ISREG(status.st_mode):
            return None
        data = read_small(path)
    except OSError:
        return None
    return data if len(data) < SMALL else None


def rebuilt(data: bytes) -> Any:
    """Return the object that a whole file holds.

    Parameters
    ----------
    data
        The file.

    Returns
    -------
    The object; OTHER unless it is a file of shoal's, whole, not compressed, without arrays outside of the pickle, and
    its versions are those that are loaded.

    Raises
    ------
    Exception
        Whatever its classes raise.
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
        value = pickle.loads(data)  # loads the packages that are compared
    except ModuleNotFoundError:  # NumPy may have given it another name
        return OTHER
    if stored is None:
        return value
    unlike, unknown = differing(stored)
    if unlike:
        return OTHER
    if not unknown:
        _agreed.add(versions)
    return value
