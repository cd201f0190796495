"""What each worker process does now. A worker writes it to memory that the parent can read, also after a death.

::

    parent                                                     worker
    StatusPage, one per process:  | row 0 | row 1 | ...  <──── StatusWriter writes to one row
                                     │
                                     └─ StatusRow.read() ──> WorkerStatus

    row       three doubles: activity, time, process id. Behind the rows, the parent publishes its runs (_published.py)
    activity  >= 0  the index of the call that runs
              < 0   -1 - start of a batch: the worker rebuilds its arguments or encodes its results
              NaN   the worker has done nothing yet

Each slot of a run has a row until the run ends. The slot's worker writes to it before each call, which takes some
100 ns. Before each batch it also writes its process id.
"""

from __future__ import annotations

import itertools
import math
import mmap
import os
import threading
import time
from collections import deque
from typing import Any, NamedTuple

from shoal._forks import CALLERS, after_fork_in_child
from shoal._platform.memory import HAS_MEMFD, HAS_SECTIONS, new_section, open_section
from shoal.backends._stacks import Requests
from shoal.parallel.transport._published import (
    DOUBLES,
    MOST_RUNS,
    PAGE_BYTES,
    PAGE_NAME,
    ROWS,
    RunRecord,
    write_header,
)
from shoal.parallel.transport._segments import Segment, temporary


class WorkerStatus(NamedTuple):
    """What a worker process does.

    Attributes
    ----------
    call
        The index of the call that runs; None if no call runs.
    batch
        If no call runs: the start of the batch whose arguments the worker rebuilds, or whose results it encodes. None
        if the worker has done nothing yet.
    since
        When this began, in seconds of the worker's ``time.perf_counter()``.
    pid
        The worker's process id; 0 if the worker has done nothing yet.
    """

    call: int | None
    batch: int | None
    since: float
    pid: int


class StatusRow:
    """The row of one worker, as the parent sees it.

    Attributes
    ----------
    address
        The path of the page and the number of the row: with these a worker finds the row.
    """

    def __init__(self, path: str, number: int, doubles: Any) -> None:
        self.address = path, number
        self._first = DOUBLES * number
        self._doubles = doubles
        self.clear()

    def clear(self) -> None:
        """Write that the worker has done nothing yet."""
        self._doubles[self._first] = math.nan
        self._doubles[self._first + 2] = 0.0

    def write(self, activity: float, since: float, worker: int | None = None) -> None:
        """Write what a thread of this process does, or which task was submitted; and the id of the thread, if given."""
        if worker is not None:
            self._doubles[self._first + 2] = worker
        self._doubles[self._first + 1] = since
        self._doubles[self._first] = activity

    def read(self) -> WorkerStatus:
        """Return what the worker does. If it has died, return what it did then."""
        first = self._first
        activity = self._doubles[first]  # read first, because the worker writes it last
        since, pid = self._doubles[first + 1], int(self._doubles[first + 2])
        call = int(activity) if activity >= 0 else None
        return WorkerStatus(call, -1 - int(activity) if activity < 0 else None, since, pid)


class StatusPage:
    """The page of this process, and the rows of it that are free.

    Notes
    -----
    Thread-safe.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget the page. A forked child must not use that of its parent."""
        self._lock = threading.Lock()
        self._doubles: Any = None
        self._free: deque[int] = deque()
        self._records: list[RunRecord] = []  # those of no run
        self._n_records = 0
        self._pipe: int | None = None  # the descriptor in the header
        self._run_numbers = itertools.count(1)

    def allocate(self) -> StatusRow | None:
        """Return a free row; None if no row is free, or if there is no memory for the page."""
        with self._lock:
            if not self._opened() or not self._free:
                return None
            return StatusRow(self._path, self._free.popleft(), self._doubles)

    def _opened(self) -> bool:
        """Make the page if there is none; return whether there is one."""
        if self._doubles is None:
            try:
                self._path, mapped = _new_page()
                self._memory = memoryview(mapped)
                self._doubles = self._memory.cast("d")
                self._free.extend(range(ROWS))
            except OSError:
                return False
        return True

    def free(self, row: StatusRow) -> None:
        """Make a row free. It is allocated again after all others, since a dying worker may still write to it."""
        with self._lock:
            self._free.append(row.address[1])

    def begin_run(
        self, backend: str, n_workers: int, total: int | None, began: float | None = None, kind: str = "processes"
    ) -> RunRecord | None:
        """Publish a run.

        Parameters
        ----------
        backend, n_workers, total, began, kind
            As in :class:`PublishedRun`. None for `began` means now.

        Returns
        -------
        The record of the run; None if no other program could read it, or too many runs are published.
        """
        if not HAS_MEMFD:
            return None
        with self._lock:
            if self._records:
                record = self._records.pop()
            elif self._n_records < MOST_RUNS and self._opened():
                record = RunRecord(self._memory, self._n_records)
                self._n_records += 1
            else:
                return None
            if self._pipe != Requests.fd:  # the pool's thread may have started since
                self._pipe = Requests.fd
                write_header(self._memory, os.getpid(), self._pipe)
            number = next(self._run_numbers)
        record.begin(number, backend, n_workers, total, time.perf_counter() if began is None else began, kind)
        return record

    def end_run(self, record: RunRecord) -> None:
        """Publish that a run has ended."""
        record.end()
        self._records.append(record)


status_page = StatusPage()
after_fork_in_child(status_page.reset, CALLERS)


class StatusWriter:
    """Writes to a worker's row, in the worker.

    Parameters
    ----------
    address
        :attr:`StatusRow.address`; None if the parent reads no status.

    Attributes
    ----------
    doubles, first
        Where to write: ``doubles[first]`` is the activity, and ``doubles[first + 1]`` the time. The activity has to be
        written last.
    """

    def __init__(self, address: tuple[str, int] | None) -> None:
        self.doubles: Any = [0.0] * DOUBLES
        self.first = 0
        if address is not None:
            try:
                self.doubles = _mapped_page(address[0])
                self.first = DOUBLES * address[1]
            except OSError:  # the worker cannot reach the parent's memory, so that nobody reads its status
                pass

    def write_pid(self) -> None:
        """Write the id of this process."""
        self.doubles[self.first + 2] = os.getpid()

    def call(self) -> int:
        """Return the index of the call that runs; between calls, that of the first call of the batch."""
        activity = self.doubles[self.first]
        return int(activity) if activity >= 0 else -1 - int(activity)

    def write_between_calls(self, start: int) -> None:
        """Write that no call runs: the worker rebuilds arguments, or encodes results, of the batch from `start` on."""
        self.doubles[self.first + 1] = time.perf_counter()
        self.doubles[self.first] = -1 - start


def _new_page() -> tuple[str, mmap.mmap]:
    """Make a page; return the path or name by which workers map it, and its memory.

    Raises
    ------
    OSError
        If there is no room for it.
    """
    if HAS_SECTIONS:
        return new_section(PAGE_BYTES)
    segment = Segment(None if HAS_MEMFD else temporary, PAGE_NAME)  # it stays open: `shoal top` finds its descriptor
    os.ftruncate(segment.fd, PAGE_BYTES)
    return segment.path, mmap.mmap(segment.fd, PAGE_BYTES)


_pages: dict[str, Any] = {}


def _mapped_page(path: str) -> Any:
    if path not in _pages:
        _pages.clear()  # a worker has one parent, and so it needs one page
        _pages[path] = memoryview(open_section(path, PAGE_BYTES) if HAS_SECTIONS else _mapped(path)).cast("d")
    return _pages[path]


def _mapped(path: str) -> mmap.mmap:
    fd = os.open(path, os.O_RDWR | getattr(os, "O_CLOEXEC", 0))
    try:
        return mmap.mmap(fd, 0)
    finally:
        os.close(fd)
