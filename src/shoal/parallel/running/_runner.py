"""The runs of one ``Parallel``: one at a time, each by a plan, on workers that a ``with`` block keeps.

::

    claim ──┬─ one worker ──> in_caller (_serial) ────────────────────────────┬──> release, when the run has ended
            └─ several ─────> start (_launch) ──> Run.collect, or streamed ───┘
"""

from __future__ import annotations

import os
import sys
import threading
from functools import partial

from shoal._typing import TYPE_CHECKING
from shoal.parallel._delayed import forget_latest
from shoal.parallel.options._plan import handles_message
from shoal.parallel.options._settings import survives_failures

if TYPE_CHECKING:  # a run on one worker needs none of them
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from shoal.backends import Backend, Slot
    from shoal.observe._teller import Teller
    from shoal.parallel._delayed import Call
    from shoal.parallel.options._plan import Plan
    from shoal.parallel.running._run import Run
    from shoal.reports._meter import Meter


class Runner:
    """Starts runs, one at a time.

    Attributes
    ----------
    run
        The current run on several workers; None if there is none.

    Notes
    -----
    Thread-safe.
    """

    def __init__(self) -> None:
        self.run: Run | None = None
        self._lock = threading.Lock()
        #: Whether a run has begun and not ended.
        self.running = False
        #: Whether :meth:`stop` was called since the run began. Plain, because the loop for one worker reads it often.
        self.stopped = False
        self._keeps = False  # whether slots are kept between runs
        self._slots: list[Slot] = []  # the slots that are kept
        self._backend: Backend | None = None  # the backend that opened them
        self._process = 0  # the process in which they were opened

    def claim(self) -> None:
        """Begin a run.

        Raises
        ------
        RuntimeError
            If another run has not ended.
        """
        with self._lock:
            if self.running:
                raise RuntimeError(
                    "This Parallel instance is already running ! Take all results of its current run or close the "
                    "generator before you start the next run; or use another Parallel."
                )
            self.running = True
            self.stopped = False

    def release(self) -> None:
        """End a run, so that the next one can begin."""
        self.run = None
        self.running = False
        forget_latest()

    def stop(self) -> None:
        """End the current run with the results that are there; from any thread."""
        self.stopped = True
        run = self.run
        if run is not None:
            run.stop()

    def keep_workers(self) -> None:
        """Keep the workers that the next run opens, for the runs after it."""
        self._keeps = True

    def release_workers(self) -> None:
        """Return the workers that were kept to their backend."""
        slots, backend = self._slots, self._backend
        self._keeps, self._slots, self._backend = False, [], None
        # A generator that is not exhausted closes its slots by itself. In a forked child the slots are the parent's.
        if slots and backend is not None and not self.running and self._process == os.getpid():
            backend.close(slots)

    def start(
        self,
        plan: Plan,
        calls: Iterable[Call],
        n_workers: int,
        number: int | None,
        make_listener: Callable[[int, int | None], Teller | None],
        began: Callable[[Run], object] | None = None,
    ) -> Run:
        """Return a new run on several workers. It dispatches no call before its loop runs.

        Parameters
        ----------
        plan, calls
            The values of all arguments, and the calls.
        n_workers, number
            The number of workers, and that of the calls, if it is known.
        make_listener
            Takes `n_workers` and `number`; returns the listener of the run, or None.
        began
            Takes the run before it is returned.
        """
        bound = plan.bound(n_workers)
        if plan.backend.forks:  # import, before the fork, what the children would import each
            import shoal.parallel.running._launch  # noqa: F401
            from shoal._pickling import dumps
            from shoal.observe._saying import note_handlers

            dumps(None)  # imports cloudpickle
            note_handlers()
        meter = plan.meter(n_workers, number)
        # Before all else, so that new worker processes start up while the rest is imported.
        shares = plan.cpu_shares(n_workers)
        slots = self._open(plan, n_workers, shares)

        def close(slots: list[Slot]) -> None:
            if slots is not self._slots:
                plan.backend.close(slots)

        try:
            from shoal.parallel.running._launch import make_run

            make = make_run if meter is None else measured(meter)
            listener = make_listener(n_workers, number)
        except BaseException:
            close(slots)
            raise
        run = self.run = make(plan, calls, slots, close, n_workers, shares, number, bound, listener)
        if began is not None:
            began(run)
        if self.stopped:
            run.stop()
        return run

    def _open(self, plan: Plan, n_workers: int, shares: tuple[int, int]) -> list[Slot]:
        """Return the slots that are kept, if they belong to the plan's backend and this process; else new ones.

        Runs that ``on_message`` makes get new ones too, because kept workers may wait for that function.
        """
        if self._process != os.getpid():
            self._slots, self._backend = [], None
        if self._slots and plan.backend is self._backend and not handles_message.get():
            return self._slots
        slots = plan.open(n_workers, shares)
        if self._keeps and not self._slots:
            self._slots, self._backend, self._process = slots, plan.backend, os.getpid()
        return slots


def measured(meter: Meter) -> Callable[..., Run]:
    """Return the function that makes a run of which a report is made."""
    from shoal.parallel.running._measured import make_measured_run

    return partial(make_measured_run, meter)


def streamed(run: Run, timeout: float | None, ended: Callable[[], None]) -> Iterator[Any]:
    """Return a generator of the results of a run.

    Parameters
    ----------
    run
        The run, whose loop has not begun.
    timeout
        The seconds to wait for the next result; None for no limit.
    ended
        Called when the run has ended.
    """
    from shoal.parallel.running._launch import stream

    values = stream(run, timeout, ended)
    next(values)  # enter its try block: from here on, dropping the generator ends the run
    return values


def in_caller(
    runner: Runner, plan: Plan, calls: Iterable[Call], listener: Teller | None, ended: Callable[[], None]
) -> Any:
    """Run calls one after the other in this thread; return a list of the results, or a generator of them.

    Parameters
    ----------
    runner
        The runner, which the caller has claimed.
    plan, calls
        The values of all arguments, and the calls.
    listener
        Receives the events of the run; None if nobody listens.
    ended
        Called when a generator ends. For a list, the run has ended when this function returns.
    """
    if "logging" in sys.modules and "logging" in plan.settings.forwarded:
        from shoal.parallel.running._log_attributes import mark_records

        mark_records()
    from shoal.parallel.running._serial import run_one_by_one, run_plainly

    meter = plan.meter(1, None)
    if meter is not None:
        from shoal.parallel.running._measured import in_serial

        calls, listener = in_serial(meter, runner, calls, listener)
    if not plan.generates:
        observed = listener is not None or plan.on_message is not None
        if not observed and plan.memory is None and not survives_failures(plan.settings):
            return run_plainly(calls, runner)
        ended = _nothing
    values = run_one_by_one(plan, calls, listener, runner, ended)
    next(values)  # as above
    if plan.generates:
        return values
    from shoal.errors import attach, attaching

    results: list[Any] = []
    with attaching(lambda error: attach(error, "results", dict(enumerate(results)))):
        results.extend(values)
    return results


def _nothing() -> None:
    pass
