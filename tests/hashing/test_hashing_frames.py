"""hash() of pandas and pyarrow objects: labels, dtypes and values count; blocks and chunks do not."""

from __future__ import annotations

import datetime
import pickle
import zoneinfo
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


def test_every_kind_of_table_has_its_own_digest_and_keeps_it_through_a_pickle() -> None:
    digests = {name: shoal.hash(value) for name, value in kinds().items()}
    assert len(set(digests.values())) == len(digests)
    again = {name: shoal.hash(pickle.loads(pickle.dumps(value))) for name, value in kinds().items()}
    assert again == digests


def test_blocks_of_a_frame_do_not_count() -> None:
    whole = frame()
    apart = pd.DataFrame({"a": whole["a"]})
    for name in "bcd":
        apart[name] = whole[name]
    assert shoal.hash(whole) == shoal.hash(apart)
    numbers = np.arange(12.0).reshape(3, 4)
    assert shoal.hash(pd.DataFrame(numbers)) == shoal.hash(pd.DataFrame(np.asfortranarray(numbers)))


def test_values_labels_dtypes_and_attributes_of_frames_count() -> None:
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


class Zone(datetime.tzinfo):
    """A time zone whose repr does not show its rules."""

    def __init__(self, hours: int) -> None:
        self.hours = hours

    def __reduce__(self) -> Any:
        return Zone, (self.hours,)

    def __repr__(self) -> str:
        return "Zone"

    def utcoffset(self, _when: Any) -> datetime.timedelta:
        return datetime.timedelta(hours=self.hours)

    def dst(self, _when: Any) -> datetime.timedelta:
        return datetime.timedelta(0)

    def tzname(self, _when: Any) -> str:
        return "Zone"


def test_rules_of_time_zones_count() -> None:
    one, other = (pd.date_range("2020-07-01", periods=2, tz="UTC").tz_convert(Zone(hours)) for hours in (1, 2))
    assert str(one.dtype) == str(other.dtype)
    for make in (lambda dates: dates, pd.Series, lambda dates: pd.DataFrame({"a": dates}), lambda dates: dates[0]):
        assert shoal.hash(make(one)) != shoal.hash(make(other))
        assert shoal.hash(make(one)) == shoal.hash(pickle.loads(pickle.dumps(make(one))))


def test_rules_of_frequencies_count() -> None:
    days = [
        pd.date_range("2020-01-06", periods=2, freq=pd.offsets.CustomBusinessDay(holidays=[holiday]))
        for holiday in ("2020-05-01", "2020-05-04", "2020-05-01")
    ]
    assert shoal.hash(days[0]) == shoal.hash(days[2]) != shoal.hash(days[1])


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


def test_memory_beneath_a_missing_value_does_not_count() -> None:
    one, other = pd.array([1, None, 3], dtype="Int64"), pd.array([1, 5, 3], dtype="Int64")
    other[1] = pd.NA
    assert shoal.hash(one) == shoal.hash(other)


def test_all_objects_for_utc_are_the_same_zone() -> None:
    """pandas makes datetime.timezone.utc, and pyarrow another one when it makes a frame."""
    zones: list[Any] = [datetime.timezone.utc, zoneinfo.ZoneInfo("UTC"), zoneinfo.ZoneInfo("Europe/London")]
    columns = [pd.Series(pd.date_range("2020", periods=2, tz=zone)) for zone in zones]
    assert shoal.hash(columns[0]) == shoal.hash(columns[1]) != shoal.hash(columns[2])


def test_every_other_row_of_a_masked_column_is_hashed_like_a_copy() -> None:
    frame = pd.DataFrame({"a": pd.array([1, 5, 3], dtype="Int64")})
    assert shoal.hash(frame[::2]) == shoal.hash(frame[::2].copy(deep=True))


def test_arrow_chunks_do_not_count() -> None:
    pa = pytest.importorskip("pyarrow")
    for values in ([1, 2, None, 4], ["a", None, "bc", ""], [b"a", b""], [1.5, None], [[1], [2, 3]], [True, None]):
        whole = pa.chunked_array([values * 2])
        parts = pa.chunked_array([values, values])
        assert shoal.hash(whole) == shoal.hash(parts)
        assert shoal.hash(whole) != shoal.hash(whole.slice(1))
    assert shoal.hash(pa.table({"a": [1, 2]})) == shoal.hash(
        pa.concat_tables([pa.table({"a": [1]}), pa.table({"a": [2]})])
    )


def test_metadata_and_nullability_of_arrow_fields_count() -> None:
    pa = pytest.importorskip("pyarrow")
    kinds = [
        pa.field("a", pa.int64(), metadata={"unit": "m"}),
        pa.field("a", pa.int64(), metadata={"unit": "s"}),
        pa.field("a", pa.int64(), nullable=False),
        pa.field("a", pa.int64()),
    ]
    made: list[Any] = [pa.table([[1]], pa.schema([field])) for field in kinds]
    made += [pa.array([{"a": 1}], pa.struct([field])) for field in kinds]
    assert len({shoal.hash(value) for value in made}) == len(made)


def test_the_dictionary_of_an_arrow_array_counts() -> None:
    pa = pytest.importorskip("pyarrow")
    made = [
        pa.DictionaryArray.from_arrays(pa.array(codes, pa.int8()), pa.array(words, pa.string()))
        for codes, words in (([0], ["a", "b"]), ([1], ["b", "a"]), ([0], ["a"]), ([None], ["a"]), ([0], [None]))
    ]
    assert len({shoal.hash(value) for value in made}) == len(made)
    assert shoal.hash(pa.chunked_array([made[0], made[0]])) == shoal.hash(
        pa.chunked_array([pa.concat_arrays([made[0], made[0]])])
    )
    assert shoal.hash(pa.chunked_array([], made[0].type)) != shoal.hash(pa.chunked_array([made[0]]))


def test_nanoseconds_of_arrow_times_count() -> None:
    pa = pytest.importorskip("pyarrow")
    time = pa.time64("ns")
    for kind, values in (
        (time, ([1], [2], [None])),
        (pa.list_(time), ([[1]], [[2]], [[None]])),
        (pa.struct([("a", time)]), ([{"a": 1}], [{"a": 2}], [None])),
        (pa.timestamp("ns"), ([1], [2], [None])),
        (pa.duration("ns"), ([1], [2], [None])),
    ):
        arrays = [pa.array(given, kind) for given in values]
        assert len({shoal.hash(array) for array in arrays}) == len(arrays)
        assert shoal.hash(pa.chunked_array([arrays[0], arrays[1]])) == shoal.hash(
            pa.chunked_array([pa.concat_arrays(arrays[:2])])
        )


def test_parameters_of_arrow_extension_types_count() -> None:
    pa = pytest.importorskip("pyarrow")

    class Unit(pa.ExtensionType):  # type: ignore[misc, name-defined]
        def __init__(self, unit: str) -> None:
            self.unit = unit
            super().__init__(pa.int64(), "shoal.unit")

        def __arrow_ext_serialize__(self) -> bytes:
            return self.unit.encode()

        @classmethod
        def __arrow_ext_deserialize__(cls, _storage: Any, serialized: bytes) -> Any:
            return cls(serialized.decode())

    pa.register_extension_type(Unit("m"))
    try:
        made = [pa.ExtensionArray.from_storage(Unit(unit), pa.array([1, None])) for unit in ("m", "s", "m")]
        assert shoal.hash(made[0]) == shoal.hash(made[2]) != shoal.hash(made[1])
    finally:
        pa.unregister_extension_type("shoal.unit")


def test_arrow_dtypes() -> None:
    pa = pytest.importorskip("pyarrow")
    one = pd.Series([[1], [2, 3]], dtype=pd.ArrowDtype(pa.list_(pa.int64())))
    other = pd.Series([1, 2], dtype="int64[pyarrow]")
    assert shoal.hash(one) == shoal.hash(one.copy())
    assert len({shoal.hash(x) for x in (one, other, other.astype("int64"))}) == 3
