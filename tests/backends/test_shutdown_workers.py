"""``shutdown_workers``: idle workers end at once, those of runs with their run, and no run is harmed."""

from __future__ import annotations

import atexit
import ctypes
import multiprocessing.util
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from _capabilities import needs_proc
from _children import SPAWNED, path_of_tests, with_assertions
from _faults_util import Child, alive, until, wait_for, worker_pids
from shoal import Parallel, delayed, executor, shutdown_workers

pytestmark = needs_proc


def pid_after(gate: str | None = None, started: str | None = None) -> int:
    if started is not None:
        Path(started).touch()
    if gate is not None:
        wait_for(gate)
    return os.getpid()


def gone(pids: Any) -> bool:
    return not any(alive(pid) for pid in pids)


def test_idle_workers_are_gone_when_it_returns() -> None:
    for _ in range(3):
        before = worker_pids(3)
        shutdown_workers()
        assert gone(before)
        assert not set(worker_pids(3)) & set(before)


def test_it_need_not_be_waited_for() -> None:
    before = worker_pids(2)
    shutdown_workers(wait=False)
    assert until(lambda: gone(before))
    assert len(worker_pids(2)) == 2


def test_a_second_shutdown_does_nothing() -> None:
    before = worker_pids(2)
    shutdown_workers()
    shutdown_workers()
    assert gone(before)
    assert len(worker_pids(2)) == 2


def test_a_run_in_another_thread_is_not_harmed(tmp_path: Path) -> None:
    gate = str(tmp_path / "gate")
    results: list[int] = []

    def run() -> None:
        calls = [delayed(pid_after)(gate, str(tmp_path / f"began-{index}")) for index in range(6)]
        results.extend(Parallel(n_jobs=2, batch_size=1)(calls))

    thread = threading.Thread(target=run)
    thread.start()
    assert until(lambda: len(list(tmp_path.glob("began-*"))) >= 2)
    shutdown_workers()
    others = worker_pids(2)  # a run that begins meanwhile has new workers
    Path(gate).touch()
    thread.join()
    assert len(results) == 6
    assert not set(results) & set(others)
    assert until(lambda: gone(set(results)))
    assert worker_pids(2) == others


@pytest.mark.parametrize("return_as", ["generator", "generator_unordered"])
def test_a_generator_goes_on(return_as: Any) -> None:
    parallel = Parallel(n_jobs=2, return_as=return_as, batch_size=1, pre_dispatch=2)
    results = parallel(delayed(os.getpid)() for _ in range(20))
    first = next(results)
    shutdown_workers()
    pids = {first, *results}
    assert len(pids) <= 2
    assert until(lambda: gone(pids))


@pytest.mark.parametrize("backend", ["loky", "multiprocessing"])
def test_an_open_executor_and_a_with_block_go_on(backend: str) -> None:
    with executor(2, backend) as workers, Parallel(n_jobs=2, backend=backend) as parallel:
        first = workers.submit(os.getpid).result()
        within = set(parallel(delayed(os.getpid)() for _ in range(4)))
        shutdown_workers()
        assert alive(first)
        assert not gone(within)
        assert workers.submit(abs, -1).result() == 1
        assert set(parallel(delayed(os.getpid)() for _ in range(4))) & within
    assert until(lambda: gone({first, *within}))


def test_runs_and_ends_in_several_threads() -> None:
    over = threading.Event()

    def end() -> None:
        while not over.is_set():
            shutdown_workers()
            time.sleep(0.001)

    enders = [threading.Thread(target=end) for _ in range(2)]
    for ender in enders:
        ender.start()
    try:
        for _ in range(5):
            assert Parallel(n_jobs=2)(delayed(abs)(-i) for i in range(10)) == list(range(10))
    finally:
        over.set()
        for ender in enders:
            ender.join()


def test_what_workers_have_registered_for_their_exit_still_runs(tmp_path: Path) -> None:
    path = tmp_path / "exited"
    Parallel(n_jobs=2, initializer=_register, initargs=(str(path),))(delayed(abs)(i) for i in range(2))
    shutdown_workers()
    assert path.exists()


def _register(path: str) -> None:
    import atexit

    atexit.register(Path(path).touch)


def test_joblib_users_end_workers_by_loky_s_executor() -> None:
    """For many programs that is how memory is freed after a run."""
    source = """
import os
from _faults_util import alive
from shoal import install_as_joblib

install_as_joblib()

from joblib import Parallel, delayed
from joblib.externals.loky import get_reusable_executor

for options in ({"wait": True}, {"wait": True, "kill_workers": True}, {}):
    pids = Parallel(n_jobs=2, batch_size=1)(delayed(os.getpid)() for _ in range(4))
    get_reusable_executor().shutdown(**options)
    assert not any(alive(pid) for pid in pids), options
pids = Parallel(n_jobs=2, batch_size=1)(delayed(os.getpid)() for _ in range(4))
get_reusable_executor().shutdown(True, True)
assert not any(alive(pid) for pid in pids)
print("ok")
"""
    environment = {**with_assertions(os.environ), "PYTHONPATH": path_of_tests()}
    done = subprocess.run([sys.executable, "-c", source], env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("ok\n", "")


class Late:
    """Writes a file when it is finalized."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __del__(self) -> None:
        self._path.write_text("x")


def late(path: Path) -> Iterator[None]:
    try:
        yield
    finally:
        path.write_text("x")


def leave(how: str, path: Path) -> None:
    """Leave something to the end of this process that will have written a file then."""
    left: Any
    if how == "file":
        left = open(path, "w")  # noqa: SIM115
        left.write("x")
    elif how == "binary file":
        left = open(path, "wb")  # noqa: SIM115
        left.write(b"x")
    elif how == "file of the C library":
        libc = ctypes.CDLL(None)
        libc.fopen.restype = ctypes.c_void_p
        left = ctypes.c_void_p(libc.fopen(os.fsencode(path), b"w"))
        libc.fputs(b"x", left)
    elif how == "finalizer":
        left = Late(path)
    elif how == "generator":
        left = late(path)
        next(left)
    elif how == "weakref.finalize":
        left = threading.local()
        weakref.finalize(left, path.write_text, "x")
    elif how == "atexit":
        left = atexit.register(path.write_text, "x")
    elif how == "Finalize":
        left = multiprocessing.util.Finalize(None, path.write_text, ("x",), exitpriority=1)
    elif how == "thread":
        left = threading.Thread(target=lambda: (time.sleep(0.2), path.write_text("x")))
        left.start()
    sys.modules[__name__].left = left  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "how",
    [
        *("file", "binary file", "file of the C library", "finalizer", "generator"),
        *("weakref.finalize", "atexit", "Finalize", "thread"),
    ],
)
@pytest.mark.parametrize("start_method", [None, "loky"])
def test_what_calls_leave_to_the_end_of_their_worker_is_done_then(
    start_method: str | None, how: str, tmp_path: Path
) -> None:
    paths = [tmp_path / f"{number}" for number in range(2)]
    Parallel(2, "loky", batch_size=1, start_method=start_method)(delayed(leave)(how, path) for path in paths)
    shutdown_workers()
    assert until(lambda: all(path.exists() and path.read_text() == "x" for path in paths))


@pytest.mark.skipif(SPAWNED, reason="multiprocessing ends its processes without their exit handlers")
@pytest.mark.parametrize("start_method", [None, "loky"])
def test_what_hooks_print_at_the_end_of_a_worker_is_seen(
    start_method: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    source = f"""
import atexit, sys
from shoal import Parallel, delayed


def register(x):
    atexit.register(print, "printed", x)
    atexit.register(print, "said", x, file=sys.stderr)


Parallel(2, batch_size=1, start_method={start_method!r})(delayed(register)(x) for x in range(2))
"""
    with Child(source, tmp_path) as child:
        code, out, err = child.wait()
        assert code == 0
        assert sorted(out.splitlines()) == ["printed 0", "printed 1"]
        assert sorted(err.splitlines()) == ["said 0", "said 1"]
