"""Workers that are replaced: after so many calls, and when they hold too much memory."""

from __future__ import annotations

import os
import threading
import time
import uuid
import warnings
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy
import pytest

from _capabilities import needs_proc
from _faults_util import PATIENCE, Child, alive, until, wait_for, worker_pids, works
from _python import GIL
from shoal import Parallel, delayed, parallel_config, shared
from shoal.backends import WorkerSpec, create
from shoal.backends._pool import pool
from shoal.errors import FallbackWarning, WorkerDied
from shoal.parallel.running import _launch
from shoal.parallel.transport._worker_limits import _private_memory_by_psutil, private_memory

PROCESSES = ["loky", "multiprocessing"]
MB = 2**20
#: Tells processes of the same id apart: Windows uses ids again at once. Forked processes share it, but no id.
BORN = uuid.uuid4().hex


def identity() -> tuple[int, str]:
    return os.getpid(), BORN


def note(folder: Path, index: int) -> int:
    """Note that a call began, and where."""
    with open(folder / f"began-{index}", "a") as file:
        file.write(f"{os.getpid()} {BORN}\n")
    return index


def places(folder: Path, n: int) -> list[tuple[int, str]]:
    """Return the `identity` of the process of each of `n` calls, in that order; each began exactly once."""
    found = []
    for index in range(n):
        (line,) = (folder / f"began-{index}").read_text().splitlines()
        pid, born = line.split()
        found.append((int(pid), born))
    assert len(list(folder.glob("began-*"))) == n
    return found


def fail(folder: Path, index: int) -> int:
    note(folder, index)
    raise LookupError(index)


@pytest.mark.parametrize("backend", PROCESSES)
@pytest.mark.parametrize(("n", "batch_size"), [(1, "auto"), (3, "auto"), (3, 1), (4, 10)])
def test_a_worker_runs_so_many_calls_exactly(tmp_path: Path, backend: str, n: int, batch_size: Any) -> None:
    fresh = partial(int)  # workers that no run before had
    run = Parallel(n_jobs=2, backend=backend, batch_size=batch_size, max_tasks_per_worker=n, initializer=fresh)
    assert run(delayed(note)(tmp_path, index) for index in range(12)) == list(range(12))
    served = Counter(places(tmp_path, 12))
    assert max(served.values()) == n
    # Only the last process of each worker may have run fewer.
    assert sum(count < n for count in served.values()) <= 2


@pytest.mark.parametrize("return_as", ["generator", "generator_unordered"])
def test_generators_with_replaced_workers(tmp_path: Path, return_as: str) -> None:
    run = Parallel(n_jobs=2, return_as=return_as, max_tasks_per_worker=2)
    results = list(run(delayed(note)(tmp_path, index) for index in range(12)))
    assert (results if return_as == "generator" else sorted(results)) == list(range(12))
    assert max(Counter(places(tmp_path, 12)).values()) == 2


def test_calls_of_earlier_runs_and_failed_calls_count(tmp_path: Path) -> None:
    before = set(Parallel(n_jobs=2, batch_size=1)(delayed(identity)() for _ in range(2)))
    assert works()
    run = Parallel(n_jobs=2, max_tasks_per_worker=2, on_error="return", batch_size=2)
    assert {type(error) for error in run(delayed(fail)(tmp_path, index) for index in range(8))} == {LookupError}
    served = Counter(places(tmp_path, 8))
    assert max(served.values()) == 2
    assert not before & set(served)
    gone = {pid for pid, _ in before} - {pid for pid, _ in served}
    assert until(lambda: not any(map(alive, gone)))


def test_a_replaced_worker_gets_what_it_needs(tmp_path: Path) -> None:
    """What a run sends to a worker once, functions by value and shared arguments, is sent to its successor too."""
    table = shared({index: -index for index in range(100)})
    run = Parallel(n_jobs=2, max_tasks_per_worker=3)
    results = run(delayed(lambda table, index: (note(tmp_path, index), table[index]))(table, i) for i in range(12))
    assert results == [(index, -index) for index in range(12)]
    places(tmp_path, 12)


def test_a_run_that_shares_the_workers_is_not_disturbed(tmp_path: Path) -> None:
    """While one run has its workers replaced call by call, each call of the other runs exactly once, and to its end."""
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.mkdir()
    theirs.mkdir()
    others: list[Any] = []

    def other() -> None:
        run = Parallel(n_jobs=2, batch_size=1)
        others.extend(run(delayed(note)(theirs, index) for index in range(40)))

    thread = threading.Thread(target=other)
    thread.start()
    run = Parallel(n_jobs=2, batch_size=1, max_tasks_per_worker=1)
    assert run(delayed(note)(ours, index) for index in range(12)) == list(range(12))
    thread.join(60)
    assert others == list(range(40))
    places(theirs, 40)
    assert max(Counter(places(ours, 12)).values()) == 1


@pytest.mark.parametrize("backend", PROCESSES)
def test_a_worker_that_is_to_go_can_still_be_killed(tmp_path: Path, backend: str) -> None:
    opened = create(backend)
    slots = opened.open(WorkerSpec(1))
    try:
        pid = slots[0].executor.submit(os.getpid).result(PATIENCE)
        stuck = slots[0].executor.submit(wait_for, tmp_path / "gate")
        assert opened.retire(slots[0], pid)
        slots[0] = opened.abort(slots[0])
        assert stuck.exception(PATIENCE) is not None
        assert slots[0].executor.submit(os.getpid).result(PATIENCE) != pid
    finally:
        opened.close(slots)


@needs_proc
@pytest.mark.parametrize(("backend", "n"), [("loky", 24), ("multiprocessing", 60)])
def test_replacements_leave_nothing(tmp_path: Path, backend: str, n: int) -> None:
    source = f"""
import contextlib, gc, os, sys, threading
from _faults_util import until, works
from shoal import Parallel, delayed


def census():
    gc.collect()
    children = set()
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError), open(f"/proc/self/task/{{task}}/children") as file:  # it may have ended
            children.update(file.read().split())
    return dict(
        descriptors=len(os.listdir("/proc/self/fd")),
        threads=threading.active_count(),
        children=len(children),
        handlers=len(threading._threading_atexits),
    )


def one(n):
    pids = Parallel(n_jobs=2, backend={backend!r}, max_tasks_per_worker=1)(delayed(os.getpid)() for _ in range(n))
    assert len(set(pids)) == n


one(4)
assert works(backend={backend!r})
before = census()
before["descriptors"] += 2  # two results at a time need two segments, which are kept; a leak would be {n} or more
one({n})
assert works(backend={backend!r})
until(lambda: all(census()[key] <= before[key] for key in before), 20)
after = census()
assert all(after[key] <= before[key] for key in before), (before, after)
print("ok", flush=True)
"""
    with Child(source, tmp_path) as child:
        assert child.wait() == (0, "ok\n", "")
        assert child.leaves_nothing() == []


_kept: list[Any] = []


def leak(folder: Path, index: int, nbytes: int) -> int:
    _kept.append(numpy.ones(nbytes, dtype=numpy.uint8))
    return note(folder, index)


@needs_proc
@pytest.mark.parametrize("backend", PROCESSES)
@pytest.mark.parametrize("batch_size", ["auto", 30])
def test_a_worker_that_grows_is_replaced_between_calls(tmp_path: Path, backend: str, batch_size: Any) -> None:
    pool().end_all_once_idle(wait=True)  # those that were forked earlier begin with less than this process holds
    free = (private_memory("self") or 0) + 180 * MB if backend == "multiprocessing" else 200 * MB
    run = Parallel(n_jobs=2, backend=backend, batch_size=batch_size, max_worker_memory=free)
    assert run(delayed(leak)(tmp_path, index, 50 * MB) for index in range(24)) == list(range(24))
    served = Counter(places(tmp_path, 24))
    assert len(served) >= (6 if GIL else 5)  # there, they begin with less
    assert max(served.values()) <= 5


def hold(folder: Path, index: int, nbytes: int) -> int:
    note(folder, index)
    block = numpy.ones(nbytes, dtype=numpy.uint8)
    if nbytes > MB:
        time.sleep(1000)
    return index * int(block[0])


@needs_proc
@pytest.mark.parametrize("backend", PROCESSES)
def test_a_call_that_takes_far_too_much_is_killed_and_says_why(tmp_path: Path, backend: str) -> None:
    base = private_memory("self") or 0 if backend == "multiprocessing" else 0
    run = Parallel(n_jobs=2, backend=backend, batch_size=1, max_worker_memory=200 * MB + base, on_error="return")
    results = run(delayed(hold)(tmp_path, index, 400 * MB + base if index == 7 else 1) for index in range(20))
    died = results.pop(7)
    assert results == [index for index in range(20) if index != 7]
    assert isinstance(died, WorkerDied)
    assert died.call.index == 7
    assert "was killed: it held " in str(died)
    assert "of memory, over max_worker_memory='" in str(died)
    places(tmp_path, 20)


@needs_proc
def test_a_call_that_was_killed_for_its_memory_is_retried(tmp_path: Path) -> None:
    def sometimes(index: int) -> int:
        first = not (tmp_path / f"began-{index}").exists()
        return hold(tmp_path, index, 400 * MB if index == 3 and first else 1)

    run = Parallel(n_jobs=2, max_worker_memory="200M", retries=1, batch_size=1)
    assert run(delayed(sometimes)(index) for index in range(6)) == list(range(6))
    assert len((tmp_path / "began-3").read_text().splitlines()) == 2
    with pytest.raises(WorkerDied, match=r"it held [\d.]+M of memory, over max_worker_memory='200M' by more than half"):
        Parallel(n_jobs=2, max_worker_memory="200M")([delayed(hold)(tmp_path, 9, 400 * MB), delayed(abs)(1)])


def total(array: Any) -> tuple[int, float]:
    return os.getpid(), float(array.sum())


@needs_proc
def test_shared_arrays_do_not_count() -> None:
    array = numpy.ones(300 * MB // 8)
    worker_pids()
    results = Parallel(n_jobs=2, max_worker_memory="150M", batch_size=1)(delayed(total)(array) for _ in range(6))
    assert [value for _, value in results] == [array.size] * 6
    assert len({pid for pid, _ in results}) <= 2


@needs_proc
def test_a_limit_below_what_a_new_process_holds_gives_one_call_to_each() -> None:
    fresh = min(Parallel(n_jobs=2, max_tasks_per_worker=1)(delayed(private_memory)("self") for _ in range(4)))
    pids = Parallel(n_jobs=2, max_worker_memory=int(0.8 * fresh), batch_size=1)(delayed(os.getpid)() for _ in range(5))
    assert len(set(pids)) == 5


def test_limits_of_the_context() -> None:
    with parallel_config(max_tasks_per_worker=1, max_worker_memory="1T"):
        assert len(set(Parallel(n_jobs=2)(delayed(os.getpid)() for _ in range(4)))) == 4


@pytest.mark.parametrize(
    "bad",
    [
        {"max_tasks_per_worker": 0},
        {"max_tasks_per_worker": 2.5},
        {"max_tasks_per_worker": True},
        {"max_worker_memory": 0},
        {"max_worker_memory": True},
        {"max_worker_memory": "lots"},
    ],
    ids=str,
)
def test_limits_that_are_none(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(bad))} must be a positive|is not a size"):
        Parallel(n_jobs=2, **bad)
    with pytest.raises(ValueError, match=r"must be a positive|is not a size"):
        parallel_config(**bad)


@pytest.mark.parametrize(("backend", "n_jobs"), [("threading", 2), ("sequential", 1), ("loky", 1)])
@pytest.mark.parametrize("limit", [{"max_tasks_per_worker": 3}, {"max_worker_memory": "2G"}], ids=str)
def test_where_there_are_no_processes_limits_are_ignored_aloud(
    backend: str, n_jobs: int, limit: dict[str, Any]
) -> None:
    ((name, value),) = limit.items()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert works(n_jobs, backend=backend, **limit)
    (warning,) = caught
    assert warning.category is FallbackWarning
    assert str(warning.message).startswith(f"{name}={value!r} is ignored: ")
    assert warning.filename == works.__code__.co_filename


def test_where_nobody_knows_what_processes_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_launch, "private_memory", lambda _pid: None)
    with pytest.warns(FallbackWarning, match=r"max_worker_memory='2G' is ignored: this system does not") as caught:
        pids = Parallel(n_jobs=2, max_worker_memory="2G", max_tasks_per_worker=1)(delayed(os.getpid)() for _ in "abc")
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert len(set(pids)) == 3


@needs_proc
def test_what_a_process_holds_as_psutil_tells_it() -> None:
    assert _private_memory_by_psutil("self") == pytest.approx(private_memory("self"), rel=0.1)
    assert _private_memory_by_psutil(os.getppid()) == pytest.approx(private_memory(os.getppid()), rel=0.1)
    assert private_memory(2**30) is _private_memory_by_psutil(2**30) is None


@pytest.fixture(autouse=True)
def _fresh_workers() -> Iterator[None]:
    """Leave no worker to other tests that has grown."""
    yield
    _kept.clear()
