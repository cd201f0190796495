"""Warnings about values that a store cannot keep or read."""

from __future__ import annotations

from shoal._tracebacks import warn
from shoal.errors import CacheWarning


def warn_too_large(function: str, nbytes: int) -> None:
    """Warn that a value is not saved because it alone breaks the limits of its store."""
    warn(
        f"a result of {function} is not kept: it has {nbytes} bytes, which is more than the limit of the cache "
        "allows. Raise the limit, or return less from the function",
        CacheWarning,
    )


def warn_unreadable(path: str, error: Exception) -> None:
    """Warn that a value could not be read. It was removed, unless the system refused to read it."""
    removed = "" if isinstance(error, (OSError, MemoryError)) else "is removed and "
    warn(
        f"{path} cannot be read ({type(error).__name__}: {error}): the result {removed}will be computed again",
        CacheWarning,
    )
