"""What ``Memory`` may be given: wrong values are refused where they are given, and not when a result is looked up."""

from __future__ import annotations

import datetime
import numbers
from collections.abc import Iterable, Mapping
from typing import Any

from shoal._files import parse_size
from shoal.memory.store import Limits

MMAP_MODES = ("r", "r+", "w+", "c")


def checked_mmap_mode(mmap_mode: Any) -> str | None:
    """Return how arrays are mapped.

    Raises
    ------
    ValueError
        If it is no such mode.
    """
    if mmap_mode is None or (isinstance(mmap_mode, str) and mmap_mode in MMAP_MODES):
        return mmap_mode
    raise ValueError(f"mmap_mode={mmap_mode!r} is no way to map arrays: choose one of {', '.join(MMAP_MODES)}, or None")


def checked_verbose(verbose: Any) -> Any:
    """Return how much is printed.

    Raises
    ------
    TypeError
        If it is no number.
    """
    if isinstance(verbose, numbers.Real):
        return verbose
    raise TypeError(f"verbose={verbose!r} ({type(verbose).__name__}) is no number: 0 prints nothing, 1 each call")


def checked_options(options: Any) -> dict[str, Any]:
    """Return the options of a store.

    Raises
    ------
    TypeError
        If they are no dictionary of names.
    """
    if options is None:
        return {}
    if isinstance(options, Mapping) and all(isinstance(name, str) for name in options):
        return dict(options)
    raise TypeError(f"backend_options={options!r:.80} is no dictionary of options, by their names")


def checked_depends(depends: Any) -> tuple[Any, ...]:
    """Return what a function depends on.

    Raises
    ------
    TypeError
        If it is no list.
    """
    if isinstance(depends, str) or not isinstance(depends, Iterable):
        raise TypeError(
            f"depends={depends!r:.80} is no list: name functions, classes or modules, whose source counts, in one"
        )
    return tuple(depends)


def limits_of(bytes_limit: Any, items_limit: Any, age_limit: Any) -> Limits:
    """Return limits from what users give.

    Raises
    ------
    ValueError
        If one is negative, or is no size.
    TypeError
        If `age_limit` is no timedelta, or `items_limit` no int.
    """
    seconds = None
    if age_limit is not None:
        if not isinstance(age_limit, datetime.timedelta):
            raise TypeError(f"age_limit={age_limit!r} is no datetime.timedelta: write timedelta(seconds=...)")
        seconds = age_limit.total_seconds()
        if seconds < 0:
            raise ValueError("age_limit has to be a positive timedelta")
    if items_limit is not None:
        if type(items_limit) is bool or not isinstance(items_limit, numbers.Integral):
            raise TypeError(f"items_limit={items_limit!r} ({type(items_limit).__name__}) is no number of results")
        if items_limit < 0:
            raise ValueError(f"items_limit={items_limit} is negative")
    try:
        if isinstance(bytes_limit, bool):
            raise ValueError(f"{bytes_limit} is no size: give a number of bytes, or a string like '500M'")
        nbytes = None if bytes_limit is None else parse_size(bytes_limit)
    except ValueError as error:
        raise ValueError(f"bytes_limit: {error}") from None
    return Limits(nbytes, items_limit, seconds)
