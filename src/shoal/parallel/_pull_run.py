"""A run on threads of this process: each takes calls from the Schedule, one at a time, until there are none."""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from shoal._tracebacks import warn
from shoal.backends import Slot, WorkerSpec
from shoal.errors import FallbackWarning, TaskTimeout
from shoal.parallel._batch import Batch
from shoal.parallel._delayed import Call, StandIn, not_a_call, parts, plain
from shoal.parallel._faults import Faults, named
from shoal.parallel._resume import keep
from shoal.parallel._run import Due, Run
from shoal.parallel._schedule import Schedule

if TYPE_CHECKING:
    from shoal.observe._teller import Teller
    from shoal.parallel._plan import Plan


class PullRun(Run):
    """A run on threads of this process: each takes calls, one at a time, until there are none.

    Parameters
    ----------
    plan, slots, schedule, tell, faults, release
        As for :class:`Run`.
    n_threads
        The number of threads.
    surroundings
        Makes the context that each thread enters, from the thread's index.
    """

    def __init__(
        self,
        plan: Plan,
        slots: list[Slot],
        schedule: Schedule,
        tell: Teller | None,
        faults: Faults,
        release: Callable[[], None],
        n_threads: int,
        surroundings: Callable[..., AbstractContextManager[None]],
    ) -> None:
        super().__init__(plan, slots, schedule, tell, faults, release)
        self._n_threads = n_threads
        self._surroundings = surroundings
        # Whether each result is told when it is there, and not only when a thread has nothing left to do.
        timed = plan.timeout is not None or plan.settings.task_timeout is not None
        self._at_once = plan.generates or timed or tell is not None or faults.lenient
        self._pulls: set[_Pull] = set()
        self._free = list(range(n_threads))  # a heap: indices that no thread has
        self._load = [0] * len(self.slots)  # how many threads of each slot run, or are stuck
        self._lock = threading.Lock()
        self._stopped = False
        self._roomy = threading.Event()  # set when results were taken, or there is nothing more to wait for
        self._warned = False

    def start(self) -> None:
        """Let the threads begin."""
        for _ in range(min(sum(slot.width for slot in self.slots), self._n_threads)):
            self._begin()

    def _begin(self) -> None:
        """Have a thread begin that is free; where calls are stuck, there may be none, and it is a new one."""
        index = next((index for index, slot in enumerate(self.slots) if self._load[index] < slot.width), None)
        if index is None:
            index = len(self.slots)
            self.slots += self._plan.backend.open(WorkerSpec(1))
            self._load.append(0)
        self._load[index] += 1
        pull = _Pull(index, heapq.heappop(self._free))
        self._pulls.add(pull)
        self.slots[index].executor.submit(self._pull, pull)

    @property
    def finished(self) -> bool:
        """Whether all threads have found nothing left to do, and no call waits to run again."""
        return not self._pulls and self.schedule.finished

    def took(self, number: int) -> None:
        """Take note that results were taken; wake the threads that wait for that."""
        self.schedule.taken += number
        self._roomy.set()

    def _halt(self) -> None:
        """Have no thread take another call."""
        self._stopped = True
        self._roomy.set()

    def _end(self, error: BaseException | None) -> None:
        self._halt()
        super()._end(error)

    def _busy(self) -> list[int]:
        return [index for index, load in enumerate(self._load) if load]

    def _take(self, message: tuple[_Pull, Any, bool]) -> Due:
        pull, said, over = message
        if pull not in self._pulls:  # it was given up
            return []
        due: Due = []
        if isinstance(said, _Failed):
            due = self._failed(said.call, said.error)
        elif said is not None:
            done, elapsed = said
            if self._at_once:
                self.schedule.measure(len(done), elapsed)
            for index, value in done:
                due += self.schedule.settle(index, value)
            self._roomy.set()  # a result that waits behind another leaves room
            if self._tell is not None:
                if self.schedule.exhausted:
                    self._tell.exhausted(self.schedule.read)
                self._tell.dispatched(len(done))
                self._tell.completed(len(done), elapsed, 1)
        if over:
            self._leave(pull)
            self._load[pull.slot] -= 1
            self._go_on()
        return due

    def _ready(self) -> Due:
        self._halt()
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
        if self.schedule.gave_back:
            self._roomy.set()
        free = self._n_threads - len(self._pulls)
        if free > 0 and not self._stopped:
            for _ in range(min(self.schedule.waiting(), free)):
                self._begin()

    def _leave(self, pull: _Pull) -> None:
        """Take note that a thread takes no more calls: another may have its index."""
        self._pulls.discard(pull)
        heapq.heappush(self._free, pull.index)

    def _look(self, now: float) -> Due:
        due: Due = []
        limit = self._plan.settings.task_timeout
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
                warn(
                    f"{named(index, call)} ran for longer than task_timeout={limit} seconds. A thread cannot be "
                    "stopped: this one is left to end by itself",
                    FallbackWarning,
                )
            self._leave(pull)
            due += self._failed(Batch.of(index, call), TaskTimeout(named(index, call), limit))
            self._begin()
        return due

    def _must_wait(self) -> bool:
        """Tell whether there is no room for the result of another call; called under the lock."""
        if self.schedule.gave_back or self.schedule.room > 0:
            return False
        self._roomy.clear()
        if self.schedule.room > 0:  # as of just now
            return False
        if self._stopped:
            self._roomy.set()
        return True

    def _pull(self, pull: _Pull) -> None:
        """Be the loop of one thread."""
        done = pull.done
        at_once, put, memory = self._at_once, self.inbox.put, self._plan.memory
        lock, take, bounded = self._lock, self.schedule.take, self.schedule.bounded
        careful = self._faults.lenient or self._plan.settings.task_timeout is not None
        plainly = not (at_once or careful or bounded or memory is not None)
        try:
            with self._surroundings(pull.index):
                while True:
                    with lock:  # also held over the caller's iterator, which is not ours to call twice at a time
                        if self._stopped or pull.given_up:
                            break
                        wait = bounded and self._must_wait()
                        taken = None if wait else take()
                    if wait:
                        self._roomy.wait()
                        continue
                    if taken is None:
                        break
                    index, call = taken
                    del taken
                    try:
                        function, args, kwargs = plain(parts(call, index)) if StandIn.in_use else call
                    except (TypeError, ValueError):
                        raise not_a_call(call, index) from None
                    try:
                        if plainly:
                            done.append((index, function(*args, **kwargs)))
                            continue
                        if careful:
                            pull.running = index, call, time.monotonic()
                        began = time.perf_counter() if at_once else 0.0
                        value = function(*args, **kwargs)
                    except BaseException as error:
                        pull.running = None
                        if error.__traceback__ is not None:
                            error.__traceback__ = error.__traceback__.tb_next
                        if not careful:
                            self._halt()
                        put((pull, _Failed(Batch.of(index, call), error), False))
                        del error, call
                        continue
                    if careful:
                        pull.running = None
                    if memory is not None and not pull.given_up:
                        keep(memory, call, value)
                    del call
                    if at_once:
                        put((pull, ([(index, value)], time.perf_counter() - began), False))
                        del value
                    else:
                        done.append((index, value))
            put((pull, (done, 0.0) if done else None, True))
        except BaseException as error:  # it is raised where the results are awaited
            self._halt()
            put(error)


class _Pull:
    """One thread of a run, as the run sees it."""

    def __init__(self, slot: int, index: int) -> None:
        self.slot = slot
        self.index = index
        self.done: list[tuple[int, Any]] = []
        self.running: tuple[int, Call, float] | None = None
        self.given_up = False


class _Failed:
    """A call that has raised in a thread."""

    def __init__(self, call: Batch, error: BaseException) -> None:
        self.call, self.error = call, error
