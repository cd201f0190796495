"""The calls of a run that no worker has yet: those still in the caller's iterator, those read ahead, those requeued.

::

    the caller's iterator ──fill──> ahead ─────┐
                                               ├──next_batch, next_call──> dispatched
          a batch that was lost or cut short ──┘
                               (requeued)
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter
from typing import Any

from shoal.parallel._batch import Batch
from shoal.parallel._delayed import Call


class CallQueue:
    """The calls of a run that no worker has yet.

    Parameters
    ----------
    calls
        The caller's calls. They are read one after the other, and no earlier than they are asked for.
    total
        The number of calls; None if it is not known.

    Attributes
    ----------
    ahead
        The calls that were read and not dispatched, as a :class:`Batch`.
    requeued
        The batches whose calls are to be dispatched again. They go before the calls in `ahead`.
    exhausted
        Whether the caller's iterator has ended.
    dispatched
        The number of calls that were dispatched at least once.

    Notes
    -----
    Not thread-safe.
    """

    def __init__(self, calls: Iterable[Call], total: int | None = None) -> None:
        self._calls = iter(calls)
        self.total = total
        self.ahead: Any = Batch(0)
        self.requeued: list[Batch] = []
        self.exhausted = False
        self.dispatched = 0

    @property
    def empty(self) -> bool:
        """Whether no call is left to dispatch, as far as is known now."""
        return self.exhausted and not (self.ahead or self.requeued)

    @property
    def read(self) -> int:
        """The number of calls that were read from the caller's iterator."""
        return self.dispatched + len(self.ahead)

    @property
    def left(self) -> int | None:
        """The number of calls that are left to dispatch; None while it is unknown."""
        requeued = sum(map(len, self.requeued))
        if self.exhausted:
            return len(self.ahead) + requeued
        return None if self.total is None else max(self.total - self.dispatched, len(self.ahead)) + requeued

    def fill(self, wanted: int) -> None:
        """Read from the caller's iterator until `wanted` calls are read ahead, or it ends.

        Raises
        ------
        Exception
            Whatever the iterator raises.
        """
        missing = wanted - len(self.ahead)
        if missing > 0 and not self.exhausted:
            self.exhausted = not self.ahead.pull(self._calls, missing)

    def next_batch(self, size: int, room: int, accepts: Any = None) -> Batch | None:
        """Return a batch of at most `size` calls, the earliest requeued ones first; None if there is none.

        Parameters
        ----------
        size
            The largest number of calls.
        room
            The largest number of calls that were not dispatched before.
        accepts
            Takes the size of the batch, and tells whether the caller wants it; None if the caller wants any.
        """
        source = min(self.requeued, key=attrgetter("start"), default=self.ahead)
        size = min(size, len(source))
        if source is self.ahead:
            size = min(size, room)
        if not size or (accepts is not None and not accepts(size)):
            return None
        batch: Batch = source.split(size)
        if not batch:  # of submitted calls, all were cancelled meanwhile
            return None
        if source is self.ahead:
            self.dispatched += len(batch)
        elif not source:
            self.requeued.remove(source)
        return batch

    def next_call(self) -> tuple[int, Call] | None:
        """Return the index of the next call, and the call; None if there is none. Threads take their calls here."""
        if self.requeued:
            (call,) = batch = self.requeued.pop()
            return batch.start, call
        try:
            call = next(self._calls)
        except StopIteration:
            self.exhausted = True
            return None
        index = self.dispatched
        self.dispatched = index + 1
        return index, call

    def available(self, _wanted: int) -> int:
        """Return how many calls can be dispatched at once, without reading from the caller's iterator."""
        return len(self.requeued)

    def requeue(self, batch: Batch) -> None:
        """Have the calls of a batch dispatched again, before the calls that were never dispatched."""
        if len(batch):
            self.requeued.append(batch)
