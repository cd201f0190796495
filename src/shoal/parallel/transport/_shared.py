"""``shared(x)``: an argument, or a part of an argument, that each worker receives once per run.

A marker may be in a list, a dictionary, an attribute. A worker process resolves it while it decodes the arguments. If
arguments are not decoded (on threads, in the caller), they are searched for markers instead, as long as any marker
exists. The containers of a marker are copied, because the caller's objects must not be changed. All other objects reach
the call unchanged.
"""

from __future__ import annotations

import copyreg
import functools
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable
from types import FunctionType, MethodType, SimpleNamespace
from typing import Any, ClassVar
from weakref import WeakSet

from shoal._typing import R
from shoal.parallel._delayed import Call, Placeholder, shallow

#: Takes an object apart into a list of parts.
TakeApart = Callable[[Any], list[Any]]
#: Makes a new object of the kind of another from a list of parts.
Rebuild = Callable[[Any, list[Any]], Any]
#: By id, an object and the object that replaces it. The former is kept because some parts are made only for the search:
#: another object could get the id of a part that is gone.
Memo = dict[int, tuple[Any, Any]]

_LEAVES = frozenset({type(None), bool, int, float, complex, str, bytes, bytearray, type, range, slice, FunctionType})

#: The ``__reduce__`` methods of Python's own classes that contain other objects.
_REDUCTIONS: frozenset[Any] = frozenset(
    cls.__reduce__
    for cls in (object, set, frozenset, deque, Counter, OrderedDict, defaultdict, SimpleNamespace, MethodType)
) | {functools.partial.__reduce__}


class Shared(Placeholder):
    """Marks an argument that each worker receives and decodes once per run; see :func:`shared`."""

    __slots__ = ("__weakref__", "value")

    #: All markers that exist. If there are none, arguments need not be searched.
    alive: ClassVar[WeakSet[Shared]] = WeakSet()

    def __init__(self, value: Any) -> None:
        Placeholder.in_use = True
        self.value = value
        Shared.alive.add(self)

    def resolve(self) -> Any:
        """Return the value."""
        return self.value

    def __reduce__(self) -> Any:
        # For picklers that do not know the marker, such as that of a cluster.
        return _itself, (self.value,)

    def __repr__(self) -> str:
        return f"shared({self.value!r})"


def _itself(value: Any) -> Any:
    return value


def shared(value: R) -> R:
    """Mark an argument as one that all calls of a run share.

    Worker processes receive it once per run, whatever the number of calls and batches that need it. They decode it
    once, and all calls of a worker get the same object. In other backends, the calls get `value` itself. The marker is
    recognised as an argument of a call, by position or by keyword. It is also recognised inside other arguments and
    inside the callable: in Python's own containers and classes derived from them, in arrays of objects, partials and
    methods, and in the attributes and slots of objects. Worker processes find it in every object that can be pickled.
    Threads do not search objects whose class defines how they are pickled (``__reduce__``, ``__getstate__``), nor
    exceptions, iterators and the variables of closures.

    Parameters
    ----------
    value
        Any object. It must not be changed before the run ends.

    Returns
    -------
    A marker, to be used in the place of `value` in the arguments of delayed calls. Type checkers see `value` itself,
    because that is what the function receives.

    Examples
    --------
    >>> from shoal import Parallel, delayed, shared
    >>> table = shared({"a": 1, "b": 2})
    >>> Parallel(n_jobs=1)(delayed(dict.get)(table, key) for key in "ab")
    [1, 2]
    """
    return Shared(value)  # type: ignore[return-value]  # the call receives the value itself


def resolve_call(call: Call) -> Call:
    """Return a call in which values replace markers and other stand-ins, also those inside the arguments.

    This takes some microseconds. It takes 20 ms for a list of a million numbers, unless the list itself is marked.
    """
    if not Shared.alive:
        return shallow(call)
    function, args, kwargs = call
    memo: Memo = {}
    if type(function) is not FunctionType:
        function = _resolve(function, memo)
    if kwargs:
        kwargs = {name: _resolve(arg, memo) for name, arg in kwargs.items()}
    return function, tuple([_resolve(arg, memo) for arg in args]), kwargs


def resolve_value(value: Any) -> Any:
    """Return an object in which values replace markers; the object itself if it contains none."""
    return _resolve(value, {}) if Shared.alive else value


def _resolve(value: Any, memo: Memo) -> Any:
    cls = type(value)
    if cls in _LEAVES:
        return value
    if issubclass(cls, Placeholder):
        return value.resolve()
    return _rebuild(value, memo) if _contains_marker(value) else value


def _contains_marker(value: Any) -> bool:
    """Tell whether an object contains a marker. This is no recursion, because objects may be nested very deeply."""
    seen: dict[int, Any] = {}  # by id; the objects are kept, because some are made only for the search
    stack = [value]
    while stack:
        obj = stack.pop()
        cls: Any = type(obj)
        functions = _functions_for(cls)
        if functions is None or id(obj) in seen:
            continue
        seen[id(obj)] = obj
        parts = functions[0](obj)
        classes: set[Any] = set(map(type, parts)) - _LEAVES
        if any(issubclass(part_cls, Placeholder) for part_cls in classes):
            return True
        classes = {part_cls for part_cls in classes if _functions_for(part_cls) is not None}
        if classes:
            stack += [part for part in parts if type(part) in classes]
    return False


def _rebuild(obj: Any, memo: Memo) -> Any:
    """Return an object in which values replace markers. If it contains itself, the object inside stays as it was."""
    cls: Any = type(obj)
    if issubclass(cls, Placeholder):
        return obj.resolve()
    functions = _functions_for(cls)
    if functions is None:
        return obj
    if id(obj) not in memo:
        memo[id(obj)] = obj, obj
        take_apart, rebuild = functions
        before = take_apart(obj)
        after = [_rebuild(part, memo) for part in before]
        if any(new is not old for new, old in zip(after, before, strict=True)):
            memo[id(obj)] = obj, rebuild(obj, after)
    return memo[id(obj)][1]


@functools.lru_cache(512)
def _functions_for(cls: Any) -> tuple[TakeApart, Rebuild] | None:
    """Return the functions that take objects of a class apart and rebuild them; None if they are not searched."""
    if cls in _LEAVES:
        return None
    if cls in (list, tuple, set, frozenset):
        return list, _rebuild_sequence
    if cls is dict:
        return _keys_and_values, _rebuild_dict
    if cls.__module__ == "numpy" and cls.__name__ == "ndarray":
        return _parts_of_array, _rebuild_reduced
    return (_reduced_parts, _rebuild_reduced) if _reduced_by_python(cls) else None


def _reduced_by_python(cls: Any) -> bool:
    """Tell whether Python's own rules say how the objects of a class are pickled.

    Then, taking them apart runs no code of the class, and costs little. A class that defines how it is pickled may
    write a whole model into bytes for that.
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


def _rebuild_sequence(obj: Any, parts: Iterable[Any]) -> Any:
    return type(obj)(parts)


def _keys_and_values(obj: Any) -> list[Any]:
    copy = obj.copy()  # in one step, since another call may be changing the dictionary
    return [*copy, *copy.values()]


def _rebuild_dict(_obj: Any, parts: list[Any]) -> Any:
    half = len(parts) // 2
    return dict(zip(parts[:half], parts[half:], strict=True))


def _parts_of_array(obj: Any) -> list[Any]:
    return _reduced_parts(obj) if obj.dtype.hasobject else []


def _reduced_parts(obj: Any) -> list[Any]:
    """Take an object apart as pickle does."""
    try:
        reduced = obj.__reduce_ex__(4)
        function, args, state, items, pairs = (*reduced, None, None, None)[:5]
        return [function, args, state, None if items is None else [*items], None if pairs is None else [*pairs]]
    except Exception:  # the object cannot be pickled, or another call is changing it
        return []


def _rebuild_reduced(_obj: Any, parts: list[Any]) -> Any:
    """Make an object from its parts as pickle does."""
    function, args, state, items, pairs = parts
    new = function(*args)
    if state is not None:
        if hasattr(new, "__setstate__"):
            new.__setstate__(state)
        else:
            attributes, slots = state if type(state) is tuple else (state, None)
            if attributes:
                vars(new).update(attributes)
            for name, value in (slots or {}).items():
                setattr(new, name, value)
    for item in items or ():
        new.append(item)
    for key, value in pairs or ():
        new[key] = value
    return new


Placeholder.resolve_nested = resolve_call
