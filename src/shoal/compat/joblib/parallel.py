"""joblib's ``Parallel``: joblib's arguments, defaults and attributes, on top of shoal's runs.

::

    Parallel(...) ── context (_config) ──> a backend of joblib's contract (_parallel_backends)
    __call__ ──> backend.configure() ── 1 ──> a loop
                      │
                      └─> backend.start_call() ──> shoal's run ── events ──> Tracker: counters, print_progress(),
                                                                             BatchCompletionCallBack
    _arguments resolves the arguments, _running runs the calls, _tracking holds the Tracker, _batches the callback
"""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from shoal._cpus import cpu_count
from shoal.parallel._delayed import delayed
from shoal.parallel.options._plan import Plan

from ._arguments import resolve
from ._batches import TASK_DONE, TASK_ERROR, TASK_PENDING, BatchCompletionCallBack, BatchedCalls
from ._config import (
    BACKENDS,
    DEFAULT_MP_CONTEXT,
    DEFAULT_PROCESS_BACKEND,
    DEFAULT_THREAD_BACKEND,
    EXTERNAL_BACKENDS,
    MAYBE_AVAILABLE_BACKENDS,
    VALID_BACKEND_CONSTRAINTS,
    VALID_BACKEND_HINTS,
    _backend,  # noqa: F401 other projects read and write its `config`
    default_parallel_config,
    get_active_backend,
    parallel_backend,
    parallel_config,
)
from ._parallel_backends import (
    AutoBatchingMixin,
    FallbackToBackend,
    LokyBackend,
    MultiprocessingBackend,
    ParallelBackendBase,
    SequentialBackend,
    ThreadingBackend,
)
from ._running import Running
from ._utils import eval_expr
from .disk import memstr_to_bytes
from .logger import Logger, short_format_time

if TYPE_CHECKING:
    from shoal.observe._teller import Teller

__all__ = [
    "BACKENDS",
    "DEFAULT_BACKEND",
    "DEFAULT_MP_CONTEXT",
    "DEFAULT_PROCESS_BACKEND",
    "DEFAULT_THREAD_BACKEND",
    "EXTERNAL_BACKENDS",
    "MAYBE_AVAILABLE_BACKENDS",
    "TASK_DONE",
    "TASK_ERROR",
    "TASK_PENDING",
    "VALID_BACKEND_CONSTRAINTS",
    "VALID_BACKEND_HINTS",
    "AutoBatchingMixin",
    "BatchCompletionCallBack",
    "BatchedCalls",
    "FallbackToBackend",
    "Logger",
    "LokyBackend",
    "MultiprocessingBackend",
    "Parallel",
    "ParallelBackendBase",
    "SequentialBackend",
    "ThreadingBackend",
    "cpu_count",
    "default_parallel_config",
    "delayed",
    "effective_n_jobs",
    "eval_expr",
    "get_active_backend",
    "memstr_to_bytes",
    "parallel_backend",
    "parallel_config",
    "register_parallel_backend",
    "short_format_time",
]

#: The name of the default backend. Programs may change it.
DEFAULT_BACKEND = os.environ.get("JOBLIB_TESTS_DEFAULT_PARALLEL_BACKEND") or DEFAULT_PROCESS_BACKEND


def __getattr__(name: str) -> Any:
    if name == "mp":
        from ._multiprocessing_helpers import mp

        return mp
    if name == "TimeoutError":
        from multiprocessing import TimeoutError

        return TimeoutError
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def register_parallel_backend(name: str, factory: Any, make_default: bool = False) -> None:
    """Register a backend.

    Parameters
    ----------
    name
        Its name for ``Parallel(backend=)`` and the contexts.
    factory
        Returns a :class:`ParallelBackendBase`. It is called with `nesting_level` and the options given in a context.
    make_default
        Whether it becomes the default backend.
    """
    global DEFAULT_BACKEND
    BACKENDS[name] = factory
    if make_default:
        DEFAULT_BACKEND = name


def effective_n_jobs(n_jobs: int | None = -1) -> int:
    """Return the number of workers that ``Parallel(n_jobs=n_jobs)`` would have here.

    Raises
    ------
    ValueError
        If `n_jobs` is 0.
    """
    if n_jobs == 1:
        return 1
    backend, backend_n_jobs = get_active_backend()
    return backend.effective_n_jobs(backend_n_jobs if n_jobs is None else n_jobs)


_OUR_CALLBACK = BatchCompletionCallBack
BatchCompletionCallBack.__module__ = BatchedCalls.__module__ = __name__  # pickles and messages contain this name


class Parallel(Running, Logger):
    """Run calls in parallel and return their results: :class:`shoal.Parallel` with joblib's arguments and defaults.

    Parameters
    ----------
    n_jobs : int, optional
        The number of workers; -1 for one per CPU, -2 for all CPUs but one, and so on.
    backend : str, ParallelBackendBase or multiprocessing context, optional
        Where the calls run.
    return_as : {"list", "generator", "generator_unordered"}
        The form of the results.
    verbose : int
        How much is printed.
    timeout : float, optional
        The seconds to wait for the next result.
    pre_dispatch : int or str
        The number of batches that may be in flight.
    batch_size : int or "auto"
        The number of calls in a batch.
    temp_folder, max_nbytes, mmap_mode
        The folder for large arrays, the bytes above which an array is large, and the mode in which workers map them:
        read-only by default.
    prefer, require
        The kind of backend to use if none is named.
    **backend_kwargs
        Options of the backend. The backend decides what to do with an unknown one.
    """

    def __init__(
        self,
        n_jobs: Any = default_parallel_config["n_jobs"],
        backend: Any = default_parallel_config["backend"],
        return_as: str = "list",
        verbose: Any = default_parallel_config["verbose"],
        timeout: float | None = None,
        pre_dispatch: int | str = "2 * n_jobs",
        batch_size: int | str = "auto",
        temp_folder: Any = default_parallel_config["temp_folder"],
        max_nbytes: Any = default_parallel_config["max_nbytes"],
        mmap_mode: Any = default_parallel_config["mmap_mode"],
        prefer: Any = default_parallel_config["prefer"],
        require: Any = default_parallel_config["require"],
        **backend_kwargs: Any,
    ) -> None:
        resolved = resolve(
            self._mp_context,
            return_as,
            backend_kwargs,
            n_jobs=n_jobs,
            backend=backend,
            verbose=verbose,
            temp_folder=temp_folder,
            max_nbytes=max_nbytes,
            mmap_mode=mmap_mode,
            prefer=prefer,
            require=require,
        )
        self._backend_kwargs: dict[str, Any] = resolved.backend_kwargs
        plan = Plan(resolved.backend, resolved.settings, {}, return_as, timeout, pre_dispatch, batch_size)
        super().__init__(plan._replace(origins=resolved.origins).checked())
        self.return_generator: bool = return_as != "list"
        self.return_ordered: bool = return_as != "generator_unordered"
        self._id = uuid4().hex

    @staticmethod
    def _mp_context() -> Any:
        """Return the multiprocessing context that backends of other projects receive."""
        if DEFAULT_MP_CONTEXT is not None:
            return DEFAULT_MP_CONTEXT
        mp = __getattr__("mp")
        return None if mp is None else mp.get_context()

    def _make_batch(self, calls: list[Any]) -> tuple[BatchedCalls, BatchCompletionCallBack]:
        """Return the batch for a backend of joblib's contract, and the callback for its completion."""
        nested = self._backend.get_nested_backend()
        batch = BatchedCalls(calls, nested, self._reducer_callback, self._pickle_cache)
        return batch, BatchCompletionCallBack(time.time(), len(batch), self)

    def _listen(self, n_workers: int, number: int | None) -> Teller | None:
        kind = type(self)
        plain = kind.print_progress is _PRINT_PROGRESS and kind._print is _PRINT and not self._plan.settings.progress
        if plain and not self.verbose and BatchCompletionCallBack is _OUR_CALLBACK:
            return None
        from ._tracking import make_tracker

        bound = self._plan.bound(n_workers) or 0 if n_workers > 1 else 0
        self._pre_dispatch_amount = bound
        self._tracker, teller = make_tracker(self, n_workers, number, bound)
        return teller

    def print_progress(self) -> None:
        """Print the progress if `verbose` says so. It is called after each batch, and may be overridden."""
        if self._tracker is not None:
            self._tracker.print()

    def _print(self, msg: str) -> None:
        """Print a line. It may be overridden."""
        if self.verbose:
            (sys.stderr if self.verbose < 50 else sys.stdout).write(f"[{self}]: {msg}\n")

    def _is_completed(self) -> bool:
        return self.n_completed_tasks == self.n_dispatched_tasks and not (self._iterating or self._aborting)


_PRINT_PROGRESS, _PRINT = Parallel.print_progress, Parallel._print
