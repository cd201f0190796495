"""hash() under md5 and sha1: the digests of joblib for every value."""

from __future__ import annotations

import copyreg
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import joblib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import _hashing_zoo
import shoal
from test_hashing import NUMPY, VALUES, circle, copied

FIXTURE = Path(__file__).parents[1] / "fixtures" / "hashes-md5.json"


@pytest.fixture(autouse=True, scope="module")
def reducers_of_python() -> Iterator[None]:
    """Take away what tblib, which dask imports, registers for exceptions: joblib's digests of them depend on it."""
    with mock.patch.dict(copyreg.dispatch_table):
        for cls in list(copyreg.dispatch_table):
            if issubclass(cls, BaseException):
                del copyreg.dispatch_table[cls]
        yield


def assert_as_joblib(value: Any) -> None:
    for hash_name in ("md5", "sha1"):
        for coerce_mmap in (False, True):
            ours = shoal.hash(value, hash_name, coerce_mmap)
            assert ours == joblib.hash(value, hash_name, coerce_mmap)


@given(VALUES)
def test_builtin_values(value: Any) -> None:
    assert_as_joblib(value)
    assert_as_joblib([value, (value, {"a": value})])


@given(st.lists(VALUES), st.integers(0, 3))
def test_shared_values(values: list[Any], times: int) -> None:
    assert_as_joblib([values * times, {"a": values, "b": values}, set(map(str, values))])


@pytest.mark.parametrize("name", _hashing_zoo.zoo())
def test_zoo_has_the_digests_of_joblib(name: str) -> None:
    assert_as_joblib(_hashing_zoo.zoo()[name])


@given(st.data())
def test_arrays(data: Any) -> None:
    dtypes = ["i1", "i8", ">i4", "f8", "c16", "M8[s]", "U3", "?", "O", "i4,f8"]
    shape = data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=3))
    array = np.arange(int(np.prod(shape))).reshape(shape).astype(data.draw(st.sampled_from(dtypes)))
    array = array.transpose(data.draw(st.permutations(range(array.ndim))))
    array = array[tuple(slice(None, None, data.draw(st.sampled_from([1, 2, -1]))) for _ in array.shape)]
    assert_as_joblib([array, array, {"a": array[0]} if len(array) else None])


def test_objects_that_refer_to_themselves() -> None:
    value: list[Any] = [1]
    value += [value, {"a": value}, (value,), ([value], 1, 2, 3)]
    assert_as_joblib(value)
    assert_as_joblib(circle(3))
    assert_as_joblib([_hashing_zoo.Chosen({1}), _hashing_zoo.Chosen({2})])


def test_memmaps(tmp_path: Path) -> None:
    mapped = np.memmap(tmp_path / "x", dtype="f8", mode="w+", shape=(4, 5))
    for value in (mapped, mapped[1:], mapped[:, ::2], mapped.T, [mapped, np.asarray(mapped)]):
        assert_as_joblib(value)


def test_frames() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": [1, 2], "b": ["x", None], "c": [1.0, 2.0]}, index=["p", "q"])
    frame["d"] = frame.b.astype("category")
    for value in (frame, frame.a, frame.index, pandas.date_range("2020", periods=3, tz="UTC")):
        assert_as_joblib(value)
        assert_as_joblib(copied([value]))


def test_estimators() -> None:
    pytest.importorskip("sklearn")
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression())
    assert_as_joblib(model)
    assert_as_joblib(model.fit(np.arange(10.0).reshape(5, 2), [0, 0, 1, 1, 1]))
    assert_as_joblib(model.predict)


def test_masks_count_where_joblib_fails_on_them() -> None:
    masks = [[0, 1], [1, 0], [0, 0]]
    masked = [np.ma.masked_array([1.0, 2.0], mask) for mask in masks]
    masked += [np.ma.masked_array(np.zeros(2, "i4,f8"), [(on, on) for on in mask]) for mask in masks]
    for array in masked:
        with pytest.raises(ValueError, match="array"):
            joblib.hash(array)
    assert len({shoal.hash(array, "md5") for array in masked}) == len(masked)
    for mask in (np.ma.nomask, [True, False]):
        assert_as_joblib(np.ma.masked_array(np.array([1, 2], "u1"), mask))
    assert_as_joblib(np.ma.masked_array([1.0, 2.0]))


def test_objects_that_joblib_cannot_hash_raise_an_error() -> None:
    for value in (lambda: 1, (i for i in ()), type(None), {"a": [lambda: 1]}):
        with pytest.raises((pickle.PicklingError, TypeError)):
            joblib.hash(value)
        with pytest.raises(shoal.HashingError):
            shoal.hash(value, "md5")


def test_digests_are_those_of_the_fixture() -> None:
    """joblib's own, as they were when they were frozen: should joblib change, shoal does not.

    Those are left out that joblib itself computes differently under different versions of Python, or of one numpy
    major: dates.
    """
    frozen = json.loads(FIXTURE.read_text())
    expected = {**frozen["any numpy"], **frozen[NUMPY]}
    zoo = _hashing_zoo.zoo()
    assert {name: shoal.hash(zoo[name], "md5") for name in expected} == expected
