"""Checks of the arguments of ``Memory``."""

from __future__ import annotations

import datetime
import numbers
from collections.abc import Mapping
from typing import Any

from shoal._sizes import parse_size


def checked_mmap_mode(mmap_mode: Any) -> str | None:
    """Return the mode of mapped arrays, or raise ValueError."""
    if mmap_mode is None or (isinstance(mmap_mode, str) and mmap_mode in ("r", "r+", "w+", "c")):
        return mmap_mode
    raise ValueError(f"mmap_mode={mmap_mode!r} is not a mode for mapped arrays: use one of r, r+, w+, c, or None")


def checked_verbose(verbose: Any) -> Any:
    """Return the level of verbosity, or raise TypeError."""
    if isinstance(verbose, numbers.Real):
        return verbose
    raise TypeError(f"verbose={verbose!r} ({type(verbose).__name__}) is not a number: 0 prints nothing, 1 each call")


def checked_options(options: Any) -> dict[str, Any]:
    """Return the options of a store as a dictionary, or raise TypeError."""
    if options is None:
        return {}
    if isinstance(options, Mapping) and all(isinstance(name, str) for name in options):
        return dict(options)
    raise TypeError(f"backend_options={options!r:.80} is not a dictionary of options by name")


def checked_limits(bytes_limit: Any, items_limit: Any, age_limit: Any) -> tuple[int | None, int | None, float | None]:
    """Return the limits that a user passes, in bytes, items and seconds, or raise ValueError or TypeError."""
    seconds = None
    if age_limit is not None:
        if not isinstance(age_limit, datetime.timedelta):
            raise TypeError(f"age_limit={age_limit!r} is not a datetime.timedelta: write timedelta(seconds=...)")
        seconds = age_limit.total_seconds()
        if seconds < 0:
            raise ValueError("age_limit has to be a positive timedelta")
    if items_limit is not None:
        if type(items_limit) is bool or not isinstance(items_limit, numbers.Integral):
            kind: str = type(items_limit).__name__
            raise TypeError(f"items_limit={items_limit!r} ({kind}) is not a number of results: pass an int")
        if items_limit < 0:
            raise ValueError(f"items_limit={items_limit} is negative: pass 0 or more")
    try:
        if isinstance(bytes_limit, bool):
            raise ValueError(f"{bytes_limit} is not a size: pass a number of bytes, or a text such as '500M'")
        nbytes = None if bytes_limit is None else parse_size(bytes_limit)
    except ValueError as error:
        raise ValueError(f"bytes_limit: {error}") from None
    return nbytes, items_limit, seconds
