"""The values of constants, as what is hashed of them for ``depends="auto"``."""

from __future__ import annotations

import functools
import inspect
import re
import sys
import types
from collections import deque
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from enum import Enum
from itertools import islice
from typing import Any

from shoal.errors import HashingError
from shoal.hashing import hash
from shoal.hashing._functions import cell_contents

#: The number of values in a constant, and the size of an array, that count.
_MOST_VALUES, _MOST_BYTES = 1_000, 65_536
#: How deep a constant may be nested. A list that contains itself does not count.
_MOST_DEEP = 100
#: The number of values in the value of an enum that is a key.
_ELEMENT = 10
PLAIN = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis), range, slice)
#: Numbers whose text says everything, by module and name: these modules are not imported only to check a type.
_NUMBERS = frozenset({("decimal", "Decimal"), ("fractions", "Fraction")})
_CODE = (types.FunctionType, types.MethodType, type, functools.partial)


def counted(value: Any) -> Any:
    """Return a value that can be hashed and stands for a constant; None if the constant does not count."""
    budget = [_MOST_VALUES]
    found = _counted(value, budget)
    return None if budget[0] < 0 else found


def _counted(value: Any, budget: list[int], depth: int = 0) -> Any:
    budget[0] = budget[0] - 1 if depth < _MOST_DEEP else -1
    if budget[0] < 0:
        return None
    kind = type(value)
    if pretends(value):
        return None
    if isinstance(value, PLAIN):
        return value
    if kind is list or issubclass(kind, tuple):
        return [kind.__name__, *[_counted(item, budget, depth + 1) for item in value]]
    if kind is dict:
        return {_hashable(name): _counted(item, budget, depth + 1) for name, item in value.items()}
    if kind in (set, frozenset):
        return {_hashable(item) for item in value} if len(value) <= _MOST_VALUES else None
    if isinstance(value, (type, types.FunctionType, types.BuiltinFunctionType, types.ModuleType)):
        return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', value.__name__)}"
    if _is_number(value):
        return [kind.__name__, str(value)]
    if kind is re.Pattern:
        return ["re.Pattern", value.pattern, value.flags]
    if isinstance(value, Enum):
        return [kind.__qualname__, value._name_, _counted(value._value_, budget, depth + 1)]
    numpy = sys.modules.get("numpy")
    small = numpy is not None and isinstance(value, (numpy.ndarray, numpy.generic)) and value.nbytes <= _MOST_BYTES
    if small or is_dataclass(value):
        try:
            return hash(value)
        except HashingError:
            pass
    return None


def is_fixed(value: Any) -> bool:
    """Return whether a constant that counts cannot change in place."""
    return isinstance(value, (*PLAIN, tuple, frozenset, Enum, re.Pattern)) or _is_number(value)


def _is_number(value: Any) -> bool:
    return (type(value).__module__, type(value).__name__) in _NUMBERS


def _hashable(value: Any) -> Any:
    """Return what stands for a key of a dictionary, or for an element of a set."""
    if pretends(value):
        return repr(type(value))
    if isinstance(value, PLAIN):
        return value
    if type(value) in (tuple, frozenset):
        return (type(value).__name__, *map(_hashable, value))
    if isinstance(value, (Enum, type, types.FunctionType)) or _is_number(value):
        return repr(_counted(value, [_ELEMENT]))
    return repr(type(value))


def code_in(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the functions and classes in a constant, such as a table of functions by name, and where they are in it.

    Their order is the same in each process.
    """
    pending, budget = deque(_items_of(value, _MOST_VALUES)), _MOST_VALUES
    while pending and budget:
        budget -= 1
        place, item = pending.popleft()
        if pretends(item):
            continue
        if isinstance(item, _CODE):
            yield place, item
        else:
            pending.extend((place + inner, each) for inner, each in _items_of(item, budget))


def _items_of(value: Any, most: int) -> list[tuple[str, Any]]:
    """Return what a container holds, up to a number of objects, and where it is in the container."""
    kind = type(value)
    if kind is dict:
        named = [(f"[{_hashable(name)!r}]", item) for name, item in islice(value.items(), most)]
        return sorted(named, key=lambda pair: pair[0])
    if kind is list or issubclass(kind, tuple):
        return [(f"[{number}]", item) for number, item in enumerate(islice(value, most))]
    if kind in (set, frozenset):
        return [("", item) for item in sorted(islice(value, most), key=_order)]
    if not pretends(value) and is_dataclass(value) and not isinstance(value, type):
        return [(f".{field.name}", getattr(value, field.name, None)) for field in fields(value)]
    return []


def _order(item: Any) -> str:
    """Return what the elements of a set are sorted by: the name, code and variables of a function."""
    is_function = type(item) is types.FunctionType
    cells = [cell_contents(cell) for cell in item.__closure__ or ()] if is_function else []
    code = item.__code__ if is_function else None
    return hash([_counted(item, [_ELEMENT]), code, counted(cells)])


def pretends(value: Any) -> bool:
    """Return whether an object runs code of the user when it is asked for its type, as lazy proxies do."""
    kind: Any = type(value)
    return _runs_code(kind)


@functools.lru_cache(1024)
def _runs_code(kind: Any) -> bool:
    asked = inspect.getattr_static(kind, "__getattribute__", None), inspect.getattr_static(kind, "__class__", None)
    return isinstance(asked[0], types.FunctionType) or isinstance(asked[1], property)
