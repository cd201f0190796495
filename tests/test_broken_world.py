"""Programs to which the system refuses something: they work, or get one clear error, and work once it is granted."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from _capabilities import ROOT, needs, needs_limits, needs_proc
from _children import SPAWNED
from _faults_util import Child

pytestmark = [needs_proc, needs_limits]

as_root = needs(ROOT, "needs root")

#: `attempts` are made while the world is broken; `mended` afterwards, when nothing may be missing and nothing left.
PRELUDE = """
import ctypes, errno, os, resource, signal, sys, threading, time
import numpy
from pathlib import Path
from _children import SPAWNED
from _faults_util import alive, census, grown, until, worker_pids, works
from shoal import CallUnpicklingError, NoSpaceError, Parallel, WorkerStartError, delayed

folder, libc = Path(sys.argv[1]), ctypes.CDLL(None, use_errno=True)
said = {}


def ones(n):
    return numpy.ones(n)


def healthy(backend):
    assert works(2, backend=backend)
    total = Parallel(n_jobs=2, backend=backend)(delayed(numpy.sum)(numpy.ones(300_000)) for _ in range(3))
    assert total == [300_000.0] * 3


def attempts(backend, reasons, **options):
    # Each works, or says why not, in so many words.
    big = numpy.ones(300_000)
    for name, calls in (
        ("plain", [delayed(abs)(-i) for i in range(6)]),
        ("arguments", [delayed(len)(big) for i in range(3)]),
        ("results", [delayed(ones)(300_000) for i in range(3)]),
    ):
        for return_as in ("list",) if backend == "multiprocessing" else ("list", "generator"):
            try:
                values = list(Parallel(n_jobs=2, backend=backend, return_as=return_as, **options)(calls))
            except (WorkerStartError, NoSpaceError, CallUnpicklingError) as error:
                assert any(reason in str(error) for reason in reasons), error
                said.setdefault(name, set()).add(type(error).__name__)
            else:
                assert [value if name == "plain" else len(value) if name == "results" else value for value in values]
                said.setdefault(name, set()).add("works")


def chill():
    # The next run has to start workers.
    for pid in worker_pids(2):
        os.kill(pid, signal.SIGKILL)
    assert until(lambda: threading.active_count() <= 2)  # this one and the pool's: their ends are noticed


def cycles(backend, break_it, mend_it, reasons, cold=True, n=4, **options):
    healthy(backend)
    for cycle in range(n):
        if cold and backend == "loky":
            chill()
        break_it(cycle)
        try:
            attempts(backend, reasons, **options)
        finally:
            mend_it()
        healthy(backend)
        if cycle == 0:
            worker_pids(2)
            time.sleep(0.5)
            before = census()
    worker_pids(2)
    assert not (more := grown(before)), more
"""

WITH_PROCESSES = pytest.mark.parametrize("backend", ["loky", "multiprocessing"])
EVERYWHERE = pytest.mark.parametrize("backend", ["loky", "multiprocessing", "threading"])


def check(source: str, folder: Path, *options: str) -> str:
    """Run a program to its end; it may say nothing and leave nothing. Return what it printed."""
    with Child(PRELUDE + source, folder, *options) as child:
        code, out, err = child.wait()
        assert (code, err) == (0, "")
        assert child.leaves_nothing() == []
        return out


@WITH_PROCESSES
@pytest.mark.parametrize("cold", [True, False])
def test_no_descriptors_left(tmp_path: Path, backend: str, cold: bool) -> None:
    """RLIMIT_NOFILE is reached, but for 0, 2, 7 or 15 that are free."""
    source = f"""
kept, (soft, hard) = [], resource.getrlimit(resource.RLIMIT_NOFILE)


def break_it(cycle):
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 1, hard))
    while True:
        try:
            kept.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            break
    for _ in range([0, 2, 7, 15][cycle]):
        os.close(kept.pop()) if kept else None


def mend_it():
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    while kept:
        os.close(kept.pop())


cycles({backend!r}, break_it, mend_it, [{os.strerror(errno.EMFILE)!r}, "No usable temporary directory"], cold={cold})
print(said["plain"])
"""
    out = check(source, tmp_path)
    assert ("WorkerStartError" in out) == (cold or backend == "multiprocessing")


@pytest.mark.parametrize("failed", [(80,), (160,), (80, 160)])
@pytest.mark.parametrize("backend", ["loky", "multiprocessing"])
def test_idle_workers_give_way_where_descriptors_are_short(tmp_path: Path, backend: str, failed: tuple[int]) -> None:
    """After runs of too many workers, two start at once, whatever the others hold; and where they differ from these."""
    source = f"""
assert works(2, backend="multiprocessing")  # so that nothing need be imported when no descriptor is left
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
for n in {failed}:
    try:
        Parallel(n_jobs=n)(delayed(abs)(i) for i in range(n))
    except WorkerStartError:
        print("refused")
assert works(2, backend={backend!r})
assert works(3)
assert works(3, backend="multiprocessing")
assert works(2, backend={backend!r}, environment={{"A": "1"}})
"""
    assert check(source, tmp_path) == "refused\n" * len(failed)


def test_idle_workers_give_way_where_threads_are_short(tmp_path: Path) -> None:
    source = """
name = "_start_joinable_thread" if hasattr(threading, "_start_joinable_thread") else "_start_new_thread"
original = getattr(threading, name)


def refuse(*args, **kwargs):
    if any(map(alive, pids)):  # as where so many processes and threads are allowed
        raise RuntimeError("can't start new thread")
    return original(*args, **kwargs)


pids = worker_pids(4)
setattr(threading, name, refuse)
assert works(2, backend="threading")
setattr(threading, name, original)
pids = worker_pids(4)
setattr(threading, name, refuse)
assert list(Parallel(n_jobs=2, backend="threading", return_as="generator")([delayed(abs)(-1)] * 3)) == [1] * 3
setattr(threading, name, original)
assert worker_pids(2)
"""
    check(source, tmp_path)


NOBODY = """
def become_nobody():
    # A user of whom there is no other process, whom the limit binds as it does not bind root; it may still read what
    # root may, which the interpreter may need.
    user, may_read = 100_000 + os.getpid(), 1 << 1 | 1 << 2
    assert libc.prctl(8, 1, 0, 0, 0) == 0  # keep capabilities
    os.setgid(user)
    os.setuid(user)
    capabilities = (ctypes.c_uint32 * 6)(may_read, may_read, may_read)
    assert libc.capset((ctypes.c_uint32 * 2)(0x20080522, 0), capabilities) == 0
    for capability in (1, 2):  # also for what is started
        assert libc.prctl(47, 2, capability, 0, 0) == 0
    assert libc.prctl(4, 1, 0, 0, 0) == 0  # else /proc/self belongs to root


def tasks():
    count = 0
    for pid in os.listdir("/proc"):
        if pid.isdigit():
            try:
                if os.stat(f"/proc/{pid}").st_uid == os.getuid():
                    count += len(os.listdir(f"/proc/{pid}/task"))
            except OSError:
                continue
    return count


hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
become_nobody()


def settled():  # workers of runs before have ended
    seen = tasks()
    time.sleep(0.3)
    return tasks() == seen


def break_it(cycle):
    assert until(settled)
    resource.setrlimit(resource.RLIMIT_NPROC, (tasks() + [0, 1, 2, 5][cycle], hard))


def mend_it():
    resource.setrlimit(resource.RLIMIT_NPROC, (hard, hard))
"""

REFUSED = """
import _posixsubprocess, _thread

original = _posixsubprocess.fork_exec, os.fork


def refuse(*args):
    raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")


def break_it(cycle):
    _posixsubprocess.fork_exec = os.fork = refuse


def mend_it():
    _posixsubprocess.fork_exec, os.fork = original
"""


@EVERYWHERE
@pytest.mark.parametrize(
    "how", [pytest.param("RLIMIT_NPROC", marks=as_root), "refused"]
)  # by the real limit, and by a fork that fails as it would
def test_no_processes_left(tmp_path: Path, backend: str, how: str) -> None:
    source = f"""
{NOBODY if how == "RLIMIT_NPROC" else REFUSED}
cycles({backend!r}, break_it, mend_it, ["start new thread", "temporarily unavailable"])
print(said["plain"])
"""
    out = check(source, tmp_path)
    # The program itself forks no workers of loky's.
    forks = backend == "multiprocessing" or (SPAWNED and backend == "loky")
    assert ("WorkerStartError" in out) == (how == "RLIMIT_NPROC" or forks)


@EVERYWHERE
@pytest.mark.parametrize("how", ["None", "closed", "None and closed", "closed by Python", "not inherited"])
def test_no_standard_streams(tmp_path: Path, backend: str, how: str) -> None:
    """As under ``pythonw``, or in a daemon: None, or descriptors 0 to 2 closed, or both; or not for children."""
    source = f"""
if "None" in {how!r}:
    sys.stdin = sys.stdout = sys.stderr = sys.__stdin__ = sys.__stdout__ = sys.__stderr__ = None
if "Python" in {how!r}:
    sys.stdin.close(), sys.stdout.close(), sys.stderr.close()
elif "None" != {how!r}:
    for fd in range(3):
        os.close(fd)
if "not" in {how!r}:
    for fd in range(3):
        assert os.open(os.devnull, os.O_RDWR) == fd


def speak(i):
    os.write(1, b"spoken") if {how!r} != "not inherited" else None
    return print(i, file=None if backend == "loky" else sys.__stdout__ and open(os.devnull, "w"), flush=True)


backend = {backend!r}
for options in ({{}}, {{"verbose": 11}}, {{"verbose": 50}}, {{"progress": True}}):
    assert works(2, backend=backend, **options)
    assert Parallel(n_jobs=2, backend=backend, **options)(delayed(numpy.sum)(ones(200_000)) for _ in range(3))
    if backend == "loky":
        assert Parallel(n_jobs=2, **options)(delayed(speak)(i) for i in range(4)) == [None] * 4
(folder / "ok").touch()
"""
    with Child(PRELUDE + source, tmp_path) as child:
        code, _, _ = child.wait()
        assert code == 0
        assert (tmp_path / "ok").exists()
        assert child.leaves_nothing() == []


@WITH_PROCESSES
def test_the_working_folder_is_gone(tmp_path: Path, backend: str) -> None:
    source = f"""
def break_it(cycle):
    gone = folder / "gone"
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()


def mend_it():
    os.chdir(folder)


cycles({backend!r}, break_it, mend_it, ["The working folder may have been removed"])
print(said["plain"])
"""
    # A process that multiprocessing spawns begins in the folder in which its parent began.
    outcome = "WorkerStartError" if SPAWNED and backend == "loky" else "works"
    assert check(source, tmp_path) == f"{{{outcome!r}}}\n"


@WITH_PROCESSES
@pytest.mark.parametrize("method", ["default", "spawn"])
def test_no_semaphores(tmp_path: Path, backend: str, method: str) -> None:
    """As on AWS Lambda: workers are processes all the same."""
    source = f"""
import _multiprocessing, multiprocessing


class NoSemaphores:
    SEM_VALUE_MAX = _multiprocessing.SemLock.SEM_VALUE_MAX

    def __init__(self, *args):
        raise OSError(errno.ENOSYS, "Function not implemented")


_multiprocessing.SemLock = NoSemaphores
options = {{}}
if {method!r} == "spawn" and {backend!r} == "multiprocessing":
    options["context"] = multiprocessing.get_context("spawn")


if __name__ == "__main__":
    assert works(2, backend={backend!r}, **options)
    pids = Parallel(n_jobs=2, backend={backend!r}, batch_size=1, **options)(delayed(os.getpid)() for _ in range(6))
    assert os.getpid() not in pids
    print(len(set(pids)))
"""
    assert check(source, tmp_path) == "2\n"


MOUNTS = """
assert libc.unshare(0x20000) == 0  # a namespace of mounts
assert libc.mount(b"none", b"/", None, 1 << 14 | 1 << 18, None) == 0  # which is private


def mount(where, options):
    assert libc.mount(b"none", os.fsencode(where), b"tmpfs", 0, options.encode()) == 0, ctypes.get_errno()


def read_only(where):
    assert libc.mount(b"none", os.fsencode(where), None, 32 | 1, None) == 0, ctypes.get_errno()
"""


@as_root
@WITH_PROCESSES
@pytest.mark.parametrize("how", ["read-only", "full", "without memfd"])
def test_no_shared_memory(tmp_path: Path, backend: str, how: str) -> None:
    source = f"""
{MOUNTS}
mount("/dev/shm", "size=64k")
if {how!r} == "full":
    with open("/dev/shm/filled", "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError as error:
            assert error.errno == errno.ENOSPC
else:
    read_only("/dev/shm")
if {how!r} == "without memfd":
    del os.memfd_create
cycles({backend!r}, lambda cycle: None, lambda: None, [], n=2)
print(said["plain"] | said["arguments"] | said["results"])
"""
    assert check(source, tmp_path) == "{'works'}\n"


@WITH_PROCESSES
@pytest.mark.parametrize("how", [pytest.param("a small disk", marks=as_root), "RLIMIT_FSIZE"])
def test_the_disk_is_full(tmp_path: Path, backend: str, how: str) -> None:
    """The temporary folders, or no file may grow: arguments are refused, results take another way."""
    source = f"""
import tempfile

if {how!r} == "a small disk":
    {MOUNTS.replace(chr(10), chr(10) + "    ")}
    small = folder / "small"
    small.mkdir()
    mount(small, "size=1M")
    options, usual = {{"temp_folder": str(small)}}, tempfile.gettempdir()

    def break_it(cycle):
        tempfile.tempdir = str(small)

    def mend_it():
        tempfile.tempdir = usual
        assert not os.listdir(small)
else:
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    options = {{}}

    def break_it(cycle):
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, hard))

    def mend_it():
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


cycles({backend!r}, break_it, mend_it, ["No space left on device", "File too large"], **options)
print(said["plain"], said["arguments"], said["results"])
"""
    assert check(source, tmp_path) == "{'works'} {'NoSpaceError'} {'works'}\n"
