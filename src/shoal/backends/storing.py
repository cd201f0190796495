"""Backends over an engine that keeps objects, and their executors: what many calls need is put there once.

It has a module of its own, so that importing shoal does not import ``concurrent.futures``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from concurrent.futures import Executor
from typing import Any, cast

from shoal.backends.base import Backend, Slot

__all__ = ["StoringBackend", "StoringExecutor"]


class StoringExecutor(Executor, ABC):
    """An executor over an engine with a store of its own: what is put there reaches each worker once.

    It belongs to a slot of a backend whose :attr:`~shoal.Backend.ships_bytes` is False. A run puts there what it finds
    among the arguments of calls: what is marked by :func:`~shoal.shared`, and what :meth:`stores` says is worth it. It
    puts each object there once, and lets go of what stands for it when the caller has dropped the object, or when the
    run ends.

    A batch whose workers have died, as often as the engine tries it, ends with a ``BrokenExecutor``. One that is
    cancelled from elsewhere runs again, and what it needs of the store is put there again. What is submitted may have
    a method ``given_up()``: where the engine can tell that nobody wants the outcome any more, it is replaced in the
    worker by a function that does.
    """

    @abstractmethod
    def stores(self, obj: Any) -> bool:
        """Tell whether an argument of a call is worth a place in the store."""

    @abstractmethod
    def put(self, obj: Any) -> Any:
        """Put an object into the store, or begin to.

        Returns
        -------
        What stands for it in the arguments of :meth:`submit`, each an argument by itself: the function that is
        submitted gets the object instead. The engine may drop the object once nothing stands for it, and no batch
        that was submitted needs it any more. It is not None.
        """

    def cancel(self) -> None:
        """End what was submitted as far as the engine can, without waiting for it; what is submitted later is run.

        In any thread, also in one that the engine needs for that. For executors of a :class:`StoringBackend`.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot cancel what was submitted")


class StoringBackend(Backend):
    """A backend over such an engine, which has one slot for each run, a :class:`StoringExecutor`.

    By default a run has as many workers as there are.
    """

    ships_bytes = False
    default_n_jobs = -1

    def close(self, slots: list[Slot]) -> None:
        """Shut the executors down; the engine stays as it is."""
        for slot in slots:
            slot.executor.shutdown()

    def abort(self, slot: Slot) -> Slot:
        """Cancel what was submitted; return the same slot, since it is the engine's affair what runs it."""
        cast("StoringExecutor", slot.executor).cancel()
        return slot
