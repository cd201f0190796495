"""The way of a batch to a backend that ships objects by itself, as clusters do."""

from __future__ import annotations

import time
from concurrent.futures import Executor, Future
from typing import Any, NamedTuple

from shoal.parallel._batch import Batch
from shoal.parallel._delayed import plain
from shoal.parallel._settings import Nested, nested_settings


class Done(NamedTuple):
    """What came of a batch: the results of its first calls, and the exception of the next."""

    elapsed: float  # seconds that the calls took
    values: list[Any]
    error: BaseException | None
    retiring: None = None  # workers that are not ours are not replaced


class Nothing:
    """What a batch in flight holds in the parent."""

    nbytes = returned = 0

    def close(self) -> None:
        """Let go of it."""


class ObjectTransport:
    """Hands the calls of batches to executors as they are.

    Parameters
    ----------
    nested
        What runs that the calls make are to know.
    """

    def __init__(self, nested: Nested) -> None:
        self._nested = nested

    def send(self, batch: Batch, executor: Executor) -> tuple[Future[Done], Nothing]:
        """Submit a batch; return the future of what comes of it."""
        return executor.submit(run_calls, self._nested, [plain(call) for call in batch]), Nothing()

    def receive(self, _batch: Batch, outcome: Done, _held: Nothing) -> tuple[list[Any], BaseException | None, bool]:
        """Return the results of the calls of a batch that have ended, and the exception of the one that has failed."""
        return outcome.values, outcome.error, False

    def running(self, _executor: Executor) -> None:
        """Return what an executor's worker runs: nobody knows."""

    def forget(self, _executor: Executor) -> None:
        """Take note that an executor has another worker."""

    def close(self) -> None:
        """End the run."""


def run_calls(nested: Nested, calls: list[Any]) -> Done:
    """Run calls, wherever the executor has brought them."""
    with nested_settings(*nested):
        began = time.perf_counter()
        values: list[Any] = []
        error: BaseException | None = None
        try:
            for function, args, kwargs in calls:
                values.append(function(*args, **kwargs))
        except BaseException as raised:
            error = raised
        return Done(time.perf_counter() - began, values, error)
