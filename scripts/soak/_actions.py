"""What a soak does: each action takes a random generator and checks what comes back."""

from __future__ import annotations

import faulthandler
import os
import random
import shutil
import tempfile
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import shoal
from shoal import Memory, Parallel, TaskTimeout, WorkerDied, delayed

from ._calls import die_once, fail_at, nested, send_number, sleep_at, square, total, twice

Action = Callable[[random.Random], object]
ACTIONS: dict[str, Action] = {}
PROCESSES = ("loky", "multiprocessing")
BACKENDS = (*PROCESSES, "threading", "sequential")


def action(function: Action) -> Action:
    """Register an action."""
    ACTIONS[function.__name__] = function
    return function


def check(found: Any, expected: Any) -> None:
    """Raise AssertionError if a result is wrong."""
    if found != expected:
        raise AssertionError(f"got {found!r:.300} instead of {expected!r:.300}")


def options_of(rng: random.Random, backend: str) -> dict[str, Any]:
    """Return random options that every backend takes, and some that this one takes."""
    found: dict[str, Any] = {"n_jobs": rng.choice([1, 2, 2, 3]), "backend": backend}
    if rng.random() < 0.4:
        found["batch_size"] = rng.choice([1, 3, 50])
    if rng.random() < 0.3:
        found["pre_dispatch"] = rng.choice(["all", "n_jobs", 5])
    if rng.random() < 0.3:
        found["forward"] = rng.choice([False, "logging"])
    if rng.random() < 0.2:
        found["retries"] = 2
    if backend in PROCESSES and rng.random() < 0.2:
        found["max_tasks_per_worker"] = rng.choice([1, 7])
    if backend == "loky" and rng.random() < 0.2:
        found["temp_folder"] = tempfile.gettempdir()
    return found


@action
def a_list(rng: random.Random) -> None:
    n = rng.choice([0, 1, 2, 30, 500, 5000])
    options = options_of(rng, rng.choice(BACKENDS))
    if options.get("max_tasks_per_worker"):
        n = min(n, 30)
    check(Parallel(**options)(delayed(square)(i) for i in range(n)), [i * i for i in range(n)])


@action
def a_generator(rng: random.Random) -> None:
    n = rng.choice([1, 30, 2000])
    form: Any = rng.choice(["generator", "generator_unordered"])
    options = options_of(rng, rng.choice(["loky", "threading", "sequential"]))
    options.pop("max_tasks_per_worker", None)
    found = list(Parallel(return_as=form, **options)(delayed(square)(i) for i in range(n)))
    check(found if form == "generator" else sorted(found), [i * i for i in range(n)])


@action
def a_dropped_generator(rng: random.Random) -> None:
    results = Parallel(n_jobs=2, backend=rng.choice(["loky", "threading"]), return_as="generator")(
        delayed(square)(i) for i in range(500)
    )
    for i in range(rng.randrange(20)):
        check(next(results), i * i)
    results.close()


@action
def arrays(rng: random.Random) -> None:
    array = np.arange(rng.choice([100, 10_000, 200_000]), dtype=float)
    backend = rng.choice(PROCESSES)
    if rng.random() < 0.5:
        check(Parallel(n_jobs=2, backend=backend)(delayed(total)(array) for _ in range(8)), [total(array)] * 8)
    else:
        for found in Parallel(n_jobs=2, backend=backend)(delayed(twice)(array) for _ in range(4)):
            check(bool((found == 2 * array).all()), True)


@action
def an_exception(rng: random.Random) -> None:
    bad, backend = rng.randrange(50), rng.choice(BACKENDS)
    options = options_of(rng, backend) | {"retries": 0}
    if rng.random() < 0.5:
        found = Parallel(on_error="return", **options)(delayed(fail_at)(i, bad) for i in range(50))
        check([type(value) is ZeroDivisionError for value in found], [i == bad for i in range(50)])
        return
    try:
        Parallel(**options)(delayed(fail_at)(i, bad) for i in range(50))
    except ZeroDivisionError as error:
        check(error.args, (bad,))
    else:
        raise AssertionError("the exception of a call was not raised")


@action
def a_kill(rng: random.Random) -> None:
    backend, folder = rng.choice(PROCESSES), tempfile.mkdtemp()
    marker = os.path.join(folder, "dead")
    calls = [delayed(die_once)(i, marker) if i == 5 else delayed(square)(i) for i in range(20)]
    expected = [5 if i == 5 else i * i for i in range(20)]
    try:
        if rng.random() < 0.5:
            check(Parallel(n_jobs=2, backend=backend, retries=3)(calls), expected)
        else:
            found = Parallel(n_jobs=2, backend=backend, on_error="return")(calls)
            check([i for i, value in enumerate(found) if isinstance(value, WorkerDied)], [5])
    finally:
        shutil.rmtree(folder)


@action
def a_time_limit(rng: random.Random) -> None:
    long = rng.randrange(10)
    found = Parallel(n_jobs=2, backend=rng.choice(PROCESSES), task_timeout=1.0, on_error="return")(
        delayed(sleep_at)(i, long) for i in range(10)
    )
    check([type(value) is TaskTimeout for value in found], [i == long for i in range(10)])


@action
def a_nested_run(rng: random.Random) -> None:
    outer, inner = rng.choice(BACKENDS), rng.choice(["threading", "sequential", "loky"])
    check(
        Parallel(n_jobs=2, backend=outer)(delayed(nested)(i, inner) for i in range(6)),
        [sum(j * j for j in range(i)) for i in range(6)],
    )


@action
def a_fork(rng: random.Random) -> None:
    """Run in a forked child. The child has the thread that forked alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: fork in a process with threads
        pid = os.fork()
    if not pid:
        code = 1
        try:
            faulthandler.dump_traceback_later(100, exit=True)  # says where it hangs
            n = rng.choice([1, 2])
            found = Parallel(n_jobs=n, backend="loky")(delayed(square)(i) for i in range(20))
            code = 0 if found == [i * i for i in range(20)] else 2
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    check(os.waitstatus_to_exitcode(status), 0)


@action
def a_cache(rng: random.Random) -> None:
    folder = tempfile.mkdtemp()
    try:
        limits: dict[str, Any] = rng.choice([{}, {"items_limit": 10}, {"bytes_limit": "4K"}])
        with Memory(folder, verbose=0, **limits) as memory:
            cached = memory.cache(square)
            xs = [rng.randrange(40) for _ in range(60)]
            check([cached(x) for x in xs], [x * x for x in xs])
            check(Parallel(n_jobs=2, backend="loky")(delayed(cached)(x) for x in xs[:10]), [x * x for x in xs[:10]])
            memory.reduce_size(items_limit=5)
            check(len(list(memory.entries())) <= 5, True)
    finally:
        shutil.rmtree(folder)


@action
def a_file(rng: random.Random) -> None:
    folder = tempfile.mkdtemp()
    try:
        value = {"a": np.arange(rng.choice([10, 100_000])), "b": [rng.random() for _ in range(1000)], "c": "é" * 100}
        compress: Any = rng.choice([0, 3, ("zlib", 1), ("gzip", 1), ("lzma", 0)])
        path = Path(folder, "value")
        shoal.dump(value, path, compress=compress)
        found = shoal.load(path, mmap_mode="r" if not compress and rng.random() < 0.5 else None)
        found["a"] = np.asarray(found["a"])  # a memmap has another hash
        check(shoal.hash(found), shoal.hash(value))
    finally:
        shutil.rmtree(folder)


@action
def an_executor(rng: random.Random) -> None:
    with shoal.executor(n_jobs=2, backend=rng.choice(["loky", "threading"])) as executor:
        futures = [executor.submit(square, i) for i in range(rng.choice([1, 200]))]
        check([future.result(100) for future in futures], [i * i for i in range(len(futures))])
        check(list(executor.map(square, range(10))), [i * i for i in range(10)])


@action
def messages(rng: random.Random) -> None:
    found = set[int]()
    parallel = Parallel(
        n_jobs=2, backend=rng.choice(["loky", "threading"]), on_message=lambda _, message: found.add(message)
    )
    check(parallel(delayed(send_number)(i) for i in range(50)), list(range(50)))
    check(found, set(range(50)))


@action
def a_stop(rng: random.Random) -> None:
    parallel = Parallel(n_jobs=2, backend=rng.choice(["loky", "threading"]), batch_size=1)
    timer = threading.Timer(0.05, parallel.stop)
    timer.start()
    found = parallel(delayed(square)(i) for i in range(2000))
    timer.join()
    check(all(int(value**0.5) ** 2 == value for value in found), True)


@action
def workers_kept(rng: random.Random) -> None:
    with Parallel(n_jobs=2, backend=rng.choice(BACKENDS)) as parallel:
        for n in (1, 10, 100):
            check(parallel(delayed(square)(i) for i in range(n)), [i * i for i in range(n)])
