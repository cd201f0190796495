"""Log records of calls in the caller's process say which call it was, as those of worker processes do."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from shoal import Parallel, delayed, executor

LOGGER = logging.getLogger("shoal.tests.attributes")
#: Settings of runs that say the same.
SETTINGS = [{"n_jobs": 1}, {"n_jobs": 2, "backend": "threading"}, {"n_jobs": 2}]


@pytest.fixture
def records() -> Iterator[list[Any]]:
    found: list[Any] = []
    handler = logging.Handler()
    handler.emit = found.append  # type: ignore[method-assign]
    factory = logging.getLogRecordFactory()
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    yield found
    LOGGER.setLevel(logging.NOTSET)
    LOGGER.removeHandler(handler)
    logging.setLogRecordFactory(factory)


def log(number: int) -> None:
    LOGGER.info("%d", number)


def log_in_runs(number: int, settings: dict[str, Any]) -> None:
    Parallel(**settings)(delayed(log)(number) for _ in range(2))


def calls_of(records: list[Any]) -> list[tuple[str, int]]:
    return sorted((record.getMessage(), record.shoal_call) for record in records if record.name == LOGGER.name)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("more", [{}, {"return_as": "generator"}, {"retries": 1}])
def test_records_name_their_call(records: list[Any], settings: dict[str, Any], more: dict[str, Any]) -> None:
    list(Parallel(**settings, **more)(delayed(log)(number) for number in range(4)))
    assert calls_of(records) == [(str(number), number) for number in range(4)]
    assert {record.shoal_worker for record in records} <= set(range(settings["n_jobs"]))


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("inner", SETTINGS)
def test_records_of_nested_runs_name_the_outer_call(
    records: list[Any], settings: dict[str, Any], inner: dict[str, Any]
) -> None:
    Parallel(**settings)(delayed(log_in_runs)(number, inner) for number in (5, 6))
    assert calls_of(records) == [("5", 0), ("5", 0), ("6", 1), ("6", 1)]


def test_records_of_an_executor_name_their_call(records: list[Any]) -> None:
    with executor(2, backend="threading") as pool:
        for number in range(3):
            pool.submit(log, number).result()
    assert calls_of(records) == [("0", 0), ("1", 1), ("2", 2)]


@pytest.mark.parametrize("settings", SETTINGS[:2])
def test_other_records_name_no_call(records: list[Any], settings: dict[str, Any]) -> None:
    for _ in Parallel(**settings, return_as="generator")(delayed(abs)(number) for number in range(3)):
        LOGGER.info("of the consumer")
    LOGGER.info("after the run")
    assert len(records) == 4
    assert not [record for record in records if hasattr(record, "shoal_call")]


class Counted(logging.LogRecord):
    """The records of a program that has a factory of its own."""


@pytest.mark.parametrize("settings", SETTINGS[:2])
def test_the_factory_of_the_program_makes_the_records(records: list[Any], settings: dict[str, Any]) -> None:
    for _ in range(2):
        Parallel(**settings)([delayed(log)(0)])
    logging.setLogRecordFactory(Counted)
    Parallel(**settings)([delayed(log)(1)])
    assert [type(record) for record in records] == [logging.LogRecord, logging.LogRecord, Counted]
    assert calls_of(records) == [("0", 0), ("0", 0), ("1", 0)]


@pytest.mark.parametrize(("forward", "expected"), [(False, False), ("output", False), (["logging"], True)])
def test_nothing_is_changed_where_logging_is_not_forwarded(records: list[Any], forward: Any, expected: bool) -> None:
    logging.setLogRecordFactory(logging.LogRecord)
    Parallel(n_jobs=1, forward=forward)([delayed(log)(0)])
    assert hasattr(records[0], "shoal_call") is expected
    assert (logging.getLogRecordFactory() is logging.LogRecord) is not expected
