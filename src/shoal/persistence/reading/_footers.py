"""The footer of a file: finding it, and comparing the checksum of the pickle before anything is rebuilt from it."""

from __future__ import annotations

import os
from typing import Any

import xxhash

from shoal._arrays import PIECE
from shoal._output import putter
from shoal.errors import DamagedFile, TruncatedFile
from shoal.persistence._format import HEAD, POP, PROTO, STOP, TAIL_BYTES, Footer
from shoal.persistence.compression import read_stored, stream_size


def find_footer(file: Any, name: str, left: int, whole: bool) -> Footer | None:
    """Return the footer at the end of an uncompressed file, if it belongs to the object at the current position.

    Parameters
    ----------
    file
        Can seek; its position is kept.
    name
        The name of the file, for errors.
    left
        The number of bytes from the current position to the end of the file.
    whole
        Whether the file holds nothing but this object. Then a file that announces a footer must have one.

    Returns
    -------
    Footer or None
        None if there is no footer, or if it belongs to a later object in the file.

    Raises
    ------
    DamagedFile, TruncatedFile
        If the footer is damaged or missing.
    """
    here = file.tell()
    try:
        beginning = file.read(len(PROTO) + 1 + len(HEAD))
        file.seek(here + max(left - TAIL_BYTES, 0))
        end = file.read()
        length = Footer.length(end)
        if length is not None and length <= left:
            file.seek(here + left - length)
            footer = Footer.decoded(file.read())
            begin = left - length - footer.start
            if not begin:
                return footer
            if begin > len(PROTO) + 1:  # it may belong to the last of several dumps in the file
                file.seek(here + begin)
                last = file.read(len(PROTO) + 1 + len(HEAD))
                if last.startswith(HEAD, len(PROTO) + 1 if last.startswith(PROTO) else 0):
                    return None
            raise ValueError("the file is longer or shorter than the footer says")
    except ValueError as error:
        raise DamagedFile(name, left, "a footer", f"a damaged one: {error}") from None
    finally:
        file.seek(here)
    if whole and HEAD in beginning:
        if end.endswith(POP + STOP):
            raise DamagedFile(name, left, "a footer", "something else")
        raise TruncatedFile(name, left, "a footer", "0 bytes")
    return None


def compare_before(file: Any, begin: int, name: str, footer: Footer, arrays: bool) -> None:
    """Compute the checksum of the pickle, and of arrays if `arrays` is true, and compare them with a footer.

    Parameters
    ----------
    file
        Can seek; its position is kept.
    begin
        The position of the object.
    name
        The name of the file, for errors.
    footer
        The footer of the object.
    arrays
        Whether the arrays are compared too.

    Raises
    ------
    DamagedFile
        If a checksum differs.
    """
    here, position = file.tell(), 0
    pickled = xxhash.xxh3_64()
    spans: list[tuple[int, Any]] = []  # where each part of the file ends, and its checksum; None to skip it
    for array in footer.arrays:
        spans += [(array.position, pickled), (array.position + array.nbytes, xxhash.xxh3_64() if arrays else None)]
    file.seek(begin)
    for end, checksum in [*spans, (footer.start, pickled)]:
        start = position
        if checksum is None:
            file.seek(begin + end)
            position = end
        while position < end:
            data = file.read(min(end - position, PIECE))
            checksum.update(data)
            position += len(data) or end - position
        if checksum not in (None, pickled):
            footer.compare(name, None, {start: checksum.intdigest()})
    file.seek(here)
    footer.compare(name, pickled.intdigest(), None)


def forget_arrays(file: Any, footer: Footer) -> None:
    """Remove the checksums of arrays from the footer at the end of a file, since the arrays may change from now on.

    Parameters
    ----------
    file
        Can seek and write; its position is kept.
    footer
        The footer.
    """
    if any(array.checksum is not None for array in footer.arrays):
        here = file.tell()
        file.seek(-len(footer.opcodes), os.SEEK_END)
        putter(file)(footer.without_array_checksums())
        file.seek(here)


def stored_footer(file: Any, begin: int, end: int) -> Footer | None:
    """Return the footer that is stored, without compression, at the end of a zlib or gzip stream.

    Return None if there is none, or if it belongs to a later one of several streams in the file.
    """
    try:
        length = Footer.length(read_stored(file, end, TAIL_BYTES, begin) or b"")
        opcodes = None if length is None else read_stored(file, end, length, begin)
        if opcodes is None:
            return None
        footer = Footer.decoded(opcodes)
        head = file.read(2)
        file.seek(begin)
        whole = bool(footer.blocks) and stream_size(head, footer.blocks[-1][0], len(opcodes)) == end - begin
        return footer if whole else None
    except ValueError:  # the footer is damaged, and so is the stream: reading the stream will tell
        return None
