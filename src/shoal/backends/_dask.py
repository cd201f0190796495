"""The dask backend: batches are tasks of a dask cluster, submitted through a ``distributed.Client``.

The executor of a run (_dask_executor) submits them, and a worker runs them (_dask_task).
"""

from __future__ import annotations

import time
import weakref
from typing import Any

import distributed
from dask.utils import parse_timedelta

from shoal.backends._dask_executor import DaskExecutor
from shoal.backends.base import Slot, WorkerSpec
from shoal.backends.storing import StoringBackend

#: For so many seconds, a cluster that has had a worker is believed to have one.
WORKERS_SECONDS = 1.0
#: The keywords of ``Client.submit`` that are the same for all tasks of a run.
SUBMITS = frozenset({"workers", "allow_other_workers", "resources", "priority", "fifo_timeout"})
#: For clients whose cluster had workers: when, and the stream to the scheduler.
_seen_with_workers: weakref.WeakKeyDictionary[Any, tuple[float, Any]] = weakref.WeakKeyDictionary()


class DaskBackend(StoringBackend):
    """Runs the calls on a dask cluster.

    Parameters
    ----------
    scheduler_host
        The address of the scheduler to connect to. By default the backend uses the latest client of this process or,
        in a dask task, the client of its worker.
    scatter : list or tuple
        Objects that are stored in the memory of all workers at the start, for calls that have them as arguments.
    client
        A ``distributed.Client`` to use. It must not be asynchronous.
    loop
        The event loop of the client that is made for `scheduler_host`.
    wait_for_workers_timeout
        The time to wait for a worker if the cluster has none, in seconds or as dask writes it ("5s"); 0 not to wait.
    inner_max_num_threads
        Not supported, because dask manages the threads of its workers.
    **submit_kwargs
        Keywords of ``Client.submit`` for each task: `workers`, `allow_other_workers`, `resources`, `priority`,
        `fifo_timeout`.

    Raises
    ------
    ValueError
        If there is no client.
    TypeError
        If `client` is no client, or `scatter` no list or tuple.

    Notes
    -----
    ``n_jobs=-1`` means all threads of the cluster, but at least two, because the calls of a run with one worker run in
    the caller's thread. `n_jobs` may be larger than the cluster, for a cluster that grows.
    :func:`~shoal.worker_index` is None in its workers, because dask chooses where a task runs.
    """

    name = "dask"
    options = frozenset({"scatter", *SUBMITS})
    constructor_options = frozenset({"client", "wait_for_workers_timeout"})
    distance = 10.0  # a round trip through the scheduler takes 5 ms or more

    def __init__(
        self,
        scheduler_host: str | None = None,
        scatter: list[Any] | tuple[Any, ...] | None = None,
        client: Any = None,
        loop: Any = None,
        wait_for_workers_timeout: float | str = 10,
        inner_max_num_threads: int | None = None,
        **submit_kwargs: Any,
    ) -> None:
        unknown = submit_kwargs.keys() - SUBMITS
        if unknown:
            raise TypeError(f"the backend 'dask' takes no {sorted(unknown)}; for its tasks it takes {sorted(SUBMITS)}")
        if client is not None and not isinstance(client, distributed.Client):
            raise TypeError(f"client must be a distributed.Client, such as Client(address), got: {client!r}")
        self.client = _client(scheduler_host, loop) if client is None else client
        self.wait_for_workers_timeout = parse_timedelta(wait_for_workers_timeout)
        given = {"client": self.client, "wait_for_workers_timeout": wait_for_workers_timeout, **submit_kwargs}
        super().__init__(inner_max_num_threads, **given)
        self._scattered = self._scatter(scatter)

    def __reduce__(self) -> Any:
        return type(self), ()  # the receiving process has its own client

    def _scatter(self, objects: Any) -> dict[int, tuple[Any, Any]]:
        if objects is not None and not isinstance(objects, (list, tuple)):
            raise TypeError(f"scatter must be a list or tuple of objects, got: {type(objects).__name__}")
        if not objects:
            return {}
        self._check_open()
        futures = self.client.scatter(list(objects), broadcast=True)
        return {id(obj): (obj, future) for obj, future in zip(objects, futures, strict=True)}

    def _check_open(self) -> None:
        if self.client.status == "closed":
            raise RuntimeError("the client of the backend 'dask' is closed; make a new one, and a new backend with it")

    def workers(self, n_jobs: int | None, depth: int = 0) -> int:
        """Return the number of workers for `n_jobs`. -1 means all threads of the cluster.

        Raises
        ------
        TimeoutError
            If the cluster has no worker within `wait_for_workers_timeout`.
        RuntimeError
            If the cluster has no worker and the timeout is 0; if the client is closed; or if this is called in the
            event loop of the client.
        """
        if n_jobs is None:
            n_jobs = self.default_n_jobs
        if n_jobs in (0, 1):
            return super().workers(n_jobs)
        if n_jobs > 0 and self._had_workers():
            return n_jobs
        threads = self.threads()
        if not threads:
            raise RuntimeError(f"{type(self).__name__} has no active worker: {self.client}")
        return n_jobs if n_jobs > 0 else max(threads + 1 + n_jobs, 1)

    def threads(self) -> int:
        """Return the number of threads of the cluster, but 2 if it has 1. Wait for a worker if it has none.

        Raises
        ------
        TimeoutError
            If the cluster has no worker within `wait_for_workers_timeout`.
        RuntimeError
            If the client is closed, or this is called in its event loop.
        """
        self._check_open()
        if self.client.asynchronous:
            raise RuntimeError("the backend 'dask' cannot run in the event loop of its client; use a thread")
        threads: int = sum(self.client.nthreads().values())
        if not threads and self.wait_for_workers_timeout:
            # An adaptive cluster starts a worker when there is a task.
            probe = self.client.submit(int, pure=False)
            try:
                probe.result(timeout=self.wait_for_workers_timeout)
            except distributed.TimeoutError:
                raise TimeoutError(
                    f"{type(self).__name__} has no worker after {self.wait_for_workers_timeout} seconds. Start workers "
                    "that reach the scheduler, or wait longer: parallel_config(backend='dask', "
                    f"wait_for_workers_timeout={max(10, 2 * self.wait_for_workers_timeout)})"
                ) from None
            finally:
                probe.release()
            threads = sum(self.client.nthreads().values())
        if threads:
            _seen_with_workers[self.client] = time.monotonic(), self.client.scheduler_comm
        return max(threads, 2) if threads else 0

    def _had_workers(self) -> bool:
        """Return whether the cluster had workers a moment ago: to ask takes a round trip."""
        seen, stream = _seen_with_workers.get(self.client, (-WORKERS_SECONDS, None))
        in_time = time.monotonic() - seen < WORKERS_SECONDS
        return in_time and stream is self.client.scheduler_comm and not self.client.asynchronous

    def open(self, spec: WorkerSpec) -> list[Slot]:
        """Return one slot. If this is called in a dask task, its worker runs other tasks until the slot is closed."""
        keywords = {**self.given_options, **spec.options}
        scattered = {**self._scattered, **self._scatter(keywords.get("scatter"))}
        keywords = {name: value for name, value in keywords.items() if name in SUBMITS}
        executor = DaskExecutor(self.client, scattered, keywords)
        executor.secede()
        return [Slot(executor, spec.n_workers)]

    def nested(self, depth: int) -> str:
        """Return "dask": nested runs use the same cluster."""
        return self.name


def _client(scheduler_host: str | None, loop: Any) -> Any:
    """Return a client for a scheduler, or the current client."""
    if scheduler_host:
        return distributed.Client(scheduler_host, loop=loop, set_as_default=False)
    try:
        return distributed.get_client()
    except ValueError as error:
        raise ValueError(
            "The backend 'dask' needs a client: first create a dask client, "
            "`client = distributed.Client()` for workers on this machine, or "
            "`client = distributed.Client('scheduler-address:8786')`"
        ) from error
