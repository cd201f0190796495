"""What the tests of dump and load share: objects of every kind, and a portrait of an object that tells all of it."""

from __future__ import annotations

import collections
import datetime
import decimal
import enum
import fractions
import pathlib
import types
import uuid
from typing import Any

import numpy as np
from hypothesis import strategies as st

COMPRESSORS = ("zlib", "gzip", "bz2", "lzma", "xz", "lz4", "zstd")
#: Those that joblib knows too.
JOBLIBS = COMPRESSORS[:-1]

_ATOMS = (type(None), bool, int, float, complex, str, bytes, type(...), type(NotImplemented))
_NAMED = (type, types.FunctionType, types.BuiltinFunctionType, types.ModuleType, np.ufunc)


def metadata(dtype: Any) -> dict[str, Any]:
    try:
        return dict(dtype.metadata or {})
    except TypeError:  # NumPy 1.24, of what NumPy 2 has pickled without any
        return {}


def portrait(value: Any, *, mapped: bool = False, stored: bool = False) -> Any:
    """Return what is equal for objects that are the same in everything: classes, values bit by bit, dtypes, the order
    and flags of arrays, which objects in it are one.

    Parameters
    ----------
    value
        Any object.
    mapped
        Take memory-mapped arrays for ordinary ones, whatever may be written into.
    stored
        Return that of the object when it is dumped and loaded: its arrays are then contiguous and can be written into.
    """
    seen: dict[int, tuple[int, Any]] = {}

    def seen_by(obj: Any) -> Any:
        if type(obj) in _ATOMS:
            return type(obj).__name__, repr(obj)
        if isinstance(obj, _NAMED):
            return getattr(obj, "__module__", None), getattr(obj, "__qualname__", obj.__name__)
        if isinstance(obj, (np.dtype, np.generic)):
            return of(obj)
        if id(obj) in seen:
            return "again", seen[id(obj)][0]
        seen[id(obj)] = len(seen), obj  # kept, so that no other object gets its id
        return of(obj)

    def of(obj: Any) -> Any:
        kind = f"{type(obj).__module__}.{type(obj).__qualname__}"
        if isinstance(obj, np.dtype):
            fields = None
            if obj.names is not None:
                fields = [(name, of(obj.fields[name][0]), obj.fields[name][1]) for name in obj.names]
            return str(obj), obj.itemsize, obj.isalignedstruct, fields, metadata(obj)
        if isinstance(obj, np.generic):
            return kind, of(obj.dtype), obj.tobytes()
        if isinstance(obj, np.ndarray) and type(obj) in (np.ndarray, np.memmap, np.matrix):
            if mapped and type(obj) is np.memmap:
                kind = "numpy.ndarray"
            has = obj.flags
            if stored and not (has.forc and has.writeable):
                has = np.empty(obj.shape, obj.dtype, "F" if has.fnc else "C").flags
            layout = has.c_contiguous, has.f_contiguous, mapped or has.writeable
            return kind, obj.shape, of(obj.dtype), layout, values(np.asarray(obj))
        if type(obj) in (list, tuple):
            return kind, [seen_by(item) for item in obj]
        if type(obj) is dict:
            return kind, [(seen_by(key), seen_by(item)) for key, item in obj.items()]
        if type(obj) in (set, frozenset):
            return kind, sorted(repr(portrait(item)) for item in obj)
        reduced = obj.__reduce_ex__(4)
        if isinstance(reduced, str):
            return kind, reduced
        function, arguments, state, items, pairs, *_ = (*reduced, None, None, None, None)
        parts = [function, arguments, state, items and list(items), pairs and list(pairs)]
        seen[id(parts)] = -1, (reduced, parts)
        return kind, [seen_by(function), *(part and seen_by_parts(part) for part in parts[1:])]

    def values(array: Any) -> Any:
        if array.dtype.names is not None:  # whatever stands between them
            return [values(array[name]) for name in array.dtype.names]
        if array.dtype.hasobject:
            return [seen_by(item) for item in array.ravel().tolist()]
        return array.tobytes()

    def seen_by_parts(part: Any) -> Any:
        """Return the portrait of what may be made anew at each reduction: its own identity is of no interest."""
        if type(part) in (list, tuple):
            return [seen_by(item) for item in part]
        if type(part) is dict:
            return [(key, seen_by(item)) for key, item in part.items()]
        return seen_by(part)

    try:
        return seen_by(value)
    finally:
        seen.clear()  # the functions refer to each other, and so would keep the objects until a garbage collection


# Arrays

_SIMPLE = [
    *("?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", "c8", "c16"),
    *(("g", "G") if np.dtype("g").itemsize > 8 else ()),  # else numpy pickles them as f8 and c16
    *("S5", "U3", "V7", "M8[s]", "M8[D]", "m8[ns]", "M8"),
]
_STRUCTURED: list[Any] = [
    [("a", "i4"), ("b", "f8")],
    [("a", ">i4"), ("b", ">f8")],
    [("a", "<i4"), ("b", ">f8"), ("c", "U2")],
    [("inner", [("x", "f4", (2, 3)), ("y", "S3")]), ("z", "?")],
]


def dtypes() -> st.SearchStrategy[Any]:
    """Return a strategy for dtypes without Python objects, of both byte orders."""
    swapped = st.sampled_from(_SIMPLE).map(lambda name: np.dtype(name).newbyteorder(">"))
    aligned = st.sampled_from(_STRUCTURED).map(lambda fields: np.dtype(fields, align=True))
    return st.one_of(st.sampled_from([*_SIMPLE, *_STRUCTURED]).map(np.dtype), swapped, aligned)


def filled(dtype: Any, shape: tuple[int, ...], seed: int = 0) -> Any:
    """Return an array of values that differ, among them those that are not equal to themselves."""
    chance = np.random.default_rng(seed)
    array = np.zeros(shape, dtype)
    if array.dtype.names is not None:
        for name in array.dtype.names:
            part = array[name]
            part[...] = filled(part.dtype, part.shape, seed + 1)
    elif array.dtype.kind == "O":
        array[...] = chance.integers(0, 9, shape)
    elif array.dtype.kind == "U":
        array[...] = chance.choice(np.array(["", "a", "éß", "雪🎿", "abc"]), shape)
    elif array.dtype.kind == "b":
        array[...] = chance.integers(0, 2, shape)
    elif array.dtype.kind in "MmSV" or array.dtype.char in "?bBhHiIlLqQefdFD":
        data = chance.bytes(array.nbytes)
        array = np.frombuffer(data, array.dtype).reshape(shape).copy() if array.nbytes else array
    else:  # bytes of longer floats are not all part of the number
        array[...] = chance.standard_normal(shape)
    return array


def _strided(array: Any) -> Any:
    wide = np.zeros((*array.shape[:-1], array.shape[-1] * 2), array.dtype) if array.ndim else array
    if array.ndim:
        wide[..., ::2] = array
        return wide[..., ::2]
    return wide


def _unaligned(array: Any) -> Any:
    if array.dtype.hasobject:
        return array
    memory = np.zeros(array.nbytes + 1, np.uint8)
    shifted = memory[1:].view(array.dtype).reshape(array.shape) if array.nbytes else array
    if array.nbytes:
        shifted[...] = array
    return shifted


def _read_only(array: Any) -> Any:
    array = array.copy()
    array.setflags(write=False)
    return array


LAYOUTS: dict[str, Any] = {
    "C": np.ascontiguousarray,
    "F": np.asfortranarray,
    "transposed": np.transpose,
    "strided": _strided,
    "reversed": lambda array: array[tuple(slice(None, None, -1) for _ in array.shape)],
    "swapped axes": lambda array: np.moveaxis(array, 0, -1) if array.ndim else array,
    "broadcast": lambda array: np.broadcast_to(array, (2, *array.shape)),
    "read-only": _read_only,
    "unaligned": _unaligned,
}

SHAPES = [(), (0,), (1,), (7,), (3, 0), (3, 5), (1, 4, 1), (2, 3, 4), (9000,), (40, 150), (3, 4, 500)]


def arrays() -> st.SearchStrategy[Any]:
    """Return a strategy for arrays of every dtype and layout, small and large."""
    return st.builds(
        lambda dtype, shape, seed, layout: LAYOUTS[layout](filled(dtype, shape, seed)),
        dtypes(),
        st.sampled_from(SHAPES),
        st.integers(0, 99),
        st.sampled_from(sorted(LAYOUTS)),
    )


# Containers


class Color(enum.Enum):
    RED = 1


class Point:
    def __init__(self, **fields: Any) -> None:
        vars(self).update(fields)


class Slots:
    __slots__ = ("a", "b")


class Stack(list):  # type: ignore[type-arg]
    name = "none"


class Table(dict):  # type: ignore[type-arg]
    pass


class Kelvin(np.ndarray):
    """An array of a class of its own."""


Pair = collections.namedtuple("Pair", "left right")  # type: ignore[name-match]

_ATOMIC = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=True),
    st.complex_numbers(allow_nan=False),
    st.text(max_size=8),
    st.binary(max_size=8),
    st.datetimes().map(lambda moment: moment.replace(fold=0)),  # early protocols lose it
    st.timedeltas(),
    st.dates(),
    st.decimals(allow_nan=False),
    st.fractions(),
    st.uuids(),
    st.just(Color.RED),
    st.sampled_from([int, np.float64, len, np.add, Point, ...]),
    dtypes(),
    dtypes().filter(lambda dtype: dtype.kind not in "OV").map(lambda dtype: filled(dtype, (1,))[0]),
)


def objects(leaves: st.SearchStrategy[Any] | None = None) -> st.SearchStrategy[Any]:
    """Return a strategy for nested containers, some parts of which stand in several places."""
    leaves = _ATOMIC | arrays() if leaves is None else leaves

    def grown(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        keys = st.text(max_size=3) | st.integers() | st.none()
        return st.one_of(
            st.lists(inner, max_size=5),
            st.lists(inner, max_size=4).map(tuple),
            st.dictionaries(keys, inner, max_size=4),
            st.builds(Pair, inner, inner),
            st.builds(Point, x=inner, y=inner),
            st.lists(inner, max_size=3).map(Stack),
            st.lists(inner, max_size=3).map(collections.deque),
            inner.map(lambda part: [part, {"again": part}, part]),
            st.lists(inner, min_size=1, max_size=4).map(_in_array),
        )

    return st.recursive(leaves, grown, max_leaves=12)


def _in_array(parts: list[Any]) -> Any:
    array = np.empty(len(parts), object)
    for index, part in enumerate(parts):
        array[index] = part
    return array


def zoo() -> dict[str, Any]:
    """Return objects of every kind, by name; made anew each time."""
    chance = np.random.default_rng(0)
    small, large = chance.standard_normal(10), chance.standard_normal((300, 40))
    loop: list[Any] = [1, small]
    loop.append(loop)
    ring = _in_array([small, None, {"in": small}, 1])
    ring[1] = ring
    node = Point(name="node", data=large)
    node.self, node.parts = node, {"node": node, "data": large}
    slots = Slots()
    slots.a, slots.b = large, [slots]
    stack = Stack([small, large, small])
    stack.name = "named"
    tied: tuple[Any, ...] = ([],)
    tied[0].append(tied)
    return {
        "none": None,
        "numbers": [0, -1, 2**31, -(2**63), 2**70, 10**400, -0.0, float("inf"), float("nan"), 1e-310, 1 - 2j],
        "many floats": [index / 7 for index in range(12_000)],
        "many objects": [{"key": index, "text": str(index), "pair": (index, None)} for index in range(900)],
        "strings": ["", "a" * 255, "b" * 256, "c" * 70_000, "é雪🎿\ud800\n'\\", "x" * 300_000],
        "bytes": [b"", bytes(range(256)), b"\x94" * 70_000, bytearray(b"b" * 100), bytearray(b"c" * 200_000)],
        "sets": [set(), {1, "a", (2,)}, frozenset("abc")],
        "dates": [datetime.datetime(2024, 2, 29, 1, 2, 3, 4, datetime.timezone.utc), datetime.timedelta(1, 2, 3)],
        "library": [decimal.Decimal("1.10"), fractions.Fraction(1, 3), uuid.UUID(int=5), range(3), slice(1, None)],
        "paths": [pathlib.PurePosixPath("/a/b"), Color.RED, Pair(1, [2])],
        "collections": [collections.OrderedDict(b=1, a=2), collections.Counter("aab"), collections.deque([1], 5)],
        "named": [int, len, np.add, np.ndarray, Point, np.dtype("f4"), types.SimpleNamespace(a=1), dict.fromkeys],
        "classes": [node, slots, stack, Table(a=large)],
        "aliases": {"a": small, "b": large, "c": [small, large, {"again": large}], "d": small, "e": [large] * 3},
        "recursive": [loop, ring, tied],
        "objects": [_in_array([small, large, "x", None]), np.array([[1, "a"], [None, 2.5]], object)],
        "object fields": np.array([(1, [small]), (2, None)], [("a", "i4"), ("b", "O")]),
        "no items": [np.array([], "U0"), np.zeros(3, "S0"), np.zeros((0, 3)), np.zeros((2, 0, 4), "M8[s]")],
        "scalars": [
            np.float32(1.5),
            np.int64(-1),
            np.bool_(True),
            np.str_("a"),
            np.datetime64("2020", "D"),
            large[0, 0],
        ],
        "matrix": [np.eye(3).view(np.matrix), large.view(np.matrix)],
        "masked": [np.ma.masked_array(part, part > 0, fill_value=7.0) for part in (small, large)] + [np.ma.masked],
        "subclass": [
            small.view(Kelvin),
            large.view(Kelvin),
            np.rec.array([(1, 2.0)], dtype="i4,f8"),
        ],
        "random": [np.random.RandomState(3), np.random.default_rng(3), np.random.PCG64(4)],
        "poly": [np.polynomial.Polynomial([1, 2, 3]), np.poly1d([1, 2])],
        "titles": filled(
            np.dtype({"names": ["a", "b"], "formats": ["i2", ">f8"], "offsets": [1, 8], "itemsize": 24}), (3,)
        ),
        "metadata": np.zeros(3, np.dtype("f8", metadata={"unit": "m"})),
        "many arrays": [filled("f8", (index % 9,), index) for index in range(300)],
        "both": [filled("i4", (20_000,)), small, filled("u1", (70_000,)), filled("f4", (3,)), "tail"],
        "layouts": [layout(filled("f8", shape)) for layout in LAYOUTS.values() for shape in ((7,), (3, 5), (60, 150))],
    }
