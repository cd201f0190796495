"""``executor``: calls one by one to the workers of a run whose input stays open, and futures of what comes of them.

::

    submit ─> Future        result, done callbacks
       │         ^             ^
       v         │ settles     │ in a thread of their own, so that one may wait for another call
    Submitted ───┴──── Run ────┘         both held by the executor's thread, which ends when the executor is
     (Schedule)         │                shut down or dropped, and all that was submitted has an outcome
                        └─> slots of a backend, of this executor alone
"""

from __future__ import annotations

import concurrent.futures
import logging
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any, ClassVar, ParamSpec, TypeVar

from shoal import backends
from shoal._forks import CALLERS, after_fork_in_child
from shoal.backends._pool import pool
from shoal.backends._threads import DaemonThreads
from shoal.backends._workers import Turn
from shoal.errors import CallStopped
from shoal.parallel._checks import integer
from shoal.parallel._faults import Faults
from shoal.parallel._launch import make_run, size_policy
from shoal.parallel._parallel import ARGUMENTS
from shoal.parallel._plan import Plan, plan_of
from shoal.parallel._run import Run
from shoal.parallel._settings import DEFAULTS, Default, current
from shoal.parallel._submitted import Submitted

P = ParamSpec("P")
T = TypeVar("T")

#: A program that ends by Ctrl-C waits no longer for its executors, in seconds.
INTERRUPTED_SECONDS = 2.0
#: What ``Parallel`` takes and an executor has no use for.
_FOREIGN = (
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
)


def executor(
    n_jobs: Any = DEFAULTS["n_jobs"],
    backend: Any = DEFAULTS["backend"],
    *,
    max_workers: int | None = None,
    batch_size: int | str = "auto",
    temp_folder: Any = DEFAULTS["temp_folder"],
    max_nbytes: Any = DEFAULTS["max_nbytes"],
    mmap_mode: Any = DEFAULTS["mmap_mode"],
    prefer: Any = DEFAULTS["prefer"],
    require: Any = DEFAULTS["require"],
    retries: Any = DEFAULTS["retries"],
    retry_on: Any = DEFAULTS["retry_on"],
    retry_wait: Any = DEFAULTS["retry_wait"],
    task_timeout: Any = DEFAULTS["task_timeout"],
    max_tasks_per_worker: Any = DEFAULTS["max_tasks_per_worker"],
    max_worker_memory: Any = DEFAULTS["max_worker_memory"],
    **options: Any,
) -> Executor:
    """Return an executor, as those of :mod:`concurrent.futures`, that has the workers of :class:`~shoal.Parallel`.

    Parameters
    ----------
    n_jobs : int, optional
        The number of workers, as for Parallel: -1 for one per CPU, which is also the default, as it is for the
        executors of :mod:`concurrent.futures`, unless a context sets another. One worker is a process or a thread as
        well, as the backend has it.
    backend : str, Backend or multiprocessing context, optional
        Where the calls run, as for Parallel. One that has no worker beside the caller ("sequential"), or may have none
        here, has a thread instead.
    max_workers : int, optional
        Another name of `n_jobs`, which the executors of :mod:`concurrent.futures` have.
    batch_size : int or "auto"
        The calls that may travel together to a worker process; "auto" follows what they cost. Only calls of one
        function that wait for a worker do, and few only if there are few. With 1 each travels by itself, so that one
        that takes long holds up no other.
    temp_folder, max_nbytes, mmap_mode, prefer, require
        As for Parallel.
    retries, retry_on, retry_wait, task_timeout
        As for Parallel, for each call that is submitted.
    max_tasks_per_worker, max_worker_memory
        As for Parallel.
    **options
        Options of the backend, such as `initializer` and `initargs`.

    Returns
    -------
    A ``concurrent.futures.Executor`` whose workers are its own until it is shut down, at the end of a ``with`` block
    or by ``shutdown``. If it is dropped before, or the program ends, what was submitted is still computed. Beyond what
    every executor has, ``stop()`` cancels what has not begun and gives up what runs.

    Raises
    ------
    ValueError, TypeError
        As for Parallel.

    Notes
    -----
    Thread-safe. A forked child cannot use its parent's executor: ``submit`` raises RuntimeError there.

    What becomes of one call is no other's business: an exception, an argument that cannot be pickled
    (:class:`~shoal.errors.CallPicklingError`), the death of its worker (:class:`~shoal.errors.WorkerDied`) or
    ``task_timeout`` is set on its own future. Each such exception carries ``call``; that from a worker process has the
    traceback there as its ``__cause__``. What no call is to blame for, such as an initializer that fails, ends the
    executor: ``concurrent.futures.BrokenExecutor``, from all that is pending and from ``submit``.

    Arguments must not be changed before their call is done; then they may. Functions that workers cannot import go
    with each batch. What :func:`~shoal.shared` marks is sent once to each worker, and kept until the executor ends.

    Done callbacks run in one thread of the executor's, one after the other.

    Examples
    --------
    >>> from shoal import executor
    >>> with executor(2, backend="threading") as workers:
    ...     workers.submit(pow, 3, 2).result()
    9
    """
    for name in _FOREIGN:
        if name in options:
            raise TypeError(f"executor() takes no {name!r}, which is about a whole run of Parallel")
    if isinstance(n_jobs, Default):
        n_jobs = None
    if max_workers is not None:
        if n_jobs is not None:
            raise TypeError("executor() takes either n_jobs or max_workers, since both name the number of workers")
        n_jobs = integer(max_workers, "max_workers")
    if n_jobs is None and current().n_jobs is None:
        n_jobs = -1
    plan = plan_of(
        "executor",
        ("max_workers", *(name for name in ARGUMENTS if name not in _FOREIGN)),
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
    )
    return Executor(plan._replace(return_as="generator_unordered", own_workers=True, resends=True))


class Executor(concurrent.futures.Executor):
    """An executor on the workers of a :class:`~shoal.Parallel`; :func:`executor` makes it."""

    def __init__(self, plan: Plan) -> None:
        self._loop = _Loop(*_begin(plan))
        self._loop.start()
        # Not by __del__, which would run while the executor is half-made, too.
        weakref.finalize(self, self._loop.submitted.drop).atexit = False

    def __repr__(self) -> str:
        return f"<shoal.executor on {self._loop.backend}>"

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have a worker run ``fn(*args, **kwargs)``; return the future of its result.

        Raises
        ------
        RuntimeError
            If the executor was shut down, or has ended (``concurrent.futures.BrokenExecutor``).
        """
        future: Future[T] = _Future(self._loop)
        self._loop.submitted.submit(future, (fn, args, kwargs))
        return future

    def map(self, fn: Callable[..., T], *iterables: Iterable[Any], **options: Any) -> Iterator[T]:
        """Submit a call for each tuple of arguments; return an iterator of their results, in that order.

        Parameters
        ----------
        fn, *iterables, **options
            As for ``concurrent.futures.Executor.map``: `timeout` is in seconds; `chunksize` has no effect.

        Raises
        ------
        CallStopped
            From the iterator, if a call has raised StopIteration, which an iterator cannot.
        """
        return _named_stop(super().map(fn, *iterables, **options))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls, and give the workers back when all that was submitted has ended.

        Parameters
        ----------
        wait
            Whether to return only then; else at once.
        cancel_futures
            Whether calls that have not been given out are cancelled.
        """
        self._loop.submitted.close(cancel_futures)
        if wait:
            self._loop.join_all()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Shut down and wait; after Ctrl-C, give up what runs instead."""
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            self.stop()
        else:
            self.shutdown(wait=True)

    def stop(self) -> None:
        """Cancel what has not begun and give up what runs, by force where that is possible; then shut down.

        The futures of calls that ran raise ``CancelledError``. Worker processes are killed; threads cannot be, and are
        left to end by themselves.
        """
        self._loop.submitted.close(cancel=True)
        self._loop.run_.stop()
        self._loop.join_all()


def _named_stop(results: Iterator[T]) -> Iterator[T]:
    """Yield results; what a generator makes of a StopIteration becomes an error that names its call."""
    try:
        yield from results
    except RuntimeError as error:
        stop = error.__cause__
        if not (isinstance(stop, StopIteration) and hasattr(stop, "call")):
            raise
        raise CallStopped(stop.call, stop) from stop


class _Condition(threading.Condition):
    """One that ``with`` acquires and releases in C, where no interrupt comes between and leaves it held.

    Else Ctrl-C during ``Future.result`` could, and the executor's thread would wait for ever to settle that future.
    """

    __enter__: Any = property(lambda self: self._lock.__enter__)
    __exit__: Any = property(lambda self: self._lock.__exit__)


class _Future(Future[T]):
    """A future whose callbacks do not hold up the executor's thread."""

    def __init__(self, loop: _Loop) -> None:
        super().__init__()
        self._condition = _Condition()
        self._loop = loop

    def add_done_callback(self, fn: Callable[[Future[T]], object]) -> None:
        """Have ``fn(future)`` called when the future is done; at once if it is."""
        self._loop.expect_callbacks()
        super().add_done_callback(partial(self._loop.call_back, fn))


class _EachByItself(Faults):
    kept: ClassVar[type[BaseException]] = BaseException
    lasting: ClassVar[bool] = True


class _Loop(threading.Thread):
    """The thread that owns an executor's run. It does not know the executor, which may be dropped."""

    def __init__(self, run: Run, submitted: Submitted, backend: str) -> None:
        super().__init__(name="shoal-executor", daemon=True)
        self.run_, self.submitted, self.backend = run, submitted, backend
        self._callbacks = DaemonThreads(1)
        self._expects_callbacks = False

    def start(self) -> None:
        """Let the run begin."""
        _live.add(self)
        try:
            super().start()
        except BaseException as error:
            self.run_.abandon(error)
            _live.discard(self)
            raise

    def run(self) -> None:
        """Run the loop until the executor has ended."""
        error: BaseException | None = None
        try:
            for _ in self.run_.results():
                pass
        except BaseException as caught:  # the futures tell of it
            error = caught
        self.submitted.abandon(error)
        self._callbacks.shutdown(wait=False)
        _live.discard(self)

    def join_all(self, timeout: float | None = None) -> None:
        """Wait until all has ended, callbacks too, or so many seconds; in a callback, for the others."""
        if threading.current_thread() is not self:
            self.join(timeout)
            if not self.is_alive():
                self._callbacks.shutdown(wait=True)

    def forked(self) -> None:
        """Be of no use in a forked child, where the thread is not; nothing there waits for it."""
        self.submitted.forked()
        self._callbacks = DaemonThreads(1)

    def expect_callbacks(self) -> None:
        """See to it that there is a thread for callbacks: at exit none can be started any more (Python 3.12)."""
        if not self._expects_callbacks:
            self._expects_callbacks = True
            with suppress(RuntimeError):  # the executor has ended
                self._callbacks.submit(_nothing)

    def call_back(self, fn: Callable[..., object], future: Future[Any]) -> None:
        """Call a done callback: not in this thread, since it may wait for what only this thread can bring."""
        if threading.current_thread() is self:
            self._callbacks.submit(_call, fn, future)
        else:
            fn(future)


def _nothing() -> None:
    pass


def _call(fn: Callable[..., object], future: Future[Any]) -> None:
    try:
        fn(future)
    except BaseException:
        logging.getLogger("concurrent.futures").exception("exception calling callback for %r", future)


def _begin(plan: Plan) -> tuple[Run, Submitted, str]:
    """Open the workers; return the run that they are to serve."""
    n_workers = plan.workers()
    if n_workers == 1 and plan.backend.workers(2, plan.settings.depth) == 1:
        plan = plan._replace(backend=backends.create("threading"))
    submitted = Submitted(n_workers, size_policy(plan), plan.backend.distance)
    slots = plan.open(n_workers)
    if plan.backend.in_process:
        for slot in slots:  # at exit no thread can be started any more (Python 3.12)
            for _ in range(slot.width):
                slot.executor.submit(_nothing)
    run = make_run(plan, submitted, slots, plan.backend.close, n_workers, None, None, None, _EachByItself)
    submitted.wake = partial(run.inbox.put, None)
    try:
        _wait_at_exit(any(isinstance(slot.executor, Turn) for slot in slots))
    except BaseException as error:
        run.abandon(error)
        raise
    return run, submitted, f"{n_workers} workers of {plan.backend}"


_live: set[_Loop] = set()
_registered = False


def _wait_at_exit(pooled: bool) -> None:
    """See to it that the program, before it ends, waits until all that was submitted is done."""
    global _registered
    if pooled:
        if _end_all not in pool().before_end:
            pool().before_end.append(_end_all)
        pool().catch_up()  # at exit no worker can be started any more
    elif not _registered:
        threading._register_atexit(_end_all)  # type: ignore[attr-defined]
        _registered = True


def _end_all() -> None:
    loops = list(_live)
    interrupted = _interrupted()
    for loop in loops:
        loop.submitted.close(cancel=interrupted)
        if interrupted:
            loop.run_.stop()
    # An interrupt of concurrent.futures.wait can leave the locks of futures held: then a loop never ends.
    deadline = time.monotonic() + INTERRUPTED_SECONDS
    for loop in loops:
        loop.join_all(max(deadline - time.monotonic(), 0) if interrupted else None)


def _interrupted() -> bool:
    """Tell whether the program ends by a KeyboardInterrupt that nothing has caught."""
    kind = sys.exc_info()[0]  # where multiprocessing ends one of its processes, the exception is still being handled
    if kind is None and not hasattr(sys, "ps1"):  # at a prompt, one that is long over would still be found here
        kind = getattr(sys, "last_type", None)
    return kind is not None and issubclass(kind, KeyboardInterrupt)


def _after_fork() -> None:
    for loop in _live:
        loop.forked()
    _live.clear()


after_fork_in_child(_after_fork, CALLERS)
