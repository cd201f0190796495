"""Loading a file that is not trusted: a dry run, and, if nothing in the file is refused, the real one.

::

    the file ──> surveyed(): the dry run ──> Trust.found(): imports what is allowed, or refuses the file
                        │ opcodes                     │ globals
                        └──> Woven ──> Input ──> Rebuilder ──> the object
"""

from __future__ import annotations

import io
from typing import Any

import xxhash

from shoal.errors import CorruptFile
from shoal.persistence.reading._compressed import Decompressed
from shoal.persistence.reading._footers import compare_before, find_footer
from shoal.persistence.reading._foreign import foreign_error
from shoal.persistence.reading._input import Input
from shoal.persistence.reading._opening import opened
from shoal.persistence.reading._start import Forwards, Start, start_of
from shoal.persistence.reading._steps import Options, compare_after, mappable, mapping_of, rebuild, warn_of_age
from shoal.persistence.trust._limits import Budget
from shoal.persistence.trust._rebuild import Rebuilder, Woven
from shoal.persistence.trust._survey import Survey, Watched
from shoal.persistence.trust._trust import Trust


def surveyed(start: Start, name: str, max_bytes: int | None, leave: bool = False) -> Survey:
    """Do a dry run over an object. A file that can seek is left where it stands; any other one, behind the object.

    Parameters
    ----------
    start
        The file.
    name
        The name of the file, for errors.
    max_bytes
        The number of bytes that the object may take; None for the default limit.
    leave
        Whether the file is not needed any more: give back the bytes that were read behind the object.

    Returns
    -------
    Survey
        If the dry run could not be completed, its `failure` says why, as long as something else in the file has to be
        reported as well.

    Raises
    ------
    CorruptFile
        If the file is damaged, or is no file of shoal's or joblib's.
    """
    file, left = start.file, start.left
    try:
        if isinstance(file, Forwards):
            file.counted = True
        with opened(start, name) as contents:
            stream = contents.stream
            budget = Budget(name, max_bytes, left, file.count if isinstance(file, Forwards) else None)
            exact = contents.left is None and contents.compressor is None
            survey = Survey(Watched(stream, name, contents.left, budget, contents.head, exact=exact))
            survey.compressor = contents.compressor
            survey.go_through()
            if left is None and survey.failure is None and isinstance(stream, Decompressed):
                stream.leave()
        if leave and isinstance(file, Forwards):
            file.end()
    except CorruptFile as error:
        foreign = foreign_error(error, start)
        if foreign is None:
            raise
        raise foreign from None
    if isinstance(survey.failure, CorruptFile):
        foreign = foreign_error(survey.failure, start)
        if foreign is not None and not survey.notes.globals:
            raise foreign
        survey.failure = foreign or survey.failure
    if left is not None:
        file.seek(start.begin)
    return survey


def load_trusted(start: Start, options: Options, trust: Trust) -> Any:
    """Rebuild an object if the file does nothing but what is trusted, and leave the file behind the object.

    Parameters
    ----------
    start
        The file.
    options
        The arguments of :func:`load`.
    trust
        What the file may import.

    Raises
    ------
    CorruptFile
        If the file is damaged.
    UntrustedFile
        If it would import or do anything that is not trusted.
    """
    name, verify, record = options.name, options.verify, bytearray()
    if isinstance(start.file, Forwards):
        start.file.record = record
    survey = surveyed(start, name, trust.max_bytes)
    found = trust.found(name, survey)
    if isinstance(start.file, Forwards):
        start = start_of(io.BytesIO(record), name)
    with opened(start, name) as contents:
        stream, footer, mmap_mode = contents.stream, None, None
        if start.legacy:
            warn_of_age(name)
        else:
            mmap_mode = mappable(stream, options, compressed=contents.compressor is not None)
        by_blocks = checked = isinstance(stream, Decompressed) and stream.footer is not None
        if isinstance(stream, Decompressed):
            footer = stream.footer
        elif contents.compressor is None and contents.left is not None:
            footer = find_footer(stream, name, contents.left, not options.several)
            if footer is not None and verify is not False:
                compare_before(stream, stream.tell(), name, footer, bool(verify and mmap_mode))
                checked = True
        woven = Woven(survey.opcodes, survey.met, stream, contents.begin, name)
        source = Input(woven, name, woven.size, known=footer)
        source.checked = checked
        if not checked and verify is not False:
            source.checksum = xxhash.xxh3_64()
        sums: dict[int, int] | None = {} if verify or (verify is None and not by_blocks) else None
        mapping = None
        if mmap_mode is not None and not options.several:
            mapping = mapping_of(stream, name, mmap_mode, footer)
        reader = Rebuilder(source, options.native, sums, mapping)
        reader.found, reader.woven = found, woven
        value = rebuild(reader, source)
        if options.several:
            if isinstance(stream, Decompressed):
                stream.leave()
            elif not start.legacy:
                stream.seek(start.begin + source.position)
    compare_after(source, footer, sums, options)
    return value
