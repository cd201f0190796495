"""Sizes and durations as text: '1.5G', '3 d'."""

from __future__ import annotations

import math

_UNITS = {"": 1, "B": 1}
_UNITS |= {unit + end: 1024**n for n, unit in enumerate("KMGT", 1) for end in ("", "B", "IB")}


def format_size(nbytes: int) -> str:
    """Return a number of bytes as a text that :func:`parse_size` reads: ``'1.5G'``."""
    size, unit = float(nbytes), ""
    for larger in "KMGT":
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{size:.1f}".removesuffix(".0") + unit


def parse_size(text: int | float | str) -> int:
    """Return the number of bytes of a size such as ``'1.5G'``.

    Parameters
    ----------
    text : int, float or str
        A number of bytes, or a string of a number and a unit: K, M, G or T, which are powers of 1024. The unit may be
        lower case, may be followed by B or iB, and may be absent.

    Raises
    ------
    ValueError
        If `text` is not a size, or is negative.
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
        raise ValueError(f"{text!r} is not a size: pass a number of bytes, or a string such as '500M'") from None


def format_duration(seconds: float) -> str:
    """Return a duration as a short text: ``"3 d"``, ``"12 s"``, ``"250 ms"``."""
    if not math.isfinite(seconds):  # the metadata of a result may claim any number
        return f"{seconds} s"
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    if seconds >= 10:
        return f"{int(seconds)} s"
    for unit, part in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= part:
            return f"{seconds / part:.3g} {unit}"
    return f"{max(seconds, 0) * 1e6:.3g} µs"
