"""One run: what is live while the calls of one ``Parallel(...)(calls)`` are computed, owned by one thread.

::

              next_batch                send                        add_done_callback
    Schedule ───────────> BatchRun ────────────> a slot's executor ───────────────────┐
        ^                     ^  (Transport)                                          │
        │ completed, lost     │ get                                                   │ put
        └──── due results ────┴──────────────────────────── inbox <───────────────────┘
                              │ a call has failed
                              └───────────> Faults: again (now, or in so many seconds), its exception stands, or the end

    PullRun: each thread takes calls from the Schedule by itself, under one lock, until there are none.

`results()` is the loop. A list is made by running it in the caller's thread; for a generator, `stream()` runs it in a
thread of its own. Whatever ends it (the last result, an exception, a generator that is dropped) goes through its
``finally``: there is no other way out.
"""

from __future__ import annotations

import contextvars
import heapq
import math
import queue
import sys
import threading
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any

from shoal import errors
from shoal.backends import Backend, Slot
from shoal.errors import FallbackWarning, TaskTimeout, UnusedResultsWarning
from shoal.parallel._batch import Batch
from shoal.parallel._delayed import Call, Shared, not_a_call, plain
from shoal.parallel._faults import Faults, named
from shoal.parallel._objects import Nothing, ObjectTransport
from shoal.parallel._schedule import Schedule
from shoal.parallel._transport import Shipment, Transport
from shoal.parallel._worker import Missing

if TYPE_CHECKING:
    from shoal.observe._teller import Teller

Due = list[Sequence[Any]]
Held = Shipment | Nothing


class Cancelled(BaseException):
    """The run was given up by whoever waited for it; inside shoal only."""


class _Stop:
    """What is put into the inbox to end a run with the results that are there."""


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
    faults
        What is to be done about calls that fail.
    task_timeout
        The seconds that a call may run; None for no limit.
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
        faults: Faults,
        task_timeout: float | None,
        release: Callable[[], None],
    ) -> None:
        self.schedule = schedule
        self._faults = faults
        self._task_timeout = task_timeout
        self._look_at = math.inf if task_timeout is None else 0.0  # when a call may have run for too long
        self._later: list[tuple[float, int, Batch]] = []  # calls that wait to run again: when, index, the call
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
                    message = self.inbox.get(timeout=self._patience(deadline))
                except queue.Empty:
                    if deadline is not None and time.monotonic() >= deadline:
                        assert self._timeout is not None
                        raise self.too_late(self._timeout) from None
                    yield from self._tick()
                    continue
                if isinstance(message, _Stop):
                    yield from self._ready()
                    break
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

    def stop(self) -> None:
        """End the run with the results that are there; from any thread, also from a listener."""
        self.inbox.put(_Stop())

    def attach(self, values: list[Any], error: BaseException) -> None:
        """Give an exception that ended the run the results that are there, `values` and those that were not due."""
        results = dict(enumerate(values)) if self.schedule.ordered else {}
        for start, held in self.schedule.held.items():
            results.update(enumerate(held, start))
        errors.attach(error, "results", results)

    def _patience(self, deadline: float | None) -> float | None:
        """Return the seconds until something is to be done in any case; None if nothing is."""
        then = min(
            self._look_at, self._later[0][0] if self._later else math.inf, math.inf if deadline is None else deadline
        )
        return None if then == math.inf else max(then - time.monotonic(), 0)

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
        wait = self._faults.judge(call.start, plain(item), error)
        if wait is None:
            if self._tell is not None:
                self._tell.completed(1, 0.0, self.schedule.size)
            return self.schedule.settle(call.start, error)
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
            future.add_done_callback(partial(self._arrived, index, batch, shipment, executor))
            if one:
                return

    def _arrived(self, index: int, batch: Batch, shipment: Held, executor: Executor, future: Future[Any]) -> None:
        # A worker that replaces a dead one will write over what that has noted.
        broken = not future.cancelled() and isinstance(future.exception(), BrokenExecutor)
        running = self._transport.running(executor) if broken else None
        self.inbox.put((index, batch, shipment, running, future))

    def _take(self, message: tuple[int, Batch, Held, tuple[int | None, float] | None, Future[Any]]) -> Due:
        index, batch, shipment, running, future = message
        if (batch, shipment) not in self._in_flight[index]:  # it was given up meanwhile
            return []
        try:
            outcome = future.result()
        except (BrokenExecutor, Missing, CancelledError) as lost:
            due = self._lost(index, batch, shipment, running, lost)
        else:
            due = self._received(index, batch, shipment, outcome)
        self._feed(index)
        self._go_on()
        return due

    def _received(self, index: int, batch: Batch, shipment: Held, outcome: Any) -> Due:
        try:
            values, error, whole = self._transport.receive(batch, outcome, shipment)
        finally:
            self._drop(index, batch, shipment)
        done = batch if error is None else batch.split(len(values))
        due = self.schedule.completed(done, values, outcome.elapsed, shipment.nbytes)
        if self._tell is not None and values:
            self._tell.completed(len(values), outcome.elapsed, self.schedule.size)
        if error is not None:
            if whole and not self._faults.lenient:
                raise error
            call = self.schedule.isolate(batch, None if whole else 0)
            if call is not None:
                due += self._failed(call, error)
        return due

    def _lost(
        self, index: int, batch: Batch, shipment: Held, running: tuple[int | None, float] | None, lost: BaseException
    ) -> Due:
        """Take note that a batch has died with its worker, or was on its way to one that had died before."""
        self._drop(index, batch, shipment)
        self._transport.forget(self._slots[index].executor)
        if isinstance(lost, BrokenExecutor):
            # If another batch's call ran, this one is not to blame.
            at = None if running is None or running[0] is None else running[0] - batch.start
            call = self.schedule.lost(batch, at if at is None or 0 <= at < len(batch) else -1)
        else:
            call = self.schedule.lost(batch, -1)
        if call is None:
            return []
        (item,) = call
        error = errors.WorkerDied(named(call.start, plain(item)), getattr(lost, "exit_code", None))
        error.__cause__ = lost
        return self._failed(call, error)

    def _look(self, now: float) -> Due:
        due: Due = []
        limit = self._task_timeout
        assert limit is not None
        self._look_at = now + limit
        for index in self._busy():
            executor = self._slots[index].executor
            running = self._transport.running(executor)
            if running is None or running[0] is None:  # it is on its way
                continue
            # The workers' clock and this one may count from different moments.
            left = limit - (time.perf_counter() - running[1])
            if left > 0:
                self._look_at = min(self._look_at, now + left)
                continue
            self._slots[index] = self._backend.abort(self._slots[index])
            self._transport.forget(executor)
            for batch, shipment in list(self._in_flight[index]):
                self._drop(index, batch, shipment)
                at = running[0] - batch.start
                call = self.schedule.lost(batch, at if 0 <= at < len(batch) else -1)
                if call is not None:
                    (item,) = call
                    due += self._failed(call, TaskTimeout(named(call.start, plain(item)), limit))
        return due

    def _go_on(self) -> None:
        # The end of the input, or of a worker, may have left others with nothing. A batch is queued only behind that
        # of the slot that has just answered, though: what another one runs may take for ever, and its time is not in
        # the pace yet.
        for index in range(len(self._slots)):
            self._feed(index, ahead=0)

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
        self._pulls: set[_Pull] = set()
        self._lock = threading.Lock()
        self._stopped = False
        self._warned = False

    def start(self) -> None:
        """Let the threads begin."""
        for slot in self._slots:
            for _ in range(min(slot.width, self._n_threads - len(self._pulls))):
                self._begin(slot)

    def _begin(self, slot: Slot) -> None:
        pull = _Pull(self._at_once)
        self._pulls.add(pull)
        slot.executor.submit(self._pull, pull)

    @property
    def finished(self) -> bool:
        """Whether all threads have found nothing left to do, and no call waits to run again."""
        return not self._pulls and not self.schedule.resting

    def _busy(self) -> list[int]:
        self._stopped = True
        return list(range(len(self._slots))) if self._pulls else []

    def _take(self, message: tuple[_Pull, Any]) -> Due:
        pull, said = message
        if pull not in self._pulls:  # it was given up
            return []
        due: Due = []
        if said is None:
            self._pulls.discard(pull)
            self._go_on()
        elif isinstance(said, _Failed):
            due = self._failed(said.call, said.error)
        else:
            done, elapsed = said
            for index, value in done:
                due += self.schedule.settle(index, value)
            if self._tell is not None:
                if self.schedule.exhausted:
                    self._tell.exhausted(self.schedule.read)
                self._tell.dispatched(len(done))
                self._tell.completed(len(done), elapsed, self.schedule.size)
        return due

    def _ready(self) -> Due:
        self._stopped = True
        due: Due = []
        for pull in self._pulls:
            for index, value in list(pull.done):
                due += self.schedule.settle(index, value)
        return due + super()._ready()

    def attach(self, values: list[Any], error: BaseException) -> None:
        """Give an exception that ended the run the results that are there."""
        for pull in self._pulls:
            for index, value in list(pull.done):
                self.schedule.held[index] = (value,)
        super().attach(values, error)

    def _go_on(self) -> None:
        # The threads that are left take what was given back, if there are any.
        while self.schedule.gave_back and len(self._pulls) < self._n_threads and not self._stopped:
            self._begin(self._slots[0])
            if len(self._pulls) >= self.schedule.gave_back:
                break

    def _look(self, now: float) -> Due:
        due: Due = []
        limit = self._task_timeout
        assert limit is not None
        self._look_at = now + limit
        for pull in list(self._pulls):
            running = pull.running
            if running is None:
                continue
            index, call, since = running
            left = since + limit - now
            if left > 0:
                self._look_at = min(self._look_at, now + left)
                continue
            with self._lock:
                if pull.running is not running:  # it has just ended
                    continue
                pull.given_up = True
            if not self._warned:
                self._warned = True
                warnings.warn(
                    f"{named(index, call)} ran for longer than task_timeout={limit} seconds. A thread cannot be "
                    "stopped: this one is left to end by itself",
                    FallbackWarning,
                    stacklevel=5,
                )
            self._pulls.discard(pull)
            # The old threads go on; they are of an executor that has as many as it may.
            self._slots[0] = self._backend.abort(self._slots[0])
            due += self._failed(Batch.of(index, call), TaskTimeout(named(index, call), limit))
            self._begin(self._slots[0])
        return due

    def _pull(self, pull: _Pull) -> None:
        """Be the loop of one thread."""
        done = pull.done
        take, lock, at_once, put = self.schedule.take, self._lock, self._at_once, self.inbox.put
        careful = self._faults.lenient or self._task_timeout is not None
        try:
            with self._surroundings():
                while True:
                    with lock:  # also held over the caller's iterator, which is not ours to call twice at a time
                        taken = None if self._stopped or pull.given_up else take()
                    if taken is None:
                        break
                    index, call = taken
                    del taken
                    try:
                        function, args, kwargs = plain(call) if Shared.in_use else call
                    except (TypeError, ValueError):
                        raise not_a_call(call, index) from None
                    if careful:
                        pull.running = index, call, time.monotonic()
                    began = time.perf_counter() if at_once else 0.0
                    try:
                        value = function(*args, **kwargs)
                    except Exception as error:
                        pull.running = None
                        if error.__traceback__ is not None:
                            error.__traceback__ = error.__traceback__.tb_next
                        if not careful:
                            self._stopped = True
                        put((pull, _Failed(Batch.of(index, call), error)))
                        del error
                        continue
                    finally:
                        del call
                    pull.running = None
                    if at_once:
                        put((pull, ([(index, value)], time.perf_counter() - began)))
                        del value
                    else:
                        done.append((index, value))
            if done:
                put((pull, (done, 0.0)))
            put((pull, None))
        except BaseException as error:  # it is raised where the results are awaited
            self._stopped = True
            put(error)


class _Pull:
    """One thread of a run, as the run sees it."""

    def __init__(self, at_once: bool) -> None:
        self.done: list[tuple[int, Any]] = []
        self.running: tuple[int, Call, float] | None = None
        self.given_up = False


class _Failed:
    """A call that has raised in a thread."""

    def __init__(self, call: Batch, error: BaseException) -> None:
        self.call, self.error = call, error


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
