"""``shared(x)`` is an argument that each worker receives once, or a part of one: in a list, a dictionary, an attribute.

A worker process meets such a marker while it decodes the arguments. Where arguments are not decoded (on threads, in the
caller), they are looked through instead, as long as any marker exists. What leads to one is copied, because the
caller's objects are not changed; all else reaches the call as it is.
"""

from __future__ import annotations

import functools
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable
from types import MethodType
from typing import Any, ClassVar
from weakref import WeakSet

from shoal.parallel._batch import plainly_reduced
from shoal.parallel._delayed import Call, StandIn, shallow

#: An object's parts, and the object made anew of others.
Parts = Callable[[Any], list[Any]]
Make = Callable[[Any, list[Any]], Any]

_LEAVES = frozenset({type(None), bool, int, float, complex, str, bytes, bytearray, type, range, slice})


class Shared(StandIn):
    """An argument that each worker receives and decodes once per run; see :func:`shared`."""

    __slots__ = ("__weakref__", "value")

    #: Those that exist. Only then may there be one inside another argument.
    alive: ClassVar[WeakSet[Shared]] = WeakSet()

    def __init__(self, value: Any) -> None:
        StandIn.in_use = True
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
    of a call, by position or by keyword, and inside other arguments: in lists, tuples, dictionaries, sets, partials and
    the attributes of objects. Worker processes find it in whatever can be pickled; threads do not look into objects
    that say by themselves how they are pickled, nor into arrays.

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
    memo: dict[int, Any] = {}
    if type(function) in (functools.partial, MethodType):
        function = _unmarked(function, memo)
    if kwargs:
        kwargs = {name: _unmarked(arg, memo) for name, arg in kwargs.items()}
    return function, tuple([_unmarked(arg, memo) for arg in args]), kwargs


def unmarked_value(value: Any) -> Any:
    """Return an object with what is marked in it; the object itself if nothing is."""
    return _unmarked(value, {}) if Shared.alive else value


def _unmarked(value: Any, memo: dict[int, Any]) -> Any:
    cls = type(value)
    if cls in _LEAVES:
        return value
    if issubclass(cls, StandIn):
        return value.resolve()
    return _rebuilt(value, memo) if _holds_any(value) else value


def _holds_any(value: Any) -> bool:
    """Tell whether a marker is in an object; not by recursion, since it may be as deep as it likes."""
    seen: set[int] = set()
    stack = [value]
    while stack:
        obj = stack.pop()
        cls: Any = type(obj)
        form = _form(cls)
        if form is None or id(obj) in seen:
            continue
        seen.add(id(obj))
        parts = form[0](obj)
        kinds: set[Any] = set(map(type, parts)) - _LEAVES
        if any(issubclass(kind, StandIn) for kind in kinds):
            return True
        kinds = {kind for kind in kinds if _form(kind) is not None}
        if kinds:
            stack += [part for part in parts if type(part) in kinds]
    return False


def _rebuilt(obj: Any, memo: dict[int, Any]) -> Any:
    """Return an object with what is marked in it; where it holds itself, that stays as it was."""
    cls: Any = type(obj)
    if issubclass(cls, StandIn):
        return obj.resolve()
    form = _form(cls)
    if form is None:
        return obj
    if id(obj) not in memo:
        memo[id(obj)] = obj
        parts, make = form
        before = parts(obj)
        after = [_rebuilt(part, memo) for part in before]
        if any(new is not old for new, old in zip(after, before, strict=True)):
            memo[id(obj)] = make(obj, after)
    return memo[id(obj)]


@functools.lru_cache(512)
def _form(cls: type) -> tuple[Parts, Make] | None:
    """Return how the objects of a class come apart, and are made again; None if they are not looked into."""
    if cls in (list, tuple, set, frozenset):
        return list, _make_of_items
    if cls in (dict, OrderedDict, defaultdict):
        return _items, _make_dict
    if issubclass(cls, tuple) and hasattr(cls, "_make"):
        return list, _make_named_tuple
    if cls is functools.partial:
        return _of_partial, _make_partial
    if cls is MethodType:
        return _of_method, _make_method
    if plainly_reduced(cls):
        return _attributes, _make_object
    return None


def _make_of_items(obj: Any, parts: Iterable[Any]) -> Any:
    return type(obj)(parts)


def _items(obj: Any) -> list[Any]:
    copy = obj.copy()  # at once: another call may be changing it
    return [*copy, *copy.values()]


def _make_dict(obj: Any, parts: list[Any]) -> Any:
    made = obj.copy()
    made.clear()
    half = len(parts) // 2
    made.update(zip(parts[:half], parts[half:], strict=True))
    return made


def _make_named_tuple(obj: Any, parts: list[Any]) -> Any:
    return type(obj)._make(parts)


def _of_partial(obj: Any) -> list[Any]:
    return [obj.func, obj.args, obj.keywords]


def _make_partial(_obj: Any, parts: list[Any]) -> Any:
    function, args, keywords = parts
    return functools.partial(function, *args, **keywords)


def _of_method(obj: Any) -> list[Any]:
    return [obj.__self__]


def _make_method(obj: Any, parts: list[Any]) -> Any:
    return MethodType(obj.__func__, parts[0])


def _attributes(obj: Any) -> list[Any]:
    return list(vars(obj).copy().values())


def _make_object(obj: Any, parts: list[Any]) -> Any:
    made = object.__new__(type(obj))
    vars(made).update(zip(list(vars(obj)), parts, strict=True))
    return made


StandIn.look_through = unmarked
