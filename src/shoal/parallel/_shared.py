"""``shared(x)`` is an argument that each worker receives once, or a part of one: in a list, a dictionary, an attribute.

A worker process meets such a marker while it decodes the arguments. Where arguments are not decoded (on threads, in the
caller), they are looked through instead, as long as any marker exists. What leads to one is copied, because the
caller's objects are not changed; all else reaches the call as it is.
"""

from __future__ import annotations

import copyreg
import functools
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable
from types import FunctionType, MethodType, SimpleNamespace
from typing import Any, ClassVar
from weakref import WeakSet

from shoal.parallel._delayed import Call, Placeholder, shallow

#: An object's parts, and the object made anew of others.
Parts = Callable[[Any], list[Any]]
Make = Callable[[Any, list[Any]], Any]
#: What objects have become, by their ids; with the objects, since parts may be made on the way and go again.
Memo = dict[int, tuple[Any, Any]]

_LEAVES = frozenset({type(None), bool, int, float, complex, str, bytes, bytearray, type, range, slice, FunctionType})

#: The ``__reduce__`` of Python's own classes that hold other objects.
_REDUCTIONS: frozenset[Any] = frozenset(
    cls.__reduce__
    for cls in (object, set, frozenset, deque, Counter, OrderedDict, defaultdict, SimpleNamespace, MethodType)
) | {functools.partial.__reduce__}


class Shared(Placeholder):
    """An argument that each worker receives and decodes once per run; see :func:`shared`."""

    __slots__ = ("__weakref__", "value")

    #: Those that exist. Only then may there be one inside another argument.
    alive: ClassVar[WeakSet[Shared]] = WeakSet()

    def __init__(self, value: Any) -> None:
        Placeholder.in_use = True
        self.value = value
        Shared.alive.add(self)

    def resolve(self) -> Any:
        """Return the value."""
        return self.value

    def __reduce__(self) -> Any:
        # For whatever pickles it without knowing it, such as a cluster.
        return _itself, (self.value,)

    def __repr__(self) -> str:
        return f"shared({self.value!r})"


def _itself(value: Any) -> Any:
    return value


def shared(value: Any) -> Any:
    """Mark an argument as one that all calls of a run share.

    Worker processes receive it once per run, however many calls and batches name it, and decode it once; the calls
    of a worker then share one object. In other backends the calls get `value` itself. It is recognised as an argument
    of a call, by position or by keyword, and inside other arguments and the callable itself: in containers of Python's
    own and classes derived from them, in arrays of objects, partials, methods, and the attributes and slots of objects.
    Worker processes find it in whatever can be pickled. Threads do not look into objects whose class defines how they
    are pickled (``__reduce__``, ``__getstate__``), nor into exceptions, iterators and the variables of closures.

    Parameters
    ----------
    value
        Any object; it must not be changed while the run goes on.

    Returns
    -------
    A marker that stands for `value` in the arguments of delayed calls.

    Examples
    --------
    >>> from shoal import Parallel, delayed, shared
    >>> table = shared({"a": 1, "b": 2})
    >>> Parallel(n_jobs=1)(delayed(dict.get)(table, key) for key in "ab")
    [1, 2]
    """
    return Shared(value)


def unmarked(call: Call) -> Call:
    """Return a call with the arguments for which something stands in their places, wherever that is in them.

    It takes some microseconds, and 20 ms for a list of a million numbers, unless that is marked as well.
    """
    if not Shared.alive:
        return shallow(call)
    function, args, kwargs = call
    memo: Memo = {}
    if type(function) is not FunctionType:
        function = _unmarked(function, memo)
    if kwargs:
        kwargs = {name: _unmarked(arg, memo) for name, arg in kwargs.items()}
    return function, tuple([_unmarked(arg, memo) for arg in args]), kwargs


def unmarked_value(value: Any) -> Any:
    """Return an object with what is marked in it; the object itself if nothing is."""
    return _unmarked(value, {}) if Shared.alive else value


def _unmarked(value: Any, memo: Memo) -> Any:
    cls = type(value)
    if cls in _LEAVES:
        return value
    if issubclass(cls, Placeholder):
        return value.resolve()
    return _rebuilt(value, memo) if _holds_any(value) else value


def _holds_any(value: Any) -> bool:
    """Tell whether a marker is in an object; not by recursion, since it may be as deep as it likes."""
    seen: dict[int, Any] = {}  # with the objects: some are made on the way
    stack = [value]
    while stack:
        obj = stack.pop()
        cls: Any = type(obj)
        form = _form(cls)
        if form is None or id(obj) in seen:
            continue
        seen[id(obj)] = obj
        parts = form[0](obj)
        kinds: set[Any] = set(map(type, parts)) - _LEAVES
        if any(issubclass(kind, Placeholder) for kind in kinds):
            return True
        kinds = {kind for kind in kinds if _form(kind) is not None}
        if kinds:
            stack += [part for part in parts if type(part) in kinds]
    return False


def _rebuilt(obj: Any, memo: Memo) -> Any:
    """Return an object with what is marked in it; where it holds itself, that stays as it was."""
    cls: Any = type(obj)
    if issubclass(cls, Placeholder):
        return obj.resolve()
    form = _form(cls)
    if form is None:
        return obj
    if id(obj) not in memo:
        memo[id(obj)] = obj, obj
        parts, make = form
        before = parts(obj)
        after = [_rebuilt(part, memo) for part in before]
        if any(new is not old for new, old in zip(after, before, strict=True)):
            memo[id(obj)] = obj, make(obj, after)
    return memo[id(obj)][1]


@functools.lru_cache(512)
def _form(cls: Any) -> tuple[Parts, Make] | None:
    """Return how the objects of a class come apart, and are made again; None if they are not looked into."""
    if cls in _LEAVES:
        return None
    if cls in (list, tuple, set, frozenset):
        return list, _make_of_items
    if cls is dict:
        return _items, _make_dict
    if cls.__module__ == "numpy" and cls.__name__ == "ndarray":
        return _of_array, _make_reduced
    return (_of_object, _make_reduced) if _reduced_by_python(cls) else None


def _reduced_by_python(cls: Any) -> bool:
    """Tell whether Python's own rules say how the objects of a class are pickled.

    To take them apart then runs no code of theirs, and costs little. What says by itself how it is pickled may write a
    whole model into bytes for that.
    """
    if issubclass(cls, type) or cls in copyreg.dispatch_table:
        return False
    state = getattr(cls, "__getstate__", None)
    return (
        cls.__reduce_ex__ is object.__reduce_ex__
        and cls.__reduce__ in _REDUCTIONS
        and (state is getattr(object, "__getstate__", None) or getattr(state, "__module__", None) == "dataclasses")
        and (
            type(cls.__new__) is not FunctionType or hasattr(cls, "__getnewargs__") or hasattr(cls, "__getnewargs_ex__")
        )
        and (not issubclass(cls, list) or cls.__iter__ is list.__iter__)
        and (not issubclass(cls, dict) or cls.items in (dict.items, OrderedDict.items))
    )


def _make_of_items(obj: Any, parts: Iterable[Any]) -> Any:
    return type(obj)(parts)


def _items(obj: Any) -> list[Any]:
    copy = obj.copy()  # at once: another call may be changing it
    return [*copy, *copy.values()]


def _make_dict(_obj: Any, parts: list[Any]) -> Any:
    half = len(parts) // 2
    return dict(zip(parts[:half], parts[half:], strict=True))


def _of_array(obj: Any) -> list[Any]:
    return _of_object(obj) if obj.dtype.hasobject else []


def _of_object(obj: Any) -> list[Any]:
    """Take an object apart as pickle does."""
    try:
        reduced = obj.__reduce_ex__(4)
        function, args, state, items, pairs = (*reduced, None, None, None)[:5]
        return [function, args, state, None if items is None else [*items], None if pairs is None else [*pairs]]
    except Exception:  # it cannot be pickled, or another call is changing it
        return []


def _make_reduced(_obj: Any, parts: list[Any]) -> Any:
    """Make an object of its parts as pickle does."""
    function, args, state, items, pairs = parts
    made = function(*args)
    if state is not None:
        if hasattr(made, "__setstate__"):
            made.__setstate__(state)
        else:
            attributes, slots = state if type(state) is tuple else (state, None)
            if attributes:
                vars(made).update(attributes)
            for name, value in (slots or {}).items():
                setattr(made, name, value)
    for item in items or ():
        made.append(item)
    for key, value in pairs or ():
        made[key] = value
    return made


Placeholder.resolve_nested = unmarked
