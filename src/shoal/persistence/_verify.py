# Tested in tests/cli/test_cli_cache.py.
"""``verify``: the checksums of a file, compared with its contents without rebuilding anything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import xxhash

from shoal._arrays import PIECE
from shoal.errors import TruncatedFile
from shoal.persistence._format import Footer
from shoal.persistence.reading._footers import compare_before, find_footer
from shoal.persistence.reading._opening import footer_of, opened
from shoal.persistence.reading._start import start_of


def verify(file: Any, name: str) -> bool:
    """Compare all checksums of a file, those of its arrays too, with what the file contains.

    Nothing is unpickled, and nothing is imported or run. At most a few MB are in memory at a time.

    Parameters
    ----------
    file : file object
        A binary file that can seek, and stands at the object. It contains nothing else.
    name : str
        Its name, for errors.

    Returns
    -------
    bool
        False if there are no checksums, because joblib or a user's own code has written the file. Then nothing was
        compared, unless the format of the compressor has a checksum.

    Raises
    ------
    CorruptFile
        If a checksum differs, the file ends too soon or is empty, or compressed data are damaged.
    """
    start = start_of(file, name)
    if start.compressor is None:
        footer = find_footer(file, name, start.left or 0, whole=True)
        if footer is not None:
            compare_before(file, file.tell(), name, footer, arrays=True)
        return footer is not None
    footer = footer_of(start, name)
    if footer is None:
        return False
    file.seek(start.begin)
    if start.compressor in ("zlib", "gzip"):
        # As if the file could not seek: then the stream is read as other programs read it, and not by shoal's table.
        start = start._replace(left=None)
    with opened(start, name) as contents:
        _compare(contents.stream.read, name, footer)
        while contents.stream.read(PIECE):  # the end of the stream has a checksum too
            pass
    return True


def _compare(read: Callable[[int], bytes], name: str, footer: Footer) -> None:
    """Compare the checksums of a stream that cannot seek."""
    pickled, sums, position = xxhash.xxh3_64(), {}, 0
    spans: list[tuple[int, bool]] = []  # where each part ends, and whether it is an array
    for array in footer.arrays:
        spans += [(array.position, False), (array.position + array.nbytes, True)]
    for end, is_array in [*spans, (footer.start, False)]:
        begin, checksum = position, xxhash.xxh3_64() if is_array else pickled
        while position < end:
            data = read(min(end - position, PIECE))
            if not data:
                raise TruncatedFile(name, position, f"{end - position} bytes", "0 bytes")
            checksum.update(data)
            position += len(data)
        if is_array:
            sums[begin] = checksum.intdigest()
    footer.compare(name, pickled.intdigest(), sums)
