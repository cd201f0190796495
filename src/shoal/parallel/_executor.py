"""``executor``: submits calls one by one to the workers of a run whose input stays open, and returns their futures.

::

    submit ─> Future        result, done callbacks
       │         ^             ^
       v         │ settles     │ in another thread, since a callback may wait for another call
    Submitted ───┴──── Run ────┘         the executor's thread (_executor_loop) holds both. It ends when the executor
     (Schedule)         │                is shut down or dropped, and all submitted calls have a result
                        └─> slots of a backend, for this executor alone

Where no thread can be started, ``submit`` runs the call (:class:`_Inline`).
"""

from __future__ import annotations

import concurrent.futures
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any

from shoal._platform.capabilities import has_threads
from shoal._typing import P, R
from shoal.errors import CallStopped
from shoal.parallel._executor_loop import Loop
from shoal.parallel._parallel import ARGUMENTS
from shoal.parallel.options._checks import integer
from shoal.parallel.options._plan import Plan, plan_of
from shoal.parallel.options._settings import DEFAULTS, current
from shoal.parallel.running._runner import Runner, in_caller
from shoal.parallel.running._serial import warn_of_ignored
from shoal.parallel.running._submitted import shut_down

if TYPE_CHECKING:
    import os

    from shoal.backends import Backend
    from shoal.parallel.options._settings import (
        BackendContext,
        Context,
        Forward,
        MmapMode,
        Prefer,
        Require,
        Retries,
        RetryOn,
        RetryWait,
        Size,
        Submits,
    )
    from shoal.reports._report import Report

#: The arguments of ``Parallel`` that an executor does not have, because they are about a whole run.
NOT_OF_EXECUTORS = (
    "return_as",
    "verbose",
    "timeout",
    "pre_dispatch",
    "progress",
    "on_error",
    "max_pending",
    "seed",
    "memory",
    "total",
    "on_message",
)


def executor(
    n_jobs: int | None = DEFAULTS["n_jobs"],
    backend: str | Backend | BackendContext | Submits | None = DEFAULTS["backend"],
    *,
    max_workers: int | None = None,
    batch_size: int | str = "auto",
    temp_folder: str | os.PathLike[str] | None = DEFAULTS["temp_folder"],
    max_nbytes: Size | None = DEFAULTS["max_nbytes"],
    mmap_mode: MmapMode | None = DEFAULTS["mmap_mode"],
    prefer: Prefer | None = DEFAULTS["prefer"],
    require: Require | None = DEFAULTS["require"],
    retries: Retries = DEFAULTS["retries"],
    retry_on: RetryOn = DEFAULTS["retry_on"],
    retry_wait: RetryWait = DEFAULTS["retry_wait"],
    task_timeout: float | None = DEFAULTS["task_timeout"],
    max_tasks_per_worker: int | None = DEFAULTS["max_tasks_per_worker"],
    max_worker_memory: Size | None = DEFAULTS["max_worker_memory"],
    forward: Forward = DEFAULTS["forward"],
    context: Context | None = DEFAULTS["context"],
    report: str | os.PathLike[str] | Report | None = DEFAULTS["report"],
    **options: Any,
) -> Executor:
    """Return an executor of :mod:`concurrent.futures` that runs calls on the workers of :class:`~shoal.Parallel`.

    Parameters
    ----------
    n_jobs : int, optional
        The number of workers, as for Parallel. The default is that of the context, and otherwise -1, one worker per
        CPU, as for the executors of :mod:`concurrent.futures`. A single worker is a process or a thread too, never the
        caller's thread, unless the system has no threads (Pyodide): there, ``submit`` runs the call.
    backend : str, Backend, executor or multiprocessing context, optional
        Where the calls run, as for Parallel. A thread runs them if the backend has no worker beside the caller
        ("sequential", or processes where none may be started).
    max_workers : int, optional
        Another name of `n_jobs`, the one that the executors of :mod:`concurrent.futures` have.
    batch_size : int or "auto"
        The largest number of calls in one batch to a worker process. "auto" follows what calls cost. Calls share a
        batch only if they have the same function, wait for a worker, and are many. With 1 each call travels by itself,
        so that a long call delays no other.
    temp_folder, max_nbytes, mmap_mode, prefer, require
        As for Parallel.
    retries, retry_on, retry_wait, task_timeout
        As for Parallel, for each submitted call.
    max_tasks_per_worker, max_worker_memory, forward, context
        As for Parallel. The context variables have their values at the time when the executor is made.
    report : str, os.PathLike or Report, optional
        As for Parallel. The file is written when the executor is shut down.
    **options
        Options of the backend, such as `initializer` and `initargs`.

    Returns
    -------
    concurrent.futures.Executor
        Its workers serve this executor alone, until it is shut down by ``shutdown`` or at the end of a ``with`` block.
        If it is dropped before that, or the program ends, the submitted calls still run. Beside the usual methods it
        has ``stop()``, which cancels calls that have not begun and aborts those that run.

    Raises
    ------
    ValueError, TypeError
        As for Parallel.

    Notes
    -----
    Thread-safe. A forked child cannot use its parent's executor: there, ``submit`` raises RuntimeError.

    An exception of one call does not affect other calls. It is set on the future of that call, also if an argument
    cannot be pickled (:class:`~shoal.errors.CallPicklingError`), the worker dies (:class:`~shoal.errors.WorkerDied`),
    or ``task_timeout`` elapses (:class:`~shoal.errors.TaskTimeout`). The exception has the attribute ``call``, and its
    ``__cause__`` shows the traceback in the worker process. A failure that no call has caused, such as that of an
    initializer, ends the executor: all pending futures, and ``submit``, raise ``concurrent.futures.BrokenExecutor``.

    Do not change the arguments of a call before the call is done. Afterwards you may. Functions that workers cannot
    import are sent with each batch. Arguments marked by :func:`~shoal.shared` are sent once to each worker, which keeps
    them until the executor ends.

    One thread of the executor calls the done callbacks, one after the other.

    Examples
    --------
    >>> from shoal import executor
    >>> with executor(2, backend="threading") as workers:
    ...     workers.submit(pow, 3, 2).result()
    9
    """
    for name in NOT_OF_EXECUTORS:
        if name in options:
            raise TypeError(f"executor() takes no {name!r}, which belongs to a whole run of Parallel")
    if n_jobs is DEFAULTS["n_jobs"]:
        n_jobs = None
    if max_workers is not None:
        if n_jobs is not None:
            raise TypeError("executor() takes either n_jobs or max_workers, since both name the number of workers")
        n_jobs = integer(max_workers, "max_workers")
        if not n_jobs:
            raise ValueError("max_workers must be a positive number, or -1 for all CPUs, got: 0")
    if n_jobs is None and current().n_jobs is None:
        n_jobs = -1
    plan = plan_of(
        "executor",
        ("max_workers", *(name for name in ARGUMENTS if name not in NOT_OF_EXECUTORS)),
        options,
        n_jobs=n_jobs,
        backend=backend,
        batch_size=batch_size,
        temp_folder=temp_folder,
        max_nbytes=max_nbytes,
        mmap_mode=mmap_mode,
        prefer=prefer,
        require=require,
        retries=retries,
        retry_on=retry_on,
        retry_wait=retry_wait,
        on_error="return",
        task_timeout=task_timeout,
        max_tasks_per_worker=max_tasks_per_worker,
        max_worker_memory=max_worker_memory,
        forward=forward,
        context=context,
        report=report,
    )
    if not has_threads():
        return _Inline(plan)
    return Executor(plan._replace(return_as="generator_unordered", own_workers=True, resends=True))


class Executor(concurrent.futures.Executor):
    """An executor that runs calls on the workers of a :class:`~shoal.Parallel`. :func:`executor` makes it."""

    def __init__(self, plan: Plan) -> None:
        self._loop = Loop(plan)
        # __del__ instead would run for an executor that could not be made, too.
        weakref.finalize(self, self._loop.submitted.drop).atexit = False

    def __repr__(self) -> str:
        return f"<shoal.executor on {self._loop.workers}>"

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Have a worker call ``fn(*args, **kwargs)``; return the future of the result.

        Parameters
        ----------
        fn : callable
            The function. Its arguments follow.

        Returns
        -------
        concurrent.futures.Future
            It can be cancelled until a worker has received the call.

        Raises
        ------
        RuntimeError
            If the executor was shut down, or belongs to the parent of this process.
        BrokenExecutor
            If the executor has ended, because of a failure that no call has caused.
        """
        future: Future[R] = _Future(self._loop)
        self._loop.submitted.queue.add(future, (fn, args, kwargs))
        return future

    def map(
        self,
        fn: Callable[..., R],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        **options: Any,
    ) -> Iterator[R]:
        """Submit a call for each tuple of arguments; return an iterator of the results, in the order of the calls.

        Parameters
        ----------
        fn, *iterables
            The function, and its arguments.
        timeout : float, optional
            The seconds from now until each result must be there; then the iterator raises TimeoutError.
        chunksize : int
            It has no effect.
        **options
            Further arguments of ``concurrent.futures.Executor.map``, in Pythons that have them.

        Raises
        ------
        CallStopped
            The iterator raises it if a call has raised StopIteration, which would look like the iterator's end.
        """
        return _named_stop(super().map(fn, *iterables, timeout=timeout, chunksize=chunksize, **options))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more calls, and release the workers when all submitted calls have ended.

        Parameters
        ----------
        wait : bool
            Whether to return only when the calls have ended and the workers are released; else at once.
        cancel_futures : bool
            Whether to cancel the calls that no worker has received.
        """
        self._loop.submitted.close(cancel_futures)
        if wait:
            self._loop.join_all()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Shut down and wait for the submitted calls; after Ctrl-C, stop instead."""
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            self.stop()
        else:
            self.shutdown(wait=True)

    def stop(self) -> None:
        """Cancel the calls that have not begun, abort those that run, and shut down.

        The futures of the running calls raise ``CancelledError``. Worker processes are killed. Threads cannot be
        killed: their calls end by themselves.
        """
        self._loop.submitted.close(cancel=True)
        self._loop.owned_run.stop()
        self._loop.join_all()


class _Inline(Executor):
    """An executor of a system without threads. ``submit`` runs the call in the caller, as a run of its own.

    Parameters
    ----------
    plan
        The values of all arguments.
    """

    def __init__(self, plan: Plan) -> None:
        plan.workers()  # warns if several workers are asked for
        warn_of_ignored(plan)
        self._plan = plan._replace(settings=plan.settings._replace(on_error="raise"))
        self._ended = False

    def __repr__(self) -> str:
        return "<shoal.executor in the caller>"

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Call ``fn(*args, **kwargs)``; return the completed future. KeyboardInterrupt and SystemExit are raised."""
        if self._ended:
            raise shut_down()
        future: Future[R] = Future()
        future.set_running_or_notify_cancel()
        try:
            [result] = in_caller(Runner(), self._plan, [(fn, args, kwargs)], None, _nothing)
        except Exception as error:
            future.set_exception(error)
        else:
            future.set_result(result)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more calls. Those that were submitted have ended."""
        self._ended = True

    def stop(self) -> None:
        """Accept no more calls: none is running."""
        self._ended = True


def _named_stop(results: Iterator[R]) -> Iterator[R]:
    """Yield results. Raise an error that names the call where the generator `results` met a StopIteration."""
    try:
        yield from results
    except RuntimeError as error:
        stop = error.__cause__
        if not (isinstance(stop, StopIteration) and hasattr(stop, "call")):
            raise
        raise CallStopped(stop.call, stop) from stop


def _nothing() -> None:
    pass


class _Condition(threading.Condition):
    """A condition that ``with`` acquires and releases in C, so that no interrupt can leave it acquired.

    Otherwise Ctrl-C during ``Future.result`` could leave it so, and the executor's thread would wait for ever to set
    the result of that future.
    """

    __enter__: Any = property(lambda self: self._lock.__enter__)
    __exit__: Any = property(lambda self: self._lock.__exit__)


class _Future(Future[R]):
    """A future whose callbacks do not block the executor's thread."""

    def __init__(self, loop: Loop) -> None:
        super().__init__()
        self._condition = _Condition()
        self._loop = loop

    def add_done_callback(self, fn: Callable[[Future[R]], object]) -> None:
        """Call ``fn(future)`` when the future is done; at once if it is done already."""
        self._loop.expect_callbacks()
        super().add_done_callback(partial(self._loop.call_back, fn))
