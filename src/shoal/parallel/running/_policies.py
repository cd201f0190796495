"""The policies of a run: how many calls a batch has, and how far a run may go ahead of its consumer.

A policy is a small callable that takes what calls have cost so far (:class:`Pace`). :class:`Sizing` applies them.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

from shoal.parallel.options._checks import as_number

#: The seconds of work that one batch should hold. Sending a batch costs about 0.3 ms, which is little beside this; and
#: two workers still finish together, because the last batches are smaller.
BATCH_SECONDS = 0.035
#: At the end of a run, no batch is cut below so many seconds of work: sending it would take longer than the time that
#: smaller batches could save.
LEAST_BATCH_SECONDS = 0.002
#: The seconds that the first call of a batch takes beyond its own time, because a waiting worker's caches are cold.
#: Measured with calls that do nothing.
COLD_SECONDS = 10e-6
#: The least seconds that a call is assumed to take: a clock may measure 0.
SHORTEST = 1e-7
#: The seconds of the caller's time that a batch takes.
CALLER_SECONDS = 0.0002
#: The caller feeds so many workers with batches of :data:`BATCH_SECONDS` in a third of its time. More workers count as
#: farther away, so that they get more work at a time.
FED_WORKERS = int(BATCH_SECONDS / CALLER_SECONDS / 3)
#: The bytes of one batch, in both directions: enough for the speed of a memcpy, and little beside a machine's memory.
BATCH_BYTES = 32 * 2**20
#: The calls of one batch. With so many, the cost of sending is small already; more would only take memory.
BATCH_CALLS = 2**14
#: No batch has more calls than this, whatever number the user gives: on some systems ``islice`` takes no larger one.
MOST_CALLS = 2**31 - 1
#: How many times larger a batch may be than the largest that was measured: by a leap, or by a step where the leap would
#: reach work that a user can feel.
LEAP, STEP = 512, 8
#: A worker that has run a batch for so many seconds returns the calls that it has not begun. They were unlike the calls
#: that were measured, and other workers may be idle.
CUT_SECONDS = 0.05
#: What may be on its way to the consumer of a generator: for each worker four batches (two that run or are queued, two
#: that have come back); of results, so many bytes, or two results per worker if those are more.
PENDING_BATCHES, PENDING_BYTES = 4, 64 * 2**20
#: The weight that earlier batches keep each time a new batch is measured.
MEMORY = 0.95
#: A batch waits at a worker behind a running one only if it has less work than this, in seconds: only then would the
#: worker's wait for the next batch show. Towards the end of a run the second figure counts.
QUEUE_AHEAD_SECONDS = 0.05
QUEUE_AHEAD_AT_THE_END_SECONDS = 0.005
#: How many batches per slot are read ahead where the number of calls is unknown, so that the end is seen in time.
READ_AHEAD = 2
#: While the end is not in sight, so many calls are read at once, or so many seconds of work, or as many calls as were
#: dispatched by then; but no more than are read in READ_SECONDS, since workers wait while the caller makes calls.
READ_CALLS, READ_SECONDS = 64, 0.005
#: Calls that take more seconds to make are also read while the caller waits for replies.
SLOW_TO_READ = READ_SECONDS / READ_CALLS


class Pace:
    """What the calls of a run have cost so far. Newer batches weigh more.

    Attributes
    ----------
    calls
        The number of calls that were measured; earlier ones count less.
    seconds
        The seconds that they took in the workers, weighted alike.
    nbytes
        The bytes of their arguments and results, weighted alike.
    returned
        The bytes of their results, weighted alike.
    last
        The size of the largest batch that was measured.
    """

    __slots__ = ("calls", "last", "nbytes", "returned", "seconds")

    def __init__(self) -> None:
        self.calls = 0.0
        self.seconds = 0.0
        self.nbytes = 0.0
        self.returned = 0.0
        self.last = 0

    @property
    def seconds_per_call(self) -> float:
        """The mean time of a call, in seconds."""
        return self.seconds / self.calls if self.calls else 0.0

    def add(self, calls: int, seconds: float, nbytes: int, returned: int = 0) -> None:
        """Add what a batch has cost."""
        self.calls = self.calls * MEMORY + calls
        self.seconds = self.seconds * MEMORY + max(seconds - COLD_SECONDS, 0.0)
        self.nbytes = self.nbytes * MEMORY + nbytes
        self.returned = self.returned * MEMORY + returned
        self.last = max(self.last, calls)

    def share(self, left: int, slots: int) -> int:
        """Return the number of calls of one of the last batches, while `left` calls are left for `slots` slots.

        That is half of an even share, so that the other half can make up for calls that take longer than others; but
        no less than :data:`LEAST_BATCH_SECONDS` of work, or than takes the caller to send a batch to each slot.
        """
        seconds = max(LEAST_BATCH_SECONDS, slots * CALLER_SECONDS)
        least = int(seconds / max(self.seconds_per_call, SHORTEST)) if self.calls else 1
        return max(-(-left // (2 * slots)), least, 1)


class Sizing:
    """The size of batches and the bound on pending calls of one run, which follow what its calls cost.

    Parameters
    ----------
    slots, size, max_pending, distance
        As for :class:`~shoal.parallel.running._schedule.Schedule`.

    Attributes
    ----------
    pace
        What calls have cost so far.
    slots, distance
        As for Schedule.
    size
        The number of calls of a batch now.
    max_pending
        The number of calls that may be pending now; None for no bound.
    adapts
        Whether the size follows the pace; else it is a fixed number.
    """

    def __init__(
        self,
        slots: int,
        size: int | Callable[[Pace], int],
        max_pending: int | Callable[[Pace, int], int] | None,
        distance: float,
    ) -> None:
        self.pace = Pace()
        self.slots = slots
        self._policy = size
        self.adapts = not isinstance(size, int)
        self._pending_policy = max_pending
        # A small bound still leaves work for all slots.
        self._largest = max(max_pending // (2 * slots), 1) if isinstance(max_pending, int) else sys.maxsize
        self.distance = distance
        self._even_share: int | None = None
        self.size = 0
        self.max_pending: int | None = None
        self.measure(0, 0.0)  # sets size and max_pending

    def measure(self, calls: int, elapsed: float, nbytes: int = 0, returned: int = 0) -> None:
        """Add what calls have cost: seconds in the worker, bytes in both directions, and bytes that came back."""
        self.pace.add(calls, elapsed, nbytes, returned)
        size, pending = self._policy, self._pending_policy
        self.size = min(size if isinstance(size, int) else size(self.pace), self._largest)
        self.max_pending = pending(self.pace, self.size) if callable(pending) else pending

    def fair(self, left: int, exact: bool) -> int:
        """Return a size with which all slots finish together.

        Parameters
        ----------
        left
            The number of calls that are left to dispatch.
        exact
            Whether no more calls can follow.
        """
        if not self.adapts:
            return self.size
        size = min(self.size, self.pace.share(left, self.slots))
        if not exact:
            return size
        if self._even_share is None and self.pace.calls:
            self._even_share = max(-(-left // self.slots), 1)
        return min(size, self._even_share or 1)


def number_from(name: str, function: Callable[..., Any], value: Any) -> float:
    """Return the number that a user's callable has returned, as a number of Python's.

    Parameters
    ----------
    name
        The argument that is the callable: ``"batch_size"``.
    function, value
        The callable, and its return value.

    Raises
    ------
    TypeError
        If `value` is not a number.
    ValueError
        If it is NaN.
    """
    kind = type(value)
    if kind is int:
        return value  # type: ignore[no-any-return]
    number = as_number(value)
    if number is None:
        message = (
            f"the callable {name}={function!r} must return a number, but it returned {value!r:.80} ({kind.__name__})"
        )
        raise ValueError(message) if issubclass(kind, float) else TypeError(message)
    return number


def asked_batch_size(function: Callable[[Pace], Any], pace: Pace) -> int:
    """Return the number of calls per batch that a user's callable asks for: at least 1, without the fraction.

    Infinity stands for the largest batch that "auto" makes, because a division by a time of 0 is infinity in numpy.
    """
    number = number_from("batch_size", function, function(pace))
    if number == math.inf:
        return BATCH_CALLS
    return int(min(max(number, 1), MOST_CALLS))


def auto_batch_size(pace: Pace, distance: float = 1.0) -> int:
    """Return how many calls hold :data:`BATCH_SECONDS` of work within :data:`BATCH_BYTES`.

    Workers that are farther away get more work. The size grows by leaps, not by doubling: calls of a microsecond reach
    batches of thousands in three rounds. Where a leap would reach :data:`BATCH_SECONDS`, the size grows by a shorter
    step, because the next calls may not be like those that were measured.
    """
    wanted = min(BATCH_CALLS, distance * BATCH_SECONDS / max(pace.seconds_per_call, SHORTEST))
    if pace.nbytes:
        wanted = min(wanted, BATCH_BYTES * pace.calls / pace.nbytes)
    leap = pace.last * LEAP
    return max(1, int(leap if wanted >= leap else min(wanted, pace.last * STEP)))


def auto_max_pending(slots: int, pace: Pace, size: int) -> int:
    """Return how many calls of a generator's run may be in flight, or have a result that the consumer has yet to take.

    That is :data:`PENDING_BATCHES` batches of `size` calls per slot, within :data:`PENDING_BYTES` of results. So small
    calls keep their large batches, and a slow consumer does not make memory grow.
    """
    most = PENDING_BATCHES * slots * size
    if pace.returned:
        most = min(most, int(PENDING_BYTES * pace.calls / pace.returned))
    return max(most, 2 * slots)
