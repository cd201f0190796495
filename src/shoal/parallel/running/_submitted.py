"""The schedule of an executor: calls may be added until it is closed, and each result goes to the future of its call.

::

    submit ──add──> SubmissionQueue ──next_batch, next_call──> in flight ──completed──> FutureResults ──> a future
                      │  ^                                        │
                      │  └── cancelled calls never run            └── calls of a lost batch are requeued
                      └─ wakes the run if the run has looked here since the last call came
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Future
from types import MethodType
from typing import Any

from shoal.parallel._batch import Batch, CallQueue
from shoal.parallel._delayed import Call
from shoal.parallel.running._policies import Pace
from shoal.parallel.running._schedule import Ready, Results, Schedule

#: The futures of the calls that were dispatched and have no result yet, by the index of the call.
Futures = dict[int, Future[Any]]


class Waiting:
    """The calls that were submitted and not dispatched yet, each with its future.

    Parameters
    ----------
    futures
        Receives the future of each call that is dispatched.

    Notes
    -----
    Any thread may add calls; one thread at a time dispatches them.
    """

    def __init__(self, futures: Futures) -> None:
        self._calls: deque[tuple[Future[Any], Call]] = deque()
        self._dispatched = 0
        self._futures = futures

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, future: Future[Any], call: Call) -> None:
        """Append a call."""
        self._calls.append((future, call))

    def cancel(self) -> None:
        """Cancel all calls."""
        for future, _ in self._calls.copy():
            future.cancel()

    def split(self, size: int) -> Batch:
        """Remove and return the next calls of one function, `size` at most. From now on they cannot be cancelled.

        Calls of different functions do not share a batch. They take different times, and the results of the fast ones
        would wait for the slow ones.
        """
        batch = Batch(self._dispatched)
        batch.pull(self._next_calls(size), size)
        return batch

    def _next_calls(self, size: int) -> Iterator[Call]:
        last: Any = None
        number = 0
        while number < size and self._calls:
            call = self._calls[0][1]
            if number and not _same(call[0], last):
                return
            future, _ = self._calls.popleft()
            if future.set_running_or_notify_cancel():
                self._futures[self._dispatched] = future
                self._dispatched += 1
                number += 1
                last = call[0]
                yield call


class SubmissionQueue(CallQueue):
    """The calls of an executor that no worker has yet. Any thread may add calls until the queue is closed.

    Parameters
    ----------
    futures
        Receives the future of each call that is dispatched.

    Attributes
    ----------
    exhausted
        Whether no more calls may be submitted.
    wake
        Called when a call was added that the run does not know about.
    """

    def __init__(self, futures: Futures) -> None:
        super().__init__((), total=0)  # beside those that wait, no call is known to come
        self.ahead = Waiting(futures)
        self.wake: Callable[[], object] = int  # there is no run to wake yet
        self._lock = threading.Lock()  # guards what follows, and the adding of calls
        self._looked = False  # whether the run has looked for calls since the last one was added
        self._refusal: Callable[[], BaseException] = shut_down

    def add(self, future: Future[Any], call: Call) -> None:
        """Add a call, whose result goes to `future`; from any thread.

        Raises
        ------
        RuntimeError
            If the queue is closed.
        """
        with self._lock:
            if self.exhausted:
                raise self._refusal()
            self.ahead.add(future, call)
            wake, self._looked = self._looked, False
        if wake:
            self.wake()

    def close(self, refusal: Callable[[], BaseException] | None = None) -> None:
        """Accept no more calls; from any thread.

        Parameters
        ----------
        refusal
            Makes the exception that later calls of :meth:`add` raise; None for the one that stands.
        """
        with self._lock:
            if refusal is not None:
                self._refusal = refusal
            self.exhausted = True

    def forked(self) -> None:
        """Accept no more calls in a forked child, where no thread runs them."""
        self._lock = threading.Lock()  # another thread of the parent may have held the old one
        self.close(_belongs_to_parent)

    def next_call(self) -> tuple[int, Call] | None:
        """Return the index of the next call, and the call; None if there is none now."""
        if self.requeued:
            return super().next_call()
        batch = self.ahead.split(1)
        if not batch:
            return None
        self.dispatched += 1
        (call,) = batch
        return batch.start, call

    def available(self, _wanted: int) -> int:
        """Return the number of calls that can be dispatched. When more are added, they wake the run."""
        with self._lock:
            self._looked = True
            return len(self.requeued) + len(self.ahead)


class FutureResults(Results):
    """The results of an executor, each of which goes to the future of its call."""

    def __init__(self, futures: Futures) -> None:
        super().__init__(ordered=False)
        self._futures = futures

    def add(self, start: int, values: Sequence[Any]) -> Ready:
        """Set the results of consecutive calls on their futures."""
        self.completed += len(values)
        for index, value in enumerate(values, start):
            self._futures.pop(index).set_result(value)
        return []

    def add_error(self, index: int, error: BaseException) -> Ready:
        """Set an exception on the future of a call."""
        self.completed += 1
        self._futures.pop(index).set_exception(error)
        return []


class Submitted(Schedule):
    """The calls of an executor, from their submission to the results of their futures.

    Parameters
    ----------
    slots, size, distance
        As for :class:`Schedule`.
    """

    queue: SubmissionQueue

    prefetches = False  # a call that was dispatched cannot be cancelled any more

    def __init__(self, slots: int, size: int | Callable[[Pace], int], distance: float = 1.0) -> None:
        self._futures: Futures = {}
        super().__init__(SubmissionQueue(self._futures), slots=slots, size=size, distance=distance)
        self.results = FutureResults(self._futures)

    def close(self, cancel: bool = False) -> None:
        """Accept no more calls; with `cancel`, cancel those that were not dispatched. From any thread."""
        self.queue.close()
        if cancel:
            self.queue.ahead.cancel()
        self.queue.wake()

    def drop(self) -> None:
        """Accept no more calls, because nobody is left who could submit one."""
        # The collector may call this in any thread, also in one that it interrupts while it holds the lock.
        self.queue.exhausted = True
        self.queue.wake()

    def abandon(self, error: BaseException | None) -> None:
        """Set an exception on the futures that have no result when the run has ended.

        Parameters
        ----------
        error
            The exception that ended the run early; None if there was none.
        """

        def refusal() -> BaseException:
            if error is None:
                return CancelledError()
            broken = BrokenExecutor(f"the executor has ended, because of {type(error).__name__}: {error}")
            broken.__cause__ = error
            return broken

        self.queue.close(None if error is None else refusal)
        while self.queue.ahead:
            self.queue.ahead.split(len(self.queue.ahead))
        futures = list(self._futures.values())
        self._futures.clear()
        for future in futures:
            future.set_exception(refusal())

    def _read_ahead(self, _room: int) -> int:
        """Return the size of the next batch: half of an even share of the calls, so that few calls are spread."""
        self.queue.available(0)  # from now on, a new call wakes the run
        sizing, left = self.sizing, self.queue.left or 0
        return min(sizing.size, -(-left // (2 * sizing.slots))) if sizing.adapts else sizing.size

    def worth_queueing(self, _size: int) -> bool:
        """Return False: the running call may take for ever, and another slot may become free sooner."""
        return False


def _same(function: Any, other: Any) -> bool:
    # A bound method is made anew each time it is looked up.
    return function is other or (type(function) is MethodType and function == other)


def shut_down() -> BaseException:
    """Return the error of a call that is submitted too late."""
    return RuntimeError("cannot schedule new futures after shutdown")


def _belongs_to_parent() -> BaseException:
    return RuntimeError("this executor belongs to the process that forked this one; make another executor here")
