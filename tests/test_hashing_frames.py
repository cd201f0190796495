"""hash() of what comes from pandas and pyarrow: by labels, dtypes and values, whatever the blocks and chunks."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

import shoal

pd = pytest.importorskip("pandas")

STORAGES = ["python", pytest.param("pyarrow", marks=pytest.mark.skipif("not _has_pyarrow()"))]


def _has_pyarrow() -> bool:
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        return False
    return True


def frame() -> Any:
    return pd.DataFrame(
        {"a": np.arange(5), "b": list("abcde"), "c": np.arange(5) / 2, "d": [1.0, None, 2, 3, 4]}, index=list("pqrst")
    )


def kinds() -> dict[str, Any]:
    return {
        "frame": frame(),
        "series": frame().a,
        "object": pd.Series([1, "a", None], dtype=object),
        "categorical": pd.Categorical(list("aba")),
        "ordered": pd.Categorical(list("aba"), ordered=True),
        "Int64": pd.array([1, None, 3], dtype="Int64"),
        "Int64 zero": pd.array([1, 0, 3], dtype="Int64"),
        "boolean": pd.array([True, None], dtype="boolean"),
        "dates": pd.Series(pd.date_range("2020", periods=3)),
        "zone": pd.date_range("2020", periods=3, tz="UTC"),
        "periods": pd.period_range("2020", periods=3, freq="D"),
        "durations": pd.timedelta_range(0, periods=3),
        "intervals": pd.interval_range(0, 3),
        "sparse": pd.arrays.SparseArray([0, 0, 1]),
        "index": pd.Index([1, 2]),
        "named index": pd.Index([1, 2], name="a"),
        "words": pd.Index(["a", "b"]),
        "range": pd.RangeIndex(4),
        "levels": pd.MultiIndex.from_product([[1, 2], ["a", "b"]]),
        "timestamp": pd.Timestamp("2020", tz="UTC"),
        "NA": pd.NA,
        "NaT": pd.NaT,
        "dtype": frame().dtypes,
    }


def test_each_kind_has_its_digest_and_keeps_it_through_a_pickle() -> None:
    digests = {name: shoal.hash(value) for name, value in kinds().items()}
    assert len(set(digests.values())) == len(digests)
    again = {name: shoal.hash(pickle.loads(pickle.dumps(value))) for name, value in kinds().items()}
    assert again == digests


def test_blocks_do_not_count() -> None:
    whole = frame()
    apart = pd.DataFrame({"a": whole["a"]})
    for name in "bcd":
        apart[name] = whole[name]
    assert shoal.hash(whole) == shoal.hash(apart)
    numbers = np.arange(12.0).reshape(3, 4)
    assert shoal.hash(pd.DataFrame(numbers)) == shoal.hash(pd.DataFrame(np.asfortranarray(numbers)))


def test_what_counts() -> None:
    whole = frame()
    others = [
        whole[::-1],
        whole[["b", "a", "c", "d"]],
        whole.rename(columns={"a": "z"}),
        whole.astype({"a": "int32"}),
        whole.set_index("b"),
        whole.reset_index(drop=True),
        whole.set_flags(allows_duplicate_labels=False),
    ]
    others.append(frame())
    others[-1].attrs["a"] = 1
    assert len({shoal.hash(other) for other in (whole, *others)}) == 1 + len(others)


@pytest.mark.parametrize("storage", STORAGES)
def test_strings(storage: str) -> None:
    words = pd.Series([f"é{i}" for i in range(1000)] + [None], dtype=pd.StringDtype(storage))
    digest = shoal.hash(words)
    assert digest == shoal.hash(pickle.loads(pickle.dumps(words)))
    assert digest == shoal.hash(pd.concat([words[:301], words[301:]]))
    assert digest == shoal.hash(pd.concat([words, words], ignore_index=True)[: len(words)])
    others = (words.fillna(""), words.astype(object), words[::-1], words.reset_index(drop=True)[1:])
    assert digest not in {shoal.hash(other) for other in others}
    moved = pd.Series(["ab", "c"], dtype=words.dtype), pd.Series(["a", "bc"], dtype=words.dtype)
    assert shoal.hash(moved[0]) != shoal.hash(moved[1])


def test_what_lies_beneath_a_missing_value_does_not_count() -> None:
    one, other = pd.array([1, None, 3], dtype="Int64"), pd.array([1, 5, 3], dtype="Int64")
    other[1] = pd.NA
    assert shoal.hash(one) == shoal.hash(other)


def test_chunks_of_arrow_do_not_count() -> None:
    pa = pytest.importorskip("pyarrow")
    for values in ([1, 2, None, 4], ["a", None, "bc", ""], [b"a", b""], [1.5, None], [[1], [2, 3]], [True, None]):
        whole = pa.chunked_array([values * 2])
        parts = pa.chunked_array([values, values])
        assert shoal.hash(whole) == shoal.hash(parts)
        assert shoal.hash(whole) != shoal.hash(whole.slice(1))
    assert shoal.hash(pa.table({"a": [1, 2]})) == shoal.hash(
        pa.concat_tables([pa.table({"a": [1]}), pa.table({"a": [2]})])
    )


def test_arrow_dtypes() -> None:
    pa = pytest.importorskip("pyarrow")
    one = pd.Series([[1], [2, 3]], dtype=pd.ArrowDtype(pa.list_(pa.int64())))
    other = pd.Series([1, 2], dtype="int64[pyarrow]")
    assert shoal.hash(one) == shoal.hash(one.copy())
    assert len({shoal.hash(x) for x in (one, other, other.astype("int64"))}) == 3
