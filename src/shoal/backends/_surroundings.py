"""What changes in a program between two runs, and has to reach warm workers: paths, folder, variables, code.

::

    Pool.open ── current() ──> Surroundings ── of each turn ──> Worker: are they those of the process?
                                                                 ├─ yes, nearly always: nothing to do
                                                                 ├─ the search path, the working folder, a variable has
                                                                 │  changed: follow(...) is sent first; nothing is lost
                                                                 └─ a module of the user's has changed: a new process
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

from shoal.backends._bootstrap import set_variables


class Surroundings(NamedTuple):
    """The state of a program, as far as its workers take part in it.

    Attributes
    ----------
    path
        ``sys.path``.
    cwd
        The working folder; None if it was removed.
    variables
        The environment, as ``os.environ`` keeps it.
    modules
        For each module of the user's, the identity of its specification, which a reload makes anew, and when its file
        was modified.
    specifications
        They, so that their identities stay theirs.
    number
        Later ones have larger numbers.
    """

    path: tuple[str, ...]
    cwd: str | None
    variables: Mapping[Any, Any]
    modules: Mapping[str, tuple[int, int]]
    specifications: tuple[Any, ...]
    number: int = 0


_latest = Surroundings((), None, {}, {}, ())
#: Names of the user's modules, and the number of modules when they were looked for.
_modules: tuple[int, list[str]] = (0, [])


def current() -> Surroundings:
    """Return the surroundings as they are now: the same object as long as they are the same. Thread-safe."""
    global _latest
    # Its copy() decodes every variable, which takes a hundred times as long.
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
    """Do in a worker what its caller has done since: change the search path, the folder, variables."""
    sys.path[:] = path
    importlib.invalidate_caches()
    if cwd is not None:
        os.chdir(cwd)
    set_variables(variables)


def changes(before: Surroundings, after: Surroundings) -> dict[str, str | None]:
    """Return the variables that have changed, with None for those that are gone."""
    names = {name for name, _ in before.variables.items() ^ after.variables.items()}
    decode: Any = getattr(os.environ, "decodekey", None)
    return {name: os.environ.get(name) for name in map(decode, names)}


def installed(name: str) -> bool:
    """Tell whether an imported module lies where packages are installed: what lies elsewhere may be edited."""
    spec: Any = _spec(name)
    return spec is not None and spec.origin.startswith(_roots(tuple(sys.path)))


def _spec(name: str) -> Any:
    """Return the specification of an imported module that has a file; None of others."""
    spec: Any = getattr(sys.modules.get(name), "__spec__", None)
    return spec if getattr(spec, "has_location", False) and isinstance(spec.origin, str) else None


@functools.lru_cache(maxsize=1)
def _roots(path: tuple[str, ...]) -> tuple[str, ...]:
    """Return the folders in which packages are installed."""
    found = [entry for entry in path if os.path.basename(entry) in ("site-packages", "dist-packages")]
    return tuple(os.path.join(root, "") for root in [os.path.dirname(os.__file__), *found])


def _versions() -> tuple[dict[str, tuple[int, int]], tuple[Any, ...]]:
    """Return the versions of the user's modules, and their specifications."""
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
