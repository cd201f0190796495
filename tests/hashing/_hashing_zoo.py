"""Values of every kind that is hashed, by name. Made anew each time: no two zoos share an object.

What runs here must not depend on the version of Python or numpy, nor on chance: digests of it lie in fixtures/.
"""

from __future__ import annotations

import array
import collections
import datetime
import decimal
import enum
import fractions
import functools
import operator
import pathlib
import posixpath
import re
import types
import uuid
from typing import Any

import numpy as np


class Point:
    """An object of a module that can be imported."""

    def __init__(self, x: Any = 1) -> None:
        self.x, self.tags = x, {"a": 1, "b": (1, 2)}

    def method(self) -> None: ...

    @classmethod
    def made(cls) -> None: ...

    @staticmethod
    def alone() -> None: ...


class Slots:
    __slots__ = ("a", "b")

    def __init__(self) -> None:
        self.a, self.b = 1, "x"


class Color(enum.Enum):
    RED = 1
    BLUE = "b"


class Bits(enum.Flag):
    ONE = 1
    TWO = 2


class Words(list[str]):
    pass


class Table(dict[Any, Any]):
    pass


class Chosen(set[Any]):
    pass


class Moment(datetime.datetime):
    source: str


class Money(decimal.Decimal):
    __slots__ = ("currency",)


class Share(fractions.Fraction):
    holder: str


class Place(pathlib.PurePosixPath):
    host: str


class Row(array.array):  # type: ignore[type-arg]
    unit: str


class Tally(collections.Counter[str]):
    title: str


class Ordered(collections.OrderedDict[str, int]):
    title: str


class Quantity(np.ndarray[Any, Any]):
    __slots__ = ("unit",)


class Flagged(np.ma.MaskedArray[Any, Any]):
    unit: str


class Measured(np.float64):
    unit: str


class Counted(np.float64):
    unit: str


Pair = collections.namedtuple("Pair", "a b")


def having(obj: Any, **attributes: Any) -> Any:
    """Give an object attributes."""
    for name, value in attributes.items():
        setattr(obj, name, value)
    return obj


def function(x: int) -> int:
    return x


def plain() -> dict[str, Any]:
    """Builtin values."""
    return {
        "none": None,
        "true": True,
        "one": 1,
        "byte": 255,
        "short": 65536,
        "negative": -5,
        "int31": 2**31,
        "big": 2**100,
        "bigger": -(2**3000),
        "float": 1.0,
        "zero": 0.0,
        "negative zero": -0.0,
        "nan": float("nan"),
        "inf": float("inf"),
        "complex": 1j,
        "str": "1",
        "accents": "é\u1234\U0001f600",
        "surrogate": "\ud800",
        "long str": "é" * 100_000,
        "bytes": b"1",
        "long bytes": b"x" * 100_000,
        "bytearray": bytearray(b"1"),
        "no bytearray": bytearray(),
        "ellipsis": ...,
        "range": range(5),
        "slice": slice(1, 2),
        "tuple0": (),
        "tuple1": (1,),
        "tuple3": (1, "1", b"1"),
        "tuple4": (1, 2, 3, 4),
        "list0": [],
        "list1": [1],
        "list1000": list(range(1000)),
        "list1001": list(range(1001)),
        "list2500": [str(i) for i in range(2500)],
        "lists": [[i] for i in range(2500)],
        "long lists": [[i] * 500 for i in range(50)],
        "deep": [[[[1], (2,)], {"a": [3]}]],
        "dict0": {},
        "dict": {"b": 1, "a": [2]},
        "dict of numbers": {2: "a", 1: "b"},
        "dict of kinds": {1: 2, "a": 3, None: 4},
        "dict of tuples": {(1, "a"): 2, (2, "b"): 3},
        "long dict": {str(i): i for i in range(3000)},
        "dict of dicts": {"a": {"b": {"c": 1}}},
        "set0": set(),
        "set": {3, 1, 2},
        "set of str": {"a", "b", "c"},
        "set of kinds": {1, "a", None},
        "set of sets": {frozenset({1}), frozenset({2})},
        "frozenset": frozenset({1}),
        "decimals": {decimal.Decimal("NaN"), decimal.Decimal(1)},
        "same strings": ["aa", "a" + "aZ"[:1]],
        "array.array": array.array("i", [1, 2]),
    }


def objects() -> dict[str, Any]:
    """Instances, functions, classes."""
    part: Any = functools.partial(max, 1, key=len)
    return {
        "instance": Point(),
        "instances": [Point(), Point(2)],
        "bound": Point().method,
        "class method": Point.made,
        "static method": Point.alone,
        "function": function,
        "method of class": Point.method,
        "class": Point,
        "builtin class": dict,
        "len": len,
        "append": [1].append,
        "upper": str.upper,
        "bound upper": "x".upper,
        "join": posixpath.join,
        "partial": part,
        "getter": operator.itemgetter(1),
        "slots": Slots(),
        "enum": Color.RED,
        "flag": Bits.ONE | Bits.TWO,
        "namedtuple": Pair(1, 2),
        "kind of list": Words(["a"]),
        "kind of dict": Table(a=1, b=2),
        "ordered": collections.OrderedDict(a=1, b=2),
        "default": collections.defaultdict(list, a=[1]),
        "counter": collections.Counter("abca"),
        "deque": collections.deque([1, 2], 5),
        "decimal": decimal.Decimal("1.50"),
        "fraction": fractions.Fraction(1, 2),
        "path": pathlib.PurePosixPath("/a/b"),
        "uuid": uuid.UUID(int=5),
        "pattern": re.compile("a"),
        "datetime": datetime.datetime(2020, 1, 1, 12),
        "aware": datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc),
        "timedelta": datetime.timedelta(1),
        "exception": ValueError("x", 1),
    }


def arrays() -> dict[str, Any]:
    """Of numpy."""
    numbers: Any = np.arange(24)
    record = np.dtype([("a", "i4"), ("b", "f8")])
    return {
        "array": np.arange(10, dtype="i8"),
        "int32": np.arange(10, dtype="i4"),
        "big-endian": np.arange(10, dtype=">i4"),
        "table": numbers.reshape(4, 6).copy(),
        "fortran": np.asfortranarray(numbers.reshape(4, 6)),
        "strided": numbers.reshape(4, 6)[::2, ::3],
        "backwards": numbers[::-1],
        "transposed": numbers.reshape(2, 3, 4).transpose(1, 0, 2),
        "broadcast": np.broadcast_to(np.arange(3), (4, 3)),
        "large and strided": np.arange(1_000_000, dtype="i4").reshape(10, 10, 100, 100)[:, :, ::2, ::-1],
        "0-d": np.array(3.0),
        "empty": np.zeros((0, 3)),
        "empty the other way": np.zeros((3, 0)),
        "bool": np.array([True, False]),
        "complex": np.ones(3, complex),
        "float16": np.ones(3, np.float16),
        "dates": np.array(["2020-01-01"], "M8[D]"),
        "nanoseconds": np.array([1], "m8[ns]"),
        "str": np.array(["ab", "c"]),
        "bytes": np.array([b"ab"]),
        "void": np.zeros(2, "V3"),
        "record": np.array([(1, 2.0)], record),
        "aligned": np.zeros(2, np.dtype([("a", "i1"), ("b", "f8")], align=True)),
        "recarray": np.rec.array([(1, 2.0)], dtype=record),
        "matrix": np.eye(2).view(np.matrix),
        "objects": np.array([1, "a", None, [1]], dtype=object),
        "table of objects": np.array([[{}, 1]], dtype=object),
        "record of objects": np.array([(1, "a")], dtype=[("a", "i4"), ("b", "O")]),
        "dtype": np.dtype("f4"),
        "record dtype": np.dtype([("a", "i4"), ("b", "f8", (2,))]),
        "dtypes": [np.dtype("f4"), np.dtype("f4")],
        "arrays": [np.arange(3), np.arange(3)],
        "int64": np.int64(1),
        "float64": np.float64(1),
        "float32": np.float32(1),
        "np.bool": np.bool_(True),
        "np.str": np.str_("1"),
        "np.bytes": np.bytes_(b"1"),
        "date": np.datetime64("2020"),
        "np.void": np.zeros(1, record)[0],
        "scalars": [np.float64(1), np.float64(1)],
        "array class": np.ndarray,
        "bound to array": np.arange(3).sum,
    }


def told_apart() -> dict[str, Any]:
    """Values that joblib takes for others in this list, or cannot hash: pickles leave out what tells them apart."""

    def masked() -> Any:
        return np.ma.array([1, 2], mask=[True, False], dtype="i8")

    def integers() -> Any:
        return np.arange(3, dtype="i8")

    return {
        "ordered one way": collections.OrderedDict(a=1, b=2),
        "ordered the other way": collections.OrderedDict(b=2, a=1),
        "kind of ordered": having(Ordered(a=1, b=2), title="x"),
        "kind of ordered the other way": having(Ordered(b=2, a=1), title="x"),
        "view of ordered": types.MappingProxyType(collections.OrderedDict(a=1, b=2)),
        "view of ordered the other way": types.MappingProxyType(collections.OrderedDict(b=2, a=1)),
        "view of dict": types.MappingProxyType({"a": 1, "b": 2}),
        "view of default": types.MappingProxyType(collections.defaultdict(int, a=1, b=2)),
        "kind of datetime": having(Moment(2020, 1, 1), source="x"),
        "kind of datetime from elsewhere": having(Moment(2020, 1, 1), source="y"),
        "kind of decimal": having(Money("1.50"), currency="EUR"),
        "kind of decimal of another": having(Money("1.50"), currency="USD"),
        "kind of fraction": having(Share(1, 2), holder="x"),
        "kind of fraction of another": having(Share(1, 2), holder="y"),
        "kind of path": having(Place("/a"), host="x"),
        "kind of path elsewhere": having(Place("/a"), host="y"),
        "array.array": array.array("i", [1, 2, 3]),
        "kind of array.array": having(Row("i", [1, 2, 3]), unit="m"),
        "kind of array.array in another": having(Row("i", [1, 2, 3]), unit="s"),
        "kind of counter": having(Tally("ab"), title="x"),
        "kind of counter of another": having(Tally("ab"), title="y"),
        "slots": having(integers().view(Quantity), unit="m"),
        "other slots": having(integers().view(Quantity), unit="s"),
        "masked": masked(),
        "masked, with a note": having(masked(), _optinfo={"a": 1}),
        "masked, with another note": having(masked(), _optinfo={"a": 2}),
        "kind of masked": having(masked().view(Flagged), unit="m"),
        "kind of masked in another": having(masked().view(Flagged), unit="s"),
        "masked matrix": np.ma.array(np.eye(2).view(np.matrix)),
        "masked table": np.ma.array(np.eye(2)),
        "kind of float64": having(Measured(1), unit="m"),
        "kind of float64 in another": having(Measured(1), unit="s"),
        "another kind of float64": having(Counted(1), unit="m"),
    }


def zoo() -> dict[str, Any]:
    """All of them."""
    return {
        f"{kind} {name}": value
        for kind, values in (("plain", plain()), ("object", objects()), ("numpy", arrays()))
        for name, value in values.items()
    }
