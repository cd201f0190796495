"""What is said of arguments that cannot be used, and of callables that return what cannot be."""

from __future__ import annotations

import fractions
import math
from typing import Any

import numpy
import pytest

from shoal import Parallel, delayed

BACKENDS = ["loky", "threading", "multiprocessing"]


def fails(value: Any) -> None:
    raise LookupError(value)


# ---- callables that return what cannot be used


@pytest.mark.parametrize(
    "size", [0, -3, 0.2, 2.7, math.inf, -math.inf, 10**30, fractions.Fraction(1, 3), numpy.int8(2)]
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_batch_has_one_call_at_least_whatever_number_a_callable_returns(backend: str, size: Any) -> None:
    parallel = Parallel(n_jobs=2, backend=backend, batch_size=lambda _pace: size)
    assert parallel(delayed(abs)(-number) for number in range(5)) == [0, 1, 2, 3, 4]


def test_a_batch_size_that_falls_below_one_does_not_end_the_run_early() -> None:
    def falling(pace: Any) -> int:
        return int(1e-9 / max(pace.seconds_per_call, 1e-8)) if pace.calls else 4

    parallel = Parallel(n_jobs=2, batch_size=falling)
    assert parallel(delayed(abs)(-number) for number in range(50)) == list(range(50))


@pytest.mark.parametrize("size", [None, "3", [], True, 3j])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_callable_that_returns_no_batch_size_is_named(backend: str, size: Any) -> None:
    def asked(_pace: Any) -> Any:
        return size

    with pytest.raises(TypeError, match=r"batch_size=<function .*asked.* must return a number, but it returned"):
        Parallel(n_jobs=2, backend=backend, batch_size=asked)([delayed(abs)(1)])
    assert Parallel(n_jobs=2, backend=backend)([delayed(abs)(-1)]) == [1]


def test_a_batch_size_that_is_nan_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="returned NaN"):
        Parallel(n_jobs=2, batch_size=lambda _pace: math.nan)([delayed(abs)(1)])


@pytest.mark.parametrize("n_jobs", [1, 2])
@pytest.mark.parametrize(
    ("wait", "kind"), [(None, TypeError), ("1", TypeError), (math.nan, ValueError), (math.inf, ValueError)]
)
def test_a_callable_that_returns_no_seconds_is_named_and_the_failure_is_shown(
    n_jobs: int, wait: Any, kind: type[Exception]
) -> None:
    parallel = Parallel(n_jobs=n_jobs, backend="threading", retries=1, retry_wait=lambda _attempt: wait)
    with pytest.raises(kind, match="retry_wait=<function") as caught:
        parallel([delayed(fails)(1)])
    assert isinstance(caught.value.__context__, LookupError)


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_less_than_no_seconds_to_wait_means_at_once(n_jobs: int) -> None:
    parallel = Parallel(n_jobs=n_jobs, backend="threading", retries=1, retry_wait=lambda _attempt: -1.5)
    with pytest.raises(LookupError):
        parallel([delayed(fails)(1)])
