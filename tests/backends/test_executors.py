"""The backends over executors of the user. Others than those of the standard library: real_executors.py."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy
import pytest

from _capabilities import KILL, needs_fork
from _faults_util import until
from shoal import CallPicklingError, Parallel, WorkerDied, delayed, parallel_config, send, shared, worker_index
from shoal._cpus import cpu_budget
from shoal.backends import Backend, create
from shoal.backends import _executors as over_executors
from shoal.testing import PATIENCE, BackendTests, wait_for


class ExecutorTests(BackendTests):
    """The contract, on one executor for the whole class."""

    executor: ClassVar[Any]

    @classmethod
    def make_executor(cls) -> Any:
        raise NotImplementedError

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _executor(cls) -> Iterator[None]:
        with cls.make_executor() as cls.executor:
            yield

    def make_backend(self) -> Backend:
        return create("executor", executor=self.executor)


class TestThreadPool(ExecutorTests):
    @classmethod
    def make_executor(cls) -> Executor:
        return ThreadPoolExecutor(2)


class TestProcessPool(ExecutorTests):
    @classmethod
    def make_executor(cls) -> Executor:
        return spawned()


def spawned() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(2, multiprocessing.get_context("spawn"))


@pytest.fixture(scope="module")
def processes() -> Iterator[ProcessPoolExecutor]:
    with spawned() as made:
        yield made


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as made:
        yield made


# How an executor is chosen, and how many workers a run has


@pytest.mark.parametrize(("n_jobs", "workers"), [(None, 3), (-1, 3), (-2, 2), (7, 7)])
def test_the_number_of_workers(n_jobs: int | None, workers: int) -> None:
    assert create("executor", executor=ThreadPoolExecutor(3)).workers(n_jobs) == workers


def test_a_single_worker_runs_the_calls_itself(threads: ThreadPoolExecutor) -> None:
    with ThreadPoolExecutor(1) as one:
        idents = Parallel(backend=one)(delayed(threading.get_ident)() for _ in range(4))
    assert threading.get_ident() not in idents


def test_an_executor_in_a_context(processes: ProcessPoolExecutor) -> None:
    with parallel_config(backend=processes):
        pids = set(Parallel()(delayed(os.getpid)() for _ in range(20)))
        assert Parallel(n_jobs=1)([delayed(os.getpid)()]) == [os.getpid()]
    assert pids <= set(processes._processes)
    assert processes.submit(abs, -1).result(PATIENCE) == 1  # it was not shut down


@pytest.mark.parametrize("wrong", [42, multiprocessing, ThreadPoolExecutor])
def test_what_is_no_executor(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"submit\(function, \*args\)"):
        create("executor", executor=wrong)
    with pytest.raises(TypeError, match="worker processes"):
        Parallel(backend=ThreadPoolExecutor(2), environment={"A": "1"})


# Threads


def test_threads_are_given_back_while_results_wait(threads: ThreadPoolExecutor) -> None:
    """Otherwise the first generator would keep both threads, and the second would never begin."""
    run = partial(Parallel, n_jobs=2, backend=threads, return_as="generator", max_pending=4)
    first: Any = run()(delayed(abs)(-number) for number in range(100))
    second: Any = run()(delayed(abs)(-number) for number in range(100))
    assert list(zip(first, second, strict=True)) == [(number, number) for number in range(100)]


def nested_in(executor: Executor, number: int) -> list[int]:
    return Parallel(n_jobs=2, backend=executor)(delayed(pow)(x, number) for x in range(3))


def test_a_run_inside_the_threads_of_its_executor(threads: ThreadPoolExecutor) -> None:
    results = Parallel(n_jobs=2, backend=threads)(delayed(nested_in)(threads, number) for number in range(4))
    assert results == [[x**number for x in range(3)] for number in range(4)]


def nested_deeper(executor: Executor, levels: int) -> int:
    if not levels:
        return 1
    between = Parallel(n_jobs=2, backend="threading")
    run = between if levels % 2 else Parallel(n_jobs=2, backend=executor)
    return sum(run(delayed(nested_deeper)(executor, levels - 1) for _ in range(2)))


def test_a_run_further_inside_the_threads_of_its_executor(threads: ThreadPoolExecutor) -> None:
    run = Parallel(n_jobs=2, backend=threads, timeout=PATIENCE)
    assert run(delayed(nested_deeper)(threads, 4) for _ in range(2)) == [16, 16]


def test_a_run_in_calls_that_its_executor_got_otherwise(threads: ThreadPoolExecutor) -> None:
    both = threading.Barrier(2)

    def nested() -> list[int]:
        both.wait(PATIENCE)
        return nested_in(threads, 2)

    futures = [threads.submit(nested) for _ in range(2)]
    assert [future.result(PATIENCE) for future in futures] == [[0, 1, 4]] * 2


def test_an_executor_that_is_shut_down_during_a_run(tmp_path: Path) -> None:
    executor = ThreadPoolExecutor(1)
    executor.submit(wait_for, tmp_path / "gate")

    def stop() -> None:
        until(lambda: executor._work_queue.qsize() == 2)  # the run's two threads
        executor.shutdown(False, cancel_futures=True)

    threading.Thread(target=stop).start()
    try:
        with pytest.raises(RuntimeError, match="was shut down while a run was using it"):
            Parallel(n_jobs=2, backend=executor)(delayed(abs)(number) for number in range(4))
    finally:
        (tmp_path / "gate").touch()
    with pytest.raises(RuntimeError, match="takes no calls"):
        Parallel(n_jobs=2, backend=executor)(delayed(abs)(number) for number in range(4))


@pytest.mark.parametrize("return_as", ["list", "generator"])
def test_threads_whose_initializer_fails(return_as: Any) -> None:
    with ThreadPoolExecutor(2, initializer=raises, initargs=(ZeroDivisionError,)) as executor:
        run: Any = Parallel(n_jobs=2, backend=executor, timeout=PATIENCE, return_as=return_as)
        with pytest.raises(RuntimeError, match="initializer failed"):
            list(run(delayed(abs)(number) for number in range(4)))


# Processes


class Counted:
    """Counts in a file how often it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return _unpickled, (self.path,)


def _unpickled(path: Path) -> Counted:
    with path.open("a") as file:
        file.write(f"{os.getpid()}\n")
    return Counted(path)


def pid_and_sum(array: Any, counted: Counted, _number: int) -> tuple[int, float]:
    array[0] += 1
    assert until(lambda: len(counted.path.read_text().split()) == 2)  # both workers take part from the start
    return os.getpid(), float(array.sum())


def test_large_and_shared_arguments_are_kept_by_each_worker(
    processes: ProcessPoolExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parcels: list[Any] = []
    sent = over_executors.submitted
    monkeypatch.setattr(over_executors, "submitted", lambda *args: parcels.append(args[2]) or sent(*args))
    array, counted = numpy.zeros(200_000), shared(Counted(tmp_path / "pids"))
    run = Parallel(n_jobs=2, backend=processes, batch_size=1)
    sums = run(delayed(pid_and_sum)(array, counted, number) for number in range(60))
    assert {total for _, total in sums} == {1.0}
    pids = (tmp_path / "pids").read_text().split()
    assert sorted(set(pids)) == sorted(pids) == sorted({str(pid) for pid, _ in sums})
    assert len(pids) == 2
    assert not parcels[-1].objects
    del array
    run(delayed(abs)(number) for number in range(4))
    assert parcels[-1].keys == []
    assert len(parcels[-1].runs) == 1


def test_a_worker_that_lacks_an_object_asks_for_it(processes: ProcessPoolExecutor) -> None:
    executor = over_executors.TaskExecutor(processes, 2)
    kept = executor.put([1, 2])
    kept.holders.update(("one worker", "another"))
    assert executor.submit(len, kept).result(PATIENCE) == 2
    assert len(kept.holders) == 3
    executor.shutdown()


def lock_or_number(number: int) -> Any:
    return threading.Lock() if number == 3 else number


def test_what_cannot_be_pickled_is_named(processes: ProcessPoolExecutor) -> None:
    run = Parallel(n_jobs=2, backend=processes, batch_size=2)
    with pytest.raises(CallPicklingError, match=r"call 0, .*: args\[0\] cannot be pickled"):
        run(delayed(id)(shared(threading.Lock())) for _ in range(2))
    with pytest.raises(CallPicklingError, match=r": results\[1\] cannot be pickled"):
        run(delayed(lock_or_number)(number) for number in range(4))


def kill_self(number: int) -> None:
    os.kill(os.getpid(), KILL)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_worker_that_dies(batch_size: int) -> None:
    executor = spawned()
    with pytest.raises(WorkerDied, match="it may have run") as caught:
        Parallel(n_jobs=2, backend=executor, batch_size=batch_size)(delayed(kill_self)(number) for number in range(6))
    assert "BrokenProcessPool" in str(caught.value.__cause__)
    with pytest.raises(RuntimeError, match="its workers have died; make a new executor"):
        Parallel(n_jobs=2, backend=executor)(delayed(abs)(number) for number in range(6))
    executor.shutdown()


class Interrupted:
    def __reduce__(self) -> Any:
        raise KeyboardInterrupt


class Exits(Exception):
    def __reduce__(self) -> Any:
        return sys.exit, (3,)


def raise_exits() -> None:
    raise Exits


@pytest.mark.parametrize(("function", "expected"), [(Interrupted, KeyboardInterrupt), (raise_exits, SystemExit)])
def test_an_interrupt_outside_of_calls_leaves_the_executor_whole(
    processes: ProcessPoolExecutor, function: Callable[[], Any], expected: type[BaseException]
) -> None:
    with pytest.raises(expected):
        Parallel(n_jobs=2, backend=processes, timeout=PATIENCE)(delayed(function)() for _ in range(2))
    assert processes.submit(abs, -1).result(PATIENCE) == 1


def say_who(number: int) -> tuple[int, int | None, bool]:
    print(f"printed by {number}")
    return os.getpid(), worker_index(), send(number)


@needs_fork
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_forked_workers(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    received: list[Any] = []
    with ProcessPoolExecutor(2, multiprocessing.get_context("fork")) as executor:
        run = Parallel(n_jobs=2, backend=executor, on_message=lambda *it: received.append(it))
        found = run(delayed(say_who)(number) for number in range(6))
    assert os.getpid() not in {pid for pid, _, _ in found}
    assert {(index, taken) for _, index, taken in found} == {(None, True)}
    assert sorted(received) == [(number, number) for number in range(6)]
    assert sorted(capsys.readouterr().out.splitlines()) == [f"printed by {number}" for number in range(6)]


def test_workers_on_this_machine_share_its_cpus(processes: ProcessPoolExecutor) -> None:
    found = Parallel(n_jobs=2, backend=processes)(delayed(cpu_budget)() for _ in range(2))
    assert found == [max(cpu_budget() // 2, 1)] * 2


# What has a method submit(), but whose jobs take no callbacks


class Job:
    def __init__(self, call: Callable[[], Any]) -> None:
        self._call, self.cancelled = call, False
        self._looks = 0

    def done(self) -> bool:
        self._looks += 1
        return self._looks > 2

    def result(self) -> Any:
        return self._call()

    def cancel(self) -> None:
        self.cancelled = True


class BatchSystem:
    """Its jobs run when their results are wanted."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []

    def submit(self, fn: Callable[..., Any], *args: Any) -> Job:
        self.jobs.append(Job(partial(fn, *args)))
        return self.jobs[-1]


class Cancels(Executor):
    """Cancels calls instead of running them."""

    def submit(self, _fn: Callable[..., Any], /, *_args: Any, **_kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.cancel()
        return future


def test_an_executor_that_cancels_all_calls() -> None:
    with pytest.raises(RuntimeError, match="cancels all calls"):
        Parallel(n_jobs=2, backend=Cancels(), timeout=PATIENCE)(delayed(abs)(number) for number in range(6))


def raises(error: type[BaseException]) -> None:
    raise error


def test_jobs_that_must_be_asked() -> None:
    system = BatchSystem()
    run = Parallel(n_jobs=2, backend=system, batch_size=2)  # type: ignore[arg-type]
    assert run(delayed(pow)(number, 2) for number in range(10)) == [number**2 for number in range(10)]
    assert len(system.jobs) == 5


def test_jobs_that_are_lost_or_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    system = BatchSystem()
    run = Parallel(n_jobs=2, backend=system, batch_size=1, timeout=PATIENCE)  # type: ignore[arg-type]
    for error in (ZeroDivisionError, SystemExit):
        monkeypatch.setattr(Job, "result", lambda _, error=error: raises(error))
        with pytest.raises(WorkerDied, match="it ran call 0") as caught:
            run(delayed(abs)(number) for number in range(6))
        assert f"has ended without a result: {error.__name__}" in str(caught.value.__cause__)
    monkeypatch.setattr(Job, "done", lambda _: False)
    with pytest.raises(TimeoutError):
        Parallel(n_jobs=2, backend=system, timeout=0.1)(delayed(abs)(number) for number in range(6))  # type: ignore[arg-type]
    deadline = time.monotonic() + PATIENCE
    while any(thread.name == "shoal-jobs" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert system.jobs[-1].cancelled


def test_a_job_that_cannot_be_cancelled_does_not_keep_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    system, asked = BatchSystem(), []

    def cancel(job: Job) -> None:
        asked.append(job)
        raise OSError("scancel: the job has ended")

    monkeypatch.setattr(Job, "cancel", cancel)
    monkeypatch.setattr(Job, "done", lambda _: False)
    with pytest.raises(TimeoutError):
        Parallel(n_jobs=3, backend=system, batch_size=1, timeout=0.1)(delayed(abs)(number) for number in range(6))  # type: ignore[arg-type]
    assert set(asked) == set(system.jobs)
    assert len(asked) >= 3
