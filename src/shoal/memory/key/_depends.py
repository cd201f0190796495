"""The functions, classes and modules that ``depends=`` names: their sources, and the values that they hold.

::

    version_of    counts when a function is examined: source, and that of the functions inside a decorator
    held_by       counts at each call: variables of a closure, arguments of a partial, all values of a cached function
"""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Iterable
from typing import Any

from shoal.hashing._functions import cell_contents
from shoal.memory.key._constants import counted
from shoal.memory.key._source import name_of, source_of, source_of_module, subject_of, wrapped_by

#: The item of ``depends=`` that stands for what a function reaches in the user's project.
AUTO = "auto"


def checked_depends(depends: Any) -> tuple[Any, ...]:
    """Return ``depends=`` as a tuple, or raise TypeError if it is not a list or the like."""
    if isinstance(depends, str) and depends == AUTO:
        return (AUTO,)
    if isinstance(depends, str) or not isinstance(depends, Iterable):
        raise TypeError(
            f'depends={depends!r:.80} is not a list: pass a list of functions, classes or modules, or "auto"'
        )
    return tuple(depends)


def named(depends: tuple[Any, ...]) -> list[Any]:
    """Return the dependencies that a user has named one by one."""
    return [dependency for dependency in depends if not is_auto(dependency)]


def is_auto(dependency: Any) -> bool:
    """Return whether an item of ``depends=`` is "auto"."""
    return isinstance(dependency, str) and dependency == AUTO


def version_of(dependency: Any) -> Any:
    """Return a value that changes when the source of a function, class or module changes."""
    identity = identity_of(dependency)
    if identity is not None:  # a cached function: everything that it depends on counts too
        if identity.is_stale():
            identity.examine()
        return identity.snapshot.tag
    if isinstance(dependency, types.ModuleType):
        return source_of_module(dependency)
    if callable(dependency):
        function = subject_of(dependency).function
        texts = [source_of(each).text.rstrip() for each in (function, *wrapped_by(function))]
        return texts if len(texts) > 1 else texts[0]
    raise TypeError(
        f"depends={dependency!r:.80} ({type(dependency).__name__}) has no source: name functions, classes or modules"
    )


class Watch:
    """Notices when dependencies are replaced: by a reload of their module, or because a cell of a notebook runs again.

    It does not change, so it is thread-safe. `reach` is the :class:`Reach` of ``depends="auto"``, or None.
    """

    def __init__(self, depends: tuple[Any, ...], reach: Any = None) -> None:
        self._places = [(dependency, _home_of(dependency)) for dependency in depends]
        parts = [(home, dependency.__name__) for dependency, home in self._places if home is not None]
        for dependency in named(depends):
            parts += _parts_of(dependency)
        self._parts = [(part, name, getattr(part, name, None)) for part, name in parts]
        inner = [reach, *map(identity_of, named(depends))]
        self._inner = [each for each in inner if each is not None]

    def is_stale(self) -> bool:
        """Return whether a name stands for another object now, a function has other code, or a module was reloaded."""
        for part, name, found in self._parts:
            if getattr(part, name, None) is not found:
                return True
        for inner in self._inner:  # noqa: SIM110  # any() takes longer, and this runs at each call
            if inner.is_stale():
                return True
        return False

    def current(self) -> tuple[Any, ...]:
        """Return the dependencies; in place of those that were replaced, the new ones."""
        found = [(old, old if home is None else getattr(home, old.__name__, old)) for old, home in self._places]
        return tuple(new if type(new) is type(old) else old for old, new in found)


def _home_of(dependency: Any) -> types.ModuleType | None:
    """Return the module that has a function or class under its name, or None."""
    home = sys.modules.get(getattr(dependency, "__module__", None) or "")
    return home if home and vars(home).get(getattr(dependency, "__name__", "")) is dependency else None


def _parts_of(dependency: Any) -> list[tuple[Any, str]]:
    """Return objects, each with an attribute that is another object when the dependency was changed in place."""
    identity = identity_of(dependency)
    if identity is not None:
        return [(identity, "snapshot")]
    if isinstance(dependency, types.ModuleType):
        return [(dependency, "__spec__")]  # importlib.reload makes another one
    function = subject_of(dependency).function
    return [(each, "__code__") for each in (function, *wrapped_by(function)) if hasattr(each, "__code__")]


def held_by(dependency: Any) -> Any:
    """Return the present values that a dependency holds, or None.

    Of the variables of a closure and the arguments of a partial, those count that would count as constants. Of a cached
    function, all values count that its own keys contain.
    """
    identity = identity_of(dependency)
    if identity is not None:
        return identity.held()
    if isinstance(dependency, (type, types.ModuleType)):
        return None
    subject = subject_of(dependency)
    given = [subject.args, subject.kwargs] if isinstance(dependency, functools.partial) else []
    cells = cells_of(subject.function)
    return counted([*given, *map(cell_contents, cells.values())]) if given or cells else None


def cells_of(function: Any) -> dict[str, Any]:
    """Return the cells of a function's closure whose values count, by name."""
    code = getattr(function, "__code__", None)
    names = code.co_freevars if isinstance(code, types.CodeType) else ()
    cells = zip(names, getattr(function, "__closure__", None) or (), strict=False)
    # "__class__" is the class around a method that calls super(). Like any other callee, it does not count.
    return {name: cell for name, cell in cells if name != "__class__"}


def identity_of(dependency: Any) -> Any:
    """Return the identity of a cached function, or None."""
    # Other objects are not asked, because their __getattr__ may do anything.
    if not any(kind.__module__.startswith("shoal.memory") for kind in type(dependency).__mro__):
        return None
    return getattr(dependency, "_identity", None)


def dotted_name(dependency: Any) -> str:
    """Return the name of a dependency, for users."""
    if isinstance(dependency, types.ModuleType):
        return dependency.__name__
    identity = identity_of(dependency)
    function = subject_of(dependency).function if identity is None else identity.function
    return f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', name_of(function))}"
