"""Runs that outlive what happens to their calls: deaths, errors, time limits, a stop."""

from __future__ import annotations

import os
import pickle
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import tenacity

from _capabilities import KILL, KILLED
from _faults_util import wait_for, works
from shoal import Parallel, delayed, parallel_config
from shoal.errors import CallPicklingError, FallbackWarning, NoSpaceError, TaskTimeout, WorkerDied
from shoal.parallel.transport._workspace import Workspace

PROCESSES = ["loky", "multiprocessing"]
BACKENDS = [*PROCESSES, "threading", "sequential"]
#: Every backend, and every shape of results that it can give.
FORMS = [
    *((backend, "list") for backend in BACKENDS),
    *(
        (backend, form)
        for backend in ("loky", "threading", "sequential")
        for form in ("generator", "generator_unordered")
    ),
]


def jobs(backend: str) -> int:
    return 1 if backend == "sequential" else 2


def note(folder: Path, index: int) -> int:
    """Note that a call began; return how often it did so far."""
    with open(folder / f"began-{index}", "ab") as file:
        file.write(b".")
        return file.tell()


def began(folder: Path, n: int) -> list[int]:
    """Return how often each of `n` calls began."""
    sizes = []
    for index in range(n):
        path = folder / f"began-{index}"
        sizes.append(path.stat().st_size if path.exists() else 0)
    return sizes


def fail(folder: Path, index: int, failing: dict[int, int], how: str = "raise") -> int:
    """Fail the first ``failing[index]`` times."""
    if note(folder, index) <= failing.get(index, 0):
        if how == "raise":
            raise LookupError(index)
        if how == "SIGKILL":
            os.kill(os.getpid(), KILL)
        if how == "exit":
            os._exit(3)
        time.sleep(1000)
    return index * index


def calls(folder: Path, n: int, failing: dict[int, int], how: str = "raise") -> Any:
    return (delayed(fail)(folder, index, failing, how) for index in range(n))


@pytest.mark.parametrize(("backend", "return_as"), FORMS)
def test_failed_calls_run_again(tmp_path: Path, backend: str, return_as: str) -> None:
    failing = {0: 1, 7: 2, 39: 1}
    run = Parallel(n_jobs=jobs(backend), backend=backend, return_as=return_as, retries=2)
    results = list(run(calls(tmp_path, 40, failing)))
    if return_as == "generator_unordered":
        results.sort()
    assert results == [index * index for index in range(40)]
    assert began(tmp_path, 40) == [1 + failing.get(index, 0) for index in range(40)]


@pytest.mark.parametrize(("backend", "return_as"), FORMS)
def test_exceptions_stand_in_the_results(tmp_path: Path, backend: str, return_as: str) -> None:
    run = Parallel(n_jobs=jobs(backend), backend=backend, return_as=return_as, on_error="return", retries=1)
    results = list(run(calls(tmp_path, 30, {3: 5, 29: 5})))
    if return_as == "generator_unordered":
        results.sort(key=lambda result: result.call.index**2 if isinstance(result, LookupError) else result)
    assert [type(result) for result in results] == [LookupError if i in (3, 29) else int for i in range(30)]
    for index in (3, 29):
        assert results[index].args == (index,)
        assert results[index].call.index == index
        assert results[index].call.function == "test_survival.fail"
        assert str(index) in results[index].call.arguments
    assert began(tmp_path, 30) == [2 if index in (3, 29) else 1 for index in range(30)]


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_exception_carries_what_the_others_computed(tmp_path: Path, backend: str) -> None:
    with pytest.raises(LookupError) as caught:
        Parallel(n_jobs=jobs(backend), backend=backend, batch_size=1)(calls(tmp_path, 30, {20: 1}))
    results = caught.value.results  # type: ignore[attr-defined]
    assert len(set(range(15)) - results.keys()) <= 3  # one may have been running, with others behind it
    assert all(value == index * index for index, value in results.items())
    assert caught.value.call.index == 20  # type: ignore[attr-defined]


@pytest.mark.parametrize("how", ["SIGKILL", "exit"])
@pytest.mark.parametrize("batch_size", [1, 5, "auto"])
@pytest.mark.parametrize("backend", PROCESSES)
def test_a_death_costs_the_call_that_ran(tmp_path: Path, backend: str, batch_size: Any, how: str) -> None:
    failing = {4: 1, 23: 2}
    run = Parallel(n_jobs=2, backend=backend, batch_size=batch_size, retries=2)
    assert run(calls(tmp_path, 50, failing, how)) == [index * index for index in range(50)]
    times = began(tmp_path, 50)
    assert min(times) >= 1
    assert times[23] >= 3
    if batch_size == 1:
        assert times == [1 + failing.get(index, 0) for index in range(50)]


@pytest.mark.parametrize("backend", PROCESSES)
def test_a_call_that_kills_its_worker_each_time_harms_no_other(tmp_path: Path, backend: str) -> None:
    run = Parallel(n_jobs=2, backend=backend, batch_size=10, retries=2, on_error="return")
    results = run(calls(tmp_path, 40, {17: 99}, "SIGKILL"))
    died = results.pop(17)
    assert isinstance(died, WorkerDied)
    assert (died.call.index, died.exit_code) == (17, KILLED)
    assert results == [index * index for index in range(40) if index != 17]
    assert began(tmp_path, 40)[17] == 3
    assert works(backend=backend)


class Deadly:
    """Kills who rebuilds it."""

    def __reduce__(self) -> Any:
        return os._exit, (5,)


def ignore(value: Any) -> int:
    return 1


@pytest.mark.parametrize("backend", PROCESSES)
def test_an_argument_that_kills_its_worker_is_found_in_its_batch(backend: str) -> None:
    arguments = [*range(9), Deadly(), *range(10, 16)]
    run = Parallel(n_jobs=2, backend=backend, batch_size=16, on_error="return")
    results = run(delayed(ignore)(argument) for argument in arguments)
    assert isinstance(results[9], WorkerDied)
    assert results[9].call.index == 9
    assert results[:9] + results[10:] == [1] * 15


class Unbuildable:
    def __reduce__(self) -> Any:
        return int, ("no number",)


def unbuildable(index: int) -> Any:
    return Unbuildable() if index == 5 else index


def test_a_result_that_cannot_be_rebuilt_is_found_in_its_batch() -> None:
    results = Parallel(n_jobs=2, batch_size=8, on_error="return")(delayed(unbuildable)(index) for index in range(8))
    assert isinstance(results[5], pickle.UnpicklingError)
    assert results[:5] + results[6:] == [0, 1, 2, 3, 4, 6, 7]


def test_a_result_that_cannot_be_sent_costs_one_call() -> None:
    results = Parallel(n_jobs=2, batch_size=6, on_error="return")(delayed(hold_lock)(index) for index in range(6))
    assert isinstance(results[3], pickle.PicklingError)
    assert results[:3] + results[4:] == [0, 1, 2, 4, 5]


def hold_lock(index: int) -> Any:
    import threading

    return threading.Lock() if index == 3 else index


@pytest.mark.parametrize("batch_size", [1, 16])
@pytest.mark.parametrize("backend", PROCESSES)
def test_an_argument_that_cannot_be_sent_costs_one_call(backend: str, batch_size: int) -> None:
    arguments = [*range(7), threading.Lock(), *range(8, 30), {"gate": threading.Lock()}, 31]
    run = Parallel(n_jobs=2, backend=backend, batch_size=batch_size, on_error="return", retries=1)
    results = run(delayed(ignore)(argument) for argument in arguments)
    assert [index for index, result in enumerate(results) if result != 1] == [7, 30]
    for index, path in [(7, "args[0]"), (30, "args[0]['gate']")]:
        assert isinstance(results[index], CallPicklingError)
        assert (results[index].path, results[index].call.index) == (path, index)


def test_what_finds_no_room_is_sent_in_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody knows which call of a batch is to blame for that; one that is too large by itself fails alone."""
    import numpy

    stage = Workspace.stage

    def narrow(self: Workspace, buffers: Any) -> Any:
        nbytes = sum(view.nbytes for view in buffers)
        if nbytes > 300_000:
            raise NoSpaceError(nbytes, ("here",), "full")
        return stage(self, buffers)

    monkeypatch.setattr(Workspace, "stage", narrow)
    arrays = [numpy.ones(400_000 if index == 5 else 100_000, numpy.uint8) for index in range(8)]
    results = Parallel(n_jobs=2, batch_size=8, on_error="return")(delayed(ignore)(array) for array in arrays)
    assert isinstance(results[5], NoSpaceError)
    assert results[5].call.index == 5  # type: ignore[attr-defined]
    assert results[:5] + results[6:] == [1] * 7
    with pytest.raises(NoSpaceError):
        Parallel(n_jobs=2, batch_size=8)(delayed(ignore)(array) for array in arrays)


def test_a_worker_that_replaces_a_dead_one_is_sent_the_function_anew(tmp_path: Path) -> None:
    """Functions by value travel once per worker; the new one has nothing."""

    def local(index: int) -> int:
        return fail(tmp_path, index, {2: 1, 8: 1}, "SIGKILL") + 1

    run = Parallel(n_jobs=2, batch_size=1, retries=1)
    assert run(delayed(local)(index) for index in range(20)) == [index * index + 1 for index in range(20)]


def test_task_timeout_kills_the_worker_also_in_compiled_code(tmp_path: Path) -> None:
    run = Parallel(n_jobs=2, task_timeout=0.5, on_error="return")
    began_at = time.monotonic()
    results = run([*(delayed(abs)(-index) for index in range(20)), delayed(sum)(range(10**12)), delayed(abs)(-21)])
    assert time.monotonic() - began_at < 20
    assert isinstance(results[20], TaskTimeout)
    assert isinstance(results[20], TimeoutError)
    assert results[20].call.index == 20
    assert results[:20] + results[21:] == [*range(20), 21]
    assert works()


@pytest.mark.parametrize("backend", [*PROCESSES, "threading"])
def test_task_timeout_is_retried(tmp_path: Path, backend: str) -> None:
    run = Parallel(n_jobs=2, backend=backend, task_timeout=0.4, retries=1, batch_size=2)
    if backend == "threading":
        with pytest.warns(FallbackWarning, match="left to end by itself") as caught:
            results = run(calls(tmp_path, 10, {3: 1, 8: 1}, "sleep"))
        assert len([w for w in caught if issubclass(w.category, FallbackWarning)]) == 1
    else:
        results = run(calls(tmp_path, 10, {3: 1, 8: 1}, "sleep"))
    assert results == [index * index for index in range(10)]
    assert works(backend=backend)


@pytest.mark.parametrize("n_stuck", [2, 5])
@pytest.mark.parametrize("backend", [*PROCESSES, "threading"])
def test_all_workers_are_stuck_at_once(tmp_path: Path, backend: str, n_stuck: int) -> None:
    failing = dict.fromkeys(range(n_stuck), 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FallbackWarning)
        run = Parallel(n_jobs=2, backend=backend, task_timeout=0.3, retries=1, batch_size=1)
        assert run(calls(tmp_path, 12, failing, "sleep")) == [index * index for index in range(12)]
    with warnings.catch_warnings(), Parallel(n_jobs=2, backend=backend, task_timeout=0.3, on_error="return") as kept:
        warnings.simplefilter("ignore", FallbackWarning)
        for _ in range(2):
            results = kept(delayed(time.sleep)(seconds) for seconds in [1000, 1000, 0, 0])
            assert [type(result) for result in results] == [TaskTimeout, TaskTimeout, type(None), type(None)]


def test_task_timeout_counts_each_call() -> None:
    run = Parallel(n_jobs=2, task_timeout=1.0, batch_size=30)
    assert run(delayed(time.sleep)(0.05) for _ in range(60)) == [None] * 60


def test_task_timeout_is_raised() -> None:
    with pytest.raises(TaskTimeout, match=r"call 1, time\.sleep\(1000\) ran for longer than task_timeout=0\.3 seconds"):
        Parallel(n_jobs=2, task_timeout=0.3)([delayed(abs)(1), delayed(time.sleep)(1000)])
    copy = pickle.loads(pickle.dumps(TaskTimeout("call 1", 2.0)))
    assert str(copy).startswith("call 1 ran for longer than task_timeout=2.0 seconds. Give calls more time")


def test_task_timeout_with_one_worker_is_ignored_aloud() -> None:
    with pytest.warns(FallbackWarning, match="task_timeout=5 is ignored"):
        assert Parallel(n_jobs=1, task_timeout=5)([delayed(abs)(-1)]) == [1]


@pytest.mark.parametrize("backend", BACKENDS)
def test_retry_on_and_retry_wait(tmp_path: Path, backend: str) -> None:
    options: dict[str, Any] = {"n_jobs": jobs(backend), "backend": backend, "retries": 3}
    with pytest.raises(LookupError):
        Parallel(retry_on=ValueError, **options)(calls(tmp_path, 4, {2: 1}))
    assert began(tmp_path, 4)[2] == 1
    with pytest.raises(LookupError):
        Parallel(retry_on=lambda error: error.args != (2,), **options)(calls(tmp_path, 4, {2: 9}))
    assert began(tmp_path, 4)[2] == 2
    asked: list[int] = []

    def wait(attempt: int) -> float:
        asked.append(attempt)
        return 0.05 * attempt

    start = time.monotonic()
    results = Parallel(retry_on=(ValueError, LookupError), retry_wait=wait, **options)(calls(tmp_path, 4, {2: 4}))
    assert results == [0, 1, 4, 9]
    assert asked == [1, 2]
    assert time.monotonic() - start >= 0.15


@pytest.mark.parametrize("backend", BACKENDS)
def test_objects_of_tenacity(tmp_path: Path, backend: str) -> None:
    run = Parallel(
        n_jobs=jobs(backend),
        backend=backend,
        retries=tenacity.stop_after_attempt(3) | tenacity.stop_after_delay(60) | tenacity.stop_before_delay(60),
        retry_wait=tenacity.wait_exponential(0.01, max=0.1) + tenacity.wait_random(0, 0.01),
        on_error="return",
    )
    results = run(calls(tmp_path, 6, {1: 2, 4: 9}))
    assert results[:4] == [0, 1, 4, 9]
    assert isinstance(results[4], LookupError)
    assert began(tmp_path, 6) == [1, 3, 1, 1, 3, 1]


def test_calls_that_wait_for_another_attempt_hold_up_no_other(tmp_path: Path) -> None:
    run = Parallel(n_jobs=2, batch_size=1, retries=1, retry_wait=0.5, return_as="generator_unordered")
    results = list(run(calls(tmp_path, 20, {0: 1, 1: 1})))
    assert sorted(results[-2:]) == [0, 1]


@pytest.mark.parametrize("backend", BACKENDS)
def test_stop_returns_what_is_done(tmp_path: Path, backend: str) -> None:
    def enough(done: int, total: int | None) -> None:
        if done >= 10:
            run.stop()

    run = Parallel(n_jobs=jobs(backend), backend=backend, batch_size=1, progress=enough)
    results = run(calls(tmp_path, 5000, {}))
    assert 10 <= len(results) < 5000
    assert results == sorted(results)
    assert set(results) <= {index * index for index in range(5000)}
    assert sum(began(tmp_path, 5000)) < 5000
    run.stop()  # there is nothing to stop
    with parallel_config(n_jobs=1):
        assert works(backend=backend)


def test_stop_ends_a_generator(tmp_path: Path) -> None:
    run = Parallel(n_jobs=2, batch_size=1, return_as="generator")
    results = run(calls(tmp_path, 5000, {}))
    assert [next(results), next(results)] == [0, 1]
    run.stop()
    rest = list(results)
    assert rest == sorted(rest)
    assert set(rest) <= {index * index for index in range(2, 5000)}
    assert len(rest) < 4998


def test_settings_come_from_the_context(tmp_path: Path) -> None:
    with parallel_config(backend="loky", n_jobs=2, retries=1, on_error="return", retry_wait=0.01):
        results = Parallel()(calls(tmp_path, 5, {1: 1, 2: 2}))
    assert results[:2] == [0, 1]
    assert isinstance(results[2], LookupError)


@pytest.mark.parametrize(
    ("option", "error"),
    [
        ({"on_error": "ignore"}, ValueError),
        ({"retries": -1}, ValueError),
        ({"retries": 1.5}, ValueError),
        ({"retries": True}, ValueError),
        ({"retry_wait": -0.1}, ValueError),
        ({"retry_wait": float("inf")}, ValueError),
        ({"retry_on": int}, TypeError),
        ({"retry_on": "ValueError"}, TypeError),
        ({"retry_on": (ValueError, 5)}, TypeError),
        ({"task_timeout": 0}, ValueError),
        ({"task_timeout": "5"}, ValueError),
    ],
)
def test_bad_arguments(option: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(option))):
        Parallel(n_jobs=2, **option)


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_timeout_of_unordered_results_counts_from_the_last(tmp_path: Path, backend: str) -> None:
    """One call is stuck; those that come one by one keep the run alive, longer than `timeout` in all."""
    calls = [delayed(time.sleep)(0.3) for _ in range(8)]
    run = Parallel(n_jobs=2, backend=backend, return_as="generator_unordered", batch_size=1)
    assert list(run(calls[:2])) == [None, None]  # the workers are up
    run.timeout = 2.0
    results = run([delayed(wait_for)(tmp_path / "gate"), *calls])
    began = time.monotonic()
    assert [next(results) for _ in calls] == [None] * 8
    assert time.monotonic() - began > 2.0
    with pytest.raises(TimeoutError, match=r"another result was not ready within timeout=2\.0 seconds"):
        next(results)
    (tmp_path / "gate").touch()
