"""Under joblib's name all runs on loky share an executor, as far as this can be seen: it goes with a dropped generator.

shoal's runs do not need each other's workers. But programs, and joblib's own tests, know what joblib does: to drop a
generator whose calls have not ended shuts the executor down, and runs that have begun on it meanwhile fail.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal.backends.base import Slot
from shoal.parallel.running._run import Cancelled

if TYPE_CHECKING:
    from shoal.parallel.running._run import Run

#: The runs that go on on loky in the order in which they began, each with the options of its workers. Without a lock,
#: which a fork might find taken: each access is one operation on a dictionary.
_runs: dict[Run, Any] = {}


def shut_down() -> RuntimeError:
    """Return the error for a run whose executor is gone."""
    return RuntimeError(
        "The executor underlying Parallel has been shutdown. This is likely due to the garbage collection of a "
        "previous generator from a call to Parallel with return_as='generator'. Make sure the generator is not garbage "
        "collected when submitting a new job or that it is first properly exhausted."
    )


def began(run: Run, options: Any) -> None:
    """Take note of a run; those with equal options share an executor."""
    _runs[run] = options


def ended(run: Run) -> None:
    """Take note that a run has ended."""
    _runs.pop(run, None)


def aborted(slot: Slot) -> None:
    """End the runs that began after the one that a slot is taken from, if that is a generator's that was dropped."""
    options: Any = None
    dropped = False
    for run, theirs in list(_runs.items()):
        if dropped and theirs == options:
            run.inbox.put(shut_down())
        elif any(own.executor is slot.executor for own in run.slots):
            dropped, options = isinstance(run.error, Cancelled), theirs
