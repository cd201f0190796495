"""The ray backend: batches are tasks of a ray cluster, which may be this machine alone.

::

    submit(fn, ...) ─packed─> stream, buffers ─ a task ─> a ray worker: unpack, run, pack ──────────┐
      └─ functions by value, shared() ─ray.put, once─> each worker keeps them decoded, until a task │
      └─ large arguments ──────────────ray.put, once─> decoded for each batch       of another run  │
    future <─unpacked─ stream, buffers <─ ObjectRef.future() <─ ray's object store <────────────────┘

Arrays from ray's object store are read-only. But calls may write to their arguments, and the caller to its results. So
shoal pickles them itself, and copies their buffers on arrival. Only large arrays are passed to ray unchanged.
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
from shoal.backends._packing import ONCE, STORED_BYTES, PackedFuture, nbytes_of, pack
from shoal.backends._ray_notes import Collector
from shoal.backends._ray_task import StoredObject, kept_object, run_task
from shoal.backends.base import Slot, WorkerSpec
from shoal.backends.storing import Postbox, StoringBackend, StoringExecutor

T = TypeVar("T")

#: The errors of a task whose worker was lost, and that ray will not run again.
LOST = (
    ray_errors.WorkerCrashedError,
    ray_errors.OutOfMemoryError,
    ray_errors.NodeDiedError,
    ray_errors.LocalRayletDiedError,
    ray_errors.ObjectLostError,
)

_connecting = threading.Lock()


def connect() -> None:
    """Connect to the cluster at ``RAY_ADDRESS`` or start one on this machine, unless this process is connected."""
    with _connecting:
        if not ray.is_initialized():
            ray.init()


@functools.cache
def _task() -> Any:
    """Return the remote function, one for all runs: ray exports it to the cluster once."""
    return ray.remote(run_task)


class RayExecutor(StoringExecutor):
    """Runs batches as ray tasks. The cluster decides how many run at a time.

    `options` are those of ``remote_function.options``: ``num_cpus``, ``resources``, ``max_retries`` and others.
    Not thread-safe, except for :meth:`cancel`.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = dict(options)
        self._token = uuid4().hex
        self._keys = count()
        self._functions: dict[int, tuple[Any, StoredObject]] = {}  # by id: the function itself, and its reference
        self._running: dict[Future[Any], Any] = {}
        self._collector: Collector | None = None

    def open_postboxes(self, receive: Callable[[bytes], object]) -> Callable[[], Postbox]:
        """Open a way for what running tasks post."""
        self._collector = Collector(receive)
        return self._collector.open_postbox

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Submit a task. Positional arguments at the end may be of type :class:`StoredObject`."""
        n_plain = next((position for position, arg in enumerate(args) if type(arg) is StoredObject), len(args))
        stored: tuple[StoredObject, ...] = args[n_plain:]
        kept = [one for one in stored if one.key is not None]
        packed = pack((fn, args[:n_plain], kwargs), partial(self._store_function, kept))
        keys = [one.key for one in stored]
        future: Future[T] = PackedFuture()
        future.set_running_or_notify_cancel()
        options = {"name": getattr(fn, "__name__", None), **self._options}
        reference = self._running[future] = (
            _task()
            .options(**options)
            .remote(self._token, packed, kept, keys, *(one.reference for one in stored if one.key is None))
        )
        reference.future().add_done_callback(partial(self._complete, future))
        return future

    def stores(self, obj: Any) -> bool:
        """Return whether an argument is large, and most of it is in arrays."""
        return nbytes_of(obj) >= STORED_BYTES

    def put(self, obj: Any) -> StoredObject:
        """Store an object: an array unchanged, others as pickles. Workers keep small ones decoded."""
        if _is_plain_array(obj):
            return StoredObject(ray.put(obj), None)
        return StoredObject(ray.put(pack(obj)), None if self.stores(obj) else next(self._keys))

    def cancel(self) -> None:
        """Cancel all tasks by force, soon. Without force, ray waits for compiled code to return to the interpreter.

        The thread in which ray handles replies does it. A cancellation by any other thread, while the reply of the same
        task is handled, makes ray end this process without a word (https://github.com/ray-project/ray/pull/54527
        describes the race). That thread also calls the callbacks of futures.
        """
        with contextlib.suppress(ray_errors.RaySystemError):  # the cluster has ended, with its tasks
            _cancel_later(list(self._running.values()))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Receive nothing more that tasks post. The cluster and its tasks continue."""
        if self._collector is not None:
            self._collector.close()

    def _store_function(self, needed: list[StoredObject], function: Any) -> Any:
        """Store a function that is pickled by value, for workers to keep decoded; return its reduction."""
        if id(function) not in self._functions:
            if len(self._functions) >= ONCE:
                return NotImplemented
            self._functions[id(function)] = function, StoredObject(ray.put(pack(function)), next(self._keys))
        _, stored = self._functions[id(function)]
        needed.append(stored)
        return kept_object, (stored.key,)

    def _complete(self, future: Future[Any], task: Future[Any]) -> None:
        self._running.pop(future, None)
        if self._collector is not None:
            with self._collector.receiving:  # what the task has posted is received before its results
                pass
        error = task.exception()
        if error is None:
            future.set_result(task.result())
        else:
            future.set_exception(_translated(error))


def _cancel_later(references: list[Any]) -> None:
    """Have ray's thread cancel tasks. The caller must be another thread."""
    ray.put(None).future().add_done_callback(partial(_cancel, references, threading.get_ident()))


def _cancel(references: list[Any], asker: int, _ready: Future[Any]) -> None:
    if threading.get_ident() == asker:  # the object was ready before the future had this callback
        _cancel_later(references)
        return
    for reference in references:
        with contextlib.suppress(ray_errors.RaySystemError):
            ray.cancel(reference, force=True, recursive=True)


def _is_plain_array(obj: Any) -> bool:
    import numpy

    return type(obj) in (numpy.ndarray, numpy.memmap) and not obj.dtype.hasobject


def _translated(error: BaseException) -> BaseException:
    """Return the exception that an executor raises for an error of ray."""
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
        The resources of each task, as in ray's ``options()``: ``num_cpus``, ``num_gpus``, ``memory``, ``resources``,
        ``max_retries`` (how often ray runs a batch again after its worker was lost; default 3), ``runtime_env`` and
        others.

    Notes
    -----
    Runs use the cluster that this process is connected to. If there is none, ``ray.init()`` connects to the cluster at
    ``RAY_ADDRESS`` or starts one on this machine. It continues after the run.
    """

    name = "ray"
    options = frozenset({"ray_remote_args"})
    distance = 4.0  # a round trip takes 2 ms

    def workers(self, n_jobs: int | None, depth: int = 0) -> int:
        """Return the number of workers for `n_jobs`. -1 means all tasks that the cluster can run at a time."""
        n_jobs = self.default_n_jobs if n_jobs is None else n_jobs
        if n_jobs >= 0 or is_serial():
            return super().workers(n_jobs, depth)
        connect()
        return max(_most_tasks(self.given_options.get("ray_remote_args") or {}) + 1 + n_jobs, 1)

    def open(self, spec: WorkerSpec) -> list[Slot]:
        """Return one slot that runs one task for each worker."""
        connect()
        options = {**self.given_options, **spec.options}.get("ray_remote_args") or {}
        if _inside_a_task():
            # The waiting outer task keeps its CPU. If the inner tasks needed more CPUs, they could deadlock.
            options = {"num_cpus": 0, **options}
        return [Slot(RayExecutor(options), spec.n_workers)]


def _inside_a_task() -> bool:
    return bool(ray.get_runtime_context().worker.mode == ray.WORKER_MODE)


def _most_tasks(options: Mapping[str, Any]) -> int:
    """Return the number of tasks with these options that the cluster can run at a time."""
    total = ray.cluster_resources()
    per_task = {"CPU": options.get("num_cpus", 1), "GPU": options.get("num_gpus"), **(options.get("resources") or {})}
    return min((int(total.get(name, 0) // amount) for name, amount in per_task.items() if amount), default=1)
