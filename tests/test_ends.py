"""Ends of a program, in whatever way: ten seconds later nothing of it is left, and nothing was printed."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from _capabilities import needs_proc
from _children import SPAWNED
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


#: Below are programs in which something goes on after the main thread has ended.
LATE = """
import atexit, multiprocessing, os, sys, threading, time
from pathlib import Path
import shoal
from _faults_util import wait_for, works
from shoal import Parallel, delayed
from shoal.errors import WorkerDied

folder = Path(sys.argv[1])
gate = folder / "gate"


def options(form):
    if form == "fork server":
        import tempfile

        os.environ["TMPDIR"] = tempfile.tempdir = "/tmp"  # the path of its socket must be short
        return {"backend": multiprocessing.get_context("forkserver")}
    backend, _, method = form.partition(" by ")
    return {"backend": backend, **({"start_method": method} if method else {})}


def hold(index):
    (folder / f"began-{index}").touch()
    wait_for(gate)
    return index


def later(do):
    # A thread of the program calls it when the main thread has ended.
    def run():
        threading.main_thread().join()
        do()

    threading.Thread(target=run).start()


def begun():
    wait_for(folder / "began-0")
    wait_for(folder / "began-1")
"""
FORMS = ["loky", "loky by loky", "loky by spawn", "multiprocessing", "fork server"]
REFUSED = "cannot run anything in worker processes while the interpreter shuts down"
#: What a program prints that begins a run at exit. Python 3.12 may start no thread then.
LATE_OUTPUT = {"ok\n", f"{REFUSED}\n"} if sys.version_info >= (3, 12) else {"ok\n"}


@pytest.mark.parametrize("form", FORMS)
def test_a_run_in_a_thread_outlasts_the_main_thread(tmp_path: Path, form: str) -> None:
    source = f"""{LATE}
def train():
    print(Parallel(n_jobs=2, batch_size=1, **options({form!r}))(delayed(hold)(index) for index in range(6)))


if __name__ == "__main__":
    later(gate.touch)
    threading.Thread(target=train).start()
    begun()
"""
    with Child(source, tmp_path) as child:
        assert child.wait() == (0, "[0, 1, 2, 3, 4, 5]\n", "")
        assert child.leaves_nothing() == []


@pytest.mark.parametrize("how", ["a thread", "an exit handler"])
@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("form", ["loky", "multiprocessing", "executor"])
def test_a_run_may_begin_when_the_main_thread_has_ended(tmp_path: Path, form: str, warm: bool, how: str) -> None:
    source = f"""{LATE}
def run():
    if {form!r} != "executor":
        return works(2, **options({form!r}))
    with shoal.executor(2) as executor:
        return list(executor.map(abs, range(-3, 3))) == [3, 2, 1, 0, 1, 2]


def try_to_run():
    try:
        print("ok" if run() and run() else "wrong")
    except RuntimeError as error:
        print(error)
        assert error.__cause__ is None


if __name__ == "__main__":
    {"atexit.register" if how == "an exit handler" else "later"}(try_to_run)
    assert not {warm} or run()
"""
    with Child(source, tmp_path) as child:
        code, out, err = child.wait()
        assert (code, err) == (0, "")
        assert out in LATE_OUTPUT
        assert child.leaves_nothing() == []


@pytest.mark.parametrize("form", ["loky", "multiprocessing"])
def test_a_worker_that_dies_after_the_main_thread_has_ended_is_reported(tmp_path: Path, form: str) -> None:
    source = f"""{LATE}
def end():
    hold(1)
    os._exit(3)


def train():
    try:
        Parallel(n_jobs=2, batch_size=1, **options({form!r}))([delayed(hold)(0), delayed(end)()])
    except WorkerDied as error:
        print(error.call, error.exit_code)


if __name__ == "__main__":
    later(gate.touch)
    threading.Thread(target=train).start()
    begun()
"""
    with Child(source, tmp_path) as child:
        assert child.wait() == (0, "call 1, end() 3\n", "")
        assert child.leaves_nothing() == []


def test_exit_handlers_of_workers_run_after_a_late_run(tmp_path: Path) -> None:
    source = f"""{LATE}
def leave():
    time.sleep(0.2)
    (folder / f"left-{{os.getpid()}}").touch()


def run():
    print(len(set(Parallel(n_jobs=2, batch_size=1)(delayed(register)(index) for index in range(2)))))


def register(index):
    atexit.register(leave)
    hold(index)
    return os.getpid()


if __name__ == "__main__":
    later(gate.touch)
    threading.Thread(target=run).start()
    begun()
"""
    with Child(source, tmp_path) as child:
        assert child.wait() == (0, "2\n", "")
    assert len(list(tmp_path.glob("left-*"))) == (0 if SPAWNED else 2)  # multiprocessing runs no exit handlers


@pytest.mark.parametrize("form", ["loky", "multiprocessing"])
def test_a_run_of_a_daemon_thread_prints_nothing_at_the_end(tmp_path: Path, form: str) -> None:
    """The error is quick if its parent was imported, so that the thread would have the time to print it."""
    source = f"""{LATE}
import loky.process_executor


def train():
    while True:
        Parallel(n_jobs=2, batch_size=1, **options({form!r}))(delayed(hold)(index) for index in range(6))


if __name__ == "__main__":
    threading.Thread(target=train, daemon=True).start()
    begun()
"""
    with Child(source, tmp_path) as child:
        assert child.wait() == (0, "", "")
        assert child.leaves_nothing() == []


@pytest.mark.parametrize("form", ["loky", "multiprocessing"])
def test_an_exit_handler_may_wait_for_a_run_of_a_daemon_thread(tmp_path: Path, form: str) -> None:
    source = f"""{LATE}
def train():
    for _ in range(2):
        try:
            Parallel(n_jobs=2, batch_size=1, **options({form!r}))(delayed(hold)(index) for index in range(6))
        except RuntimeError as error:
            print(error)


if __name__ == "__main__":
    thread = threading.Thread(target=train, daemon=True)
    thread.start()
    atexit.register(thread.join)
    begun()
"""
    with Child(source, tmp_path) as child:
        assert child.wait() == (0, 2 * f"{REFUSED}\n", "")
        assert child.leaves_nothing() == []


@pytest.mark.parametrize("owner", ["the main thread", "a thread"])
def test_a_generator_that_was_left_does_not_delay_the_end(tmp_path: Path, owner: str) -> None:
    """Nor does it harm a run of a thread, with which it shares the workers."""
    source = f"""{LATE}
def leave():
    global results
    results = Parallel(n_jobs=2, batch_size=1, return_as="generator")(delayed(abs)(index) for index in range(9))
    next(results)


def train():
    print(Parallel(n_jobs=2, batch_size=1)(delayed(hold)(index) for index in range(6)))


if __name__ == "__main__":
    later(gate.touch)
    if {owner!r} == "a thread":
        thread = threading.Thread(target=leave)
        thread.start()
        thread.join()
    else:
        leave()
    threading.Thread(target=train).start()
    begun()
"""
    with Child(source, tmp_path) as child:
        assert child.wait() == (0, "[0, 1, 2, 3, 4, 5]\n", "")
        assert child.leaves_nothing() == []


@pytest.mark.parametrize("form", ["loky", "multiprocessing"])
def test_ctrl_c_ends_the_wait_for_a_run_of_a_thread(tmp_path: Path, form: str) -> None:
    """As it ends the wait for any thread: Python prints where it waited, and leaves the thread alone."""
    source = f"""{LATE}
def train():
    Parallel(n_jobs=2, batch_size=1, **options({form!r}))(delayed(hold)(index) for index in range(6))


def report():
    time.sleep(0.3)  # CPython does not notice a signal that comes just before it begins to wait
    (folder / "waiting").touch()


if __name__ == "__main__":
    later(report)
    threading.Thread(target=train).start()
    begun()
"""
    with Child(source, tmp_path) as child:
        assert until((tmp_path / "waiting").exists)
        os.kill(child.pid, signal.SIGINT)
        code, out, err = child.wait()
        assert (code, out) == (0, "")
        # CPython 3.13.0 begins with "Exception ignored", too; 3.13.5 and 3.14 print only the traceback.
        assert err.startswith("Exception ignored" if sys.version_info < (3, 13) else ("Exception ignored", "Traceback"))
        assert err.count("Traceback") == 1
        assert "KeyboardInterrupt" in err
        assert "shoal" not in err.replace(sys.base_prefix, "")
        assert child.leaves_nothing() == []
