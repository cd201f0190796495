"""The error for what cannot be hashed."""

from __future__ import annotations

import reprlib
from typing import Any

from shoal.errors import HashingError


def refusal(obj: Any, reason: BaseException | str) -> HashingError:
    """Return the error which says that `obj` cannot be hashed, and why."""
    cls = f"{type(obj).__module__}.{type(obj).__qualname__}"
    try:
        what = f"{reprlib.repr(obj)} (of type {cls})"
    except Exception:  # what is broken or half made may not even have a repr
        what = f"an object of type {cls}"
    return HashingError(what, reason if isinstance(reason, str) else f"{type(reason).__name__}: {reason}")
