"""The globals that every file may import, and how it may use them: only as pickle does for plain data."""

from __future__ import annotations

import re
from typing import Any

from shoal.persistence.trust._dtypes import RECORDS, Dtype, SurveyedArray, TextDtype, need, shape_of
from shoal.persistence.trust._standins import PLAIN, Container, Global, Result, Rule, simple

_FRACTION = re.compile(r"-?\d+(/\d+)?")


def _plain(*args: Any) -> None:
    need(all(type(arg) in PLAIN for arg in args), "something else than plain data")


def _nothing(*args: Any) -> None:
    need(not args, "arguments")


def _texts(*args: Any) -> None:
    need(all(type(arg) is str for arg in args), "something else than strings")


def _items(items: Any = ()) -> None:
    need(type(items) in (list, tuple), "something else than a list")


def _hashed(*items: Any) -> None:
    """Take a list: what is in a tuple is not charged, see :class:`~shoal.persistence.trust._depth.Depths`."""
    need(not items or (len(items) == 1 and type(items[0]) is list), "something else than a list")


def _pairs(pairs: Any = ()) -> None:
    """Take pairs as Python 2 wrote them. Newer pickles set the items, which is where keys are charged."""
    need(
        type(pairs) in (list, tuple) and all(type(pair) in (list, tuple) and len(pair) == 2 for pair in pairs),
        "no pairs",
    )
    need(all(simple(key) for key, _ in pairs), "keys that are not plain data")


def _uuid(state: Any) -> None:
    need(type(state) is dict and type(state.get("int")) is int, "no number")
    need(type(state.get("is_safe")) in (int, type(None)) or isinstance(state["is_safe"], Result), "no safety")


def _attributes(state: Any) -> None:
    need(type(state) is dict, "something else than attributes")


def _bytes(data: Any = b"", encoding: Any = "latin-1") -> bytes:
    if type(data) is str and encoding in ("latin-1", "latin1"):
        return data.encode("latin-1")
    need(type(data) is bytes, "no bytes")
    return data  # type: ignore[no-any-return]


def _bytearray(data: Any = b"", encoding: Any = "latin-1") -> bytearray:
    return bytearray(_bytes(data, encoding))


def _encode(text: Any, encoding: Any) -> bytes:
    need(type(text) is str, "no text")
    return _bytes(text, encoding)


def _fraction(number: Any, denominator: Any = 1) -> None:
    need(type(denominator) is int and (type(number) is int or _FRACTION.fullmatch(number)), "no fraction")


def _time(*args: Any) -> None:
    need(all(type(arg) in PLAIN or isinstance(arg, Result) for arg in args), "something else than times")


def _counter(counts: Any) -> None:
    need(type(counts) is dict, "something else than a dict")


def _deque(items: Any = (), maximum: Any = None) -> None:
    _items(items)
    _plain(maximum)


def _defaultdict(factory: Any = None) -> None:
    need(factory is None or isinstance(factory, Global), "a factory that is no global")


def _reconstructor(kind: Any, base: Any, state: Any) -> Any:
    need(isinstance(base, Global), "something else than a class")
    if type(kind) is type:  # the class that the reader uses for joblib's wrapper
        need(base.name == "builtins.object" and state is None, "a state")
        return kind()
    need(isinstance(kind, Global), "something else than a class")
    if base.name == "builtins.object":
        need(state is None, "a state")
        return kind.called((), {}, "made")
    known = {"list": list, "dict": dict, "tuple": tuple, "int": int, "float": float, "complex": complex, "str": str}
    expected = known.get(base.name.removeprefix("builtins."))
    need(type(state) is expected and kind.rule is None, f"a state of {base.name}")
    return kind.result


def _newobj(kind: Any, *args: Any) -> Any:
    need(isinstance(kind, Global), "something else than a class")
    need(not args or kind.rule is None or kind.rule.call is not _hashed, "what is to be hashed")
    return kind.called(args, {}, "made")


def _reconstruct(kind: Any, shape: Any, code: Any) -> Any:
    need(isinstance(kind, Global) and (kind.rule is None or kind.rule.change is _array_state), "no array")
    _empty(shape, code)
    return Container(kind)


def _mareconstruct(kind: Any, base: Any, shape: Any, code: Any) -> Any:
    need(isinstance(kind, Global) and (kind.rule is None or kind.rule.change is _masked_state), "no masked array")
    need(isinstance(base, Global) and base.name in _ARRAYS, "a base that is no array")
    _empty(shape, code)
    return Container(kind)


def _empty(shape: Any, code: Any) -> None:
    need(shape_of(shape) == (0,) and _bytes(code) == b"b", "an array that is not empty")


def _dtype(value: Any) -> Dtype:
    need(isinstance(value, Dtype), "something else than a dtype of numpy")
    return value  # type: ignore[no-any-return]


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> Any:
    need(type(data) in (bytes, bytearray) and not _dtype(dtype).real.hasobject, "something else than bytes")
    need(axes is None or shape_of(tuple(axes)) is not None, "axes")
    return dtype.described(shape)


def _ndarray(shape: Any, dtype: Any, data: Any, offset: Any = 0, strides: Any = None, order: Any = None) -> Any:
    need(offset == 0 and strides is None, "strides")
    need(type(data) in (bytes, bytearray) and not _dtype(dtype).real.hasobject, "something else than bytes")
    array = dtype.described(shape)
    need(array.nbytes <= len(data), "fewer bytes than it has")
    return array


def _scalar(dtype: Any, data: Any) -> None:
    need(type(data) is bytes and not _dtype(dtype).real.hasobject, "something else than bytes")
    need(len(data) == dtype.real.itemsize, "another number of bytes")


def _array_state(state: Any) -> SurveyedArray:
    need(type(state) is tuple and len(state) in (4, 5), "other parts")
    shape, dtype, _, data = state[-4:]
    array = _dtype(dtype).described(shape)
    if dtype.real.hasobject:
        dtype.check_objects(data, shape)
    else:
        need(type(data) is bytes and len(data) == array.nbytes, "another number of bytes")
    return array


def _masked_state(state: Any) -> SurveyedArray:
    need(type(state) is tuple and len(state) == 7 and type(state[5]) is bytes, "its parts")
    need(type(state[6]) in PLAIN or isinstance(state[6], (Container, Result)), "a fill value that is no scalar")
    return _array_state(state[:5])


_CORES = ("numpy.core", "numpy._core")
_ARRAYS = (
    *("numpy.ndarray", "numpy.memmap", "numpy.matrix", "numpy.recarray", "numpy.rec.recarray", "numpy.char.chararray"),
    *("numpy.matrixlib.defmatrix.matrix", "numpy.core.defchararray.chararray"),
    *(f"{core}.{name}" for core in _CORES for name in ("records.recarray", "memmap.memmap")),
)
_SCALARS = (
    "bool bool_ int8 int16 int32 int64 intc intp longlong uint8 uint16 uint32 uint64 uintc uintp ulonglong float16 "
    "float32 float64 float128 longdouble complex64 complex128 complex256 clongdouble str_ bytes_ void object_ "
    "datetime64 timedelta64 number integer signedinteger unsignedinteger inexact floating complexfloating generic"
)
_PATHS = "PurePath PurePosixPath PureWindowsPath Path PosixPath WindowsPath"
_ARRAY = Rule(None, _array_state)

#: The globals that `trusted` need not name, and how each may be used. Used in this way, none of them runs code, reads
#: files, imports modules, or takes more memory than its arguments do.
SAFE: dict[str, Rule] = {
    **{f"builtins.{name}": Rule() for name in ("list", "dict", "tuple", "int", "float", "bool", "str")},
    **{f"builtins.{name}": Rule() for name in ("Ellipsis", "NotImplemented")},
    "builtins.object": Rule(_nothing),
    "builtins.bytes": Rule(_bytes),
    "builtins.bytearray": Rule(_bytearray),
    "builtins.set": Rule(_hashed),
    "builtins.frozenset": Rule(_hashed),
    **{f"builtins.{name}": Rule(_plain) for name in ("complex", "range", "slice")},
    "collections.OrderedDict": Rule(_pairs, _attributes),
    "collections.Counter": Rule(_counter, _attributes),
    "collections.deque": Rule(_deque, _attributes, contains=True),
    "collections.defaultdict": Rule(_defaultdict, _attributes, contains=True),
    **{f"datetime.{name}": Rule(_time) for name in ("date", "time", "datetime", "timedelta", "timezone")},
    "decimal.Decimal": Rule(_texts),
    "fractions.Fraction": Rule(_fraction),
    "uuid.UUID": Rule(_nothing, _uuid),
    **{f"{module}.{name}": Rule(_texts) for module in ("pathlib", "pathlib._local") for name in _PATHS.split()},
    "_codecs.encode": Rule(_encode),
    "copyreg._reconstructor": Rule(_reconstructor),
    "copyreg.__newobj__": Rule(_newobj),
    "numpy.dtype": Rule(Dtype),
    "numpy._core._internal._convert_to_stringdtype_kwargs": Rule(TextDtype),
    **{f"numpy.{name}": Rule() for name in _SCALARS.split()},
    **dict.fromkeys(RECORDS, Rule()),
    **dict.fromkeys(_ARRAYS, _ARRAY),
    "numpy.ndarray": Rule(_ndarray, _array_state),
    **{f"{core}.multiarray._reconstruct": Rule(_reconstruct) for core in _CORES},
    **{f"{core}.multiarray.scalar": Rule(_scalar) for core in _CORES},
    **{f"{core}.numeric._frombuffer": Rule(_frombuffer) for core in _CORES},
    **{f"{module}.MaskedArray": Rule(None, _masked_state) for module in ("numpy.ma", "numpy.ma.core")},
    "numpy.ma.core.MaskedConstant": Rule(_nothing),
    "numpy.ma.core._mareconstruct": Rule(_mareconstruct),
}
