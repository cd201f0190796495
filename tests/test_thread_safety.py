"""Each test here runs in four threads at a time: what threads share must not show in any of them."""

from __future__ import annotations

import threading
from typing import Any

import numpy
import pytest

from shoal import Parallel, cpu_count, delayed, effective_n_jobs, executor, parallel_config, shared

pytestmark = pytest.mark.force_parallel_threads(4)

BACKENDS = ["loky", "threading", "sequential"]


def who() -> int:
    return threading.get_ident()


def tagged(tag: int, i: int) -> tuple[int, int]:
    return tag, i


def refuse(tag: int, i: int) -> int:
    if i == 20:
        raise ValueError(tag)
    return i


def total(array: Any) -> float:
    return float(array.sum())


def nested(tag: int) -> list[tuple[int, int]]:
    return Parallel(n_jobs=2)(delayed(tagged)(tag, i) for i in range(10))


@pytest.mark.parametrize("n_jobs", [1, 2, 3])
@pytest.mark.parametrize("backend", BACKENDS)
def test_lists(backend: str, n_jobs: int) -> None:
    tag = who()
    for _ in range(5):
        results = Parallel(n_jobs=n_jobs, backend=backend)(delayed(tagged)(tag, i) for i in range(50))
        assert results == [(tag, i) for i in range(50)]


@pytest.mark.parametrize("mode", ["generator", "generator_unordered"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_generators(backend: str, mode: str) -> None:
    tag = who()
    first = Parallel(n_jobs=2, backend=backend, return_as=mode)(delayed(tagged)(tag, i) for i in range(50))
    second = Parallel(n_jobs=2, backend=backend, return_as=mode)(delayed(tagged)(tag, -i) for i in range(50))
    assert sorted(second) == sorted((tag, -i) for i in range(50))
    assert sorted(first) == [(tag, i) for i in range(50)]


@pytest.mark.parametrize("backend", BACKENDS)
def test_failures(backend: str) -> None:
    tag = who()
    for _ in range(5):
        with pytest.raises(ValueError, match=str(tag)) as caught:
            Parallel(n_jobs=2, backend=backend)(delayed(refuse)(tag, i) for i in range(40))
        assert caught.value.call.index == 20  # type: ignore[attr-defined]
    results = Parallel(n_jobs=2, backend=backend, on_error="return")(delayed(refuse)(tag, i) for i in range(40))
    assert [i for i, value in enumerate(results) if value != i] == [20]


def test_settings_are_each_threads_own() -> None:
    tag = who() % 5 + 2
    for _ in range(50):
        with parallel_config(backend="threading", n_jobs=tag):
            assert effective_n_jobs(None) == tag
            assert Parallel().n_jobs == tag
        assert effective_n_jobs(None) == 1
    assert cpu_count() == cpu_count()


@pytest.mark.parametrize("backend", BACKENDS)
def test_nested_runs(backend: str) -> None:
    tag = who()
    results = Parallel(n_jobs=2, backend=backend)(delayed(nested)(tag) for _ in range(4))
    assert results == [[(tag, i) for i in range(10)]] * 4


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_arrays_and_shared_objects(backend: str) -> None:
    tag = who() % 1000
    array = numpy.full(300_000, tag)  # mapped by worker processes
    table = shared({"tag": tag})
    run = Parallel(n_jobs=2, backend=backend)
    assert run(delayed(total)(array) for _ in range(6)) == [300_000.0 * tag] * 6
    assert run(delayed(dict.get)(table, "tag") for _ in range(6)) == [tag] * 6


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_executors(backend: str) -> None:
    tag = who()
    with executor(2, backend) as workers:
        futures = [workers.submit(tagged, tag, i) for i in range(100)]
        assert [future.result() for future in futures] == [(tag, i) for i in range(100)]


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_runs_that_are_stopped(backend: str) -> None:
    tag = who()
    for _ in range(3):
        run = Parallel(n_jobs=2, backend=backend, return_as="generator")
        results = run(delayed(tagged)(tag, i) for i in range(1000))
        assert next(results) == (tag, 0)
        run.stop()
        rest = list(results)
        assert rest == sorted(set(rest))  # there may be gaps: what was ready is there
        assert {who_else for who_else, _ in rest} <= {tag}


def test_one_delayed_function_for_all() -> None:
    calls = [delayed(tagged)(who(), i) for i in range(2000)]
    assert all(call == (tagged, (who(), i), {}) for i, call in enumerate(calls))
