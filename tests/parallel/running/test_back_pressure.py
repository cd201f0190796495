"""Generators whose consumer is slow: calls wait until results are taken."""

from __future__ import annotations

import gc
import itertools
import os
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest

from _faults_util import until, wait_for
from shoal import Parallel, UnusedResultsWarning, delayed, parallel_config

BACKENDS = ["loky", "threading"]
MODES = ["generator", "generator_unordered"]


def mark(folder: Path, i: int) -> int:
    (folder / str(i)).touch()
    return i


def mark_unless_first(folder: Path, gate: Path, i: int) -> int:
    if i == 0:
        wait_for(gate)
    return mark(folder, i)


def large(folder: Path, i: int) -> Any:
    mark(folder, i)
    return numpy.full(2**20, i)


def die_once(folder: Path, i: int) -> int:
    if i == 3 and not (folder / "3").exists():
        mark(folder, 3)
        os._exit(1)
    return mark(folder, i)


@pytest.fixture
def begun(tmp_path: Path) -> Callable[[], int]:
    """How many calls have begun."""
    return lambda: len([name for name in os.listdir(tmp_path) if name.isdigit()])


def settled(count: Callable[[], int]) -> int:
    """Return a count once it has stood still for a while."""
    since, last = time.monotonic(), count()
    while time.monotonic() - since < 0.3:
        if count() != last:
            since, last = time.monotonic(), count()
        time.sleep(0.01)
    return last


@pytest.mark.parametrize(("max_pending", "batch_size"), [(1, 1), (3, 1), (10, 1), (10, "auto")])
@pytest.mark.parametrize("backend", BACKENDS)
def test_no_more_calls_begin_than_the_consumer_leaves_room_for(
    tmp_path: Path, begun: Callable[[], int], backend: str, max_pending: int, batch_size: Any
) -> None:
    run = Parallel(
        n_jobs=2, backend=backend, return_as="generator_unordered", max_pending=max_pending, batch_size=batch_size
    )
    results = run(delayed(mark)(tmp_path, i) for i in range(60))
    assert until(lambda: begun() == max_pending)
    taken = []
    for _ in range(3):
        together = 1 if batch_size == 1 else max(max_pending // 4, 1)  # results of a batch are taken with its last
        assert 0 <= len(taken) + max_pending - settled(begun) < together
        taken.append(next(results))
    assert sorted([*taken, *results]) == list(range(60))


@pytest.mark.parametrize("backend", BACKENDS)
def test_results_behind_one_that_is_not_there_do_not_count(
    tmp_path: Path, begun: Callable[[], int], backend: str
) -> None:
    run = Parallel(n_jobs=2, backend=backend, return_as="generator", max_pending=2)
    results = run(delayed(mark_unless_first)(tmp_path, tmp_path / "gate", i) for i in range(20))
    assert until(lambda: begun() == 19), "a call waits though nothing can be taken"
    (tmp_path / "gate").touch()
    assert list(results) == list(range(20))


def test_by_default_results_are_bounded_in_bytes(tmp_path: Path, begun: Callable[[], int]) -> None:
    # Where results are ordered, those behind one that is late do not count, and on a busy machine one may be very late.
    results = Parallel(n_jobs=2, return_as="generator_unordered")(delayed(large)(tmp_path, i) for i in range(64))
    next(results)
    assert settled(begun) <= 24  # of 8 MB each
    assert sum(1 for _ in results) == 63


@pytest.mark.parametrize("mode", MODES)
def test_by_default_results_of_threads_are_bounded(tmp_path: Path, begun: Callable[[], int], mode: str) -> None:
    results = Parallel(n_jobs=2, backend="threading", return_as=mode)(
        delayed(lambda i: (mark(tmp_path, i), time.sleep(0.04)))(i) for i in range(100)
    )
    next(results)
    assert settled(begun) <= 20  # of more than a batch's work each
    assert sum(1 for _ in results) == 99


@pytest.mark.parametrize("mode", [*MODES, "list"])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("n_jobs", [1, 3])
def test_results_are_the_same_with_any_bound(backend: str, mode: str, n_jobs: int) -> None:
    with parallel_config(max_pending=2):
        values = Parallel(n_jobs=n_jobs, backend=backend, return_as=mode)(delayed(pow)(i, 2) for i in range(200))
        assert sorted(values) == [i * i for i in range(200)]


def test_a_worker_that_dies_while_calls_wait(tmp_path: Path) -> None:
    run = Parallel(n_jobs=2, return_as="generator", max_pending=2, retries=1)
    assert list(run(delayed(die_once)(tmp_path, i) for i in range(20))) == list(range(20))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_generator_is_dropped_while_calls_wait(
    tmp_path: Path, begun: Callable[[], int], backend: str, mode: str
) -> None:
    threads = set(threading.enumerate())
    run = Parallel(n_jobs=2, backend=backend, return_as=mode, max_pending=2)
    results = run(delayed(mark)(tmp_path, i) for i in itertools.count())  # those behind a late one do not wait
    before = settled(begun)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnusedResultsWarning)
        del results
        gc.collect()
    waiting = {"shoal-run", "shoal-worker"}
    assert until(lambda: not {t for t in threading.enumerate() if t.name in waiting} - threads)
    assert begun() == before
    assert sorted(run(delayed(abs)(-i) for i in range(5))) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_run_is_stopped_while_calls_wait(tmp_path: Path, begun: Callable[[], int], backend: str) -> None:
    run = Parallel(n_jobs=2, backend=backend, return_as="generator_unordered", max_pending=4)
    results = run(delayed(mark)(tmp_path, i) for i in range(60))
    assert until(lambda: begun() == 4)
    loop = run._runner.run
    assert loop is not None
    assert until(lambda: loop.schedule.results.completed == 4)  # calls that have begun may have no results yet
    run.stop()
    assert sorted(results) == [0, 1, 2, 3]


@pytest.mark.parametrize("bad", [0, -1, 1.5, "2", True])
def test_a_bad_bound_is_refused(bad: Any) -> None:
    with pytest.raises(ValueError, match="max_pending must be a positive number of results"):
        Parallel(n_jobs=2, max_pending=bad)
