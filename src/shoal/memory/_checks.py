"""Checks of the arguments of ``Memory``."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from typing import Any


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
