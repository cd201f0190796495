"""The lines that ``verbose`` prints, and arguments as texts of bounded length.

The lines are joblib's, because people read and match them::

    > 0    a call, before it runs and after its result is saved     > 1    a value that is loaded
    > 4    the time that loading took                               > 10   the path of a saved value, a changed source
    >= 20  every lookup
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import reprlib
import sys
import time
from typing import Any

from shoal.memory.key._source import names_of, shown
from shoal.memory.store import Store, location_of
from shoal.observe._logger import format_time, pformat

#: The largest length of an argument's text, in characters, and the time for the texts of one call, in seconds.
TEXT_LENGTH = 1000
TEXT_SECONDS = 0.05
_WIDTH = 80
_PLAIN = frozenset({type(None), bool, float, complex})
_CONTAINERS = frozenset({list, tuple, dict})
#: How many values a literal has at most.
_MOST_VALUES = 30
#: Types whose repr took longer than TEXT_SECONDS. From then on their names replace their texts.
_slow: set[type] = set()


def signature(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str, str]:
    """Return the dotted name of a function, and a call of it as text."""
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
    """Return the lines before a call runs."""
    dotted, call = signature(function, args, kwargs)
    return f"{'_' * _WIDTH}\n[Memory] Calling {dotted}...\n{call}"


def took(function: Any, seconds: float, action: str = "") -> str:
    """Return the line after a call or a load, with the time that it took."""
    text = f"{names_of(function)[1]} {action}- {format_time(seconds)}"
    return text.rjust(_WIDTH, "_")


def place(store: Store, *parts: str) -> str:
    """Return the path of something in a store: with the separators of the system, unless the store is not on a disk."""
    location = location_of(store)
    if "://" in location:
        return "/".join((location, *parts))
    return os.path.join(location, *map(shown, parts))


def loading(path: str, where: str, since: float | None, arguments: dict[str, str] | None, verbose: int) -> str:
    """Return the line before a value is loaded."""
    name = os.path.basename(path)
    if arguments is not None:
        name += f"({', '.join(f'{word}={text}' for word, text in arguments.items())})"
    stamp = "" if since is None else f"{format_time(time.time() - since): <16}"
    return f"[Memory]{stamp}: Loading {name}" + ("..." if verbose < 10 else f" from {where}")


def querying(name: str, call: str, digest: str, where: str) -> str:
    """Return the lines before a lookup."""
    return f"\nQuerying {name} with signature\n{call}.\n\n(argument hash {digest})\n\nThe store location is {where}.\n"


def docstring(function: Any) -> str:
    """Return joblib's docstring of a cached function."""
    text = getattr(function, "__doc__", None)
    if inspect.isfunction(function):
        pydoc: Any = importlib.import_module("pydoc")  # slow to import, and rarely needed

        text = pydoc.plaintext.document(function).replace("\n", "\n\n", 1)
    return f"Memoized version of {text}"


def argument_texts(values: dict[str, Any]) -> dict[str, str]:
    """Return each argument as text of bounded length. The time is bounded too, unless a single repr takes longer."""
    texts = {}
    started = time.perf_counter()
    for name, value in values.items():
        text = _quick(value)
        if text is not None:
            texts[name] = text
            continue
        kind = type(value)
        before = time.perf_counter()
        if kind in _slow or before - started > TEXT_SECONDS:
            texts[name] = f"<{kind.__qualname__}>"
            continue
        texts[name] = _bounded(value)
        if time.perf_counter() - before > TEXT_SECONDS:
            _slow.add(kind)
    return texts


def _quick(value: Any) -> str | None:
    """Return the text of a value if its repr is certainly fast, otherwise None."""
    kind = type(value)
    if kind in _PLAIN or (kind is int and value.bit_length() < 1000) or (kind is str and len(value) < 500):
        return repr(value)
    if kind in _CONTAINERS and is_literal(value):
        return repr(value)
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.ndarray) and value.size > 100:
        return f"<{kind.__name__} of {value.dtype}, shape {value.shape}>"
    return None


def is_literal(value: Any) -> bool:
    """Return whether the repr of a value is short, fast, and says everything."""
    pending, seen = [value], 0
    while pending:
        value = pending.pop()
        kind = type(value)
        seen += 1
        if seen > _MOST_VALUES:
            return False
        if kind is str or kind is bytes:
            if len(value) > 200:
                return False
        elif kind is int:
            if value.bit_length() > 300:
                return False
        elif kind is list or kind is tuple:
            if len(value) > _MOST_VALUES:
                return False
            pending += value
        elif kind is dict:
            if len(value) > _MOST_VALUES:
                return False
            pending += value
            pending += value.values()
        elif kind not in _PLAIN:
            return False
    return True


def _bounded(value: Any) -> str:
    try:
        if type(value) in (int, str, bytes, bytearray, list, tuple, dict, set, frozenset):
            text = _short_repr().repr(value)
        elif hasattr(value, "shape") and hasattr(value, "columns"):
            return f"<{type(value).__name__}, shape {value.shape}>"
        else:
            text = repr(value)
    except Exception as error:  # an error in the user's repr must not fail the call
        return f"<{type(value).__qualname__}, whose repr raises {type(error).__name__}>"
    return text if len(text) <= TEXT_LENGTH else text[: TEXT_LENGTH - 3] + "..."


@functools.lru_cache(1)
def _short_repr() -> reprlib.Repr:
    short = reprlib.Repr()
    short.maxlevel = 4
    short.maxlist = short.maxtuple = short.maxdict = short.maxset = short.maxfrozenset = 30
    short.maxstring = short.maxother = 300
    short.maxlong = 100
    return short
