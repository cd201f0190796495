"""``mp``: the module multiprocessing if worker processes can be used, else None."""

from __future__ import annotations

from typing import Any

from shoal.backends import has_processes

mp: Any = None
assert_spawning: Any = None
if has_processes():
    try:
        import _multiprocessing  # type: ignore[import-not-found] # noqa: F401 pools need it
        import multiprocessing as mp
        from multiprocessing.context import assert_spawning
    except ImportError:
        mp = assert_spawning = None

__all__ = ["assert_spawning", "mp"]
