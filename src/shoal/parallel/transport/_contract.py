"""The contract of a transport: it brings a batch to a worker, and the results of its calls back.

::

    Batch ──encode──> Request ──send──> a slot's executor ──> future of a reply ──receive──> Received
                         │                                                                   values, error
                         └── keeps what the batch needs in this process until it is closed

_processes sends bytes to worker processes. _engines hands objects to engines that send them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, Generic, NamedTuple, TypeVar

from shoal._pickling import Reduce, as_usual, culprit, dumps
from shoal._tracebacks import cause_of
from shoal.backends._failure import Failure, rebuilt
from shoal.backends._notes import Notes
from shoal.errors import CallPicklingError, CallUnpicklingError
from shoal.parallel._batch import Batch
from shoal.parallel._delayed import describe
from shoal.parallel.transport._published import RunRecord
from shoal.parallel.transport._status import WorkerStatus


class Unsendable(Exception):
    """A batch cannot be sent.

    Attributes
    ----------
    position
        The position in the batch of the call that cannot be sent; None if it is not known which call that is.
    error
        The exception for the user.
    """

    def __init__(self, position: int | None, error: Exception) -> None:
        super().__init__(position, error)
        self.position, self.error = position, error


class Request:
    """A batch in flight, and what it needs in this process.

    Attributes
    ----------
    batch
        The calls.
    refusal
        Why the batch cannot be sent; None if it can be sent.
    nbytes, returned
        The number of bytes that are sent to the worker, and the number of bytes of the reply.
    pickle_seconds, unpickle_seconds
        How long it took to encode the batch and to decode the reply, if that is measured.
    measured, retiring
        As in :class:`Received`, if that is measured.
    """

    pickle_seconds = unpickle_seconds = 0.0
    measured: Any = None
    retiring: int | None = None

    def __init__(self, batch: Batch, refusal: Unsendable | None = None) -> None:
        self.batch, self.refusal = batch, refusal
        self.nbytes = self.returned = 0

    def close(self) -> None:
        """Release what the batch needs. It may be called several times."""


R = TypeVar("R", bound=Request)


class Received(NamedTuple):
    """The outcome of a batch.

    Attributes
    ----------
    values
        The results of its first calls.
    error
        The exception of the next call; None if no call has failed.
    elapsed
        The seconds that the calls took in the worker.
    call_unknown
        Whether the exception may belong to any call of the batch, and not to the next call.
    said
        What the calls have said, for :func:`~shoal.observe._saying.deliver`; None if that is nothing.
    retiring
        The id of the worker's process, if it has to be replaced.
    told
        Notes of the calls that were not sent before: messages, for :func:`~shoal.observe._messages.decoded`, and what
        calls have said, as `said`.
    measured
        What was measured, for a report; None if nothing was.
    """

    values: list[Any]
    error: BaseException | None
    elapsed: float
    call_unknown: bool = False
    said: bytes | None = None
    retiring: int | None = None
    told: tuple[bytes, ...] = ()
    measured: Any = None


class Transport(ABC, Generic[R]):
    """Sends the batches of one run.

    Notes
    -----
    Not thread-safe: it belongs to the thread that owns the run. Only :meth:`replaced` may be called by any thread.
    """

    #: Where the run publishes, for ``shoal top``, how far it is; None if it does not. A :class:`BatchRun` sets it.
    record: RunRecord | None = None
    #: What the rows are that it writes there, one of :data:`ROW_KINDS`.
    row_kind = "processes"
    #: Takes what a worker sends during a batch, with the worker's notes, in any thread; None if that is dropped.
    on_note: Callable[[Notes, bytes], object] | None = None
    #: Batches are measured, and calls that take longer than so many seconds are described; None: nothing is measured.
    slow_above: float | None = None

    def take_messages(self, messages: bool, steps: bool) -> None:
        """Let calls send messages, and steps, to the run. It is called before the first batch, or not at all."""

    @abstractmethod
    def encode(self, batch: Batch) -> R:
        """Return a request that any worker can run. It has a refusal if the batch cannot be encoded."""

    @abstractmethod
    def send(self, request: R, executor: Executor) -> Future[Any]:
        """Submit a request; return the future of its reply. If the request has a refusal, the future raises it."""

    @abstractmethod
    def receive(self, request: R, reply: Any) -> Received:
        """Decode the reply to a request."""

    @abstractmethod
    def explain(self, batch: Batch, error: Exception) -> Unsendable:
        """Find the call for which an executor has failed; raise `error` if no call is to blame."""

    @abstractmethod
    def close(self) -> None:
        """End the run: release everything that was sent or stored for it."""

    def status(self, _executor: Executor) -> WorkerStatus | None:
        """Return what the worker of an executor does; None if its workers do not write that."""
        return None

    @abstractmethod
    def forget(self, executor: Executor) -> None:
        """Record that the worker of an executor no longer has the objects that were sent there."""

    def replaced(self, _executor: Executor) -> WorkerStatus | None:
        """Record that another worker has taken, or will take, an executor's place; return the last one's status.

        It has to be called before the new worker can run a batch. Any thread may call it.
        """
        return None


def failed_future(error: Exception) -> Future[Any]:
    """Return a future that has failed with `error`."""
    future: Future[Any] = Future()
    future.set_exception(error)
    return future


def raised(failure: Failure, batch: Batch, position: int | None) -> BaseException:
    """Rebuild the exception of a call. Its cause is the traceback of the worker.

    Parameters
    ----------
    failure
        The encoded exception.
    batch
        The batch in which it was raised.
    position
        The position of the call in the batch; None if any call may have raised it.
    """
    if position is not None:
        return rebuilt(failure, f"call {batch.start + position}, {describe(batch.function(position))}(...)")
    calls = span(batch)
    error = rebuilt(failure, calls)
    if type(error) is CallUnpicklingError and error.where == "a worker":
        # The worker does not know the number of calls in the batch, nor their functions.
        error.__init__(calls, error.where, error.reason)  # type: ignore[misc]
    return error


def span(batch: Batch) -> str:
    """Name the calls of a batch: ``"call 3, f(...)"``, or ``"one of the calls 3 to 5, f(...)"``."""
    first, last = batch.start, batch.start + len(batch) - 1
    calls = f"call {first}" if first == last else f"one of the calls {first} to {last}"
    return f"{calls}, {describe(batch.function(0))}(...)"


def find_unsendable(
    batch: Batch, error: Exception, reduce: Reduce = as_usual, by_value: Reduce = as_usual
) -> Unsendable:
    """Find the call of a batch, and the part of the call, that cannot be pickled.

    Parameters
    ----------
    batch, error
        The batch that could not be sent, and the exception of the attempt.
    reduce, by_value
        The hooks of :func:`~shoal._pickling.dumps` that were used.
    """
    for position, (function, args, kwargs) in enumerate(batch):
        parts = [(function, "the function")]
        parts += [(arg, f"args[{number}]") for number, arg in enumerate(args)]
        parts += [(arg, f"kwargs[{name!r}]") for name, arg in kwargs.items()]
        for part, name in parts:
            try:
                dumps(part, reduce, by_value)
            except OSError as failure:
                # Its message says everything. The cause, the context and the traceback are shoal's own.
                failure.__cause__ = failure.__context__ = None
                return Unsendable(position, failure.with_traceback(None))
            except Exception:
                path, reason = culprit(part, name, reduce)
                refusal = CallPicklingError(f"call {batch.start + position}, {describe(function)}(...),", path, reason)
                refusal.__cause__ = cause_of(error)
                return Unsendable(position, refusal)
    return Unsendable(None, error)
