"""The generator of a run's results, whose loop runs in another thread.

::

    loop: Run.results() ──_pump──> outbox ──> stream ──> the consumer
      ^     (shoal-run)                         │
      └──────── inbox: Cancelled, consumed <────┘ is dropped, or has taken results
"""

from __future__ import annotations

import contextvars
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from shoal._platform.processes import take
from shoal._tracebacks import warn
from shoal.backends.base import start_thread
from shoal.errors import UnusedResultsWarning
from shoal.parallel.running._patience import Patience
from shoal.parallel.running._run import Cancelled, Run
from shoal.parallel.running._schedule import Schedule


def stream(run: Run, timeout: float | None, ended: Callable[[], None]) -> Iterator[Any]:
    """Start the loop of a run in another thread; yield None, then the results.

    The caller takes the None at once. From then on, dropping the generator ends the run.

    Parameters
    ----------
    run
        The run, whose loop has not begun.
    timeout
        The seconds that the consumer waits for the next result while a call is under way; None for no limit.
    ended
        Called once when the run has ended: as soon as the consumer asks for another result, or ends the generator.

    Raises
    ------
    BaseException
        The exception that ended the run; :class:`~shoal.errors.RunTimeout` after `timeout`.
    RuntimeError
        In a forked child.
    """
    outbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
    over = threading.Event()
    # As local names: at the end of the interpreter, this module's names may be gone before the generator is.
    current_thread, is_finalizing, getpid = threading.current_thread, sys.is_finalizing, os.getpid
    owner = getpid()
    context = contextvars.copy_context()
    try:
        thread = start_thread("shoal-run", context.run, partial(_pump, run.results(), outbox, over))
    except BaseException as error:
        run.end(error)
        ended()
        raise
    number = 0
    freed = False
    failure: BaseException | None = None
    try:
        yield None
        while True:
            if getpid() != owner:
                raise RuntimeError(
                    "these results belong to a run of this process's parent. Take them there, or call Parallel here"
                )
            values = take(outbox, None) if timeout is None else _in_time(outbox, run, timeout)
            if values is None:
                return
            if isinstance(values, BaseException):
                failure = values
                raise failure
            end = number + len(values)
            for value in values:
                number += 1
                if number == end:
                    run.consumed(len(values))
                if over.is_set() and not freed:
                    freed = True
                    ended()
                yield value
            del values
    except GeneratorExit as exiting:
        if exiting is not failure and not is_finalizing() and getpid() == owner:
            _warn_unused(run.schedule, number)
        raise
    finally:
        failure = None  # else it and this frame, which is in its traceback, would keep each other alive
        if not is_finalizing():  # else the workers have ended already, and the thread has stopped where it was
            run.inbox.put(Cancelled())
            if thread is not current_thread():  # the collector may drop the generator in any thread
                thread.join()
            if not freed:
                ended()


def _in_time(outbox: queue.SimpleQueue[Any], run: Run, timeout: float) -> Any:
    """Return the next message; raise RunTimeout if it takes too long."""
    patience = Patience(timeout, run.waits_for_input)
    while True:
        try:
            return take(outbox, patience.seconds())
        except queue.Empty:
            if patience.is_over():
                raise run.timed_out(timeout) from None


def _pump(loop: Iterator[Sequence[Any]], outbox: queue.SimpleQueue[Any], over: threading.Event) -> None:
    """Run the loop, and put its results into the outbox; at last the exception that ended it, or None."""
    last: BaseException | None = None
    try:
        for values in loop:
            outbox.put(values)
    except BaseException as error:  # the generator raises it
        last = error
    over.set()
    outbox.put(last)


def _warn_unused(schedule: Schedule, number: int) -> None:
    """Warn of calls that have run, or begun, for a generator whose consumer took only `number` results."""
    unused = schedule.results.completed - number
    cancelled = schedule.queue.dispatched - schedule.results.completed
    parts = []
    if unused > 0:
        parts.append(f"{unused} tasks have been successfully executed but not used.")
    if not schedule.finished:
        parts.append(f"{cancelled} tasks which were still being processed by the workers have been cancelled.")
    if parts:
        parts.append("Give the generator fewer tasks, or take all of its results.")
        warn(" ".join(parts), UnusedResultsWarning)
