"""The attributes of an object that what pickles it leaves out.

::

    class Moment(datetime): ...        datetime says how a Moment is pickled, and knows nothing of moment.source:
    moment.source = "radio"            the attributes that come from classes below the reducer are written as well
    class Model: __reduce__ = ...      the author of a class has chosen what counts: nothing is added

An object's reducer is the class that has the ``__reduce_ex__`` or ``__reduce__`` that it is pickled by.
"""

from __future__ import annotations

import functools
import pathlib
import sys
import types
from collections.abc import Iterable
from typing import Any

from ._walk import Node, Walk


def write_rest(walk: Walk, node: Node, obj: Any, written: tuple[Any, ...] = ()) -> None:
    """Write the attributes that a subclass has added, if the type that says how to pickle it knows nothing of them.

    A ``datetime`` with attributes of a subclass's own loses them in a pickle. They count all the same: the function
    that is given it can read them.

    Parameters
    ----------
    written
        What was written already: the attributes may be among it.
    """
    kind: Any = type(obj)
    rest = rest_of(kind)
    if rest is None:
        return
    names, has_dict = rest
    attributes = getattr(obj, "__dict__", None) if has_dict else None
    if attributes and not any(_has(part, attributes) for part in written):
        node.update(b"attributes")
        walk.pairs(node, attributes)
    write_slots(walk, node, obj, names)


def _has(part: Any, attributes: dict[str, Any]) -> bool:
    return part is attributes or (type(part) is tuple and any(inside is attributes for inside in part))


def write_slots(walk: Walk, node: Node, obj: Any, names: tuple[str, ...]) -> None:
    """Write what an object has in slots, where it has anything in them."""
    slots = {name: getattr(obj, name) for name in names if hasattr(obj, name)}
    if slots:
        node.update(b"slots")
        walk.pairs(node, slots)


def slots_of(kinds: Iterable[type]) -> tuple[str, ...]:
    """Return the attributes that classes keep in slots, by the names that they have from outside."""
    names: list[str] = []
    for kind in kinds:
        slots = vars(kind).get("__slots__", ())
        for name in [slots] if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__"):
                private = name.startswith("__") and not name.endswith("__") and kind.__name__.strip("_")
                names.append(f"_{kind.__name__.lstrip('_')}{name}" if private else name)
    return tuple(sorted(names))


def reducer_of(kind: type) -> type:
    """Return the class that says how objects of a class are pickled."""
    for base in kind.__mro__:
        if "__reduce_ex__" in vars(base) or "__reduce__" in vars(base):
            return base
    return object


@functools.lru_cache(1024)
def rest_of(kind: Any) -> tuple[tuple[str, ...], bool] | None:
    """Return the slots of a class of which its reducer knows nothing, and whether that is so of its ``__dict__``."""
    reducer = reducer_of(kind)
    if issubclass(kind, pathlib.PurePath):
        reducer = next(base for base in kind.__mro__ if _package_of(base) == "pathlib")
    if reducer in (kind, object):  # object's takes all there is
        return None
    compiled = not isinstance(vars(reducer).get("__reduce_ex__", vars(reducer).get("__reduce__")), types.FunctionType)
    if not compiled and _package_of(reducer) not in sys.stdlib_module_names:
        return None  # its author has chosen what counts
    names = slots_of(kind.__mro__[: kind.__mro__.index(reducer)])
    # A compiled class whose own instances have a __dict__ (exceptions, partials) pickles it.
    has_dict = not (compiled and reducer.__dictoffset__)
    return (names, has_dict) if names or has_dict else None


def _package_of(kind: type) -> str:
    return kind.__module__.partition(".")[0]
