"""What the tests of faults, leaks, signals and threads share: gates between processes, children that are watched."""

from __future__ import annotations

import gc
import glob
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from _capabilities import KILL, PROC_FOLDER, SIGNALS, SLOWNESS
from _children import path_of_tests, runnable, with_assertions
from shoal import Parallel, delayed

#: How long a test waits for what should come at once, in seconds; only a failing one waits so long.
PATIENCE = 30.0 * SLOWNESS

_MARK = "TEST_SESSION_OF"


def until(condition: Callable[[], Any], seconds: float = 30.0) -> Any:
    """Wait until `condition` holds; return its last value, true or not. `seconds` are of a machine of usual speed."""
    deadline = time.monotonic() + seconds * SLOWNESS
    while not (value := condition()) and time.monotonic() < deadline:
        time.sleep(0.005)
    return value


def wait_for(gate: str | Path) -> None:
    """Wait, in a call, until the test makes the file `gate`."""
    made = until(lambda: os.path.exists(gate), 60)  # not within the assertion, which `python -O` removes in workers
    assert made, f"{gate} was never made"


def worker_pids(n: int = 2) -> list[int]:
    """Return the process ids of the first `n` workers of loky's pool, in the order of their slots."""
    return Parallel(n_jobs=n, batch_size=1)(delayed(os.getpid)() for _ in range(n))


def works(n: int = 2, **options: Any) -> bool:
    """Tell whether a run with `options` gives what it should."""
    return Parallel(n_jobs=n, **options)(delayed(pow)(i, 2) for i in range(20)) == [i * i for i in range(20)]


def alive(pid: int) -> bool:
    """Tell whether a process is there and not only waits to be reaped."""
    if PROC_FOLDER is None:
        return psutil.pid_exists(pid)
    try:
        with open(f"{PROC_FOLDER}/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except OSError:
        return False


def halt(pid: int) -> None:
    """Let a process do nothing until :func:`go_on`."""
    if SIGNALS:
        os.kill(pid, signal.SIGSTOP)
    else:
        psutil.Process(pid).suspend()


def go_on(pid: int) -> None:
    """Let a process go on."""
    if SIGNALS:
        os.kill(pid, signal.SIGCONT)
    else:
        psutil.Process(pid).resume()


def census() -> dict[str, int]:
    """Count what this process has: descriptors, shared memory, threads, children, mappings, handlers for its exit."""
    gc.collect()
    with open(f"{PROC_FOLDER}/self/maps") as file:
        maps = sum("memfd:shoal" in line for line in file)
    children: set[str] = set()
    for task in os.listdir(f"{PROC_FOLDER}/self/task"):
        try:
            with open(f"{PROC_FOLDER}/self/task/{task}/children") as file:
                children.update(file.read().split())
        except OSError:  # a thread that has just ended
            continue
    open_files = []
    for fd in os.listdir(f"{PROC_FOLDER}/self/fd"):
        try:
            open_files.append(os.readlink(f"{PROC_FOLDER}/self/fd/{fd}"))
        except OSError:  # that of the listing itself
            continue
    segments = sum("memfd:shoal" in name for name in open_files)
    return {
        "descriptors": len(open_files) - segments,
        "segments": max(segments, 8),  # so many may wait, empty, for the next run
        "threads": threading.active_count(),
        "children": sum(alive(int(child)) for child in children),
        "maps": maps,
        "handlers": len(threading._threading_atexits),  # type: ignore[attr-defined]
    }


def grown(before: dict[str, int]) -> dict[str, tuple[int, int]]:
    """Wait until this process has no more than `before`; return what it has more of."""

    def more() -> dict[str, tuple[int, int]]:
        after = census()
        return {key: (before[key], after[key]) for key in before if after[key] > before[key]}

    until(lambda: not more(), 20)
    return more()


def _variable(process: psutil.Process, name: str) -> str | None:
    try:
        return process.environ().get(name)
    except (psutil.Error, OSError):
        return None


class Child:
    """A Python program in a session of its own, where warnings are errors; what it leaves behind can be told.

    Parameters
    ----------
    source
        The program. It finds `folder` in ``sys.argv[1]``, and ``shoal``, this module and what tests define.
    folder
        A folder for gates; its temporary files go into a folder below.
    """

    def __init__(self, source: str, folder: Path, *options: str) -> None:
        self.folder = folder
        self._mark = uuid.uuid4().hex
        self.temp = folder / f"tmp-{self._mark}"
        self.temp.mkdir()
        script = folder / f"program-{self._mark}.py"
        script.write_text(textwrap.dedent(source))
        paths = [path_of_tests(), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        environment = {
            **with_assertions(os.environ),
            _MARK: self._mark,
            **dict.fromkeys(["TMPDIR", "TEMP", "TMP"], str(self.temp)),
            "PYTHONPATH": os.pathsep.join(paths),
        }
        self._before = set(glob.glob("/dev/shm/*"))  # a process of the same id may have been killed here
        self.process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-W", "error", *options, str(runnable(script)), str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,
        )
        self.pid = self.process.pid

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self._kill()
        self.process.communicate()

    def _kill(self) -> None:
        for pid in {self.pid, *self.family()}:
            try:
                os.kill(pid, KILL)
            except OSError:
                continue

    def wait(self) -> tuple[int, str, str]:
        """Return its exit code, and what it, and all that it has started, wrote to stdout and stderr."""
        try:
            out, err = self.process.communicate(timeout=40 * SLOWNESS)
        except subprocess.TimeoutExpired:
            if SIGNALS:
                self.process.send_signal(signal.SIGABRT)
                time.sleep(0.5)
            self._kill()
            raise AssertionError("it does not end:\n" + "\n".join(self.process.communicate())) from None
        return self.process.returncode, out, err

    def family(self) -> list[int]:
        """Return the processes that live, it and all that descend from it."""
        if PROC_FOLDER is None:
            return [process.pid for process in psutil.process_iter() if _variable(process, _MARK) == self._mark]
        mark, found = f"{_MARK}={self._mark}".encode(), []
        for entry in os.listdir(PROC_FOLDER):
            if entry.isdigit():
                try:
                    with open(f"{PROC_FOLDER}/{entry}/environ", "rb") as file:
                        if mark in file.read().split(b"\0") and alive(int(entry)):
                            found.append(int(entry))
                except OSError:
                    continue
        return found

    def remains(self) -> list[str]:
        """Return what is left of it: processes, shared memory and semaphores, temporary files."""
        left = []
        for pid in self.family():
            try:
                if PROC_FOLDER is None:
                    left.append(f"process {pid}: {psutil.Process(pid).cmdline()}")
                    continue
                with open(f"{PROC_FOLDER}/{pid}/cmdline", "rb") as file:
                    left.append(f"process {pid}: {file.read()!r}")
            except (OSError, psutil.Error):
                continue
        shared = [name for name in glob.glob(f"/dev/shm/*-{self.pid}-*") if name not in self._before]
        return left + shared + [str(path) for path in self.temp.rglob("*")]

    def leaves_nothing(self) -> list[str]:
        """Wait, ten seconds at most, until nothing is left; return what is."""
        until(lambda: not self.remains(), 10)
        return self.remains()
