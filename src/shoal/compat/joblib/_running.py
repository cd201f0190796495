"""Runs the calls of joblib's ``Parallel`` on a backend of joblib's contract, and keeps joblib's attributes."""

from __future__ import annotations

import contextlib
import itertools
import os
import warnings
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from shoal._platform.memory import HAS_MEMFD
from shoal._tracebacks import warn
from shoal.errors import CallPicklingError
from shoal.parallel.options._plan import Plan, Planned
from shoal.parallel.running._runner import Runner, in_caller, streamed

from . import _shared_executor
from ._backend_base import FallbackToBackend, ParallelBackendBase
from ._batches import ContextSetter
from ._delegating import _Delegating
from ._parallel_backends import LokyBackend
from ._pools import AutoBatchingMixin

if TYPE_CHECKING:
    from shoal.observe._teller import Teller
    from shoal.parallel.running._run import Run


def _may_raise_warnings() -> bool:
    """Tell whether a filter of this program makes an exception of some warning.

    joblib leaves warnings in the workers, where that filter is not, so such a warning ends no run.
    """
    for action, message, category, module, line in warnings.filters:
        if action == "error":
            return True
        if category is Warning and not (message or module or line):  # it hides all filters behind it
            return False
    return False


class Running:
    """The part of joblib's ``Parallel`` that runs calls.

    `plan` holds its resolved arguments, with a backend of joblib's contract. Assigning to the attributes changes it.
    """

    n_jobs: Planned[Any] = Planned()
    verbose: Planned[Any] = Planned()
    timeout: Planned[Any] = Planned()
    pre_dispatch: Planned[Any] = Planned()
    batch_size: Planned[Any] = Planned()
    return_as: Planned[Any] = Planned()
    _backend: Planned[Any] = Planned("backend")

    #: The counters of the current or the last run.
    n_dispatched_batches: int = 0
    n_dispatched_tasks: int = 0
    n_completed_tasks: int = 0
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

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._runner = Runner()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(n_jobs={self.n_jobs})"

    def _listen(self, n_workers: int, number: int | None) -> Teller | None:
        """Return the teller of a run, which has told its listeners of the start; None if there are no listeners."""
        raise NotImplementedError

    def _temporary_folder(self, temp_folder: Any) -> str:
        """Choose a folder for the large arrays of this ``Parallel``; return its path, which need not exist yet."""
        from ._folders import TemporaryResourcesManager, _get_temp_dir

        if self._folders is None:
            self._folders = TemporaryResourcesManager(temp_folder, self._id, eager=False)
        folder = self._folders.folder()
        _, shared = _get_temp_dir("", temp_folder)
        # Without a folder in the plan, the arrays are in memfds. These belong to one run too.
        if shared or temp_folder or os.environ.get("JOBLIB_TEMP_FOLDER") or not HAS_MEMFD:
            self._plan = self._plan.changed(temp_folder=folder)
        return str(folder.location)

    def _initialize_backend(self) -> int:
        """Prepare the backend, or the one to which it falls back; return the number of workers."""
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
        return int(self._backend.effective_n_jobs(self.n_jobs))

    def __enter__(self) -> Running:
        self._managed_backend = True
        self._initialize_backend()
        self._runner.keep_workers()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._managed_backend = False
        self._runner.release_workers()
        if not self._runner.running:
            self._terminate()

    def __call__(self, iterable: Iterable[Any]) -> Any:
        """Run the calls.

        Parameters
        ----------
        iterable
            The calls, made by :func:`delayed`.

        Returns
        -------
        A list or a generator of the results, as `return_as` says.
        """
        backend: Any = self._backend
        context: Any = contextlib.nullcontext()
        if type(backend).retrieval_context is not ParallelBackendBase.retrieval_context:
            context = backend.retrieval_context()
        if self.return_generator:
            values = self._run(iterable)
            return values if isinstance(context, contextlib.nullcontext) else _within(context, values)
        try:
            with context:
                return self._run(iterable)
        except BaseException as error:
            self._aborting = True
            if self._managed_backend and isinstance(self._backend, _Delegating):
                self._backend._reset_workers()
            if isinstance(error, CallPicklingError):
                error.what = f"the task to send to the workers, {error.what}"
            raise

    def _run(self, iterable: Iterable[Any]) -> Any:
        """Run the calls; return a list of the results, or a generator of them."""
        self._runner.claim()
        self._aborting = False
        self.n_dispatched_batches = self.n_dispatched_tasks = self.n_completed_tasks = 0
        generates = self.return_generator
        try:
            n_workers = self._workers()
            calls, self.n_tasks = self._plan.input(iterable)
            runner = self._runner
            if n_workers > 1:
                n_workers, plan = self._start_call(n_workers)
                run = runner.start(plan, calls, n_workers, self.n_tasks, self._listen, self._run_began)
                return streamed(run, plan.timeout, self._end_run) if generates else run.collect()
            size: Any = self._backend.compute_batch_size() if self.batch_size == "auto" else self.batch_size
            if size > 1:  # as in joblib, a whole batch is read before its first call runs
                calls = _in_batches(calls, int(size))
            values = in_caller(runner, self._plan, calls, self._listen(1, self.n_tasks), self._end_run)
            if not generates and self._tracker is None:
                self.n_dispatched_batches = self.n_dispatched_tasks = self.n_completed_tasks = len(values)
            return values
        except BaseException:
            generates = False  # no generator will end the run
            raise
        finally:
            if not generates:
                self._end_run()

    def _workers(self) -> int:
        """Prepare the backend; return the number of workers."""
        n_jobs = self._effective_n_jobs() if self._managed_backend else self._initialize_backend()
        if n_jobs == 0:
            raise RuntimeError(f"{type(self._backend).__name__} has no active worker.")
        self._cached_effective_n_jobs = n_jobs
        return n_jobs

    def _start_call(self, n_workers: int) -> tuple[int, Plan]:
        """Tell the backend that a run on several workers begins; return their number and the plan of the run.

        If the backend does not delegate to shoal's, it chooses the size of batches by itself.
        """
        backend: Any = self._backend
        self._calling = True
        self._pickle_cache = {}
        backend.start_call()
        plan = self._plan
        if plan.settings.forward is True and _may_raise_warnings():
            plan = plan.changed(forward=[name for name in plan.settings.forwarded if name != "warnings"])
        if self._backend_delegates():
            return n_workers, plan
        if isinstance(backend, LokyBackend):
            self._reducer_callback = ContextSetter(backend._workers, self._id)
        if self.batch_size == "auto":
            plan = plan.changed(batch_size=self._joblib_sizes())
        if not backend.supports_timeout:
            plan = plan.changed(timeout=None)
        return self._cached_effective_n_jobs, plan  # start_call() may have changed the number

    def _run_began(self, run: Run) -> None:
        backend: Any = self._backend
        if isinstance(backend, LokyBackend) and backend.delegates:
            _shared_executor.run_began(run, backend.executor_key())

    def _joblib_sizes(self) -> Any:
        """Return the size of batches, or a callable that returns it if the backend adapts it."""
        backend: Any = self._backend
        if type(backend).compute_batch_size is getattr(AutoBatchingMixin, "compute_batch_size"):  # noqa: B009
            return lambda _pace: backend.compute_batch_size()
        return int(backend.compute_batch_size())

    def _backend_delegates(self) -> bool:
        return isinstance(self._backend, _Delegating) and self._backend.delegates

    def _end_run(self) -> None:
        run, self._reducer_callback = self._runner.run, None
        if run is not None:
            _shared_executor.run_ended(run)
            schedule = run.schedule
            self._aborting = not schedule.finished
            if self._tracker is None:
                self.n_dispatched_tasks = self.n_dispatched_batches = schedule.queue.dispatched
                self.n_completed_tasks = schedule.results.completed
        self._tracker = self._original_iterator = None
        self._iterating = False
        self._runner.release()
        if self._calling:
            self._calling = False
            self._backend.stop_call()
        if not self._managed_backend:
            self._terminate()

    def _terminate(self) -> None:
        """Release the workers and the folder of the runs."""
        self._backend.terminate()
        if self._folders is not None:
            self._folders._clean_temporary_resources()
            self._folders = None


def _within(context: Any, results: Iterator[Any]) -> Iterator[Any]:
    with context:
        yield from results


def _in_batches(iterable: Iterable[Any], size: int) -> Iterator[Any]:
    """Yield each item, but read `size` items at a time."""
    items = iter(iterable)
    while batch := list(itertools.islice(items, size)):
        yield from batch
