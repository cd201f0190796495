"""What is left of a run, of many runs, and of a program: nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from _capabilities import needs_proc
from _faults_util import Child, alive, until, works
from shoal import Parallel, delayed
from shoal.backends._pool import Pool, pool
from shoal.backends._process import children_of

pytestmark = needs_proc

PRELUDE = """
import gc, os, resource, signal, sys, threading, time, warnings
import numpy
from pathlib import Path
from _faults_util import alive, census, grown, until, worker_pids, works
from shoal import FallbackWarning, Parallel, UnusedResultsWarning, WorkerDied, delayed

folder = Path(sys.argv[1])


def fail(x):
    raise ZeroDivisionError(x)


def die(x):
    os.kill(os.getpid(), signal.SIGKILL)


def double(array):
    return array * 2


def nap(array):
    time.sleep(1000)
"""

ENDS = {
    "normal": """
assert works(2, **options)
assert all((value == 2).all() for value in Parallel(n_jobs=2, **options)(delayed(double)(big) for _ in range(4)))
""",
    "caught exception": """
try:
    Parallel(n_jobs=2, **options)(delayed(fail)(big) for _ in range(4))
except ZeroDivisionError:
    pass
""",
    "dead worker": """
try:
    Parallel(n_jobs=2, **options)(delayed(die)(big) for _ in range(4))
except WorkerDied:
    pass
""",
    "timeout": """
try:
    Parallel(n_jobs=2, timeout=0.2, **options)(delayed(nap)(big) for _ in range(4))
except TimeoutError:
    pass
""",
    "dropped generator": """
results = Parallel(n_jobs=2, return_as="generator", batch_size=1, **options)(
    delayed(double if i == 0 else nap)(big) for i in range(5)
)
assert (next(results) == 2).all()
with warnings.catch_warnings():
    warnings.simplefilter("ignore", UnusedResultsWarning)
    del results
""",
    "results kept": """
kept = Parallel(n_jobs=2, **options)(delayed(double)(big) for _ in range(4))
""",
    "inside with": """
parallel = Parallel(n_jobs=2, **options).__enter__()
parallel(delayed(double)(big) for _ in range(4))
""",
    "sys.exit": """
parallel = Parallel(n_jobs=2, **options)
parallel(delayed(double)(big) for _ in range(4))
print("ok", flush=True)
sys.exit(0)
""",
}


#: `make test` runs each end in one way.
@pytest.mark.parametrize(
    ("end", "backend", "temp_folder"),
    [
        pytest.param(end, *way, marks=[] if number % 3 == place else pytest.mark.thorough)
        for number, end in enumerate(ENDS)
        for place, way in enumerate([("loky", False), ("multiprocessing", True), ("loky", True)])
        if (end, way[0]) != ("dropped generator", "multiprocessing")  # it has no generators
    ],
)
def test_nothing_is_left_of_a_program(tmp_path: Path, end: str, backend: str, temp_folder: bool) -> None:
    source = f"""{PRELUDE}
big = numpy.ones(400_000)
options = dict(backend={backend!r}, temp_folder=str(folder / "shared") if {temp_folder} else None)
{ENDS[end]}
print("ok", flush=True)
"""
    with Child(source, tmp_path) as child:
        assert child.wait() == (0, "ok\n", "")
        assert child.leaves_nothing() == []
        assert not list((tmp_path / "shared").glob("*"))


def test_nothing_is_left_after_an_uncaught_exception(tmp_path: Path) -> None:
    source = f"""{PRELUDE}
Parallel(n_jobs=2)(delayed(fail)(numpy.ones(400_000)) for _ in range(4))
"""
    with Child(source, tmp_path) as child:
        code, _, err = child.wait()
        assert code == 1
        assert err.rstrip().splitlines()[-1].startswith("ZeroDivisionError")
        assert child.leaves_nothing() == []


@pytest.mark.parametrize("backend", ["loky", "threading", pytest.param("multiprocessing", marks=pytest.mark.thorough)])
def test_two_hundred_runs_leave_nothing(tmp_path: Path, backend: str) -> None:
    """Descriptors, threads, processes, exit handlers and mappings stay as they were; so does what numpy arrays hold."""
    source = f"""{PRELUDE}
backend, n_runs = {backend!r}, {60 if backend == "multiprocessing" else 200}
big = numpy.ones(200_000)


def one(i):
    options = dict(n_jobs=2, backend=backend)
    if i % 20 == 3:
        try:
            Parallel(**options)(delayed(fail)(x) for x in range(4))
        except ZeroDivisionError:
            pass
    elif i % 20 == 6 and backend != "threading":
        try:
            Parallel(**options)(delayed(die)(x) for x in range(2))
        except WorkerDied:
            pass
    elif i % 20 == 13 and backend != "multiprocessing":
        results = Parallel(return_as="generator", **options)(delayed(double)(x) for x in range(40))
        next(results)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnusedResultsWarning)
            results.close()
    elif i % 40 in (10, 30):
        limit = dict(timeout=0.2) if i % 40 == 10 else dict(task_timeout=0.2)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FallbackWarning)  # threads cannot be stopped
                Parallel(**options, **limit)(delayed(time.sleep)(0.5) for x in range(3))
        except TimeoutError:
            pass
    elif i % 5 == 4:
        Parallel(**options)(delayed(double)(big) for x in range(3))
    else:
        assert Parallel(**options)(delayed(abs)(-x) for x in range(10)) == list(range(10))


for i in range(20):
    one(i)
assert works(2, backend=backend)
if backend == "loky":
    worker_pids(2)  # both are up
time.sleep(0.5)
before = census()
for i in range(n_runs):
    one(i)
assert works(2, backend=backend)
assert not (more := grown(before)), more
print("ok", flush=True)
"""
    with Child(source, tmp_path) as child:
        assert child.wait() == (0, "ok\n", "")
        assert child.leaves_nothing() == []


def test_live_results_cost_no_descriptors_and_go_when_dropped(tmp_path: Path) -> None:
    source = f"""{PRELUDE}
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))


def mappings():
    with open("/proc/self/maps") as file:
        return sum("memfd:shoal" in line for line in file)


def make(i):
    return numpy.full(40_000, float(i))


results = Parallel(n_jobs=2)(delayed(make)(i) for i in range(1500))
assert len(os.listdir("/proc/self/fd")) < 200
assert mappings() > 500  # neighbours may be one to the kernel
assert [value[7] for value in results] == list(range(1500))
kept = results[700]
results[3][:] = 5  # its own
assert results[4][0] == 4
del results
gc.collect()
assert mappings() <= 1, mappings()
assert (kept == 700).all()
del kept
assert until(lambda: mappings() == 0)
total = 0
for value in Parallel(n_jobs=2, return_as="generator")(delayed(make)(i) for i in range(600)):
    total += value[0]
    del value
assert total == sum(range(600))
gc.collect()
assert mappings() == 0
print("ok", flush=True)
"""
    with Child(source, tmp_path) as child:
        assert child.wait() == (0, "ok\n", "")
        assert child.leaves_nothing() == []


def test_arguments_are_freed_with_the_run(tmp_path: Path) -> None:
    """Their shared memory goes in the parent and in the workers, also when the caller drops them on the way."""
    source = f"""{PRELUDE}
def shared_bytes(pid):
    with open(f"/proc/{{pid}}/smaps") as file:
        total, ours = 0, False
        for line in file:
            if "-" in line.split()[0] and ":" not in line.split()[0]:
                ours = "memfd:shoal" in line
            elif ours and line.startswith("Rss:"):
                total += int(line.split()[1])
    return total


def segments():
    # the blocks of shared memory that this process holds open
    blocks = 0
    for fd in os.listdir("/proc/self/fd"):
        try:
            if "memfd:shoal" in os.readlink(f"/proc/self/fd/{{fd}}"):
                blocks += os.stat(f"/proc/self/fd/{{fd}}").st_blocks
        except OSError:
            continue
    return blocks


def total(array):
    return os.getpid(), float(array.sum())


def calls():
    for i in range(30):
        yield delayed(total)(numpy.full(500_000, float(i)))


pairs = Parallel(n_jobs=2)(calls())
assert [value for _, value in pairs] == [i * 500_000.0 for i in range(30)]
assert until(lambda: segments() == 0, 10), segments()
for pid in {{pid for pid, _ in pairs}}:
    assert until(lambda: shared_bytes(pid) <= 2 * 4_000, 10), shared_bytes(pid)
print("ok", flush=True)
"""
    with Child(source, tmp_path) as child:
        assert child.wait() == (0, "ok\n", "")


@pytest.mark.parametrize("return_as", ["list", "generator"])
def test_idle_workers_go(return_as: str) -> None:
    run = Parallel(n_jobs=2, idle_worker_timeout=0.3, return_as=return_as, batch_size=1)
    pids = set(run(delayed(os.getpid)() for _ in range(2)))
    assert len(pids) == 2
    assert until(lambda: not any(alive(pid) for pid in pids), 10)
    assert set(run(delayed(os.getpid)() for _ in range(2))) - pids
    assert works()


def test_workers_of_other_options_go_sooner() -> None:
    """The latest run's workers are kept; those started with another environment or initializer go when idle."""
    pids = set(Parallel(n_jobs=2, initializer=os.getpid, batch_size=1)(delayed(os.getpid)() for _ in range(2)))
    assert works()
    assert until(lambda: not any(alive(pid) for pid in pids), 15)


class Refuses:
    """A logger for ``verbose=`` that fails with its first line."""

    def info(self, message: str) -> None:
        raise LookupError(message)


def cannot_wait(_: Pool) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("how", ["listener", "interrupt"])
def test_nothing_is_left_of_a_run_that_has_not_begun(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its workers were started already."""
    assert works(backend="multiprocessing")
    before = set(children_of(os.getpid()))
    if how == "interrupt":
        monkeypatch.setattr(Pool, "catch_up", cannot_wait)
    with pytest.raises((LookupError, KeyboardInterrupt)):
        Parallel(n_jobs=2, backend="multiprocessing", verbose=Refuses())([delayed(abs)(-1)] * 4)
    monkeypatch.undo()
    pool().catch_up()
    assert until(lambda: set(children_of(os.getpid())) <= before, 10)
    assert works(backend="multiprocessing")
