"""The schedule of an executor: its input stays open, and each outcome goes to the future that waits for it.

::

    submit ──add──> waiting ──next_batch, take──> in flight ──completed, settle──> the call's future
                      │  ^                            │   ^
                      │  └ cancelled ones never run   └───┘ given back, as in any schedule
                      └─ the run is woken if it has looked here since the last call came
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Future
from types import MethodType
from typing import Any

from shoal.parallel._batch import Batch
from shoal.parallel._delayed import Call
from shoal.parallel._policies import Pace
from shoal.parallel._schedule import Schedule


class Waiting:
    """Calls that were submitted and not given out yet, with their futures.

    Notes
    -----
    Any thread may add calls; one at a time gives them out.
    """

    def __init__(self) -> None:
        self._calls: deque[tuple[Future[Any], Call]] = deque()
        self._given_out = 0
        #: The futures of the calls that were given out and have no outcome yet, by the index of the call.
        self.futures: dict[int, Future[Any]] = {}

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, future: Future[Any], call: Call) -> None:
        """Append a call."""
        self._calls.append((future, call))

    def cancel(self) -> None:
        """Cancel them all."""
        for future, _ in self._calls.copy():
            future.cancel()

    def split(self, size: int) -> Batch:
        """Give out the next `size` calls at most, those of one function; none of them can be cancelled any more.

        Calls of other functions take other times, and would hold up the results of these.
        """
        batch = Batch(self._given_out)
        batch.pull(self._take(size), size)
        return batch

    def _take(self, size: int) -> Iterator[Call]:
        last: Any = None
        taken = 0
        while taken < size and self._calls:
            call = self._calls[0][1]
            if taken and not _same(call[0], last):
                return
            future, _ = self._calls.popleft()
            if future.set_running_or_notify_cancel():
                self.futures[self._given_out] = future
                self._given_out += 1
                taken += 1
                last = call[0]
                yield call


class Submitted(Schedule):
    """The calls of an executor, and the futures that wait for their outcomes.

    Parameters
    ----------
    slots, size, distance
        As for :class:`Schedule`.

    Attributes
    ----------
    exhausted
        Whether no more calls may be submitted.
    wake
        Called when a call has come and the run does not know.
    """

    early = False  # what is given out cannot be cancelled any more

    def __init__(self, slots: int, size: int | Callable[[Pace], int], distance: float = 1.0) -> None:
        super().__init__((), slots=slots, size=size, ordered=False, distance=distance)
        self._ahead: Any = Waiting()
        self._lock = threading.Lock()  # over what follows, and over calls that are added
        self._looked = False  # whether the run has found room for a call since the last one came
        self._refusal: Callable[[], BaseException] = _shut_down
        self.wake: Callable[[], object] = int  # nobody to wake yet

    def submit(self, future: Future[Any], call: Call) -> None:
        """Take a call, and the future that is to have its outcome; from any thread.

        Raises
        ------
        RuntimeError
            If no more calls are taken.
        """
        with self._lock:
            if self.exhausted:
                raise self._refusal()
            self._ahead.add(future, call)
            wake, self._looked = self._looked, False
        if wake:
            self.wake()

    def close(self, cancel: bool = False) -> None:
        """Take no more calls; with `cancel`, cancel those that were not given out. From any thread."""
        with self._lock:
            self.exhausted = True
        if cancel:
            self._ahead.cancel()
        self.wake()

    def drop(self) -> None:
        """Take no more calls, as nobody is left who could submit one; the collector may call it anywhere."""
        self.exhausted = True  # without the lock, which the thread that is interrupted may hold
        self.wake()

    def forked(self) -> None:
        """Take no more calls in a forked child, where nobody runs them."""
        self._lock = threading.Lock()
        self._refusal = _not_here
        self.exhausted = True

    def abandon(self, error: BaseException | None) -> None:
        """Settle the futures that are left when the run has ended: before its time if there are any."""

        def refusal() -> BaseException:
            if error is None:
                return CancelledError()
            broken = BrokenExecutor(f"the executor has ended, because of {type(error).__name__}: {error}")
            broken.__cause__ = error
            return broken

        with self._lock:
            if error is not None:
                self._refusal = refusal
            self.exhausted = True
        while self._ahead:
            self._ahead.split(len(self._ahead))
        futures, self._ahead.futures = self._ahead.futures, {}
        for future in futures.values():
            future.set_exception(refusal())

    def waiting(self) -> int:
        """Return the number of calls that can be given out; the run is woken when there are more."""
        with self._lock:
            self._looked = True
            return self.gave_back + len(self._ahead)

    def take(self) -> tuple[int, Call] | None:
        """Return the next call and its index, or None if there is none now."""
        if self._given_back:
            return super().take()
        batch = self._ahead.split(1)
        if not batch:
            return None
        self.dispatched += 1
        (call,) = batch
        return batch.start, call

    def failed(self, index: int, error: BaseException) -> list[Sequence[Any]]:
        """Give a call's future the exception that stands."""
        self.completed_calls += 1
        self._ahead.futures.pop(index).set_exception(error)
        return []

    def _settle(self, start: int, values: Sequence[Any]) -> list[Sequence[Any]]:
        for index, value in enumerate(values, start):
            self._ahead.futures.pop(index).set_result(value)
        return []

    def _fair_size(self, _room: int) -> int:
        """Return the size of the next batch: half of an even share of what waits, so that few calls wait for none."""
        self.waiting()
        return self.size if self._policy is None else min(self.size, -(-(self._left or 0) // (2 * self._slots)))

    def worth_queueing(self, _size: int) -> bool:
        """Return False."""
        # What runs may take for ever, and another slot may be free sooner.
        return False


def _same(function: Any, other: Any) -> bool:
    # A bound method is made anew each time it is looked up.
    return function is other or (type(function) is MethodType and function == other)


def _shut_down() -> BaseException:
    return RuntimeError("cannot schedule new futures after shutdown")


def _not_here() -> BaseException:
    return RuntimeError("this executor belongs to the process that this one was forked from; make another one here")
