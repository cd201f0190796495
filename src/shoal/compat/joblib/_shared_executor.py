"""Imitates the executor that all runs on loky share in joblib.

If a program drops a generator whose calls have not ended, joblib shuts the shared executor down, and runs that began
on it later fail. Runs of shoal do not depend on each other, but joblib's tests and users expect this.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal.backends.base import Slot
from shoal.parallel.running._run import Cancelled

if TYPE_CHECKING:
    from shoal.parallel.running._run import Run

#: The unfinished runs on loky in the order in which they began, each with the options of its workers. There is no lock,
#: because a fork could copy it locked. Each access is a single operation on the dictionary.
_runs: dict[Run, Any] = {}


def shutdown_error() -> RuntimeError:
    """Return the error for a run whose executor was shut down."""
    return RuntimeError(
        "The executor underlying Parallel has been shutdown. This is likely due to the garbage collection of a "
        "previous generator from a call to Parallel with return_as='generator'. Make sure the generator is not garbage "
        "collected when submitting a new job or that it is first properly exhausted."
    )


def run_began(run: Run, options: Any) -> None:
    """Record a run; runs with equal options share an executor."""
    _runs[run] = options


def run_ended(run: Run) -> None:
    _runs.pop(run, None)


def end_later_runs(slot: Slot) -> None:
    """End the runs that began after the run that has `slot`, if that is the run of a dropped generator."""
    dropped_options: Any = None
    dropped = False
    for run, options in list(_runs.items()):
        if dropped and options == dropped_options:
            run.inbox.put(shutdown_error())
        elif any(other.executor is slot.executor for other in run.slots):
            dropped, dropped_options = isinstance(run.error, Cancelled), options
