"""Printer: the listener that prints the lines of ``verbose=``."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

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

#: The verbosity of lines that go to a logger: the number of workers, about nine lines of progress, and the end.
LOGGED = 9


class Printer:
    """Prints the lines that joblib 1.6 prints, at the same verbosities.

    ======== ==========================================================================================
    verbose  printed lines
    ======== ==========================================================================================
    1 to 9   the number of workers (if n_jobs > 1), part of the progress (more for higher values), the end
    10       also each change of the batch size
    11       also each batch that completes before the input has ended
    50       the same, to standard output instead of standard error
    ======== ==========================================================================================

    Until the input has ended, a line is printed each time the number of dispatched batches passes the next
    square number, in units of ``(11 - verbose)**2 / 2``. After that, a line is printed every
    ``total // verbose + 1`` calls.

    joblib does not print the last line, "finished", if the last call completed before joblib had noticed the end
    of the input. shoal prints it for every run that succeeds.

    Not thread-safe; one Printer serves one run.

    Parameters
    ----------
    verbose : int or logger
        The verbosity. Nothing is printed if it is 0 or less. An object with the method `info`, such as a
        :class:`logging.Logger`, gets the lines of verbosity 9, without newlines.
    label : str
        The text at the beginning of each line, without its brackets: ``"Parallel(n_jobs=2)"``.
    pre_dispatch : int
        The number of calls that are dispatched before the first one completes; 0 for all.
    write : callable, optional
        Called with each line, including its newline. By default lines go to the current ``sys.stderr`` or
        ``sys.stdout``. If that is None, as under ``pythonw``, or closed, nothing is printed.
    """

    takes_steps = False

    def __init__(
        self,
        verbose: Any,
        label: str,
        pre_dispatch: int,
        *,
        clock: Callable[[], float] = time.monotonic,
        write: Callable[[str], object] | None = None,
    ) -> None:
        log = getattr(verbose, "info", None)
        self._verbose: int = verbose if log is None else LOGGED
        self._label = label
        self._pre_dispatch = pre_dispatch
        self._clock = clock
        self._write = write if log is None else lambda line: log(line[:-1])
        self._start_time = 0.0
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
                self._start_time = self._clock()
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
        return self._clock() - self._start_time

    def _print(self, message: str) -> None:
        line = f"[{self._label}]: {message}\n"
        if self._write is not None:
            self._write(line)
            return
        write_line(sys.stderr if self._verbose < 50 else sys.stdout, line)


def write_line(stream: TextIO | None, line: str) -> None:
    """Write a line to a standard stream, above the progress bars on it. Do nothing if it is None or closed."""
    if stream is not None:
        with contextlib.suppress(OSError, ValueError):
            above_bars(stream, bars_drawn()).write(line)


def _duration(seconds: float) -> str:
    return f"{seconds / 60:4.1f}min" if seconds > 60 else f" {seconds:5.1f}s"
