"""Runs of which a report is made. A run without a report loads none of this.

::

    BatchRun ── MeasuredBatchRun ── MeasuredTransport ──┐
    PullRun ─── MeasuredPullRun ────────────────────────┼──> Meter (reports/_meter.py)
    a loop in the caller's thread ── SerialListener ────┘
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager
from contextvars import Token
from functools import partial
from typing import TYPE_CHECKING, Any

from shoal._sizes import parse_size
from shoal.backends import Slot
from shoal.backends.base import CallHere
from shoal.errors import FailedCall
from shoal.observe._teller import RunStarted, Teller
from shoal.observe.events import BatchCompleted, BatchDispatched, CallFailed, Event, InputExhausted, RunFinished
from shoal.parallel._batch import CallQueue
from shoal.parallel._delayed import Call
from shoal.parallel.running._batch_run import BatchRun
from shoal.parallel.running._faults import Faults
from shoal.parallel.running._launch import Kinds, make_run
from shoal.parallel.running._pull_run import Failed, PullRun
from shoal.parallel.running._resume import Known
from shoal.parallel.running._run import Run
from shoal.parallel.running._schedule import Ready, Schedule
from shoal.parallel.transport._contract import R, Transport
from shoal.parallel.transport._measured import MeasuredTransport
from shoal.parallel.transport._shared import Shared
from shoal.parallel.transport._status import WorkerStatus
from shoal.parallel.transport._worker_limits import WorkerLimits
from shoal.parallel.transport._workspace import is_array
from shoal.reports._active import Scope, scope
from shoal.reports._arguments import Arguments, Way
from shoal.reports._batch_meter import Measured
from shoal.reports._calls import SlowCall
from shoal.reports._meter import Meter
from shoal.reports._system import thread_time, thread_use

if TYPE_CHECKING:
    from shoal.parallel.options._plan import Plan
    from shoal.parallel.running._serial import Stoppable


class RunListener:
    """Tells a meter of the events of a run.

    Parameters
    ----------
    meter
        The meter.

    Attributes
    ----------
    finished
        Tells, at the end, whether all calls have run.
    """

    takes_steps = False
    takes_batches = False

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self.finished: Callable[[], bool] = lambda: True

    def __call__(self, event: Event) -> None:
        match event:
            case CallFailed(index=index, error=error, retry_in=retry_in):
                self._meter.failed(index, error, retry_in is not None)
            case InputExhausted(total=total):
                self._meter.tally.total = total
            case RunFinished(error=error):
                self._meter.finish(error, not self.finished())

    def heard(self, teller: Teller | None) -> Teller:
        """Return a teller that tells this listener as well, and have the meter measure the others."""
        about = self._meter.about
        others = [] if teller is None else [_Others(teller, self._meter)]
        return Teller([*others, self], RunStarted(about.n_workers, about.backend, about.total))


class _Others:
    """The other listeners of a run; measures how long they take.

    Parameters
    ----------
    teller
        Has told them that the run has started.
    meter
        The meter.
    """

    def __init__(self, teller: Teller, meter: Meter) -> None:
        self.takes_steps = teller.takes_steps
        self.takes_batches = teller._takes_batches
        self._tell: Callable[[Event], None] = _measured(teller._tell, meter)

    def __call__(self, event: Event) -> None:
        if type(event) is not RunStarted:
            self._tell(event)


def _measured(listener: Callable[..., object], meter: Meter) -> Callable[..., None]:
    """Return a function that calls a listener, and has a meter add up how long that takes."""

    def listen(*arguments: Any) -> None:
        began = time.perf_counter()
        try:
            listener(*arguments)
        finally:
            meter.listened(time.perf_counter() - began)

    return listen


class SerialListener(RunListener):
    """Tells a meter of the calls of a loop in the caller's thread."""

    takes_batches = True

    def __init__(self, meter: Meter) -> None:
        super().__init__(meter)
        self._call: Any = None
        self._index = 0
        self._began: tuple[float, float] | None = None
        self._outside: Token[Scope | None] | None = None
        self._inside = Scope(meter.collectors, meter.id, True)

    def reading(self, calls: Iterable[Call]) -> Iterator[Call]:
        """Yield the calls, and remember the latest."""
        for call in self._meter.reading(calls):
            self._call = call
            yield call

    def __call__(self, event: Event) -> None:
        match event:
            case BatchDispatched():
                self._outside = scope.set(self._inside)
                self._began = time.perf_counter(), thread_time()
            case CallFailed(retry_in=float(wait)):
                self._ended()
                self._began = time.perf_counter() + wait, thread_time()
            case BatchCompleted():
                self._ended()
                self._leave()
            case RunFinished():
                self._ended()
                self._leave()
                self._call = None
        super().__call__(event)

    def _ended(self) -> None:
        if self._began is None:
            return
        (began, cpu), ended = self._began, time.perf_counter()
        self._began = None
        slow = None
        seconds = max(ended - began, 0.0)
        known = type(self._call[0]) is Known
        self._meter.named(self._call[0])
        if not known and seconds > self._meter.slow_above:
            slow = SlowCall.of(self._call, self._index, began, seconds, thread_time() - cpu)
        self._meter.ran(0, self._index, began, began + seconds, slow, known)

    def _leave(self) -> None:
        """Leave the scope of a call."""
        self._index += 1
        if self._outside is not None:
            scope.reset(self._outside)
            self._outside = None


class MeasuredBatchRun(BatchRun[R]):
    """A run on slots that receive batches, and its meter; the other parameters are those of :class:`BatchRun`."""

    def __init__(
        self,
        meter: Meter,
        plan: Plan,
        slots: list[Slot],
        schedule: Schedule,
        listener: Teller | None,
        faults: Faults,
        release: Callable[[], None],
        transport: Transport[R],
        limits: WorkerLimits | None,
    ) -> None:
        transport = MeasuredTransport(transport, meter, Arguments(ways_of(plan)))
        super().__init__(plan, slots, schedule, listener, faults, release, transport, limits)
        self._meter = meter
        self._was_full = False
        # By slot: the exception of the latest death, or the id of the process that was replaced, which several batches
        # may report.
        self._lost_by: list[object] = [None for _ in self.slots]

    def _prepare(self, busy: bool = False) -> bool:
        prepared = super()._prepare(busy)
        self._see_room()
        return prepared

    def _use_idle_workers(self) -> None:
        super()._use_idle_workers()
        self._see_room()

    def _see_room(self) -> None:
        full = bool(self._full and self._next is None and self._idle and not self.schedule.queue.empty)
        if full != self._was_full:
            self._was_full = full
            self._meter.full(full)

    def _received(self, index: int, request: R, reply: Any) -> Ready:
        batch, known = request.batch, 0
        if self._plan.memory is not None:
            functions = batch.functions if type(batch.functions) is list else [batch.functions] * len(batch)
            known = sum(type(function) is Known for function in functions)
        try:
            return super()._received(index, request, reply)
        finally:
            if request.measured is not None:
                found = Measured(*request.measured)
                travel = {
                    "sent": request.nbytes,
                    "returned": request.returned,
                    "pickle": request.pickle_seconds,
                    "unpickle": request.unpickle_seconds,
                }
                self._meter.received(self._slot(index), found, travel, known)
                if request.retiring and self._lost_by[index] != request.retiring:
                    self._lost_by[index] = request.retiring
                    self._retired(index, found)

    def _slot(self, index: int) -> int | None:
        """Return the index of a slot; None if it has several workers."""
        return index if self.slots[index].width == 1 else None

    def _retired(self, index: int, found: Measured) -> None:
        """Take note that a process has reached a limit."""
        most = self._limits.calls
        memory = most is None or found.calls_so_far < most
        limit = "max_worker_memory" if memory else "max_tasks_per_worker"
        self._meter.lost(self._slot(index), "replaced", f"process {found.pid} has reached its limit {limit}", memory)

    def _lost(self, index: int, request: R, running: WorkerStatus | None, lost: BaseException) -> Ready:
        death = lost.__cause__ or lost  # an executor of the user that is broken has the same cause for all its batches
        if isinstance(lost, BrokenExecutor) and self._lost_by[index] is not death:
            self._lost_by[index] = death
            code = getattr(lost, "exit_code", None)
            text = "a worker died" if code is None else f"a worker died: exit code {code}"
            self._meter.lost(self._slot(index), "death", text, busy=_seconds_busy(running))
        return super()._lost(index, request, running, lost)

    def _kill(self, index: int, culprit: int, error: Callable[[FailedCall], BaseException]) -> Ready:
        reason = getattr(error, "keywords", {}).get("reason")
        busy = _seconds_busy(self._transport.status(self.slots[index].executor))
        if reason is None:
            self._meter.lost(index, "", "", busy=busy)  # its call has exceeded task_timeout
        else:
            self._meter.lost(index, "replaced", str(reason), memory=True, busy=busy)
        return super()._kill(index, culprit, error)


def _seconds_busy(running: WorkerStatus | None) -> float:
    """Return how long a process has been busy with its last call, or its last batch; 0 if it had none."""
    return 0.0 if running is None or not running.pid else max(time.perf_counter() - running.since, 0.0)


class MeasuredPullRun(PullRun):
    """A run on threads, and its meter; the other parameters are those of :class:`PullRun`."""

    def __init__(self, meter: Meter, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._meter = meter
        self._at_once = True
        self._inside, self._surroundings = self._surroundings, self._watched
        self._taken: dict[int, tuple[float, Call]] = {}  # the calls that run, and when they began
        self._context.run(scope.set, Scope(meter.collectors, meter.id, True))

    @contextmanager
    def _watched(self, here: CallHere) -> Iterator[None]:
        """The surroundings of a thread's calls; measure what the thread uses in it."""
        before = thread_use()
        with self._inside(here):
            yield
        after = thread_use()
        if before is not None and after is not None:
            self._meter.thread_ended(here.worker or 0, after.since(before))

    def _source(self) -> Callable[[], tuple[int, Call] | None]:
        next_call = super()._source()

        def take() -> tuple[int, Call] | None:
            taken = next_call()
            if taken is not None:
                self._taken[taken[0]] = time.perf_counter(), taken[1]
            return taken

        return take

    def _must_wait(self) -> bool:
        wait = super()._must_wait()
        self._meter.full(wait)
        return wait

    def _handle(self, message: Any) -> Ready:
        thread, outcome, _ = message
        if thread in self._threads and outcome is not None:
            if type(outcome) is tuple:
                done, seconds = outcome
                for index, _ in done:
                    self._ran(thread.index, index, seconds)
            elif isinstance(outcome, Failed):  # else it is a message
                self._ran(thread.index, outcome.call.start, outcome.seconds)
        return super()._handle(message)

    def _ran(self, worker: int, index: int, seconds: float) -> None:
        began, call = self._taken.pop(index)
        slow, known = None, type(call[0]) is Known
        self._meter.named(call[0])
        if not known and seconds > self._meter.slow_above:
            slow = SlowCall.of(call, index, began, seconds, None)
        self._meter.ran(worker, index, began, began + seconds, slow, known)

    def end(self, error: BaseException | None) -> None:
        """End the run, as :meth:`PullRun.end`."""
        super().end(error)
        self._taken.clear()


def ways_of(plan: Plan) -> Callable[[Any], Way | None]:
    """Return a function that tells how an object travels in the runs of a plan, as :class:`Arguments` takes it."""
    settings = plan.settings
    limit: float = float("inf")
    if settings.max_nbytes is not None and settings.mmap_mode is not None and not plan.resends:
        limit = parse_size(settings.max_nbytes)

    def way_of(obj: Any) -> Way | None:
        if type(obj) is Shared:
            return Way("once", None, obj.value)
        if is_array(obj):
            return Way("mapped" if obj.nbytes > limit and not obj.dtype.hasobject else "batch", int(obj.nbytes))
        return None

    return way_of


def make_measured_run(
    meter: Meter,
    plan: Plan,
    calls: Iterable[Call] | CallQueue | Schedule,
    slots: list[Slot],
    close_slots: Callable[[list[Slot]], None],
    n_workers: int,
    shares: tuple[int, int],
    number: int | None,
    bound: int | None,
    teller: Teller | None,
    faults: type[Faults] = Faults,
) -> Run:
    """Make a run as :func:`make_run` does, which takes the same arguments, and have `meter` measure it."""
    listener = RunListener(meter)
    if plan.on_message is not None:
        plan = plan.changed(on_message=_measured(plan.on_message, meter))
    if not isinstance(calls, (CallQueue, Schedule)):
        calls = meter.reading(calls)
    kinds = Kinds(partial(MeasuredPullRun, meter), partial(MeasuredBatchRun, meter))
    heard = listener.heard(teller)
    run = make_run(plan, calls, slots, close_slots, n_workers, shares, number, bound, heard, faults, kinds)
    listener.finished = lambda: run.schedule.finished
    meter.begin()
    return run


def in_serial(
    meter: Meter, runner: Stoppable, calls: Iterable[Call], teller: Teller | None
) -> tuple[Iterable[Call], Teller]:
    """Have `meter` measure a loop in the caller's thread; return the calls and the teller that it is to use."""
    listener = SerialListener(meter)
    listener.finished = lambda: not runner.stopped
    meter.begin()
    return listener.reading(calls), listener.heard(teller)
