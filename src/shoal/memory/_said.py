"""What is printed at each level of ``verbose``: joblib's lines, since people read and match them.

::

    > 0    a call, before it runs and when its result is kept             > 1    a value that is loaded
    > 4    how long a value took to load                                  > 10   where values are kept, and what changes
    >= 20  what is looked up
"""

from __future__ import annotations

import importlib
import inspect
import time
from typing import Any

from shoal.memory._source import names_of
from shoal.observe._logger import format_time, pformat

_WIDTH = 80


def signature(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str, str]:
    """Return the dotted name of a function, and a call of it."""
    parts, name = names_of(function)
    dotted = ".".join([part for part in parts if part] + [name])
    written: list[str] = []
    previous = 0
    for arg in args:
        text = _shown(arg)
        if previous > _WIDTH:
            text = "\n" + text
        previous = len(text)
        written.append(text)
    written += [f"{word}={_shown(value)}" for word, value in kwargs.items()]
    return dotted, f"{name}({', '.join(written)})"


def _shown(value: Any) -> str:
    text = pformat(value, indent=2)
    return text if len(text) <= 1500 else text[:700] + "..."


def calling(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Say which call is about to run."""
    dotted, call = signature(function, args, kwargs)
    return f"{'_' * _WIDTH}\n[Memory] Calling {dotted}...\n{call}"


def took(function: Any, seconds: float, what: str = "") -> str:
    """Say how long something took."""
    text = f"{names_of(function)[1]} {what}- {format_time(seconds)}"
    return text.rjust(_WIDTH, "_")


def loading(path: str, where: str, since: float | None, arguments: dict[str, str] | None, verbose: int) -> str:
    """Say which value is about to be loaded."""
    name = path.rpartition("/")[2]
    if arguments is not None:
        name += f"({', '.join(f'{word}={text}' for word, text in arguments.items())})"
    stamp = "" if since is None else f"{format_time(time.time() - since): <16}"
    return f"[Memory]{stamp}: Loading {name}" + ("..." if verbose < 10 else f" from {where}")


def querying(name: str, call: str, digest: str, where: str) -> str:
    """Say what is looked up."""
    return f"\nQuerying {name} with signature\n{call}.\n\n(argument hash {digest})\n\nThe store location is {where}.\n"


def documented(function: Any) -> str:
    """Return joblib's docstring of a cached function."""
    text = getattr(function, "__doc__", None)
    if inspect.isfunction(function):
        pydoc: Any = importlib.import_module("pydoc")  # which takes its time

        text = pydoc.plaintext.document(function).replace("\n", "\n\n", 1)
    return f"Memoized version of {text}"
