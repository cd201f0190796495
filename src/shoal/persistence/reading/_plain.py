"""Loading a file that is not compressed, and files of joblib before 0.10 that are compressed as a whole.

::

    can seek       ──> the footer ──> the checksum of the pickle ──> Input ──> Reader; arrays read, or mapped
    cannot seek    ──────────────────────────────────────────────> Input ──> Reader ──> checksums

In a file of more than 1 MB, the checksum is compared when that is necessary: see :meth:`Input.check`. So large strings,
as long as nothing else comes, are read once.
"""

from __future__ import annotations

import io
from functools import partial
from typing import Any

import xxhash

from shoal.persistence._format import Footer
from shoal.persistence.reading._footers import compare_before, find_footer
from shoal.persistence.reading._input import Input
from shoal.persistence.reading._legacy import payload
from shoal.persistence.reading._reader import Reader
from shoal.persistence.reading._start import Start
from shoal.persistence.reading._steps import Options, compare_after, mappable, mapping_of, rebuild, warn_of_age

#: A file of at most this many bytes is read once, as a whole, to be both checked and rebuilt.
WHOLE = 2**20


def load_plain(start: Start, options: Options) -> Any:
    """Rebuild an object from a file that is not compressed, and leave the file behind the object.

    Parameters
    ----------
    start
        The file.
    options
        The arguments of :func:`load`.

    Raises
    ------
    CorruptFile
        If the file is damaged.
    """
    file, left, name, verify = start.file, start.left, options.name, options.verify
    footer: Footer | None = None
    if left is None:
        file = file.behind(start.head)
    mmap_mode = None if options.mmap_mode is None else mappable(file, options)
    if left is None:
        source = Input(file, name, None, start.head, exact=True)
    else:
        data = file.read(left) if left <= WHOLE else b""
        stream = io.BytesIO(data) if left <= WHOLE else file
        footer = find_footer(stream, name, left, not options.several)
        source = Input(file, name, left, data, known=footer)
        if footer is not None and verify is not False:
            source.compare = partial(compare_before, stream, stream.tell(), name, footer, bool(verify and mmap_mode))
            if data or mmap_mode:
                source.check()
    if not source.checked and verify is not False:
        source.checksum = xxhash.xxh3_64()
    sums: dict[int, int] | None = None if verify is False else {}
    mapping = None
    if mmap_mode is not None and not options.several:
        mapping = mapping_of(file, name, mmap_mode, footer)
    reader = Reader(source, options.native, sums, mapping, mmap_mode)
    value = rebuild(reader, source)
    if source.before_footer is None:  # damage may have ended the object too soon
        source.check()
    if reader.legacy:
        warn_of_age(name)
    if options.several and left is not None:
        file.seek(start.begin + source.position)
    compare_after(source, footer, sums, options)
    return value


def load_legacy(start: Start, options: Options) -> Any:
    """Rebuild an object from a file that joblib before 0.10 has compressed, and warn of its age.

    Parameters
    ----------
    start
        The file.
    options
        The arguments of :func:`load`.

    Raises
    ------
    CorruptFile
        If the file is damaged.
    """
    data = payload(start.file, options.name)
    warn_of_age(options.name)
    source = Input(io.BytesIO(data), options.name, len(data))
    sums: dict[int, int] | None = None
    if options.verify is not False:
        source.checksum, sums = xxhash.xxh3_64(), {}
    value = rebuild(Reader(source, options.native, sums), source)
    compare_after(source, None, sums, options)
    return value
