"""What a run tells its listeners.

::

    RunStarted -- BatchDispatched, BatchCompleted, BatchSizeChanged, InputExhausted ... -- RunFinished

A run emits `RunStarted` first and `RunFinished` last, whatever happens in between. Events arrive one at a
time, in the order in which things happened, but not always from the same thread. One listener serves one
run, so it may keep its counts in plain attributes, without a lock. What a listener raises ends the run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RunStarted:
    """A run begins.

    Attributes
    ----------
    n_jobs : int
        How many calls may run at a time.
    backend : str
        Class name of the backend, as users see it: ``"LokyBackend"``.
    total : int or None
        Number of calls in the run, where the caller's iterable tells.
    """

    n_jobs: int
    backend: str
    total: int | None


@dataclass(frozen=True, slots=True)
class BatchDispatched:
    """A batch was handed to a worker.

    Attributes
    ----------
    size : int
        Number of calls in the batch.
    """

    size: int


@dataclass(frozen=True, slots=True)
class BatchCompleted:
    """All calls of a batch have returned.

    Attributes
    ----------
    size : int
        Number of calls in the batch.
    elapsed : float
        Seconds that these calls took in the worker, without the way there and back.
    """

    size: int
    elapsed: float


@dataclass(frozen=True, slots=True)
class InputExhausted:
    """The caller's iterator has ended.

    Attributes
    ----------
    total : int
        Number of calls that it gave, those not dispatched yet included.
    """

    total: int


@dataclass(frozen=True, slots=True)
class BatchSizeChanged:
    """From now on, batches are made of another number of calls.

    Attributes
    ----------
    size : int
        Number of calls in a batch.
    """

    size: int


@dataclass(frozen=True, slots=True)
class CallFailed:
    """A call has raised, was lost with its worker, or ran for too long.

    Attributes
    ----------
    index : int
        Place of the call in the input.
    error : BaseException
        What it raised, or what tells of its end.
    retry_in : float or None
        Seconds until it runs again; None if it does not.
    """

    index: int
    error: BaseException
    retry_in: float | None


@dataclass(frozen=True, slots=True)
class RunFinished:
    """A run is over.

    Attributes
    ----------
    error : BaseException or None
        What ended it early: the exception that the caller gets, or ``GeneratorExit`` where a generator of
        results was closed or dropped. None if all calls have returned.
    """

    error: BaseException | None


Event = RunStarted | BatchDispatched | BatchCompleted | InputExhausted | BatchSizeChanged | CallFailed | RunFinished

Listener = Callable[[Event], None]
