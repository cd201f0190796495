"""Values as short texts. No ``__repr__`` of the user's classes is called, because it may be slow or fail."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

#: The number of characters that a text has at most, and that one value in it has at most.
MOST, MOST_OF_ONE = 160, 60
_ITEMS = 3


def shown_arguments(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """Return the arguments of a call as a text of at most :data:`MOST` characters. It raises nothing."""
    try:
        parts = [shown(arg) for arg in args[:8]]
        parts += [f"{name}={shown(value)}" for name, value in list(kwargs.items())[:8]]
        if len(args) > 8 or len(kwargs) > 8:
            parts.append("...")
        return _cut(", ".join(parts), MOST)
    except Exception:  # such as an attribute `shape` that raises
        return "?"


def shown(value: Any, depth: int = 2) -> str:
    """Return a value as a text of at most :data:`MOST_OF_ONE` characters."""
    kind = type(value)
    if kind in (str, bytes, bytearray):
        return _cut(repr(value[:MOST_OF_ONE]), MOST_OF_ONE)
    if kind is int:
        return repr(value) if value.bit_length() < 200 else f"<int of {value.bit_length()} bits>"
    if value is None or kind in (bool, float, complex):
        return repr(value)
    if kind in (list, tuple, set, frozenset, dict):
        return _cut(_container(value, kind, depth), MOST_OF_ONE)
    if isinstance(value, os.PathLike) and kind.__module__ in ("pathlib", "pathlib._local"):
        return _cut(f"{kind.__name__}({str(value)!r})", MOST_OF_ONE)
    name = getattr(value, "__qualname__", None)
    if callable(value) and type(name) is str:
        return _cut(name, MOST_OF_ONE)
    return _cut(_sized(value, kind), MOST_OF_ONE)


def _container(value: Any, kind: type, depth: int) -> str:
    if not value:
        return repr(value)
    if depth <= 0:
        return f"<{kind.__name__} of {len(value)}>"
    some = [item for _, item in zip(range(_ITEMS), value, strict=False)]
    if kind is dict:
        parts = [f"{shown(key, 0)}: {shown(value[key], depth - 1)}" for key in some]
    else:
        parts = [shown(item, depth - 1) for item in some]
    if len(value) > _ITEMS:
        parts.append(f"... {len(value)} in all")
    left, right = "[]" if kind is list else "()" if kind is tuple else "{}"
    return f"{left}{', '.join(parts)}{right}"


def _sized(value: Any, kind: type) -> str:
    """Return the name of a type; for arrays and tables, also their shape and dtype."""
    if kind.__module__.partition(".")[0] not in ("numpy", "pandas", "scipy", "polars", "torch"):
        return f"<{kind.__qualname__}>"
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if shape == ():
        return str(value)
    if type(shape) is not tuple:
        return f"<{kind.__qualname__}>"
    sizes = " x ".join(str(size) for size in shape if isinstance(size, int) and math.isfinite(size))
    return f"<{kind.__qualname__} {sizes}{'' if dtype is None else f' {dtype}'}>"


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."


def shown_error(error: BaseException) -> str:
    """Return the type of an exception and its message, or its arguments if they are not one plain string."""
    args = error.args
    plain = len(args) == 1 and type(args[0]) is str
    text = args[0] if plain else ""
    if not text and type(error).__module__ == "shoal.errors":
        text = str(error)
    elif not plain:
        text = shown_arguments(args, {})
    return _cut(f"{type(error).__name__}: {text}" if text else type(error).__name__, MOST)
