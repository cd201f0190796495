"""joblib's backends, with the methods that subclasses in other projects rely on.

::

    ParallelBackendBase ── a shoal Backend. open() returns one wide slot, which passes each batch as a BatchedCalls
    (_backend_base)        to the subclass's submit(func, callback). The outcome arrives by the callback or by get()
        │
        ├── SequentialBackend
        └── _Delegating ── one of shoal's own backends does the work, unless a subclass overrides a method by which
            (_delegating)  batches travel. Then the slot above does it, with a pool like joblib's
              │
              └── LokyBackend, ThreadingBackend, MultiprocessingBackend
"""

from __future__ import annotations

import sys
from typing import Any

from shoal._cpus import is_serial
from shoal.backends._placement import identity
from shoal.backends.base import Slot, process_depth

from ._backend_base import FallbackToBackend, ParallelBackendBase, SequentialBackend, _refuse_zero, inside_dask_worker
from ._delegating import _BATCH_METHODS, _Delegating, _Workers
from ._pools import AutoBatchingMixin, PoolManagerMixin, _is_daemon, _one_worker, _worker_count
from ._shared_executor import end_later_runs, shutdown_error

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


class ThreadingBackend(PoolManagerMixin, _Delegating):
    """Runs calls in threads of this process."""

    name = "threading"
    uses_threads = True
    supports_sharedmem = True
    _shoal_name, _workers_attribute = "threading", "_pool"

    @property
    def in_process(self) -> bool:  # type: ignore[override]
        """Whether shoal may treat arguments as shared with the caller."""
        return self.delegates

    def configure(self, n_jobs: int = 1, parallel: Any = None, **backend_kwargs: Any) -> int:  # type: ignore[override]
        """Prepare for the runs of a ``Parallel``."""
        n_jobs = self.effective_n_jobs(n_jobs)
        if n_jobs == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        if self.delegates:
            self._prepare(n_jobs, parallel, {})
        self.parallel: Any = parallel
        self._n_jobs = n_jobs
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


class _Processes(AutoBatchingMixin, _Delegating):
    """The common base of the backends that run calls in worker processes."""

    replaces_workers = True

    @property
    def ships_bytes(self) -> bool:  # type: ignore[override]
        """Whether shoal pickles the calls."""
        return self.delegates


class MultiprocessingBackend(PoolManagerMixin, _Processes):
    """Runs calls in processes that :mod:`multiprocessing` starts."""

    name = "multiprocessing"
    supports_return_generator = False
    forks = True
    _shoal_name, _workers_attribute = "multiprocessing", "_pool"
    _passed_options = frozenset({"initializer", "initargs", "maxtasksperchild", "context", "environment", "affinity"})

    @property
    def delegates(self) -> bool:
        """Whether shoal's backend does the work: not if a project has replaced the base class of ``PicklingPool``."""
        pool = sys.modules.get(f"{__package__}.pool")
        replaced = type(self) is not MultiprocessingBackend and pool and pool.PicklingPool.__bases__ != (pool.Pool,)
        return super().delegates and not replaced

    def effective_n_jobs(self, n_jobs: Any) -> int:
        """Return the number of workers that `n_jobs` means; 1, with a warning, if this process must not start any."""
        if is_serial():
            return 1
        loky = sys.modules.get("loky.process_executor")
        if _is_daemon():
            return _one_worker(n_jobs, "Multiprocessing", "nested")
        if process_depth() > 0 or (loky is not None and loky._CURRENT_DEPTH > 0):
            return _one_worker(n_jobs, "Multiprocessing", "nested, below loky")
        if not (self.in_main_thread() or self.nesting_level == 0):
            return _one_worker(n_jobs, "Multiprocessing", "nested below threads")
        return PoolManagerMixin.effective_n_jobs(self, n_jobs)

    def configure(
        self,
        n_jobs: int = 1,
        parallel: Any = None,
        prefer: Any = None,
        require: Any = None,
        **memmapping_pool_kwargs: Any,
    ) -> int:
        """Prepare for the runs of a ``Parallel``."""
        n_jobs = self.effective_n_jobs(n_jobs)
        if n_jobs == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        given = {**self.backend_kwargs, **memmapping_pool_kwargs}
        if self.delegates:
            self._check(given)
            self._prepare(n_jobs, parallel, given)
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
            if name not in known and name not in self._passed_options:
                raise TypeError(f"the backend 'multiprocessing' takes no keyword argument {name!r}")

    def terminate(self) -> None:
        """End the workers."""
        if isinstance(self._pool, _Workers):
            self._pool = None
        PoolManagerMixin.terminate(self)
        self.reset_batch_stats()


class LokyBackend(_Processes):
    """Runs calls in worker processes that are kept for the next run; the default."""

    name = "loky"
    supports_inner_max_num_threads = True
    _shoal_name, _workers_attribute = "loky", "_workers"
    _passed_options = frozenset({"initializer", "initargs", "idle_worker_timeout", "environment", "affinity"})
    _workers: Any = None

    def effective_n_jobs(self, n_jobs: Any) -> int:
        """Return the number of workers that `n_jobs` means; 1, with a warning, if this process must not start any."""
        _refuse_zero(n_jobs)
        if n_jobs is None or is_serial():
            return 1
        if _is_daemon():
            return _one_worker(n_jobs, "Loky", "called in a multiprocessing")
        if not (self.in_main_thread() or self.nesting_level == 0):
            return _one_worker(n_jobs, "Loky", "nested below threads")
        return _worker_count(n_jobs)

    def configure(
        self,
        n_jobs: int = 1,
        parallel: Any = None,
        prefer: Any = None,
        require: Any = None,
        idle_worker_timeout: float | None = None,
        **memmapping_executor_kwargs: Any,
    ) -> int:
        """Prepare for the runs of a ``Parallel``."""
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
        if self.delegates:
            self._prepare(n_jobs, parallel, {**given, "idle_worker_timeout": idle})
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
        """Submit a batch to loky's executor."""
        future = self._workers.submit(func)
        if callback is not None:
            future.add_done_callback(callback)
        return future

    def retrieve_result_callback(self, future: Any) -> Any:
        """Return the results, or raise the exception of a call."""
        from loky.process_executor import ShutdownExecutorError

        try:
            return future.result()
        except ShutdownExecutorError:
            raise shutdown_error() from None

    def terminate(self) -> None:
        """Release the workers and keep them for the next run."""
        workers, self._workers = self._workers, None
        if workers is not None and not isinstance(workers, _Workers):
            workers._temp_folder_manager._clean_temporary_resources(context_id=self.parallel._id)
        self.reset_batch_stats()

    def abort(self, slot: Slot) -> Slot:
        """Stop what a slot runs."""
        if self.delegates:
            end_later_runs(slot)
        return super().abort(slot)

    def executor_key(self) -> Any:
        """Return the options of the workers: with joblib, runs with equal options would share an executor."""
        options = sorted(self._options().items())
        return self.inner_max_num_threads, *((name, identity(value)) for name, value in options)

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Kill the workers; with `ensure_ready`, prepare new ones."""
        workers, self._workers = self._workers, None
        if workers is not None and not isinstance(workers, _Workers):
            workers.terminate(kill_workers=True)
        if ensure_ready:
            self.configure(n_jobs=self.parallel.n_jobs, parallel=self.parallel)


for _kind in (ThreadingBackend, MultiprocessingBackend, LokyBackend):
    _kind._own_methods = tuple(getattr(_kind, _name, None) for _name in _BATCH_METHODS)

for _class in (AutoBatchingMixin, FallbackToBackend, ParallelBackendBase, PoolManagerMixin, SequentialBackend):
    _class.__module__ = __name__  # pickles and messages contain this name
