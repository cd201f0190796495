"""Which calls run next, and which results are due. Pure: no thread, no clock, no lock, nothing of a backend.

::

    the caller's iterator ──pull──> ahead ──next_batch──> in flight ──completed──> held ──> due, in order
                            │        (calls read,   ^      (batches       │        (results that wait for
                            │         not given     │       that run)     │         an earlier batch)
                            │         out)          └──── given back <────┘
                            └─ bounded by pre_dispatch    (calls of a batch that was cut short or lost)
                               and max_pending
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from typing import Any

from shoal.parallel._batch import Batch
from shoal.parallel._delayed import Call
from shoal.parallel._policies import SHORTEST, Pace

#: A second batch is queued behind a running one only where the wait for the next would show.
QUEUE_AHEAD_SECONDS = 0.05
QUEUE_AHEAD_AT_THE_END_SECONDS = 0.005
#: How many batches per slot are read ahead where the number of calls is not known, so that the end is seen in time.
READ_AHEAD = 2
#: While the end is not in sight, so many calls are read at once, or so many seconds of work, or as many as were given
#: out by then: the caller takes time to make them, and workers wait meanwhile.
READ_CALLS, READ_SECONDS = 64, 0.005


class Schedule:
    """The calls of one run, from the caller's iterator to the results that are due.

    Parameters
    ----------
    calls
        The caller's calls; they are pulled no earlier than `pre_dispatch` allows.
    slots
        The number of batches that can run at a time.
    size
        The calls per batch: a number, or a policy that takes a :class:`~shoal.parallel._policies.Pace`.
    pre_dispatch
        The number of batches that may be in flight at a time; None for no bound, all calls being read at once.
    total
        The number of calls, if it is known.
    ordered
        Whether results are due in the order of their calls, or as they come.
    max_pending
        The calls that may be under way, or done and due and not taken: a number, or a policy that takes a
        :class:`~shoal.parallel._policies.Pace` and the size of batches; None for no bound. What waits behind an
        unfinished call does not count.
    distance
        How far away the workers are, as :attr:`~shoal.Backend.distance`.

    Notes
    -----
    Not thread-safe: who shares a schedule between threads holds a lock.
    """

    #: Whether a batch may be asked for before a slot is free for it.
    early = True

    def __init__(
        self,
        calls: Iterable[Call],
        *,
        slots: int,
        size: int | Callable[[Pace], int] = 1,
        pre_dispatch: int | None = None,
        total: int | None = None,
        ordered: bool = True,
        max_pending: int | Callable[[Pace, int], int] | None = None,
        distance: float = 1.0,
    ) -> None:
        if pre_dispatch is None:
            calls = list(calls)
            total = len(calls)
        self._calls = iter(calls)
        self._slots = slots
        self._policy = None if isinstance(size, int) else size
        self._total = total
        self.ordered = ordered
        self._bound = pre_dispatch
        self._distance = distance
        self._pending_policy = None if isinstance(max_pending, int) else max_pending
        # So that a small bound still leaves work for all slots.
        self._largest = max(max_pending // (2 * slots), 1) if isinstance(max_pending, int) else sys.maxsize
        self._ahead = Batch(0)
        self._given_back: list[Batch] = []
        self._even: int | None = None
        self.held: dict[int, Sequence[Any]] = {}
        self._due = 0
        self.pace = Pace()
        self.size = min(size if isinstance(size, int) else size(self.pace), self._largest)
        self._max_pending = max_pending if isinstance(max_pending, int) else None
        if self._pending_policy is not None:
            self._max_pending = self._pending_policy(self.pace, self.size)
        self.in_flight = 0
        #: The number of calls that are kept elsewhere, to be given back later.
        self.resting = 0
        #: The number of due results that were taken.
        self.taken = 0
        self.exhausted = False
        self.dispatched = 0
        self.completed_calls = 0

    @property
    def finished(self) -> bool:
        """Whether every call has been read, given out and completed."""
        return self.given_out and not (self.in_flight or self.resting)

    @property
    def given_out(self) -> bool:
        """Whether no call is left to be given out, as far as is known now."""
        return self.exhausted and not (self._ahead or self._given_back)

    @property
    def gave_back(self) -> int:
        """The number of batches that are to be given out again."""
        return len(self._given_back)

    @property
    def read(self) -> int:
        """The number of calls that were read from the caller's iterator."""
        return self.dispatched + len(self._ahead)

    @property
    def bounded(self) -> bool:
        """Whether calls wait until results are taken."""
        return self._max_pending is not None

    @property
    def room(self) -> int:
        """How many calls may be given out for the first time before more results are taken."""
        if self._max_pending is None:
            return sys.maxsize
        due = self._due if self.ordered else self.completed_calls
        return self._max_pending - (self.dispatched - self.completed_calls) - (due - self.taken)

    def next_batch(self, busy: bool = False, room: int = sys.maxsize) -> Batch | None:
        """Return the next batch for a slot, or None if there is none to give now.

        Parameters
        ----------
        busy
            Whether the slot already runs a batch, behind which this one would wait.
        room
            What :attr:`room` was; results may have been taken since.

        Raises
        ------
        Exception
            Whatever the caller's iterator raises.
        """
        if self._bound is not None and self.in_flight >= self._bound:
            return None
        if busy and not self.pace.calls:
            return None
        if room <= 0 and not self._given_back:
            return None
        size = self._fair_size(room)
        source = min(self._given_back, key=attrgetter("start"), default=self._ahead)
        size = min(size, len(source))
        if source is self._ahead:
            size = min(size, room)
        if not size or (busy and not self.worth_queueing(size)):
            return None
        batch = source.split(size)
        if not batch:
            return None
        if source is self._ahead:
            self.dispatched += len(batch)
        elif not source:
            self._given_back.remove(source)
        self.in_flight += 1
        return batch

    def completed(
        self, batch: Batch, values: Sequence[Any], elapsed: float = 0.0, nbytes: int = 0, returned: int = 0
    ) -> list[Sequence[Any]]:
        """Take the results of a batch; return the sequences of results that are now due.

        Parameters
        ----------
        batch
            What was given out.
        values
            The results of its calls; if there are fewer, the other calls were not begun, and are to be given out again.
        elapsed
            The seconds that the calls took where they ran.
        nbytes, returned
            The bytes that travelled, both ways, and back.
        """
        start = batch.start
        if len(values) < len(batch):
            batch.split(len(values))
            self.give_back(batch)
        self.in_flight -= 1
        self.completed_calls += len(values)
        self.measure(len(values), elapsed, nbytes, returned)
        return self._settle(start, values)

    def measure(self, calls: int, elapsed: float, nbytes: int = 0, returned: int = 0) -> None:
        """Take in what calls have cost: the seconds, and the bytes that travelled, both ways, and back."""
        self.pace.add(calls, elapsed, nbytes, returned)
        if self._policy is not None:
            self.size = min(self._policy(self.pace), self._largest)
        if self._pending_policy is not None:
            self._max_pending = self._pending_policy(self.pace, self.size)

    def lost(self, batch: Batch, at: int | None) -> Batch | None:
        """Take note that a batch is in flight no more; return the one call that is to blame, the others run again.

        Parameters
        ----------
        batch
            What was given out, or what is left of it.
        at
            The place in the batch of the call that is to blame, -1 if none is, None if nobody knows: then each half of
            the batch runs again by itself, which leads to the call if there is one.
        """
        self.in_flight -= 1
        return self.isolate(batch, at)

    def isolate(self, batch: Batch, at: int | None) -> Batch | None:
        """Do as :meth:`lost`, for what is left of a batch that was completed."""
        call = None
        if at is None and len(batch) > 1:
            self.give_back(batch.split(len(batch) // 2))
        elif at != -1:
            self.give_back(batch.split(at or 0))
            call = batch.split(1)
        self.give_back(batch)
        return call

    def give_back(self, batch: Batch) -> None:
        """Take back calls that are to be given out again, before those that were never given out."""
        if len(batch):
            self._given_back.append(batch)

    def ready(self) -> list[Sequence[Any]]:
        """Return all results that still wait for earlier ones, in order: those will not come any more."""
        held = [values for _, values in sorted(self.held.items())]
        self.held.clear()
        return held

    def take(self) -> tuple[int, Call] | None:
        """Return the next call and its index, or None if there is none: what a pull loop uses, one call at a time."""
        if self._given_back:
            (call,) = batch = self._given_back.pop()
            return batch.start, call
        try:
            call = next(self._calls)
        except StopIteration:
            self.exhausted = True
            return None
        index = self.dispatched
        self.dispatched = index + 1
        return index, call

    def waiting(self) -> int:
        """Return how many there are that can be given out without a look at the input: what a pull loop begins for."""
        return self.gave_back

    def failed(self, index: int, error: BaseException) -> list[Sequence[Any]]:
        """Take the exception of a call as its result; return the sequences of results that are now due."""
        return self.settle(index, error)

    def settle(self, index: int, value: Any) -> list[Sequence[Any]]:
        """Take the result of a call that was taken; return the sequences of results that are now due."""
        self.completed_calls += 1
        return self._settle(index, (value,))

    def _settle(self, start: int, values: Sequence[Any]) -> list[Sequence[Any]]:
        if not values:
            return []
        if not self.ordered:
            return [values]
        if start != self._due:
            self.held[start] = values
            return []
        due = [values]
        self._due += len(values)
        while self.held and self._due in self.held:
            due.append(self.held.pop(self._due))
            self._due += len(due[-1])
        return due

    @property
    def due(self) -> int:
        """The index of the call whose result is awaited, where results are ordered."""
        return self._due

    @property
    def _left(self) -> int | None:
        """The number of calls that were not given out yet; None as long as nobody knows."""
        given_back = sum(map(len, self._given_back))
        if self.exhausted:
            return len(self._ahead) + given_back
        return None if self._total is None else max(self._total - self.dispatched, len(self._ahead)) + given_back

    def worth_queueing(self, size: int) -> bool:
        """Tell whether the way of a batch of that size is long beside its work, so that one should wait on the spot."""
        left = self._left
        ending = left is not None and left <= size * self._slots * READ_AHEAD
        limit = self._distance * (QUEUE_AHEAD_AT_THE_END_SECONDS if ending else QUEUE_AHEAD_SECONDS)
        return size * self.pace.seconds_per_call < limit

    def _fair_size(self, room: int) -> int:
        """Return the size of the next batch: smaller towards the end, so that the slots finish together."""
        # Where the number of calls is not known, two rounds are read ahead, so that the end is seen when shares begin
        # to shrink; not before a first result is there, since until then one may read no further.
        wanted = at_once = min(self.size, room)
        if self._policy is not None and self._total is None and self.pace.calls:
            wanted = READ_AHEAD * self.size * self._slots
            with_work = int(READ_SECONDS / max(self.pace.seconds_per_call, SHORTEST))
            at_once = len(self._ahead) + max(READ_CALLS, with_work, self.dispatched)
        if not self._given_back:
            self._pull(min(wanted, at_once))
        left = self._left
        if self._policy is None or (left is None and (self._given_back or len(self._ahead) >= wanted)):
            return self.size
        if left is None:  # there may be more
            return min(self.size, self.pace.share(len(self._ahead), self._slots))
        if self._even is None and self.pace.calls:
            self._even = max(-(-left // self._slots), 1)
        return min(self.size, self.pace.share(left, self._slots), self._even or 1)

    def _pull(self, wanted: int) -> None:
        missing = wanted - len(self._ahead)
        if missing > 0 and not self.exhausted:
            self.exhausted = not self._ahead.pull(self._calls, missing)
