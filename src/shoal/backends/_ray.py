"""The ray backend: tasks of a ray cluster, be it this machine alone.

::

    submit(fn, ...) ─packed─> stream, buffers ─ a task ─> a worker of ray's: unpacked, run, packed ─┐
      └─ functions by value, shared() ─ray.put, once─> kept decoded by each worker until another    │
      └─ large arguments ──────────────ray.put, once─> decoded for each batch    run comes along    │
    future <─unpacked─ stream, buffers <─ ObjectRef.future() <─ ray's object store <────────────────┘

What ray hands out lies in its object store and can only be read. Calls may write into their arguments, though, and
results are the caller's own; so what travels is pickled here, and its buffers are copied where they arrive. Only large
arrays are left to ray as they are.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import BrokenExecutor, CancelledError, Future
from functools import partial
from itertools import count
from typing import Any, TypeVar
from uuid import uuid4

import ray
from ray import exceptions as ray_errors

from shoal._cpus import is_serial
from shoal.backends._ray_task import Stored, kept_object, pack, run_task, unpack
from shoal.backends.base import Slot, WorkerSpec
from shoal.backends.storing import StoringBackend, StoringExecutor

T = TypeVar("T")

#: Arguments of so many bytes are put into the store; below, a copy for each batch costs less.
STORED_BYTES = 2**20
#: At most so many functions and classes by value are put there: a run may make a new one for each call.
ONCE = 64
#: Errors that tell that a task was lost with its worker, and that ray has given up running it again.
LOST = (
    ray_errors.WorkerCrashedError,
    ray_errors.OutOfMemoryError,
    ray_errors.NodeDiedError,
    ray_errors.LocalRayletDiedError,
    ray_errors.ObjectLostError,
)

_connecting = threading.Lock()


def connect() -> None:
    """Use the cluster that this process is connected to; else the one of ``RAY_ADDRESS``, or a new one here."""
    with _connecting:
        if not ray.is_initialized():
            ray.init()


@functools.cache
def _task() -> Any:
    """Return the one remote function, which ray exports once to each cluster."""
    return ray.remote(run_task)


class _Arriving(Future[T]):
    """The future of a task; the thread that asks for the result unpacks it, not ray's."""

    def result(self, timeout: float | None = None) -> T:
        """Return what the call has returned."""
        packed: Any = super().result(timeout)
        value: T = unpack(packed, "what came of a batch of calls", "the calling process")
        return value


class RayExecutor(StoringExecutor):
    """Runs what is submitted as tasks of ray's.

    Parameters
    ----------
    options
        What ``remote_function.options`` takes: ``num_cpus``, ``resources``, ``max_retries`` and others.

    Notes
    -----
    How many run at a time is up to the cluster. To be used by one thread, but for :meth:`cancel`.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = dict(options)
        self._token = uuid4().hex
        self._keys = count()
        self._functions: dict[int, tuple[Any, Stored]] = {}  # by id: the function itself, and what stands for it
        self._running: dict[Future[Any], Any] = {}

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Submit a task; :class:`Stored` may be the last of `args`."""
        n_plain = next((place for place, arg in enumerate(args) if type(arg) is Stored), len(args))
        stored: tuple[Stored, ...] = args[n_plain:]
        kept = [one for one in stored if one.key is not None]
        packed = pack((fn, args[:n_plain], kwargs), partial(self._once, kept))
        places = [one.key for one in stored]
        future: Future[T] = _Arriving()
        future.set_running_or_notify_cancel()
        named = {"name": getattr(fn, "__name__", None), **self._options}
        reference = self._running[future] = (
            _task()
            .options(**named)
            .remote(self._token, packed, kept, places, *(one.reference for one in stored if one.key is None))
        )
        reference.future().add_done_callback(partial(self._arrived, future))
        return future

    def stores(self, obj: Any) -> bool:
        """Tell whether an argument is large, and most of it in arrays."""
        return _nbytes(obj) >= STORED_BYTES

    def put(self, obj: Any) -> Stored:
        """Put an object into ray's store: an array as it is, what else is large as a pickle, the rest to be kept."""
        if _is_plain_array(obj):
            return Stored(ray.put(obj), None)
        return Stored(ray.put(pack(obj)), None if self.stores(obj) else next(self._keys))

    def cancel(self) -> None:
        """End what runs, by force: else ray waits for the end of what does not return to Python's loop."""
        for reference in list(self._running.values()):
            with contextlib.suppress(ray_errors.RaySystemError):  # the cluster is gone, and with it what ran there
                ray.cancel(reference, force=True, recursive=True)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Do nothing: the cluster is not ours, and what runs there may go on."""

    def _once(self, needed: list[Stored], function: Any) -> Any:
        """Have a function that travels by value kept by the workers; return the reduction to that."""
        if id(function) not in self._functions:
            if len(self._functions) >= ONCE:
                return NotImplemented
            self._functions[id(function)] = function, Stored(ray.put(pack(function)), next(self._keys))
        _, stored = self._functions[id(function)]
        needed.append(stored)
        return kept_object, (stored.key,)

    def _arrived(self, future: Future[Any], arrived: Future[Any]) -> None:
        self._running.pop(future, None)
        error = arrived.exception()
        if error is None:
            future.set_result(arrived.result())
        else:
            future.set_exception(_translated(error))


def _is_plain_array(obj: Any) -> bool:
    import numpy

    return type(obj) in (numpy.ndarray, numpy.memmap) and not obj.dtype.hasobject


def _nbytes(obj: Any) -> int:
    """Return the bytes of what is an array, or has its contents in arrays; 0 of all else."""
    nbytes = getattr(obj, "nbytes", None)
    if isinstance(nbytes, int) and not isinstance(obj, memoryview):
        return nbytes
    if hasattr(obj, "memory_usage"):  # of pandas
        usage = obj.memory_usage(index=False)
        return int(getattr(usage, "sum", lambda: usage)())
    return _nbytes(obj.data) if hasattr(obj, "indptr") else 0  # a sparse matrix


def _translated(error: BaseException) -> BaseException:
    """Return what executors raise for an error of ray's."""
    if isinstance(error, ray_errors.TaskCancelledError):
        translated: BaseException = CancelledError()
    elif isinstance(error, LOST):
        translated = BrokenExecutor(f"{type(error).__name__}: {error}")
    elif isinstance(error, ray_errors.RayTaskError):
        translated = error.cause
    else:
        return error
    translated.__cause__ = error
    return translated


class RayBackend(StoringBackend):
    """Runs batches of calls as tasks of a ray cluster.

    Parameters
    ----------
    ray_remote_args : dict
        What each task asks of the cluster, as ray's own ``options()`` takes it: ``num_cpus``, ``num_gpus``, ``memory``,
        ``resources``, ``max_retries`` (how often ray runs a batch again whose worker was lost; 3 by default),
        ``runtime_env`` and others.

    Notes
    -----
    The cluster that this process is connected to is used; where there is none, ``ray.init()`` is called, which
    connects to the one at ``RAY_ADDRESS`` or starts one on this machine. It stays when the run has ended.
    """

    name = "ray"
    options = frozenset({"ray_remote_args"})
    distance = 4.0  # there and back it takes 2 ms

    def workers(self, n_jobs: int | None, depth: int = 0) -> int:
        """Return how many workers `n_jobs` means; -1 is as many tasks as the cluster can run at a time now."""
        n_jobs = self.default_n_jobs if n_jobs is None else n_jobs
        if n_jobs >= 0 or is_serial():
            return super().workers(n_jobs, depth)
        connect()
        return max(_most_tasks(self.given_options.get("ray_remote_args") or {}) + 1 + n_jobs, 1)

    def open(self, spec: WorkerSpec) -> list[Slot]:
        """Return one slot of as many tasks at a time as workers are wanted."""
        connect()
        options = {**self.given_options, **spec.options}.get("ray_remote_args") or {}
        if _inside_a_task():
            # The call that waits for these keeps its CPU: were they to ask for more, all might wait for ever.
            options = {"num_cpus": 0, **options}
        return [Slot(RayExecutor(options), spec.n_workers)]


def _inside_a_task() -> bool:
    return bool(ray.get_runtime_context().worker.mode == ray.WORKER_MODE)


def _most_tasks(options: Mapping[str, Any]) -> int:
    """Return how many tasks of these options the cluster can run at a time."""
    there = ray.cluster_resources()
    asked = {"CPU": options.get("num_cpus", 1), "GPU": options.get("num_gpus"), **(options.get("resources") or {})}
    return min((int(there.get(name, 0) // amount) for name, amount in asked.items() if amount), default=1)
