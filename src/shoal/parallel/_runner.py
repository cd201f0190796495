"""The runs of one ``Parallel``: one at a time, each by a plan, on workers that a ``with`` block keeps.

::

    claim ──┬─ one worker ──> in_caller (_serial) ──────────────────┬──> release, when the run has ended
            └─ several ─────> on_workers ──> start ──> Run (_launch) ┘
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from shoal.backends import Backend, Slot
from shoal.errors import CallStopped, attach
from shoal.parallel._delayed import Call, forget_latest
from shoal.parallel._serial import run_one_by_one, run_plainly
from shoal.parallel._settings import may_go_on

if TYPE_CHECKING:
    from shoal.observe._teller import Teller
    from shoal.parallel._plan import Plan
    from shoal.parallel._run import Run


class Runner:
    """Makes runs, one at a time.

    Attributes
    ----------
    run
        The run on several workers that goes on; None if there is none.

    Notes
    -----
    Thread-safe.
    """

    def __init__(self) -> None:
        self.run: Run | None = None
        self._lock = threading.Lock()
        self._running = False
        self._stopped = False
        self._keeps = False  # whether slots are kept between runs
        self._slots: list[Slot] = []  # those that are kept
        self._backend: Backend | None = None  # that has opened them
        self._process = 0  # in which they were opened

    @property
    def running(self) -> bool:
        """Whether a run goes on."""
        return self._running

    @property
    def stopped(self) -> bool:
        """Whether :meth:`stop` was called since the run began."""
        return self._stopped

    def claim(self) -> None:
        """Begin a run.

        Raises
        ------
        RuntimeError
            If another run goes on.
        """
        with self._lock:
            if self._running:
                raise RuntimeError(
                    "This Parallel instance is already running ! Take all results of the run before, or close its "
                    "generator, before the next; or use another Parallel."
                )
            self._running = True
            self._stopped = False

    def release(self) -> None:
        """Take note that the run has ended."""
        self.run = None
        self._running = False
        forget_latest()

    def stop(self) -> None:
        """End the run that goes on with the results that are there; from any thread."""
        self._stopped = True
        run = self.run
        if run is not None:
            run.stop()

    def keep_workers(self) -> None:
        """Keep the workers that the next run opens, for the runs after it."""
        self._keeps = True

    def let_workers_go(self) -> None:
        """Give the workers that were kept back to their backend."""
        slots, backend = self._slots, self._backend
        self._keeps, self._slots, self._backend = False, [], None
        # A generator that is not exhausted gives its slots back by itself. In a forked child they are the parent's.
        if slots and backend is not None and not self._running and self._process == os.getpid():
            backend.close(slots)

    def start(
        self,
        plan: Plan,
        calls: Iterable[Call],
        n_workers: int,
        number: int | None,
        listen: Callable[[int, int | None], Teller | None],
        began: Callable[[Run], object] | None = None,
    ) -> Run:
        """Return a run on several workers; none of its calls is under way yet.

        Parameters
        ----------
        plan, calls
            What is to be run.
        n_workers, number
            How many workers there are to be, and how many calls, if that is known.
        listen
            Takes the same two numbers, and returns what tells of the run.
        began
            Takes the run before it is returned.
        """
        bound = plan.bound(n_workers)
        if plan.backend.forks:
            import shoal.parallel._launch  # noqa: F401
            from shoal._pickling import dumps

            dumps(None)  # imports cloudpickle
        # Before anything else, so that new worker processes start up while the rest is imported.
        slots = self._open(plan, n_workers)
        from shoal.parallel._launch import make_run

        def close(slots: list[Slot]) -> None:
            if slots is not self._slots:
                plan.backend.close(slots)

        run = self.run = make_run(plan, calls, slots, close, n_workers, number, bound, listen(n_workers, number))
        if began is not None:
            began(run)
        if self._stopped:
            run.stop()
        return run

    def _open(self, plan: Plan, n_workers: int) -> list[Slot]:
        """Return the slots that are kept, if they are of the plan's backend and this process; else new ones."""
        if self._process != os.getpid():
            self._slots, self._backend = [], None
        if self._slots and plan.backend is self._backend:
            return self._slots
        slots = plan.open(n_workers)
        if self._keeps and not self._slots:
            self._slots, self._backend, self._process = slots, plan.backend, os.getpid()
        return slots


def on_workers(
    runner: Runner,
    plan: Plan,
    calls: Iterable[Call],
    n_workers: int,
    number: int | None,
    listen: Callable[[int, int | None], Teller | None],
    ended: Callable[[], None],
    began: Callable[[Run], object] | None = None,
) -> Any:
    """Run calls on workers; return a list of the results, or a generator of them.

    Parameters
    ----------
    runner
        It was claimed.
    plan, calls, n_workers, number, listen, began
        As for :meth:`Runner.start`.
    ended
        Called when a generator ends. The end of a list is that of this function.
    """
    run = runner.start(plan, calls, n_workers, number, listen, began)
    return run.stream(plan.timeout, ended) if plan.generates else collected(run.results(), run.attach)


def in_caller(runner: Runner, plan: Plan, calls: Iterable[Call], tell: Teller | None, ended: Callable[[], None]) -> Any:
    """Run calls one after the other in this thread; return a list of the results, or a generator of them.

    Parameters
    ----------
    runner, plan, calls, ended
        As for :func:`on_workers`.
    tell
        What tells of the run; None if nobody listens.
    """
    if plan.generates:
        return run_one_by_one(plan, calls, tell, lambda: runner.stopped, ended)
    if tell is None and plan.memory is None and not may_go_on(plan.settings):
        return run_plainly(calls, lambda: runner.stopped)
    values = run_one_by_one(plan, calls, tell, lambda: runner.stopped, _nothing)
    return collected(zip(values, strict=True), _attach)


def _nothing() -> None:
    pass


def collected(dues: Iterable[Sequence[Any]], attach_results: Callable[[list[Any], BaseException], None]) -> list[Any]:
    """Return a list of results; an exception that ends them early is given those that were there.

    Raises
    ------
    BaseException
        What has ended them; a StopIteration as it was raised, since this is no generator.
    """
    values: list[Any] = []
    try:
        for due in dues:
            values.extend(due)
    except CallStopped as stopped:
        stop = stopped.error
    except BaseException as error:
        attach_results(values, error)
        raise
    else:
        return values
    attach_results(values, stop)
    try:
        raise stop
    finally:
        del stop  # else it and this frame, which is in its traceback, would keep each other


def _attach(values: list[Any], error: BaseException) -> None:
    attach(error, "results", dict(enumerate(values)))
