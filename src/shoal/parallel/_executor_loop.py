"""The thread that owns an executor's run, the thread that calls its done callbacks, and the end of the program.

::

    Loop (thread) ── runs ──> Run.results() ── settles ──> futures ── call_back ──> DaemonThreads(1): done callbacks
      ^                                                                             (one may wait for another call)
      └── _end_all, before the program ends: accept no more calls, wait for those that were submitted
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any, ClassVar

from shoal import backends
from shoal._forks import CALLERS, after_fork_in_child
from shoal.backends._pool import pool
from shoal.backends._threads import DaemonThreads
from shoal.backends._workers import Turn
from shoal.parallel.options._plan import Plan
from shoal.parallel.running._faults import Faults
from shoal.parallel.running._launch import distance_of, make_run, size_policy
from shoal.parallel.running._runner import measured
from shoal.parallel.running._submitted import Submitted

#: The seconds that a program waits for its executors when Ctrl-C ends it.
INTERRUPTED_SECONDS = 2.0


class _EachByItself(Faults):
    """The policy of an executor: each call's exception goes to its own future, and never ends the run."""

    returnable: ClassVar[type[BaseException]] = BaseException
    lasting: ClassVar[bool] = True


class Loop(threading.Thread):
    """The thread that owns an executor's run. It holds no reference to the executor, so the executor may be dropped.

    Parameters
    ----------
    plan
        The values of all arguments. The workers are opened here.

    Attributes
    ----------
    owned_run
        The run.
    submitted
        The calls of the run.
    workers
        The number of workers and the backend, in words.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__(name="shoal-executor", daemon=True)
        n_workers = plan.workers()
        if n_workers == 1 and plan.backend.workers(2, plan.settings.depth) == 1:  # it would block the caller's thread
            plan = plan._replace(backend=backends.create("threading"))
        self.workers = f"{n_workers} workers of {plan.backend}"
        self.submitted = Submitted(n_workers, size_policy(plan, n_workers), distance_of(plan, n_workers))
        self._callbacks = DaemonThreads(1)
        self._expects_callbacks = False
        shares = plan.cpu_shares(n_workers)
        slots = plan.open(n_workers, shares)
        if plan.backend.in_process:
            for slot in slots:  # at exit no thread can be started any more (Python 3.12)
                for _ in range(slot.width):
                    slot.executor.submit(_nothing)
        close = plan.backend.close
        meter = plan.meter(n_workers, None)
        make = make_run if meter is None else measured(meter)
        self.owned_run = make(plan, self.submitted, slots, close, n_workers, shares, None, None, None, _EachByItself)
        self.submitted.queue.wake = partial(self.owned_run.inbox.put, None)
        try:
            _wait_at_exit(any(isinstance(slot.executor, Turn) for slot in slots))
            _live.add(self)
            self.start()
        except BaseException as error:
            self.owned_run.end(error)
            _live.discard(self)
            raise

    def run(self) -> None:
        """Run the loop until the executor has ended."""
        error: BaseException | None = None
        try:
            for _ in self.owned_run.results():
                pass
        except BaseException as caught:  # the futures raise it
            error = caught
        self.submitted.abandon(error)
        self._callbacks.shutdown(wait=False)
        _live.discard(self)

    def join_all(self, timeout: float | None = None) -> None:
        """Wait until all calls and callbacks have ended, or `timeout` seconds.

        In a callback, wait until all others have ended.
        """
        if threading.current_thread() is not self:
            self.join(timeout)
            if not self.is_alive():
                self._callbacks.shutdown(wait=True)

    def forked(self) -> None:
        """Refuse calls in a forked child, which has neither this thread nor that for callbacks."""
        self.submitted.queue.forked()
        self._callbacks = DaemonThreads(1)

    def expect_callbacks(self) -> None:
        """Start the thread for callbacks now, because no thread can start at exit (Python 3.12)."""
        if not self._expects_callbacks:
            self._expects_callbacks = True
            with suppress(RuntimeError):  # the executor has ended
                self._callbacks.submit(_nothing)

    def call_back(self, fn: Callable[..., object], future: Future[Any]) -> None:
        """Call a done callback, in another thread: it may wait for a result that only this thread can set."""
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


_live: set[Loop] = set()
_registered = False


def _wait_at_exit(pooled: bool) -> None:
    """Have the program, before it ends, wait until all submitted calls are done.

    Parameters
    ----------
    pooled
        Whether the workers belong to the pool, which calls functions before it ends its workers.
    """
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
            loop.owned_run.stop()
    # If Ctrl-C interrupted concurrent.futures.wait, the locks of futures may stay held. Then a loop never ends.
    deadline = time.monotonic() + INTERRUPTED_SECONDS
    for loop in loops:
        loop.join_all(max(deadline - time.monotonic(), 0) if interrupted else None)


def _interrupted() -> bool:
    """Tell whether a KeyboardInterrupt that nothing has caught ends the program."""
    kind = sys.exc_info()[0]  # multiprocessing ends its processes while the exception is handled
    if kind is None and not hasattr(sys, "ps1"):  # at a prompt, last_type may be from long ago
        kind = getattr(sys, "last_type", None)
    return kind is not None and issubclass(kind, KeyboardInterrupt)


def _after_fork() -> None:
    for loop in _live:
        loop.forked()
    _live.clear()


after_fork_in_child(_after_fork, CALLERS)
