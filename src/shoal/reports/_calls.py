"""Measures the calls of one batch, in the loop of the worker that runs them.

::

    calls ──marked──> call │ call │ call      one reading of the clock after each; of the CPU clock, every 5 ms
          ──close───> a short text about each of the slowest
"""

from __future__ import annotations

import heapq
import time
from array import array
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from shoal.reports._shown import MOST, shown_arguments

#: The number of slowest calls that are described.
SLOWEST = 10
#: Shorter calls are not among the slowest. In seconds.
SHORT = 2e-5
#: The CPU clock is read after a call if it was not read for so long, in seconds. To read it takes 0.3 us, and 5 us
#: where a call of 1 ms has emptied the caches.
_READ_EVERY = 5e-3
#: The CPU time of a call is known if the CPU clock was read at most this part of its duration before it began.
_MOST_BEFORE = 0.1


class SlowCall(NamedTuple):
    """One of the slowest calls.

    Attributes
    ----------
    seconds, start, cpu
        Its duration; when it began, by this process's ``perf_counter``; and its CPU time, or None.
    call
        Its index.
    function, arguments
        The name of the function, and its arguments as a short text.
    """

    seconds: float
    call: int
    start: float
    cpu: float | None
    function: str
    arguments: str

    @classmethod
    def of(cls, call: Any, index: int, start: float, seconds: float, cpu: float | None) -> SlowCall:
        """Describe a call."""
        function, args, kwargs = call
        return cls(seconds, index, start, cpu, name_of(function), shown_arguments(args, kwargs))


def name_of(function: Any) -> str:
    """Return the name of a function, without its module if that is ``__main__`` or ``builtins``. It raises nothing."""
    try:
        inner = getattr(function, "__wrapped__", None) or getattr(function, "func", None) or function
        name = getattr(inner, "__qualname__", None) or type(inner).__qualname__
        module = getattr(inner, "__module__", None)
        return str(name) if module in (None, "__main__", "builtins") else f"{module}.{name}"[-MOST:]
    except Exception:  # attributes of the user's
        return "?"


class CallClock:
    """Measures the calls of one batch.

    Parameters
    ----------
    start
        The index of the first call.
    slow_above
        Calls that took longer are described, in seconds.
    cpu_clock
        Returns the CPU time of this process or thread, in seconds.

    Attributes
    ----------
    began
        When the first call began, by ``perf_counter``.
    durations
        The seconds of each call.
    slow
        The slowest calls; known after :meth:`close`.
    cpu
        The CPU time of the calls; known after :meth:`close`.

    Notes
    -----
    It belongs to the thread that runs the batch.
    """

    def __init__(self, start: int, slow_above: float, cpu_clock: Callable[[], float]) -> None:
        self.began = time.perf_counter()
        self.durations = array("f")
        self.slow: list[SlowCall] = []
        self.cpu = 0.0
        self._start, self._slow_above, self._cpu_clock = start, max(slow_above, SHORT), cpu_clock
        self._marks: Iterator[Any] = iter(())
        self._open: tuple[Any, float, float, float] | None = None
        self._slowest: list[tuple[float, int, float, float | None, Any]] = []  # a heap
        self._cpu_span = [0.0, 0.0]  # the CPU clock before the first call and after the last one

    def marked(self, calls: Iterator[Any]) -> Iterator[Any]:
        """Return an iterator over the same calls, which takes the times between them."""
        self._marks = self._marked(calls)
        return self._marks

    def _marked(self, calls: Iterator[Any]) -> Iterator[Any]:
        clock, cpu_clock, append = time.perf_counter, self._cpu_clock, self.durations.append
        slow = self._slow_above
        self._cpu_span[0] = cpu = cpu_clock()
        self.began = begin = read = clock()
        call: Any = None
        try:
            for call in calls:
                yield call
                end = clock()
                duration = end - begin
                append(duration)
                if duration > slow or end - read > _READ_EVERY:
                    now = cpu_clock()
                    if duration > slow:
                        slow = self._keep(call, begin, duration, now - cpu, begin - read)
                    cpu, read = now, clock()
                    end = read
                begin = end
            self._cpu_span[1] = cpu_clock()
        except GeneratorExit:  # the loop has left with this call
            self._open = call, begin, cpu, read
            raise

    def _keep(self, call: Any, begin: float, seconds: float, cpu: float, before: float) -> float:
        """Keep a slow call, which is the latest; return the duration above which the next one is kept.

        Parameters
        ----------
        call, begin, seconds
            The call, when it began, and its duration.
        cpu, before
            The CPU time since the CPU clock was read, and how long before the call that was.
        """
        index = self._start + len(self.durations) - 1
        kept = (seconds, -index, begin, max(cpu, 0.0) if before <= _MOST_BEFORE * seconds else None, call)
        if len(self._slowest) < SLOWEST:
            heapq.heappush(self._slowest, kept)
            return self._slow_above
        heapq.heappushpop(self._slowest, kept)
        return self._slowest[0][0]

    def close(self, elapsed: float) -> None:
        """End the measuring.

        Parameters
        ----------
        elapsed
            The seconds from the beginning of the first call to the end of the last one.
        """
        getattr(self._marks, "close", int)()
        before, after = self._cpu_span
        after = after or self._cpu_clock()
        if self._open is not None:
            call, begin, cpu, read = self._open
            self._open = None
            seconds = max(self.began + elapsed - begin, 0.0)
            self.durations.append(seconds)
            if seconds > self._slow_above:
                self._keep(call, begin, seconds, after - cpu, begin - read)
        for seconds, minus_index, begin, cpu_time, call in self._slowest:
            self.slow.append(SlowCall.of(call, -minus_index, begin, seconds, cpu_time))
        self._slowest = []
        if self.durations:
            self.cpu = max(after - before, 0.0)
