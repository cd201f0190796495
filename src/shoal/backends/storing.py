"""The contract of an executor over an engine that keeps objects: what many calls need is put there once.

It has a module of its own, so that importing shoal does not import ``concurrent.futures``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from concurrent.futures import Executor
from typing import Any

__all__ = ["StoringExecutor"]


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
