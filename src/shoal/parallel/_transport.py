"""The contract of a transport: it takes a batch to a worker, and what came of its calls back.

::

    batch ──encode──> Request ──send──> a slot's executor        future of a reply ──receive──> values, error
                         │
                         └── holds what the batch needs in this process until it is closed

_process_transport sends bytes to worker processes; _object_transport hands objects to engines that ship them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from concurrent.futures import Executor, Future
from typing import Any, Generic, NamedTuple, TypeVar

from shoal.parallel._batch import Batch
from shoal.parallel._failures import Unsendable
from shoal.parallel._status import WorkerStatus


class Request:
    """A batch on its way, and what it holds in this process.

    Attributes
    ----------
    batch
        The calls.
    refusal
        Why the batch cannot be sent; None if it can.
    nbytes, returned
        The bytes that travel to the worker, and those that came back.
    """

    def __init__(self, batch: Batch, refusal: Unsendable | None = None) -> None:
        self.batch, self.refusal = batch, refusal
        self.nbytes = self.returned = 0

    def close(self) -> None:
        """Release what the batch holds; it may be called again."""


R = TypeVar("R", bound=Request)


class Received(NamedTuple):
    """What came of a batch.

    Attributes
    ----------
    values
        The results of its first calls.
    error
        The exception of the next call; None if no call has failed.
    whole
        Whether the exception may belong to any call of the batch.
    """

    values: list[Any]
    error: BaseException | None
    whole: bool = False


class Transport(ABC, Generic[R]):
    """The way of the batches of one run. It belongs to the thread that owns the run, where nothing else is said."""

    @abstractmethod
    def encode(self, batch: Batch) -> R:
        """Return a request for any worker; one with a refusal if the batch cannot be encoded."""

    @abstractmethod
    def send(self, request: R, executor: Executor) -> Future[Any]:
        """Submit a request; return the future of the reply. The future of a refused request holds the refusal."""

    @abstractmethod
    def receive(self, request: R, reply: Any) -> Received:
        """Return what came of the calls of a request."""

    @abstractmethod
    def explain(self, batch: Batch, error: Exception) -> Unsendable:
        """Return which call an executor's failure belongs to; raise `error` if it belongs to none."""

    @abstractmethod
    def close(self) -> None:
        """End the run: release what was sent or stored for it."""

    def status(self, _executor: Executor) -> WorkerStatus | None:
        """Return what an executor's worker does; None if workers do not tell."""
        return None

    @abstractmethod
    def forget(self, executor: Executor) -> None:
        """Take note that an executor's worker does not have what was sent there before."""

    def replaced(self, _executor: Executor) -> WorkerStatus | None:
        """Take note that an executor has, or will have, another worker; return what the last one did at its end.

        To be called before the new worker can run a batch; from any thread.
        """
        return None


def refused(error: Exception) -> Future[Any]:
    """Return a future that has failed."""
    future: Future[Any] = Future()
    future.set_exception(error)
    return future
