"""Publishes, now and then, which calls the threads of a run run. ``shoal top`` reads it from another process.

::

    thread      keeps the call that it has taken
    the loop    Watch.look, after a tenth of a second, then each second ──> the page (transport/_published.py)

To note each call would cost as much as a short call. So a run that lasts less than a tenth of a second is not
published, and the time at which a call has begun is that of the first look that sees it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from shoal.errors import RunEnded
from shoal.parallel._delayed import Call
from shoal.parallel.transport._published import RunRecord
from shoal.parallel.transport._status import StatusRow, status_page

#: The seconds before the first look, and between two.
FIRST_SECONDS, SECONDS = 0.1, 1.0
#: A time after which no run looks again, which every system can wait. In seconds.
FOREVER = 1e7


class RunThread:
    """The state of one thread of a run.

    Attributes
    ----------
    slot
        The index of its slot.
    index
        The thread's index among those of the run, which its calls see as that of their worker.
    ident
        The system's id of the thread; 0 if it has not begun.
    done
        The results that were not reported yet, with the indices of their calls.
    taken
        The call that the thread has taken last, and its index; None if that has ended, unless its result is in `done`.
    running
        The call that runs now: its index, the call, and when it began; None if no call runs, or nobody asks.
    timed_out
        Whether its call ran for too long, so that the thread takes no more calls.
    """

    def __init__(self, slot: int, index: int) -> None:
        self.slot = slot
        self.index = index
        self.done: list[tuple[int, Any]] = []
        self.taken: tuple[int, Call] | None = None
        self.ident = 0
        self.running: tuple[int, Call, float] | None = None
        self.timed_out = False

    @property
    def present(self) -> tuple[int, Call] | None:
        """The index of the call that runs, and the call; None if none does."""
        taken = self.taken
        return None if taken is None or (self.done and self.done[-1][0] == taken[0]) else taken

    def present_index(self) -> int | None:
        """Return the index of the call that runs; None if none does."""
        present = self.present
        return None if present is None else present[0]

    def index_of_call(self) -> int:
        """Return the index of the call that runs; raise RunEnded if none does."""
        if self.running is None:
            raise RunEnded
        return self.running[0]


class Watch:
    """Looks at the threads of one run.

    Attributes
    ----------
    due
        When to look the next time, in seconds of ``time.perf_counter()``.

    Notes
    -----
    It belongs to the thread that owns the run.
    """

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self.due = self._began + FIRST_SECONDS
        self._record: RunRecord | None = None
        self._rows: dict[int, StatusRow] = {}  # by the index of the thread
        self._noted: dict[int, float] = {}  # the activity in each row

    @property
    def shown(self) -> bool:
        """Whether the run is published."""
        return self._record is not None

    def look(self, published: tuple[str, int, int | None], completed: int, threads: Iterable[RunThread]) -> None:
        """Publish what the threads do.

        Parameters
        ----------
        published
            The name of the backend, and the numbers of workers and of calls.
        completed
            The number of calls that have a result, without those that the threads have not reported.
        threads
            The threads that take calls.
        """
        now = time.perf_counter()
        self.due = now + SECONDS
        if self._record is None:
            self._record = status_page.begin_run(*published, self._began, "threads")
            if self._record is None:  # no program could see it
                self.due = now + FOREVER
                return
        idle = set(self._rows)
        for thread in threads:
            completed += len(thread.done)
            present = thread.present
            if present is not None:
                self._note(self._record, thread, *present, now)
                idle.discard(thread.index)
        for index in idle:
            last = self._noted[index]
            if last >= 0:
                self._noted[index] = -1 - last
                self._rows[index].write(-1 - last, now)
        self._record.publish(completed, published[2])

    def close(self) -> None:
        """Publish that the run has ended."""
        if self._record is not None:
            status_page.end_run(self._record)
            for row in self._rows.values():
                status_page.free(row)
            self._record, self._rows = None, {}

    def _note(self, record: RunRecord, thread: RunThread, index: int, call: Any, now: float) -> None:
        """Write that a thread runs a call, unless its row says so."""
        if thread.index not in self._rows:
            row = status_page.allocate()
            if row is None:
                return
            self._rows[thread.index], self._noted[thread.index] = row, -1
        if self._noted[thread.index] != index:
            row = self._rows[thread.index]
            record.sent(row.address[1], index, 1, call[0] if isinstance(call, tuple) and call else None)
            row.write(index, now, thread.ident)
            self._noted[thread.index] = index
