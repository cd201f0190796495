"""``shoal top`` shows runs on threads, and how far runs on engines are."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from _capabilities import SLOWNESS, needs_memfd, needs_proc
from _cli_util import SHOAL, run
from shoal import Parallel, delayed, executor
from shoal.cli import _programs
from shoal.parallel.running._watch import RunThread, Watch
from shoal.parallel.transport._published import PublishedRun
from shoal.parallel.transport._status import status_page
from shoal.testing import wait_for

pytestmark = [needs_proc, needs_memfd]

#: Calls 0 and 1 end at once; the others wait for a file.
PROGRAM = """
import os, time
from shoal import Parallel, delayed

def wait(index):
    while index > 1 and not os.path.exists("gate"):
        time.sleep(0.01)
    return index

if __name__ == "__main__":
    calls = (delayed(wait)(index) for index in range(6))
    print(list(Parallel(n_jobs=2, backend="threading", {arguments})(calls, total=6)))
"""


@contextlib.contextmanager
def running(folder: Path, arguments: str, program: str = PROGRAM) -> Iterator[subprocess.Popen[str]]:
    """A program whose run has done two calls, and waits in two others."""
    script = folder / "program.py"
    script.write_text(program.format(arguments=arguments))
    with subprocess.Popen([sys.executable, str(script)], cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        try:
            until(lambda: calls_of(process.pid) == {2, 3} or process.poll() is not None)
            yield process
            (folder / "gate").touch()
            assert process.communicate(timeout=60 * SLOWNESS)[0] == "[0, 1, 2, 3, 4, 5]\n"
        finally:
            process.kill()


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def calls_of(pid: int) -> set[int | None]:
    return {worker.call for found in runs_of(pid) if found.kind == "threads" for worker in found.workers}


def runs_of(pid: int) -> list[PublishedRun]:
    return [found for program in _programs.programs(pid) for found in program.runs]


@pytest.mark.parametrize(
    "arguments",
    ["", "return_as='generator'", "task_timeout=100", "retries=1", "progress=lambda done, total: None"],
    ids=["list", "generator", "task_timeout", "retries", "progress"],
)
def test_top_shows_the_calls_that_threads_run(tmp_path: Path, arguments: str) -> None:
    with running(tmp_path, arguments) as process:
        code, told, _ = run(SHOAL, "top", str(process.pid), "--json")
        assert code == 0
        (found,) = json.loads(told)
        assert (found["pid"], found["backend"], found["n_workers"], found["kind"]) == (
            process.pid,
            "threading",
            2,
            "threads",
        )
        assert (found["done"], found["total"], found["left"]) == (2, 6, 4)
        assert found["rss_bytes"] > 0
        assert sorted(worker["call"] for worker in found["workers"]) == [2, 3]
        for worker in found["workers"]:
            assert (worker["function"], worker["pid"], worker["rss_bytes"]) == ("wait", process.pid, None)
            assert os.path.exists(f"/proc/{process.pid}/task/{worker['thread']}")
            assert worker["seconds"] >= 0
            assert worker["cpu"] >= 0


def test_the_table_of_a_run_on_threads(tmp_path: Path) -> None:
    with running(tmp_path, "") as process:
        code, told, _ = run(SHOAL, "top", str(process.pid))
        lines = told.splitlines()
        assert code == 0
        summary = (
            r"  threading, 2 workers, 2 of 6 calls done in [\d.]+ m?s, [\d.]+ per second, .* left, [\d.]+M resident"
        )
        assert re.fullmatch(summary, lines[1])
        assert lines[2].split() == ["THREAD", "DOES", "FUNCTION", "FOR", "CPU"]
        assert sorted(line.split()[1:4] for line in lines[3:]) == [["call", "2", "wait"], ["call", "3", "wait"]]


def test_stack_does_not_take_threads_for_worker_processes(tmp_path: Path) -> None:
    with running(tmp_path, "") as process:
        told = run(SHOAL, "stack", str(process.pid), env={**os.environ, "PATH": str(tmp_path)})[1]
        assert told.startswith(f"program {process.pid}: ")
        assert "\nworker " not in told


def test_a_signal_prints_the_stacks_where_the_program_has_registered_it(tmp_path: Path) -> None:
    """docs/failures.md recommends this."""
    register = "faulthandler.register(signal.SIGUSR1, file=open('stacks', 'w'))"
    program = PROGRAM.replace("import os", "import faulthandler, signal, os").replace(
        "    calls", f"    {register}\n    calls"
    )
    with running(tmp_path, "", program) as process:
        process.send_signal(signal.SIGUSR1)
        until(lambda: (tmp_path / "stacks").read_text().count("in wait\n") == 2)


def test_a_short_run_on_threads_is_not_published(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shoal.parallel.running._watch.FIRST_SECONDS", 1e6)  # on a busy machine, no run is short
    numbers = next(status_page._run_numbers)
    assert Parallel(2, "threading")(delayed(abs)(number) for number in range(3)) == [0, 1, 2]
    assert next(status_page._run_numbers) == numbers + 1


@pytest.mark.parametrize(("given", "total"), [(9, 9), (None, None)])
def test_the_number_of_calls_may_be_that_of_the_user(given: int | None, total: int | None) -> None:
    seen: list[PublishedRun] = []
    parallel = Parallel(2, "loky", batch_size=1, progress=lambda _done, _total: seen.extend(runs_of(os.getpid())))
    parallel((delayed(abs)(number) for number in range(9)), total=given)
    assert seen[0].total == total  # before the input has ended
    assert seen[-1].total == 9


def test_an_executor_that_waits_for_calls_runs_none(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with executor(2, backend="threading") as pool:
        future = pool.submit(wait_for, gate)
        until(lambda: calls_of(os.getpid()) == {0})
        gate.touch()
        assert future.result(60) == "opened"
        until(lambda: calls_of(os.getpid()) == {None})
        assert [found.done for found in runs_of(os.getpid()) if found.kind == "threads"] == [1]
    assert not any(found.kind == "threads" for found in runs_of(os.getpid()))


# ---- What a look sees.


def watched(index: int, taken: int | None, *done: int) -> RunThread:
    thread = RunThread(0, index)
    thread.ident = 1000 + index
    thread.taken = None if taken is None else (taken, (abs, (1,), {}))
    thread.done += [(number, None) for number in done]
    return thread


def looked(watch: Watch, *threads: RunThread, completed: int = 0) -> PublishedRun:
    now = time.perf_counter()
    watch.look(("threading", 3, 9), completed, threads)
    assert now + 1 <= watch.due <= time.perf_counter() + 1
    (found,) = (found for found in runs_of(os.getpid()) if found.kind == "threads")
    return found


def test_a_look_sees_calls_that_run_and_threads_between_calls() -> None:
    now = time.perf_counter()
    watch = Watch()
    try:
        found = looked(watch, watched(0, 5, 0, 1), watched(1, 4, 2, 4), watched(2, None), completed=1)
        assert (found.done, found.total, found.n_workers) == (5, 9, 3)
        assert now <= found.began <= time.perf_counter()
        assert [(worker.pid, worker.call, worker.function) for worker in found.workers] == [(1000, 5, "abs")]
        since = found.workers[0].since
        found = looked(watch, watched(0, 5, 0, 1), watched(1, 6, 2, 4))
        assert [(worker.pid, worker.call) for worker in found.workers] == [(1000, 5), (1001, 6)]
        assert found.workers[0].since == since  # it runs the same call as before
        found = looked(watch, watched(1, 6, 2, 4))
        assert [(worker.call, worker.batch) for worker in found.workers] == [(None, 5), (6, None)]
        found = looked(watch, watched(0, 7), watched(1, 6, 2, 4))
        assert [worker.call for worker in found.workers] == [7, 6]
    finally:
        watch.close()
    assert not any(found.kind == "threads" for found in runs_of(os.getpid()))


def test_an_item_that_is_no_call_has_no_name() -> None:
    watch = Watch()
    thread = watched(0, 0)
    thread.taken = 0, "no call"  # type: ignore[assignment]
    try:
        assert looked(watch, thread).workers[0].call == 0
    finally:
        watch.close()


def test_without_a_page_nothing_is_published(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(status_page), "begin_run", lambda *_args, **_options: None)
    watch = Watch()
    watch.look(("threading", 2, None), 0, [watched(0, 1)])
    assert watch.due > time.perf_counter() + 1e6
    watch.close()
