"""``Parallel`` under joblib's name: joblib's arguments, defaults and attributes on a run of shoal's.

::

    Parallel(...) ── context (_config) ──> a backend of joblib's contract (_parallel_backends)
    __call__ ──> backend.configure() ── 1 ──> a loop
                      │
                      └─> backend.start_call() ──> shoal's run ── events ──> Tracker: counters, print_progress(),
                                                                             BatchCompletionCallBack
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from shoal._cpus import cpu_count
from shoal.backends import Backend
from shoal.errors import CallPicklingError
from shoal.parallel._delayed import delayed
from shoal.parallel._parallel import Parallel as _Parallel

from . import _config
from ._config import (
    BACKENDS,
    DEFAULT_MP_CONTEXT,
    DEFAULT_PROCESS_BACKEND,
    DEFAULT_THREAD_BACKEND,
    EXTERNAL_BACKENDS,
    MAYBE_AVAILABLE_BACKENDS,
    VALID_BACKEND_CONSTRAINTS,
    VALID_BACKEND_HINTS,
    _backend,  # noqa: F401 people read and write its `config`
    _get_active_backend,
    _get_config_param,
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
    _Served,
)
from ._utils import eval_expr
from .disk import memstr_to_bytes
from .logger import Logger, short_format_time

if TYPE_CHECKING:
    from shoal.observe._teller import Teller
    from shoal.parallel._run import Run

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

#: The name of the backend where none is asked for; what is written into it counts.
DEFAULT_BACKEND = os.environ.get("JOBLIB_TESTS_DEFAULT_PARALLEL_BACKEND") or DEFAULT_PROCESS_BACKEND

TASK_DONE = "Done"
TASK_ERROR = "Error"
TASK_PENDING = "Pending"

_RETURNS = ("list", "generator", "generator_unordered")
_MMAP_MODES = (None, "r", "r+", "w+", "c")


def __getattr__(name: str) -> Any:
    if name == "mp":
        from ._multiprocessing_helpers import mp

        return mp
    if name == "TimeoutError":
        from multiprocessing import TimeoutError

        return TimeoutError
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def register_parallel_backend(name: str, factory: Any, make_default: bool = False) -> None:
    """Make a backend known by a name.

    Parameters
    ----------
    name
        What ``Parallel(backend=)`` and the contexts will take.
    factory
        Returns a :class:`ParallelBackendBase`; called with `nesting_level`, and with what the contexts are given.
    make_default
        Whether it is used from now on where no backend is asked for.
    """
    global DEFAULT_BACKEND
    BACKENDS[name] = factory
    if make_default:
        DEFAULT_BACKEND = name


def effective_n_jobs(n_jobs: int | None = -1) -> int:
    """Return how many workers ``Parallel(n_jobs=n_jobs)`` would have here.

    Raises
    ------
    ValueError
        If it is 0.
    """
    if n_jobs == 1:
        return 1
    backend, backend_n_jobs = get_active_backend()
    return backend.effective_n_jobs(backend_n_jobs if n_jobs is None else n_jobs)


class BatchedCalls:
    """Calls that a backend runs together; calling it returns a list of their results.

    Parameters
    ----------
    iterator_slice
        The calls.
    backend_and_jobs
        The backend for runs that they make, and its `n_jobs`.
    reducer_callback
        Called before it is pickled.
    pickle_cache
        A dictionary that all batches of a run have in common.

    Attributes
    ----------
    items
        The calls: tuples of function, arguments and keywords.
    """

    def __init__(
        self,
        iterator_slice: Iterable[Any],
        backend_and_jobs: Any,
        reducer_callback: Any = None,
        pickle_cache: Any = None,
    ) -> None:
        self.items = list(iterator_slice)
        self._size = len(self.items)
        self._reducer_callback = reducer_callback
        self._backend, self._n_jobs = (
            backend_and_jobs if isinstance(backend_and_jobs, tuple) else (backend_and_jobs, None)
        )
        self._pickle_cache = {} if pickle_cache is None else pickle_cache

    def __call__(self) -> list[Any]:
        """Run the calls."""
        with parallel_config(backend=self._backend, n_jobs=self._n_jobs):
            return [function(*args, **kwargs) for function, args, kwargs in self.items]

    def __reduce__(self) -> Any:
        if self._reducer_callback is not None:
            self._reducer_callback()
        return BatchedCalls, (self.items, (self._backend, self._n_jobs), None, self._pickle_cache)

    def __len__(self) -> int:
        return self._size


class BatchCompletionCallBack:
    """Called in the program when a batch is done. A class put in its place is called for each, with `batch_size`.

    Parameters
    ----------
    dispatch_timestamp
        When the batch was handed out, by ``time.time()``.
    batch_size
        The number of its calls.
    parallel
        Whose they are.
    """

    _take: Any = None

    def __init__(self, dispatch_timestamp: float, batch_size: int, parallel: Any) -> None:
        self.dispatch_timestamp = dispatch_timestamp
        self.batch_size = batch_size
        self.parallel = parallel
        self.job: Any = None
        self.status: str | None = TASK_PENDING if parallel._backend.supports_retrieve_callback else None

    def register_job(self, job: Any) -> None:
        """Take note of what the backend has returned for the batch."""
        self.job = job

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        """Take what came of the batch from a backend that calls this."""
        backend = self.parallel._backend
        if self._take is None or not backend.supports_retrieve_callback:
            return
        try:
            result, error = backend.retrieve_result_callback(*args, **kwargs), None
        except BaseException as raised:
            result, error = None, raised
        self.status = TASK_DONE if error is None else TASK_ERROR
        take, self._take = self._take, None
        take(result, error)


_OUR_CALLBACK = BatchCompletionCallBack


class Parallel(_Parallel, Logger):
    """Run calls side by side and return their results: :class:`shoal.Parallel` with joblib's arguments and defaults.

    Parameters
    ----------
    n_jobs : int, optional
        The number of workers; -1 for one per CPU, -2 for all CPUs but one, and so on.
    backend : str, ParallelBackendBase or multiprocessing context, optional
        Where the calls run.
    return_as : {"list", "generator", "generator_unordered"}
        How results are returned.
    verbose : int
        How much is printed.
    timeout : float, optional
        The seconds that the next result may take.
    pre_dispatch : int or str
        The number of batches that may be on their way.
    batch_size : int or "auto"
        The calls that travel together.
    temp_folder, max_nbytes, mmap_mode
        Where large arrays go, which are large, and how workers map them: by default read-only.
    prefer, require
        Which backend to take where none is named.
    **backend_kwargs
        What the backend takes; what it does not know is its own affair.
    """

    #: The counters of the run that goes on, or of the last.
    n_dispatched_batches = n_dispatched_tasks = n_completed_tasks = 0
    n_tasks: int | None = None
    _managed_backend = False
    _calling = False
    _aborting = False
    _iterating = False
    _original_iterator: Any = None
    _pre_dispatch_amount = 0
    _cached_effective_n_jobs = 1
    _reducer_callback: Any = None
    _pickle_cache: Any = None
    _tracker: Any = None
    _folders: Any = None

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
        active, context = _get_active_backend(prefer=prefer, require=require, verbose=verbose)
        taken = {
            name: _get_config_param(value, context, name)
            for name, value in (
                ("max_nbytes", max_nbytes),
                ("temp_folder", temp_folder),
                ("mmap_mode", mmap_mode),
                ("prefer", prefer),
                ("require", require),
                ("verbose", verbose),
            )
        }
        if isinstance(taken["max_nbytes"], str):
            taken["max_nbytes"] = memstr_to_bytes(taken["max_nbytes"])
        verbose = taken["verbose"]
        self._backend_kwargs: dict[str, Any] = {**backend_kwargs, **taken, "verbose": max(0, verbose - 50)}
        chosen = self._chosen(backend, active)
        if n_jobs is None:
            n_jobs = default_parallel_config["n_jobs"]
        n_jobs = _get_config_param(n_jobs, context, "n_jobs")
        try:
            n_jobs = int(chosen.default_n_jobs if n_jobs is None else n_jobs)
        except (ValueError, TypeError, OverflowError):
            raise ValueError("n_jobs could not be converted to int") from None
        if require == "sharedmem" and not getattr(chosen, "supports_sharedmem", False):
            raise ValueError(f"Backend {chosen} does not support shared memory")
        sequential = isinstance(chosen, SequentialBackend)
        if return_as in _RETURNS[1:] and not (sequential or chosen.supports_return_generator):
            raise ValueError(f"Backend {chosen} does not support return_as={return_as}")
        super().__init__(
            n_jobs,
            chosen,
            return_as,
            verbose,
            timeout,
            pre_dispatch,
            batch_size,
            None,
            taken["max_nbytes"],
            taken["mmap_mode"],
            None,
            None,
        )
        self._settings = self._settings._replace(depth=chosen.nesting_level or 0)
        self.return_generator = return_as != "list"
        self.return_ordered = return_as != "generator_unordered"
        self._id = uuid4().hex

    def _chosen(self, backend: Any, active: Any) -> Any:
        """Return the backend that was asked for, or else the active one."""
        level = active.nesting_level
        chosen: Any
        if backend is None or backend is default_parallel_config["backend"]:
            chosen = active
        elif isinstance(backend, ParallelBackendBase):
            chosen = backend
            if chosen.nesting_level is None:
                chosen.nesting_level = level
        elif isinstance(backend, Backend):
            chosen = _config._made(backend, level)
        elif hasattr(backend, "Pool") and hasattr(backend, "Lock"):
            self._backend_kwargs["context"] = backend
            chosen = MultiprocessingBackend(nesting_level=level)
        else:
            chosen = _config.named(backend, stacklevel=5)(nesting_level=level)
        if "context" not in self._backend_kwargs and type(chosen) not in (
            LokyBackend,
            ThreadingBackend,
            SequentialBackend,
        ):
            context = DEFAULT_MP_CONTEXT
            if context is None and (mp := __getattr__("mp")) is not None:
                context = mp.get_context()
            if context is not None:
                self._backend_kwargs["context"] = context
        return chosen

    def _temporary_folder(self, temp_folder: Any) -> str:
        """Have large arrays go to a folder of this Parallel's own; return its path, where it may not be yet."""
        from ._folders import TemporaryResourcesManager, _get_temp_dir

        if self._folders is None:
            self._folders = TemporaryResourcesManager(temp_folder, self._id, eager=False)
        folder = self._folders.folder()
        _, shared = _get_temp_dir("", temp_folder)
        if shared or temp_folder or os.environ.get("JOBLIB_TEMP_FOLDER"):  # else memory without a name is as good
            self._settings = self._settings._replace(temp_folder=folder)
        return str(folder.location)

    def _initialize_backend(self) -> int:
        """Get the backend ready, or the one to which it falls back; return the number of workers."""
        while True:
            backend: Any = self._backend
            try:
                n_jobs = int(backend.configure(n_jobs=self.n_jobs, parallel=self, **self._backend_kwargs))
            except FallbackToBackend as fallback:
                self._backend = fallback.backend
                continue
            if self.timeout is not None and not backend.supports_timeout:
                warnings.warn(
                    f"The backend class {type(backend).__name__!r} does not support timeout. You have set "
                    f"'timeout={self.timeout}' in Parallel but the 'timeout' parameter will not be used.",
                    stacklevel=4,
                )
            return n_jobs

    def _effective_n_jobs(self) -> int:
        return int(self._backend.effective_n_jobs(self.n_jobs))  # type: ignore[attr-defined]

    def __enter__(self) -> Parallel:
        self._managed_backend = True
        self._initialize_backend()
        super().__enter__()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._managed_backend = False
        super().__exit__(*exc_info)
        if not self._running:
            self._terminate()

    def __call__(self, iterable: Iterable[Any]) -> Any:
        """Run the calls.

        Parameters
        ----------
        iterable
            The calls, made by :func:`delayed`.

        Returns
        -------
        The results, as `return_as` says.
        """
        backend: Any = self._backend
        waiting: Any = contextlib.nullcontext()
        if type(backend).retrieval_context is not ParallelBackendBase.retrieval_context:
            waiting = backend.retrieval_context()
        if self.return_generator:
            results = super().__call__(iterable)
            return results if isinstance(waiting, contextlib.nullcontext) else _within(waiting, results)
        try:
            with waiting:
                return super().__call__(iterable)
        except BaseException as error:
            self._aborting = True
            if self._managed_backend and isinstance(self._backend, _Served):
                self._backend._renew()
            if isinstance(error, CallPicklingError):
                error.what = f"the task to send to the workers, {error.what}"
            raise

    def _claim(self) -> None:
        super()._claim()
        self._aborting = False
        self.n_dispatched_batches = self.n_dispatched_tasks = self.n_completed_tasks = 0

    def _workers(self) -> int:
        n_jobs = self._effective_n_jobs() if self._managed_backend else self._initialize_backend()
        if n_jobs == 0:
            raise RuntimeError(f"{type(self._backend).__name__} has no active worker.")
        self._cached_effective_n_jobs = n_jobs
        return n_jobs

    def _input(self, iterable: Iterable[Any]) -> tuple[Iterable[Any], int | None]:
        iterable, self.n_tasks = super()._input(iterable)
        if self._cached_effective_n_jobs == 1:
            size: Any = self._backend.compute_batch_size() if self.batch_size == "auto" else self.batch_size  # type: ignore[attr-defined]
            if size > 1:  # so many calls are read before the first of them runs
                iterable = _in_batches(iterable, int(size))
        return iterable, self.n_tasks

    def _warn_of_ignored(self) -> None:
        """Leave it at what was said already."""

    def _loop(self, calls: Iterable[Any]) -> list[Any]:
        results = super()._loop(calls)
        self.n_dispatched_batches = self.n_dispatched_tasks = self.n_completed_tasks = len(results)
        return results

    def _make_run(self, iterable: Iterable[Any], n_workers: int, total: int | None) -> Run:
        backend: Any = self._backend
        self._calling = True
        self._pickle_cache = {}
        batch_size, timeout = self.batch_size, self.timeout
        try:
            backend.start_call()
            if not self._backend_is_served():
                n_workers = self._cached_effective_n_jobs  # start_call() may have set it
                if isinstance(backend, LokyBackend):
                    self._reducer_callback = _ContextSetter(backend._workers, self._id)
                if batch_size == "auto":
                    self.batch_size = self._joblib_sizes()
                if not backend.supports_timeout:
                    self.timeout = None
            return super()._make_run(iterable, n_workers, total)
        finally:
            self.batch_size, self.timeout = batch_size, timeout

    def _batched(self, calls: list[Any]) -> tuple[BatchedCalls, BatchCompletionCallBack]:
        """Return calls as a backend of joblib's contract is given them, and what it is to call then."""
        nested = self._backend.get_nested_backend()  # type: ignore[attr-defined]
        batch = BatchedCalls(calls, nested, self._reducer_callback, self._pickle_cache)
        return batch, BatchCompletionCallBack(time.time(), len(batch), self)

    def _joblib_sizes(self) -> Any:
        """Return what says how large batches are: a number, unless the backend adapts it."""
        backend: Any = self._backend
        if type(backend).compute_batch_size is getattr(AutoBatchingMixin, "compute_batch_size"):  # noqa: B009
            return lambda _pace: backend.compute_batch_size()
        return int(backend.compute_batch_size())

    def _backend_is_served(self) -> bool:
        return isinstance(self._backend, _Served) and self._backend.served

    def _ended(self) -> None:
        run, self._reducer_callback = self._run, None
        if run is not None:
            schedule = run.schedule
            self._aborting = not schedule.finished
            if self._tracker is None:
                self.n_dispatched_tasks = self.n_dispatched_batches = schedule.dispatched
                self.n_completed_tasks = schedule.completed_calls
        self._tracker = self._original_iterator = None
        self._iterating = False
        super()._ended()
        if self._calling:
            self._calling = False
            self._backend.stop_call()  # type: ignore[attr-defined]
        if not self._managed_backend:
            self._terminate()

    def _terminate(self) -> None:
        """Let go of what was made for runs."""
        self._backend.terminate()  # type: ignore[attr-defined]
        if self._folders is not None:
            self._folders._clean_temporary_resources()
            self._folders = None

    def _listen(self, n_workers: int, total: int | None) -> Teller | None:
        kind = type(self)
        plain = kind.print_progress is _PRINT_PROGRESS and kind._print is _PRINT and not self._settings.progress
        if plain and not self.verbose and BatchCompletionCallBack is _OUR_CALLBACK:
            return None
        from ._tracking import make_tracker

        bound = self._bound(n_workers) or 0 if n_workers > 1 else 0
        self._pre_dispatch_amount = bound
        self._tracker, teller = make_tracker(self, n_workers, total, bound)
        return teller

    def print_progress(self) -> None:
        """Print how far the run is, if `verbose` says so; called after each batch. It may be overridden."""
        if self._tracker is not None:
            self._tracker.print()

    def _print(self, msg: str) -> None:
        """Print a line. It may be overridden."""
        if self.verbose:
            (sys.stderr if self.verbose < 50 else sys.stdout).write(f"[{self}]: {msg}\n")

    def _is_completed(self) -> bool:
        return self.n_completed_tasks == self.n_dispatched_tasks and not (self._iterating or self._aborting)


_PRINT_PROGRESS, _PRINT = Parallel.print_progress, Parallel._print


class _ContextSetter:
    """Has arrays go to the folder of a Parallel when a batch of its is pickled."""

    def __init__(self, workers: Any, context_id: str) -> None:
        self._workers, self._id = workers, context_id

    def __call__(self) -> None:
        self._workers._temp_folder_manager.set_current_context(self._id)


def _within(context: Any, results: Iterator[Any]) -> Iterator[Any]:
    """Yield results within a context."""
    with context:
        yield from results


def _in_batches(iterable: Iterable[Any], size: int) -> Iterator[Any]:
    """Read so many items at a time, and yield each."""
    items = iter(iterable)
    while batch := list(itertools.islice(items, size)):
        yield from batch
