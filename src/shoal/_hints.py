"""The name that was probably meant, for errors about names that do not exist."""

from __future__ import annotations

from shoal._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def nearest(given: object, names: Iterable[object]) -> str | None:
    """Return the name that is spelt most like `given`, whatever its case; None if there is none."""
    import difflib  # takes a millisecond, and only errors need it

    by_lower = {name.lower(): name for name in names if isinstance(name, str)}
    found = difflib.get_close_matches(given.lower(), by_lower, 1) if isinstance(given, str) else []
    return by_lower[found[0]] if found else None


def hint(given: object, names: Iterable[object]) -> str:
    """Return ``"; did you mean 'name'?"`` as the end of a message, or nothing if no name is near."""
    near = nearest(given, names)
    return "" if near is None else f"; did you mean {near!r}?"
