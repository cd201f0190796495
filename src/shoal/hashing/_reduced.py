"""Writers for objects that are hashed through their pickle reduction or through a substitute.

::

    write_reduced         the result of __reduce_ex__: function, arguments, state, items, pairs
    write_rest            attributes that are missing there. A subclass may add attributes to a type whose pickling
                          code does not know them:
                              class Moment(datetime): ...
                              moment.source = "radio"               is lost in a pickle, and is written here
                              class Model: __reduce__ = ...         its author chose the parts: nothing is added
    substitute_writer     the result of a function of the object

The *reducer* of a class is the class in its MRO whose ``__reduce_ex__`` or ``__reduce__`` pickles its objects.
"""

from __future__ import annotations

import collections
import copyreg
import functools
import itertools
import pathlib
import pickle
import sys
import types
from collections.abc import Callable, Iterable
from typing import Any

from ._functions import write_by_name
from ._walk import Node, Walk, Writer, hashing_error


def substitute_writer(function: Callable[[Any], Any]) -> Writer:
    """Return a writer that writes an object's class and the value, or the parts, that `function` returns for it."""

    def write(walk: Walk, node: Node, obj: Any) -> None:
        node.update(walk.block([type(obj)]))
        substitute = function(obj)
        if not isinstance(substitute, types.GeneratorType):
            node.update(walk.block([substitute]))
            return
        node.update(b"parts")
        for part in substitute:
            node.update(walk.block([part]))
            walk.forget(part)

    return write


def write_reduced(walk: Walk, node: Node, obj: Any) -> None:
    """Write an object's pickle reduction, and the attributes that a pickle would lose.

    Raise HashingError if the object cannot be pickled.
    """
    # Exceptions reduce themselves. Libraries register other reducers for them (tblib, for dask), which keep tracebacks.
    reducer: Any = None if isinstance(obj, BaseException) else copyreg.dispatch_table.get(type(obj))
    try:
        reduced = obj.__reduce_ex__(5) if reducer is None else reducer(obj)
    except (pickle.PicklingError, TypeError) as error:
        raise hashing_error(obj, error) from error
    write_reduction(walk, node, obj, reduced)


def write_reduction(walk: Walk, node: Node, obj: Any, reduced: Any) -> None:
    """Write an object of which `reduced` is the result of ``__reduce_ex__``."""
    if isinstance(reduced, str):
        write_by_name(walk, node, obj, reduced)
        return
    if not isinstance(reduced, tuple) or not 2 <= len(reduced) <= 6:
        raise hashing_error(
            obj, f"its __reduce_ex__ returned {reduced!r:.100}, which is neither a string nor a tuple of 2 to 6 items"
        )
    function, args, state, items, pairs, setter = [*reduced, None, None, None, None][:6]
    walk.elements(node, [function, setter, type(state) is dict, *args])
    node.update(b"state")
    if type(state) is dict:
        walk.pairs(node, state)
    else:
        node.update(walk.block([state]))
    if items is not None:
        node.update(b"items")
        walk.stream(node, items)
    if pairs is not None and isinstance(obj, collections.OrderedDict):
        node.update(b"ordered pairs")
        walk.stream(node, itertools.chain.from_iterable(pairs))
    elif pairs is not None:
        node.update(b"pairs")
        walk.pairs(node, dict(pairs))
    kind: Any = type(obj)
    if _lost_attributes(kind) is not None:
        write_rest(walk, node, obj, (state, *args))


def write_rest(walk: Walk, node: Node, obj: Any, written: tuple[Any, ...] = ()) -> None:
    """Write the attributes that a subclass has added and that the reducer of the class does not know.

    They count although a pickle loses them, because a function that receives the object can read them. If the
    ``__dict__`` is among the parts already `written`, it is not written again.
    """
    kind: Any = type(obj)
    lost = _lost_attributes(kind)
    if lost is None:
        return
    names, has_dict = lost
    attributes = getattr(obj, "__dict__", None) if has_dict else None
    if attributes and not any(_contains(part, attributes) for part in written):
        node.update(b"attributes")
        walk.pairs(node, attributes)
    write_slots(walk, node, obj, names)


def _contains(part: Any, attributes: dict[str, Any]) -> bool:
    return part is attributes or (type(part) is tuple and any(inside is attributes for inside in part))


def write_slots(walk: Walk, node: Node, obj: Any, names: tuple[str, ...]) -> None:
    """Write the slots of an object that have values."""
    slots = {name: getattr(obj, name) for name in names if hasattr(obj, name)}
    if slots:
        node.update(b"slots")
        walk.pairs(node, slots)


def slots_of(kinds: Iterable[type]) -> tuple[str, ...]:
    """Return the names of the slots of some classes, sorted; private names are mangled as ``getattr`` needs them."""
    names: list[str] = []
    for kind in kinds:
        slots = vars(kind).get("__slots__", ())
        for name in [slots] if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__"):
                private = name.startswith("__") and not name.endswith("__") and kind.__name__.strip("_")
                names.append(f"_{kind.__name__.lstrip('_')}{name}" if private else name)
    return tuple(sorted(names))


def reducer_of(kind: type) -> type:
    """Return the class in the MRO of a class whose method pickles the objects of that class."""
    for base in kind.__mro__:
        if "__reduce_ex__" in vars(base) or "__reduce__" in vars(base):
            return base
    return object


@functools.lru_cache(1024)
def _lost_attributes(kind: Any) -> tuple[tuple[str, ...], bool] | None:
    """Return the slots that the reducer of a class loses, and whether it loses ``__dict__``; None if it loses none."""
    reducer = reducer_of(kind)
    if issubclass(kind, pathlib.PurePath):
        reducer = next(base for base in kind.__mro__ if _package_of(base) == "pathlib")
    if reducer in (kind, object):  # object's reducer pickles all attributes
        return None
    compiled = not isinstance(vars(reducer).get("__reduce_ex__", vars(reducer).get("__reduce__")), types.FunctionType)
    if not compiled and _package_of(reducer) not in sys.stdlib_module_names:
        return None  # the author of the reducer chose the parts that count
    names = slots_of(kind.__mro__[: kind.__mro__.index(reducer)])
    # A compiled class whose own instances have a __dict__ (exceptions, partials) pickles it.
    has_dict = not (compiled and reducer.__dictoffset__)
    return (names, has_dict) if names or has_dict else None


def _package_of(kind: type) -> str:
    return kind.__module__.partition(".")[0]
