"""Ends of a program, in whatever way: ten seconds later nothing of it is left, and nothing was printed."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from _capabilities import needs_proc
from _faults_util import Child, until

pytestmark = needs_proc

PRELUDE = """
import ctypes, multiprocessing, os, re, resource, signal, sys, threading, time
import numpy
from pathlib import Path
from _faults_util import until, works
from shoal import Parallel, delayed

folder = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def hold(array, index):
    # Compiled code that keeps the interpreter's lock and sees no signal.
    (folder / f"began-{index}").touch()
    re.match("(a*)*b", "a" * 60)


def begun():
    return len(list(folder.glob("began-*"))) >= 2


def calls():
    return [delayed(hold)(numpy.ones(300_000), index) for index in range(4)]
"""

#: How the program ends, and the exit code. It is in the middle of a run, in another thread or by a generator.
ENDS = {
    "SIGTERM": ("os.kill(os.getpid(), 15)", -15),
    "SIGHUP": ("os.kill(os.getpid(), 1)", -1),
    "SIGQUIT": ("os.kill(os.getpid(), 3)", -3),
    "SIGKILL": ("os.kill(os.getpid(), 9)", -9),
    "os._exit": ("os._exit(3)", 3),
    "sys.exit": ("sys.exit(3)", 3),
    "the last line": ("pass", 0),
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("form", ["loky", "multiprocessing", "fork server", "generator"])
def test_nothing_is_left_of_a_program_that_ends_in_a_run(tmp_path: Path, form: str, end: str) -> None:
    statement, expected = ENDS[end]
    source = f"""{PRELUDE}
def quietly(parallel):
    try:
        parallel(calls())
    except BaseException:  # the workers have gone, as the program goes
        pass


if __name__ == "__main__":
    form = {form!r}
    if form == "fork server":
        import tempfile

        os.environ["TMPDIR"] = tempfile.tempdir = "/tmp"  # the path of its socket must be short
        form = multiprocessing.get_context("forkserver")
    if form == "generator":
        results = Parallel(n_jobs=2, batch_size=1, return_as="generator")(calls())
    else:
        parallel = Parallel(n_jobs=2, backend=form, batch_size=1)
        threading.Thread(target=quietly, args=(parallel,), daemon=True).start()
    assert until(begun)
    {statement}
"""
    with Child(source, tmp_path) as child:
        code, out, err = child.wait()
        assert (code, out, err) == (expected, "", "")
        assert child.leaves_nothing() == []


@pytest.mark.parametrize("backend", ["loky", "multiprocessing", "threading"])
def test_sys_exit_in_a_thread_ends_that_thread(tmp_path: Path, backend: str) -> None:
    """Also where the calls of its run go on; the program's other runs do not notice."""
    source = f"""{PRELUDE}
def leave():
    assert works(2, backend={backend!r})
    sys.exit(3)


threads = [threading.Thread(target=leave) for _ in range(3)]
for thread in threads:
    thread.start()
assert works(2, backend={backend!r})
for thread in threads:
    thread.join()
assert works(2, backend={backend!r})
print("ok")
"""
    with Child(source, tmp_path) as child:
        assert child.wait() == (0, "ok\n", "")
        assert child.leaves_nothing() == []


def test_the_group_is_killed(tmp_path: Path) -> None:
    """As a terminal that is closed, or a batch system, does: the workers get the signal too, at the same time."""
    source = f"""{PRELUDE}
Parallel(n_jobs=2, batch_size=1)(calls())
"""
    for name in ("SIGHUP", "SIGTERM"):
        for path in tmp_path.glob("began-*"):
            path.unlink()
        with Child(source, tmp_path) as child:
            assert until(lambda: len(list(tmp_path.glob("began-*"))) >= 2)
            os.killpg(child.pid, signal.Signals[name])
            code, out, err = child.wait()
            assert (code, out, err) == (-signal.Signals[name], "", "")
            assert child.leaves_nothing() == []
