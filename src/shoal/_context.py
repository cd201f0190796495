"""Context variables by name: how a worker process finds the variable that the program means.

A :class:`contextvars.ContextVar` cannot be pickled. Workers find it as an attribute of its module, like a function.
Workers do not have the program's ``__main__``, so there each name of it stands for one variable of their own.
"""

from __future__ import annotations

import contextlib
import importlib
import pickle
import sys
from contextvars import Context, ContextVar
from typing import Any

#: The modules of variables and their names there, as far as they were looked up.
_homes: dict[ContextVar[Any], tuple[str, str]] = {}
#: In a worker: the variables of the program's ``__main__``, by name.
_of_main: dict[str, ContextVar[Any]] = {}


def home_of(variable: ContextVar[Any]) -> tuple[str, str] | None:
    """Return the name of a module that has a variable as an attribute, and the name of the attribute there.

    A module that workers can import is preferred to ``__main__``. None if no module has the variable. The modules are
    searched once for each variable, which takes some 10 ms in a large program.
    """
    home = _homes.get(variable)
    if home is not None and _has(home, variable):
        return home
    found = None
    for name, module in list(sys.modules.items()):
        for attribute, value in list(getattr(module, "__dict__", {}).items()):
            if value is variable:
                found = "__main__" if name == "__mp_main__" else name, attribute
                break
        if found is not None and found[0] != "__main__":
            break
    if found is not None:
        _homes[variable] = found
    return found


def _has(home: tuple[str, str], variable: ContextVar[Any]) -> bool:
    module, name = home
    return getattr(sys.modules.get(module), name, None) is variable or (
        module == "__main__" and _of_main.get(name) is variable
    )


def variable_at(module: str, name: str, *default: Any) -> ContextVar[Any]:
    """Return the variable that is an attribute of a module, in this process.

    Parameters
    ----------
    module, name
        Where the variable is in the program.
    *default
        The default of the variable, if it has one. Only variables of ``__main__`` need it.

    Raises
    ------
    ImportError, AttributeError
        If there is no such module, or it has no such variable.
    """
    if module != "__main__":
        found = getattr(importlib.import_module(module), name)
        if type(found) is not ContextVar:
            raise AttributeError(f"{module}.{name} is no context variable here, but {found!r:.80}")
        return found
    found = getattr(sys.modules["__main__"], name, None)
    if type(found) is ContextVar:
        return found
    if name not in _of_main:
        made = _of_main[name] = ContextVar(name, default=default[0]) if default else ContextVar(name)
        _homes[made] = "__main__", name
    return _of_main[name]


def reduce_variable(variable: ContextVar[Any]) -> tuple[Any, tuple[Any, ...]]:
    """Reduce a variable, for a pickler, to the place where another process finds it.

    Raises
    ------
    PicklingError
        If no module has it as an attribute.
    """
    home = home_of(variable)
    if home is None:
        raise pickle.PicklingError(
            f"no module has {variable!r:.80} as an attribute, so no other process can find it; "
            "assign it to a name at the top of a module"
        )
    default: tuple[Any, ...] = ()
    if home[0] == "__main__":
        with contextlib.suppress(LookupError):  # it has no default
            default = (Context().run(variable.get),)
    return variable_at, (*home, *default)
