"""Calls from an asynchronous iterable, on their way from an event loop to a run in another thread.

::

    the event loop                                     the run's threads
    async for call in calls ──> Arrivals ──ready──> ArrivalQueue ──> batches, or single calls
        ^                          │  └── wakes the run if it has found too few calls
        └── reads on request ──────┴───────── requests as many calls as the run may dispatch now

The run never waits for its input, so it delivers results while the next call is still missing. The next call may depend
on these results.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import AsyncIterable, Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from shoal.parallel._batch import CallQueue
from shoal.parallel._delayed import Call

if TYPE_CHECKING:  # a program with an event loop has imported asyncio, and no other run should wait for that import
    import asyncio

#: After so many calls in a row the event loop runs its other tasks, also if the iterable never waits.
READ_IN_A_ROW = 64


class Arrivals:
    """The calls that have arrived, and the number of calls that the run requests.

    Parameters
    ----------
    loop
        The event loop in which the iterable is read.

    Attributes
    ----------
    wake
        Called when a call has come that the run waits for.

    Notes
    -----
    Thread-safe.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        import asyncio

        self._loop = loop
        self._requested = asyncio.Event()  # set when calls are requested; used in the event loop only
        self._lock = threading.Lock()  # guards what follows
        self._calls: deque[Call] = deque()
        self._wanted = 0  # the number of calls to read
        self._awaited = False  # whether the run has found fewer calls than it wanted since the last call came
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
        """Whether all calls were taken and no more will come."""
        with self._lock:
            return self._ended and not self._calls and self._error is None

    def ready(self, wanted: int) -> int:
        """Return how many calls are there, `wanted` at most, and request those that are missing.

        Raises
        ------
        BaseException
            The exception of the iterable, once the calls before it are taken.
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
            self._loop.call_soon_threadsafe(self._requested.set)
        return min(there, wanted)

    async def feed(self, calls: AsyncIterable[Call]) -> None:
        """Read as many calls as are requested until the iterable ends, then close it.

        :meth:`ready` raises the iterable's exceptions.
        """
        import asyncio

        iterator: Any = None
        error: BaseException | None = None
        number = 0
        try:
            iterator = aiter(calls)
            while True:
                while self._wanted <= 0:
                    self._requested.clear()
                    await self._requested.wait()
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
        except BaseException as raised:  # ready() raises it, where the run wants the calls
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


class ArrivalQueue(CallQueue):
    """The queue of a run whose calls arrive one by one. The run dispatches those that are there.

    Parameters
    ----------
    arrivals
        The calls that have arrived.
    calls
        An iterator over `arrivals`; each step takes one call.
    at_once
        Whether to request all calls at once (``pre_dispatch="all"``), and not only as many as the run wants.
    """

    def __init__(self, arrivals: Arrivals, calls: Iterable[Call], at_once: bool) -> None:
        super().__init__(calls)
        self._arrivals = arrivals
        self._at_once = at_once

    def fill(self, wanted: int) -> None:
        """Take calls that have arrived until `wanted` calls are read ahead, or no more are there."""
        missing = wanted - len(self.ahead)
        if missing > 0 and not self.exhausted:
            self.ahead.pull(self._calls, self._arrived(missing))

    def next_call(self) -> tuple[int, Call] | None:
        """Return the index of the next call, and the call; None if there is none now."""
        if not self.requeued and not self._arrived(1):
            return None
        return super().next_call()

    def available(self, wanted: int) -> int:
        """Return the number of calls that can be dispatched, and request up to `wanted`. Later ones wake the run."""
        return len(self.requeued) + self._arrived(wanted)

    def _arrived(self, wanted: int) -> int:
        """Return how many calls are there, `wanted` at most."""
        there = self._arrivals.ready(sys.maxsize if self._at_once else wanted)
        self.exhausted = not there and self._arrivals.ended
        return min(there, wanted)
