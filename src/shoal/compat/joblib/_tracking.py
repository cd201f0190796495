"""The listener that updates joblib's counters and calls the methods that joblib's users override."""

from __future__ import annotations

import sys
import time
from typing import Any

from shoal.observe._printer import Printer
from shoal.observe._progress import progress_listener
from shoal.observe._teller import Teller
from shoal.observe.events import BatchCompleted, BatchDispatched, Event, InputExhausted, RunFinished, RunStarted


class Tracker:
    """Updates the counters of a ``Parallel``, and calls its ``print_progress()`` after each batch.

    `serial` says that there is one worker, so that there are no batches. `bound` is the number of batches that may be
    in flight; 0 means no bound. shoal's threads take calls one by one; here ``batch_size`` calls count as a batch.
    """

    takes_steps = False

    def __init__(self, parallel: Any, serial: bool, bound: int) -> None:
        self._parallel = parallel
        size = parallel.batch_size
        one_by_one = not serial and parallel._backend.in_process and parallel._backend_delegates()
        self._size: int = int(size) if one_by_one and size != "auto" and not callable(size) else 1
        self._done, self._seconds = 0, 0.0  # for the batch that is not complete yet
        self._serial = serial
        self._printer: Printer | None = None
        if parallel.verbose:
            label = repr(parallel)
            begin, end = len(f"[{label}]: "), -len("\n")
            self._printer = Printer(parallel.verbose, label, bound, write=lambda line: parallel._print(line[begin:end]))
        self._event: Event | None = None

    def __call__(self, event: Event) -> None:
        parallel = self._parallel
        match event:
            case BatchCompleted(size=size, elapsed=elapsed):
                self._done += size
                self._seconds += elapsed
                if self._done >= self._size or parallel.n_completed_tasks + self._done == parallel.n_tasks:
                    self._completed()
                return
            case BatchDispatched(size=size):
                parallel.n_dispatched_tasks += size
                if self._size == 1:
                    parallel.n_dispatched_batches += 1
                else:
                    parallel.n_dispatched_batches = -(-parallel.n_dispatched_tasks // self._size)
            case RunStarted():
                parallel._iterating = True
                parallel._original_iterator = ()
            case InputExhausted(total=total):
                parallel._iterating = False
                parallel._original_iterator = None
                parallel.n_tasks = total
            case RunFinished():
                if self._done and event.error is None:
                    self._completed()
                parallel._iterating = False
                parallel._aborting = event.error is not None
        if self._printer is not None:
            self._printer(event)

    def _completed(self) -> None:
        """Update the counters after a batch, and call the callbacks."""
        event = self._event = BatchCompleted(self._done, self._seconds)
        self._done, self._seconds = 0, 0.0
        self._parallel.n_completed_tasks += event.size
        if not self._serial:
            self._call_back(event.size, event.elapsed)
        self._parallel.print_progress()
        self._event = None

    def print(self) -> None:
        """Print the line that is due after the last batch, if any."""
        event, self._event = self._event, None
        if self._printer is not None and event is not None:
            self._printer(event)

    def _call_back(self, size: int, elapsed: float) -> None:
        """Call the class that replaces ``BatchCompletionCallBack``, if a program has replaced it."""
        module: Any = sys.modules[f"{__package__}.parallel"]
        kind = module.BatchCompletionCallBack
        if kind is not module._OUR_CALLBACK and self._parallel._backend_delegates():
            kind(time.time() - elapsed, size, self._parallel)(None)


def make_tracker(parallel: Any, n_workers: int, total: int | None, bound: int) -> tuple[Tracker, Teller]:
    """Return the tracker of a run, and the teller that has told its listeners of the start."""
    tracker = Tracker(parallel, n_workers == 1, bound)
    listeners: list[Any] = [tracker]
    shown = progress_listener(parallel._plan.settings.progress, repr(parallel))
    if shown is not None:
        listeners.append(shown)
    return tracker, Teller(listeners, RunStarted(n_workers, type(parallel._backend).__name__, total))
