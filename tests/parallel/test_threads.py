"""Runs in several threads at once, in forked processes and in daemon processes."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import queue
import threading
import time
import uuid
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from _capabilities import needs_fork
from _faults_util import PATIENCE, Child, wait_for, worker_pids, works
from _python import needs_forks
from shoal import Parallel, delayed, parallel_config
from shoal.errors import FallbackWarning, WorkerDied

N_THREADS = 8


def note(folder: Path, run: int, index: int) -> tuple[int, int]:
    """Note that a call was made, by a file: Windows loses what several processes append to one."""
    made = folder / f"run-{run}"
    made.mkdir(exist_ok=True)
    (made / f"{index}-{uuid.uuid4()}").touch()
    return run, index


def fail(run: int) -> None:
    raise ZeroDivisionError(run)


def die() -> None:
    os.kill(os.getpid(), 9)


def in_threads(work: Any, n: int = N_THREADS) -> list[BaseException | None]:
    """Call ``work(0)`` to ``work(n - 1)`` at once, in a thread each; return what each raised."""
    errors: list[BaseException | None] = [None] * n
    together = threading.Barrier(n)

    def body(index: int) -> None:
        together.wait()
        try:
            work(index)
        except BaseException as error:
            errors[index] = error

    threads = [threading.Thread(target=body, args=(index,)) for index in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
    assert not any(thread.is_alive() for thread in threads)
    return errors


def calls_made(folder: Path, run: int) -> list[int]:
    return sorted(int(name.partition("-")[0]) for name in os.listdir(folder / f"run-{run}"))


@pytest.mark.parametrize(
    "backend",
    [
        "loky",
        "threading",
        pytest.param("multiprocessing", marks=needs_forks),
    ],
)
def test_many_threads_at_once(tmp_path: Path, backend: str) -> None:
    """Lists and generators with different n_jobs, some of which fail: each other run makes each call exactly once."""
    n_calls = 60
    faults = {2: ZeroDivisionError, 5: ZeroDivisionError}
    if backend != "threading":
        faults[5] = WorkerDied

    def work(run: int) -> None:
        return_as = "list" if backend == "multiprocessing" else ("list", "generator", "generator_unordered")[run % 3]
        calls = [delayed(note)(tmp_path, run, index) for index in range(n_calls)]
        if run in faults:
            calls[30] = delayed(die)() if faults[run] is WorkerDied else delayed(fail)(run)
        parallel = Parallel(n_jobs=2 + run % 3, backend=backend, return_as=return_as, batch_size=1 + run % 4)
        results = list(parallel(iter(calls)))
        expected = [(run, index) for index in range(n_calls)]
        assert (sorted(results) if return_as == "generator_unordered" else results) == expected

    errors = in_threads(work, 4 if backend == "multiprocessing" else N_THREADS)
    for run, error in enumerate(errors):
        if run in faults:
            assert isinstance(error, faults[run]), error
            made = calls_made(tmp_path, run)
            assert len(made) == len(set(made)) < n_calls
        else:
            assert error is None, repr(error)
            assert calls_made(tmp_path, run) == list(range(n_calls))
    assert works(2, backend=backend)


def test_giving_up_one_run_harms_no_other(tmp_path: Path) -> None:
    """Runs share workers; those that are given up again and again kill only what is theirs."""
    stop = threading.Event()

    def give_up() -> None:
        for _ in range(12):
            if stop.is_set():
                return
            with pytest.raises(ZeroDivisionError):
                Parallel(n_jobs=2, batch_size=1)([delayed(wait_for)(tmp_path / "never"), delayed(fail)(0)])

    def work(run: int) -> None:
        if run < 2:
            give_up()
        else:
            results = Parallel(n_jobs=2, batch_size=3)(delayed(note)(tmp_path, run, index) for index in range(300))
            assert results == [(run, index) for index in range(300)]

    errors = in_threads(work, 5)
    stop.set()
    assert errors == [None] * 5
    for run in range(2, 5):
        assert calls_made(tmp_path, run) == list(range(300))


def test_threads_with_options_of_their_own() -> None:
    def work(run: int) -> None:
        for _ in range(3):
            parallel = Parallel(n_jobs=2, initializer=remember, initargs=(run % 3,), idle_worker_timeout=5)
            assert parallel(delayed(recall)(index) for index in range(20)) == [str(run % 3)] * 20

    assert in_threads(work) == [None] * N_THREADS


def remember(value: int) -> None:
    os.environ["REMEMBERED"] = str(value)


def recall(_index: int) -> str:
    return os.environ["REMEMBERED"]


def test_one_parallel_does_one_run_at_a_time(tmp_path: Path) -> None:
    parallel = Parallel(n_jobs=2, backend="threading")
    gate = tmp_path / "gate"
    thread = threading.Thread(target=parallel, args=([delayed(wait_for)(gate)],))
    thread.start()
    while not parallel._runner.running:
        time.sleep(0.001)
    try:
        with pytest.raises(RuntimeError, match="already running"):
            parallel([])
    finally:
        gate.touch()
        thread.join()
    assert parallel([delayed(abs)(-1)]) == [1]


def test_nested_runs_in_threads() -> None:
    assert Parallel(n_jobs=3, backend="threading")(
        delayed(Parallel(n_jobs=2))(delayed(pow)(i, 2) for i in range(j)) for j in range(6)
    ) == [[i * i for i in range(j)] for j in range(6)]


@needs_fork
@pytest.mark.parametrize("busy", [False, True])
@pytest.mark.parametrize("how", ["os", "multiprocessing"])
@pytest.mark.parametrize("backend", ["loky", "multiprocessing", "threading"])
def test_fork_of_a_process_with_workers(tmp_path: Path, backend: str, how: str, busy: bool) -> None:
    """The child runs calls with workers of its own and exits in peace; the parent's go on, also what they run now."""
    source = f"""
        import multiprocessing, os, sys, threading, time
        from pathlib import Path
        from _faults_util import until, wait_for, worker_pids, works
        from shoal import Parallel, delayed

        backend, folder = {backend!r}, Path(sys.argv[1])

        def begin(index):
            (folder / f"began-{{index}}").touch()
            wait_for(folder / "gate")
            return index

        def child():
            assert works(2, backend=backend)
            assert works(2)
            assert not set(worker_pids(2)) & set(before)
            (folder / "child").touch()

        before = worker_pids(2)
        assert works(2, backend=backend)
        results = []
        thread = threading.Thread(
            target=lambda: results.extend(Parallel(n_jobs=2, backend=backend)(delayed(begin)(i) for i in range(4)))
        )
        if {busy}:
            thread.start()
            assert until(lambda: len(list(folder.glob("began-*"))) == 2)
        if {how == "os"}:
            pid = os.fork()
            if not pid:
                child()
                sys.exit(0)
            assert os.waitpid(pid, 0)[1] == 0
        else:
            process = multiprocessing.get_context("fork").Process(target=child)
            process.start()
            process.join()
            assert process.exitcode == 0
        assert (folder / "child").exists()
        (folder / "gate").touch()
        if {busy}:
            thread.join()
            assert results == [0, 1, 2, 3], results
        assert works(2, backend=backend)
        assert worker_pids(2) == before
        print("ok", flush=True)
    """
    with Child(source, tmp_path, "-W", "ignore::DeprecationWarning") as child:
        assert child.wait() == (0, "ok\n", "")
        assert child.leaves_nothing() == []


def test_forked_workers_leave_the_parents_executors_alone(tmp_path: Path) -> None:
    """At its end, a forked worker would wake the parent's managers, whose locks it may have inherited as held."""
    source = """
        import concurrent.futures.process, os, sys, threading
        from pathlib import Path
        from shoal import Parallel, delayed

        class Wakeup:
            def wakeup(self):
                (Path(sys.argv[1]) / str(os.getpid())).touch()

        manager = threading.Thread()
        concurrent.futures.process._threads_wakeups[manager] = Wakeup()
        calls = [delayed(os.getpid)() for _ in range(4)]
        pids = Parallel(n_jobs=2, backend="multiprocessing", maxtasksperchild=1, batch_size=1)(calls)
        del concurrent.futures.process._threads_wakeups[manager]
        print(len(set(pids)), flush=True)
    """
    with Child(source, tmp_path) as child:
        assert child.wait() == (0, "4\n", "")
    assert not [path for path in tmp_path.iterdir() if path.name.isdigit()]


def in_daemon(backend: str, queue: Any) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pids = set(Parallel(n_jobs=2, backend=backend)(delayed(os.getpid)() for _ in range(4)))
    queue.put((pids == {os.getpid()}, [(issubclass(w.category, FallbackWarning), str(w.message)) for w in caught]))


@pytest.mark.parametrize("backend", ["loky", "multiprocessing"])
def test_daemon_process(backend: str) -> None:
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    process = context.Process(target=in_daemon, args=(backend, queue), daemon=True)
    process.start()
    inline, caught = queue.get()
    process.join()
    queue.close()
    assert process.exitcode == 0
    assert inline
    assert len(caught) == 1
    assert caught[0][0]
    assert "daemon" in caught[0][1]
    assert "n_jobs=1" in caught[0][1]


def test_pool_is_shared_by_threads() -> None:
    """As many workers as the largest n_jobs in use, and no more."""
    before = set(worker_pids(3))
    seen: list[set[int]] = [set()] * N_THREADS

    def work(run: int) -> None:
        seen[run] = set(Parallel(n_jobs=1 + run % 3, batch_size=1)(delayed(os.getpid)() for _ in range(10)))

    assert in_threads(work) == [None] * N_THREADS
    assert set().union(*seen) <= before | {os.getpid()}


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_callers_of_all_kinds(backend: str) -> None:
    """The threads of a pool, an asyncio loop's executor, and one beside a main thread that minds its own business."""

    def work(run: int) -> list[int]:
        with parallel_config(backend=backend, n_jobs=1 + run % 3):
            results = Parallel(return_as=("list", "generator")[run % 2])(delayed(pow)(i, run) for i in range(30))
            return list(results)

    async def serve(executor: ThreadPoolExecutor | None) -> list[list[int]]:
        loop = asyncio.get_running_loop()
        return await asyncio.gather(*(loop.run_in_executor(executor, work, run) for run in range(8)))

    expected = [[i**run for i in range(30)] for run in range(8)]
    with ThreadPoolExecutor(8) as executor:
        assert list(executor.map(work, range(8))) == expected
        assert asyncio.run(serve(executor)) == expected
    assert asyncio.run(serve(None)) == expected
    answers: queue.SimpleQueue[list[int]] = queue.SimpleQueue()
    threading.Thread(target=lambda: answers.put(work(3)), daemon=True).start()  # as beside a GUI's loop
    assert answers.get(timeout=PATIENCE) == expected[3]
