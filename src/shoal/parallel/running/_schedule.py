"""Which calls run next, and which results can be delivered. Pure: no thread, no clock, no lock, no backend.

::

    CallQueue ──next_batch──> in flight ──completed──> Results ──> delivered to the consumer
        ^                        │                       │
        └────── requeued <───────┘                       └ buffered while the result of an earlier call is missing
         (calls of a batch that was cut short or lost)

    pre_dispatch bounds the batches in flight; max_pending bounds the calls that the consumer has yet to take;
    Sizing says how many calls a batch has.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from shoal.parallel._batch import Batch, CallQueue
from shoal.parallel._delayed import Call
from shoal.parallel.running._policies import (
    CALLER_SECONDS,
    QUEUE_AHEAD_AT_THE_END_SECONDS,
    QUEUE_AHEAD_SECONDS,
    READ_AHEAD,
    READ_CALLS,
    READ_SECONDS,
    SHORTEST,
    Pace,
    Sizing,
)

#: Sequences of results, in the order in which the consumer receives them.
Ready = list[Sequence[Any]]


class Results:
    """The results of a run, until they can be delivered.

    Parameters
    ----------
    ordered
        Whether results are delivered in the order of their calls, or as they come.

    Attributes
    ----------
    buffered
        The results that came before the result of an earlier call, by the index of their first call.
    delivered
        The number of results that were delivered. Where results are ordered, that is also the index of the call whose
        result is awaited.
    completed
        The number of calls that have a result.
    consumed
        The number of results that the consumer of a generator has taken.

    Notes
    -----
    Not thread-safe, except that `consumed` may change in another thread.
    """

    def __init__(self, ordered: bool = True) -> None:
        self.ordered = ordered
        self.buffered: dict[int, Sequence[Any]] = {}
        self.delivered = self.completed = self.consumed = 0

    def add(self, start: int, values: Sequence[Any]) -> Ready:
        """Add the results of consecutive calls; return the results that can now be delivered.

        Parameters
        ----------
        start
            The index of the first call.
        values
            The results.
        """
        if not values:
            return []
        if self.ordered and start != self.delivered:
            self.buffered[start] = values
            self.completed += len(values)
            return []
        ready = [values]
        # Threads compute their room from these two. In this order they never find more room than there is.
        self.delivered += len(values)
        while self.buffered and self.delivered in self.buffered:
            ready.append(self.buffered.pop(self.delivered))
            self.delivered += len(ready[-1])
        self.completed += len(values)
        return ready

    def add_error(self, index: int, error: BaseException) -> Ready:
        """Add an exception as the result of a call; return the results that can now be delivered."""
        return self.add(index, (error,))

    def flush(self) -> Ready:
        """Return the buffered results, in the order of their calls. The missing results will never come."""
        buffered = [values for _, values in sorted(self.buffered.items())]
        self.buffered.clear()
        return buffered


class Schedule:
    """The calls of one run, from the caller's iterator to the results that can be delivered.

    Parameters
    ----------
    calls
        The caller's calls, or a :class:`CallQueue`. They are read no earlier than `pre_dispatch` allows.
    slots
        The number of batches that can run at a time.
    size
        The calls per batch: a number, or a policy that takes a :class:`~shoal.parallel.running._policies.Pace`.
    pre_dispatch
        The number of batches that may be in flight at a time. None for no bound: then all calls are read at once.
    total
        The number of calls, if it is known.
    ordered
        Whether results are delivered in the order of their calls, or as they come.
    max_pending
        The number of calls that may be in flight, or delivered and not consumed: a number, or a policy that takes a
        :class:`~shoal.parallel.running._policies.Pace` and the size of batches; None for no bound. Buffered results
        do not count, because the consumer cannot take them.
    distance
        How far away the workers are, as :attr:`~shoal.Backend.distance`.

    Attributes
    ----------
    queue, results, sizing
        The three parts: calls before they run, results after that, and the sizes of batches.
    in_flight
        The number of batches that were dispatched and have not come back.
    awaiting_retry
        The number of failed calls that wait until their retry delay has elapsed.

    Notes
    -----
    Not thread-safe: threads that share a schedule hold a lock.
    """

    #: Whether the next batch may be prepared before a slot is free for it.
    prefetches = True

    def __init__(
        self,
        calls: Iterable[Call] | CallQueue,
        *,
        slots: int,
        size: int | Callable[[Pace], int] = 1,
        pre_dispatch: int | None = None,
        total: int | None = None,
        ordered: bool = True,
        max_pending: int | Callable[[Pace, int], int] | None = None,
        distance: float = 1.0,
    ) -> None:
        if not isinstance(calls, CallQueue):
            if pre_dispatch is None:
                calls = list(calls)
                total = len(calls)
            calls = CallQueue(calls, total)
        self.queue = calls
        self.results = Results(ordered)
        self.sizing = Sizing(slots, size, max_pending, distance)
        self.in_flight = 0
        self.awaiting_retry = 0
        self._bound = sys.maxsize if pre_dispatch is None else pre_dispatch

    @property
    def finished(self) -> bool:
        """Whether every call was read, dispatched and completed."""
        return self.queue.empty and not (self.in_flight or self.awaiting_retry)

    @property
    def room(self) -> int:
        """How many calls may be dispatched for the first time before the consumer takes more results."""
        if self.sizing.max_pending is None:
            return sys.maxsize
        results = self.results
        in_flight = self.queue.dispatched - results.completed
        return self.sizing.max_pending - in_flight - (results.delivered - results.consumed)

    def next_batch(self, busy: bool = False, room: int = sys.maxsize) -> Batch | None:
        """Return the next batch for a slot; None if the slot gets none now.

        Parameters
        ----------
        busy
            Whether the slot runs a batch already, behind which this one would wait.
        room
            The value of :attr:`room`. The caller reads it, since results may be consumed in another thread meanwhile.

        Raises
        ------
        Exception
            Whatever the caller's iterator raises.
        """
        if self.in_flight >= self._bound or (busy and not self.sizing.pace.calls):
            return None
        if room <= 0 and not self.queue.requeued:
            return None
        batch = self.queue.next_batch(self._read_ahead(room), room, self.worth_queueing if busy else None)
        if batch is not None:
            self.in_flight += 1
        return batch

    def completed(
        self, batch: Batch, values: Sequence[Any], elapsed: float = 0.0, nbytes: int = 0, returned: int = 0
    ) -> Ready:
        """Add the results of a batch; return the results that can now be delivered.

        Parameters
        ----------
        batch
            The batch that was dispatched.
        values
            The results of its calls. If there are fewer results than calls, the worker has not begun the other calls,
            and they are requeued.
        elapsed
            The seconds that the calls took in the worker.
        nbytes, returned
            The bytes that travelled in both directions, and those that travelled back.
        """
        start = batch.start
        if len(values) < len(batch):
            batch.split(len(values))
            self.queue.requeue(batch)
        self.in_flight -= 1
        self.sizing.measure(len(values), elapsed, nbytes, returned)
        return self.results.add(start, values)

    def lost(self, batch: Batch, at: int | None) -> Batch | None:
        """Requeue a batch that will not come back, without the call that is to blame; return that call.

        Parameters
        ----------
        batch
            The batch that was dispatched, or the rest of it.
        at
            The position in the batch of the call that is to blame; -1 if none is; None if that is unknown. Then each
            half of the batch runs again by itself. If one call is to blame, the halves lead to it.
        """
        self.in_flight -= 1
        return self.isolate(batch, at)

    def isolate(self, batch: Batch, at: int | None) -> Batch | None:
        """Do what :meth:`lost` does, for the rest of a batch whose other calls were completed."""
        call = None
        if at is None and len(batch) > 1:
            self.queue.requeue(batch.split(len(batch) // 2))
        elif at != -1:
            self.queue.requeue(batch.split(at or 0))
            call = batch.split(1)
        self.queue.requeue(batch)
        return call

    def read_on(self) -> bool:
        """Read another call ahead, within the two rounds of :meth:`_read_ahead`; return whether that was possible."""
        calls, sizing = self.queue, self.sizing
        if calls.exhausted or not (sizing.adapts and sizing.pace.calls) or self.in_flight >= self._bound:
            return False
        if len(calls.ahead) >= READ_AHEAD * sizing.size * sizing.slots or self.room <= 0:
            return False
        calls.fill(len(calls.ahead) + 1)
        return True

    def available(self) -> int:
        """Return how many idle threads would find a call to run; the caller's iterator is not read for that."""
        in_flight = self.queue.dispatched - self.results.completed
        return self.queue.available(max(min(self.sizing.slots, self._bound - in_flight), 0))

    def worth_queueing(self, size: int) -> bool:
        """Tell whether a batch of `size` calls should wait at its worker: to send it takes long beside its work."""
        left, sizing = self.queue.left, self.sizing
        if left is None:  # a reply waits until the caller has read a call
            limit = QUEUE_AHEAD_SECONDS * max(sizing.distance, self.queue.seconds_to_read / CALLER_SECONDS)
        elif left > size * sizing.slots * READ_AHEAD:
            limit = QUEUE_AHEAD_SECONDS * sizing.distance
        else:
            limit = QUEUE_AHEAD_AT_THE_END_SECONDS * sizing.distance
        return size * sizing.pace.seconds_per_call < limit

    def _read_ahead(self, room: int) -> int:
        """Read calls ahead; return the size of the next batch, which shrinks towards the end of the input."""
        calls, sizing, pace = self.queue, self.sizing, self.sizing.pace
        # Where the number of calls is unknown, two rounds are read ahead, so that the end is seen when batches have to
        # shrink. Before a first result is there, no more may be read than is dispatched.
        wanted = at_once = min(sizing.size, room)
        if sizing.adapts and calls.total is None and pace.calls:
            wanted = READ_AHEAD * sizing.size * sizing.slots
            with_work = int(READ_SECONDS / max(pace.seconds_per_call, SHORTEST))
            quickly = int(READ_SECONDS / max(calls.seconds_to_read, SHORTEST)) + 1
            at_once = len(calls.ahead) + min(max(READ_CALLS, with_work, calls.dispatched), quickly)
        if not calls.requeued:
            calls.fill(min(wanted, at_once))
        left = calls.left
        if left is None and (calls.requeued or len(calls.ahead) >= wanted):
            return sizing.size
        return sizing.fair(len(calls.ahead) if left is None else left, left is not None)
