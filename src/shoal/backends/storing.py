"""Backends over an engine with an object store: an object that many calls need is stored there once.

This is a module of its own so that importing shoal does not import ``concurrent.futures``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor
from typing import Any, Protocol, cast

from shoal.backends.base import Backend, Slot

__all__ = ["Postbox", "StoringBackend", "StoringExecutor"]

#: After this many times in a row that tasks were cancelled from outside shoal, the engine is considered broken.
MOST_CANCELLED = 10


class Postbox(Protocol):
    """The end, in a worker, of a way by which a running batch sends bytes to the program."""

    def post(self, content: bytes) -> bool:
        """Send bytes. What is posted arrives in its order, and before the results of the batch.

        Returns
        -------
        Whether the bytes were taken. If not, the program has not received the ones before yet.
        """

    def withdraw(self) -> bytes | None:
        """End the sending, before the batch ends.

        Returns
        -------
        What was posted last, if the program has not received it and now will not; otherwise None.
        """


class WorkersLost(BrokenExecutor):
    """Workers have died, and took all submitted batches with them. Any of these may be to blame."""


class StoringExecutor(Executor, ABC):
    """An executor over an engine with an object store: a stored object reaches each worker once.

    The executor belongs to a slot of a backend whose :attr:`~shoal.Backend.ships_bytes` is False. A run stores two
    kinds of arguments: those marked by :func:`~shoal.shared`, and those for which :meth:`stores` returns True. It
    stores each object once. It drops the reference when the caller drops the object, or when the run ends.

    The future of a batch raises ``BrokenExecutor`` if its workers have died in every attempt of the engine. A batch
    that was cancelled from outside shoal runs again, and its stored objects are stored again. A submitted function may
    have a method ``given_up()``. If the engine can tell that a task was cancelled, the worker replaces that method by a
    function that returns whether it was.
    """

    @abstractmethod
    def stores(self, obj: Any) -> bool:
        """Return whether an argument of a call should be stored."""

    @abstractmethod
    def put(self, obj: Any) -> Any:
        """Store an object, or begin to.

        Returns
        -------
        A reference to the object, which is not None. If the reference is a positional argument of :meth:`submit`, the
        submitted function gets the object. The engine may drop the object when no reference is left and no submitted
        batch needs it.
        """

    def open_postboxes(self, receive: Callable[[bytes], object]) -> Callable[[], Postbox] | None:
        """Open a way by which running batches send bytes to this process, until the executor is shut down.

        Parameters
        ----------
        receive
            Called with the bytes that a batch has posted, in any thread.

        Returns
        -------
        A function that can be pickled. A submitted function calls it, in the worker. None if the engine has no such
        way: then what calls say and send arrives with their results.
        """
        return None

    def cancel(self) -> None:
        """Cancel all submitted batches as far as the engine can, without waiting. Later batches run.

        Called in any thread, including one that the engine needs for this. Executors of a :class:`StoringBackend`
        must implement it.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot cancel submitted batches")


class StoringBackend(Backend):
    """A backend over such an engine. Each run has one slot, whose executor is a :class:`StoringExecutor`.

    By default a run uses all workers of the engine.
    """

    ships_bytes = False
    default_n_jobs = -1

    def close(self, slots: list[Slot]) -> None:
        """Shut the executors down. The engine keeps running."""
        for slot in slots:
            slot.executor.shutdown()

    def abort(self, slot: Slot) -> Slot:
        """Cancel the submitted batches; return the same slot, because the engine manages the workers."""
        cast("StoringExecutor", slot.executor).cancel()
        return slot
