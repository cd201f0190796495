"""Policies of a run: how many calls travel together, and how many go ahead of who takes their results.

Small callables over what was measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from shoal.parallel._checks import as_number

#: The work that one batch should hold. The way of a batch costs about 0.3 ms, so that it is lost in it, and two
#: workers still finish together, since the last batches are smaller.
BATCH_SECONDS = 0.035
#: No batch is cut below this at the end of a run: its way would take longer than what could be evened out.
LEAST_BATCH_SECONDS = 0.002
#: What the first call of a batch takes beyond its own time, in seconds, since a worker's caches are cold when it comes
#: from waiting: measured with calls that do nothing.
COLD_SECONDS = 10e-6
#: Calls are taken to last no less, in seconds: clocks may say that they take no time at all.
SHORTEST = 1e-7
#: The bytes of one batch, both ways: enough for the speed of a memcpy, little beside the memory of a machine.
BATCH_BYTES = 32 * 2**20
#: The calls of one batch: with so many the way is lost in the work already, and more would only take memory.
BATCH_CALLS = 2**14
#: No batch has more calls than this, whatever number the user gives: ``islice`` takes no larger one on some systems.
MOST_CALLS = 2**31 - 1
#: A batch may be so many times larger than the one that was measured.
LEAP, STEP = 512, 8
#: A worker gives back the calls of a batch that it has not begun after so many seconds: they were not like those that
#: were measured, and others may have nothing to do.
CUT_SECONDS = 0.05
#: What may be on its way to who takes a generator's results: of each worker, two batches that run or are queued and two
#: that have come back; of results, so many bytes, or two per worker if those are more.
PENDING_BATCHES, PENDING_BYTES = 4, 64 * 2**20
#: What is remembered of the batches before, each time a new one is measured.
MEMORY = 0.95


class Pace:
    """What the calls of a run have cost so far; newer batches weigh more.

    Attributes
    ----------
    calls
        The number of calls that were measured, faded.
    seconds
        The seconds that they took in the workers, faded.
    nbytes
        The bytes that they sent and returned, faded.
    returned
        The bytes that they returned, faded.
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
        """Take in what a batch has cost."""
        self.calls = self.calls * MEMORY + calls
        self.seconds = self.seconds * MEMORY + max(seconds - COLD_SECONDS, 0.0)
        self.nbytes = self.nbytes * MEMORY + nbytes
        self.returned = self.returned * MEMORY + returned
        self.last = max(self.last, calls)

    def share(self, left: int, slots: int) -> int:
        """Return the calls of one of the last batches, `left` calls being left for so many slots.

        Half of an even share, so that the rest can even out what the calls differ in; but no less than
        :data:`LEAST_BATCH_SECONDS` of work.
        """
        least = int(LEAST_BATCH_SECONDS / max(self.seconds_per_call, SHORTEST)) if self.calls else 1
        return max(-(-left // (2 * slots)), least, 1)


def number_from(name: str, function: Callable[..., Any], value: Any) -> float:
    """Return the number that a callable of the user's has returned.

    Parameters
    ----------
    name
        The argument that was given the callable: ``"batch_size"``.
    function, value
        The callable, and what it has returned.

    Raises
    ------
    TypeError
        If `value` is no number.
    ValueError
        If it is NaN.
    """
    kind = type(value)
    if kind is int:
        return value  # type: ignore[no-any-return]
    number = as_number(value)
    if number is None:
        said = f"the callable {name}={function!r} must return a number, but it returned {value!r:.80} ({kind.__name__})"
        raise ValueError(said) if issubclass(kind, float) else TypeError(said)
    return number


def asked_batch_size(function: Callable[[Pace], Any], pace: Pace) -> int:
    """Return the calls of a batch that a callable of the user's asks for: at least 1; fractions are rounded down.

    Infinity, which is what a division by a time of zero gives in numpy, stands for the largest batch that "auto" makes.
    """
    number = number_from("batch_size", function, function(pace))
    if number == math.inf:
        return BATCH_CALLS
    return int(min(max(number, 1), MOST_CALLS))


def auto_batch_size(pace: Pace, distance: float = 1.0) -> int:
    """Return the calls of a batch that holds :data:`BATCH_SECONDS` of work within :data:`BATCH_BYTES`.

    Workers that are farther away are given more work. The size grows by leaps, not by doubling: calls of a microsecond
    reach batches of thousands in three rounds. Where the leap would be into work that can be felt, it is shorter, since
    the calls measured may not be like the next.
    """
    wanted = min(BATCH_CALLS, distance * BATCH_SECONDS / max(pace.seconds_per_call, SHORTEST))
    if pace.nbytes:
        wanted = min(wanted, BATCH_BYTES * pace.calls / pace.nbytes)
    leap = pace.last * LEAP
    return max(1, int(leap if wanted >= leap else min(wanted, pace.last * STEP)))


def auto_max_pending(slots: int, pace: Pace, size: int) -> int:
    """Return the calls of a generator's run that may be on their way, or wait to be taken.

    That is :data:`PENDING_BATCHES` of `size` per slot, within :data:`PENDING_BYTES`: small calls keep their large
    batches, and a slow consumer bounds the memory.
    """
    most = PENDING_BATCHES * slots * size
    if pace.returned:
        most = min(most, int(PENDING_BYTES * pace.calls / pace.returned))
    return max(most, 2 * slots)
