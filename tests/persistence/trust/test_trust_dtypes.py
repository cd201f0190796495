"""Arrays of less common dtypes: structs whose fields are reordered or overlap, and numpy's StringDType."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest

import shoal
from _trust_opcodes import PROTO4, named, refused, text
from shoal import FileLimitError

TABLE = np.zeros(10, [("a", "i4"), ("b", "f8"), ("c", "i2")])
TABLE["a"] = range(10)
UNION = np.dtype({"names": ["i", "f"], "formats": ["i4", "f4"], "offsets": [0, 0]})
HELD = np.zeros(4, [("a", "O"), ("b", "f8"), ("c", "O")])
ALIGNED = np.zeros(4, np.dtype([("a", "i1"), ("b", "f8")], align=True))
STRUCTS = {
    "reordered": TABLE[["b", "a"]],
    "union": np.arange(5, dtype="i4").view(UNION),
    "record array": TABLE[["c", "a"]].view(np.recarray),
    "records that overlap": np.arange(5, dtype="i4").view(UNION).view(np.recarray),
    "objects": HELD[["c", "a"]],
    "aligned": ALIGNED[["b", "a"]],
    "nested": np.zeros(3, [("x", TABLE[["b", "a"]].dtype), ("y", "i4")]),
    "Fortran order": np.asfortranarray(TABLE.reshape(2, 5)[["b", "a"]]),
}


@pytest.mark.parametrize("compress", [0, 3])
@pytest.mark.parametrize("writer", [shoal, joblib])
@pytest.mark.parametrize("name", STRUCTS)
def test_structs_whose_fields_are_not_in_order(tmp_path: Path, name: str, writer: Any, compress: int) -> None:
    array, path = STRUCTS[name], tmp_path / "table.pkl"
    writer.dump(array, path, compress=compress)
    mode = None if compress else "r"
    for loaded in (
        shoal.load(path),
        joblib.load(path),
        shoal.load(path, trusted=[]),
        shoal.load(path, mmap_mode=mode),
        shoal.load(path, mmap_mode=mode, trusted=[]),
    ):
        assert loaded.dtype == array.dtype
        assert loaded.tolist() == array.tolist()
    info = shoal.inspect(path)
    assert (info.misuses, info.untrusted) == ((), ())
    assert [found.shape for found in info.arrays if found.shape] == [array.shape]


def strings(**options: Any) -> Any:
    if not hasattr(np.dtypes, "StringDType"):
        pytest.skip("numpy 1 has no StringDType")
    return np.dtypes.StringDType(**options)


def dumped(value: Any, writer: Any = shoal) -> io.BytesIO:
    file = io.BytesIO()
    writer.dump(value, file)
    file.seek(0)
    return file


@pytest.mark.parametrize("writer", [shoal, joblib])
@pytest.mark.parametrize(
    "options", [{}, {"coerce": False}, {"na_object": None}, {"na_object": np.nan}, {"na_object": "none"}]
)
def test_string_dtype(options: dict[str, Any], writer: Any) -> None:
    dtype = strings(**options)
    array = np.array(["a", "b" * 40, "é", options.get("na_object", "")], dtype)
    for value in (array, array.reshape(2, 2), array[:0], dtype, {"x": [array, array]}, np.tile(array, 3000)):
        for trusted in ([], "numpy"):
            loaded = shoal.load(dumped(value, writer), trusted=trusted)
            assert shoal.hash(loaded) == shoal.hash(value)
    info = shoal.inspect(dumped(array))
    assert (info.untrusted, info.misuses) == ((), ())
    assert "StringDType" in str(info.arrays[0].dtype)


@pytest.mark.parametrize("writer", [shoal, joblib])
def test_string_dtype_with_the_missing_value_of_pandas(writer: Any) -> None:
    pd = pytest.importorskip("pandas")
    array = np.array(["a", pd.NA], strings(na_object=pd.NA))
    loaded = shoal.load(dumped(array, writer), trusted="pandas")
    assert loaded.dtype == array.dtype
    assert loaded[1] is pd.NA
    assert "StringDType(na_object=pandas" in shoal.inspect(dumped(array)).arrays[0].dtype


def array_of(*items: bytes, make: bytes = b"K\x01\x85", count: int | None = None) -> bytes:
    """A pickle of an array of StringDType."""
    dtype = named("numpy._core._internal", "_convert_to_stringdtype_kwargs") + make + b"R"
    begin = named("numpy._core.multiarray", "_reconstruct") + named("numpy", "ndarray") + b"K\x00\x85C\x01b\x87R"
    number = pickle.dumps(len(items) if count is None else count, 2)[2:-1]
    return PROTO4 + begin + b"(K\x01" + number + b"\x85" + dtype + b"\x89](" + b"".join(items) + b"etb."


OBJECT = named("collections", "OrderedDict") + b")R"
SURROGATE = b"X\x03\0\0\0\xed\xa0\x80"


@pytest.mark.parametrize(
    ("items", "options"),
    [
        ([text("a"), b"K\x01"], {}),
        ([OBJECT], {}),
        ([text("a"), b"N"], {}),
        ([b"N"], {"make": b"K\x01G\x7f\xf8\0\0\0\0\0\0\x86"}),
        ([text("a")], {"count": 2}),
        ([text("a")], {"make": b"K\x01" + OBJECT + b"\x86"}),
        ([text("a")], {"make": b"(K\x01NNt"}),
        ([text("a")], {"make": OBJECT + b"\x85"}),
        ([SURROGATE], {}),
    ],
)
def test_string_dtype_of_anything_else(items: list[bytes], options: Any) -> None:
    strings()
    error = refused(array_of(*items, **options))
    assert error.misuses
    assert "stand_in" not in str(error)


def test_string_dtype_takes_no_state() -> None:
    made = named("numpy._core._internal", "_convert_to_stringdtype_kwargs") + b"K\x01\x85R"
    strings()
    refused(PROTO4 + made + b"(K\x03tb.", misuse="changed after it was used")


def test_string_dtype_is_part_of_no_other() -> None:
    try:
        nested = np.dtype([("a", (strings(), (2,)))])
    except TypeError:
        pytest.skip("since NumPy 2.5 there is no such dtype")
    with pytest.raises(shoal.UntrustedFile, match="StringDType in another dtype"):
        shoal.load(dumped(nested), trusted=[])


def test_texts_that_a_list_repeats_are_charged_each_time() -> None:
    """numpy copies a text for each item of the array."""
    strings()
    long = b"X" + (10**5).to_bytes(4, "little") + b"a" * 10**5 + b"\x94"
    with pytest.raises(FileLimitError):
        shoal.load(io.BytesIO(array_of(long, *[b"h\x00"] * 9_999)), trusted=[])


def test_no_internal_error_is_shown() -> None:
    """An array whose dtype is made by something unknown."""
    begin = named("numpy._core.multiarray", "_reconstruct") + named("numpy", "ndarray") + b"K\x00\x85C\x01b\x87R"
    data = PROTO4 + begin + b"(K\x01K\x00\x85" + named("a", "b") + b")R\x89C\x00tb."
    refused(data, "a.b", misuse="something else than a dtype of numpy")
    scalar = named("numpy._core.multiarray", "scalar") + named("a", "b") + b")RC\x00\x86R."
    refused(PROTO4 + scalar, "a.b", misuse="something else than a dtype of numpy")
