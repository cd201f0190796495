"""The bars of ``progress="rich"``: one for each run of this process, and below it those of the runs inside its calls.

::

    a run of this process, also inside a call on a thread ─────────────┐
                                                                       v
    a run inside a call in a worker process ─> Recorder ══> deliver ─> display ──> a live display of rich
                                              (_recording) (_saying)

The display begins with a run of this process, and ends with it. Runs that begin meanwhile have bars below. While it is
there, rich writes what the program and its workers print above the bars. It has no thread: it is drawn when an event
comes.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from shoal._forks import CALLERS, after_fork_in_child

#: The fewest seconds between two drawings.
DRAW_SECONDS = 0.1


class Bar(NamedTuple):
    """The progress of a run, or of a call.

    Attributes
    ----------
    key
        The process of the run, and its number there; for a call two numbers that no run has.
    label
        The text before the bar.
    done, total
        The numbers of calls; None for a total that is not known.
    ended
        Whether the run has ended.
    """

    key: tuple[int, int]
    label: str
    done: float
    total: float | None
    ended: bool


class _Display:
    """The live display of this process.

    Notes
    -----
    Thread-safe.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all bars, and restore the streams. A forked child must not draw the bars of its parent."""
        for name in ("stdout", "stderr"):
            usual = getattr(getattr(sys, name), "rich_proxied_file", None)
            if usual is not None:
                setattr(sys, name, usual)
        self._lock = threading.RLock()
        self._progress: Any = None
        self._tasks: dict[tuple[int, int], Any] = {}
        self._open: set[tuple[int, int]] = set()  # the runs of this process
        self._given_up: set[tuple[int, int]] = set()  # of these, those that go on without a bar
        self._calls: dict[tuple[int, int], int] = {}  # of a run of a worker: the call that it is in
        self._drawn_at = 0.0

    def show(self, bar: Bar, clock: Callable[[], float] = time.monotonic) -> None:
        """Show the bar of a run of this process. It stays if the run ends, and no other had a bar when it began."""
        with self._lock:
            if bar.key in self._given_up:
                if bar.ended:
                    self._given_up.discard(bar.key)
                return
            if bar.key not in self._open and not bar.ended:
                if self._progress is None:
                    self._progress = _progress()
                    self._progress.start()
                self._open.add(bar.key)
            if self._progress is None:  # it belongs to the process that this one was forked from
                return
            outermost = next(iter(self._tasks), bar.key) == bar.key
            self._update(bar, leave=outermost)
            if bar.ended:
                self._open.discard(bar.key)
            if bar.ended and outermost:
                if bar.done != bar.total:  # it has failed: threads may go on with runs inside its calls
                    self._given_up |= self._open
                self._close()
            elif bar.ended or clock() - self._drawn_at >= DRAW_SECONDS:
                self._drawn_at = clock()
                self._progress.refresh()

    def show_of_worker(self, bar: Bar, call: int) -> None:
        """Show the bar of a call, or of a run inside a call in a worker, if a run of this process has one."""
        with self._lock:
            if self._open:
                self._calls[bar.key] = call
                self._update(bar)
                self._progress.refresh()

    def forget(self, call: int) -> None:
        """Remove the bars of runs inside a call that has failed: its worker may have died."""
        with self._lock:
            for key in [key for key, its in self._calls.items() if its == call]:
                del self._calls[key]
                if self._progress is not None and key in self._tasks:
                    self._progress.remove_task(self._tasks.pop(key))

    def _update(self, bar: Bar, leave: bool = False) -> None:
        if bar.ended and not leave:
            self._calls.pop(bar.key, None)
            if bar.key in self._tasks:
                self._progress.remove_task(self._tasks.pop(bar.key))
            return
        if bar.key not in self._tasks:
            indent = "  " if self._tasks else ""
            self._tasks[bar.key] = self._progress.add_task(f"{indent}{bar.label}", total=None)
        wrong = bar.total is not None and bar.done > bar.total  # the user may have given it
        self._progress.update(self._tasks[bar.key], completed=bar.done, total=None if wrong else bar.total)

    def _close(self) -> None:
        for task in list(self._tasks.values())[1:]:
            self._progress.remove_task(task)
        self._progress.stop()
        self._progress = None
        for kept in (self._tasks, self._calls, self._open):
            kept.clear()


def _progress() -> Any:
    """Return a display that has not begun."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    class OneAtATime(Console):
        """A console that writes what one thread prints, and the bars below it, before another thread prints.

        rich 15 finds out under a lock where the bars are, and writes without it: rows of bars would be left behind.
        """

        lock: Any = contextlib.nullcontext()

        def __enter__(self) -> Any:
            self.lock.__enter__()
            return super().__enter__()

        def __exit__(self, *exc_info: Any) -> None:
            try:
                super().__exit__(*exc_info)
            finally:
                self.lock.__exit__(*exc_info)

    console = OneAtATime(stderr=True)
    progress = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        auto_refresh=False,
    )
    console.lock = getattr(progress.live, "_lock", console.lock)  # that of the display, which may be held already
    return progress


display = _Display()
after_fork_in_child(display.reset, CALLERS)
