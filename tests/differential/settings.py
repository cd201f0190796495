"""Arguments and contexts: which are accepted, which are refused, and their effects; nested runs."""

from __future__ import annotations

import asyncio
import atexit
import multiprocessing
import os
import threading
from typing import Any

from harness import BACKENDS, PARALLEL, Parallel, delayed, here, lib, main, program, relation


def made(**arguments: Any) -> Any:
    """Return the attributes of a Parallel with these arguments, and its results."""
    parallel = Parallel(**{"backend": "threading", **arguments})
    chosen = type(parallel._backend).__name__
    return (
        chosen,
        parallel.n_jobs,
        parallel.verbose,
        parallel.timeout,
        sorted(parallel(delayed(abs)(i) for i in range(3))),  # generator_unordered gives them in any order
    )


ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "n_jobs": (1, 2, 3, None, -1, -2, -100, 0, 2.7, "2", "x", True, [], float("nan"), 1e400),
    "backend": ("thread", "", 3, "sequential", "loky", "multiprocessing"),
    "return_as": ("generator", "generator_unordered", "lists", None),
    "batch_size": (2, 0, -1, 1.5, "x", True, None),
    "pre_dispatch": (
        *(2, 2.5, "3", "2.5*n_jobs", "n_jobs//1", "-(-n_jobs)", "2 ** n_jobs", "n_jobs % 2 + 1", "(1+1)*2"),
        *("n_jobs//0", "os", "__import__('os')", "n_jobs.real", "abs(-2)", "9**9**9", "1000001", "", "x", "[1]"),
        *("1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1", "2n_jobs", "+n_jobs", " n_jobs ", "True", 0, -1, "0", None),
    ),
    "verbose": (0, False),
    "timeout": (None, 5, 5.5),
    "max_nbytes": (None, 0, 1.5, "10K", "1.5M", "1G", "x", "10X", "K", -1, "-1K"),
    "mmap_mode": ("r", "r+", "w+", "c", None, "x"),
    "prefer": ("processes", "threads", None, "x"),
    "require": ("sharedmem", None, "x"),
    "bogus": (1,),
}
for name, choices in ARGUMENTS.items():
    for choice in choices:
        arguments = {"n_jobs": 2, name: choice}
        program(made, **arguments)
program(made, n_jobs=1, pre_dispatch="2n_jobs")
program(made, n_jobs=1, timeout=5)
program(made, n_jobs=1, timeout=5, backend="loky")
program(made, n_jobs=2, return_as="generator", backend="multiprocessing")
for backend in BACKENDS:
    program(made, n_jobs=2, backend=backend, require="sharedmem")
    program(made, n_jobs=2, backend=backend, prefer="threads")
program(made, n_jobs=2, prefer="processes", require="sharedmem")
program(made, n_jobs=2, backend="loky", timeout=9, idle_worker_timeout=50)
program(made, n_jobs=2, backend="threading", initializer=abs, name="made(initializer)")
program(made, n_jobs=2, backend=multiprocessing.get_context("fork"), name="made(context)")


def chosen(**arguments: Any) -> Any:
    """Return where calls run if no backend is named."""
    parallel = Parallel(**{"n_jobs": 2, **arguments})
    return type(parallel._backend).__name__, parallel.n_jobs, relation(parallel([delayed(here)(), delayed(here)()])[0])


def context(*layers: dict[str, Any], **arguments: Any) -> Any:
    """Return the settings inside contexts, and after them."""
    if not layers:
        parallel = Parallel(**arguments)
        effective = lib.effective_n_jobs(None), lib.effective_n_jobs(3)
        return type(parallel._backend).__name__, parallel.n_jobs, parallel.verbose, effective
    with lib.parallel_config(**layers[0]):
        inside = context(*layers[1:], **arguments)
    return inside, context(**arguments)


def by_parallel_backend(backend: str, **options: Any) -> Any:
    with lib.parallel_backend(backend, **options) as entered:
        inside = type(entered[0]).__name__, entered[1], Parallel(), lib.effective_n_jobs(None)
        return *inside[:2], type(inside[2]._backend).__name__, inside[2].n_jobs, inside[3]


def unregistered() -> Any:
    config = lib.parallel_config("threading", n_jobs=3)
    inside = context()
    config.unregister()
    return inside, context()


def other_thread() -> Any:
    """Return the settings of a thread while another thread has a context."""
    observed: list[Any] = []
    with lib.parallel_config("threading", n_jobs=3):
        thread = threading.Thread(target=lambda: observed.append(context()))
        thread.start()
        thread.join()
    return observed


async def _configured(observed: list[Any], n_jobs: int) -> None:
    with lib.parallel_config("threading", n_jobs=n_jobs):
        await asyncio.sleep(0.01)
        observed.append(lib.effective_n_jobs(None))
        await asyncio.sleep(0.01)


def asyncio_tasks() -> Any:
    """Return the settings of an asyncio task while another task has a context."""
    observed: list[Any] = []

    async def both() -> None:
        await asyncio.gather(_configured(observed, 3), _configured(observed, 4))

    asyncio.run(both())
    return sorted(observed), lib.effective_n_jobs(None)


def exit_handlers() -> Any:
    """Count the exit handlers that runs register."""
    counts = []
    for _ in range(3):
        Parallel(n_jobs=2, backend="loky", max_nbytes=10)([delayed(abs)(1)] * 2)
        counts.append(atexit._ncallbacks())
    return counts[2] - counts[1]


program(exit_handlers)
for prefer in (None, "threads", "processes"):
    for require in (None, "sharedmem"):
        program(chosen, prefer=prefer, require=require)
THREADS, LOKY = {"backend": "threading", "n_jobs": 3}, {"backend": "loky", "n_jobs": 2}
LAYERS: dict[str, tuple[dict[str, Any], ...]] = {
    "threads": (THREADS,),
    "n_jobs only": ({"n_jobs": 2},),
    "verbose": ({"verbose": 5}, {"n_jobs": 2}),
    "nested": (THREADS, {"n_jobs": 2}),
    "nested backend": (THREADS, {"backend": "loky"}),
    "sharedmem within loky": (LOKY, {"require": "sharedmem"}),
    "prefer threads": ({"prefer": "threads", "n_jobs": 2},),
    "prefer within loky": (LOKY, {"prefer": "threads"}),
    "unknown": ({"backend": "x"},),
    "bad n_jobs": ({"backend": "loky", "n_jobs": 0},),
    "inner threads": ({"backend": "loky", "inner_max_num_threads": 2},),
    "inner threads, threading": ({"backend": "threading", "inner_max_num_threads": 2},),
    "inner threads, no backend": ({"inner_max_num_threads": 2},),
    "option": ({"backend": "loky", "idle_worker_timeout": 20},),
    "option, no backend": ({"idle_worker_timeout": 20},),
}
for name, layers in LAYERS.items():
    program(context, *layers, name=f"context({name})")
    program(context, *layers, n_jobs=4, verbose=1, name=f"context({name}) beside arguments")
program(context, LOKY, require="sharedmem", name="context(loky) require")
program(context, LOKY, require="sharedmem", n_jobs=2, name="context(loky) require and n_jobs")
program(context, LOKY, prefer="threads", name="context(loky) prefer")
program(context, LOKY, backend="threading", require="sharedmem", name="context(loky) backend and require")
program(context, {"backend": None, "n_jobs": 2}, name="context(None)")
program(context, THREADS, backend="loky", name="context(threads) backend")
for backend in BACKENDS:
    program(by_parallel_backend, backend)
    program(by_parallel_backend, backend, n_jobs=2)
program(by_parallel_backend, "x")
program(unregistered)
program(other_thread)
for n_jobs in (1, 2, -1, -2, -50, None, 0, 7):
    program(lib.effective_n_jobs, n_jobs)
program(lib.cpu_count)


def layer(depth: int, inner: str | None, deepest: int) -> Any:
    """Return the attributes of a Parallel at this depth, and those of the runs inside its calls."""
    parallel = Parallel(n_jobs=2, backend=inner) if inner else Parallel(n_jobs=2)
    observed = [type(parallel._backend).__name__, lib.effective_n_jobs(2), lib.effective_n_jobs(None)]
    if depth == deepest:
        return observed, here()
    inside, place = parallel(delayed(layer)(depth + 1, None, deepest) for _ in range(2))[0]
    return [*observed, relation(place), inside], here()


def nested(backend: str, deepest: int = 3) -> Any:
    return Parallel(n_jobs=2, backend=backend)(delayed(layer)(1, None, deepest) for _ in range(2))[0][0]


def nested_explicitly(backend: str, inner: str, outer_n_jobs: int = 2) -> Any:
    return Parallel(n_jobs=outer_n_jobs, backend=backend)(delayed(layer)(1, inner, 2) for _ in range(2))[0][0]


def nested_in_config(backend: str) -> Any:
    with lib.parallel_config(backend, n_jobs=2):
        return Parallel()(delayed(layer)(1, None, 2) for _ in range(2))[0][0]


def unset_n_jobs_inside() -> Any:
    return lib.effective_n_jobs(None), Parallel().n_jobs, Parallel().verbose, os.environ.get("OMP_NUM_THREADS")


def settings_inside(backend: str) -> Any:
    """Return the settings that a call sees of the context around its run."""
    with lib.parallel_config(backend, n_jobs=2, verbose=0, max_nbytes=5):
        return Parallel()(delayed(unset_n_jobs_inside)() for _ in range(2))[0]


for backend in BACKENDS:
    program(nested, backend)
    program(nested_in_config, backend)
    program(settings_inside, backend)
    for inner in PARALLEL:
        program(nested_explicitly, backend, inner)
program(nested_explicitly, "loky", "loky", 1)

program(asyncio_tasks)  # the last program, because it leaves joblib's settings changed

if __name__ == "__main__":
    main()
