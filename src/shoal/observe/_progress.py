"""The listeners of ``progress=``: two draw bars, one prints lines, one calls a function of the user."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

from shoal.observe._printer import write_line
from shoal.observe._rich_listener import rich_listener
from shoal.observe._terminal import on_terminal
from shoal.observe.events import (
    BatchCompleted,
    CallStepped,
    Event,
    InputExhausted,
    Listener,
    RunFinished,
    RunStarted,
)

#: The fewest and the most seconds between two lines, and before the first.
FEWEST_SECONDS, MOST_SECONDS = 10.0, 60.0


def progress_listener(
    progress: bool | str | Callable[[int, int | None], object],
    label: str,
    *,
    clock: Callable[[], float] = time.monotonic,
) -> Listener | None:
    """Return the listener that the argument `progress` asks for, for one run that is about to start.

    Parameters
    ----------
    progress : bool, "rich" or callable
        True: a tqdm bar, on a terminal or in a notebook that has ipywidgets. Elsewhere, lines on standard error: the
        first after ten seconds, further ones after each tenth of the calls or a minute, but not within ten seconds,
        and one at the end.

        "rich": on a terminal, a bar of rich, and below it one for each run inside the calls that asks for it too.
        Elsewhere as True.

        A callable: it is called as ``progress(done, total)`` after each batch that completes. `done` is the
        number of calls that have returned. `total` is the number of calls in the run; it is None while that
        number is unknown, or if more calls have returned than were announced. When a run of n calls succeeds and
        the last call was not ``progress(n, n)``, because the input ended late or was empty, it is called once
        more. It is not called again when a run fails or is dropped. An exception that it raises ends the run.

        False: no listener.
    label : str
        The text at the beginning of a bar or a line: ``"Parallel(n_jobs=2)"``.
    clock : callable
        Returns the time in seconds, from any origin. Only lines use it.

    Returns
    -------
    Listener or None
        None if `progress` is False. A listener is not thread-safe and serves one run.

    Raises
    ------
    TypeError
        If `progress` is none of these.
    """
    if progress is False:
        return None
    if isinstance(progress, str) and progress == "rich":
        listener = rich_listener(label, clock)
        if listener is not None:
            return listener
        progress = True
    if progress is True:
        bar_class = _bar_class()
        return _Lines(label, clock) if bar_class is None else _Bar(label, bar_class)
    if callable(progress):
        return _Call(progress)
    raise TypeError(
        f"progress must be True, False, 'rich' or a callable that takes (done, total), not {progress!r} "
        f"of type {type(progress).__name__}"
    )


def _plausible_total(done: int, total: int | None) -> int | None:
    """Return `total`, or None if more calls are done. A total from the user may be wrong until the input has ended."""
    return total if total is None or done <= total else None


class _Call:
    """Calls the user's function."""

    takes_steps = False

    def __init__(self, progress: Callable[[int, int | None], object]) -> None:
        self._progress = progress
        self._done = 0
        self._total: int | None = None
        self._last_report: tuple[int, int | None] | None = None

    def __call__(self, event: Event) -> None:
        match event:
            case BatchCompleted(size=size):
                self._done += size
                self._report()
            case RunStarted(total=total) | InputExhausted(total=total):
                self._total = total
            case RunFinished(error=None):
                self._total = self._done
                if self._last_report != (self._done, self._total):
                    self._report()

    def _report(self) -> None:
        self._last_report = (self._done, _plausible_total(self._done, self._total))
        self._progress(*self._last_report)


class _Lines:
    """Prints a line on standard error now and then."""

    def __init__(self, label: str, clock: Callable[[], float]) -> None:
        self._label = label
        self._clock = clock
        self._start_time = 0.0
        self._done = 0
        self._total: int | None = None
        self._printed_at = 0.0
        self._last = 0.0, 0  # the time of the last line before which calls had ended, and how many
        self._seconds_per_call: float | None = None  # until then, those of earlier lines counting less and less

    def __call__(self, event: Event) -> None:
        match event:
            case BatchCompleted(size=size):
                self._done += size
                self._print_if_due()
            case CallStepped(index=index, done=done, total=total):
                self._print_if_due(f"; call {index}: {_step(done, total)}")
            case RunStarted(total=total):
                self._total = total
                self._start_time = self._printed_at = self._clock()
                self._last = self._start_time, 0
            case InputExhausted(total=total):
                self._total = total
            case RunFinished():
                self._print(self._clock())

    def _print_if_due(self, more: str = "") -> None:
        now = self._clock()
        seconds, calls = now - self._printed_at, self._done - self._last[1]
        if seconds < FEWEST_SECONDS:
            return
        first = self._seconds_per_call is None and not more
        if first or seconds >= MOST_SECONDS or (self._total is not None and calls * 10 >= self._total):
            if calls:
                pace, before = (now - self._last[0]) / calls, self._seconds_per_call
                # Results that were stored come at once, and calls of one run may grow: recent calls count more.
                self._seconds_per_call = pace if before is None else (pace + before) / 2
                self._last = now, self._done
            self._print(now, self._left() + more)

    def _left(self) -> str:
        total = _plausible_total(self._done, self._total)
        if total is None or self._seconds_per_call is None:
            return ""
        return f", {_span(self._seconds_per_call * (total - self._done))} left"

    def _print(self, now: float, more: str = "") -> None:
        self._printed_at = now
        total = _plausible_total(self._done, self._total)
        calls = f"{self._done} calls" if total is None else f"{self._done}/{total} calls"
        write_line(sys.stderr, f"{self._label}: {calls}, {_span(now - self._start_time)}{more}\n")


def _step(done: float, total: float | None) -> str:
    """Return how far a call is, as a text: ``"40/100"``."""
    return f"{done:g}" if total is None else f"{done:g}/{total:g}"


def _span(seconds: float) -> str:
    """Return a number of seconds as a text: ``"90 s"``, ``"15 min"``, ``"3.5 h"``."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


class _Bar:
    """Draws a bar of tqdm."""

    def __init__(self, label: str, bar_class: Any) -> None:
        self._label = label
        self._bar_class = bar_class
        self._bar: Any = None
        self._stepped = False  # whether the bar shows a step

    def __call__(self, event: Event) -> None:
        match event:
            case BatchCompleted(size=size):
                if self._stepped:  # the last step may be of a call of this batch
                    self._stepped = False
                    self._bar.set_postfix_str("", refresh=False)
                self._bar.update(size)
            case CallStepped(index=index, done=done, total=total):
                self._stepped = True
                self._bar.set_postfix_str(f"call {index}: {_step(done, total)}")
            case RunStarted(total=total):
                # miniters is fixed, because with an adaptive miniters the bar stops moving when calls become
                # slower. tqdm's monitor thread would correct that, but it is switched off below.
                self._bar = self._bar_class(desc=self._label, total=total, unit="call", miniters=1)
            case InputExhausted(total=total):
                self._set_total(total)
            case RunFinished():
                self._bar.close()

    def _set_total(self, total: int) -> None:
        bar = self._bar
        if bar.total == total or bar.disable:  # disabled by TQDM_DISABLE
            return
        # Only reset() changes the total of a notebook bar. It also resets the count, which is restored here.
        done, started = bar.n, bar.start_t
        bar.reset(total)
        bar.n = bar.last_print_n = done
        bar.start_t = started
        bar.refresh()


def _widgets() -> Any:
    """Return tqdm's class of bars for notebooks; None without ipywidgets, or outside of notebooks."""
    if "ipykernel.zmqshell" not in sys.modules:
        return None
    with warnings.catch_warnings():
        # tqdm warns that its choice is experimental and that ipywidgets is missing; the caller handles that.
        warnings.simplefilter("ignore")
        from tqdm.autonotebook import tqdm
    return tqdm if tqdm.__module__ == "tqdm.notebook" else None


def _bar_class() -> Any:
    """Return a class of tqdm bars that fits the place where the program runs; None if no bar can be drawn there."""
    shown = _widgets()
    if shown is None:
        if not on_terminal(sys.stderr):
            return None
        from tqdm.std import tqdm

        shown = tqdm

    from tqdm.std import TqdmDefaultWriteLock

    # The bar has no monitor thread. tqdm's default lock is a lock for threads and a semaphore for processes. Only the
    # former is used, because the semaphore starts a resource tracker if the start method is not fork.
    bar_class: Any = type("Bar", (shown,), {"monitor_interval": 0})
    bar_class.set_lock(TqdmDefaultWriteLock.th_lock)
    return bar_class
