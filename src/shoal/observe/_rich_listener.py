"""The listener of ``progress="rich"``, which tells the display of this process, or its caller, how far a run is."""

from __future__ import annotations

import itertools
import math
import os
import sys
from collections.abc import Callable

from shoal.observe._recording import present_recorder
from shoal.observe._rich_bars import Bar, display
from shoal.observe._terminal import on_terminal
from shoal.observe.events import (
    BatchCompleted,
    CallFailed,
    CallStepped,
    Event,
    InputExhausted,
    Listener,
    RunFinished,
    RunStarted,
)

#: The fewest seconds between two messages of a worker about a run inside its call.
SEND_SECONDS = 0.5

_numbers = itertools.count(1)


def rich_listener(label: str, clock: Callable[[], float]) -> Listener | None:
    """Return a listener that has a bar drawn: by the caller if this process is a worker, else on the terminal.

    Return None in a notebook, where rich loses output of other threads, and where there is no terminal.

    Parameters
    ----------
    label
        The text before the bar.
    clock
        Returns the time in seconds, from any origin.
    """
    recorder = present_recorder()
    if recorder is None:
        dumb = os.environ.get("TERM", "dumb") == "dumb"
        if dumb or "ipykernel.zmqshell" in sys.modules or not on_terminal(sys.stderr):
            return None
        return _RichBar(label, lambda bar: display.show(bar, clock), _Steps().show)
    tell, sent_at = recorder.tell, -math.inf

    def send(bar: Bar) -> None:
        nonlocal sent_at
        now = clock()
        if bar.ended or now - sent_at >= SEND_SECONDS:
            sent_at = now
            tell("progress", tuple(bar))

    return _RichBar(label, send, lambda _step, _most: None)


class _RichBar:
    """Has the bar of a run drawn, and the steps of its calls.

    Parameters
    ----------
    label
        The text before the bar.
    show
        Takes the bar, whenever it has changed.
    show_step
        Takes the steps of calls, and the number of calls that run at a time.
    """

    def __init__(
        self, label: str, show: Callable[[Bar], object], show_step: Callable[[CallStepped, int], object]
    ) -> None:
        self._bar = Bar((os.getpid(), next(_numbers)), label, 0, None, False)
        self._n_jobs = 1
        self._show, self._show_step = show, show_step

    def __call__(self, event: Event) -> None:
        bar = self._bar
        match event:
            case BatchCompleted(size=size):
                self._bar = bar._replace(done=bar.done + size)
            case InputExhausted(total=total):
                self._bar = bar._replace(total=total)
            case CallStepped():
                self._show_step(event, self._n_jobs)
                return
            case CallFailed(index=index):
                display.forget(index)
                return
            case RunStarted(n_jobs=n_jobs, total=total):
                self._n_jobs = n_jobs
                self._bar = bar._replace(total=total)
            case RunFinished(error=error):
                self._bar = bar._replace(ended=True, total=bar.done if error is None else bar.total)
            case _:
                return
        self._show(self._bar)


class _Steps:
    """The bars of the calls of a run that say how far they are, by :func:`shoal.step`."""

    def __init__(self) -> None:
        self._number = -next(_numbers)
        self._bars: dict[int, Bar] = {}  # by the index of the call, the latest step last

    def show(self, step: CallStepped, most: int) -> None:
        """Show a step. No event tells when its call ends: of more bars than calls can run, the oldest is removed."""
        index = step.index
        ended = step.total is not None and step.done >= step.total
        bar = Bar((self._number, index), f"call {index}", step.done, step.total, ended)
        self._bars.pop(index, None)
        if not ended:
            self._bars[index] = bar
            if len(self._bars) > most:
                oldest = next(iter(self._bars))
                display.show_of_worker(self._bars.pop(oldest)._replace(ended=True), oldest)
        display.show_of_worker(bar, index)
