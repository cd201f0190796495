"""The functions, classes and modules that ``depends=`` names, and their sources."""

from __future__ import annotations

import types
from collections.abc import Iterable
from typing import Any

from shoal.memory.key._source import name_of, source_of, source_of_module, subject_of

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
        return source_of(subject_of(dependency).function).text.rstrip()
    raise TypeError(
        f"depends={dependency!r:.80} ({type(dependency).__name__}) has no source: name functions, classes or modules"
    )


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
