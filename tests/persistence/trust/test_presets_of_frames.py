"""Frames with any dtype and frequency, and models fitted on frames: the presets load them, and nothing else."""

from __future__ import annotations

import io
import pickle
from datetime import time, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shoal
from _trust_opcodes import PROTO4, named, refused, text
from shoal import UntrustedFile

ROOT = Path(__file__).parents[3]
OFFSETS = "pandas._libs.tslibs.offsets"
CHECK_ARRAY = ("sklearn.utils.validation", "check_array")


def loaded(value: Any, trusted: Any) -> Any:
    file = io.BytesIO()
    shoal.dump(value, file)
    file.seek(0)
    return shoal.load(file, trusted=trusted)


def opcodes(value: Any) -> bytes:
    return pickle.dumps(value, 2)[2:-1]


@pytest.fixture
def objects(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The objects that the presets are made of."""
    pytest.importorskip("pandas")
    monkeypatch.syspath_prepend(str(ROOT))
    return pytest.importorskip("scripts.trust_presets_objects")


def test_numbers_that_may_be_missing(objects: Any) -> None:
    pd = pytest.importorskip("pandas")
    names = objects.nullable()
    assert {"Int8", "Int64", "UInt8", "UInt64", "Float32", "Float64", "boolean"} <= set(names)
    for name in names:
        series = pd.Series(pd.array([1, None, 1], dtype=name))
        pd.testing.assert_series_equal(loaded(series, "pandas"), series)


def test_frequencies(objects: Any) -> None:
    pd = pytest.importorskip("pandas")
    made = list(objects.offsets())
    assert {"Hour", "Nano", "MonthBegin", "WeekOfMonth", "CustomBusinessHour"} <= {
        type(offset).__name__ for offset in made
    }
    for offset in made:
        assert loaded(offset, "pandas") == offset
        index = pd.date_range("2020", periods=3, freq=offset)
        assert loaded(index, "pandas").freq == index.freq
    spans = pd.timedelta_range(0, periods=3, freq="h")
    assert loaded(spans, "pandas").freq == spans.freq


#: What pandas never writes as an argument of an offset: texts that it would parse, calendars that it would call.
HOSTILE = [
    ("BusinessHour", opcodes((1, False, "09:00", "17:00"))),
    ("BusinessHour", opcodes((1, False, ("09:00",), ("17:00",)))),
    ("CustomBusinessHour", opcodes((1, False, "Mon", (), None, "09:00", "17:00"))),
    ("CustomBusinessDay", opcodes((1, False, "Mon Tue", (), 1))),
    ("CustomBusinessDay", opcodes((1, False, "Mon Tue", ("2020-01-01",)))),
    ("CustomBusinessDay", b"(K\x01\x89" + text("Mon") + b")" + named("pandas", "Series") + b")\x81t"),
    ("CustomBusinessDay", b"(K\x01\x89" + text("Mon") + b"(" + named("pandas", "Series") + b")\x81tt"),
    ("Hour", b"(" + named("pandas", "Series") + b")\x81t"),
    ("Hour", opcodes(("1",))),
]


@pytest.mark.parametrize(("name", "arguments"), HOSTILE)
def test_offsets_are_made_of_numbers_and_times(name: str, arguments: bytes) -> None:
    pytest.importorskip("pandas")
    data = PROTO4 + named(OFFSETS, name) + arguments + b"R."
    for trusted in ("pandas", ["pandas.*"]):
        with pytest.raises(UntrustedFile) as caught:
            shoal.load(io.BytesIO(data), trusted=trusted)
        assert f"{OFFSETS}.{name}" in caught.value.imports


def test_a_state_of_an_offset_is_made_of_numbers_and_times() -> None:
    pytest.importorskip("pandas")
    state = b"}(" + text("weekmask") + text("Mon") + text("holidays") + b"(" + named("pandas", "Series") + b")\x81tu"
    data = PROTO4 + named(OFFSETS, "CustomBusinessDay") + b")\x81" + state + b"b."
    refused(data, "pandas.Series", f"{OFFSETS}.CustomBusinessDay", misuse="something else than numbers")


def test_offsets_with_times_holidays_and_pauses() -> None:
    pd = pytest.importorskip("pandas")
    for offset in (
        pd.offsets.BusinessHour(start=["09:00", time(13)], end=["12:00", "17:00"], offset=timedelta(1)),
        pd.offsets.CustomBusinessDay(holidays=["2020-01-01"], weekmask="Mon Tue", offset=pd.Timedelta(5, "h")),
        pd.offsets.CustomBusinessDay(weekmask="1110000"),
        pd.offsets.FY5253(weekday=1, startingMonth=2, variation="last"),
    ):
        assert loaded(offset, "pandas") == offset


@pytest.mark.parametrize("kind", ["HistGradientBoostingRegressor", "HistGradientBoostingClassifier"])
def test_gradient_boosting_with_categories(kind: str) -> None:
    pd = pytest.importorskip("pandas")
    ensemble = pytest.importorskip("sklearn.ensemble")
    frame = pd.DataFrame({"x": np.arange(60.0), "c": pd.Categorical(["u", "v"] * 30)})
    try:
        model = getattr(ensemble, kind)(max_iter=3, categorical_features="from_dtype").fit(frame, np.arange(60) % 2)
    except ValueError:
        pytest.skip("before 1.4, scikit-learn does not recognise categories")
    again = loaded(model, "scikit-learn")
    np.testing.assert_array_equal(again.predict(frame), model.predict(frame))


def test_estimators_of_frames_and_texts(objects: Any) -> None:
    pytest.importorskip("sklearn")
    for model in objects.of_frames():
        assert type(loaded(model, "scikit-learn")) is type(model)


def test_partial_functions() -> None:
    """The preset covers them only of the function that checks data, with the arguments that scikit-learn gives it."""
    validation = pytest.importorskip("sklearn.utils.validation")
    whole = partial(validation.check_array, dtype=[np.float64], ensure_all_finite=False)
    assert loaded(whole, "scikit-learn").keywords == whole.keywords
    for other in (
        partial(validation.check_array, estimator="x"),
        partial(validation.check_array, [1]),
        partial(validation.check_array, dtype=whole),
        partial(validation.check_array, dtype=[whole]),
        partial(np.mean),
        partial(whole, dtype=np.mean),
    ):
        with pytest.raises(UntrustedFile) as caught:
            loaded(other, "scikit-learn")
        assert "functools.partial" in caught.value.imports
        names = ["functools.partial", ".".join(CHECK_ARRAY), "numpy.mean"]
        assert loaded(other, names).func is other.func  # an exact name covers everything


def test_no_other_function_takes_the_place_of_that_of_a_partial_function() -> None:
    pytest.importorskip("sklearn")
    make = named("functools", "partial") + named(*CHECK_ARRAY) + b"\x85R"
    state = b"(" + named("numpy", "mean") + b")}Nt"
    refused(PROTO4 + make + state + b"b.", "functools.partial", trusted="scikit-learn")
    call = make + b"(" + named(*CHECK_ARRAY) + b")}Ntb)R."
    with pytest.raises(shoal.errors.CorruptFile):
        shoal.load(io.BytesIO(PROTO4 + call), trusted="scikit-learn")
