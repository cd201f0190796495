"""Which modules and files are the user's own project, and which belong to installed packages."""

from __future__ import annotations

import functools
import os
import sys
import sysconfig
import types
from typing import Any

_INSTALLED = frozenset({"site-packages", "dist-packages"})


def is_own_code(function: types.FunctionType) -> bool:
    """Return whether a function was written in the user's project."""
    return _is_own(function.__code__.co_filename, getattr(function, "__module__", None) or "")


def is_own_module(name: str) -> bool:
    """Return whether a module is of the user's project."""
    if name == "__main__":
        return True
    module = sys.modules.get(name)
    file = getattr(module, "__file__", None)
    if file is None:  # a package without __init__.py, or a module that is built in
        return any(isinstance(path, str) and _is_own(path, name) for path in getattr(module, "__path__", ()))
    return isinstance(file, str) and _is_own(file, name)


def _is_own(file: str, module: str) -> bool:
    if module.partition(".")[0] in ("shoal", "joblib"):
        return False
    if file.startswith("<"):  # exec() has compiled it: a prompt, a cell or a doctest, or code that a decorator has made
        return file.startswith(("<ipython", "<doctest")) or (module == "__main__" and file in ("<stdin>", "<string>"))
    return _is_own_file(file)


@functools.lru_cache(4096)
def _is_own_file(file: str) -> bool:
    for path in {os.path.abspath(file), os.path.realpath(file)}:
        if _INSTALLED & set(path.split(os.sep)) or path.startswith(_library()):
            return False
    return True


@functools.lru_cache(1)
def _library() -> tuple[str, ...]:
    """Return the folders of Python's own modules."""
    paths = sysconfig.get_paths()
    found = {paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    return tuple(path + os.sep for one in found for path in (one, os.path.realpath(one)))


@functools.lru_cache(256)
def version_of_package(package: str) -> str | None:
    """Return the version of an installed package; None for modules of Python, and for those without a version."""
    if package in sys.stdlib_module_names or package in ("shoal", "joblib"):
        return None
    version: Any = getattr(sys.modules.get(package), "__version__", None)
    if isinstance(version, str):
        return version
    from importlib import metadata  # slow to import, and rarely needed

    try:
        return metadata.version(package)
    except (metadata.PackageNotFoundError, ValueError):
        return None
