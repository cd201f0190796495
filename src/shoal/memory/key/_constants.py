"""The values of constants, as what is hashed of them for ``depends="auto"``."""

from __future__ import annotations

import functools
import inspect
import re
import sys
import types
from collections.abc import Iterator
from dataclasses import is_dataclass
from enum import Enum
from typing import Any

from shoal.errors import HashingError
from shoal.hashing import hash

#: The number of values in a constant, and the size of an array, that count.
_MOST_VALUES, _MOST_BYTES = 1_000, 65_536
#: The number of values in the value of an enum that is a key.
_ELEMENT = 10
PLAIN = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis), range, slice)
_CODE = (types.FunctionType, types.MethodType, type, functools.partial)


def counted(value: Any) -> Any:
    """Return a value that can be hashed and stands for a constant; None if the constant does not count."""
    budget = [_MOST_VALUES]
    found = _counted(value, budget)
    return None if budget[0] < 0 else found


def _counted(value: Any, budget: list[int]) -> Any:
    budget[0] -= 1
    if budget[0] < 0:
        return None
    kind = type(value)
    if pretends(value):
        return None
    if isinstance(value, PLAIN):
        return value
    if kind is list or issubclass(kind, tuple):
        return [kind.__name__, *[_counted(item, budget) for item in value]]
    if kind is dict:
        return {_hashable(name): _counted(item, budget) for name, item in value.items()}
    if kind in (set, frozenset):
        return {_hashable(item) for item in value} if len(value) <= _MOST_VALUES else None
    if isinstance(value, (type, types.FunctionType, types.BuiltinFunctionType, types.ModuleType)):
        return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', value.__name__)}"
    if kind is re.Pattern:
        return ["re.Pattern", value.pattern, value.flags]
    if isinstance(value, Enum):
        return [kind.__qualname__, value._name_, _counted(value._value_, budget)]
    numpy = sys.modules.get("numpy")
    small = numpy is not None and isinstance(value, (numpy.ndarray, numpy.generic)) and value.nbytes <= _MOST_BYTES
    if small or is_dataclass(value):
        try:
            return hash(value)
        except HashingError:
            pass
    return None


def _hashable(value: Any) -> Any:
    """Return what stands for a key of a dictionary, or for an element of a set."""
    if pretends(value):
        return repr(type(value))
    if isinstance(value, PLAIN):
        return value
    if type(value) in (tuple, frozenset):
        return (type(value).__name__, *map(_hashable, value))
    if isinstance(value, (Enum, type, types.FunctionType)):
        return repr(_counted(value, [_ELEMENT]))
    return repr(type(value))


def code_in(value: Any) -> Iterator[Any]:
    """Yield the functions and classes in a constant, such as a table of functions by name."""
    inside = value.values() if type(value) is dict else value if type(value) in (list, tuple, set, frozenset) else ()
    for number, item in enumerate(inside):
        if (
            number < _MOST_VALUES
            and not pretends(item)
            and isinstance(item, (types.FunctionType, types.MethodType, type, functools.partial))
        ):
            yield item


def pretends(value: Any) -> bool:
    """Return whether an object runs code of the user when it is asked for its type, as lazy proxies do."""
    kind: Any = type(value)
    return _runs_code(kind)


@functools.lru_cache(1024)
def _runs_code(kind: Any) -> bool:
    asked = inspect.getattr_static(kind, "__getattribute__", None), inspect.getattr_static(kind, "__class__", None)
    return isinstance(asked[0], types.FunctionType) or isinstance(asked[1], property)
