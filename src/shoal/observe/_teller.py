"""What a run calls when something happens; loaded only where somebody listens."""

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
    Event,
    InputExhausted,
    Listener,
    RunFinished,
    RunStarted,
)


class Teller:
    """Tells the listeners of one run what happens to it.

    Parameters
    ----------
    listeners
        Called with each event, in this order.
    started
        The first event.
    """

    def __init__(self, listeners: Sequence[Listener], started: RunStarted) -> None:
        self._listeners = listeners
        self._exhausted = False
        self._size = 1
        self._tell(started)

    def dispatched(self, size: int) -> None:
        """A batch was given out."""
        self._tell(BatchDispatched(size))

    def completed(self, size: int, elapsed: float, next_size: int) -> None:
        """The results of a batch are there; the next will have `next_size` calls."""
        self._tell(BatchCompleted(size, elapsed))
        if next_size != self._size:
            self._size = next_size
            self._tell(BatchSizeChanged(next_size))

    def failed(self, index: int, error: BaseException, retry_in: float | None) -> None:
        """A call has failed; it runs again in so many seconds, or not at all."""
        self._tell(CallFailed(index, error, retry_in))

    def exhausted(self, total: int) -> None:
        """The caller's iterator has ended; told once, however often it is seen."""
        if not self._exhausted:
            self._exhausted = True
            self._tell(InputExhausted(total))

    def finished(self, error: BaseException | None) -> None:
        """The run has ended."""
        self._tell(RunFinished(error))

    def _tell(self, event: Event) -> None:
        for listener in self._listeners:
            listener(event)


def make_teller(verbose: int, progress: Any, label: str, ahead: int, started: RunStarted) -> Teller | None:
    """Return the teller for what ``verbose=`` and ``progress=`` ask for; None if that is nothing.

    Parameters
    ----------
    verbose, progress
        As for :class:`~shoal.Parallel`.
    label
        What each line begins with.
    ahead
        The number of batches that may be in flight; 0 for no bound.
    started
        The first event.
    """
    listeners: list[Listener] = []
    if verbose:
        listeners.append(Printer(verbose, label, ahead))
    shown = progress_listener(progress, label)
    if shown is not None:
        listeners.append(shown)
    return Teller(listeners, started) if listeners else None


__all__ = ["RunStarted", "Teller", "make_teller"]
