"""The state of the program that warm workers must follow: search path, working folder, variables, the user's modules.

::

    Pool.open ── current() ──> Surroundings ── of each turn ──> Worker: same as those of the process?
                                                                 ├─ yes: nothing to do (nearly always)
                                                                 ├─ the search path, the working folder or a variable
                                                                 │  has changed: follow(...) is sent first
                                                                 └─ a module of the user has changed: a new process
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
from collections.abc import Mapping
from importlib.machinery import PathFinder
from typing import Any, NamedTuple

from shoal.backends._bootstrap import set_variables


class Surroundings(NamedTuple):
    """The state of a program that its workers follow."""

    path: tuple[str, ...]
    cwd: str | None  # None if the working folder was removed
    variables: Mapping[Any, Any]  # in the encoding of os.environ
    #: The user's modules: the id of the specification, which a reload replaces, and the modification time of the file.
    modules: Mapping[str, tuple[int, int]]
    specifications: tuple[Any, ...]  # kept alive, so that their ids are not reused
    number: int = 0  # increases with each change


_latest = Surroundings((), None, {}, {}, ())
#: The number of imported modules when this was computed, and the names of the user's modules among them.
_modules: tuple[int, list[str]] = (0, [])


def current() -> Surroundings:
    """Return the current surroundings; the same object until they change. Thread-safe."""
    global _latest
    # os.environ.copy() decodes every variable, which takes 100 times as long.
    variables: Mapping[Any, Any] = os.environ._data.copy()  # type: ignore[attr-defined]
    latest = _latest
    now = Surroundings(tuple(sys.path), working_folder(), variables, *_versions(), latest.number)
    if now != latest:
        latest = _latest = now._replace(number=latest.number + 1)
    return latest


def working_folder() -> str | None:
    """Return the working folder; None if it was removed."""
    try:
        return os.getcwd()
    except OSError:
        return None


def follow(path: list[str], cwd: str | None, variables: Mapping[str, str | None]) -> None:
    """Set the search path, the working folder and variables in a worker."""
    sys.path[:] = path
    _forget_listings()
    if cwd is not None:
        os.chdir(cwd)
    set_variables(variables)


def _forget_listings() -> None:
    """Forget which files the folders of modules contain, so that new files are found.

    ``importlib.invalidate_caches`` does the same. But since Python 3.12, it also imports importlib.metadata. On Python
    3.14, this takes a third of the first call of a script. If that module is not imported, it has nothing to forget.
    """
    if "importlib.metadata" in sys.modules:
        importlib.invalidate_caches()
        return
    for name, known in list(sys.path_importer_cache.items()):
        if known is None or not os.path.isabs(name):
            sys.path_importer_cache.pop(name, None)
    finders: list[Any] = [finder for finder in sys.meta_path if finder is not PathFinder]
    for finder in [*finders, *sys.path_importer_cache.values()]:
        if hasattr(finder, "invalidate_caches"):
            finder.invalidate_caches()
    namespaces: Any = getattr(sys.modules[PathFinder.__module__], "_NamespacePath", None)
    if hasattr(namespaces, "_epoch"):  # since Python 3.10.1
        namespaces._epoch += 1


def changes(before: Surroundings, after: Surroundings) -> dict[str, str | None]:
    """Return the current values of the variables that have changed; None for removed ones."""
    names = {name for name, _ in before.variables.items() ^ after.variables.items()}
    decode: Any = getattr(os.environ, "decodekey", None)
    return {name: os.environ.get(name) for name in map(decode, names)}


def installed(name: str) -> bool:
    """Return whether an imported module is in a folder of installed packages. Other modules may be edited."""
    spec: Any = _spec(name)
    return spec is not None and spec.origin.startswith(_roots(tuple(sys.path)))


def _spec(name: str) -> Any:
    """Return the specification of an imported module, or None if it has no file."""
    spec: Any = getattr(sys.modules.get(name), "__spec__", None)
    return spec if getattr(spec, "has_location", False) and isinstance(spec.origin, str) else None


@functools.lru_cache(maxsize=1)
def _roots(path: tuple[str, ...]) -> tuple[str, ...]:
    """Return the folders in which packages are installed."""
    entries = [entry for entry in path if os.path.basename(entry) in ("site-packages", "dist-packages")]
    return tuple(os.path.join(root, "") for root in [os.path.dirname(os.__file__), *entries])


def _versions() -> tuple[dict[str, tuple[int, int]], tuple[Any, ...]]:
    """Return `modules` and `specifications` of the current surroundings."""
    global _modules
    if _modules[0] != len(sys.modules):
        names = [name for name in list(sys.modules) if name.partition(".")[0] not in ("__main__", "shoal")]
        _modules = len(sys.modules), [name for name in names if _spec(name) and not installed(name)]
    versions, specifications = {}, []
    for name in _modules[1]:
        if spec := _spec(name):
            specifications.append(spec)
            try:
                versions[name] = id(spec), os.stat(spec.origin).st_mtime_ns
            except OSError:
                versions[name] = id(spec), 0
    return versions, tuple(specifications)
