"""Calls from an asynchronous iterable, on their way from an event loop to a run in another thread.

::

    the event loop                                     the run's threads
    async for call in calls ──> Arrivals ──ready──> Arriving (Schedule) ──> batches, or single calls
        ^                          │  └── wakes the run that has found too few
        └── reads what was asked ──┴─────────────── asks for as many as it may give out now

The run never waits for the input itself, so that results are delivered while the next call is not there yet: it may
depend on them.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import AsyncIterable, Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from shoal.parallel._delayed import Call
from shoal.parallel._schedule import Schedule

if TYPE_CHECKING:  # who has an event loop has imported it, and nobody else is to wait for that
    import asyncio

#: After so many calls in a row the event loop gets its turn, also from an iterable that never waits.
READ_IN_A_ROW = 64


class Arrivals:
    """The calls that have arrived, and the number of those that are wanted.

    Parameters
    ----------
    loop
        The event loop in which the iterable is read.

    Attributes
    ----------
    wake
        Called when something has come that the run was waiting for.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        import asyncio

        self._loop = loop
        self._more = asyncio.Event()  # set when calls are wanted; only the loop touches it
        self._lock = threading.Lock()  # over what follows
        self._calls: deque[Call] = deque()
        self._wanted = 0  # the number of calls that are to be read
        self._awaited = False  # whether the run has found fewer than it wanted since the last came
        self._ended = False
        self._error: BaseException | None = None
        self.wake: Callable[[], object] = int

    def __iter__(self) -> Iterator[Call]:
        return self

    def __next__(self) -> Call:
        """Return a call that :meth:`ready` has counted."""
        return self._calls.popleft()

    @property
    def ended(self) -> bool:
        """Whether no more calls will be there."""
        with self._lock:
            return self._ended and not self._calls and self._error is None

    def ready(self, wanted: int) -> int:
        """Return how many calls are there, `wanted` at most; see to it that those that are missing are read.

        Raises
        ------
        BaseException
            What the iterable has raised, when the calls before it are taken.
        """
        with self._lock:
            there = len(self._calls)
            ask = False
            if there < wanted and not self._ended:
                self._awaited = True
                ask = wanted - there > self._wanted
                self._wanted = max(self._wanted, wanted - there)
            error = None
            if not there and self._error is not None:
                error, self._error = self._error, None
        if error is not None:
            raise error
        if ask:
            self._loop.call_soon_threadsafe(self._more.set)
        return min(there, wanted)

    async def feed(self, calls: AsyncIterable[Call]) -> None:
        """Read the iterable, as much as is asked for, until it ends; then close it.

        Whatever it raises is raised by :meth:`ready`.
        """
        import asyncio

        iterator: Any = None
        error: BaseException | None = None
        number = 0
        try:
            iterator = aiter(calls)
            while True:
                while self._wanted <= 0:
                    self._more.clear()
                    await self._more.wait()
                try:
                    call = await iterator.__anext__()
                except StopAsyncIteration:
                    break
                self._put(call)
                number += 1
                if not number % READ_IN_A_ROW:
                    await asyncio.sleep(0)
        except asyncio.CancelledError as cancelled:
            error = cancelled
            raise
        except BaseException as raised:  # it is raised where the calls are wanted
            error = raised
        finally:
            try:
                if hasattr(iterator, "aclose"):
                    await iterator.aclose()
            finally:
                self._end(error)

    def _put(self, call: Call) -> None:
        with self._lock:
            self._calls.append(call)
            self._wanted -= 1
            wake, self._awaited = self._awaited, False
        if wake:
            self.wake()

    def _end(self, error: BaseException | None) -> None:
        with self._lock:
            self._ended, self._error = True, error
        self.wake()


class Arriving(Schedule):
    """A schedule whose calls arrive when they like; it gives out those that are there.

    Parameters
    ----------
    arrivals
        Where they arrive.
    calls
        An iterator over them, one step of which takes one call.
    pre_dispatch, **options
        As for :class:`Schedule`.
    """

    def __init__(self, arrivals: Arrivals, calls: Iterable[Call], *, pre_dispatch: int | None, **options: Any) -> None:
        self._arrivals = arrivals
        self._all = pre_dispatch is None
        super().__init__(calls, pre_dispatch=sys.maxsize if pre_dispatch is None else pre_dispatch, **options)

    def take(self) -> tuple[int, Call] | None:
        """Return the next call and its index, or None if there is none now."""
        if not self._given_back and not self._arrived(1):
            return None
        return super().take()

    def waiting(self) -> int:
        """Return the number of calls that can be given out; the run is woken when there are more."""
        assert self._bound is not None
        room = min(self._slots, self._bound - (self.dispatched - self.completed_calls))
        return self.gave_back + self._arrived(max(room, 0))

    def _pull(self, wanted: int) -> None:
        missing = wanted - len(self._ahead)
        if missing > 0 and not self.exhausted:
            self._ahead.pull(self._calls, self._arrived(missing))

    def _arrived(self, wanted: int) -> int:
        """Return how many calls are there, `wanted` at most."""
        there = self._arrivals.ready(sys.maxsize if self._all else wanted)
        self.exhausted = not there and self._arrivals.ended
        return min(there, wanted)


class Arrived:
    """An input whose calls arrive: what a run is given in the place of an iterable."""

    def __init__(self, arrivals: Arrivals, calls: Iterable[Call]) -> None:
        self._arrivals, self._calls = arrivals, calls

    def __iter__(self) -> Iterator[Call]:
        return iter(self._calls)

    def schedule(self, **options: Any) -> Schedule:
        """Return the schedule of the run."""
        return Arriving(self._arrivals, self._calls, **options)
