"""A run on threads of this process. Each thread takes calls from the Schedule, one at a time, until none are left.

::

                 next_call                                  put
    Schedule ─────────────> _work, in a thread of a slot ─────────> inbox ──get──> the loop (Run) ──add──> Results
                 (lock)
"""

from __future__ import annotations

import contextvars
import heapq
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

from shoal._tracebacks import warn
from shoal.backends import Slot, WorkerSpec
from shoal.backends.base import CallHere, call_here
from shoal.errors import FallbackWarning, RunEnded, TaskTimeout
from shoal.observe._messages import Told, channel_set
from shoal.parallel._batch import Batch
from shoal.parallel._delayed import Call, Placeholder, not_a_call, resolved, unpacked
from shoal.parallel.running._faults import Faults, described
from shoal.parallel.running._resume import store
from shoal.parallel.running._run import Run
from shoal.parallel.running._schedule import Ready, Schedule
from shoal.parallel.running._watch import RunThread, Watch

if TYPE_CHECKING:
    from shoal.observe._teller import Teller
    from shoal.parallel.options._plan import Plan


#: The number of messages of calls that may wait in the inbox. More messages wait in their calls.
MOST_MESSAGES = 64


class PullRun(Run):
    """A run on threads of this process.

    Parameters
    ----------
    plan, slots, schedule, listener, faults, release
        As for :class:`Run`.
    n_threads
        The number of threads.
    surroundings
        Takes the :class:`CallHere` of a thread, and returns the context manager under which that thread runs calls.
    """

    def __init__(
        self,
        plan: Plan,
        slots: list[Slot],
        schedule: Schedule,
        listener: Teller | None,
        faults: Faults,
        release: Callable[[], None],
        n_threads: int,
        surroundings: Callable[[CallHere], AbstractContextManager[None]],
    ) -> None:
        super().__init__(plan, slots, schedule, listener, faults, release)
        self._surroundings = surroundings
        self._context = contextvars.copy_context()  # calls see the variables of the thread that makes the run
        self._around = call_here.get(None)
        # Whether a thread reports each result at once, or all its results when no calls are left.
        timed = plan.timeout is not None or plan.settings.task_timeout is not None
        self._at_once = plan.generates or timed or listener is not None or faults.lenient
        self._threads: set[RunThread] = set()
        self._free = list(range(n_threads))  # a heap of the indices that no thread has
        # A thread of a lender is given back when it would have to wait for the consumer. So many were given back.
        self._lender, self._given_back = plan.backend.lender, 0
        self._load = [0] * len(self.slots)  # how many threads of each slot run calls, or are stuck in one
        self._lock = threading.Lock()  # over the schedule's input
        self._stopped = False
        self._roomy = threading.Event()  # set when results were consumed, or nothing is left to wait for
        self._warned = False
        self._watch = Watch()
        self._credit = None if self._receiver is None else _Credit()

    def start(self) -> None:
        """Start the threads."""
        for _ in range(min(sum(slot.width for slot in self.slots), len(self._free))):
            self._begin()

    def _begin(self) -> None:
        """Let one more thread take calls. It is a thread of a new slot if calls are stuck in all others."""
        index = next((index for index, slot in enumerate(self.slots) if self._load[index] < slot.width), None)
        if index is None:
            index = len(self.slots)
            self.slots += self._plan.backend.open(WorkerSpec(1))
            self._load.append(0)
        self._load[index] += 1
        thread = RunThread(index, heapq.heappop(self._free))
        self._threads.add(thread)
        # Each thread has a copy, because only one thread at a time may run in a context.
        future = self.slots[index].executor.submit(self._context.copy().run, self._work, thread)
        if self._lender is not None:
            future.add_done_callback(self._on_done)

    def _on_done(self, future: Future[Any]) -> None:
        """End the run if the executor cannot start a thread that was to take calls; called in any thread."""
        if future.cancelled():
            self.inbox.put(RuntimeError("the executor was shut down while a run was using it"))
        elif error := future.exception():  # not of a call: for example, the initializer has failed
            self.inbox.put(error)

    @property
    def finished(self) -> bool:
        """Whether all threads have found no call left, and no call waits for a retry."""
        return not self._threads and super().finished

    def consumed(self, number: int) -> None:
        """Count results that the consumer has taken; wake the threads that wait for that."""
        self.schedule.results.consumed += number
        self._roomy.set()
        if self._lender is not None:
            self.inbox.put(None)

    def _seconds_to_wait(self, deadline: float | None) -> float | None:
        wait = super()._seconds_to_wait(deadline)
        if not self._threads:  # of an executor that waits for calls
            if self._watch.shown:
                self._look()
            return wait
        if self._watch.due <= time.perf_counter():
            self._look()
        left = max(self._watch.due - time.perf_counter(), 0.0)  # another thread may have had the interpreter's lock
        return left if wait is None or left < wait else wait

    def _look(self) -> None:
        """Publish what the threads do."""
        self._watch.look(self.published, self.schedule.results.completed, self._threads)

    def _close(self) -> None:
        self._watch.close()

    def _halt(self) -> None:
        """Keep all threads from taking another call."""
        self._stopped = True
        self._roomy.set()

    def end(self, error: BaseException | None) -> None:
        """End the run, as :meth:`Run.end`. Threads finish the calls that they run."""
        self._halt()
        if self._credit is not None:
            self._credit.end()
        super().end(error)

    def _busy(self) -> list[int]:
        return [index for index, load in enumerate(self._load) if load]

    def waits_for_input(self) -> bool:
        """Return whether a thread takes a call from the input, and no other runs one."""
        return self._lock.locked() and not any(thread.taken for thread in list(self._threads))

    def _handle(self, message: tuple[RunThread, Any, bool]) -> Ready:
        thread, outcome, over = message
        if thread not in self._threads:  # its call has timed out
            if self._credit is not None:
                self._credit.give()  # it may be a message
            return []
        ready: Ready = []
        if type(outcome) is not tuple:
            if isinstance(outcome, Failed):
                ready = self._failed(outcome.call, outcome.error)
            elif outcome is not None and self._receiver is not None and self._credit is not None:
                self._receiver(outcome)
                self._credit.give()
                ready = self._meanwhile()
        else:
            done, elapsed = outcome
            if self._at_once:
                self.schedule.sizing.measure(len(done), elapsed)
            add = self.schedule.results.add
            for index, value in done:
                ready += add(index, (value,))
            self._roomy.set()  # a result that is buffered leaves room
            if self._listener is not None:
                if self.schedule.queue.exhausted:
                    self._listener.exhausted(self.schedule.queue.read)
                self._listener.dispatched(len(done))
                self._listener.completed(len(done), elapsed, 1)
        if over:
            self._retire(thread)
            self._load[thread.slot] -= 1
            self._use_idle_workers()
        return ready

    def _flush(self) -> Ready:
        self._halt()
        ready: Ready = []
        for thread in self._threads:
            for index, value in list(thread.done):
                ready += self.schedule.results.add(index, (value,))
        return ready + super()._flush()

    def attach(self, values: list[Any], error: BaseException) -> None:
        """Attach the results that are there to the exception that ended the run, as :meth:`Run.attach`."""
        for thread in self._threads:
            for index, value in list(thread.done):
                self.schedule.results.buffered[index] = (value,)
        super().attach(values, error)

    def _use_idle_workers(self) -> None:
        # The threads that are left take requeued calls too, if any threads are left.
        if self.schedule.queue.requeued:
            self._roomy.set()
        free = len(self._free)
        if free > 0 and not self._stopped:
            wanted = self.schedule.available()
            if self._given_back:
                wanted += self._wanted_back(free - wanted)
            for _ in range(min(wanted, free)):
                self._begin()

    def _wanted_back(self, most: int) -> int:
        """Return how many of the threads that were given back have room for calls again."""
        with self._lock:
            number = max(min(self._given_back, self.schedule.room, most), 0)
            self._given_back -= number
        return number

    def _retire(self, thread: RunThread) -> None:
        """Remove a thread that takes no more calls, so that another thread may have its index."""
        self._threads.discard(thread)
        heapq.heappush(self._free, thread.index)

    def _check_running(self, now: float) -> Ready:
        ready: Ready = []
        limit = self._plan.settings.task_timeout
        assert limit is not None
        self._check_at = now + limit
        for thread in list(self._threads):
            running = thread.running
            if running is None:
                continue
            index, call, since = running
            left = since + limit - now
            if left > 0:
                self._check_at = min(self._check_at, now + left)
                continue
            with self._lock:
                if thread.running is not running:  # the call has just ended
                    continue
                thread.timed_out = True
            if not self._warned:
                self._warned = True
                warn(
                    f"{described(index, call)} ran for longer than task_timeout={limit} seconds. A thread cannot be "
                    "stopped: this one is left to end by itself",
                    FallbackWarning,
                )
            self._retire(thread)
            ready += self._failed(Batch.of(index, call), TaskTimeout(described(index, call), limit))
            self._begin()
        return ready

    def _must_wait(self) -> bool:
        """Tell whether there is no room for the result of another call; called with the lock held."""
        schedule = self.schedule
        if schedule.queue.requeued or schedule.room > 0:
            return False
        self._roomy.clear()
        if schedule.room > 0:  # results were consumed before the event was cleared
            return False
        if self._stopped:
            self._roomy.set()
        return True

    def _source(self) -> Callable[[], tuple[int, Call] | None]:
        """Return the function from which threads take their calls."""
        return self.schedule.queue.next_call

    def _work(self, thread: RunThread) -> None:
        """Take calls and run them until no more are there; runs in a thread of a slot."""
        done, thread.ident = thread.done, threading.get_native_id()
        at_once, put, memory = self._at_once, self.inbox.put, self._plan.memory
        lock, next_call, bounded = (
            self._lock,
            self._source(),
            self.schedule.sizing.max_pending is not None,
        )
        messaging = self._messaging(thread)
        careful = self._faults.lenient or self._plan.settings.task_timeout is not None or self._credit is not None
        simple = not (at_once or careful or bounded or memory is not None)
        try:
            with (
                self._surroundings(CallHere(thread.index, thread.present_index, self._around, self._lender)),
                messaging,
            ):
                while True:
                    with lock:  # also while the caller's iterator runs, since two threads must not run it at a time
                        if self._stopped or thread.timed_out:
                            break
                        wait = bounded and self._must_wait()
                        if wait and self._lender is not None:
                            self._given_back += 1
                            break
                        taken = None if wait else next_call()
                    if wait:
                        self._roomy.wait()
                        continue
                    if taken is None:
                        break
                    index, call = thread.taken = taken
                    del taken
                    try:
                        function, args, kwargs = resolved(unpacked(call, index)) if Placeholder.in_use else call
                    except (TypeError, ValueError):
                        raise not_a_call(call, index) from None
                    try:
                        if simple:
                            done.append((index, function(*args, **kwargs)))
                            continue
                        if careful:
                            thread.running = index, call, time.monotonic()
                        began = time.perf_counter() if at_once else 0.0
                        value = function(*args, **kwargs)
                    except BaseException as error:
                        seconds = time.perf_counter() - began if at_once else 0.0
                        thread.taken = thread.running = None
                        if error.__traceback__ is not None:  # frozen dataclasses refuse assignment
                            error.with_traceback(error.__traceback__.tb_next)
                        if not careful:
                            self._halt()
                        put((thread, Failed(Batch.of(index, call), error, seconds), False))
                        del error, call
                        continue
                    thread.taken = None
                    if careful:
                        thread.running = None
                    if memory is not None and not thread.timed_out:
                        store(memory, call, value)
                    del call
                    if at_once:
                        put((thread, ([(index, value)], time.perf_counter() - began), False))
                        del value
                    else:
                        done.append((index, value))
            put((thread, (done, 0.0) if done else None, True))
        except BaseException as error:  # the loop raises it, in the thread that waits for the results
            self._halt()
            put(error)

    def _messaging(self, thread: RunThread) -> AbstractContextManager[None]:
        """Return the block in which a thread's calls may send messages."""
        if self._receiver is None:
            return nullcontext()
        channel = self._receiver.channel(partial(self._put, thread))
        channel.index = thread.index_of_call
        return channel_set(channel)

    def _put(self, thread: RunThread, told: Told) -> None:
        """Put what a call has sent into the inbox, once there is room; runs in a thread of a call.

        Raises
        ------
        RunEnded
            If the run has ended, or the call has timed out.
        """
        assert self._credit is not None
        self._credit.take()
        if thread.timed_out:
            self._credit.give()
            raise RunEnded
        self.inbox.put((thread, told, False))


class _Credit:
    """How many messages the threads of a run may put into its inbox. Thread-safe."""

    def __init__(self) -> None:
        self._left = threading.Semaphore(MOST_MESSAGES)
        self._ended = False

    def take(self) -> None:
        """Wait until there is room for a message; raise RunEnded once the run has ended."""
        if not self._ended:
            self._left.acquire()
        if self._ended:
            self._left.release()  # for the next thread that waits
            raise RunEnded

    def give(self) -> None:
        """Make room for a message."""
        self._left.release()

    def end(self) -> None:
        """Let all threads that wait raise RunEnded."""
        self._ended = True
        self._left.release()


class Failed:
    """A call that has raised an exception in a thread, and how long it took, in runs that deliver results at once."""

    def __init__(self, call: Batch, error: BaseException, seconds: float) -> None:
        self.call, self.error, self.seconds = call, error, seconds
