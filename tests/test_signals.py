"""Real signals to a program that runs calls: Ctrl-C gives control back, and no end of it leaves anything behind."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

import pytest

from _capabilities import needs_signals
from _faults_util import PATIENCE, Child, until, worker_pids
from shoal import Parallel, delayed

pytestmark = needs_signals

#: What the calls of the programs do while the signal comes; each call tells first that it has begun.
PRELUDE = """
import os, re, sys, time
from pathlib import Path
from _faults_util import worker_pids, works
from shoal import Parallel, delayed

folder = Path(sys.argv[1])


def busy(how, index):
    (folder / f"began-{index}").touch()
    if how == "sleep":
        time.sleep(1000)
    elif how == "python":
        while True:
            pass
    elif how == "sum":
        sum(range(10**12))
    elif how == "regex":  # compiled code that keeps the interpreter's lock and sees no signal
        re.match("(a*)*b", "a" * 60)
    elif how == "subprocess":
        import subprocess

        subprocess.run(["sleep", "1000"])


def calls(how, n):
    return [delayed(busy)(how, index) for index in range(n)]
"""


def begun(child: Child, n: int) -> bool:
    return bool(until(lambda: len(list(child.folder.glob("began-*"))) >= n))


@pytest.mark.parametrize(("how", "to_group"), [("sleep", True), ("sleep", False), ("python", False), ("regex", True)])
@pytest.mark.parametrize("form", ["list", "generator", "multiprocessing"])
def test_interrupt(tmp_path: Path, form: str, how: str, to_group: bool) -> None:
    """Ctrl-C (to the group) and SIGINT (to the program alone) give control back, and the pool is as new."""
    backend = "multiprocessing" if form == "multiprocessing" else "loky"
    return_as = "generator" if form == "generator" else "list"
    source = f"""{PRELUDE}
assert works(2, backend={backend!r})
(folder / "warm").touch()
try:
    list(Parallel(n_jobs=2, backend={backend!r}, return_as={return_as!r}, batch_size=1)(calls({how!r}, 4)))
except KeyboardInterrupt:
    print(time.monotonic(), flush=True)
assert works(2, backend={backend!r})
assert works(3)
"""
    with Child(source, tmp_path, "-W", "ignore::UserWarning") as child:
        assert begun(child, 2)
        sent = time.monotonic()
        (os.killpg if to_group else os.kill)(child.pid, signal.SIGINT)
        code, out, err = child.wait()
        assert (code, err) == (0, "")
        assert float(out) - sent < 5  # under one when the machine is idle
        assert child.leaves_nothing() == []


@pytest.mark.parametrize("return_as", ["list", "generator"])
def test_interrupt_with_threads(tmp_path: Path, return_as: str) -> None:
    source = f"""{PRELUDE}
try:
    list(Parallel(n_jobs=2, backend="threading", return_as={return_as!r})(calls("sleep", 4)))
except KeyboardInterrupt:
    print(time.monotonic(), flush=True)
assert works(2, backend="threading")
assert works(2)
"""
    with Child(source, tmp_path, "-W", "ignore::UserWarning") as child:
        assert begun(child, 2)
        sent = time.monotonic()
        os.killpg(child.pid, signal.SIGINT)
        code, out, err = child.wait()
        assert (code, err) == (0, "")
        assert float(out) - sent < 5
        assert child.leaves_nothing() == []


def test_idle_workers_outlive_an_interrupt(tmp_path: Path) -> None:
    """Those between runs, and those that have nothing to do in the run that is interrupted."""
    source = f"""{PRELUDE}
before = worker_pids(3)
try:
    (folder / "began-idle").touch()
    time.sleep(1000)
except KeyboardInterrupt:
    assert worker_pids(3) == before
(folder / "next").touch()
try:
    Parallel(n_jobs=3)(calls("sleep", 2))
except KeyboardInterrupt:
    assert worker_pids(3)[2] == before[2]
    print("ok")
"""
    with Child(source, tmp_path) as child:
        assert begun(child, 1)
        os.killpg(child.pid, signal.SIGINT)
        assert begun(child, 3), child.wait()
        os.killpg(child.pid, signal.SIGINT)
        assert child.wait() == (0, "ok\n", "")
        assert child.leaves_nothing() == []


@pytest.mark.parametrize("backend", ["loky", "multiprocessing", "threading"])
def test_interrupt_that_nobody_catches(tmp_path: Path, backend: str) -> None:
    source = f"""{PRELUDE}
Parallel(n_jobs=2, backend={backend!r}, batch_size=1)(calls("sleep", 4))
"""
    with Child(source, tmp_path) as child:
        assert begun(child, 2)
        os.killpg(child.pid, signal.SIGINT)
        code, _, err = child.wait()
        assert code == -signal.SIGINT
        assert err.count("Traceback") == 1 + err.count("During handling")
        assert err.rstrip().endswith("KeyboardInterrupt")
        assert child.leaves_nothing() == []


def test_programs_that_calls_start_go_with_an_interrupt(tmp_path: Path) -> None:
    source = f"""{PRELUDE}
try:
    Parallel(n_jobs=2)(calls("subprocess", 2))
except KeyboardInterrupt:
    print("ok", flush=True)
"""
    with Child(source, tmp_path) as child:
        assert begun(child, 2)
        os.killpg(child.pid, signal.SIGINT)
        assert child.wait() == (0, "ok\n", "")
        assert child.leaves_nothing() == []


@pytest.mark.parametrize("name", ["SIGTERM", "SIGKILL"])
@pytest.mark.parametrize(
    ("backend", "how"),
    [
        *[("loky", how) for how in ("idle", "sleep", "sum", "regex")],
        ("multiprocessing", "idle"),
        ("multiprocessing", "regex"),
    ],
)
def test_end_of_the_parent(tmp_path: Path, backend: str, how: str, name: str) -> None:
    """No worker, no tracker, no shared memory and no folder ten seconds later."""
    source = f"""{PRELUDE}
import numpy

array = numpy.ones(2_000_000)
how = {how!r}


def hold(array, index):
    return busy(how, index)


options = dict(n_jobs=2, backend={backend!r}, batch_size=1)
if how == "idle":
    with Parallel(**options) as parallel:
        parallel(delayed(abs)(i) for i in range(4))
        for index in range(2):
            (folder / f"began-{{index}}").touch()
        time.sleep(1000)
Parallel(temp_folder=str(folder / "shared"), **options)(delayed(hold)(array, index) for index in range(3))
"""
    (tmp_path / "shared").mkdir()
    with Child(source, tmp_path) as child:
        assert begun(child, 2)
        if how != "idle":
            assert list((tmp_path / "shared").rglob("segment-*"))
        os.kill(child.pid, signal.Signals[name])
        code, _, err = child.wait()
        assert code == -signal.Signals[name]
        if name == "SIGTERM":
            assert err == ""
        else:
            assert all("resource_tracker" in line or "warnings.warn(" in line for line in err.splitlines()), err
        assert child.leaves_nothing() == []
        assert until(lambda: not list((tmp_path / "shared").iterdir()), 10)


def test_interrupts_sent_to_idle_workers_alone() -> None:
    before = worker_pids(2)
    for pid in before:
        os.kill(pid, signal.SIGINT)
    assert until(lambda: worker_pids(2) == before, PATIENCE)
    assert Parallel(n_jobs=2)([delayed(abs)(-1)]) == [1]


#: What a program has open when it is told to end. Each prints "up" when it is.
OPEN = {
    "loky": "works(2); up(); time.sleep(1000)",
    "multiprocessing": """
with Parallel(n_jobs=2, backend="multiprocessing") as parallel:
    parallel([delayed(abs)(1)] * 4)
    up()
    time.sleep(1000)
""",
    "run": "threading.Timer(0.3, up).start(); Parallel(n_jobs=2, batch_size=1)(calls('sleep', 4))",
    "run of multiprocessing": """
threading.Timer(0.3, up).start()
Parallel(n_jobs=2, backend="multiprocessing", batch_size=1)(calls("sleep", 4))
""",
    "generator": """
results = Parallel(n_jobs=2, return_as="generator", batch_size=1)([delayed(abs)(1), *calls("sleep", 4)])
next(results)
up()
time.sleep(1000)
""",
    "executor": """
workers = executor(2)
futures = [workers.submit(call[0], *call[1]) for call in calls("sleep", 4)]
assert until(lambda: len(list(folder.glob("began-*"))) >= 2)
up()
time.sleep(1000)
""",
    "executor of multiprocessing": """
with executor(2, "multiprocessing") as workers:
    futures = [workers.submit(call[0], *call[1]) for call in calls("sleep", 4)]
    assert until(lambda: len(list(folder.glob("began-*"))) >= 2)
    up()
    time.sleep(1000)
""",
    "executor of threads": """
workers = executor(2, "threading")
futures = [workers.submit(time.sleep, 1000) for _ in range(4)]
up()
time.sleep(1000)
""",
    "acall": """
import asyncio

threading.Timer(0.5, up).start()
asyncio.run(Parallel(n_jobs=2, batch_size=1).acall(calls("sleep", 4)))
""",
}


@pytest.mark.parametrize(
    ("last", "delay"), [*(("SIGINT", delay) for delay in (0, 0.002, 0.005, 0.01)), ("SIGTERM", 0.003)]
)
@pytest.mark.parametrize("form", OPEN)
def test_more_signals_while_the_program_ends(tmp_path: Path, form: str, last: str, delay: float) -> None:
    """Whenever they come, and however many: the program ends, and takes its workers with it."""
    source = f"""{PRELUDE}
import threading
from _faults_util import until
from shoal import executor


def up():
    (folder / "up").touch()


{OPEN[form]}
"""
    with Child(source, tmp_path, "-W", "ignore") as child:
        assert until(lambda: (tmp_path / "up").exists()), child.wait()
        for name in ("SIGINT", *["SIGINT"] * (delay < 0.01), last):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.pid, signal.Signals[name])
            time.sleep(delay)
        if form == "acall" and not until(lambda: child.process.poll() is not None, 3):
            # A second signal can cut off asyncio's own cancelling of the main task, or the call of its wake-up:
            # then asyncio.run waits for that task, whatever it runs, until there is another signal.
            os.kill(child.pid, signal.SIGINT)
        child.wait()
        assert child.leaves_nothing() == []
