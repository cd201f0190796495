"""One run: what is live while the calls of one ``Parallel(...)(calls)`` are computed, owned by one thread.

::

              next_batch                send                        add_done_callback
    Schedule ───────────> BatchRun ────────────> a slot's executor ───────────────────┐
        ^                     ^  (Transport)                                          │
        │ completed           │ get                                                   │ put
        └──── due results ────┴──────────────────────────── inbox <───────────────────┘

    PullRun: each thread takes calls from the Schedule by itself, under one lock, until there are none.

`results()` is the loop. A list is made by running it in the caller's thread; for a generator, `stream()` runs it in a
thread of its own. Whatever ends it (the last result, an exception, a generator that is dropped) goes through its
``finally``: there is no other way out.
"""

from __future__ import annotations

import contextvars
import queue
import sys
import threading
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Future
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any

from shoal import errors
from shoal.backends import Backend, Slot
from shoal.errors import UnusedResultsWarning
from shoal.parallel._batch import Batch
from shoal.parallel._delayed import Shared, describe, not_a_call, plain
from shoal.parallel._objects import Nothing, ObjectTransport
from shoal.parallel._schedule import Schedule
from shoal.parallel._transport import CallFailed, Shipment, Transport

if TYPE_CHECKING:
    from shoal.observe._teller import Teller

Due = list[Sequence[Any]]
Held = Shipment | Nothing


class Cancelled(BaseException):
    """The run was given up by whoever waited for it; inside shoal only."""


class Run(ABC):
    """What every run has: an inbox, a loop, and one way out.

    Parameters
    ----------
    backend, slots
        Where the calls run. Slots that are aborted are replaced in the list.
    schedule
        Which calls run next, and which results are due.
    tell
        Takes what happens; None if nobody listens.
    timeout
        The seconds that a due result may take; None for no limit.
    release
        Called when nothing of the run is left on its slots.
    """

    def __init__(
        self,
        backend: Backend,
        slots: list[Slot],
        schedule: Schedule,
        tell: Teller | None,
        timeout: float | None,
        release: Callable[[], None],
    ) -> None:
        self.schedule = schedule
        self.inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._backend = backend
        self._slots = slots
        self._tell = tell
        self._timeout = timeout
        self._release = release

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
            deadline = None if self._timeout is None else time.monotonic() + self._timeout
            while not self.finished:
                try:
                    message = self.inbox.get(timeout=None if deadline is None else max(deadline - time.monotonic(), 0))
                except queue.Empty:
                    assert self._timeout is not None
                    raise self.too_late(self._timeout) from None
                if isinstance(message, BaseException):
                    raise message
                due = self._take(message)
                if due and self._timeout is not None:
                    deadline = time.monotonic() + self._timeout
                del message
                yield from due
        except BaseException as caught:
            error = caught
            raise
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

    def abandon(self, error: BaseException) -> None:
        """End a run whose loop never began."""
        self._end(error)

    def too_late(self, timeout: float) -> BaseException:
        """Return the error for a result that did not come in time."""
        return errors.RunTimeout(timeout, f"the result of call {self.schedule.due}")

    def _end(self, error: BaseException | None) -> None:
        try:
            for index in self._busy():
                self._slots[index] = self._backend.abort(self._slots[index])
        finally:
            try:
                self._clean()
                self._release()
            finally:
                if self._tell is not None:
                    self._tell.finished(GeneratorExit() if isinstance(error, Cancelled) else error)

    def _clean(self) -> None:  # noqa: B027 most runs hold nothing
        """Let go of what the run holds beside its slots."""


class BatchRun(Run):
    """A run on slots that are sent batches."""

    def __init__(self, transport: Transport | ObjectTransport, *args: Any) -> None:
        super().__init__(*args)
        self._transport: Any = transport
        self._in_flight: list[list[tuple[Batch, Held]]] = [[] for _ in self._slots]
        self._sending: int | None = None

    def start(self) -> None:
        """Send a first batch to each slot."""
        for _ in range(max(slot.width for slot in self._slots)):
            for index in range(len(self._slots)):
                self._feed(index, one=True)

    @property
    def finished(self) -> bool:
        """Whether all results are there."""
        return self.schedule.finished

    def _busy(self) -> list[int]:
        return [index for index, batches in enumerate(self._in_flight) if batches or index == self._sending]

    def _feed(self, index: int, one: bool = False, ahead: int = 1) -> None:
        """Send batches to a slot: as many as it runs at a time, and `ahead` more where that is worth it."""
        executor, width = self._slots[index]
        batches = self._in_flight[index]
        while len(batches) < width + ahead:
            batch = self.schedule.next_batch(busy=len(batches) >= width)
            if self._tell is not None and self.schedule.exhausted:
                self._tell.exhausted(self.schedule.read)
            if batch is None:
                return
            self._sending = index  # an interrupt may come when the batch is on its way and not noted yet
            future, shipment = self._transport.send(batch, executor)
            batches.append((batch, shipment))
            self._sending = None
            if self._tell is not None:
                self._tell.dispatched(len(batch))
            future.add_done_callback(partial(self._arrived, index, batch, shipment))
            if one:
                return

    def _take(self, message: tuple[int, Batch, Held, Future[Any]]) -> Due:
        index, batch, shipment, future = message
        try:
            outcome = future.result()
        except BrokenExecutor as broken:
            held = " and ".join(_name(lost) for lost, _ in self._in_flight[index])
            self._drop(index, batch, shipment)
            raise errors.WorkerDied(held, getattr(broken, "exit_code", None)) from broken
        try:
            values = self._transport.receive(batch, outcome, shipment)
        except CallFailed as failed:
            raise failed.error from failed.error.__cause__
        finally:
            self._drop(index, batch, shipment)
        due = self.schedule.completed(batch, values, outcome.elapsed, shipment.nbytes)
        if self._tell is not None:
            self._tell.completed(len(values), outcome.elapsed, self.schedule.size)
        self._feed(index)
        # The end of the input may have left others with nothing. A batch is queued only behind this slot's, though:
        # what another one runs may take for ever, and its time is not in the pace yet.
        for other in range(len(self._slots)):
            self._feed(other, ahead=0)
        return due

    def _arrived(self, index: int, batch: Batch, shipment: Held, future: Future[Any]) -> None:
        self.inbox.put((index, batch, shipment, future))

    def _drop(self, index: int, batch: Batch, shipment: Held) -> None:
        shipment.close()
        self._in_flight[index].remove((batch, shipment))

    def _clean(self) -> None:
        for batches in self._in_flight:
            for _, shipment in batches:
                shipment.close()
        self._transport.close()


class PullRun(Run):
    """A run on threads of this process: each takes calls, one at a time, until there are none.

    Parameters
    ----------
    surroundings
        Makes the context that each thread enters.
    at_once
        Whether each result is told when it is there, and not only when a thread has nothing left to do.
    """

    def __init__(
        self,
        surroundings: Callable[[], AbstractContextManager[None]],
        at_once: bool,
        n_threads: int,
        *args: Any,
    ) -> None:
        super().__init__(*args)
        self._surroundings = surroundings
        self._at_once = at_once
        self._n_threads = n_threads
        self._running = 0
        self._lock = threading.Lock()
        self._stopped = False

    def start(self) -> None:
        """Let the threads begin."""
        for slot in self._slots:
            for _ in range(min(slot.width, self._n_threads - self._running)):
                self._running += 1
                slot.executor.submit(self._pull)

    @property
    def finished(self) -> bool:
        """Whether all threads have found nothing left to do."""
        return not self._running

    def _busy(self) -> list[int]:
        self._stopped = True
        return list(range(len(self._slots))) if self._running else []

    def _take(self, message: tuple[list[tuple[int, Any]], float] | None) -> Due:
        if message is None:
            self._running -= 1
            return []
        done, elapsed = message
        due: Due = []
        for index, value in done:
            due += self.schedule.settle(index, value)
        if self._tell is not None:
            if self.schedule.exhausted:
                self._tell.exhausted(self.schedule.read)
            self._tell.dispatched(len(done))
            self._tell.completed(len(done), elapsed, self.schedule.size)
        return due

    def _pull(self) -> None:
        """Be the loop of one thread."""
        done: list[tuple[int, Any]] = []
        take, lock, at_once, put = self.schedule.take, self._lock, self._at_once, self.inbox.put
        try:
            with self._surroundings():
                while True:
                    with lock:  # also held over the caller's iterator, which is not ours to call twice at a time
                        taken = None if self._stopped else take()
                    if taken is None:
                        break
                    index, call = taken
                    del taken
                    try:
                        function, args, kwargs = plain(call) if Shared.in_use else call
                    except (TypeError, ValueError):
                        raise not_a_call(call, index) from None
                    del call
                    if at_once:
                        began = time.perf_counter()
                        value = function(*args, **kwargs)
                        put(([(index, value)], time.perf_counter() - began))
                        del value
                    else:
                        done.append((index, function(*args, **kwargs)))
            if done:
                put((done, 0.0))
            put(None)
        except BaseException as error:  # it is raised where the results are awaited
            self._stopped = True
            put(error)


def _stream(run: Run, timeout: float | None, ended: Callable[[], None]) -> Iterator[Any]:
    outbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
    loop = run.results()
    over = threading.Event()
    # Held here, since at the end of the interpreter this module's names may be gone before the generator is.
    current_thread, is_finalizing = threading.current_thread, sys.is_finalizing

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
    thread = threading.Thread(target=context.run, args=(pump,), name="shoal-run", daemon=True)
    try:
        thread.start()
    except BaseException as error:
        run.abandon(error)
        ended()
        raise
    consumed = 0
    freed = False
    try:
        yield None
        while True:
            try:
                values = outbox.get(timeout=timeout)
            except queue.Empty:
                assert timeout is not None
                raise run.too_late(timeout) from None
            if values is None:
                return
            if isinstance(values, BaseException):
                raise values
            for value in values:
                consumed += 1
                if over.is_set() and not freed:
                    freed = True
                    ended()
                yield value
            del values
    except GeneratorExit:
        if not is_finalizing():
            _warn_unused(run.schedule, consumed)
        raise
    finally:
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
        warnings.warn(" ".join(parts), UnusedResultsWarning, stacklevel=3)


def _name(batch: Batch) -> str:
    function = describe(batch.function(0))
    if len(batch) == 1:
        return f"call {batch.start}, {function}(...)"
    return f"the calls {batch.start} to {batch.start + len(batch) - 1}, {function}(...)"
