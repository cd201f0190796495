"""``Parallel`` while it runs: shoal's runs on a backend of joblib's contract, with joblib's attributes beside them."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from shoal._tracebacks import warn
from shoal.errors import CallPicklingError
from shoal.parallel._parallel import Parallel

from . import _executor_of_all
from ._backend_base import FallbackToBackend, ParallelBackendBase
from ._batches import ContextSetter
from ._parallel_backends import LokyBackend
from ._pools import AutoBatchingMixin
from ._served import _Served

if TYPE_CHECKING:
    from shoal.parallel._run import Run


class Running(Parallel):
    """What a Parallel of joblib's does from its call to the end of its run."""

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

    _id: str
    _backend_kwargs: dict[str, Any]
    return_generator: bool

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
                warn(
                    f"The backend class {type(backend).__name__!r} does not support timeout. You have set "
                    f"'timeout={self.timeout}' in Parallel but the 'timeout' parameter will not be used.",
                )
            return n_jobs

    def _effective_n_jobs(self) -> int:
        return int(self._backend.effective_n_jobs(self.n_jobs))  # type: ignore[attr-defined]

    def __enter__(self) -> Running:
        self._managed_backend = True
        self._initialize_backend()
        super().__enter__()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._managed_backend = False
        super().__exit__(*exc_info)
        if not self._running:
            self._terminate()

    def __call__(self, iterable: Iterable[Any]) -> Any:  # type: ignore[override] # as joblib has it
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
                    self._reducer_callback = ContextSetter(backend._workers, self._id)
                if batch_size == "auto":
                    self.batch_size = self._joblib_sizes()
                if not backend.supports_timeout:
                    self.timeout = None
            run = super()._make_run(iterable, n_workers, total)
            if isinstance(backend, LokyBackend) and backend.served:
                _executor_of_all.began(run, backend.shared_by())
            return run
        finally:
            self.batch_size, self.timeout = batch_size, timeout

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
            _executor_of_all.ended(run)
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


def _within(context: Any, results: Iterator[Any]) -> Iterator[Any]:
    """Yield results within a context."""
    with context:
        yield from results


def _in_batches(iterable: Iterable[Any], size: int) -> Iterator[Any]:
    """Read so many items at a time, and yield each."""
    items = iter(iterable)
    while batch := list(itertools.islice(items, size)):
        yield from batch
