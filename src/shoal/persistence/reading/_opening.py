"""The decompressed contents of a file, for passes over it that rebuild nothing: a dry run, and a look at its footer."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from shoal.persistence._format import Footer
from shoal.persistence.reading._compressed import MOST_BEHIND, Decompressed, decompressed
from shoal.persistence.reading._footers import find_footer
from shoal.persistence.reading._legacy import payload
from shoal.persistence.reading._start import Start


class Contents(NamedTuple):
    """The decompressed contents of a file, from an object on.

    Attributes
    ----------
    stream
        Has ``read`` and ``readinto``.
    head
        The first bytes of the contents, which were already read from `stream`.
    begin
        The position of the object in `stream`; None if that cannot seek.
    left
        The number of bytes from there to the end; None if `stream` cannot seek.
    compressor
        The name of the compressor; None if there is none.
    """

    stream: Any
    head: bytes = b""
    begin: int | None = None
    left: int | None = None
    compressor: str | None = None


@contextmanager
def opened(start: Start, name: str) -> Iterator[Contents]:
    """Open the contents of a file, decompressed if need be.

    Raises
    ------
    CorruptFile
        If compressed data are damaged. Reads from the contents raise it too.
    """
    if start.legacy:
        data = payload(start.file, name)
        yield Contents(io.BytesIO(data), b"", 0, len(data), start.compressor)
    elif start.compressor is not None:
        with decompressed(start, name) as stream:
            yield Contents(stream, compressor=start.compressor)
    elif start.left is None:
        yield Contents(start.file.behind(start.head), start.head)
    else:
        yield Contents(start.file, b"", start.begin, start.left)


def footer_of(start: Start, name: str) -> Footer | None:
    """Return the footer of an object in a file that can seek, without rebuilding anything; None if it has none.

    Raises
    ------
    CorruptFile
        If compressed data, or the footer of a file that is not compressed, are damaged.
    """
    with opened(start, name) as contents:
        stream = contents.stream
        if not isinstance(stream, Decompressed):
            return find_footer(stream, name, contents.left or 0, False)
        if stream.footer is not None:
            return stream.footer
        end = stream.last(MOST_BEHIND)
    length = Footer.length(end)
    if length is None or length > len(end):
        return None
    try:
        return Footer.decoded(end[-length:])
    except ValueError:
        return None
