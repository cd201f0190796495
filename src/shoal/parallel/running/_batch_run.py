"""A run on slots that receive batches: worker processes, and clusters.

::

              next_batch          encode, send                      add_done_callback
    Schedule ───────────> BatchRun ────────────> a slot's executor ───────────────────┐
        ^                     ^  (Transport)                                          │
        │ completed, lost     │ get                                                   │ put
        └── ready results ────┴──────────────────────────── inbox <───────────────────┘
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, NamedTuple

from shoal import errors
from shoal._sizes import format_size
from shoal.backends import Slot
from shoal.backends._notes import Notes
from shoal.backends.storing import WorkersLost
from shoal.errors import FailedCall, TaskTimeout
from shoal.observe._messages import decoded
from shoal.observe._saying import deliver
from shoal.parallel._batch import Batch
from shoal.parallel._delayed import resolved
from shoal.parallel.options._plan import handles_message
from shoal.parallel.running._faults import Faults, described
from shoal.parallel.running._resume import store
from shoal.parallel.running._run import Run
from shoal.parallel.running._schedule import Ready, Schedule
from shoal.parallel.transport._contract import R, Transport, Unsendable, span
from shoal.parallel.transport._status import WorkerStatus, status_page
from shoal.parallel.transport._worker import Missing
from shoal.parallel.transport._worker_limits import KILL_FACTOR, SAMPLE_SECONDS, WorkerLimits, private_memory

if TYPE_CHECKING:
    from shoal.observe._teller import Teller
    from shoal.parallel.options._plan import Plan


#: So many idle workers get a batch before replies are handled again. Of thousands of workers, the first ones reply
#: while others wait for a first batch, and their replies tell how large batches should be.
FED_AT_ONCE = 64


class _Note(NamedTuple):
    """A message to the loop: a call that still runs has said or sent something."""

    notes: Notes  # is told when the note was handled
    note: bytes


class BatchRun(Run, Generic[R]):
    """A run on slots that receive batches.

    Parameters
    ----------
    plan, slots, schedule, listener, faults, release
        As for :class:`Run`.
    transport
        Carries batches to workers, and replies back.
    limits
        The limits at which workers are replaced; None for no limit.
    """

    def __init__(
        self,
        plan: Plan,
        slots: list[Slot],
        schedule: Schedule,
        listener: Teller | None,
        faults: Faults,
        release: Callable[[], None],
        transport: Transport[R],
        limits: WorkerLimits | None,
    ) -> None:
        super().__init__(plan, slots, schedule, listener, faults, release)
        self._transport = transport
        transport.on_note = lambda notes, note: self.inbox.put(_Note(notes, note))
        if self._receiver is not None:
            transport.take_messages(self._receiver.messages, self._receiver.steps)
        self._limits = limits or WorkerLimits(None, None)
        # Whether a batch may wait at a busy worker. A worker that serves a limited number of calls would return it.
        self._queues_ahead = self._limits.calls is None
        if self._limits.memory is not None:
            self._check_at = 0.0
        # By slot. A dict, because an engine's only slot may have thousands of batches.
        self._in_flight: list[dict[R, None]] = [{} for _ in self.slots]
        # The slots that have fewer batches than workers. The one that has become idle last is used first: it is warm.
        self._idle = dict.fromkeys(reversed(range(len(self.slots))))
        self._sending: int | None = None
        # The next batch, encoded while all workers were busy: to encode takes longer than to send.
        self._next: R | None = None
        self._deaths: list[tuple[BaseException | None, WorkerStatus | None]] = [(None, None) for _ in self.slots]
        self._died_idle: dict[int, BaseException] = {}  # by slot
        self._full = False  # whether calls wait until results are consumed
        self._room = threading.Lock()  # guards _full, and the schedule's count of consumed results

    def start(self) -> None:
        """Send a first batch to each worker; see :meth:`_use_idle_workers`."""
        self._transport.record = status_page.begin_run(*self.published, kind=self._transport.row_kind)
        number = 0
        for _ in range(max(slot.width for slot in self.slots)):
            for index in range(len(self.slots)):
                self._feed(index, one=True)
                number += 1
                if number == FED_AT_ONCE:
                    self.inbox.put(None)
                    return

    def _busy(self) -> list[int]:
        return [index for index, requests in enumerate(self._in_flight) if requests or index == self._sending]

    def _feed(self, index: int, one: bool = False, ahead: bool = True) -> None:
        """Send batches to a slot until all its workers have one.

        Parameters
        ----------
        index
            The index of the slot.
        one
            Whether to send only one batch.
        ahead
            Whether each worker may get a second batch, which waits behind the first, where this is worth it.
        """
        executor, width = self.slots[index]
        requests = self._in_flight[index]
        most = 2 * width if ahead and self._queues_ahead else width
        while len(requests) < most:
            busy = len(requests) >= width
            if (busy and self._idle) or not self._prepare(busy):
                return
            request = self._next
            assert request is not None
            self._sending = index  # an interrupt may come between the sending and the append
            future = self._transport.send(request, executor)
            requests[request] = None
            if len(requests) == width:
                del self._idle[index]
            self._next = self._sending = None
            if self._listener is not None:
                self._listener.dispatched(len(request.batch))
            future.add_done_callback(partial(self._on_done, index, request, executor))
            if one:
                return

    def _prepare(self, busy: bool = False) -> bool:
        """Encode the next batch, unless one is encoded already; return whether there is one to send.

        Parameters
        ----------
        busy
            Whether the batch would wait at its worker.
        """
        if self._next is not None:
            return not busy or self.schedule.worth_queueing(len(self._next.batch))
        if self.schedule.queue.empty:
            return False
        with self._room:
            room = self.schedule.room
            self._full = room <= 0
        batch = self.schedule.next_batch(busy, room)
        if self._listener is not None and self.schedule.queue.exhausted:
            self._listener.exhausted(self.schedule.queue.read)
        if batch is None:
            return False
        self._next = self._transport.encode(batch)
        return True

    def _on_done(self, index: int, request: R, executor: Executor, future: Future[Any]) -> None:
        """Put a reply into the inbox; called in any thread."""
        running: WorkerStatus | None = None
        error = None if future.cancelled() else future.exception()
        if isinstance(error, BrokenExecutor):
            # Read the status row at once, because the next worker will overwrite it. Read it once per death: all
            # batches of a dead worker get the same error.
            if self._deaths[index][0] is not error:
                self._deaths[index] = error, self._transport.replaced(executor)
            running = self._deaths[index][1]
        self.inbox.put((index, request, running, future))

    def _handle(self, message: tuple[int, R, WorkerStatus | None, Future[Any]] | _Note) -> Ready:
        if isinstance(message, _Note):
            return self._noted(*message)
        index, request, running, future = message
        if request not in self._in_flight[index]:  # its worker was killed meanwhile
            return []
        try:
            reply = future.result()
        except (BrokenExecutor, Missing, CancelledError) as lost:
            ready = self._lost(index, request, running, lost)
        except Unsendable as refusal:
            ready = self._not_sent(index, request, refusal)
        except Exception as error:
            ready = self._not_sent(index, request, self._transport.explain(request.batch, error))
        else:
            ready = self._received(index, request, reply)
        if self._next is not None or not self.schedule.queue.empty:
            self._feed(index)
            self._use_idle_workers()
        if self._transport.record is not None:
            self._transport.record.publish(self.schedule.results.completed, self.total)
        return ready

    def _noted(self, notes: Notes, note: bytes) -> Ready:
        """Handle what a call has said or sent that still runs; then its worker may send more."""
        token = handles_message.set(True)
        try:
            self._take(note)
        finally:
            handles_message.reset(token)
        notes.handled(note)
        return self._meanwhile()

    def _take(self, note: bytes) -> None:
        """Handle what a call has said or sent."""
        told = decoded(note)
        if told is None:
            deliver(note)
        elif self._receiver is not None:
            self._receiver(told)

    def _received(self, index: int, request: R, reply: Any) -> Ready:
        """Decode a reply, complete its calls, and handle the failure that it holds, if any."""
        slot, batch, memory = self.slots[index], request.batch, self._plan.memory
        try:
            values, error, elapsed, whole, said, retiring, told, _ = self._transport.receive(request, reply)
        finally:
            self._drop(index, request)
        if retiring and self._plan.backend.retire(slot, retiring):
            self._transport.replaced(slot.executor)
        for note in told:
            self._take(note)
        if said is not None:
            deliver(said)
        done = batch if error is None else batch.split(len(values))
        if memory is not None:
            for call, value in zip(done, values, strict=False):  # a batch that was cut short has fewer values
                store(memory, call, value)
        nbytes = request.nbytes + request.returned
        ready = self.schedule.completed(done, values, elapsed, nbytes, request.returned)
        if self._listener is not None and values:
            self._listener.completed(len(values), elapsed, self.schedule.sizing.size)
        if error is not None:
            if whole and not self._faults.lenient:
                raise error
            failed = self.schedule.isolate(batch, None if whole else 0)
            if failed is not None:
                ready += self._failed(failed, error)
        return ready

    def _lost(self, index: int, request: R, running: WorkerStatus | None, lost: BaseException) -> Ready:
        """Handle a batch whose worker has died, or had died before the batch reached it."""
        batch = request.batch
        self._drop(index, request)
        self._transport.forget(self.slots[index].executor)  # also if more was sent there before the death was known
        at = self._culprit(index, batch, running, lost)
        if at is None and self.slots[index].width > 1 and len(batch) > 1 and not self._faults.lenient:
            # A cluster engine has tried the batch on several workers, and would do so with each part of it.
            raise errors.WorkerDied(span(batch), None, doing=_doing(running, lost)) from lost.with_traceback(None)
        call = self.schedule.lost(batch, at)
        if call is None:
            return []
        error = errors.WorkerDied(_described(call), getattr(lost, "exit_code", None), doing=_doing(running, lost))
        # An engine reports what it has tried. Executors of single processes know no more than shoal, and guess wrong:
        # "a result has failed to un-serialize" (loky).
        error.__cause__ = lost.with_traceback(None) if self.slots[index].width > 1 else None
        return self._failed(call, error)

    def _not_sent(self, index: int, request: R, refusal: Unsendable) -> Ready:
        """Handle a batch that could not be encoded."""
        self._drop(index, request)
        if refusal.position is None and not self._faults.lenient:
            raise refusal.error
        call = self.schedule.lost(request.batch, refusal.position)
        return [] if call is None else self._failed(call, refusal.error)

    def _culprit(self, index: int, batch: Batch, running: WorkerStatus | None, lost: BaseException) -> int | None:
        """Return the position in a batch of the call that killed its worker: -1 for none, None if it is unknown."""
        if not isinstance(lost, BrokenExecutor):
            return -1
        if running is None:
            return None
        if running.call is not None:
            return _position(batch, running.call)
        if running.batch is not None:
            return None if running.batch == batch.start else -1
        # The worker died before it began a batch of this run. The first time, no call is blamed. The second time, the
        # call may be to blame; otherwise a run whose workers die at their start would go on for ever.
        return -1 if self._died_idle.setdefault(index, lost) is lost else None

    def _check_running(self, now: float) -> Ready:
        ready: Ready = []
        seconds, memory = self._plan.settings.task_timeout, self._limits.memory
        self._check_at = now + min(seconds or math.inf, math.inf if memory is None else SAMPLE_SECONDS)
        for index in self._busy():
            running = self._transport.status(self.slots[index].executor)
            if running is None or running.call is None:  # the batch is on its way there or back
                continue
            if memory is not None and (nbytes := private_memory(running.pid) or 0) > KILL_FACTOR * memory:
                reason = (
                    f"it held {format_size(nbytes)} of memory, over max_worker_memory={format_size(memory)!r} by more "
                    "than half"
                )
                ready += self._kill(index, running.call, partial(errors.WorkerDied, exit_code=None, reason=reason))
            elif seconds is not None:
                # By perf_counter: the worker's monotonic clock may count from another moment.
                left = seconds - (time.perf_counter() - running.since)
                if left > 0:
                    self._check_at = min(self._check_at, now + left)
                else:
                    ready += self._kill(index, running.call, partial(TaskTimeout, seconds=seconds))
        return ready

    def _kill(self, index: int, culprit: int, error: Callable[[FailedCall], BaseException]) -> Ready:
        """Kill a slot's worker in the middle of a call. That call fails; the other calls of the slot are requeued."""
        ready: Ready = []
        executor = self.slots[index].executor
        self.slots[index] = self._plan.backend.abort(self.slots[index])
        self._transport.replaced(executor)
        for request in list(self._in_flight[index]):
            self._drop(index, request)
            call = self.schedule.lost(request.batch, _position(request.batch, culprit))
            if call is not None:
                ready += self._failed(call, error(_described(call)))
        return ready

    def consumed(self, number: int) -> None:
        """Count results that the consumer has taken; wake the loop if its calls wait for that."""
        with self._room:
            self.schedule.results.consumed += number
            wake = self._full and self.schedule.room > 0
            if wake:
                self._full = False
        if wake:
            self.inbox.put(None)

    def _use_idle_workers(self) -> None:
        # A worker is idle if it was replaced, or if calls were requeued after the input had ended. It gets one batch,
        # not two: nobody knows yet how long a requeued call takes. Only the slot that has just replied gets a second.
        for _ in range(FED_AT_ONCE):
            if not self._idle or not self._prepare():
                break
            index, _ = self._idle.popitem()
            self._idle[index] = None
            self._feed(index, one=True, ahead=False)
        else:
            if self._idle:  # handle the replies that have come meanwhile, then go on
                self.inbox.put(None)
        if self.schedule.prefetches and not self._idle:
            self._prepare()

    def _drop(self, index: int, request: R) -> None:
        request.close()
        requests = self._in_flight[index]
        del requests[request]
        if len(requests) < self.slots[index].width:
            self._idle[index] = None

    def _close(self) -> None:
        if self._next is not None:
            self._next.close()
        for requests in self._in_flight:
            for request in requests:
                request.close()
        self._transport.close()
        if self._transport.record is not None:
            status_page.end_run(self._transport.record)
            self._transport.record = None


def _described(call: Batch) -> FailedCall:
    """Describe the call in a batch of one."""
    (item,) = call
    return described(call.start, resolved(item))


def _doing(running: WorkerStatus | None, lost: BaseException) -> str:
    """Return the words for what a worker did with a call when the worker died."""
    if isinstance(lost, WorkersLost):
        return "it may have run"
    if running is None or running.call is not None:
        return "it ran"
    if running.batch is not None:
        return "it was receiving the arguments, or sending the result, of"
    return "it had just started (see its initializer, and what it imports), and was to run"


def _position(batch: Batch, index: int) -> int:
    """Return the position of a call in a batch; -1 if the call is in another batch."""
    return index - batch.start if batch.start <= index < batch.start + len(batch) else -1
