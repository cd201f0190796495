"""A run on slots that are sent batches: processes, and clusters.

::

              next_batch          encode, send                      add_done_callback
    Schedule ───────────> BatchRun ────────────> a slot's executor ───────────────────┐
        ^                     ^  (Transport)                                          │
        │ completed, lost     │ get                                                   │ put
        └──── due results ────┴──────────────────────────── inbox <───────────────────┘
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from functools import partial
from typing import TYPE_CHECKING, Any, Generic

from shoal import errors
from shoal._files import format_size
from shoal.backends import Slot
from shoal.errors import FailedCall, TaskTimeout
from shoal.parallel._batch import Batch
from shoal.parallel._delayed import plain
from shoal.parallel._faults import Faults, named
from shoal.parallel._resume import keep
from shoal.parallel._run import Due, Run
from shoal.parallel._schedule import Schedule
from shoal.parallel._status import WorkerStatus
from shoal.parallel._transport import R, Transport, Unsendable, span
from shoal.parallel._worker import Missing
from shoal.parallel._worker_limits import KILL_FACTOR, SAMPLE_SECONDS, WorkerLimits, private_memory

if TYPE_CHECKING:
    from shoal.observe._teller import Teller
    from shoal.parallel._plan import Plan


class BatchRun(Run, Generic[R]):
    """A run on slots that are sent batches.

    Parameters
    ----------
    plan, slots, schedule, tell, faults, release
        As for :class:`Run`.
    transport
        The way of the batches there and back.
    limits
        When workers are replaced; None for no limit.
    """

    def __init__(
        self,
        plan: Plan,
        slots: list[Slot],
        schedule: Schedule,
        tell: Teller | None,
        faults: Faults,
        release: Callable[[], None],
        transport: Transport[R],
        limits: WorkerLimits | None,
    ) -> None:
        super().__init__(plan, slots, schedule, tell, faults, release)
        self._transport = transport
        self._limits = limits or WorkerLimits(None, None)
        # What waits behind the last calls of a worker would come back as it went.
        self._ahead = 1 if self._limits.calls is None else 0
        if self._limits.memory is not None:
            self._look_at = 0.0
        self._in_flight: list[list[R]] = [[] for _ in self.slots]
        self._sending: int | None = None
        # The batch that is sent next, encoded while all workers were busy: that takes longer than to send it.
        self._next: R | None = None
        self._deaths: list[tuple[BaseException | None, WorkerStatus | None]] = [(None, None) for _ in self.slots]
        self._died_idle: dict[int, BaseException] = {}  # by slot
        self._full = False  # whether calls wait until results are taken
        self._room = threading.Lock()  # over that, and the schedule's count of results taken

    def start(self) -> None:
        """Send a first batch to each slot."""
        for _ in range(max(slot.width for slot in self.slots)):
            for index in range(len(self.slots)):
                self._feed(index, one=True, ahead=self._ahead)

    @property
    def finished(self) -> bool:
        """Whether all results are there."""
        return self.schedule.finished

    def _busy(self) -> list[int]:
        return [index for index, requests in enumerate(self._in_flight) if requests or index == self._sending]

    def _feed(self, index: int, one: bool = False, ahead: int = 0) -> None:
        """Send batches to a slot: as many as it runs at a time, and `ahead` times as many where that is worth it."""
        executor, width = self.slots[index]
        requests = self._in_flight[index]
        while len(requests) < width * (1 + ahead):
            if not self._prepare(busy=len(requests) >= width):
                return
            request = self._next
            assert request is not None
            self._sending = index  # an interrupt may come when the batch is on its way and not noted yet
            future = self._transport.send(request, executor)
            requests.append(request)
            self._next = self._sending = None
            if self._tell is not None:
                self._tell.dispatched(len(request.batch))
            future.add_done_callback(partial(self._arrived, index, request, executor))
            if one:
                return

    def _prepare(self, busy: bool = False) -> bool:
        """Encode the next batch, if none is; return whether there is one to send, which has to wait if `busy`."""
        if self._next is not None:
            return not busy or self.schedule.worth_queueing(len(self._next.batch))
        with self._room:
            room = self.schedule.room
            self._full = room <= 0
        batch = self.schedule.next_batch(busy, room)
        if self._tell is not None and self.schedule.exhausted:
            self._tell.exhausted(self.schedule.read)
        if batch is None:
            return False
        self._next = self._transport.encode(batch)
        return True

    def _arrived(self, index: int, request: R, executor: Executor, future: Future[Any]) -> None:
        running: WorkerStatus | None = None
        error = None if future.cancelled() else future.exception()
        if isinstance(error, BrokenExecutor):
            # Now, since the next worker will write over it; once, since all batches that a death breaks have one error.
            if self._deaths[index][0] is not error:
                self._deaths[index] = error, self._transport.replaced(executor)
            running = self._deaths[index][1]
        self.inbox.put((index, request, running, future))

    def _take(self, message: tuple[int, R, WorkerStatus | None, Future[Any]]) -> Due:
        index, request, running, future = message
        if request not in self._in_flight[index]:  # it was given up meanwhile
            return []
        try:
            reply = future.result()
        except (BrokenExecutor, Missing, CancelledError) as lost:
            due = self._lost(index, request, running, lost)
        except Unsendable as refusal:
            due = self._unsent(index, request, refusal)
        except Exception as error:
            due = self._unsent(index, request, self._transport.explain(request.batch, error))
        else:
            due = self._received(index, request, reply)
        self._feed(index, ahead=self._ahead)
        self._go_on()
        return due

    def _received(self, index: int, request: R, reply: Any) -> Due:
        slot, batch, memory = self.slots[index], request.batch, self._plan.memory
        if reply.retiring and self._plan.backend.retire(slot, reply.retiring):
            self._transport.replaced(slot.executor)
        try:
            values, error, whole = self._transport.receive(request, reply)
        finally:
            self._drop(index, request)
        done = batch if error is None else batch.split(len(values))
        if memory is not None:
            for done_call, value in zip(done, values, strict=False):  # the last may not be done: it was cut short
                keep(memory, done_call, value)
        nbytes = request.nbytes + request.returned
        due = self.schedule.completed(done, values, reply.elapsed, nbytes, request.returned)
        if self._tell is not None and values:
            self._tell.completed(len(values), reply.elapsed, self.schedule.size)
        if error is not None:
            if whole and not self._faults.lenient:
                raise error
            call = self.schedule.isolate(batch, None if whole else 0)
            if call is not None:
                due += self._failed(call, error)
        return due

    def _lost(self, index: int, request: R, running: WorkerStatus | None, lost: BaseException) -> Due:
        """Take note that a batch has died with its worker, or was on its way to one that had died before."""
        batch = request.batch
        self._drop(index, request)
        self._transport.forget(self.slots[index].executor)  # also where it was sent something before this was known
        at = self._culprit(index, batch, running, lost)
        if at is None and self.slots[index].width > 1 and len(batch) > 1 and not self._faults.lenient:
            # An engine has tried the batch on several workers by now, and would do so with each part of it.
            raise errors.WorkerDied(span(batch), None) from lost.with_traceback(None)
        call = self.schedule.lost(batch, at)
        if call is None:
            return []
        error = errors.WorkerDied(_name(call), getattr(lost, "exit_code", None), doing=_doing(running))
        # Those who start single processes know no more, and what they guess is wrong: "a result has failed to
        # un-serialize" (loky). An engine says what it has tried.
        error.__cause__ = lost.with_traceback(None) if self.slots[index].width > 1 else None
        return self._failed(call, error)

    def _unsent(self, index: int, request: R, refusal: Unsendable) -> Due:
        """Take note that a batch could not be encoded."""
        self._drop(index, request)
        if refusal.position is None and not self._faults.lenient:
            raise refusal.error
        call = self.schedule.lost(request.batch, refusal.position)
        return [] if call is None else self._failed(call, refusal.error)

    def _culprit(self, index: int, batch: Batch, running: WorkerStatus | None, lost: BaseException) -> int | None:
        """Return the place in a batch of the call that its worker has died of: -1 for none, None if nobody knows."""
        if not isinstance(lost, BrokenExecutor):
            return -1
        if running is None:
            return None
        if running.call is not None:
            return _place(batch, running.call)
        if running.batch is not None:
            return None if running.batch == batch.start else -1
        # It had not begun with this run. Once per slot that is nobody's fault, but some die whenever they start.
        return -1 if self._died_idle.setdefault(index, lost) is lost else None

    def _look(self, now: float) -> Due:
        due: Due = []
        seconds, memory = self._plan.settings.task_timeout, self._limits.memory
        self._look_at = now + min(seconds or math.inf, math.inf if memory is None else SAMPLE_SECONDS)
        for index in self._busy():
            running = self._transport.status(self.slots[index].executor)
            if running is None or running.call is None:  # it is on its way
                continue
            if memory is not None and (nbytes := private_memory(running.pid) or 0) > KILL_FACTOR * memory:
                reason = (
                    f"it held {format_size(nbytes)} of memory, over max_worker_memory={format_size(memory)!r} by more "
                    "than half"
                )
                due += self._kill(index, running.call, partial(errors.WorkerDied, exit_code=None, reason=reason))
            elif seconds is not None:
                # The workers' clock and this one may count from different moments.
                left = seconds - (time.perf_counter() - running.since)
                if left > 0:
                    self._look_at = min(self._look_at, now + left)
                else:
                    due += self._kill(index, running.call, partial(TaskTimeout, seconds=seconds))
        return due

    def _kill(self, index: int, culprit: int, error: Callable[[FailedCall], BaseException]) -> Due:
        """End a slot's worker in the middle of a call, whose failure that is; what else it held runs again."""
        due: Due = []
        executor = self.slots[index].executor
        self.slots[index] = self._plan.backend.abort(self.slots[index])
        self._transport.replaced(executor)
        for request in list(self._in_flight[index]):
            self._drop(index, request)
            call = self.schedule.lost(request.batch, _place(request.batch, culprit))
            if call is not None:
                due += self._failed(call, error(_name(call)))
        return due

    def took(self, number: int) -> None:
        """Take note that results were taken; wake the loop if it waits for that."""
        with self._room:
            self.schedule.taken += number
            wake = self._full and self.schedule.room > 0
            if wake:
                self._full = False
        if wake:
            self.inbox.put(None)

    def _go_on(self) -> None:
        # The end of the input, or of a worker, may have left others with nothing. A batch is queued only behind that
        # of the slot that has just answered, though: what another one runs may take for ever, and its time is not in
        # the pace yet.
        if self.schedule.given_out and self._next is None:
            return
        for index, requests in enumerate(self._in_flight):
            if len(requests) < self.slots[index].width:
                self._feed(index)
        if self.schedule.early and all(self._in_flight):
            self._prepare()

    def _drop(self, index: int, request: R) -> None:
        request.close()
        self._in_flight[index].remove(request)

    def _clean(self) -> None:
        if self._next is not None:
            self._next.close()
        for requests in self._in_flight:
            for request in requests:
                request.close()
        self._transport.close()


def _name(call: Batch) -> FailedCall:
    """Describe a call that is by itself in a batch."""
    (item,) = call
    return named(call.start, plain(item))


def _doing(running: WorkerStatus | None) -> str:
    """Say what a worker did with a call when it died."""
    if running is None or running.call is not None:
        return "it ran"
    if running.batch is not None:
        return "it was receiving the arguments, or sending the result, of"
    return "it had just started (see its initializer, and what it imports), and was to run"


def _place(batch: Batch, index: int) -> int:
    """Return the place of a call in a batch; -1 if it is in another one."""
    return index - batch.start if batch.start <= index < batch.start + len(batch) else -1
