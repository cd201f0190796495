"""``shoal top`` shows the tasks of runs on engines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from shoal import Parallel, backends, delayed, register_parallel_backend
from shoal.backends import Slot, WorkerSpec
from shoal.backends.base import Backend
from shoal.cli import _programs
from shoal.parallel.transport._published import PublishedRun
from shoal.parallel.transport._status import status_page

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and memfds")

#: Runs its calls on an engine of threads, prints the table while all of them wait, and lets them end.
PROGRAM = """
import os, subprocess, sys, threading
from shoal import Parallel, delayed, register_parallel_backend
from test_cli_top_tasks import Engine

gate = threading.Event()

def work(index):
    gate.wait(60)
    return index

def look():
    command = [sys.executable, "-m", "shoal", "top", str(os.getpid()), *sys.argv[1:]]
    print(subprocess.run(command, capture_output=True, text=True, check=True).stdout, flush=True)
    gate.set()

register_parallel_backend("engine", Engine)
threading.Timer(0.5, look).start()
assert Parallel(2, backend="engine", batch_size={batch_size})([delayed(work)(n) for n in range(6)]) == [*range(6)]
"""


class Engine(Backend):
    """A backend to which batches are handed as objects, as to engines of clusters."""

    name = "engine"
    ships_bytes = False

    def open(self, spec: WorkerSpec) -> list[Slot]:
        return [Slot(ThreadPoolExecutor(2), spec.n_workers)]

    def close(self, slots: list[Slot]) -> None:
        for slot in slots:
            slot.executor.shutdown()

    def abort(self, slot: Slot) -> Slot:
        slot.executor.shutdown(wait=False, cancel_futures=True)
        return Slot(ThreadPoolExecutor(2), slot.width)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(backends, "_factories", dict(backends._factories))
    register_parallel_backend("engine", Engine)
    return "engine"


def shown(batch_size: int, *options: str) -> str:
    """Return what ``shoal top`` says of the program's run."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", PROGRAM.format(batch_size=batch_size), *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def runs() -> list[PublishedRun]:
    return [found for program in _programs.programs(os.getpid()) for found in program.runs]


def test_the_table_of_tasks() -> None:
    lines = shown(batch_size=3).splitlines()
    assert lines[1].startswith("  engine, 2 workers, 0 of 6 calls done in ")
    assert lines[2].split() == ["TASK", "FUNCTION", "FOR"]
    assert sorted(line.split()[:5] for line in lines[3:5]) == [
        ["calls", "0", "to", "2", "work"],
        ["calls", "3", "to", "5", "work"],
    ]


def test_tasks_of_one_call_as_json() -> None:
    (found,) = json.loads(shown(1, "--json"))
    assert (found["kind"], found["n_workers"], found["done"]) == ("tasks", 2, 0)
    tasks = found["workers"]
    assert sorted(task["call"] for task in tasks) == [0, 1]
    for task in tasks:
        assert (task["pid"], task["thread"], task["function"], task["n_calls"]) == (None, None, "work", 1)
        assert task["seconds"] > 0


def test_tasks_that_have_ended_are_not_shown(engine: str) -> None:
    gate = threading.Event()
    outer = Parallel(2, backend=engine, batch_size=1, return_as="generator_unordered")
    calls: list[Any] = [delayed(abs)(-1), *[delayed(gate.wait)(60) for _ in range(3)]]
    results = outer(calls)
    assert next(results) == 1
    # A second run takes rows of its own, so that the first one's stay with it.
    assert Parallel(2, backend=engine, batch_size=1)(delayed(abs)(-n) for n in range(20)) == [*range(20)]
    try:
        (found,) = runs()
        assert {1, 2} <= {task.call for task in found.workers} <= {1, 2, 3}  # call 3 may wait behind them
    finally:
        gate.set()
    assert list(results) == [True] * 3
    assert runs() == []


def test_a_page_without_free_rows_is_no_failure(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_page, "allocate", lambda: None)
    seen: list[int] = []

    def look(_done: int, _total: int | None) -> None:
        seen.extend(len(found.workers) for found in runs())

    assert Parallel(2, backend=engine, batch_size=1, progress=look)(delayed(abs)(-n) for n in range(4)) == [0, 1, 2, 3]
    assert set(seen) == {0}


def test_rows_are_given_back(engine: str) -> None:
    assert Parallel(2, backend=engine)(delayed(abs)(-n) for n in range(2)) == [0, 1]
    free = len(status_page._free)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            Parallel(2, backend=engine, batch_size=1)(delayed(divmod)(1, n) for n in range(4))
    assert Parallel(2, backend=engine, batch_size=1)(delayed(abs)(-n) for n in range(20)) == [*range(20)]
    assert len(status_page._free) == free
