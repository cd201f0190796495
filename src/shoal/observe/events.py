"""The events that a run sends to its listeners.

::

    RunStarted -- BatchDispatched, BatchCompleted, BatchSizeChanged, InputExhausted ... -- RunFinished

A run always sends `RunStarted` first and `RunFinished` last. Events arrive one at a time, in the order in which
things happened, but not always from the same thread. One listener serves one run, so it can keep counts in plain
attributes without a lock. An exception that a listener raises ends the run.

A listener may have the attributes `takes_steps` and `takes_batches`. If the first is False for all listeners, calls do
not send `CallStepped`; if the second is, the run does not send `BatchDispatched`, `BatchCompleted` and
`BatchSizeChanged`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RunStarted:
    """A run has started.

    Attributes
    ----------
    n_jobs : int
        The number of calls that may run at the same time.
    backend : str
        The class name of the backend, as users see it: ``"LokyBackend"``.
    total : int or None
        The number of calls in the run; None if the caller's iterable does not tell it.
    """

    n_jobs: int
    backend: str
    total: int | None


@dataclass(frozen=True, slots=True)
class BatchDispatched:
    """A batch was sent to a worker.

    Attributes
    ----------
    size : int
        The number of calls in the batch.
    """

    size: int


@dataclass(frozen=True, slots=True)
class BatchCompleted:
    """All calls of a batch have returned.

    Attributes
    ----------
    size : int
        The number of calls in the batch.
    elapsed : float
        The time that the calls took in the worker, in seconds, without the transport there and back.
    """

    size: int
    elapsed: float


@dataclass(frozen=True, slots=True)
class InputExhausted:
    """The caller's iterator has ended.

    Attributes
    ----------
    total : int
        The number of calls that it gave, including calls that are not dispatched yet.
    """

    total: int


@dataclass(frozen=True, slots=True)
class BatchSizeChanged:
    """The number of calls in a batch has changed. Earlier batches keep their size.

    Attributes
    ----------
    size : int
        The number of calls in a batch.
    """

    size: int


@dataclass(frozen=True, slots=True)
class CallFailed:
    """A call raised an exception, was lost with its worker, or ran longer than its time limit.

    Attributes
    ----------
    index : int
        The position of the call in the input, from 0.
    error : BaseException
        The exception that it raised, or one that says how it ended.
    retry_in : float or None
        The seconds until it runs again; None if it does not run again.
    """

    index: int
    error: BaseException
    retry_in: float | None


@dataclass(frozen=True, slots=True)
class CallStepped:
    """A call that still runs has said how far it is, by :func:`shoal.step`.

    Attributes
    ----------
    index : int
        The position of the call in the input, from 0.
    done : float
        What the call has done, in a unit of its own.
    total : float or None
        What it has to do in all; None if it does not know that.
    """

    index: int
    done: float
    total: float | None


@dataclass(frozen=True, slots=True)
class RunFinished:
    """A run has ended.

    Attributes
    ----------
    error : BaseException or None
        The exception that ended it early: the one that the caller gets, or ``GeneratorExit`` if a generator of
        results was closed or dropped. None if all calls have returned.
    """

    error: BaseException | None


Event = (
    RunStarted
    | BatchDispatched
    | BatchCompleted
    | InputExhausted
    | BatchSizeChanged
    | CallFailed
    | CallStepped
    | RunFinished
)

Listener = Callable[[Event], None]
