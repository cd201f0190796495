"""Common parts of joblib's backends: the number of workers, the size of batches, and the methods of a pool."""

from __future__ import annotations

import sys
from typing import Any

from shoal._cpus import cpu_budget, is_serial
from shoal._tracebacks import warn

from ._backend_base import _refuse_zero, inside_dask_worker
from ._utils import _retrieve_traceback_capturing_wrapped_call, _TracebackCapturingWrapper


def _worker_count(n_jobs: Any) -> int:
    _refuse_zero(n_jobs)
    if n_jobs is None or is_serial():
        return 1
    return int(n_jobs) if n_jobs > 0 else max(cpu_budget() + 1 + n_jobs, 1)


def _is_daemon() -> bool:
    process = sys.modules.get("multiprocessing.process")
    return process is not None and bool(process.current_process().daemon)


def _one_worker(n_jobs: Any, backend: str, reason: str) -> int:
    """Return 1, with a warning if `n_jobs` is another number."""
    if n_jobs != 1:
        if reason in ("nested", "called in a multiprocessing") and inside_dask_worker():
            message = (
                "Inside a Dask worker with daemon=True, setting n_jobs=1.\nPossible work-arounds:\n"
                "- dask.config.set({'distributed.worker.daemon': False})\n"
                "- set the environment variable DASK_DISTRIBUTED__WORKER__DAEMON=False\n"
                "before creating your Dask cluster."
            )
        else:
            message = f"{backend}-backed parallel loops cannot be {reason}, setting n_jobs=1"
        warn(message)
    return 1


class AutoBatchingMixin:
    """Adapts the size of batches, by doubling, so that each takes between 0.2 and 2 seconds."""

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
        speed, wanted = "", size
        if 0 < duration < self.MIN_IDEAL_BATCH_DURATION:
            speed, wanted = "fast", max(min(2 * size, 2 * int(size * self.MIN_IDEAL_BATCH_DURATION / duration)), 1)
        elif duration > self.MAX_IDEAL_BATCH_DURATION and size >= 2:
            speed, wanted = "slow", max(2 * int(size * self.MIN_IDEAL_BATCH_DURATION / duration), 1)
        if speed:
            self._effective_batch_size = wanted
            if self.parallel.verbose >= 10:
                self.parallel._print(f"Batch computation too {speed} ({duration}s.) Setting batch_size={wanted}.")
        if wanted != size:  # the measured duration does not apply to batches of another size
            self._smoothed_batch_duration = self._DEFAULT_SMOOTHED_BATCH_DURATION
        return wanted

    def batch_completed(self, batch_size: int, duration: float) -> None:
        """Average the duration of a batch, in seconds, with the earlier ones, if it has the current size."""
        if batch_size == self._effective_batch_size:
            before = self._smoothed_batch_duration
            unknown = before == self._DEFAULT_SMOOTHED_BATCH_DURATION
            self._smoothed_batch_duration = duration if unknown else 0.8 * before + 0.2 * duration

    def reset_batch_stats(self) -> None:
        """Forget the measured durations and start with batches of one call."""
        self._effective_batch_size = self._DEFAULT_EFFECTIVE_BATCH_SIZE
        self._smoothed_batch_duration = self._DEFAULT_SMOOTHED_BATCH_DURATION


class PoolManagerMixin:
    """The methods of a backend that has a pool, such as those of :mod:`multiprocessing`."""

    _pool: Any = None
    parallel: Any

    def effective_n_jobs(self, n_jobs: Any) -> int:
        """Return the number of workers that `n_jobs` means."""
        return _worker_count(n_jobs)

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
        """Return the results, or raise the exception of a call."""
        return _retrieve_traceback_capturing_wrapped_call(result)

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """End the pool; with `ensure_ready`, prepare a new one."""
        self.terminate()
        if ensure_ready:
            parallel = self.parallel
            self.configure(n_jobs=parallel.n_jobs, parallel=parallel, **parallel._backend_kwargs)  # type: ignore[attr-defined]
