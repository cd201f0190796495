"""joblib's contract of a backend, implemented on shoal's contract: one slot, which uses the subclass's ``submit``."""

from __future__ import annotations

import contextlib
import importlib
import queue
import sys
import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from typing import Any, ClassVar

from shoal._cpus import cpu_share, thread_limits
from shoal._tracebacks import warn
from shoal.backends.base import Backend, Slot, WorkerSpec, in_main_thread
from shoal.parallel.transport._engines import Outcome

#: The number of batches that may be submitted ahead with ``pre_dispatch="all"``.
_MAX_AHEAD = 4096


class FallbackToBackend(Exception):
    """Raised by ``configure`` to ask for another backend, `backend`."""

    def __init__(self, backend: Any) -> None:
        super().__init__(backend)
        self.backend = backend


def inside_dask_worker() -> bool:
    """Tell whether this code runs in a dask worker."""
    worker = sys.modules.get("distributed.worker")
    if worker is None:
        return False
    try:
        worker.get_worker()
    except ValueError:
        return False
    return True


class ParallelBackendBase(Backend):
    """joblib's contract of a backend: :meth:`submit` takes a batch and a callback for its completion.

    Parameters
    ----------
    nesting_level
        The number of parallel runs around this one. None: the level where the backend is used.
    inner_max_num_threads
        The number of threads that BLAS and OpenMP may use in each worker.
    **backend_kwargs
        The backend's own options.
    """

    name: ClassVar[str] = "joblib"
    ships_bytes = False
    options: ClassVar[frozenset[str] | None] = None
    default_n_jobs = 1
    supports_inner_max_num_threads = False
    supports_retrieve_callback = False
    nesting_level: int | None = None
    # Subclasses need not call the constructor of this class, so these attributes have defaults.
    inner_max_num_threads: int | None = None
    backend_kwargs: dict[str, Any] = {}  # noqa: RUF012
    given_options: Any = {}  # noqa: RUF012
    parallel: Any = None

    MAX_NUM_THREADS_VARS: ClassVar[list[str]] = [
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "MKL_NUM_THREADS",
        "BLIS_NUM_THREADS",
        "VECLIB_MAXIMUM_THREADS",
        "NUMBA_NUM_THREADS",
        "NUMEXPR_NUM_THREADS",
    ]
    TBB_ENABLE_IPC_VAR = "ENABLE_IPC"

    def __init__(
        self, nesting_level: int | None = None, inner_max_num_threads: int | None = None, **backend_kwargs: Any
    ) -> None:
        self.nesting_level = nesting_level
        self.inner_max_num_threads = inner_max_num_threads
        self.backend_kwargs = backend_kwargs

    @property
    def supports_return_generator(self) -> bool:  # type: ignore[override]
        """Whether results can be delivered while others are computed."""
        return self.supports_retrieve_callback

    @property
    def supports_timeout(self) -> bool:  # type: ignore[override]
        """Whether a run can be ended after ``timeout=``."""
        return self.supports_retrieve_callback

    @abstractmethod
    def effective_n_jobs(self, n_jobs: Any) -> int:
        """Return the number of workers that `n_jobs` means."""

    def configure(
        self, n_jobs: int = 1, parallel: Any = None, prefer: Any = None, require: Any = None, **backend_kwargs: Any
    ) -> int:
        """Prepare for the runs of a ``Parallel``; return the number of workers.

        Raises
        ------
        FallbackToBackend
            If another backend has to be used.
        """
        self.parallel = parallel
        return self.effective_n_jobs(n_jobs)

    def submit(self, func: Any, callback: Callable[[Any], object] | None = None) -> Any:
        """Call ``func()`` on a worker, and then `callback` with the outcome."""
        warn(
            "`apply_async` is deprecated, implement and use `submit` instead.",
            DeprecationWarning,
        )
        return self.apply_async(func, callback)

    def apply_async(self, func: Any, callback: Callable[[Any], object] | None = None) -> Any:
        """Do the same as :meth:`submit`: its older name."""
        raise NotImplementedError("Implement `submit` instead.")

    def retrieve_result_callback(self, out: Any) -> Any:
        """Return the results from the callback's argument, or raise the exception of a call."""

    def retrieve_result(self, out: Any, timeout: float | None = None) -> Any:
        """Wait for the results of a job that :meth:`submit` returned."""
        return out.get(timeout=timeout) if self.supports_timeout else out.get()

    def start_call(self) -> None:
        """Called when a run begins."""

    def stop_call(self) -> None:
        """Called when a run has ended."""

    def terminate(self) -> None:
        """Release what :meth:`configure` made."""

    def compute_batch_size(self) -> int:
        """Return the number of calls in the next batch."""
        return 1

    def batch_completed(self, batch_size: int, duration: float) -> None:
        """Called after each batch, with its size and its duration in seconds."""

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Abort the running batches; with `ensure_ready`, prepare for another run."""

    def get_nested_backend(self) -> Any:
        """Return the backend for runs inside a call, and its `n_jobs`."""
        level = (self.nesting_level or 0) + 1
        if level > 1:
            return SequentialBackend(nesting_level=level), None
        backends: Any = importlib.import_module(f"{__package__}._parallel_backends")  # which imports this module
        return backends.ThreadingBackend(nesting_level=level), None

    def _prepare_worker_env(self, n_jobs: int) -> dict[str, str]:
        return thread_limits(self.inner_max_num_threads, cpu_share(n_jobs))

    @contextlib.contextmanager
    def retrieval_context(self) -> Iterator[None]:
        """Return a context manager that is active while ``Parallel`` waits for results."""
        yield

    @staticmethod
    def in_main_thread() -> bool:
        """Tell whether this is the program's main thread."""
        return in_main_thread()

    def workers(self, n_jobs: int | None, depth: int = 0) -> int:
        """Return :meth:`effective_n_jobs`."""
        return self.effective_n_jobs(n_jobs)

    def open(self, spec: WorkerSpec) -> list[Slot]:
        """Return one slot, which uses :meth:`submit`."""
        unbounded = getattr(self.parallel, "pre_dispatch", None) == "all"
        return [Slot(_Submitter(self), _MAX_AHEAD if unbounded else 2 * spec.n_workers)]

    def close(self, slots: list[Slot]) -> None:
        """Close the slot; call :meth:`abort_everything` if a batch has failed."""
        for slot in slots:
            slot.executor.shutdown()

    def abort(self, slot: Slot) -> Slot:
        """Abort the running batches by :meth:`abort_everything`."""
        assert isinstance(slot.executor, _Submitter)
        slot.executor.abort()
        return Slot(_Submitter(self), slot.width)

    def nested(self, depth: int) -> str:
        """Return the name of the backend for runs inside a call."""
        return "sequential" if (self.nesting_level or 0) >= 1 else "threading"


class _Submitter(Executor):
    """The executor of a slot, which uses the ``submit`` of joblib's contract."""

    def __init__(self, backend: ParallelBackendBase) -> None:
        self._backend = backend
        self._waiter: queue.SimpleQueue[Any] | None = None
        self._failed = False

    def submit(self, work: Any, /, *_none: Any, **_nothing: Any) -> Future[Any]:
        """Submit the calls of a :class:`~shoal.parallel.transport._engines.Task`."""
        backend = self._backend
        batch, tracker = backend.parallel._make_batch(work.calls)
        future: Future[Any] = Future()
        tracker._deliver = lambda result, error: self._done(future, tracker, result, error)
        job = backend.submit(batch, callback=tracker)
        tracker.register_job(job)
        if not backend.supports_retrieve_callback:
            self._wait_for(job, tracker)
        return future

    def _wait_for(self, job: Any, tracker: Any) -> None:
        """Let the waiting thread wait for this job after the earlier ones."""
        if self._waiter is None:
            self._waiter = queue.SimpleQueue()
            threading.Thread(target=self._wait, args=(self._waiter,), name="shoal-waiter", daemon=True).start()
        self._waiter.put((job, tracker))

    def _wait(self, jobs: queue.SimpleQueue[Any]) -> None:
        while (item := jobs.get()) is not None:
            job, tracker = item
            try:
                result, error = self._backend.retrieve_result(job), None
            except BaseException as raised:
                result, error = None, raised
            tracker._deliver(result, error)
            del item, job, tracker, result, error

    def _done(self, future: Future[Any], tracker: Any, result: Any, error: BaseException | None) -> None:
        elapsed = time.time() - tracker.dispatch_timestamp
        if error is None:
            self._backend.batch_completed(tracker.batch_size, elapsed)
        else:
            self._failed = True
        if not future.done():
            future.set_result(Outcome(elapsed, [] if error is not None else list(result), error))

    def abort(self) -> None:
        """Abort the running batches."""
        self._failed = False
        self.shutdown()
        parallel = self._backend.parallel
        self._backend.abort_everything(ensure_ready=bool(getattr(parallel, "_managed_backend", False)))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the waiting thread."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            waiter.put(None)
        if self._failed:
            self.abort()


class SequentialBackend(ParallelBackendBase):
    """Runs the calls in the caller's thread."""

    name = "sequential"
    in_process = True
    uses_threads = True
    supports_sharedmem = True
    supports_timeout = False
    supports_return_generator = True

    def effective_n_jobs(self, n_jobs: Any) -> int:
        """Return 1."""
        _refuse_zero(n_jobs)
        return 1

    def submit(self, func: Any, callback: Any = None) -> Any:
        """Raise: a run with one worker is a loop and submits nothing."""
        raise RuntimeError("Should never be called for SequentialBackend.")

    def retrieve_result_callback(self, out: Any) -> Any:
        """Raise, as :meth:`submit` does."""
        raise RuntimeError("Should never be called for SequentialBackend.")

    def get_nested_backend(self) -> Any:
        """Return the active backend, because this one does not add a level."""
        return importlib.import_module(f"{__package__}.parallel").get_active_backend()


def _refuse_zero(n_jobs: Any) -> None:
    if n_jobs == 0:
        raise ValueError("n_jobs == 0 in Parallel has no meaning")
