"""The names of globals in files."""

from __future__ import annotations

import _compat_pickle


def as_named_now(module: str, name: str) -> tuple[str, str]:
    """Return what Python 2 called otherwise."""
    known = _compat_pickle.NAME_MAPPING.get((module, name))
    return known or (_compat_pickle.IMPORT_MAPPING.get(module, module), name)
