"""Rows on worker processes: their start, large numbers of them, their memory, their replacement."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import floors, workloads
from benchmarks._registry import Measured, Target, faster, row, timed
from benchmarks.contenders import LIBRARIES, WORKERS
from benchmarks.rows.calls import through_sockets
from benchmarks.rows.sklearn import IMPORTS, imports, iris, stand_in

MANY = 128
SOME = 16
#: The contenders that can run each call in a process of its own.
OWN = ("shoal", "multiprocessing")


def calls(contender: str, n_jobs: int, count: int, function: Any = workloads.nothing, **options: Any) -> list[Any]:
    library = import_module(contender)
    found: list[Any] = library.Parallel(n_jobs=n_jobs, **options)(library.delayed(function)(i) for i in range(count))
    return found


def workers(contender: str, n_jobs: int) -> set[int]:
    """Return the process ids of the workers, after each has run a call."""
    library = import_module(contender)
    found: set[int] = set()
    while len(found) < n_jobs:
        found |= set(library.Parallel(n_jobs=n_jobs, batch_size=1)(library.delayed(os.getpid)() for _ in range(n_jobs)))
    return found


@row("first 128 calls on 128 workers", LIBRARIES, faster(20), floors=("forks",), rounds=3, at_most={"joblib": 1})
def many_first(contender: str) -> Measured:
    if contender == "forks":
        return timed(lambda: floors.forks(MANY, MANY), 1, warm_up=False)
    return timed(lambda: calls(contender, MANY, MANY, batch_size=1), 1, warm_up=False)


@row(
    "128 no-op calls on 128 warm workers",
    LIBRARIES,
    Target("shoal", maximum=0.025),
    floors=("sockets",),
    rounds=3,
    at_most={"joblib": 1},
)
def many_warm(contender: str) -> Measured:
    if contender == "sockets":
        return through_sockets(MANY, 9, MANY)
    workers(contender, MANY)
    return timed(lambda: calls(contender, MANY, MANY, batch_size=1), 9)


@row(
    "20,000 no-op calls on 128 workers",
    LIBRARIES,
    Target("shoal", maximum=0.1),
    floors=("sockets",),
    rounds=3,
    at_most={"joblib": 1},
)
def many_calls(contender: str) -> Measured:
    if contender == "sockets":
        return through_sockets(20_000, 5, MANY)
    workers(contender, MANY)
    return timed(lambda: calls(contender, MANY, 20_000), 5)


@row("threads in the caller, 128 workers", LIBRARIES, Target("shoal", maximum=4), unit="1", rounds=1)
def many_threads(contender: str) -> Measured:
    workers(contender, MANY)
    return float(threading.active_count())


@row("descriptors in the caller, 128 workers", LIBRARIES, Target("shoal", maximum=2 * MANY + 30), unit="1", rounds=1)
def many_descriptors(contender: str) -> Measured:
    workers(contender, MANY)
    return float(len(os.listdir("/proc/self/fd")))


FIRST_400 = Target("shoal", maximum=3)


@row("400 workers, ulimit -n 1024: first answers", ("shoal",), FIRST_400, floors=("forks",), unit="s", rounds=1)
def few_descriptors(contender: str) -> Measured:
    if contender == "forks":
        return timed(lambda: floors.forks(400, 400), 1, warm_up=False)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    return timed(lambda: calls(contender, 400, 400, batch_size=1), 1, warm_up=False)


def memory_in_bytes(pids: set[int], name: str) -> float:
    """Return the sum of the processes' memory: proportional ("Pss") or private ("Private_")."""
    kilobytes = 0
    for each in pids:
        for line in Path(f"/proc/{each}/smaps_rollup").read_text().splitlines():
            if line.startswith(name + ":") or (name.endswith("_") and line.startswith(name)):
                kilobytes += int(line.split()[1])
    return kilobytes * 1024


def memory_of(contender: str, function: Any, *args: Any, name: str) -> float:
    """Return the memory of workers in MB, after each has called a function of an installed package."""
    if contender == "forks":
        with floors.forked(SOME) as processes:
            for _ in range(4):
                for process in processes:
                    process.submit(function, *args)
                for process in processes:
                    process.result()
            return memory_in_bytes({process.pid for process in processes}, name) / 2**20
    library = import_module(contender)
    found = workers(contender, SOME)
    for _ in range(3):
        library.Parallel(n_jobs=SOME, batch_size=1)(library.delayed(function)(*args) for _ in range(4 * SOME))
    return memory_in_bytes(found, name) / 2**20


@row("memory of 16 workers with scikit-learn, PSS", LIBRARIES, faster(5), floors=("forks",), unit="MB", rounds=1)
def memory_sklearn(contender: str) -> Measured:
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=500)
    if contender in LIBRARIES:
        library = import_module(contender)
        library.Parallel(n_jobs=SOME, batch_size=1)(library.delayed(model.fit)(*iris()) for _ in range(4 * SOME))
    return memory_of(contender, model.fit, *iris(), name="Pss")


@row("memory of 16 workers with numpy, USS", LIBRARIES, faster(5), floors=("forks",), unit="MB", rounds=1)
def memory_numpy(contender: str) -> Measured:
    import numpy as np

    return memory_of(contender, np.ones, 1000, name="Private_")


def first_cross_val_score(contender: str, n_jobs: int) -> float:
    stand_in(contender)
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_score

    x, y = iris()
    model = LogisticRegression(max_iter=500)
    return timed(lambda: cross_val_score(model, x, y, cv=16, n_jobs=n_jobs), 1, warm_up=False)


@row("first cross_val_score, 16 workers", LIBRARIES, faster(5), floors=(IMPORTS,), rounds=2)
def first_cv_16(contender: str) -> Measured:
    if contender == IMPORTS:
        return imports()
    return first_cross_val_score(contender, SOME)


@row("first cross_val_score, 2 workers", LIBRARIES, faster(1.1), floors=(IMPORTS,), rounds=3)
def first_cv_2(contender: str) -> Measured:
    if contender == IMPORTS:
        return imports()
    return first_cross_val_score(contender, WORKERS)


REPLACED = Target("shoal", maximum=0.01)


@row("a worker killed: until its replacement answers", ("shoal",), REPLACED, floors=("forks",), rounds=3)
def replacement(contender: str) -> Measured:
    """Kill one of two idle workers, and then time one call on each."""
    if contender == "forks":
        return timed(lambda: floors.forks(1, 1), 9)
    times = []
    for _ in range(9):
        victim = min(workers(contender, WORKERS))
        os.kill(victim, signal.SIGKILL)
        while Path(f"/proc/{victim}/stat").exists():
            time.sleep(0.001)
        start = time.perf_counter()
        calls(contender, WORKERS, WORKERS, abs, batch_size=1)
        times.append(time.perf_counter() - start)
    return median(times)


@row("1,000 no-op calls, each in its own process", OWN, faster(1.2, "multiprocessing"), floors=("forks",), rounds=3)
def own_process(contender: str) -> Measured:
    if contender == "forks":
        return timed(lambda: floors.forks(1_000, WORKERS), 3)
    if contender == "shoal":
        return timed(lambda: calls(contender, WORKERS, 1_000, max_tasks_per_worker=1), 3)
    from multiprocessing.pool import Pool

    def run() -> None:
        with Pool(WORKERS, maxtasksperchild=1) as pool:
            assert pool.map(workloads.nothing, range(1_000), chunksize=1) == list(range(1_000))

    return timed(run, 3)


@row("first call of a script that has numpy, whole process", LIBRARIES, faster(1.5), floors=("bare",), rounds=3)
def first_call_numpy(contender: str) -> Measured:
    """Time a script; `bare` only imports numpy."""
    script = "import numpy\n"
    if contender != "bare":
        script += f"from {contender} import Parallel, delayed\nParallel(n_jobs=2)([delayed(numpy.ones)(3)] * 2)"

    def run() -> None:
        subprocess.run([sys.executable, "-c", script], check=True)

    return timed(run, 3)
