"""Calls that have failed, and calls that cannot be sent at all."""

from __future__ import annotations

from typing import Any

from shoal._pickling import Reduce, as_usual, culprit, dumps
from shoal._tracebacks import from_user
from shoal.backends._failure import Failure, rebuilt
from shoal.errors import CallPicklingError, CallUnpicklingError
from shoal.parallel._batch import Batch
from shoal.parallel._delayed import describe


def raised(failure: Failure, batch: Batch, at: int) -> BaseException:
    """Return the exception of the call at the place `at` in a batch, its traceback there for its cause."""
    what = span(batch) if failure.whole else f"call {batch.start + at}, {describe(batch.function(at))}(...)"
    error = rebuilt(failure, what)
    if failure.whole and type(error) is CallUnpicklingError and error.where == "a worker":  # which knows no numbers
        error.__init__(what, error.where, error.reason)  # type: ignore[misc]
    return error


def span(batch: Batch) -> str:
    """Say which calls are in a batch: ``"call 3, f(...)"``, or ``"one of the calls 3 to 5, f(...)"``."""
    first, last = batch.start, batch.start + len(batch) - 1
    which = f"call {first}" if first == last else f"one of the calls {first} to {last}"
    return f"{which}, {describe(batch.function(0))}(...)"


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
                return Unsendable(at, _bare(failure))
            except Exception:
                path, reason = culprit(part, name, reduce)
                refusal = CallPicklingError(f"call {batch.start + at}, {describe(function)}(...),", path, reason)
                refusal.__cause__ = cause(error)
                return Unsendable(at, refusal)
    return Unsendable(None, error)


def cause(error: Exception) -> Exception | None:
    """Return what a refusal to pickle shows as its cause: `error`, if it comes out of code of the user's."""
    trace = from_user(error.__traceback__)
    return None if trace is None else error.with_traceback(trace)


def _bare(error: Exception) -> Exception:
    """Return an exception without traceback, cause and context: its message says all, and the rest is shoal's own."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


def _named(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[tuple[Any, str]]:
    return [
        *((value, f"args[{place}]") for place, value in enumerate(args)),
        *((value, f"kwargs[{name!r}]") for name, value in kwargs.items()),
    ]
