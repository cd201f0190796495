"""joblib's contract of a backend, on shoal's: what subclasses of it in other projects rely on.

::

    ParallelBackendBase ── a shoal Backend: open() returns one wide slot; what is submitted there is a BatchedCalls
        │                  for submit(func, callback) of a subclass, and comes back by the callback, or by get()
        └── _Served ────── one of shoal's own backends does the work, as long as a subclass leaves the methods alone
              │            by which batches travel (else: the slot above, over a pool as joblib has it)
              └── LokyBackend, ThreadingBackend, MultiprocessingBackend
"""

from __future__ import annotations

import contextlib
import queue
import sys
import threading
import time
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from typing import Any, ClassVar

from shoal import backends
from shoal._cpus import cpu_budget, is_serial, thread_limits
from shoal.backends.base import Backend, Slot, WorkerSpec, in_main_thread
from shoal.parallel._objects import Done

from ._utils import _retrieve_traceback_capturing_wrapped_call, _TracebackCapturingWrapper

__all__ = [
    "AutoBatchingMixin",
    "FallbackToBackend",
    "LokyBackend",
    "MultiprocessingBackend",
    "ParallelBackendBase",
    "PoolManagerMixin",
    "SequentialBackend",
    "ThreadingBackend",
    "inside_dask_worker",
]

#: The batches that are submitted ahead where there is no bound.
_MOST_AHEAD = 4096


class FallbackToBackend(Exception):
    """Raised by ``configure``: another backend is to be used.

    Parameters
    ----------
    backend
        The other one.
    """

    def __init__(self, backend: Any) -> None:
        super().__init__(backend)
        self.backend = backend


def inside_dask_worker() -> bool:
    """Tell whether a worker of dask runs this."""
    worker = sys.modules.get("distributed.worker")
    if worker is None:
        return False
    try:
        worker.get_worker()
    except ValueError:
        return False
    return True


class ParallelBackendBase(Backend):
    """joblib's contract: :meth:`submit` takes a batch, and a callback for when it is done.

    Parameters
    ----------
    nesting_level
        How deep it is nested in others; None: as deep as where it is used.
    inner_max_num_threads
        The threads that BLAS and OpenMP may use in each worker.
    **backend_kwargs
        Whatever the backend takes.
    """

    name: ClassVar[str] = "joblib"
    ships_bytes = False
    options = None
    default_n_jobs = 1
    supports_inner_max_num_threads = False
    supports_retrieve_callback = False
    nesting_level: int | None = None
    # Subclasses need not call this class's constructor.
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
        """Whether results can be handed out while others are computed."""
        return self.supports_retrieve_callback

    @property
    def supports_timeout(self) -> bool:  # type: ignore[override]
        """Whether a run can be given up after ``timeout=``."""
        return self.supports_retrieve_callback

    @abstractmethod
    def effective_n_jobs(self, n_jobs: Any) -> int:
        """Return how many workers `n_jobs` means here."""

    def configure(
        self, n_jobs: int = 1, parallel: Any = None, prefer: Any = None, require: Any = None, **backend_kwargs: Any
    ) -> int:
        """Get ready for the runs of a ``Parallel``; return the number of workers.

        Raises
        ------
        FallbackToBackend
            If another backend is to be used.
        """
        self.parallel = parallel
        return self.effective_n_jobs(n_jobs)

    def submit(self, func: Any, callback: Callable[[Any], object] | None = None) -> Any:
        """Have a worker call ``func()``, and `callback` with what comes of it."""
        warnings.warn(
            "`apply_async` is deprecated, implement and use `submit` instead.", DeprecationWarning, stacklevel=2
        )
        return self.apply_async(func, callback)

    def apply_async(self, func: Any, callback: Callable[[Any], object] | None = None) -> Any:
        """Be the older name of :meth:`submit`."""
        raise NotImplementedError("Implement `submit` instead.")

    def retrieve_result_callback(self, out: Any) -> Any:
        """Return the results that are in what the callback was given, or raise what a call has raised."""

    def retrieve_result(self, out: Any, timeout: float | None = None) -> Any:
        """Wait for the results of what :meth:`submit` has returned."""
        return out.get(timeout=timeout) if self.supports_timeout else out.get()

    def start_call(self) -> None:
        """Take note that a run begins."""

    def stop_call(self) -> None:
        """Take note that a run has ended."""

    def terminate(self) -> None:
        """Let go of what :meth:`configure` has made."""

    def compute_batch_size(self) -> int:
        """Return the number of calls in the next batch."""
        return 1

    def batch_completed(self, batch_size: int, duration: float) -> None:
        """Take note of the seconds that a batch took."""

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Give up what runs; with `ensure_ready`, be ready for another run."""

    def get_nested_backend(self) -> Any:
        """Return the backend for runs that the calls make, and its `n_jobs`."""
        level = (self.nesting_level or 0) + 1
        return (SequentialBackend if level > 1 else ThreadingBackend)(nesting_level=level), None

    def _prepare_worker_env(self, n_jobs: int) -> dict[str, str]:
        return thread_limits(self.inner_max_num_threads, n_jobs)

    @contextlib.contextmanager
    def retrieval_context(self) -> Iterator[None]:
        """Surround the wait for results."""
        yield

    @staticmethod
    def in_main_thread() -> bool:
        """Tell whether this is the program's main thread."""
        return in_main_thread()

    def workers(self, n_jobs: int | None, depth: int = 0) -> int:
        """Return how many workers `n_jobs` means: :meth:`effective_n_jobs`."""
        return self.effective_n_jobs(n_jobs)

    def open(self, spec: WorkerSpec) -> list[Slot]:
        """Return one slot, over :meth:`submit`."""
        unbounded = getattr(self.parallel, "pre_dispatch", None) == "all"
        return [Slot(_Submitter(self), _MOST_AHEAD if unbounded else 2 * spec.n_workers)]

    def close(self, slots: list[Slot]) -> None:
        """Let go of the slot: :meth:`abort_everything` if a batch has failed."""
        for slot in slots:
            slot.executor.shutdown()

    def abort(self, slot: Slot) -> Slot:
        """Give up what runs: :meth:`abort_everything`."""
        assert isinstance(slot.executor, _Submitter)
        slot.executor.give_up()
        return Slot(_Submitter(self), slot.width)

    def nested(self, depth: int) -> str:
        """Return the name of the backend for runs that the calls make."""
        return "sequential" if (self.nesting_level or 0) >= 1 else "threading"


class _Submitter(Executor):
    """A slot's executor over ``submit`` of joblib's contract."""

    def __init__(self, backend: ParallelBackendBase) -> None:
        self._backend = backend
        self._waiter: queue.SimpleQueue[Any] | None = None
        self._failed = False

    def submit(self, _run_calls: Any, /, *args: Any, **_none: Any) -> Future[Any]:
        """Submit a batch: `args` ends with its calls."""
        backend = self._backend
        batch, tracker = backend.parallel._batched(args[-1])
        future: Future[Any] = Future()
        tracker._take = lambda result, error: self._done(future, tracker, result, error)
        job = backend.submit(batch, callback=tracker)
        tracker.register_job(job)
        if not backend.supports_retrieve_callback:
            self._wait_for(job, tracker)
        return future

    def _wait_for(self, job: Any, tracker: Any) -> None:
        """Have a thread wait for a job, after those before it."""
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
            tracker._take(result, error)
            del item, job, tracker, result, error

    def _done(self, future: Future[Any], tracker: Any, result: Any, error: BaseException | None) -> None:
        elapsed = time.time() - tracker.dispatch_timestamp
        if error is None:
            self._backend.batch_completed(tracker.batch_size, elapsed)
        else:
            self._failed = True
        if not future.done():
            future.set_result(Done(elapsed, [] if error is not None else list(result), error))

    def give_up(self) -> None:
        """Have the backend give up what runs."""
        self._failed = False
        self.shutdown()
        parallel = self._backend.parallel
        self._backend.abort_everything(ensure_ready=bool(getattr(parallel, "_managed_backend", False)))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let go of the thread that waits."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            waiter.put(None)
        if self._failed:
            self.give_up()


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
        """Refuse: a run with one worker is a loop."""
        raise RuntimeError("Should never be called for SequentialBackend.")

    def retrieve_result_callback(self, out: Any) -> Any:
        """Refuse likewise."""
        raise RuntimeError("Should never be called for SequentialBackend.")

    def get_nested_backend(self) -> Any:
        """Return the backend that is active: this one adds no level."""
        import importlib

        return importlib.import_module(f"{__package__}.parallel").get_active_backend()


def _refuse_zero(n_jobs: Any) -> None:
    if n_jobs == 0:
        raise ValueError("n_jobs == 0 in Parallel has no meaning")


def _counted(n_jobs: Any) -> int:
    """Return how many workers `n_jobs` means."""
    _refuse_zero(n_jobs)
    if n_jobs is None or is_serial():
        return 1
    return int(n_jobs) if n_jobs > 0 else max(cpu_budget() + 1 + n_jobs, 1)


class AutoBatchingMixin:
    """Sizes batches such that each takes between 0.2 and 2 seconds, by doubling."""

    MIN_IDEAL_BATCH_DURATION = 0.2
    MAX_IDEAL_BATCH_DURATION = 2
    _DEFAULT_EFFECTIVE_BATCH_SIZE = 1
    _DEFAULT_SMOOTHED_BATCH_DURATION = 0.0

    _effective_batch_size = _DEFAULT_EFFECTIVE_BATCH_SIZE
    _smoothed_batch_duration = _DEFAULT_SMOOTHED_BATCH_DURATION
    parallel: Any

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.reset_batch_stats()

    def compute_batch_size(self) -> int:
        """Return the number of calls in the next batch."""
        size, duration = self._effective_batch_size, self._smoothed_batch_duration
        what, wanted = "", size
        if 0 < duration < self.MIN_IDEAL_BATCH_DURATION:
            what, wanted = "fast", max(min(2 * size, 2 * int(size * self.MIN_IDEAL_BATCH_DURATION / duration)), 1)
        elif duration > self.MAX_IDEAL_BATCH_DURATION and size >= 2:
            what, wanted = "slow", max(2 * int(size * self.MIN_IDEAL_BATCH_DURATION / duration), 1)
        if what:
            self._effective_batch_size = wanted
            if self.parallel.verbose >= 10:
                self.parallel._print(f"Batch computation too {what} ({duration}s.) Setting batch_size={wanted}.")
        if wanted != size:  # what was measured says nothing about batches of another size
            self._smoothed_batch_duration = self._DEFAULT_SMOOTHED_BATCH_DURATION
        return wanted

    def batch_completed(self, batch_size: int, duration: float) -> None:
        """Take in the seconds that a batch took, if it was of the size that is in use."""
        if batch_size == self._effective_batch_size:
            before = self._smoothed_batch_duration
            unknown = before == self._DEFAULT_SMOOTHED_BATCH_DURATION
            self._smoothed_batch_duration = duration if unknown else 0.8 * before + 0.2 * duration

    def reset_batch_stats(self) -> None:
        """Begin anew."""
        self._effective_batch_size = self._DEFAULT_EFFECTIVE_BATCH_SIZE
        self._smoothed_batch_duration = self._DEFAULT_SMOOTHED_BATCH_DURATION


class PoolManagerMixin:
    """The methods of a backend that has a pool, such as one of :mod:`multiprocessing`."""

    _pool: Any = None
    parallel: Any

    def effective_n_jobs(self, n_jobs: Any) -> int:
        """Return how many workers `n_jobs` means."""
        return _counted(n_jobs)

    def terminate(self) -> None:
        """End the pool."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()
            pool.terminate()

    def _get_pool(self) -> Any:
        return self._pool

    def submit(self, func: Any, callback: Any = None) -> Any:
        """Submit a batch to the pool."""
        return self._get_pool().apply_async(
            _TracebackCapturingWrapper(func), (), callback=callback, error_callback=callback
        )

    def retrieve_result_callback(self, result: Any) -> Any:
        """Return the results, or raise what a call has raised."""
        return _retrieve_traceback_capturing_wrapped_call(result)

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """End the pool; with `ensure_ready`, have another."""
        self.terminate()
        if ensure_ready:
            parallel = self.parallel
            self.configure(n_jobs=parallel.n_jobs, parallel=parallel, **parallel._backend_kwargs)  # type: ignore[attr-defined]


class _Workers:
    """Stands for the workers of one of shoal's backends, which are its own affair.

    Attributes
    ----------
    _initializer, _initargs
        What each worker calls first; what is set here counts for the workers that start next.
    """

    def __init__(self, folder: str, initializer: Any, initargs: Any) -> None:
        self._temp_folder = folder
        self._initializer = initializer
        self._initargs = tuple(initargs or ())

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run a call on the workers of :func:`shoal.executor`."""
        from shoal.parallel._executor import executor

        with executor(2) as workers:
            return workers.submit(fn, *args, **kwargs)


#: The methods by which batches travel. Who overrides one is in joblib's own way of doing it from then on.
_PROTOCOL = (
    "_get_pool",
    "abort_everything",
    "apply_async",
    "batch_completed",
    "compute_batch_size",
    "get_nested_backend",
    "retrieve_result",
    "retrieve_result_callback",
    "submit",
    "terminate",
)


class _Served(ParallelBackendBase):
    """A backend of joblib's for which one of shoal's does the work."""

    _core: ClassVar[str]  # its name in shoal
    _shown: ClassVar[str]  # the attribute in which joblib has the workers
    _passed: ClassVar[frozenset[str]] = frozenset()  # what shoal's takes of what configure() is given
    _methods: ClassVar[tuple[Any, ...]]  # of the protocol, as they are here
    supports_retrieve_callback = True
    _n_jobs = 1
    _initializer: Any = None

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._given: dict[str, Any] = {}
        self._backend: Backend | None = None

    @property
    def served(self) -> bool:
        """Whether shoal's backend does the work: no method by which batches travel is another's."""
        kind = type(self)
        return self.supports_retrieve_callback and kind._methods == tuple(
            getattr(kind, name, None) for name in _PROTOCOL
        )

    def _ready(self, n_jobs: int, parallel: Any, given: dict[str, Any]) -> None:
        """Be ready for runs of a ``Parallel``, without a pool of joblib's kind."""
        self.parallel, self._n_jobs = parallel, n_jobs
        self._given = {name: value for name, value in given.items() if name in self._passed}
        folder = ""
        if parallel is not None and not self.in_process:
            folder = parallel._temporary_folder(given.get("temp_folder"))
        setattr(self, self._shown, _Workers(folder, given.get("initializer"), given.get("initargs")))

    def _renew(self) -> None:
        """Take note that a run has failed: the workers of before are not those of the next."""
        shown = getattr(self, self._shown, None)
        if isinstance(shown, _Workers):
            setattr(self, self._shown, _Workers(shown._temp_folder, shown._initializer, shown._initargs))

    def _options(self) -> dict[str, Any]:
        shown = getattr(self, self._shown, None)
        if isinstance(shown, _Workers) and shown._initializer is not None:
            return {**self._given, "initializer": shown._initializer, "initargs": shown._initargs}
        return self._given

    def _doing(self) -> Backend:
        if self._backend is None:
            self._backend = backends.create(self._core)
        return self._backend

    def open(self, spec: WorkerSpec) -> list[Slot]:
        """Return the slots of shoal's backend, or one over :meth:`submit`."""
        if not self.served:
            return super().open(spec)
        return self._doing().open(spec._replace(options={**spec.options, **self._options()}))

    def close(self, slots: list[Slot]) -> None:
        """Take back slots."""
        if self.served:
            self._doing().close(slots)
        else:
            super().close(slots)

    def abort(self, slot: Slot) -> Slot:
        """Stop what a slot runs."""
        return self._doing().abort(slot) if self.served else super().abort(slot)

    def retire(self, slot: Slot, pid: int) -> bool:
        """Have another process take the place of a slot's worker."""
        return self._doing().retire(slot, pid)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_backend", "parallel", "_given")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _backend=None, _given={})


class ThreadingBackend(PoolManagerMixin, _Served):
    """Runs the calls in threads of this process."""

    name = "threading"
    uses_threads = True
    supports_sharedmem = True
    _core, _shown = "threading", "_pool"

    @property
    def in_process(self) -> bool:  # type: ignore[override]
        """Whether arguments are shared with the caller, as shoal sees it."""
        return self.served

    def configure(self, n_jobs: int = 1, parallel: Any = None, **backend_kwargs: Any) -> int:  # type: ignore[override]
        """Get ready for the runs of a ``Parallel``."""
        n_jobs = self.effective_n_jobs(n_jobs)
        if n_jobs == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        if self.served:
            self._ready(n_jobs, parallel, {})
        self.parallel, self._n_jobs = parallel, n_jobs
        return n_jobs

    def _get_pool(self) -> Any:
        if self._pool is None or isinstance(self._pool, _Workers):
            from multiprocessing.pool import ThreadPool

            self._pool = ThreadPool(self._n_jobs)
        return self._pool

    def terminate(self) -> None:
        """End the threads."""
        if isinstance(self._pool, _Workers):
            self._pool = None
        PoolManagerMixin.terminate(self)


class _Processes(AutoBatchingMixin, _Served):
    """What both kinds of worker processes have in common."""

    replaces_workers = True

    @property
    def ships_bytes(self) -> bool:  # type: ignore[override]
        """Whether shoal encodes the calls."""
        return self.served


class MultiprocessingBackend(PoolManagerMixin, _Processes):
    """Runs the calls in worker processes of the standard library's."""

    name = "multiprocessing"
    supports_return_generator = False
    forks = True
    _core, _shown = "multiprocessing", "_pool"
    _passed = frozenset({"initializer", "initargs", "maxtasksperchild", "context", "environment", "affinity"})

    def effective_n_jobs(self, n_jobs: Any) -> int:
        """Return how many workers `n_jobs` means; 1, with a warning, where this process may have none."""
        if is_serial():
            return 1
        loky = sys.modules.get("loky.process_executor")
        if _is_daemon():
            return _one(n_jobs, "Multiprocessing", "nested")
        if loky is not None and loky._CURRENT_DEPTH > 0:
            return _one(n_jobs, "Multiprocessing", "nested, below loky")
        if not (self.in_main_thread() or self.nesting_level == 0):
            return _one(n_jobs, "Multiprocessing", "nested below threads")
        return PoolManagerMixin.effective_n_jobs(self, n_jobs)

    def configure(
        self,
        n_jobs: int = 1,
        parallel: Any = None,
        prefer: Any = None,
        require: Any = None,
        **memmapping_pool_kwargs: Any,
    ) -> int:
        """Get ready for the runs of a ``Parallel``."""
        n_jobs = self.effective_n_jobs(n_jobs)
        if n_jobs == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        given = {**self.backend_kwargs, **memmapping_pool_kwargs}
        if self.served:
            self._check(given)
            self._ready(n_jobs, parallel, given)
        else:
            from .pool import MemmappingPool

            self._pool = MemmappingPool(n_jobs, **given)
        self.parallel = parallel
        return n_jobs

    def _check(self, given: dict[str, Any]) -> None:
        known = {
            "temp_folder",
            "max_nbytes",
            "mmap_mode",
            "forward_reducers",
            "backward_reducers",
            "verbose",
            "prewarm",
        }
        for name in given:
            if name not in known and name not in self._passed:
                raise TypeError(f"the backend 'multiprocessing' takes no keyword argument {name!r}")

    def terminate(self) -> None:
        """End the workers."""
        if isinstance(self._pool, _Workers):
            self._pool = None
        PoolManagerMixin.terminate(self)
        self.reset_batch_stats()


class LokyBackend(_Processes):
    """Runs the calls in worker processes that are kept for the next run; the default."""

    name = "loky"
    supports_inner_max_num_threads = True
    _core, _shown = "loky", "_workers"
    _passed = frozenset({"initializer", "initargs", "idle_worker_timeout", "environment", "affinity"})
    _workers: Any = None

    def effective_n_jobs(self, n_jobs: Any) -> int:
        """Return how many workers `n_jobs` means; 1, with a warning, where this process may have none."""
        _refuse_zero(n_jobs)
        if n_jobs is None or is_serial():
            return 1
        if _is_daemon():
            return _one(n_jobs, "Loky", "called in a multiprocessing")
        if not (self.in_main_thread() or self.nesting_level == 0):
            return _one(n_jobs, "Loky", "nested below threads")
        return _counted(n_jobs)

    def configure(
        self,
        n_jobs: int = 1,
        parallel: Any = None,
        prefer: Any = None,
        require: Any = None,
        idle_worker_timeout: float | None = None,
        **memmapping_executor_kwargs: Any,
    ) -> int:
        """Get ready for the runs of a ``Parallel``."""
        n_jobs = self.effective_n_jobs(n_jobs)
        if n_jobs == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        given = {**self.backend_kwargs, **memmapping_executor_kwargs}
        if "timeout" in given:
            raise ValueError(
                "The 'timeout' parameter is not supported by the LokyBackend. Please use the `idle_worker_timeout` "
                "parameter instead."
            )
        idle = given.pop("idle_worker_timeout", 300) if idle_worker_timeout is None else idle_worker_timeout
        if self.served:
            self._ready(n_jobs, parallel, {**given, "idle_worker_timeout": idle})
        else:
            from .executor import get_memmapping_executor

            given.pop("context", None)
            self._workers = get_memmapping_executor(
                n_jobs,
                timeout=idle,
                env=self._prepare_worker_env(n_jobs=n_jobs),
                context_id=parallel._id,
                **given,
            )
        self.parallel = parallel
        return n_jobs

    def submit(self, func: Any, callback: Any = None) -> Any:
        """Submit a batch to the executor."""
        future = self._workers.submit(func)
        if callback is not None:
            future.add_done_callback(callback)
        return future

    def retrieve_result_callback(self, future: Any) -> Any:
        """Return the results, or raise what a call has raised."""
        from loky.process_executor import ShutdownExecutorError

        try:
            return future.result()
        except ShutdownExecutorError:
            raise RuntimeError(
                "The executor underlying Parallel has been shutdown. This is likely due to the garbage collection of a "
                "previous generator from a call to Parallel with return_as='generator'. Make sure the generator is not "
                "garbage collected when submitting a new job or that it is first properly exhausted."
            ) from None

    def terminate(self) -> None:
        """Let go of the workers, which stay for the next run."""
        workers, self._workers = self._workers, None
        if workers is not None and not isinstance(workers, _Workers):
            workers._temp_folder_manager._clean_temporary_resources(context_id=self.parallel._id)
        self.reset_batch_stats()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Kill the workers; with `ensure_ready`, have others."""
        workers, self._workers = self._workers, None
        if workers is not None and not isinstance(workers, _Workers):
            workers.terminate(kill_workers=True)
        if ensure_ready:
            self.configure(n_jobs=self.parallel.n_jobs, parallel=self.parallel)


for _kind in (ThreadingBackend, MultiprocessingBackend, LokyBackend):
    _kind._methods = tuple(getattr(_kind, _name, None) for _name in _PROTOCOL)


class _Other(_Served):
    """A backend of shoal's that joblib does not have.

    Parameters
    ----------
    backend
        One of shoal's.
    """

    _shown = "_workers"
    served = True
    _backend: Backend

    def __init__(self, backend: Backend, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._backend = backend
        self.name = backend.name  # type: ignore[misc]
        self.default_n_jobs = backend.default_n_jobs  # type: ignore[misc]
        self.in_process = self.uses_threads = self.supports_sharedmem = backend.in_process  # type: ignore[misc]
        self.ships_bytes = backend.ships_bytes  # type: ignore[misc]
        self.replaces_workers = backend.replaces_workers  # type: ignore[misc]
        self.forks = backend.forks  # type: ignore[misc]

    def effective_n_jobs(self, n_jobs: Any) -> int:
        """Return how many workers `n_jobs` means."""
        return self._backend.workers(n_jobs, self.nesting_level or 0)

    def configure(
        self, n_jobs: int = 1, parallel: Any = None, prefer: Any = None, require: Any = None, **backend_kwargs: Any
    ) -> int:
        """Get ready for the runs of a ``Parallel``."""
        n_jobs = self.effective_n_jobs(n_jobs)
        if n_jobs == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        self._ready(n_jobs, parallel, backend_kwargs)
        passed = self._backend.options
        ours = {"temp_folder", "max_nbytes", "mmap_mode", "verbose", "context"}
        self._given = {
            name: value
            for name, value in backend_kwargs.items()
            if name not in ours and (passed is None or name in passed)
        }
        return n_jobs

    def nested(self, depth: int) -> str:
        """Return the name of the backend for runs that the calls make."""
        return self._backend.nested(depth)


def _is_daemon() -> bool:
    process = sys.modules.get("multiprocessing.process")
    return process is not None and bool(process.current_process().daemon)


def _one(n_jobs: Any, what: str, reason: str) -> int:
    """Return 1; warn of it if it is not what was asked for."""
    if n_jobs != 1:
        if reason in ("nested", "called in a multiprocessing") and inside_dask_worker():
            message = (
                "Inside a Dask worker with daemon=True, setting n_jobs=1.\nPossible work-arounds:\n"
                "- dask.config.set({'distributed.worker.daemon': False})\n"
                "- set the environment variable DASK_DISTRIBUTED__WORKER__DAEMON=False\n"
                "before creating your Dask cluster."
            )
        else:
            message = f"{what}-backed parallel loops cannot be {reason}, setting n_jobs=1"
        warnings.warn(message, stacklevel=4)
    return 1
