"""One run: the calls of one ``Parallel(...)(calls)`` while they are computed. One thread owns it.

::

    Schedule <──── Run ────> slots of a backend     BatchRun sends batches to them
       ^            ^ inbox          │              PullRun has their threads take calls by themselves
       │            └────────────────┘
       └ completed, requeued <── Faults: whether a failed call is retried, its exception is its result, or the run ends

`results()` is the loop. For a list, it runs in the caller's thread; for a generator, in another one (_stream.py).
Whatever ends the run (the last result, an exception, a dropped generator, `stop()`) goes through the loop's
``finally``. There is no other way out.
"""

from __future__ import annotations

import heapq
import math
import queue
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from shoal import errors
from shoal._platform.processes import longest_wait
from shoal._tracebacks import shorten
from shoal.backends import Slot
from shoal.backends._threads import DaemonThreads
from shoal.backends.base import in_main_thread
from shoal.errors import WorkerStartError, attaching
from shoal.observe._receiving import receiver_of
from shoal.parallel._batch import Batch
from shoal.parallel._delayed import is_call, not_a_call, resolved
from shoal.parallel.running._faults import Faults
from shoal.parallel.running._patience import Patience
from shoal.parallel.running._policies import SLOW_TO_READ
from shoal.parallel.running._schedule import Ready, Schedule

if TYPE_CHECKING:
    from shoal.observe._teller import Teller
    from shoal.parallel.options._plan import Plan


class Cancelled(BaseException):
    """Ends a run whose consumer has dropped the results. Users never see it."""


class _Stop:
    """The message that ends a run with the results that are there."""


class Run(ABC):
    """The parts that both kinds of run share: an inbox, a loop, and one way out.

    Parameters
    ----------
    plan
        The values of all arguments.
    slots
        The backend's slots, on which the calls run. The run replaces a slot in this list when it aborts the slot.
    schedule
        Decides which calls run next, and which results can be delivered.
    listener
        Receives the events of the run; None if nobody listens.
    faults
        The policy for failed calls.
    release
        Called when no call of the run is left on its slots.

    Attributes
    ----------
    inbox
        The messages to the loop; any thread may put one.
    error
        The exception that ended the run early; None if there is none.

    Notes
    -----
    All methods belong to the thread that runs the loop, except :meth:`stop`, :meth:`consumed`, and what is put into the
    inbox.
    """

    def __init__(
        self,
        plan: Plan,
        slots: list[Slot],
        schedule: Schedule,
        listener: Teller | None,
        faults: Faults,
        release: Callable[[], None],
    ) -> None:
        self.schedule = schedule
        self.slots = slots
        self.inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.error: BaseException | None = None
        self._plan = plan
        self._faults = faults
        self._listener = listener
        self._release = release
        # Takes what calls send; None if nothing does.
        self._receiver = receiver_of(plan.on_message, listener, plan.backend.in_process)
        # When to check the running calls next, of which one may have run for too long.
        self._check_at = math.inf if plan.settings.task_timeout is None else 0.0
        self._retries: list[tuple[float, int, Batch]] = []  # a heap of retries: when to requeue, index, the call

    @abstractmethod
    def start(self) -> None:
        """Dispatch the first calls."""

    @abstractmethod
    def _handle(self, message: Any) -> Ready:
        """Handle a message from the inbox; return the results that can now be delivered."""

    @abstractmethod
    def _busy(self) -> list[int]:
        """Return the indices of the slots that run calls."""

    @property
    def finished(self) -> bool:
        """Whether no call is left to run, and all results were delivered."""
        return self.schedule.finished

    @property
    def published(self) -> tuple[str, int, int | None]:
        """The name of the backend, and the numbers of workers and of calls, as ``shoal top`` shows them."""
        backend = self._plan.backend
        name = str(getattr(backend, "name", type(backend).__name__))
        return name, sum(slot.width for slot in self.slots), self.total

    @property
    def total(self) -> int | None:
        """The number of calls; None while it is unknown. Until the input has ended, it may be that of the user."""
        queue = self.schedule.queue
        if queue.exhausted:
            return queue.read
        return self._plan.total if queue.total is None else queue.total

    def collect(self) -> list[Any]:
        """Run the loop; return a list of the results. An exception that ends the run gets those that are there.

        Raises
        ------
        BaseException
            The exception that ended the run. A StopIteration is raised as the call raised it.
        """
        values: list[Any] = []
        with attaching(partial(self.attach, values)):
            for ready in self.results():
                values.extend(ready)
        return values

    def results(self) -> Iterator[Sequence[Any]]:
        """Run the loop; yield sequences of results as soon as they can be delivered."""
        error: BaseException | None = None
        try:
            self.start()
            # For a generator, _stream applies the timeout, and only while the consumer waits.
            timeout = None if self._plan.generates else self._plan.timeout
            patience = None if timeout is None else Patience(timeout, self.waits_for_input)
            while not self.finished:
                deadline = None if patience is None else patience.next_look()
                seconds = 0.0 if self._read_on() else self._seconds_to_wait(deadline)
                try:
                    message = self.inbox.get(timeout=seconds)
                except queue.Empty:
                    if patience is not None and patience.is_over():
                        raise self.timed_out(patience.timeout) from None
                    message = None
                if isinstance(message, _Stop):
                    yield from self._flush()
                    break
                if isinstance(message, BaseException):
                    raise message
                # None means that a deadline has passed, or that there is room for more calls.
                ready = self._on_time() if message is None else self._handle(message)
                if patience is not None:
                    if ready:
                        patience.again()
                    elif patience.is_over():  # the inbox may never be empty
                        raise self.timed_out(patience.timeout)
                del message
                yield from ready
        except BaseException as caught:
            error = caught
            shorten(caught)
            raise caught
        finally:
            self.end(error)

    @abstractmethod
    def consumed(self, number: int) -> None:
        """Count results that a generator's consumer has taken, to make room for more calls; from any thread."""

    def stop(self) -> None:
        """End the run with the results that are there; from any thread, also from a listener."""
        self.inbox.put(_Stop())

    def attach(self, values: list[Any], error: BaseException) -> None:
        """Attach the results that are there to the exception that ended the run.

        Parameters
        ----------
        values
            The results that were delivered. The buffered ones are added to them.
        error
            The exception. It gets the attribute ``results``.
        """
        results = dict(enumerate(values)) if self.schedule.results.ordered else {}
        for start, buffered in self.schedule.results.buffered.items():
            results.update(enumerate(buffered, start))
        errors.attach(error, "results", errors.PartialResults(results))

    def _read_on(self) -> bool:
        """Read a call of a slow input while the caller would only wait; return whether it did."""
        slow = self.schedule.queue.seconds_to_read > SLOW_TO_READ
        return slow and self.inbox.empty() and self.schedule.read_on()

    def _seconds_to_wait(self, deadline: float | None) -> float | None:
        """Return the seconds until the next retry, check of running calls, or deadline; None if there is none.

        They are fewer where Ctrl-C would not interrupt such a wait.
        """
        then = math.inf if deadline is None else deadline
        if self._retries:
            then = min(then, self._retries[0][0])
        if self._check_at < then and self._busy():
            then = self._check_at
        return longest_wait(max(then - time.monotonic(), 0))

    def _on_time(self) -> Ready:
        """Requeue calls whose retry delay has elapsed, and time out calls that ran too long.

        Returns
        -------
        The results that can now be delivered.
        """
        now = time.monotonic()
        while self._retries and self._retries[0][0] <= now:
            self.schedule.awaiting_retry -= 1
            self.schedule.queue.requeue(heapq.heappop(self._retries)[2])
        ready = self._check_running(now) if self._check_at <= now else []
        self._use_idle_workers()
        return ready

    def _meanwhile(self) -> Ready:
        """Do what is due by now. A flood of messages, after which the inbox is never empty, must not delay it."""
        now = time.monotonic()
        due = self._check_at <= now or (self._retries and self._retries[0][0] <= now)
        return self._on_time() if due else []

    @abstractmethod
    def _check_running(self, now: float) -> Ready:
        """Fail the calls that have run too long, and set the time of the next check."""

    @abstractmethod
    def _use_idle_workers(self) -> None:
        """Dispatch calls to idle workers, if calls are there."""

    def _flush(self) -> Ready:
        """Return the results that are there, when the run is stopped."""
        return self.schedule.results.flush()

    def _failed(self, call: Batch, error: BaseException) -> Ready:
        """Retry a failed call or make the exception its result; return the results that can now be delivered.

        Raises
        ------
        BaseException
            `error`, if it ends the run.
        """
        (item,) = call
        if not is_call(item):
            raise not_a_call(item, call.start)
        try:
            wait = self._faults.judge(call.start, resolved(item), error)
        except Exception as raised:
            if not self._faults.lasting:
                raise
            error, wait = raised, None
        if wait is None:
            if self._listener is not None:
                self._listener.completed(1, 0.0, self.schedule.sizing.size)
            return self.schedule.results.add_error(call.start, error)
        if wait:
            self.schedule.awaiting_retry += 1
            heapq.heappush(self._retries, (time.monotonic() + wait, call.start, call))
        else:
            self.schedule.queue.requeue(call)
        return []

    def waits_for_input(self) -> bool:
        """Return whether the loop reads the input, or waits for calls and for nothing else; from any thread."""
        schedule = self.schedule
        return schedule.queue.reading or not (schedule.in_flight or schedule.awaiting_retry)

    def timed_out(self, timeout: float) -> BaseException:
        """Return the error for a result that did not come within `timeout` seconds."""
        results = self.schedule.results
        awaited = f"the result of call {results.delivered}" if results.ordered else "another result"
        return errors.RunTimeout(timeout, awaited)

    def end(self, error: BaseException | None) -> None:
        """End the run: abort the calls that still run, and release what it holds. The loop calls it by itself.

        Parameters
        ----------
        error
            The exception that ends the run; None if there is none.
        """
        self.error = error
        try:
            if isinstance(error, (KeyboardInterrupt, SystemExit)) and in_main_thread():
                _uninterrupted(self._abort_and_release)
            else:
                self._abort_and_release()
        finally:
            if self._listener is not None:
                self._listener.finished(GeneratorExit() if isinstance(error, Cancelled) else error)

    def _abort_and_release(self) -> None:
        try:
            for index in self._busy():
                self.slots[index] = self._plan.backend.abort(self.slots[index])
        finally:
            self._close()
            self._release()

    def _close(self) -> None:  # noqa: B027 a run on threads holds nothing else
        """Release what the run holds beside its slots."""


def _uninterrupted(do: Callable[[], None]) -> None:
    """Call `do` in another thread and wait for it.

    Users who press Ctrl-C often press it twice. Python raises the second KeyboardInterrupt in the main thread. There it
    can end the waiting, but it cannot stop `do` half-way, which would leave a worker busy with a call that nobody waits
    for.
    """
    threads = DaemonThreads(1)
    try:
        done = threads.submit(do)
    except (WorkerStartError, RuntimeError):  # the system allows no more threads, or the interpreter shuts down
        do()
        return
    threads.shutdown(wait=False)
    done.result()
