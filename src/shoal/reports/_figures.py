"""Figures as short texts, for people: durations, sizes, factors. All characters are in Latin-1."""

from __future__ import annotations

#: Stands for a value that was not measured.
UNKNOWN = "-"

_LONG = (("d", 86_400), ("h", 3_600), ("min", 60))
_SHORT = (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6), ("ns", 1e-9))
_SIZES = (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3))


def seconds(value: float | None) -> str:
    """Return a duration in seconds with three digits, or in two units: ``"12.3 ms"``, ``"2 h 5 min"``."""
    if value is None:
        return UNKNOWN
    if value < 0:
        return f"-{seconds(-value)}"
    if value < 119.5:
        for unit, size in _SHORT:
            if value >= size * 0.9995:
                return f"{rounded(value / size)} {unit}"
        return "0 s"
    whole = round(value)
    for (unit, size), (smaller, part) in zip(_LONG, (*_LONG[1:], ("s", 1)), strict=True):
        if whole >= 2 * size:
            return f"{whole // size} {unit} {whole % size // part} {smaller}"
    return f"{whole} s"


def size(nbytes: float | None) -> str:
    """Return a number of bytes with three digits: ``"2.4 MB"``. A MB has a million bytes."""
    if nbytes is None:
        return UNKNOWN
    for unit, factor in _SIZES:
        if nbytes >= factor * 0.9995:
            return f"{rounded(nbytes / factor)} {unit}"
    return f"{rounded(nbytes)} B"


def factor(value: float | None) -> str:
    """Return a speedup: ``"1.48×"``."""
    return UNKNOWN if value is None else f"{rounded(value)}×"


def number(value: float | None) -> str:
    """Return a count with separators: ``"1,000,000"``."""
    return UNKNOWN if value is None else f"{value:,}"


def counted(count: int, noun: str, plural: str = "") -> str:
    """Return a count and its noun: ``"1 call"``, ``"2 calls"``. The plural is that with an s, if none is given."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def cut(text: str, most: int) -> str:
    """Return a text of at most `most` characters; three dots stand for a missing end."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def rounded(value: float) -> str:
    """Return three digits, without zeros behind the point; large numbers with all their digits."""
    if value >= 999.5:
        return f"{value:,.0f}"
    return f"{value:.3g}"
