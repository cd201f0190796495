"""The locks of an executor that has one process: between processes they guard nothing, so they need no semaphores.

A semaphore of the system has a name that a killed program leaves behind, and some systems have none (AWS Lambda). An
executor's queues are written by one process and read by one; its locks are between the threads of this one, and a
worker gets new ones, which nobody holds.
"""

from __future__ import annotations

import threading
from typing import Any


class OwnLock:
    """What executors ask of ``multiprocessing.Lock``, in each process for itself."""

    def __init__(self) -> None:
        lock = threading.Lock()
        self.acquire, self.release = lock.acquire, lock.release

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

    def __reduce__(self) -> Any:
        return OwnLock, ()


class Unbounded:
    """What executors ask of ``multiprocessing.BoundedSemaphore``, without a bound.

    It bounds a queue before one worker, into which the pool puts one task; and in loky it lets a worker that ends by
    itself wait for the parent, which ours never do.
    """

    def __init__(self, value: int = 1) -> None:
        pass

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        """Return True at once."""
        return True

    def release(self) -> None:
        """Do nothing."""

    def __enter__(self) -> bool:
        return True

    def __exit__(self, *_: object) -> None:
        pass

    @property
    def _semlock(self) -> Unbounded:
        return self

    def _is_zero(self) -> bool:
        """Return False: a queue is never full."""
        return False
