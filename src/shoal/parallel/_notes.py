"""What each worker does right now: noted by the worker in memory that the parent reads, also after its death.

::

    a page of the parent's:   | cell 0 | cell 1 | ...      a cell: what the worker does, since when, where
    what: the index of the call that runs; between calls -1 - start, for the batch that is decoded or answered from
    a slot of a run has a cell while the run goes on; its worker writes there before each call (some 100 ns), and
    its process id before each batch where it may have to be replaced
"""

from __future__ import annotations

import atexit
import math
import mmap
import os
import threading
import time
from collections import deque
from typing import Any, NamedTuple

from shoal._forks import CALLERS, after_fork_in_child
from shoal.parallel._segments import HAS_MEMFD, Folder, Segment

_CELLS = 4096
_DOUBLES = 3
_SIZE = 8 * _DOUBLES


class Running(NamedTuple):
    """What a worker does.

    Attributes
    ----------
    call
        The index of the call that runs; None if none does.
    batch
        Where none does, the start of the batch whose arguments are rebuilt, or whose results are encoded; None if the
        worker has done nothing yet.
    since
        Since when, by its ``time.perf_counter()``.
    pid
        Its process id, if there are limits.
    """

    call: int | None
    batch: int | None
    since: float
    pid: int


class Cell:
    """One worker's place in the parent's page."""

    def __init__(self, path: str, number: int, doubles: Any) -> None:
        #: What a worker needs to find it.
        self.place = path, number
        self._number = number
        self._doubles = doubles
        self.clear()

    def clear(self) -> None:
        """Note that nothing has begun."""
        self._doubles[_DOUBLES * self._number] = math.nan

    def read(self) -> Running:
        """Return what the worker does, or did when it died."""
        first = _DOUBLES * self._number
        what = self._doubles[first]  # first: the worker writes it last
        since, pid = self._doubles[first + 1], int(self._doubles[first + 2])
        return Running(int(what) if what >= 0 else None, -1 - int(what) if what < 0 else None, since, pid)


class Notes:
    """The page of this process, and the cells of it that are free.

    Notes
    -----
    Thread-safe.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Have no page. A forked child must not use the page of its parent."""
        self._lock = threading.Lock()
        self._doubles: Any = None
        self._folder: Folder | None = None
        self._free: deque[int] = deque()

    def lease(self) -> Cell | None:
        """Return a free cell; None where there is none, or no memory for them."""
        with self._lock:
            if self._doubles is None:
                try:
                    if not HAS_MEMFD:
                        self._folder = Folder(None)
                        atexit.register(self.close)
                    self._segment = Segment(self._folder, "notes")
                    os.ftruncate(self._segment.fd, _CELLS * _SIZE)
                    self._doubles = memoryview(mmap.mmap(self._segment.fd, _CELLS * _SIZE)).cast("d")
                    self._free.extend(range(_CELLS))
                except OSError:
                    return None
            return Cell(self._segment.path, self._free.popleft(), self._doubles) if self._free else None

    def give_back(self, cell: Cell) -> None:
        """Take a cell back. It is used again last: a worker that is being killed may still write into it."""
        with self._lock:
            self._free.append(cell.place[1])

    def close(self) -> None:
        """Remove the folder of the page, if it has one."""
        if self._folder is not None:
            self._folder.remove()


notes = Notes()
after_fork_in_child(notes.reset, CALLERS)


class Note:
    """A worker's view of its cell.

    Parameters
    ----------
    place
        What :attr:`Cell.place` said; None where nobody reads.
    """

    def __init__(self, place: tuple[str, int] | None) -> None:
        self._doubles: Any = [0.0] * _DOUBLES
        self._first = 0
        if place is not None:
            try:
                self._doubles = _attached(place[0])
                self._first = _DOUBLES * place[1]
            except OSError:  # on another machine, as it were: nobody reads
                pass

    def sign(self) -> None:
        """Note which process this is."""
        self._doubles[self._first + 2] = os.getpid()

    def cell(self) -> tuple[Any, int]:
        """Return where to write: the sequence, and the place of the index in it; the time comes after."""
        return self._doubles, self._first

    def between(self, start: int) -> None:
        """Note that no call runs: arguments of the batch from `start` on are rebuilt, or its results encoded."""
        self._doubles[self._first + 1] = time.perf_counter()
        self._doubles[self._first] = -1 - start


_pages: dict[str, Any] = {}


def _attached(path: str) -> Any:
    if path not in _pages:
        _pages.clear()  # a worker has one parent
        fd = os.open(path, os.O_RDWR | getattr(os, "O_CLOEXEC", 0))
        try:
            _pages[path] = memoryview(mmap.mmap(fd, 0)).cast("d")
        finally:
            os.close(fd)
    return _pages[path]
