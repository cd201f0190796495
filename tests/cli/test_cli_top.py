"""``shoal top`` and ``shoal stack``: what they show of a program whose calls wait, and of whom they show nothing."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from _capabilities import SLOWNESS, needs_memfd, needs_proc
from _cli_util import SHOAL, run
from shoal.backends._process import children_of
from shoal.cli import _programs, main
from shoal.parallel.transport import _published
from shoal.parallel.transport._published import PAGE_BYTES, RunRecord, owner_of, read_runs, write_header

pytestmark = [needs_proc, needs_memfd]

#: Its calls wait for a file. Calls 0 and 1 do not: they are done when the others wait.
PROGRAM = """
import os, signal, sys, time
from shoal import Parallel, delayed

GATE = "gate"

def wait(index):
    if index > 1:
        linger()
    return index

def linger():
    while not os.path.exists(GATE): time.sleep(0.01)  # here: one line, for either part of it may run

def begin():
    {initializer}

if __name__ == "__main__":
    {before}
    parallel = Parallel(n_jobs=2, batch_size=1, backend={backend!r}, initializer=begin)
    print(parallel([delayed(wait)(index) for index in range(6)]))
"""
CALLER = PROGRAM[: PROGRAM.index("print(parallel")].count("\n") + 1
LINE = PROGRAM[: PROGRAM.index("# here")].count("\n") + 1


class Running:
    """A program whose run has done two calls, and waits in two others."""

    def __init__(self, folder: Path, process: subprocess.Popen[str]) -> None:
        self.folder, self.process, self.pid = folder, process, process.pid

    def runs(self) -> list[Any]:
        return [run for program in _programs.programs(self.pid) for run in program.runs]

    def waits(self) -> bool:
        calls = self.calls()
        return len(calls) == 2 and min(calls) > 1 and self.runs()[0].done == 2

    def calls(self) -> list[int]:
        workers = [worker for run in self.runs() for worker in run.workers]
        return sorted(worker.call for worker in workers if worker.call is not None)

    def workers(self) -> list[int]:
        return _programs.workers_of(self.pid)

    def finish(self) -> None:
        (self.folder / "gate").touch()
        assert self.process.communicate(timeout=60 * SLOWNESS) == ("[0, 1, 2, 3, 4, 5]\n", "")
        assert self.process.returncode == 0


def until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@contextlib.contextmanager
def running(
    folder: Path, backend: str = "loky", initializer: str = "pass", before: str = "pass", **variables: str
) -> Iterator[Running]:
    path = folder / "program.py"
    path.write_text(PROGRAM.format(backend=backend, initializer=initializer, before=before))
    (folder / "temp").mkdir()
    environment = {**os.environ, "TMPDIR": str(folder / "temp"), "SHOAL_START_METHOD": "", **variables}
    with subprocess.Popen(
        [sys.executable, str(path)],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            program = Running(folder, process)
            until(lambda: program.waits() or process.poll() is not None)
            yield program
        finally:
            process.kill()


def without_py_spy(folder: Path) -> dict[str, str]:
    """Variables under which no py-spy is found."""
    return {**os.environ, "PATH": str(folder)}


WAYS = {
    "a fork server": {},
    "exec": {"SHOAL_START_METHOD": "loky"},
    "spawn": {"SHOAL_START_METHOD": "spawn"},
    "multiprocessing": {"backend": "multiprocessing"},
}


@pytest.mark.parametrize("way", WAYS)
def test_top_and_stack_show_the_calls_that_run(tmp_path: Path, way: str) -> None:
    with running(tmp_path, **WAYS[way]) as program:
        code, told, _ = run(SHOAL, "top", "--once", "--json")
        (found,) = (found for found in json.loads(told) if found["pid"] == program.pid)
        assert code == 0
        assert found["argv"] == [sys.executable, str(tmp_path / "program.py")]
        assert (found["backend"], found["n_workers"]) == (WAYS[way].get("backend", "loky"), 2)
        assert (found["done"], found["total"], found["left"]) == (2, 6, 4)
        assert found["seconds_left"] > 0
        workers = sorted(found["workers"], key=lambda worker: worker["call"])
        assert [worker["call"] for worker in workers] == program.calls()
        for worker in workers:
            assert worker["function"].endswith("wait")
            assert worker["rss_bytes"] > worker["private_bytes"] > 0
            assert worker["seconds"] >= 0
            assert worker["cpu"] >= 0
        assert sorted(worker["pid"] for worker in workers) == sorted(program.workers())

        code, told, errors = run(SHOAL, "stack", str(program.pid), env=without_py_spy(tmp_path))
        assert (code, errors) == (0, "")
        caller = told.partition("\n\n")[0].splitlines()
        assert caller[0] == f"program {program.pid}: {sys.executable} {tmp_path}/program.py"
        assert "Thread MainThread (most recent call first):" in caller
        assert f'  File "{tmp_path}/program.py", line {CALLER} in <module>' in caller
        for worker in workers:
            start = told.index(f"worker {worker['pid']}: call {worker['call']}, {worker['function']}, for ")
            stack = told[start:].split("\n\nworker")[0]
            assert f'  File "{tmp_path}/program.py", line {LINE} in linger\n' in stack
            assert stack.rstrip().endswith("in wait")  # the frames of shoal are left out
        program.finish()


def test_the_table(tmp_path: Path) -> None:
    with running(tmp_path) as program:
        code, told, _ = run(SHOAL, "top", str(program.pid))
        lines = told.splitlines()
        assert code == 0
        assert lines[0] == f"{program.pid}  {sys.executable} {tmp_path}/program.py"
        assert lines[1].startswith("  loky, 2 workers, 2 of 6 calls done in ")
        assert lines[2].split() == ["PID", "DOES", "FUNCTION", "FOR", "RSS", "PRIVATE", "CPU"]
        assert sorted(int(line.split()[2]) for line in lines[3:]) == program.calls()
        assert len(lines) == 5


def test_on_a_terminal_the_table_is_drawn_again_until_the_program_ends(tmp_path: Path) -> None:
    import pty

    with running(tmp_path) as program:
        ours, theirs = pty.openpty()
        command = [*SHOAL, "top", "--interval", "0.05", str(program.pid)]
        with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs) as top:
            os.close(theirs)
            told = b""
            while told.count(b"\x1b[2J") < 3:
                told += os.read(ours, 4096)
            program.process.kill()
            program.process.wait()
            with contextlib.suppress(OSError):  # the terminal is closed
                while os.read(ours, 4096):
                    pass
            assert top.wait(60) == 0
        os.close(ours)
        assert b"2 of 6 calls done" in told


def test_nothing_is_left_after_a_kill(tmp_path: Path) -> None:
    shared = set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()
    with running(tmp_path) as program:
        workers = program.workers()
        assert len(workers) == 2
        os.kill(program.pid, signal.SIGKILL)
        program.process.wait()
        until(lambda: all(_programs.usage_of(pid) in (None, (0, 0, 0)) or ended(pid) for pid in workers))
        assert os.listdir(tmp_path / "temp") == []
        if shared:
            assert not {name for name in set(os.listdir("/dev/shm")) - shared if "shoal" in name}
        assert program.pid not in [found["pid"] for found in json.loads(run(SHOAL, "top", "--json")[1])]
        assert run(SHOAL, "top", str(program.pid)) == (1, "", f"shoal: there is no process {program.pid}\n")
        assert run(SHOAL, "stack", str(program.pid)) == (1, "", f"shoal: there is no process {program.pid}\n")


def ended(pid: int) -> bool:
    try:
        return _programs.status_of(pid, "State").startswith("Z")
    except OSError:
        return True


def test_a_program_of_another_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with running(tmp_path) as program:
        user = os.geteuid()
        monkeypatch.setattr(os, "geteuid", lambda: user + 1)
        assert main(["top", "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == []
        for command in ("top", "stack"):
            assert main([command, str(program.pid)]) == 1
            assert capsys.readouterr() == ("", f"shoal: process {program.pid} belongs to another user\n")
        program.finish()


def test_on_other_systems(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    for arguments in (["top"], ["stack", "1"]):
        assert main(arguments) == 1
        assert "this command needs Linux" in capsys.readouterr().err


def test_a_process_without_runs(capsys: pytest.CaptureFixture[str]) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert main(["top", str(process.pid), "--once"]) == 0
        assert capsys.readouterr().out == f"process {process.pid} has no run on several workers\n"
        process.kill()


@pytest.mark.parametrize(
    "arguments", [["top", "x"], ["top", "0"], ["top", "--interval", "0"], ["stack"], ["stack", "-1"]]
)
def test_wrong_arguments(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert "usage: shoal" in capsys.readouterr().err


def test_a_forked_child_does_not_have_its_parents_runs(tmp_path: Path) -> None:
    fork = "os.fork() or (time.sleep(1000), os._exit(0))"
    late = f"import threading; threading.Timer(0.0, lambda: (time.sleep(0.7), {fork})).start()"
    with running(tmp_path, before=late) as program:
        until(lambda: len([pid for pid in children_of(program.pid) if is_copy(pid)]) == 1)
        (child,) = (pid for pid in children_of(program.pid) if is_copy(pid))
        try:
            assert _programs.programs(child) == []
        finally:
            os.kill(child, signal.SIGKILL)


def is_copy(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return _programs.argv_of(pid)[-1].endswith("program.py")
    return False


# ---- Workers that do not answer.


def test_the_program_has_taken_the_signal(tmp_path: Path) -> None:
    with running(tmp_path, initializer="signal.signal(45, signal.SIG_DFL)") as program:
        code, told, _ = run(SHOAL, "stack", str(program.pid))
        assert code == 1
        assert told.count("the program has changed the handler of signal 45") == 2
        program.finish()  # nothing was killed


def test_the_programs_handler_stays(tmp_path: Path) -> None:
    with running(tmp_path, before="signal.signal(45, signal.SIG_IGN)", SHOAL_START_METHOD="loky") as program:
        assert "changed the handler" in run(SHOAL, "stack", str(program.pid))[1] or program.workers() == []
        program.finish()


def test_a_stopped_worker(tmp_path: Path) -> None:
    with running(tmp_path) as program:
        stopped = program.workers()[0]
        os.kill(stopped, signal.SIGSTOP)
        until(lambda: _programs.status_of(stopped, "State").startswith("T"))
        code, told, _ = run(SHOAL, "stack", str(program.pid))
        assert code == 1
        assert told.count(f"it is stopped ('kill -CONT {stopped}' continues it)") == 1
        assert told.count("in linger") == 1
        os.kill(stopped, signal.SIGCONT)
        program.finish()


def test_one_worker(tmp_path: Path) -> None:
    with running(tmp_path) as program:
        worker = program.workers()[0]
        code, told, _ = run(SHOAL, "stack", str(worker))
        assert code == 0
        assert told.count("in linger") == 1
        assert told.startswith(f"worker {worker}: ")


def test_requests_write_into_no_file_of_the_user(tmp_path: Path) -> None:
    with running(tmp_path) as program:
        path = _programs.request_path(program.pid)
        assert path is not None
        with open(tmp_path / "file", "wb") as file, open(path, "wb", buffering=0) as pipe:
            pipe.write(f"/proc/{os.getpid()}/fd/{file.fileno()}\n/proc/1/fd/x\n/proc/0/fd/1\n".encode())
            assert run(SHOAL, "stack", str(program.pid))[0] == 0  # a later request, after which that one is done
        assert (tmp_path / "file").read_bytes() == b""
        program.finish()


# ---- py-spy.


def py_spy(folder: Path, source: str) -> dict[str, str]:
    """Write a program in py-spy's place; return the variables under which it is found."""
    path = folder / "py-spy"
    path.write_text(f"#!/bin/sh\n{textwrap.dedent(source)}\n")
    path.chmod(0o755)
    return {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}


def test_py_spy_shows_the_program_and_native_frames(tmp_path: Path) -> None:
    with running(tmp_path) as program:
        variables = py_spy(tmp_path, 'echo "spied: $*"')
        told = run(SHOAL, "stack", str(program.pid), env=variables)[1]
        assert "spied" not in told  # the program has answered
        assert told.count("in linger") == 2
        os.kill(program.pid, signal.SIGSTOP)
        told = run(SHOAL, "stack", str(program.pid), env=variables)[1]
        os.kill(program.pid, signal.SIGCONT)
        title = f"program {program.pid}: {sys.executable} {tmp_path}/program.py"
        assert f"{title}\nspied: dump --pid {program.pid}\n" in told
        told = run(SHOAL, "stack", "--native", str(program.pid), env=variables)[1]
        for pid in (program.pid, *program.workers()):
            assert f"spied: dump --native --pid {pid}\n" in told
        variables = py_spy(tmp_path, "echo 'Permission denied: try sudo' >&2; exit 1")
        code, told, _ = run(SHOAL, "stack", "--native", str(program.pid), env=variables)
        assert "py-spy cannot read it: Permission denied: try sudo" in told
        assert code == 1
        program.finish()  # it does not mind the request that came while it was stopped


def test_without_py_spy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("shoal.cli._stack._py_spy", lambda: None)
    monkeypatch.setattr("shoal.cli._stack._answered", lambda _pid: None)  # this process may have had workers,
    monkeypatch.setattr("shoal.cli._stack.workers_of", lambda _pid: [])  # and may keep them
    assert main(["stack", "--native", str(os.getpid())]) == 1
    assert "--native needs py-spy" in capsys.readouterr().err
    assert main(["stack", str(os.getpid())]) == 1
    assert "pip install py-spy" in capsys.readouterr().out


# ---- The page.


def function() -> None: ...


class Odd:
    def __getattr__(self, name: str) -> Any:
        raise ValueError(name)

    def __call__(self) -> None: ...

    def method(self) -> None: ...


def record(number: int = 1, place: int = 0) -> tuple[bytearray, RunRecord]:
    page = bytearray(PAGE_BYTES)
    write_header(page, 7, 3)
    return page, begun(page, number, place)


def begun(page: bytearray, number: int, place: int = 0, kind: str = "processes") -> RunRecord:
    made = RunRecord(memoryview(page), place)
    made.begin(number, "loky", 2, None, 1.0, kind)
    return made


def begin_call(page: bytearray, row: int, index: int, pid: int = 5) -> None:
    _published._ROW.pack_into(page, row * _published._ROW.size, float(index), 1.0, float(pid))


HERE = __name__


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (function, f"{HERE}.function"),
        (functools.partial(function), f"{HERE}.function"),
        (functools.partial(functools.partial, function), "functools.partial"),
        (Odd(), f"{HERE}.Odd"),
        (Odd().method, f"{HERE}.Odd.method"),
        (Odd, f"{HERE}.Odd"),
        (functools.wraps(function)(lambda: None), f"{HERE}.function"),
        (len, "len"),
        ("no function", "str"),
    ],
    ids=["function", "partial", "partials", "callable", "method", "class", "wrapper", "builtin", "text"],
)
def test_names_of_functions(given: Any, name: str) -> None:
    page, run = record()
    run.sent(3, 0, 10, given)
    begin_call(page, 3, 9)
    (worker,) = read_runs(page)[0].workers
    assert (worker.pid, worker.call, worker.function, worker.several) == (5, 9, name, False)


def test_long_and_odd_names_are_cut() -> None:
    page, run = record()

    def inner() -> None: ...

    inner.__module__, inner.__qualname__ = "m" * 200, "é" * 40 + "\udc80"
    run.sent(0, 0, 1, inner)
    begin_call(page, 0, 0)
    (worker,) = read_runs(page)[0].workers
    assert worker.function is not None
    assert worker.function.endswith(".ééééé".strip(".") + "\\udc80")


def test_a_second_batch_may_wait_behind_the_first() -> None:
    page, run = record()
    run.sent(0, 0, 5, function)
    run.sent(0, 5, 5, [len, function, len, len, len])
    for call, name, several in ((4, f"{HERE}.function", False), (5, "len", True)):
        begin_call(page, 0, call)
        (worker,) = read_runs(page)[0].workers
        assert (worker.function, worker.several) == (name, several)
    begin_call(page, 0, -1 - 5)
    (worker,) = read_runs(page)[0].workers
    assert (worker.call, worker.batch, worker.function) == (None, 5, "len")
    begin_call(page, 0, 99)  # a batch that is not noted
    assert read_runs(page)[0].workers[0].function is None


def test_runs_that_have_ended_are_not_shown_and_their_rows_serve_others() -> None:
    page, first = record()
    first.sent(0, 0, 1, len)
    first.publish(3, None)
    assert [(run.done, run.total) for run in read_runs(page)] == [(3, None)]
    first.end()
    assert read_runs(page) == []
    second = begun(page, 2, kind="threads")
    second.sent(0, 0, 1, function)
    begin_call(page, 0, 0)
    (run,) = read_runs(page)
    assert (run.number, run.n_workers, run.total, run.kind, len(run.workers)) == (2, 2, None, "threads", 1)
    assert run.workers[0].function == f"{HERE}.function"


def test_other_pages_are_refused() -> None:
    page, _ = record()
    assert owner_of(page) == (7, 3)
    assert owner_of(page[:-1]) is None
    assert owner_of(bytes(PAGE_BYTES)) is None
