"""Results in other formats than pickle: tables as Parquet and Arrow files, and registered formats."""

from __future__ import annotations

import asyncio
import io
import os
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from _memory_util import RUNS, make_memory, ran
from shoal import CacheWarning, Memory, MissingExtra, hash, register_format
from shoal.memory import formats
from shoal.memory.formats import Format
from shoal.memory.store import Store

pytest.importorskip("pyarrow")
memory = pytest.fixture(make_memory)


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "_formats", {name: formats._formats[name] for name in ("parquet", "arrow")})


def _pandas() -> dict[str, Any]:
    pandas = pytest.importorskip("pandas")
    rows = 5
    days = pandas.date_range("2020", periods=rows, freq="D")
    labels = pandas.MultiIndex.from_tuples([(i, str(i)) for i in range(rows)], names=["p", "q"])
    types = pandas.DataFrame(
        {
            "category": pandas.Categorical(list("abcab"), categories=list("cbaz"), ordered=True),
            "missing": pandas.array([1, None, 3, 4, 5], dtype="Int64"),
            "zone": pandas.date_range("2020", periods=rows, tz="Europe/Berlin"),
            "utc": pandas.date_range("2020", periods=rows, tz="UTC"),
            "seconds": np.arange(rows).astype("M8[s]"),
            "text": ["a", None, "", "ä", "x" * 30],
            "float": [0.0, -0.0, np.nan, np.inf, 1.5],
        },
        index=days,
    )
    types.attrs["unit"] = "m"
    return {
        "types": types,
        "a range of columns": pandas.DataFrame(np.ones((rows, 3))),
        "levels": pandas.DataFrame({"x": range(rows)}, index=labels),
        "empty": pandas.DataFrame(),
    }


def _others() -> dict[str, Any]:
    import pyarrow

    table = pyarrow.table({"n": [1, None], "s": ["x", "y"], "t": pyarrow.array([1, 2], pyarrow.timestamp("s"))})
    found = {"table": table.replace_schema_metadata({"k": "v"}), "batch": table.to_batches()[0]}
    if "polars" in sys.modules or pytest.importorskip("polars"):
        import polars

        enum = polars.Series(["x", "y"], dtype=polars.Enum(["y", "x"]))
        found["polars"] = polars.DataFrame({"enum": enum, "lists": [[1], []], "structs": [{"a": 1}, {"a": None}]})
    return found


def files_of(memory: Memory) -> list[Path]:
    return sorted(path for path in Path(memory.location).rglob("output*"))


@pytest.mark.parametrize("made", [_pandas, _others])
@pytest.mark.parametrize("format", ["parquet", "arrow"])
def test_tables_come_back_as_they_were(memory: Memory, format: str, made: Any) -> None:
    tables = made()

    @memory.cache(format=format)
    def table(name: str) -> Any:
        return ran(name, tables[name])

    for name, expected in tables.items():
        table(name)
        found = table(name)
        assert type(found) is type(expected), name
        assert hash(found) == hash(expected), name
        assert table.explain(name).cause == "found"
    assert list(tables) == RUNS
    assert {path.suffix for path in files_of(memory)} == {f".{format}"}
    assert memory.verify().states["sound"] == len(tables)


def test_others_read_the_files(memory: Memory) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": [1, 2]}, index=pandas.Index(["x", "y"], name="label"))
    for format in ("parquet", "arrow"):
        memory.cache(lambda x: frame, format=format)(format)
    arrow, parquet = sorted(files_of(memory), key=lambda path: path.suffix)
    pandas.testing.assert_frame_equal(pandas.read_parquet(parquet), frame)
    pandas.testing.assert_frame_equal(pandas.read_feather(arrow), frame)
    polars = pytest.importorskip("polars")
    assert polars.read_parquet(parquet)["a"].to_list() == [1, 2]
    assert polars.read_ipc(arrow)["a"].to_list() == [1, 2]


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ({"a": 1}, r"_result cannot be saved with format='parquet': it is of type builtins.dict, and not a table"),
        ([1, "x"], r"its column 'a' \(object\) would be read as str|Could not convert"),
        ([1, 2], r"its column 'a' \(object\) would be read as int64"),
    ],
)
def test_a_result_that_the_format_cannot_hold_is_returned(memory: Memory, result: Any, message: str) -> None:
    pandas = pytest.importorskip("pandas")
    if isinstance(result, list):
        result = pandas.DataFrame({"a": pandas.Series(result, dtype=object)})

    def a_result(x: int) -> Any:
        return result

    cached = memory.cache(a_result, format="parquet")
    for _ in range(2):
        with pytest.warns(CacheWarning, match=message):
            assert cached(1) is result
    assert files_of(memory) == []


def test_the_warning_names_the_part_of_a_frame_that_would_differ(memory: Memory) -> None:
    pandas = pytest.importorskip("pandas")
    plain = pandas.DataFrame({"a": [1, 2]})
    days = pandas.MultiIndex.from_product([pandas.date_range("2020", periods=2), ["x"]])
    strict, mixed = plain.copy(), pandas.DataFrame([[1, 2]], columns=[1, "a"])
    strict.flags.allows_duplicate_labels = False
    wholes = {"its index": plain.set_index(days), "the labels of its columns": mixed, "its attributes": strict}
    for part, frame in wholes.items():

        def result(part: str, frame: Any = frame) -> Any:
            return frame

        with pytest.warns((CacheWarning, UserWarning)) as warned:
            memory.cache(result, format="parquet", ignore=["frame"])(part)
        assert f"it would come back as another one: {part}" in str(warned[-1].message)


def test_a_format_may_change(memory: Memory) -> None:
    """What is stored in another format is found, and replaced as a whole if it is computed again."""
    import pyarrow

    def rows(n: int) -> Any:
        return ran(n, pyarrow.table({"n": list(range(n))}))

    as_pickle, as_parquet = memory.cache(rows), memory.cache(rows, format="parquet")
    as_pickle(2)
    assert as_parquet(2).num_rows == 2
    assert RUNS == [2]
    for cached, suffix in ((as_parquet, ".parquet"), (as_pickle, ".pkl"), (as_parquet, ".parquet")):
        cached.call(2)
        assert [path.suffix for path in files_of(memory)] == [suffix]
        assert cached.call_and_shelve(2).get().num_rows == 2
    [entry] = memory.entries()
    assert entry.nbytes == sum(path.stat().st_size for path in files_of(memory)[0].parent.iterdir())
    assert len(memory.prune(function=as_parquet)) == 1
    assert files_of(memory) == []


@pytest.mark.parametrize("place", range(0, 100, 9))
def test_a_damaged_file_is_computed_again(memory: Memory, place: int) -> None:
    import pyarrow

    @memory.cache(format="parquet")
    def rows(n: int) -> Any:
        return ran(n, pyarrow.table({"n": list(range(n))}))

    expected = rows(50)
    [path] = files_of(memory)
    data = bytearray(path.read_bytes())
    data[len(data) * place // 100] ^= 4
    path.write_bytes(data)
    assert memory.verify().states["damaged"] == 1
    assert rows.explain(50).cause == "damaged"
    with pytest.warns(CacheWarning, match="will be computed again"):
        assert rows(50) == expected
    assert RUNS == [50, 50]
    assert memory.verify().states == {"sound": 1, "without checksums": 0, "damaged": 0, "unreadable": 0}


def test_export_and_import(memory: Memory, tmp_path: Path) -> None:
    import pyarrow

    def rows(n: int) -> Any:
        return ran(n, pyarrow.table({"n": list(range(n))}))

    expected = memory.cache(rows, format="parquet")(3)
    memory.export_entries(tmp_path / "some.tar")
    other = Memory(tmp_path / "other", verbose=0)
    assert other.import_entries(tmp_path / "some.tar").added == 1
    assert [path.name for path in files_of(other)] == [path.name for path in files_of(memory)]
    assert other.cache(rows, format="parquet")(3) == expected
    assert RUNS == [3]
    del formats._formats["parquet"]
    with pytest.raises(ValueError, match="is in a format that is not registered"):
        Memory(tmp_path / "third", verbose=0).import_entries(tmp_path / "some.tar")


def test_an_fsspec_store(tmp_path: Path) -> None:
    import pyarrow

    pytest.importorskip("fsspec")
    memory = Memory(f"memory://{tmp_path}", backend="fsspec", verbose=0, items_limit=2)
    RUNS.clear()

    @memory.cache(format="parquet")
    async def rows(n: int) -> Any:
        return ran(n, pyarrow.table({"n": list(range(n))}))

    for n in (1, 1, 2, 2, 3):
        assert asyncio.run(rows(n)).num_rows == n
    assert RUNS == [1, 2, 3]
    assert memory.verify().states["sound"] == 2
    store = memory.store_backend
    [path, *_] = (store._files.prefix + path for path in store._files.find() if path.endswith(".parquet"))
    store._files.write(path, store._files.read(path)[:-9])
    with pytest.warns(CacheWarning, match="will be computed again"):
        assert [asyncio.run(rows(n)).num_rows for n in (2, 3)] == [2, 3]
    memory.clear()


def test_a_registered_format(memory: Memory) -> None:
    register_format("npy", Format("npy", lambda array, file: np.save(file, array), np.load))

    @memory.cache(format="npy")
    def array(n: int) -> Any:
        return ran(n, np.arange(n))

    for _ in range(2):
        np.testing.assert_array_equal(array(4), np.arange(4))
    assert RUNS == [4]
    [path] = files_of(memory)
    np.testing.assert_array_equal(np.load(path), np.arange(4))
    assert re.fullmatch(r"output-[0-9a-f]{16}\.npy", path.name)
    del formats._formats["npy"]  # as in a process that has not registered it
    np.testing.assert_array_equal(memory.cache(array)(4), np.arange(4))
    assert RUNS == [4, 4]


def test_wrong_formats(memory: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong, message in (("parket", "did you mean 'parquet'"), (3, "known ones are"), ([], "known ones are")):
        with pytest.raises(ValueError, match=message):
            memory.cache(format=wrong)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="cannot be mapped: pass mmap_mode=None"):
        memory.cache(os.getcwd, format="parquet", mmap_mode="r")
    good = Format("ext", lambda value, file: None, io.BytesIO.read)
    register_format("good", good)
    for name, given, message in (
        ("good", good, "registered already"),
        ("pickle", good, "choose another name"),
        ("other", good, "has the extension"),
        ("other", good._replace(extension="a.b"), "letters and digits"),
        ("other", good._replace(read=None), "two functions"),
        (1, good, "must be a string"),
    ):
        with pytest.raises(ValueError, match=message):
            register_format(name, given)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "pyarrow", None)  # type: ignore[arg-type]
    with pytest.raises(MissingExtra, match=r"format='parquet' needs pyarrow.*shoal\[arrow\]"):
        memory.cache(os.getcwd, format="parquet")


def test_a_store_that_keeps_pickles_only(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(memory.store_backend), "formats", Store.formats)
    with pytest.raises(ValueError, match="keeps pickles only"):
        memory.cache(os.getcwd, format="arrow")
