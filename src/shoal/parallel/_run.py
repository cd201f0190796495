"""One run: what is live while the calls of one ``Parallel(...)(calls)`` are computed, owned by one thread.

::

    Schedule <──── Run ────> slots of a backend     BatchRun: sends them batches
       ^            ^ inbox          │              PullRun: their threads take calls by themselves
       │            └────────────────┘
       └ completed, given back, settled <── Faults: what is to be done about a call that has failed

`results()` is the loop. A list is made by running it in the caller's thread; for a generator, `stream()` runs it in a
thread of its own. Whatever ends it (the last result, an exception, a generator that is dropped, `stop()`) goes through
its ``finally``: there is no other way out.
"""

from __future__ import annotations

import contextvars
import heapq
import math
import os
import queue
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from shoal import errors
from shoal._tracebacks import shorten, warn
from shoal.backends import Slot
from shoal.backends._threads import DaemonThreads
from shoal.backends.base import in_main_thread, start_thread
from shoal.errors import UnusedResultsWarning, WorkerStartError
from shoal.parallel._batch import Batch
from shoal.parallel._delayed import is_call, not_a_call, plain
from shoal.parallel._faults import Faults
from shoal.parallel._schedule import Schedule

if TYPE_CHECKING:
    from shoal.observe._teller import Teller
    from shoal.parallel._plan import Plan

Due = list[Sequence[Any]]


class Cancelled(BaseException):
    """The run was given up by whoever waited for it; inside shoal only."""


class _Stop:
    """What is put into the inbox to end a run with the results that are there."""


class Run(ABC):
    """What every run has: an inbox, a loop, and one way out.

    Parameters
    ----------
    plan
        How the calls are to be run.
    slots
        Where they run. Slots that are aborted are replaced in the list.
    schedule
        Which calls run next, and which results are due.
    tell
        What tells of the run; None if nobody listens.
    faults
        The policy for calls that fail.
    release
        Called when nothing of the run is left on its slots.
    """

    def __init__(
        self,
        plan: Plan,
        slots: list[Slot],
        schedule: Schedule,
        tell: Teller | None,
        faults: Faults,
        release: Callable[[], None],
    ) -> None:
        self.schedule = schedule
        self.slots = slots
        self.inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        #: What has ended it before its end.
        self.error: BaseException | None = None
        self._plan = plan
        self._faults = faults
        self._tell = tell
        self._release = release
        self._look_at = math.inf if plan.settings.task_timeout is None else 0.0  # when a call may have run too long
        self._later: list[tuple[float, int, Batch]] = []  # calls that wait to run again: when, index, the call

    @abstractmethod
    def start(self) -> None:
        """Put the first calls on their way."""

    @abstractmethod
    def _take(self, message: Any) -> Due:
        """Take a message from the inbox; return the results that are now due."""

    @abstractmethod
    def _busy(self) -> list[int]:
        """Return the indices of the slots on which something runs."""

    @property
    @abstractmethod
    def finished(self) -> bool:
        """Whether all results are there."""

    def results(self) -> Iterator[Sequence[Any]]:
        """Run the loop; yield sequences of results as they become due."""
        error: BaseException | None = None
        try:
            self.start()
            # The consumer of a generator counts the time by itself: only while it waits.
            timeout = None if self._plan.generates else self._plan.timeout
            deadline = None if timeout is None else time.monotonic() + timeout
            while not self.finished:
                try:
                    message = self.inbox.get(timeout=self._patience(deadline))
                except queue.Empty:
                    if timeout is not None and deadline is not None and time.monotonic() >= deadline:
                        raise self.too_late(timeout) from None
                    message = None
                if isinstance(message, _Stop):
                    yield from self._ready()
                    break
                if isinstance(message, BaseException):
                    raise message
                # Without a message something is to be done by now, or there is room for more.
                due = self._tick() if message is None else self._take(message)
                if due and timeout is not None:
                    deadline = time.monotonic() + timeout
                del message
                yield from due
        except BaseException as caught:
            error = caught
            shorten(caught)
            raise caught
        finally:
            self._end(error)

    def stream(self, timeout: float | None, ended: Callable[[], None]) -> Iterator[Any]:
        """Run the loop in a thread of its own, from now on; return the generator of the results.

        Parameters
        ----------
        timeout
            The seconds that the consumer waits for the next result.
        ended
            Called when the run has ended and its consumer comes for another result, or ends the generator.
        """
        results = _stream(self, timeout, ended)
        next(results)  # enter its try block: from here on, dropping the generator ends the run
        return results

    @abstractmethod
    def took(self, number: int) -> None:
        """Take note that so many due results were taken; called by whoever takes the results of a generator."""

    def stop(self) -> None:
        """End the run with the results that are there; from any thread, also from a listener."""
        self.inbox.put(_Stop())

    def attach(self, values: list[Any], error: BaseException) -> None:
        """Give an exception that ended the run the results that are there, `values` and those that were not due."""
        results = dict(enumerate(values)) if self.schedule.ordered else {}
        for start, held in self.schedule.held.items():
            results.update(enumerate(held, start))
        errors.attach(error, "results", errors.PartialResults(results))

    def _patience(self, deadline: float | None) -> float | None:
        """Return the seconds until something is to be done in any case; None if nothing is."""
        look_at = self._look_at if self._look_at < math.inf and self._busy() else math.inf
        then = min(look_at, self._later[0][0] if self._later else math.inf, math.inf if deadline is None else deadline)
        return None if then == math.inf else min(max(then - time.monotonic(), 0), threading.TIMEOUT_MAX)

    def _tick(self) -> Due:
        """Do what is to be done by now; return the results that are now due."""
        now = time.monotonic()
        while self._later and self._later[0][0] <= now:
            self.schedule.resting -= 1
            self.schedule.give_back(heapq.heappop(self._later)[2])
        due = self._look(now) if self._look_at <= now else []
        self._go_on()
        return due

    @abstractmethod
    def _look(self, now: float) -> Due:
        """Give up the calls that have run for too long; say when to look again."""

    @abstractmethod
    def _go_on(self) -> None:
        """Have those who are idle run what was given back."""

    def _ready(self) -> Due:
        """Return the results that are there and not due."""
        return self.schedule.ready()

    def _failed(self, call: Batch, error: BaseException) -> Due:
        """Do what is to be done about a call that has failed; return the results that are now due.

        Raises
        ------
        BaseException
            `error`, if it ends the run.
        """
        (item,) = call
        if not is_call(item):
            raise not_a_call(item, call.start)
        try:
            wait = self._faults.judge(call.start, plain(item), error)
        except Exception as raised:
            if not self._faults.lasting:
                raise
            error, wait = raised, None
        if wait is None:
            if self._tell is not None:
                self._tell.completed(1, 0.0, self.schedule.size)
            return self.schedule.failed(call.start, error)
        if wait:
            self.schedule.resting += 1
            heapq.heappush(self._later, (time.monotonic() + wait, call.start, call))
        else:
            self.schedule.give_back(call)
        return []

    def abandon(self, error: BaseException) -> None:
        """End a run whose loop never began."""
        self._end(error)

    def too_late(self, timeout: float) -> BaseException:
        """Return the error for a result that did not come in time."""
        awaited = f"the result of call {self.schedule.due}" if self.schedule.ordered else "another result"
        return errors.RunTimeout(timeout, awaited)

    def _end(self, error: BaseException | None) -> None:
        self.error = error
        try:
            if isinstance(error, (KeyboardInterrupt, SystemExit)) and in_main_thread():
                _uninterrupted(self._let_go)
            else:
                self._let_go()
        finally:
            if self._tell is not None:
                self._tell.finished(GeneratorExit() if isinstance(error, Cancelled) else error)

    def _let_go(self) -> None:
        """Stop what still runs, and give everything back that the run holds."""
        try:
            for index in self._busy():
                self.slots[index] = self._plan.backend.abort(self.slots[index])
        finally:
            self._clean()
            self._release()

    def _clean(self) -> None:  # noqa: B027 most runs hold nothing
        """Let go of what the run holds beside its slots."""


def _uninterrupted(do: Callable[[], None]) -> None:
    """Call `do` in another thread and wait for it.

    A user who presses Ctrl-C once often presses it again. The second KeyboardInterrupt is raised in the main thread,
    where it may end the waiting, but not what `do` has begun: a worker would go on with a call that nobody waits for.
    """
    threads = DaemonThreads(1)
    try:
        done = threads.submit(do)
    except (WorkerStartError, RuntimeError):  # the system allows no more threads, or the interpreter shuts down
        do()
        return
    threads.shutdown(wait=False)
    done.result()


def _stream(run: Run, timeout: float | None, ended: Callable[[], None]) -> Iterator[Any]:
    outbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
    loop = run.results()
    over = threading.Event()
    # Held here, since at the end of the interpreter this module's names may be gone before the generator is.
    current_thread, is_finalizing, getpid = threading.current_thread, sys.is_finalizing, os.getpid
    owner = getpid()

    def pump() -> None:
        last: BaseException | None = None
        try:
            for values in loop:
                outbox.put(values)
        except BaseException as error:  # it is raised where the results are awaited
            last = error
        over.set()
        outbox.put(last)

    context = contextvars.copy_context()
    try:
        thread = start_thread("shoal-run", context.run, pump)
    except BaseException as error:
        run.abandon(error)
        ended()
        raise
    consumed = 0
    freed = False
    failure: BaseException | None = None
    try:
        yield None
        while True:
            if getpid() != owner:
                raise RuntimeError(
                    "these results belong to the parent of this process: a forked child has no part in its runs"
                )
            try:
                values = outbox.get(timeout=timeout)
            except queue.Empty:
                assert timeout is not None
                raise run.too_late(timeout) from None
            if values is None:
                return
            if isinstance(values, BaseException):
                failure = values
                raise failure
            end = consumed + len(values)
            for value in values:
                consumed += 1
                if consumed == end:
                    run.took(len(values))
                if over.is_set() and not freed:
                    freed = True
                    ended()
                yield value
            del values
    except GeneratorExit as exiting:
        if exiting is not failure and not is_finalizing() and getpid() == owner:
            _warn_unused(run.schedule, consumed)
        raise
    finally:
        failure = None  # else it and this frame, which is in its traceback, would keep each other
        if not is_finalizing():  # else the workers are ended already, and the thread has stopped where it was
            run.inbox.put(Cancelled())
            if thread is not current_thread():  # the collector may drop the generator anywhere
                thread.join()
            if not freed:
                ended()


def _warn_unused(schedule: Schedule, consumed: int) -> None:
    unused = schedule.completed_calls - consumed
    cancelled = schedule.dispatched - schedule.completed_calls
    parts = []
    if unused > 0:
        parts.append(f"{unused} tasks have been successfully executed but not used.")
    if not schedule.finished:
        parts.append(f"{cancelled} tasks which were still being processed by the workers have been cancelled.")
    if parts:
        parts.append("Give the generator fewer tasks, or take all of its results.")
        warn(" ".join(parts), UnusedResultsWarning)
