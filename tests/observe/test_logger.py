"""Logger: messages of objects in ``logging``; values and times as text."""

from __future__ import annotations

import logging

import numpy
import pytest

from shoal.observe._logger import Logger, format_time, pformat


class Named(Logger):
    def __repr__(self) -> str:
        return "Named()"


@pytest.mark.parametrize(("name", "of"), [(None, "shoal"), ("other", "other")])
def test_each_message_begins_with_the_object(caplog: pytest.LogCaptureFixture, name: str | None, of: str) -> None:
    caplog.set_level(logging.DEBUG)
    named = Named(name=name)
    named.debug("a")
    named.info("b %s")
    named.warn("c")
    assert caplog.record_tuples == [
        (of, logging.DEBUG, "[Named()]: a"),
        (of, logging.INFO, "[Named()]: b %s"),
        (of, logging.WARNING, "[Named()]: c"),
    ]


def test_values_are_shown_to_a_depth() -> None:
    value = [1, [2, [3, [4]]]]
    assert Logger().format(value) == pformat(value) == "[1, [2, [3, [...]]]]"
    assert Logger(depth=2).format(value) == "[1, [2, [...]]]"


def test_arrays_are_shortened() -> None:
    assert pformat(numpy.arange(1000)).startswith("array([  0, ..., 999]")
    assert pformat(numpy.array([1 / 3])) == "array([0.333333])"


def test_durations_are_in_seconds_and_minutes() -> None:
    assert format_time(12.34) == "12.3s, 0.2min"
