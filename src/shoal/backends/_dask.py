"""The dask backend: batches are tasks of a dask cluster, by way of a ``distributed.Client``.

::

    put(obj) ──> Client.scatter ──> a future of dask's ──┐
    submit(work, *references) ── pickled ──> Client.submit(_run, bytes, *references) ──> a worker: work(*objects)
         └── a future of ours <── awaited on the client's event loop <── Client.gather <──┘
    abort ──> Client.cancel: what waits never begins; a call that runs is left to end, the rest of its batch not begun
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, CancelledError, Future
from typing import Any, TypeVar
from uuid import uuid4

import distributed
from dask.sizeof import sizeof
from dask.utils import funcname
from distributed.scheduler import KilledWorker
from distributed.threadpoolexecutor import thread_state

from shoal._pickling import dumps, loads
from shoal.backends.base import Slot, WorkerSpec
from shoal.backends.storing import StoringBackend, StoringExecutor

T = TypeVar("T")

#: Arguments above the first size are put into the cluster when they occur again, and above the second at once. joblib
#: puts all above the first there, also those that one call needs: each costs a transfer beside that of its task.
AGAIN_BYTES, AT_ONCE_BYTES = 1000, 100_000
#: A task that is larger goes by way of the cluster's memory: above 10 MB, dask warns that the scheduler has to hold it.
TASK_BYTES = 9_500_000
#: What ``Client.submit`` takes that is the same for all tasks of a run.
SUBMITS = frozenset({"workers", "allow_other_workers", "resources", "priority", "fifo_timeout"})
#: After so many tasks in a row that were cancelled from elsewhere, the cluster counts as ended.
CANCELLED = 10


def _run(stream: Any, *stored: Any) -> Any:
    """Run what was submitted, in a worker."""
    function, args, kwargs = loads(stream)
    if hasattr(function, "given_up"):
        worker = distributed.get_worker()
        state, key = worker.state, worker.get_current_task()
        function.given_up = lambda: (task := state.tasks.get(key)) is None or task.state == "cancelled"
    return function(*args, *stored, **kwargs)


class Cancelled(CancelledError):
    """A task was cancelled. It has a class of its own because asyncio replaces a plain CancelledError by its own."""


class DaskExecutor(StoringExecutor):
    """Submits to a client of dask's; what it has submitted can be cancelled.

    Parameters
    ----------
    client
        A ``distributed.Client``.
    scattered
        What is in the cluster already, and its future, by id.
    keywords
        What ``Client.submit`` is to be given for each task.
    """

    def __init__(self, client: Any, scattered: dict[int, tuple[Any, Any]], keywords: dict[str, Any]) -> None:
        self._client = client
        self._scattered = scattered
        self._keywords = keywords
        self._pending: set[Any] = set()
        self._cancelled = 0
        self._seen: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
        self._seceded: threading.Thread | None = None

    def stores(self, obj: Any) -> bool:
        """Tell whether an argument is large, and was seen before or is very large; or is in the cluster already."""
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
        """Put an object into the memory of a worker, from which others fetch it; return its future."""
        if isinstance(obj, distributed.Future):
            return obj
        if id(obj) in self._scattered:
            return self._scattered[id(obj)][1]
        # By itself in a list, since dask takes lists and dicts apart. Not by its hash: a future of the same key that is
        # being cancelled would take this one with it (dask/distributed#3703).
        return self._client.scatter([obj], hash=False)[0]

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Submit a call; futures of dask's among the arguments, by position, become what they stand for."""
        references = [arg for arg in args if isinstance(arg, distributed.Future)]
        given = args[: len(args) - len(references)]
        # As bytes, so that neither dask's search for futures nor the scheduler looks into it.
        stream: Any = dumps((fn, given, kwargs), out_of_band=2**63)[0]
        if len(stream) > TASK_BYTES:
            stream = self.put(stream)
        key = f"{funcname(fn)}-{uuid4().hex}"  # a key of its own: nothing is taken for a pure function
        future = self._client.submit(_run, stream, *references, key=key, pure=False, **self._keywords)
        self._pending.add(future)
        return asyncio.run_coroutine_threadsafe(self._outcome(future), self._client.loop.asyncio_loop)

    async def _outcome(self, future: Any) -> Any:
        """Wait for a task, on the client's event loop; return what it returns."""
        try:
            result = await self._client.gather(future, asynchronous=True)
        except KilledWorker as error:
            raise BrokenExecutor(str(error)) from None
        except distributed.CancelledError as error:
            # By `cancel`; or its worker has died with what only that one had; or somebody has restarted the cluster.
            self._cancelled += future in self._pending
            if self._cancelled < CANCELLED and self._client.status == "running":
                raise Cancelled(str(error)) from None
            raise RuntimeError(f"the dask cluster does not run what it is given (client: {self._client})") from error
        finally:
            self._pending.discard(future)
            future.release()
        self._cancelled = 0
        return result

    def cancel(self) -> None:
        """Cancel all that is submitted: what waits never begins; of a batch that runs, its next call does not."""
        pending, self._pending = list(self._pending), set()
        loop = self._client.loop.asyncio_loop
        if pending and not loop.is_closed():
            asyncio.run_coroutine_threadsafe(self._client.cancel(pending, asynchronous=True), loop)

    def secede(self) -> None:
        """Leave the place of this thread to the tasks that it will wait for, if it runs one of dask's."""
        if getattr(thread_state, "proceed", False):
            distributed.secede()
            self._seceded = threading.current_thread()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Go back into the place that was left; a thread that is not the one that left it has none."""
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
        The address of the scheduler to connect to. By default the client is used that was made last, and in a task of
        dask's that of its worker.
    scatter : list or tuple
        Objects that are put into the memory of all workers at once, and taken from there where they are arguments.
    client
        A ``distributed.Client`` to use; it must not be an asynchronous one.
    loop
        The event loop of the client that `scheduler_host` makes.
    wait_for_workers_timeout
        The seconds to wait if the cluster has no worker; 0 not to wait.
    inner_max_num_threads
        Not supported: the threads of dask's workers are dask's affair.
    **submit_kwargs
        What ``Client.submit`` takes for each task: `workers`, `allow_other_workers`, `resources`, `priority`,
        `fifo_timeout`.

    Raises
    ------
    ValueError
        If there is no client.

    Notes
    -----
    -1 workers are all threads that the cluster has, and no less than two, since the calls of one run in the caller's
    own thread, as on every backend; a number may be larger than the cluster is, for one that is to grow.
    :func:`~shoal.worker_index` is None in its workers, since a task runs wherever dask brings it.
    """

    name = "dask"
    options = frozenset({"scatter", *SUBMITS})
    constructor_options = frozenset({"client", "wait_for_workers_timeout"})
    distance = 10.0  # by way of the scheduler, there and back, it takes 5 ms and more

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
        return type(self), ()  # where it arrives is another client

    def _scatter(self, objects: Any) -> dict[int, tuple[Any, Any]]:
        if objects is not None and not isinstance(objects, (list, tuple)):
            raise TypeError(f"scatter must be a list or tuple of objects, got: {type(objects).__name__}")
        if not objects:
            return {}
        futures = self.client.scatter(list(objects), broadcast=True)
        return {id(obj): (obj, future) for obj, future in zip(objects, futures, strict=True)}

    def workers(self, n_jobs: int | None, depth: int = 0) -> int:
        """Return how many workers `n_jobs` means: threads of the cluster's, of which there must be one by then.

        Raises
        ------
        TimeoutError
            If there is none in time.
        RuntimeError
            If there is none, and none was to be waited for; or if this is called in the event loop of the client.
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
        """Return the threads that the workers have in all, 2 if it is one; wait for a worker if there is none.

        Raises
        ------
        TimeoutError
            If there is none in time.
        RuntimeError
            If this is called in the event loop of the client.
        """
        if self.client.asynchronous:
            raise RuntimeError("the backend 'dask' cannot run in the event loop of its client; use a thread")
        threads: int = sum(self.client.nthreads().values())
        if not threads and self.wait_for_workers_timeout:
            # A task has clusters that adapt start one.
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
        """Return one slot. A task of dask's in whose thread this is called leaves its place to others meanwhile."""
        keywords = {**self.given_options, **spec.options}
        scattered = {**self._scattered, **self._scatter(keywords.get("scatter"))}
        keywords = {name: value for name, value in keywords.items() if name in SUBMITS}
        executor = DaskExecutor(self.client, scattered, keywords)
        executor.secede()
        return [Slot(executor, spec.n_workers)]

    def nested(self, depth: int) -> str:
        """Return "dask": a call's own calls run on the same cluster."""
        return self.name


def _client(scheduler_host: str | None, loop: Any) -> Any:
    """Return a client for a scheduler, or the one that is there."""
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
