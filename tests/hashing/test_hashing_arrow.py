"""hash() of pyarrow, polars and xarray objects, and of what gives its data to pyarrow.

``python tests/hashing/test_hashing_arrow.py`` writes the frozen digests, tests/fixtures/hashes-tables.json. A changed
digest loses every cache that was keyed with it: CHANGELOG.md has to say so.
"""

from __future__ import annotations

import copy
import datetime
import decimal
import json
import pickle
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shoal

pa = pytest.importorskip("pyarrow")

FROZEN = Path(__file__).parent.parent / "fixtures" / "hashes-tables.json"
DAY = datetime.date(2020, 2, 28)
TIME = datetime.datetime(2020, 2, 28, 12, 30, 15, 123456)
LONG = "a string of more than twelve bytes"


def columns() -> dict[str, Any]:
    """Return arrays of many types: each has three different values and a missing one."""
    given: dict[str, tuple[Any, list[Any]]] = {
        "int8": (pa.int8(), [1, 0, -1]),
        "uint64": (pa.uint64(), [1, 0, 2**64 - 1]),
        "half": (pa.float16(), [np.float16(value) for value in (1.5, 0, -1)]),
        "double": (pa.float64(), [1.5, 0.0, float("inf")]),
        "bool": (pa.bool_(), [True, False, True]),
        "decimal": (pa.decimal128(20, 2), [decimal.Decimal(text) for text in ("1.50", "0", "-7")]),
        "date": (pa.date32(), [DAY, DAY.replace(year=1970), DAY.replace(year=1900, day=1)]),
        "date64": (pa.date64(), [DAY, DAY.replace(year=1970), DAY.replace(year=1900, day=1)]),
        "time": (pa.time32("s"), [datetime.time(1), datetime.time(0), datetime.time(2)]),
        "timestamp": (pa.timestamp("us", "UTC"), [TIME, TIME.replace(year=1970), TIME.replace(second=0)]),
        "duration": (pa.duration("ns"), [1, 0, -1]),
        "bytes of 3": (pa.binary(3), [b"abc", b"\0\0\0", b"xyz"]),
        "text": (pa.string(), ["a", "", LONG]),
        "large text": (pa.large_string(), ["a", "", LONG]),
        "binary": (pa.binary(), [b"a", b"", LONG.encode()]),
        "list": (pa.list_(pa.int16()), [[1, None], [], [2, 3]]),
        "large list": (pa.large_list(pa.string()), [["a", None], [], ["b", LONG]]),
        "pairs": (pa.list_(pa.int8(), 2), [[1, None], [0, 0], [2, 3]]),
        "struct": (pa.struct([("a", pa.int8()), ("b", pa.string())]), [{"a": 1, "b": "x"}, {"a": None}, {"b": LONG}]),
        "map": (pa.map_(pa.string(), pa.int8()), [[("a", 1)], [], [("b", None)]]),
    }
    if hasattr(pa, "string_view"):
        given["text view"] = pa.string_view(), ["a", "", LONG]
        given["binary view"] = pa.binary_view(), [b"a", b"exactly12byt", LONG.encode()]
    return {name: pa.array([values[0], None, *values[1:]], kind) for name, (kind, values) in given.items()}


COLUMNS = columns()


@pytest.fixture(params=COLUMNS)
def column(request: pytest.FixtureRequest) -> Any:
    return COLUMNS[request.param]


def test_arrays_of_different_types_or_values_differ() -> None:
    digests = {shoal.hash(column.slice(start)) for column in COLUMNS.values() for start in range(5)}
    assert len(digests) == 5 * len(COLUMNS)


def test_each_value_and_its_place_count(column: Any) -> None:
    orders = [[0, 1, 2, 3], [1, 0, 2, 3], [0, 1, 3, 2], [0, 2, 1, 3], [0, 0, 2, 3], [0, 1, 2, 1]]
    values = column.to_pylist()
    made = [pa.array([values[number] for number in order], column.type) for order in orders]
    # Two values of the type bool are equal.
    expected = len({str([values[number] for number in order]) for order in orders})
    assert len({shoal.hash(array) for array in made}) == expected


def test_offsets_chunks_and_copies_do_not_count(column: Any) -> None:
    many = pa.chunked_array([column] * 5)
    digest = shoal.hash(many)
    assert digest == shoal.hash(pa.chunked_array([column, *[column.slice(0, 2), column.slice(2)] * 4]))
    padded = pa.concat_arrays([column] * 7).slice(4, 20)
    assert digest == shoal.hash(pa.chunked_array([padded]))
    assert shoal.hash(padded) == shoal.hash(pa.concat_arrays([column] * 5))
    assert shoal.hash(column) == shoal.hash(pickle.loads(pickle.dumps(column))) == shoal.hash(copy.deepcopy(column))


def test_memory_beneath_missing_values_does_not_count() -> None:
    missing = pa.py_buffer(np.packbits([1, 0, 1, 1], bitorder="little"))
    for data in ([1, 2, 3, 4], [1, 9, 3, 4]):
        made = pa.Array.from_buffers(pa.int64(), 4, [missing, pa.py_buffer(np.array(data))])
        assert shoal.hash(made) == shoal.hash(pa.array([1, None, 3, 4]))
    text = pa.Array.from_buffers(
        pa.string(), 4, [missing, pa.py_buffer(np.array([0, 1, 3, 4, 5], np.int32)), pa.py_buffer(b"axxbc")]
    )
    assert shoal.hash(text) == shoal.hash(pa.array(["a", None, "b", "c"]))
    lists = pa.Array.from_buffers(
        pa.list_(pa.int8()),
        4,
        [missing, pa.py_buffer(np.array([0, 1, 3, 4, 5], np.int32))],
        children=[pa.array([1, 7, 7, 2, 3], pa.int8())],
    )
    assert shoal.hash(lists) == shoal.hash(pa.array([[1], None, [2], [3]], pa.list_(pa.int8())))


@pytest.mark.skipif(not hasattr(pa, "string_view"), reason="this pyarrow has no views")
def test_where_the_bytes_of_long_views_are_does_not_count() -> None:
    texts = ["x" * 13, None, "short", "y" * 100]
    one = pa.array(texts, pa.string_view())
    other = pa.concat_arrays([pa.array(["z" * 50], pa.string_view()), pa.array(texts, pa.string_view())]).slice(1)
    assert shoal.hash(one) == shoal.hash(other)
    assert shoal.hash(one) != shoal.hash(pa.array(["x" * 12 + "z", *texts[1:]], pa.string_view()))


# ---- Objects that give their data to pyarrow.


class Frame:
    """A table of a library that hash() does not know. It cannot be pickled."""

    def __init__(self, table: Any) -> None:
        self.table = table

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self.table.__arrow_c_stream__(requested_schema)

    def __reduce__(self) -> Any:
        raise TypeError("no pickle")


class Reader(Frame):
    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        raise StopIteration


@pytest.mark.skipif(not hasattr(pa.Table, "__arrow_c_stream__"), reason="this pyarrow has no streams of this kind")
def test_objects_that_give_their_data_to_pyarrow() -> None:
    frames = [Frame(pa.table({"a": values})) for values in ([1, 2], [1, 2], [1, 3])]
    digests = [shoal.hash(frame) for frame in frames]
    assert digests[0] == digests[1] != digests[2]
    assert digests[0] != shoal.hash(frames[0].table)
    reader = Reader(frames[0].table)  # to hash it would use it up
    with pytest.raises(shoal.errors.HashingError):
        shoal.hash(reader)
    with pytest.raises(shoal.errors.HashingError):
        shoal.hash(pa.table({"a": [1]}).to_reader())


# ---- polars.


def test_polars_frames() -> None:
    pl = pytest.importorskip("polars")
    frame = pl.DataFrame({"a": [1, None, 3], "b": ["x", "a longer string", None], "c": [1.5, 2.5, float("nan")]})
    digest = shoal.hash(frame)
    same = [
        frame.clone(),
        pickle.loads(pickle.dumps(frame)),
        pl.concat([frame[:1], frame[1:]], rechunk=False),
        pl.concat([frame, frame])[3:],
    ]
    assert {shoal.hash(one) for one in same} == {digest}
    others = [
        frame.rename({"a": "z"}),
        frame.select("b", "a", "c"),
        frame.with_columns(pl.col("a").cast(pl.Int32)),
        frame.with_columns(pl.col("b").str.to_uppercase()),
        frame[:2],
        frame.with_columns(pl.lit(1).alias("d")),
        frame.to_pandas(),
        frame.to_arrow(),
        frame["a"],
        frame.select("a"),
    ]
    assert len({digest, *map(shoal.hash, others)}) == len(others) + 1
    assert shoal.hash(frame["b"]) == shoal.hash(frame.clone()["b"])
    assert shoal.hash(pl.DataFrame()) != shoal.hash(pl.DataFrame({"a": []}))


def test_polars_integers_that_pyarrow_lacks() -> None:
    pl = pytest.importorskip("polars")
    if not hasattr(pl, "Int128"):
        pytest.skip(f"polars {pl.__version__} has no integers of 128 bits")
    large = 2**100
    one, other = (pl.Series("s", [large, None, last], dtype=pl.Int128) for last in (1, 2))
    assert shoal.hash(one) == shoal.hash(pl.Series("s", [large, None, 1], dtype=pl.Int128)) != shoal.hash(other)
    assert shoal.hash(pl.Series("s", [1], dtype=pl.Int128)) != shoal.hash(pl.Series("s", [1], dtype=pl.Int64))
    nested = [pl.DataFrame({"a": pl.Series([[value]], dtype=pl.List(pl.Int128))}) for value in (1, 1, 2)]
    assert shoal.hash(nested[0]) == shoal.hash(nested[1]) != shoal.hash(nested[2])


def test_polars_categories_are_their_texts() -> None:
    pl = pytest.importorskip("polars")
    pl.Series(["noise", "c", "more"], dtype=pl.Categorical)  # may take the first numbers
    one = pl.Series("s", ["a", None, "b", "a"], dtype=pl.Categorical)
    other = pl.Series("s", ["b", "a", None, "b", "a"], dtype=pl.Categorical)[1:]
    assert shoal.hash(one) == shoal.hash(other) == shoal.hash(pickle.loads(pickle.dumps(one)))
    assert shoal.hash(one) != shoal.hash(one.cast(pl.String))
    assert shoal.hash(one) != shoal.hash(pl.Series("s", ["a", None, "b", "b"], dtype=pl.Categorical))
    assert shoal.hash(one) != shoal.hash(pl.Series("s", ["a", "a", "b", "a"], dtype=pl.Categorical))
    empty = pl.Series("s", [], dtype=pl.Categorical), pl.Series("s", [None], dtype=pl.Categorical)
    assert len({shoal.hash(one) for one in empty}) == 2
    kinds = [pl.Series("s", ["a"], dtype=pl.Enum(names)) for names in (["a", "b"], ["b", "a"], ["a", "b"])]
    assert shoal.hash(kinds[0]) == shoal.hash(kinds[2]) != shoal.hash(kinds[1])


def test_encoded_texts_in_nested_columns_count() -> None:
    words = pa.dictionary(pa.int32(), pa.string())
    kinds: list[Any] = [pa.list_(words), pa.struct([("a", words)]), pa.list_(words, 1)]
    for kind in kinds:
        x, y = ({"a": text} if pa.types.is_struct(kind) else [text] for text in "xy")
        made = [pa.array(values, kind) for values in ([x, y], [y, x], [y, None], [x, x])]
        assert len({shoal.hash(one) for one in made}) == len(made)
        chunks = pa.chunked_array([pa.array([x], kind), pa.array([y], kind)])  # each has its own dictionary
        assert shoal.hash(pa.chunked_array([made[0]])) == shoal.hash(chunks)


def test_categories_in_nested_polars_columns_are_their_texts() -> None:
    pl = pytest.importorskip("polars")
    for kind in (pl.List(pl.Categorical), pl.Array(pl.Categorical, 1)):
        one, other, longer = (pl.Series("s", [[text] for text in texts], dtype=kind) for texts in ("ab", "ac", "cab"))
        assert shoal.hash(one) == shoal.hash(longer[1:]) != shoal.hash(other)


def test_the_fields_of_a_union_count() -> None:
    values = [pa.array([1, 2], pa.int8()), pa.array([1, 2], pa.int8())]
    one, other = (pa.UnionArray.from_sparse(pa.array(tags, pa.int8()), values) for tags in ([0, 1], [0, 0]))
    assert len({shoal.hash(each) for each in (one, other, one[:1], one[1:])}) == 4
    assert shoal.hash(one[:1]) == shoal.hash(other[:1])
    assert shoal.hash(one[:0]) == shoal.hash(other[:0])


# ---- xarray.


def test_xarray_datasets(fresh_python: Callable[..., str]) -> None:
    """In a process of its own, because xarray may import dask, which changes how exceptions are pickled."""
    if find_spec("xarray") is None:
        pytest.skip("xarray is not installed")
    here = str(Path(__file__).parent)
    program = "from test_hashing_arrow import check_xarray_datasets as check; check()"
    fresh_python(f"import sys; sys.path.insert(0, {here!r}); {program}")


def check_xarray_datasets() -> None:
    """Make datasets that are equal, and such as differ; see test_xarray_datasets."""
    import xarray as xr

    def made(**changed: Any) -> Any:
        values = {
            "data": np.arange(6.0).reshape(2, 3),
            "dims": ("x", "y"),
            "x": [10, 20],
            "name": "t",
            "attrs": {"unit": "K"},
            "more": {},
            **changed,
        }
        array = xr.DataArray(values["data"], dims=values["dims"], coords={"x": values["x"]}, attrs=values["attrs"])
        return xr.Dataset({values["name"]: array}, attrs=values["more"])

    dataset = made()
    digest = shoal.hash(dataset)
    used = made()
    used.to_dataframe()
    used["t"].sel(x=10)
    used.x.to_index()
    assert {shoal.hash(one) for one in (used, made(), dataset.copy(deep=True), pickle.loads(pickle.dumps(used)))} == {
        digest
    }
    others = [
        made(data=np.arange(1, 7.0).reshape(2, 3)),
        made(data=np.arange(6).reshape(2, 3)),
        made(dims=("x", "z")),
        made(x=[10, 21]),
        made(name="u"),
        made(attrs={"unit": "C"}),
        made(more={"source": "test"}),
        made().assign_coords(k=1),
        made().assign_coords(k=1).reset_coords("k"),
        dataset["t"],
        dataset["t"].rename("v"),
        dataset["t"].variable,
        dataset.drop_vars("x"),
        dataset.stack(z=("x", "y")),
    ]
    assert len({digest, *map(shoal.hash, others)}) == len(others) + 1
    stacked = dataset.stack(z=("x", "y"))
    assert shoal.hash(stacked) == shoal.hash(made().stack(z=("x", "y")))


# ---- Frozen digests.


def zoo() -> dict[str, Any]:
    """Return objects whose digests are frozen."""
    made: dict[str, Any] = {name: column for name, column in COLUMNS.items() if "view" not in name}
    made["table"] = pa.table({name: made[name] for name in ("int8", "text", "list")})
    made["dictionary"] = pa.array(["a", "b", None, "a"]).dictionary_encode()
    return made


def test_digests_are_frozen() -> None:
    frozen = json.loads(FROZEN.read_text())
    assert {name: shoal.hash(obj) for name, obj in zoo().items()} == frozen


if __name__ == "__main__":
    FROZEN.write_text(json.dumps({name: shoal.hash(obj) for name, obj in zoo().items()}, indent=1) + "\n")
