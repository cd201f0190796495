"""Rows in which large data travel to workers and back."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

from benchmarks import floors, workloads
from benchmarks._registry import Measured, faster, row, timed
from benchmarks.contenders import EVERYONE, LIBRARIES, POOLS, WORKERS, open_pool


@row("one 400 MB array into 20 calls", (*LIBRARIES, "mpire"), faster(1), floors=("memcpy", "write"), rounds=3)
def array_400mb(contender: str) -> Measured:
    import numpy as np

    array = np.ones(50_000_000)
    if contender == "memcpy":
        return timed(array.copy, 5)
    if contender == "write":
        with floors.shared_folder() as folder:

            def write() -> None:
                path = folder / "array"
                path.unlink(missing_ok=True)
                workloads.write_arrays(str(path), [array])

            return timed(write, 5)
    if contender == "mpire":
        return timed(lambda: inherited(workloads.item, array, 20), 5)
    library = import_module(contender)
    return timed(
        lambda: library.Parallel(n_jobs=WORKERS)(library.delayed(workloads.item)(array, i) for i in range(20)),
        5,
    )


def inherited(function: Callable[[Any, int], Any], shared: object, count: int) -> list[Any]:
    """Share a big object as mpire does: with a new pool, whose workers inherit it by fork."""
    with import_module("mpire").WorkerPool(WORKERS, shared_objects=shared) as pool:
        results: list[Any] = pool.map(function, range(count))
        return results


@row("4 results of 100 MB", EVERYONE, faster(6), floors=("sockets",), rounds=3)
def results_100mb(contender: str) -> Measured:
    size = 12_500_000
    if contender == "sockets":
        with floors.forked() as processes:
            return timed(lambda: floors.results_through_files(processes, 4, size), 3)
    with open_pool(contender) as run:
        return timed(lambda: run(workloads.ones, [size] * 4), 2)


def there_and_back(contender: str, count: int, size: int) -> float:
    import numpy as np

    arrays = [np.full(size, float(index)) for index in range(count)]
    if contender == "sockets":
        with floors.forked() as processes:
            return timed(lambda: floors.through_files(processes, arrays), 3)
    with open_pool(contender) as run:
        results = run(workloads.plus_one, arrays)
        assert all(result[0] == result[-1] == index + 1 for index, result in enumerate(results))
        del results
        return timed(lambda: run(workloads.plus_one, arrays), 3)


@row("500 arrays of 480 KB there and back", EVERYONE, faster(2), floors=("sockets",), rounds=3)
def arrays_480kb(contender: str) -> Measured:
    return there_and_back(contender, 500, 60_000)


@row("100 arrays of 1.6 MB there and back", EVERYONE, faster(2), floors=("sockets",), rounds=3)
def arrays_1600kb(contender: str) -> Measured:
    return there_and_back(contender, 100, 200_000)


@row(
    "a dict of 200,000 tuples into 200 calls, cold",
    (*LIBRARIES, "shared", *POOLS),
    faster(8),
    faster(60, contender="shared"),
    floors=("pickle",),
    rounds=3,
    at_most={"joblib": 2},
)
def big_dict(contender: str) -> Measured:
    """Time the first run of a process, with the start of the workers. Later, joblib's batches would have two calls."""
    table = {i: (i, str(i), i / 2, None, True) for i in range(200_000)}
    if contender == "pickle":
        return timed(lambda: pickle.dumps(table, pickle.HIGHEST_PROTOCOL), 5)

    def run() -> None:
        if contender == "mpire":
            inherited(workloads.look_up, table, 200)
        elif contender in POOLS:
            with open_pool(contender) as run_pool:
                run_pool(partial(workloads.look_up, table), range(200))
        else:
            library = import_module("shoal" if contender == "shared" else contender)
            argument = library.shared(table) if contender == "shared" else table
            library.Parallel(n_jobs=WORKERS)(library.delayed(workloads.look_up)(argument, i) for i in range(200))

    return timed(run, 1, warm_up=False)
