"""The contenders with a common interface: `open_pool(name)` gives a function that maps over two warm workers.

Each contender is used as its manual says, with its default chunks. The exception is `concurrent.futures`, whose default
is one call per message: it gets the chunks that `multiprocessing.Pool.map` chooses. shoal and joblib make a new
`Parallel` each time, as users do.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

WORKERS = 2
LIBRARIES = ("shoal", "joblib")
POOLS = ("multiprocessing", "futures", "mpire")
EVERYONE = (*LIBRARIES, *POOLS)
#: Clusters of this machine alone, and the modules that they need. There are no wheels of them for some Pythons.
CLUSTERS = {"dask": "distributed", "ray": "ray"}

Function = Callable[[Any], Any]
Map = Callable[[Function, Sequence[Any]], list[Any]]
Unordered = Callable[[Function, Sequence[Any]], Iterable[Any]]


@contextmanager
def open_pool(contender: str, *, threads: bool = False) -> Iterator[Map]:
    """Give a function that maps over two workers of `contender`, processes unless `threads`; close them at the end."""
    if contender in LIBRARIES:
        library = import_module(contender)
        settings: dict[str, Any] = {"backend": "threading"} if threads else {}
        yield lambda f, xs: library.Parallel(n_jobs=WORKERS, **settings)(library.delayed(f)(x) for x in xs)
    elif contender == "multiprocessing":
        with _multiprocessing(threads) as pool:
            yield pool.map
    elif contender == "futures":
        with _futures(threads) as executor:
            yield lambda f, xs: list(executor.map(f, xs, chunksize=chunk(xs)))
    elif contender == "dask":
        with _dask() as client:
            yield lambda f, xs: client.gather(client.map(f, xs, pure=False))
    elif contender == "ray":
        with _ray() as ray:
            remote = cache(ray.remote)
            yield lambda f, xs: ray.get([remote(f).remote(x) for x in xs])
    else:
        with _mpire(threads) as pool:
            yield lambda f, xs: pool.map(f, xs, concatenate_numpy_output=False)


@contextmanager
def open_unordered(contender: str) -> Iterator[Unordered]:
    """Do the same as `open_pool`, with results in the order of their completion."""
    if contender in LIBRARIES:
        library = import_module(contender)
        yield lambda f, xs: library.Parallel(n_jobs=WORKERS, return_as="generator_unordered")(
            library.delayed(f)(x) for x in xs
        )
    elif contender == "multiprocessing":
        with _multiprocessing() as pool:
            yield lambda f, xs: pool.imap_unordered(f, xs, chunksize=chunk(xs))
    elif contender == "futures":
        from concurrent.futures import as_completed

        with _futures() as executor:
            yield lambda f, xs: (done.result() for done in as_completed([executor.submit(f, x) for x in xs]))
    else:
        with _mpire() as pool:
            yield pool.imap_unordered


def chunk(xs: Sequence[Any]) -> int:
    """Return the number of calls per message by the rule of `multiprocessing.Pool.map`: four messages per worker."""
    return -(-len(xs) // (4 * WORKERS))


def _multiprocessing(threads: bool = False) -> Any:
    from multiprocessing.pool import Pool, ThreadPool

    return (ThreadPool if threads else Pool)(WORKERS)


def _futures(threads: bool = False) -> Any:
    from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

    return (ThreadPoolExecutor if threads else ProcessPoolExecutor)(WORKERS)


def _mpire(threads: bool = False) -> Any:
    settings: dict[str, Any] = {"start_method": "threading"} if threads else {}
    return import_module("mpire").WorkerPool(WORKERS, keep_alive=True, **settings)


@contextmanager
def _dask() -> Iterator[Any]:
    """Give a client of a cluster of processes with one thread each, without dashboards."""
    distributed = import_module("distributed")
    plain = {"dashboard_address": ":0", "scheduler_kwargs": {"dashboard": False}, "worker_dashboard_address": None}
    with (
        distributed.LocalCluster(n_workers=WORKERS, threads_per_worker=1, **plain) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@contextmanager
def _ray() -> Iterator[Any]:
    """Give ray, with a cluster that hears nothing but loopback, and reports nothing to its makers."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    ray = import_module("ray")
    # A short path, since the names of sockets that are made there must be short.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        own = {"_node_ip_address": "127.0.0.1", "_temp_dir": folder}
        ray.init(address="local", num_cpus=WORKERS, include_dashboard=False, log_to_driver=False, **own)
        try:
            yield ray
        finally:
            ray.shutdown()


def is_missing(contender: str) -> bool:
    """Tell whether a contender is a cluster that is not installed."""
    return contender in CLUSTERS and find_spec(CLUSTERS[contender]) is None
