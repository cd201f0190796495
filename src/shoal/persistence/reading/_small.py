"""Small files of shoal: read at once, and rebuilt without the machinery that arrays and large files need."""

from __future__ import annotations

import io
import json
import os
import pickle
import stat
import struct
import zlib
from typing import Any

import xxhash

from shoal._platform.files import open_shared
from shoal.persistence._format import (
    HEAD,
    MAGIC,
    POP,
    PROTO,
    PUSH_BYTES,
    STOP,
    TAIL,
    TAIL_BYTES,
    VERSION,
    are_versions,
    differing,
)

#: A file of fewer bytes is small.
SMALL = 2**14
#: A small file that is compressed may contain so many bytes.
MOST_INFLATED = 2**18

#: Returned instead of an object if this module cannot rebuild it, and the general way must.
OTHER: Any = object()

_BEGINNING = PROTO + b"\x05" + HEAD
_END = MAGIC + POP + STOP
_COMPRESSED = b"x", b"\x1f\x8b"  # zlib, gzip
_ARRAYS, _BLOCKS = b',"arrays":[],"versions":', b',"blocks":['

#: The beginning of a footer, and the opcode and the length before it.
_HEAD = b'{"format":%d,"start":%%d,"checksum":%%d' % VERSION
_PUSH = struct.Struct("<BI").pack
_unpack_tail, _digest = TAIL.unpack_from, xxhash.xxh3_64_intdigest

#: The parts of footers with versions that were compared, and are those that are loaded here.
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


def rest_if_small(file: Any) -> bytes | None:
    """Return the rest of a BytesIO if it is small, and leave the file at its end; else None."""
    if type(file) is not io.BytesIO:
        return None
    with file.getbuffer() as view:
        left = view.nbytes - file.tell()
    return file.read() if 0 < left < SMALL else None


def inflated(data: bytes) -> bytes:
    """Return the contents of a zlib or gzip stream; nothing if it is damaged, has more than one stream, or is large."""
    stream = zlib.decompressobj(zlib.MAX_WBITS + 32)  # either format, as its first bytes tell
    try:
        contents = stream.decompress(data, MOST_INFLATED)
    except zlib.error:
        return b""
    return contents if stream.eof and not stream.unused_data else b""


def rebuilt(data: bytes) -> Any:
    """Return the object in a small file.

    Parameters
    ----------
    data
        The contents of the file.

    Returns
    -------
    The object; or OTHER if shoal has not written the file, it is damaged, or compressed in another way than by zlib,
    arrays are outside of the pickle, or other versions of its packages are loaded here.

    Raises
    ------
    Exception
        If a class of the object raises it.
    """
    if not data.startswith(_BEGINNING) and data.startswith(_COMPRESSED):
        data = inflated(data)
    if not (data.startswith(_BEGINNING) and data.endswith(_END)):
        return OTHER
    end = len(data) - TAIL_BYTES
    checksum, size, _ = _unpack_tail(data, end)
    begin = end - size
    start = begin - PUSH_BYTES
    if start < 0:
        return OTHER
    text, opcodes = data[begin:end], data[:start]
    if _digest(text) != checksum or data[start:begin] != _PUSH(66, size + TAIL.size):
        return OTHER
    head = _HEAD % (start, _digest(opcodes))
    if not text.startswith(head):
        return OTHER
    rest, stored = text[len(head) :], None
    versions = rest.rpartition(_BLOCKS)[0]
    if versions not in _agreed:
        stored = json.loads(b"{" + rest[1:])["versions"] if versions.startswith(_ARRAYS) else None
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
