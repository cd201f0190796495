"""Reads environment variables, several for each run."""

from __future__ import annotations

import os

from shoal._typing import TYPE_CHECKING, overload

if TYPE_CHECKING:
    from typing import Any


@overload
def variable(name: str) -> str | None: ...
@overload
def variable(name: str, default: str) -> str: ...
def variable(name: str, default: str | None = None) -> str | None:
    """Return an environment variable, as ``os.environ.get``, which takes ten times as long if it is not set."""
    environ: Any = os.environ
    try:
        key = _keys.get(name)
        if key is None:
            key = _keys[name] = environ.encodekey(name)
        value = environ._data.get(key)
    except AttributeError:  # another Python, or a test has replaced it by a dictionary
        return os.environ.get(name, default)
    return default if value is None else str(environ.decodevalue(value))


#: The names of variables, as os.environ encodes them.
_keys: dict[str, Any] = {}
