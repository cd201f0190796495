"""The dask backend: batches are tasks of a dask cluster, submitted through a ``distributed.Client``.

::

    put(obj) ──> Client.scatter ──> dask's future ──┐
    submit(work, *references) ── pickled ──> Client.submit(_run, bytes, *references) ──> a worker: work(*objects)
         └── our future <── awaited on the client's event loop <── Client.gather <───────┘
    abort ──> Client.cancel: waiting tasks do not start; a running batch stops after its current call
"""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, CancelledError, Future
from functools import partial
from typing import Any, TypeVar
from uuid import uuid4

import distributed
from dask.sizeof import sizeof
from dask.utils import funcname
from distributed.scheduler import KilledWorker
from distributed.threadpoolexecutor import thread_state

from shoal._pickling import dumps, loads
from shoal.backends.base import Slot, WorkerSpec
from shoal.backends.storing import Postbox, StoringBackend, StoringExecutor

T = TypeVar("T")

#: Arguments above the first size are stored in the cluster when they occur again, above the second size at once.
#: joblib stores all arguments above the first size. But storing an argument of only one call costs one more transfer.
AGAIN_BYTES, AT_ONCE_BYTES = 1000, 100_000
#: Larger tasks are stored in the cluster's memory: above 10 MB, dask warns that the scheduler has to hold the task.
TASK_BYTES = 9_500_000
#: The keywords of ``Client.submit`` that are the same for all tasks of a run.
SUBMITS = frozenset({"workers", "allow_other_workers", "resources", "priority", "fifo_timeout"})
#: The seconds before each further attempt to store an object.
_SCATTER_WAITS = (0.1, 0.5, 2.0)
#: After this many tasks in a row that were cancelled from outside shoal, the cluster is considered broken.
CANCELLED = 10


def _run(stream: Any, *stored: Any) -> Any:
    """Run a submitted call, in a worker."""
    function, args, kwargs = loads(stream)
    if hasattr(function, "given_up"):
        worker = distributed.get_worker()
        state, key = worker.state, worker.get_current_task()
        function.given_up = lambda: (task := state.tasks.get(key)) is None or task.state == "cancelled"
    return function(*args, *stored, **kwargs)


class _Postbox:
    """Posts by events of dask, which travel from the worker to the client as the news that a task has ended do.

    The scheduler keeps the last ones of each topic: 1,000 by default (``distributed.admin.low-level-log-length``).
    """

    def __init__(self, topic: str, run: str) -> None:
        self._worker, self._topic, self._run = distributed.get_worker(), topic, run

    def post(self, content: bytes) -> bool:
        self._worker.log_event(self._topic, (self._run, content))
        return True

    def withdraw(self) -> None:
        """Do nothing: what was posted arrives."""


class _Events:
    """The events that arrive at a client, for its runs.

    There is one topic for each client, because neither the scheduler nor the client forgets a topic.
    """

    def __init__(self, client: Any) -> None:
        self.topic = f"shoal-{client.id}"
        self.receivers: dict[str, Callable[[bytes], object]] = {}  # by run

    def received(self, event: tuple[float, tuple[str, bytes]]) -> None:
        run, content = event[1]
        if run in self.receivers:
            self.receivers[run](content)


_events: weakref.WeakKeyDictionary[Any, _Events] = weakref.WeakKeyDictionary()


class Cancelled(CancelledError):
    """A task was cancelled. A subclass, because asyncio replaces a plain CancelledError by its own."""


class DaskExecutor(StoringExecutor):
    """Submits calls to a ``distributed.Client``, each with the same `keywords` of ``Client.submit``.

    `scattered` contains the objects that are stored in the cluster already, with their futures, by id.
    """

    def __init__(self, client: Any, scattered: dict[int, tuple[Any, Any]], keywords: dict[str, Any]) -> None:
        self._client = client
        self._scattered = scattered
        self._keywords = keywords
        self._pending: set[Any] = set()
        self._cancelled = 0
        self._seen: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
        self._seceded: threading.Thread | None = None
        self._run = uuid4().hex

    def open_postboxes(self, receive: Callable[[bytes], object]) -> Callable[[], Postbox]:
        """Open a way for what running batches post."""
        events = _events.get(self._client)
        if events is None:
            events = _events[self._client] = _Events(self._client)
        self._client.subscribe_topic(events.topic, events.received)  # each time: the scheduler may be another one
        events.receivers[self._run] = receive
        return partial(_Postbox, events.topic, self._run)

    def stores(self, obj: Any) -> bool:
        """Return whether an argument is very large, or large and seen before, or in the cluster already."""
        if id(obj) in self._scattered or isinstance(obj, distributed.Future):
            return True
        nbytes = sizeof(obj)
        if nbytes <= AGAIN_BYTES:
            return False
        if nbytes > AT_ONCE_BYTES or self._seen.get(id(obj)) is obj:
            return True
        self._seen[id(obj)] = obj
        return False

    def put(self, obj: Any) -> Any:
        """Store an object in the memory of a worker, from which others fetch it; return its future."""
        if isinstance(obj, distributed.Future):
            return obj
        if id(obj) in self._scattered:
            return self._scattered[id(obj)][1]
        # In a list, because dask scatters the items of lists and dicts one by one. Without a hash, because cancelling
        # another future with the same key would also cancel this one (dask/distributed#3703).
        for seconds in _SCATTER_WAITS:
            try:
                return self._client.scatter([obj], hash=False)[0]
            except OSError:  # the worker that was to get it has died: the scheduler soon knows, and takes another
                time.sleep(seconds)
        return self._client.scatter([obj], hash=False)[0]

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Submit a call. Dask futures at the end of the positional arguments are replaced by their objects."""
        references = [arg for arg in args if isinstance(arg, distributed.Future)]
        plain = args[: len(args) - len(references)]
        # Pickled here, because dask would search the arguments for futures.
        stream: Any = dumps((fn, plain, kwargs), out_of_band=2**63)[0]
        if len(stream) > TASK_BYTES:
            stream = self.put(stream)
        key = f"{funcname(fn)}-{uuid4().hex}"  # unique, because functions may not be pure
        future = self._client.submit(_run, stream, *references, key=key, pure=False, **self._keywords)
        self._pending.add(future)
        return asyncio.run_coroutine_threadsafe(self._outcome(future), self._client.loop.asyncio_loop)

    async def _outcome(self, future: Any) -> Any:
        """Wait for a task on the client's event loop; return its result."""
        try:
            result = await self._client.gather(future, asynchronous=True)
        except KilledWorker as error:
            raise BrokenExecutor(str(error)) from None
        except distributed.CancelledError as error:
            # By `cancel`; or a worker has died with the only copy of an argument; or the cluster was restarted.
            self._cancelled += future in self._pending
            if self._cancelled < CANCELLED and self._client.status == "running":
                raise Cancelled(str(error)) from None
            raise RuntimeError(f"the dask cluster cancels all tasks or is closed (client: {self._client})") from error
        finally:
            self._pending.discard(future)
            future.release()
        self._cancelled = 0
        return result

    def cancel(self) -> None:
        """Cancel all submitted tasks: waiting tasks do not start, and a running batch stops after its current call."""
        pending, self._pending = list(self._pending), set()
        loop = self._client.loop.asyncio_loop
        if pending and not loop.is_closed():
            asyncio.run_coroutine_threadsafe(self._client.cancel(pending, asynchronous=True), loop)

    def secede(self) -> None:
        """If this thread runs a dask task, let the worker run other tasks meanwhile, because this one will wait."""
        if getattr(thread_state, "proceed", False):
            distributed.secede()
            self._seceded = threading.current_thread()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Undo :meth:`secede`, if the same thread calls this; receive nothing more that batches post."""
        if self._client in _events:
            _events[self._client].receivers.pop(self._run, None)
        if cancel_futures:
            self.cancel()
        if self._seceded is threading.current_thread():
            self._seceded = None
            distributed.rejoin()


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
        The seconds to wait for a worker if the cluster has none; 0 not to wait.
    inner_max_num_threads
        Not supported, because dask manages the threads of its workers.
    **submit_kwargs
        Keywords of ``Client.submit`` for each task: `workers`, `allow_other_workers`, `resources`, `priority`,
        `fifo_timeout`.

    Raises
    ------
    ValueError
        If there is no client.

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
        wait_for_workers_timeout: float = 10,
        inner_max_num_threads: int | None = None,
        **submit_kwargs: Any,
    ) -> None:
        unknown = submit_kwargs.keys() - SUBMITS
        if unknown:
            raise TypeError(f"the backend 'dask' takes no {sorted(unknown)}; for its tasks it takes {sorted(SUBMITS)}")
        self.client = _client(scheduler_host, loop) if client is None else client
        self.wait_for_workers_timeout = wait_for_workers_timeout
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
        futures = self.client.scatter(list(objects), broadcast=True)
        return {id(obj): (obj, future) for obj, future in zip(objects, futures, strict=True)}

    def workers(self, n_jobs: int | None, depth: int = 0) -> int:
        """Return the number of workers for `n_jobs`. -1 means all threads of the cluster.

        Raises
        ------
        TimeoutError
            If the cluster has no worker within `wait_for_workers_timeout`.
        RuntimeError
            If the cluster has no worker and the timeout is 0; or if this is called in the event loop of the client.
        """
        if n_jobs is None:
            n_jobs = self.default_n_jobs
        if n_jobs in (0, 1):
            return super().workers(n_jobs)
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
            If this is called in the event loop of the client.
        """
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
        return max(threads, 2) if threads else 0

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
