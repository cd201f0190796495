"""What each worker does right now: noted by the worker in memory that the parent reads, also after its death.

::

    a page of the parent's:   | cell 0 | cell 1 | ...      a cell: the index of the call that runs, since when, where
    a slot of a run has a cell while the run goes on; its worker writes there before each call (some 100 ns), and
    its process id before each batch where it may have to be replaced
"""

from __future__ import annotations

import math
import mmap
import os
import threading
import time
from collections import deque
from typing import Any

from shoal.parallel._segments import HAS_MEMFD, Folder, Segment

_CELLS = 4096
_DOUBLES = 3
_SIZE = 8 * _DOUBLES


class Cell:
    """One worker's place in the parent's page."""

    def __init__(self, path: str, number: int, doubles: Any) -> None:
        #: What a worker needs to find it.
        self.place = path, number
        self._number = number
        self._doubles = doubles
        self.clear()

    def clear(self) -> None:
        """Note that nothing runs."""
        self._doubles[_DOUBLES * self._number] = math.nan

    def read(self) -> tuple[int | None, float, int]:
        """Return the index of the call that runs, None if none does, since when, and the process if it was noted.

        The time is that of ``time.perf_counter()``.
        """
        first = _DOUBLES * self._number
        index = self._doubles[first]  # first: the worker writes it last
        since, pid = self._doubles[first + 1], self._doubles[first + 2]
        return (int(index) if index >= 0 else None), since, int(pid)


class Notes:
    """The page of this process, and the cells of it that are free.

    Notes
    -----
    Thread-safe.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._doubles: Any = None
        self._free: deque[int] = deque(range(_CELLS))

    def lease(self) -> Cell | None:
        """Return a free cell; None where there is none, or no memory for them."""
        with self._lock:
            if self._doubles is None:
                try:
                    self._segment = Segment(None if HAS_MEMFD else Folder(None), "notes")
                    os.ftruncate(self._segment.fd, _CELLS * _SIZE)
                    self._doubles = memoryview(mmap.mmap(self._segment.fd, _CELLS * _SIZE)).cast("d")
                except OSError:
                    return None
            return Cell(self._segment.path, self._free.popleft(), self._doubles) if self._free else None

    def give_back(self, cell: Cell) -> None:
        """Take a cell back. It is used again last: a worker that is being killed may still write into it."""
        with self._lock:
            self._free.append(cell.place[1])


notes = Notes()


def _after_fork() -> None:
    notes.__init__()  # type: ignore[misc] # the page is the parent's


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


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

    def between(self) -> None:
        """Note that no call runs: arguments are rebuilt, or results encoded."""
        self._doubles[self._first + 1] = time.perf_counter()
        self._doubles[self._first] = math.nan


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
