"""Measures one batch in a worker; what it has measured goes back with the results.

::

    BatchMeter ── entered ──> imports are timed; runs that calls make are gathered
        marked(calls) ──> the loop of the worker: one clock reading per call
        stop(...) ──> the slowest calls are described
        finish() ──> the fields of Measured ── in the reply ──> Meter, in the caller
"""

from __future__ import annotations

import builtins
import os
import socket
import sys
import threading
import time
from array import array
from collections.abc import Iterator
from typing import Any, NamedTuple

from shoal.reports._active import Scope, scope
from shoal.reports._calls import CallClock
from shoal.reports._system import LONG, thread_time, threads_in_use, usage

#: The size of an item of :attr:`Measured.durations`.
FLOAT_BYTES = array("f").itemsize
#: The number of runs that calls of one batch have made, beyond which they are only counted.
MOST_NESTED = 20


class Measured(NamedTuple):
    """What was measured of a batch. Times are those of the worker's ``perf_counter``.

    Attributes
    ----------
    start
        The index of the first call.
    pid, host, thread
        Where it ran. The thread is None where the process runs nothing else.
    clock
        The difference between the time since 1970 and ``perf_counter``, by which other machines' times are compared.
    before
        The number of calls that its process had run before; None if that is not known.
    received, began, called, ended
        When the worker began to decode the batch, when its first call began, when its last call had ended, and when the
        results were encoded.
    durations
        An array of floats: the seconds of each call.
    cpu
        The CPU time of the calls.
    slow
        The fields of the slowest calls, as far as they are slower than those that the caller knows.
    memory, switches, threads
        As in docs/report-schema.md.
    modules, import_seconds
        The number of modules that were imported, and how long that took.
    nested, omitted
        The runs that calls have made, and how many of them were left out.
    """

    start: int
    pid: int
    host: str
    thread: int | None
    clock: float
    before: int | None
    received: float
    began: float
    called: float
    ended: float
    durations: bytes
    cpu: float
    slow: tuple[tuple[Any, ...], ...]
    memory: int | None
    switches: int | None
    threads: int | None
    modules: int
    import_seconds: float
    nested: tuple[dict[str, Any], ...]
    omitted: int

    @property
    def calls_so_far(self) -> int:
        """The number of calls that its process had run after the batch."""
        return (self.before or 0) + len(self.durations) // FLOAT_BYTES


class Gathered:
    """The runs that the calls of a batch have made."""

    rows = 100

    def __init__(self) -> None:
        self.runs: list[dict[str, Any]] = []
        self.omitted = 0

    def began(self, meter: Any) -> None:
        """Wait for the end: a run that a batch leaves behind is not reported."""

    def ended(self, meter: Any) -> None:
        """Add a run."""
        self.add([meter.to_dict()], 0)

    def add(self, runs: list[dict[str, Any]], omitted: int) -> None:
        """Add runs, as far as there is room."""
        room = max(MOST_NESTED - len(self.runs), 0)
        self.runs += runs[:room]
        self.omitted += omitted + len(runs[room:])


class BatchMeter:
    """Measures the batch of one worker.

    Parameters
    ----------
    start
        The index of the first call.
    slow_above
        Calls that took longer are described, in seconds.
    alone
        Whether this process runs nothing but the batch. Otherwise only the thread is measured.
    before
        The number of calls that this process has run before; None if that is not known.
    run
        Identifies the run to which the batch belongs. Its first batch is looked at more closely.

    Notes
    -----
    It belongs to the thread that runs the batch.
    """

    def __init__(self, start: int, slow_above: float, alone: bool, before: int | None, run: Any = None) -> None:
        self._received = time.perf_counter()
        self._start, self._alone, self._before = start, alone, before
        self._calls = CallClock(start, slow_above, time.process_time if alone else thread_time)
        self._called = self._calls.began
        self._gathered = Gathered()
        self._imports = _Imports()
        if before == 0:
            _latest.usage = usage()
        first = run != _latest.run
        if alone and (first or (_latest.seconds > LONG and self._received > _latest.next_look)):
            threads_in_use.begin()
            _latest.run, _latest.looked, _latest.next_look = run, True, self._received + _LOOK_AGAIN

    def __enter__(self) -> None:
        self._outside = scope.set(Scope((self._gathered,), None, True))
        if self._alone:
            self._imports.begin()

    def __exit__(self, *_: object) -> None:
        self._imports.end()
        scope.reset(self._outside)

    def marked(self, calls: Iterator[Any]) -> Iterator[Any]:
        """Return an iterator over the same calls, which takes the times between them."""
        return self._calls.marked(calls)

    def leave_no_frames(self, error: BaseException) -> None:
        """Remove the frames that measure imports from the traceback of an exception."""
        trace = error.__traceback__
        while trace is not None:
            following = trace.tb_next
            while following is not None and following.tb_frame.f_code is _Imports.timed.__code__:
                following = trace.tb_next = following.tb_next
            trace = following

    def stop(self, elapsed: float) -> None:
        """End the measuring of the calls, and describe the slowest ones, which it no longer keeps.

        Parameters
        ----------
        elapsed
            The seconds from the beginning of the first call to the end of the last one.
        """
        self._calls.close(elapsed)
        self._called = self._calls.began + elapsed

    def finish(self) -> tuple[Any, ...]:
        """Return the fields of :class:`Measured`, after the results were encoded.

        They are plain values: a class of tuples takes seven times as long to pickle.
        """
        calls = self._calls
        used, before = usage(), _latest.usage
        ended = time.perf_counter()
        settled = self._before != 0 or ended - self._received > _SETTLED
        threads = threads_in_use.count() if self._alone and _latest.looked and settled else None
        if threads is not None:
            _latest.next_look = ended + _LOOK_EVERY
        _latest.seconds, _latest.looked, _latest.usage = ended - self._received, False, used
        return (
            self._start,
            os.getpid(),
            _latest.host,
            None if self._alone else threading.get_ident(),
            time.time() - time.perf_counter(),
            self._before,
            self._received,
            calls.began,
            min(self._called, ended),
            ended,
            calls.durations.tobytes(),
            calls.cpu,
            tuple(map(tuple, calls.slow)),
            used.memory,
            None if used.switches is None or before.switches is None else used.switches - before.switches,
            threads,
            self._imports.modules,
            self._imports.seconds,
            tuple(self._gathered.runs),
            self._gathered.omitted,
        )


#: The seconds between two looks at the threads of a worker in one run; and those after a look that told nothing,
#: because the batch was too short. A look takes up to 130 us per thread.
_LOOK_EVERY, _LOOK_AGAIN = 1.0, 0.2
#: The first batch of a process tells nothing of its threads if it takes less. OpenBLAS restarts its threads after a
#: fork, and each of them spins for a while, although the calls do not use it. In seconds.
_SETTLED = 0.5


class _Latest:
    """The latest batch of this process that was measured, and the name of the host."""

    host = socket.gethostname()
    seconds = 0.0
    run: Any = None  # the run to which it belongs
    looked = False  # whether the threads were looked at when the present one began
    usage = usage()
    next_look = 0.0  # by perf_counter


_latest = _Latest()


class _Imports:
    """Measures the import statements of the thread that begins it, also those that unpickling runs."""

    def __init__(self) -> None:
        self.modules = 0
        self.seconds = 0.0
        self._thread = threading.get_ident()
        self._usual = self._replaced = builtins.__import__
        self._inside = False

    def begin(self) -> None:
        """Replace ``__import__``, which every import statement calls."""
        self._usual = builtins.__import__
        self._replaced = self.timed
        builtins.__import__ = self._replaced

    def end(self) -> None:
        """Put ``__import__`` back, unless a call has replaced it too."""
        if builtins.__import__ is self._replaced:
            builtins.__import__ = self._usual

    def timed(self, *args: Any, **kwargs: Any) -> Any:
        """Do as ``__import__``."""
        if self._inside or threading.get_ident() != self._thread:
            return self._usual(*args, **kwargs)
        self._inside = True
        before, began = len(sys.modules), time.perf_counter()
        try:
            return self._usual(*args, **kwargs)
        finally:
            self._inside = False
            grown = len(sys.modules) - before
            if grown > 0:
                self.modules += grown
                self.seconds += time.perf_counter() - began
