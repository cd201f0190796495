"""The ray backend: tasks of a ray cluster, be it this machine alone.

::

    submit(fn, ...) ─packed─> [stream, buffers ...] ─ a task ─> a worker of ray's: unpacked, run, packed ─┐
    future <─unpacked─ [stream, buffers ...] <─ ObjectRef.future() <─ ray's object store <────────────────┘

Arrays that ray hands out lie in its object store and can only be read. Calls may write into their arguments, though, and
results are the caller's own; so what travels is pickled here, and its buffers are copied where they arrive.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from functools import partial
from typing import Any, TypeVar

import ray
from ray import exceptions as ray_errors

from shoal._cpus import is_serial
from shoal._pickling import dumps, loads
from shoal.backends.base import Backend, Slot, WorkerSpec

T = TypeVar("T")

#: What says that a task was lost with whatever ran it, and that ray has given up to run it again.
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


def pack(obj: Any) -> list[Any]:
    """Pickle `obj` into a stream, and buffers that ray takes as they are."""
    from pickle import PickleBuffer

    stream, buffers = dumps(obj)
    return [stream, *map(PickleBuffer, buffers)]


def unpack(packed: list[Any]) -> Any:
    """Rebuild what was packed; it can be written to."""
    stream, *buffers = packed
    return loads(stream, buffers=[bytearray(buffer) for buffer in buffers])


def run_task(packed: list[Any]) -> list[Any]:
    """Run a call in a worker of ray's."""
    fn, args, kwargs = unpack(packed)
    return pack(fn(*args, **kwargs))


@functools.cache
def _task() -> Any:
    """Return the one remote function, which ray exports once to each cluster."""
    return ray.remote(run_task)


class _Arriving(Future[T]):
    """The future of a task; what has come is unpacked by whoever takes it, not in ray's thread."""

    def result(self, timeout: float | None = None) -> T:
        """Return what the call has returned."""
        packed: Any = super().result(timeout)
        value: T = unpack(packed)
        return value


class RayExecutor(Executor):
    """Runs what is submitted as tasks of ray's.

    Parameters
    ----------
    options
        What ``remote_function.options`` takes: ``num_cpus``, ``resources``, ``max_retries`` and others.

    Notes
    -----
    How many run at a time is up to the cluster. Thread-safe.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._task = _task().options(**options)
        self._running: dict[Future[Any], Any] = {}

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Submit a task."""
        future: Future[T] = _Arriving()
        future.set_running_or_notify_cancel()
        reference = self._running[future] = self._task.remote(pack((fn, args, kwargs)))
        reference.future().add_done_callback(partial(self._arrived, future))
        return future

    def cancel(self) -> None:
        """End what runs, by force: else ray waits for the end of whatever does not return to Python's loop."""
        for reference in list(self._running.values()):
            with contextlib.suppress(ray_errors.RaySystemError):  # the cluster is gone, and with it what ran there
                ray.cancel(reference, force=True, recursive=True)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Do nothing: the cluster is not ours, and what runs there may go on."""

    def _arrived(self, future: Future[Any], arrived: Future[Any]) -> None:
        self._running.pop(future, None)
        error = arrived.exception()
        if error is None:
            future.set_result(arrived.result())
        else:
            future.set_exception(_translated(error))


def _translated(error: BaseException) -> BaseException:
    """Return what executors raise for an error of ray's."""
    if isinstance(error, ray_errors.TaskCancelledError):
        translated: BaseException = CancelledError()
    elif isinstance(error, LOST):
        translated = BrokenExecutor(f"{type(error).__name__}: {error}")
    else:
        return error
    translated.__cause__ = error
    return translated


class RayBackend(Backend):
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
    ships_bytes = False
    options = frozenset({"ray_remote_args"})
    default_n_jobs = -1

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
            # The call that is waiting for these keeps its CPU: were they to ask for more, all might wait for ever.
            options = {"num_cpus": 0, **options}
        return [Slot(RayExecutor(options), spec.n_workers)]

    def close(self, slots: list[Slot]) -> None:
        """Leave the cluster as it is."""

    def abort(self, slot: Slot) -> Slot:
        """Cancel the tasks of a slot; return one in its place."""
        slot.executor.cancel()  # type: ignore[attr-defined]
        return slot


def _inside_a_task() -> bool:
    return bool(ray.get_runtime_context().worker.mode == ray.WORKER_MODE)


def _most_tasks(options: Mapping[str, Any]) -> int:
    """Return how many tasks of these options the cluster can run at a time."""
    there = ray.cluster_resources()
    asked = {"CPU": options.get("num_cpus", 1), "GPU": options.get("num_gpus"), **(options.get("resources") or {})}
    return min((int(there.get(name, 0) // amount) for name, amount in asked.items() if amount), default=1)
