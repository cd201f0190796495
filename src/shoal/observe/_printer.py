"""The lines that ``verbose=`` prints."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from typing import TextIO

from shoal.observe._terminal import above_bars, bars_drawn
from shoal.observe.events import (
    BatchCompleted,
    BatchDispatched,
    BatchSizeChanged,
    Event,
    InputExhausted,
    RunFinished,
    RunStarted,
)


class Printer:
    """A listener that prints the lines of joblib 1.6, at the verbosities at which joblib prints them.

    ======== ==========================================================================================
    verbose  what is printed
    ======== ==========================================================================================
    1 to 9   the workers (where n_jobs > 1), some of the progress, the end; the higher, the more
    10       the same, and each change of the batch size
    11       the same, and while the input lasts, each batch that completes
    50       the same, to standard output instead of standard error
    ======== ==========================================================================================

    While the input lasts, a line is due each time that the number of dispatched batches passes another
    square, in units of ``(11 - verbose)**2 / 2``; from then on, every ``total // verbose + 1`` calls.

    joblib leaves out the last line, "finished", if the last call completed before the input was known to have
    ended. Here each run that succeeds has one.

    Parameters
    ----------
    verbose : int
        Verbosity; nothing is printed at 0 and below.
    label : str
        What each line begins with, in brackets: ``"Parallel(n_jobs=2)"``.
    pre_dispatch : int
        Number of calls that are dispatched before the first one completes; 0 for all.
    clock : callable
        Gives the time in seconds, from any origin.
    write : callable, optional
        Takes each line, its end included. By default that of what is ``sys.stderr`` or ``sys.stdout`` at the
        time; where this is None, as under ``pythonw``, or closed, nothing is printed.
    """

    def __init__(
        self,
        verbose: int,
        label: str,
        pre_dispatch: int,
        *,
        clock: Callable[[], float] = time.monotonic,
        write: Callable[[str], object] | None = None,
    ) -> None:
        self._verbose = verbose
        self._label = label
        self._pre_dispatch = pre_dispatch
        self._clock = clock
        self._write = write
        self._started = 0.0
        self._total: int | None = None
        self._exhausted = False
        self._width = 3
        self._batches = 0
        self._batch_size = 1
        self._batch_elapsed = 0.0
        self._done = 0
        self._finished = False

    def __call__(self, event: Event) -> None:
        if self._verbose <= 0:
            return
        match event:
            case BatchCompleted(size=size, elapsed=elapsed):
                self._done += size
                self._batch_elapsed = elapsed
                self._progress()
            case BatchDispatched():
                self._batches += 1
            case RunStarted(n_jobs=n_jobs, backend=backend, total=total):
                self._started = self._clock()
                self._total = total
                if total:
                    self._width = len(str(total))
                if n_jobs > 1:
                    self._print(f"Using backend {backend} with {n_jobs} concurrent workers.")
            case InputExhausted(total=total):
                self._total = total
                self._exhausted = True
            case BatchSizeChanged(size=size):
                if self._verbose >= 10:
                    speed = "fast" if size > self._batch_size else "slow"
                    took = f"({self._batch_elapsed:.3g}s.)"
                    self._print(f"Batch computation too {speed} {took} Setting batch_size={size}.")
                self._batch_size = size
            case RunFinished(error=None) if not self._finished:
                self._finish()

    def _progress(self) -> None:
        done, total, width = self._done, self._total, self._width
        if self._exhausted and total is not None:
            if done == total:
                self._finish()
            elif self._due_by_calls(total):
                remaining = self._elapsed() / done * (total - done)
                times = f"{_duration(self._elapsed())} remaining: {_duration(remaining)}"
                self._print(f"Done {done:{width}d} out of {total:{width}d} | elapsed: {times}")
        elif self._due_by_batches():
            out_of = f"tasks {'':{width + 2}}" if total is None or done > total else f"out of {total:{width}d} "
            self._print(f"Done {done:{width}d} {out_of}| elapsed: {_duration(self._elapsed())}")

    def _due_by_calls(self, total: int) -> bool:
        since_dispatched = total - self._done + 1 - self._pre_dispatch
        return self._done + 1 != total and since_dispatched % (total // self._verbose + 1) == 0

    def _due_by_batches(self) -> bool:
        if self._verbose > 10 or self._batches == 0:
            return True
        unit = (11 - self._verbose) ** 2 / 2
        return int(((self._batches + 1) / unit) ** 0.5) > int((self._batches / unit) ** 0.5)

    def _finish(self) -> None:
        self._finished = True
        done = f"{self._done:{self._width}d}"
        self._print(f"Done {done} out of {done} | elapsed: {_duration(self._elapsed())} finished")

    def _elapsed(self) -> float:
        return self._clock() - self._started

    def _print(self, message: str) -> None:
        line = f"[{self._label}]: {message}\n"
        if self._write is not None:
            self._write(line)
            return
        say(sys.stderr if self._verbose < 50 else sys.stdout, line)


def say(stream: TextIO | None, line: str) -> None:
    """Write a line to a standard stream, unless that is None or closed and nobody would read it."""
    if stream is not None:
        with contextlib.suppress(OSError, ValueError):
            above_bars(stream, bars_drawn()).write(line)


def _duration(seconds: float) -> str:
    return f"{seconds / 60:4.1f}min" if seconds > 60 else f" {seconds:5.1f}s"
