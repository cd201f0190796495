"""The layout of zlib and gzip streams: blocks, the container around them, and the footer behind them.

It is one standard stream with one member, which any reader of zlib or gzip reads::

    ┌────────┬─────────┬─────────┬─────┬──────────────────────────────┬─────────┐
    │ header │ block 0 │ block 1 │ ... │ stored: the footer, verbatim │ trailer │
    └────────┴─────────┴─────────┴─────┴──────────────────────────────┴─────────┘
      zlib 2   768 KiB each, raw deflate   5 bytes, then up to 65,535     zlib 4: adler32 of all
      gzip 10  and a full flush: it ends  of it, as often as needed;     gzip 8: crc32 of all,
               on a byte, and nothing in  the first piece is the one     and their number
               it refers to another one   that is not full

So each block can be inflated independently, and the footer can be read from the end of the file before anything is
inflated. The checksum and the size in the trailer cover the data of the blocks, and the footer.
Formats: RFC 1950 (zlib), 1951 (deflate) and 1952 (gzip).
"""

from __future__ import annotations

import importlib
import os
import struct
import zlib
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

# The most bytes that a stored piece can have by the format, and the size of its header, in bytes.
_STORED, _STORED_HEADER = 0xFFFF, 5

TRUNCATED = "the compressed data end before the end of the stream"


def _found(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


#: The zlib modules of ISA-L and of zlib-ng; None if they are not installed.
isal, zlib_ng = _found("isal.isal_zlib"), _found("zlib_ng.zlib_ng")


def fastest() -> ModuleType:
    """Return the module that inflates and computes checksums fastest: ISA-L's if it is installed, else zlib."""
    return zlib if isal is None else isal


class Container(NamedTuple):
    """The bytes around the blocks of a zlib or gzip stream."""

    wbits: int  # the argument of zlib's functions
    header: Callable[[int], bytes]  # returns the header, given the level
    checksum: str  # the name of the function that computes it
    trailer: Callable[[int, int], bytes]  # returns the trailer, given the checksum and the number of bytes
    trailer_size: int


def _zlib_header(level: int) -> bytes:
    # The second byte encodes the level, and makes both bytes a multiple of 31, as RFC 1950 demands.
    return b"\x78" + (b"\x01" if level < 2 else b"\x5e" if level < 6 else b"\x9c" if level == 6 else b"\xda")


def _gzip_header(level: int) -> bytes:
    # Without name and time, so that equal data make equal files; the system is "unknown".
    return (
        b"\x1f\x8b\x08\x00\x00\x00\x00\x00" + (b"\x02" if level == 9 else b"\x04" if level < 2 else b"\x00") + b"\xff"
    )


CONTAINERS = {
    "zlib": Container(zlib.MAX_WBITS, _zlib_header, "adler32", lambda check, _: struct.pack(">I", check), 4),
    "gzip": Container(
        zlib.MAX_WBITS + 16,
        _gzip_header,
        "crc32",
        lambda check, size: struct.pack("<II", check, size & 0xFFFFFFFF),
        8,
    ),
}


def stored(footer: bytes) -> bytes:
    """Return `footer` as stored blocks, which end a deflate stream. The first may be short; all others are full."""
    first = len(footer) % _STORED or min(len(footer), _STORED)
    pieces = []
    for start in range(first - _STORED, len(footer), _STORED):
        piece = footer[max(start, 0) : start + _STORED]
        final = start + _STORED >= len(footer)
        pieces += [struct.pack("<BHH", final, len(piece), len(piece) ^ 0xFFFF), piece]
    return b"".join(pieces)


def stream_size(head: bytes, end_of_blocks: int, footer: int) -> int:
    """Return the size of a stream in bytes, given its first two bytes, the end of its blocks, and its footer's size."""
    return end_of_blocks + footer + -(-footer // _STORED) * _STORED_HEADER + container_of(head).trailer_size


def read_stored(file: Any, end: int, nbytes: int, start: int = 0) -> bytes | None:
    """Return the last `nbytes` bytes of the footer of a stream of `DeflateFile`, without inflating anything.

    Parameters
    ----------
    file : file object
        Seekable; its position is kept.
    end : int
        The position in `file` behind the trailer of the stream.
    nbytes : int
        The number of bytes, at most that of the footer.
    start : int, default 0
        The position in `file` where the stream begins.

    Returns
    -------
    bytes or None
        None if `file` is too short, or has no zlib or gzip stream at `start`, or no stored blocks where a footer would
        have them. Only the bytes themselves tell whether they are a footer, so a footer should end with a mark that
        can be recognised.
    """
    position = file.tell()
    try:
        file.seek(start)
        container = container_of(read_exactly(file, 2))
        here = end - container.trailer_size
        pieces: list[bytes] = []
        missing = nbytes
        while missing > 0:
            size = min(missing, _STORED)
            header = _STORED_HEADER if missing > _STORED else 0
            here -= size + header
            if here < start + len(container.header(0)):
                return None
            file.seek(here)
            piece = read_exactly(file, size + header)
            if header and piece[:header] != struct.pack("<BHH", not pieces, _STORED, 0):
                return None
            pieces.append(piece[header:])
            missing -= size
        return b"".join(reversed(pieces))
    except (EOFError, zlib.error):
        return None
    finally:
        file.seek(position)


def container_of(head: bytes) -> Container:
    """Return the container of a stream that begins with these two bytes; raise zlib.error if it is not zlib or gzip."""
    if head[:1] == b"\x78":
        return CONTAINERS["zlib"]
    if head == b"\x1f\x8b":
        return CONTAINERS["gzip"]
    raise zlib.error("neither a zlib nor a gzip stream")


def read_exactly(file: Any, size: int) -> bytes:
    """Return the next `size` bytes of a file; raise EOFError if it has fewer."""
    data: bytes = file.read(size)
    while len(data) < size:
        more = file.read(size - len(data))
        if not more:
            raise EOFError(TRUNCATED)
        data += more
    return data


def opened(fileobj: Any, mode: str) -> tuple[Any, bool]:
    """Return a file object for a path or a file object, and whether the caller must close it.

    Raises
    ------
    TypeError
        If `fileobj` is neither a path nor an object with ``read`` or ``write``.
    """
    if isinstance(fileobj, (str, bytes, os.PathLike)):
        return open(fileobj, mode), True
    if not hasattr(fileobj, "write" if mode == "wb" else "read"):
        action = "written to" if mode == "wb" else "read from"
        raise TypeError(f"{fileobj!r} cannot be {action}: pass a path, or a file object that is opened for it")
    return fileobj, False
