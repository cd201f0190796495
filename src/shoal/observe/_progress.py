"""Progress for ``progress=``: a bar, a line now and then, or a call of the user's."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

from shoal.observe._printer import say
from shoal.observe.events import BatchCompleted, Event, InputExhausted, Listener, RunFinished, RunStarted

SECONDS_BETWEEN_LINES = 5.0


def progress_listener(
    progress: bool | Callable[[int, int | None], object],
    label: str,
    *,
    clock: Callable[[], float] = time.monotonic,
) -> Listener | None:
    """Make the listener that the argument `progress` asks for, for a run that is about to start.

    Parameters
    ----------
    progress : bool or callable
        True: a tqdm bar where there is a terminal, or a notebook with ipywidgets; elsewhere one line on
        standard error at most every five seconds and one at the end.

        A callable: ``progress(done, total)`` with the number of calls that have returned and the number of
        calls in the run, None while that is unknown or was said to be less. It is called after each batch of
        calls that completes.
        Where this has not told ``(n, n)`` when a run of n calls ends well (its input ended late, or gave
        nothing), it is called once more to tell so; where a run fails or is dropped, it is not called again.
        What it raises ends the run.

        False: no listener.
    label : str
        What a bar or a line begins with: ``"Parallel(n_jobs=2)"``.
    clock : callable
        Gives the time in seconds, from any origin; used for lines.

    Returns
    -------
    Listener or None

    Raises
    ------
    TypeError
        If `progress` is anything else.
    """
    if progress is False:
        return None
    if progress is True:
        bar_class = _bar_class()
        return _Lines(label, clock) if bar_class is None else _Bar(label, bar_class)
    if callable(progress):
        return _Call(progress)
    raise TypeError(
        f"progress must be True, False or a callable that takes (done, total), not {progress!r} "
        f"of type {type(progress).__name__}"
    )


def _credible(done: int, total: int | None) -> int | None:
    """Return a total that calls do not exceed: one that was given may be wrong, until the input has ended."""
    return total if total is None or done <= total else None


class _Call:
    def __init__(self, progress: Callable[[int, int | None], object]) -> None:
        self._progress = progress
        self._done = 0
        self._total: int | None = None
        self._told: tuple[int, int | None] | None = None

    def __call__(self, event: Event) -> None:
        match event:
            case BatchCompleted(size=size):
                self._done += size
                self._tell()
            case RunStarted(total=total) | InputExhausted(total=total):
                self._total = total
            case RunFinished(error=None):
                self._total = self._done
                if self._told != (self._done, self._total):
                    self._tell()

    def _tell(self) -> None:
        self._told = (self._done, _credible(self._done, self._total))
        self._progress(*self._told)


class _Lines:
    def __init__(self, label: str, clock: Callable[[], float]) -> None:
        self._label = label
        self._clock = clock
        self._started = 0.0
        self._next_line = 0.0
        self._done = 0
        self._total: int | None = None

    def __call__(self, event: Event) -> None:
        match event:
            case BatchCompleted(size=size):
                self._done += size
                now = self._clock()
                if now >= self._next_line:
                    self._print(now)
            case RunStarted(total=total):
                self._total = total
                self._started = self._clock()
                self._next_line = self._started + SECONDS_BETWEEN_LINES
            case InputExhausted(total=total):
                self._total = total
            case RunFinished():
                self._print(self._clock(), ended=True)

    def _print(self, now: float, ended: bool = False) -> None:
        self._next_line = now + SECONDS_BETWEEN_LINES
        total = _credible(self._done, self._total)
        calls = f"{self._done} calls" if total is None else f"{self._done}/{total} calls"
        elapsed = now - self._started
        left = ""
        if total and self._done and not ended:
            left = f", {elapsed / self._done * (total - self._done):.0f} s left"
        say(sys.stderr, f"{self._label}: {calls}, {elapsed:.0f} s{left}\n")


class _Bar:
    def __init__(self, label: str, bar_class: Any) -> None:
        self._label = label
        self._bar_class = bar_class
        self._bar: Any = None

    def __call__(self, event: Event) -> None:
        match event:
            case BatchCompleted(size=size):
                self._bar.update(size)
            case RunStarted(total=total):
                # A fixed miniters: the one that adapts itself leaves a bar standing when calls become slower,
                # which is what tqdm's monitor thread is there to correct.
                self._bar = self._bar_class(desc=self._label, total=total, unit="call", miniters=1)
            case InputExhausted(total=total):
                self._set_total(total)
            case RunFinished():
                self._bar.close()

    def _set_total(self, total: int) -> None:
        bar = self._bar
        if bar.total == total or bar.disable:  # disabled by TQDM_DISABLE
            return
        # A notebook bar learns its total from reset() alone, which also forgets what was counted.
        done, started = bar.n, bar.start_t
        bar.reset(total)
        bar.n = bar.last_print_n = done
        bar.start_t = started
        bar.refresh()


def _bar_class() -> Any:
    """Choose the tqdm class for where the program runs; None where no bar can be drawn."""
    on_terminal = not getattr(sys.stderr, "closed", sys.stderr is None) and sys.stderr.isatty()
    if "ipykernel.zmqshell" in sys.modules:
        with warnings.catch_warnings():
            # It warns that its choice is experimental, and that ipywidgets is missing, which we make up for.
            warnings.simplefilter("ignore")
            from tqdm.autonotebook import tqdm
        if not (on_terminal or tqdm.__module__ == "tqdm.notebook"):
            return None
    elif on_terminal:
        from tqdm.std import tqdm
    else:
        return None

    from tqdm.std import TqdmDefaultWriteLock

    # No monitor thread, and of tqdm's default lock only the half that excludes threads: the other one is a
    # semaphore of multiprocessing, and brings a resource tracker where fork is not the start method.
    bar_class: Any = type("Bar", (tqdm,), {"monitor_interval": 0})
    bar_class.set_lock(TqdmDefaultWriteLock.th_lock)
    return bar_class
