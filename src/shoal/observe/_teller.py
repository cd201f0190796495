"""Teller: a run calls its methods when something happens. It is loaded only if the run has a listener."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shoal.observe._printer import Printer
from shoal.observe._progress import progress_listener
from shoal.observe.events import (
    BatchCompleted,
    BatchDispatched,
    BatchSizeChanged,
    CallFailed,
    CallStepped,
    Event,
    InputExhausted,
    Listener,
    RunFinished,
    RunStarted,
)


class Teller:
    """Sends the events of one run to its listeners, in their order. It sends `started`, the first event, at once.

    Not thread-safe: the run calls one method at a time. An exception that a listener raises reaches the caller.
    """

    def __init__(self, listeners: Sequence[Listener], started: RunStarted) -> None:
        self._listeners = listeners
        self._takes_batches = _any_takes("batches", listeners)
        self._exhausted = False
        self._size = 1
        self._tell(started)

    @property
    def takes_steps(self) -> bool:
        """Whether a listener takes the steps of calls."""
        return _any_takes("steps", self._listeners)

    def add(self, listener: Listener) -> None:
        """Add a listener. It has missed the first event."""
        self._listeners = [*self._listeners, listener]
        self._takes_batches = _any_takes("batches", self._listeners)

    def dispatched(self, size: int) -> None:
        """Send the event that a batch of `size` calls was sent to a worker."""
        if self._takes_batches:
            self._tell(BatchDispatched(size))

    def completed(self, size: int, elapsed: float, next_size: int) -> None:
        """Send the event that a batch has returned, after `elapsed` seconds in the worker.

        If `next_size`, the number of calls in the next batch, differs from the last one, send that event too.
        """
        if not self._takes_batches:
            return
        self._tell(BatchCompleted(size, elapsed))
        if next_size != self._size:
            self._size = next_size
            self._tell(BatchSizeChanged(next_size))

    def failed(self, index: int, error: BaseException, retry_in: float | None) -> None:
        """Send the event that a call failed. It runs again in `retry_in` seconds, or not at all if that is None."""
        self._tell(CallFailed(index, error, retry_in))

    def stepped(self, index: int, done: float, total: float | None) -> None:
        """Send the event that a call has done `done` of `total`."""
        self._tell(CallStepped(index, done, total))

    def exhausted(self, total: int) -> None:
        """Send the event that the caller's iterator ended after `total` calls. Only the first call has an effect."""
        if not self._exhausted:
            self._exhausted = True
            self._tell(InputExhausted(total))

    def finished(self, error: BaseException | None) -> None:
        """Send the event that the run ended, with the exception that ended it, if there is one."""
        self._tell(RunFinished(error))

    def _tell(self, event: Event) -> None:
        for listener in self._listeners:
            listener(event)


def _any_takes(what: str, listeners: Sequence[Listener]) -> bool:
    """Tell whether a listener takes the events of batches, or the steps of calls. It says so if it does not."""
    return any(getattr(listener, f"takes_{what}", True) for listener in listeners)


def make_teller(verbose: Any, progress: Any, label: str, ahead: int, started: RunStarted) -> Teller | None:
    """Return a Teller with the listeners for ``verbose=`` and ``progress=``; None if there are none.

    `label` is the text at the beginning of each line, such as ``"Parallel(n_jobs=2)"``. `ahead` is the number of
    batches that may be in flight; 0 means no limit. Raise TypeError if `progress` is nothing that it may be.
    """
    listeners: list[Listener] = []
    if verbose:
        listeners.append(Printer(verbose, label, ahead))
    shown = progress_listener(progress, label)
    if shown is not None:
        listeners.append(shown)
    return Teller(listeners, started) if listeners else None


__all__ = ["RunStarted", "Teller", "make_teller"]
