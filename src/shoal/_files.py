"""What is common to everything that shoal keeps in files."""

from __future__ import annotations

import math

_UNITS = {"": 1, "B": 1}
_UNITS |= {unit + end: 1024**n for n, unit in enumerate("KMGT", 1) for end in ("", "B", "IB")}


def format_size(nbytes: int) -> str:
    """Write bytes as :func:`parse_size` reads them: ``'1.5G'``."""
    size, unit = float(nbytes), ""
    for larger in "KMGT":
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{size:.1f}".removesuffix(".0") + unit


def parse_size(text: int | float | str) -> int:
    """Turn a size such as ``'1.5G'`` into bytes.

    Parameters
    ----------
    text : int, float or str
        Bytes as a number, or a string: a number and a unit, K, M, G or T, which are powers of
        1024. The unit may be lower case, may be followed by B or iB, and may be absent.

    Raises
    ------
    ValueError
        If `text` is no size, or negative.
    """
    try:
        if isinstance(text, str):
            number = text.rstrip("KMGTIBkmgtib \t")
            size = float(number) * _UNITS[text[len(number) :].strip().upper()]
        else:
            size = text
        if not 0 <= size < math.inf:
            raise ValueError
        return int(size)
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{text!r} is no size: give a number of bytes, or a string like '500M'") from None
