"""The error for what cannot be hashed."""

from __future__ import annotations

import reprlib
from typing import Any

from shoal.errors import HashingError


def refusal(obj: Any, reason: BaseException | str) -> HashingError:
    """Return the error which says that `obj` cannot be hashed, and why."""
    # reprlib, since it is short, and survives a __repr__ that fails
    what = f"{reprlib.repr(obj)} (of type {type(obj).__module__}.{type(obj).__qualname__})"
    return HashingError(what, reason if isinstance(reason, str) else f"{type(reason).__name__}: {reason}")
