"""The sequential backend: calls run one after the other, where they are submitted."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

from shoal.backends.base import Backend, Slot, WorkerSpec

T = TypeVar("T")


class InlineExecutor(Executor):
    """Runs a call when it is submitted; the future that it returns is done."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Run the call and return its outcome; interrupts pass through."""
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class SequentialBackend(Backend):
    """Runs the calls in the caller's thread; a run with one worker is a plain loop on every backend."""

    name = "sequential"
    in_process = True
    ships_bytes = False
    supports_timeout = False

    def workers(self, n_jobs: int | None, depth: int = 0) -> int:
        """Return 1, whatever `n_jobs` is."""
        super().workers(n_jobs, depth)
        return 1

    def open(self, spec: WorkerSpec) -> list[Slot]:
        """Return one slot."""
        return [Slot(InlineExecutor())]

    def close(self, slots: list[Slot]) -> None:
        """Do nothing: there is nothing to take back."""

    def abort(self, slot: Slot) -> Slot:
        """Return `slot`: what it ran has ended."""
        return slot

    def nested(self, depth: int) -> str:
        """Return "sequential"."""
        return self.name
