"""Calls that have failed, and calls that cannot be sent at all."""

from __future__ import annotations

from typing import Any

from shoal._pickling import Reduce, as_usual, culprit, dumps
from shoal.backends._failure import Failure, rebuilt
from shoal.errors import CallPicklingError
from shoal.parallel._batch import Batch
from shoal.parallel._delayed import describe


def raised(failure: Failure, batch: Batch, at: int) -> BaseException:
    """Return the exception of the call at the place `at` in a batch, its traceback there for its cause."""
    return rebuilt(failure, f"call {batch.start + at}, {describe(batch.function(at))}(...)")


class Unsendable(Exception):
    """A batch cannot be sent: because of the call at the place `at` in it, or nobody knows of which (None)."""

    def __init__(self, at: int | None, error: Exception) -> None:
        super().__init__(at, error)
        self.at, self.error = at, error

    def close(self) -> None:
        """Hold nothing."""


def explain(batch: Batch, error: Exception, reduce: Reduce = as_usual, by_value: Reduce = as_usual) -> Unsendable:
    """Find the call of a batch, and the part of it, that cannot be pickled.

    Parameters
    ----------
    batch, error
        What could not be sent, and why.
    reduce, by_value
        The hooks of :func:`~shoal._pickling.dumps`.
    """
    for at, (function, args, kwargs) in enumerate(batch):
        for part, name in [(function, "the function"), *_named(args, kwargs)]:
            try:
                dumps(part, reduce, by_value)
            except OSError as failure:
                return Unsendable(at, failure)
            except Exception:
                path, reason = culprit(part, name, reduce)
                refusal = CallPicklingError(f"call {batch.start + at}, {describe(function)}(...),", path, reason)
                refusal.__cause__ = error
                return Unsendable(at, refusal)
    return Unsendable(None, error)


def _named(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[tuple[Any, str]]:
    return [
        *((value, f"args[{place}]") for place, value in enumerate(args)),
        *((value, f"kwargs[{name!r}]") for name, value in kwargs.items()),
    ]
