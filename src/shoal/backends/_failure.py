"""An exception on its way back from where it was raised."""

from __future__ import annotations

from typing import Any, NamedTuple

from shoal._pickling import culprit, dumps, loads
from shoal.errors import CallPicklingError, CallUnpicklingError, RemoteTraceback


class Failure(NamedTuple):
    """An exception on its way back."""

    stream: bytes  # the exception
    remote: str  # its traceback
    whole: bool = False  # whether it says nothing about which call of the batch is to blame


def failure_of(error: BaseException, shown: BaseException, whole: bool = False) -> Failure:
    """Encode an exception such that the parent can rebuild it."""
    import traceback

    frames = shown.__traceback__
    text = "".join(traceback.format_exception(type(shown), shown, frames and (frames.tb_next or frames)))
    error.__traceback__ = None
    for attempt in (error, _Rebuilt(error)):
        try:
            stream, _ = dumps(attempt, _of_itself, out_of_band=2**63)
            loads(stream)
        except Exception as refusal:
            reason = f"{type(refusal).__name__}: {refusal}"
        else:
            return Failure(stream, text, whole)
    path, why = culprit(error, "exception", _of_itself)
    summary = traceback.format_exception_only(type(error), error)[0].strip()[:200]
    stream, _ = dumps(CallPicklingError(f"the exception {summary}", path, why or reason))
    return Failure(stream, text, whole)


def _of_itself(value: Any) -> Any:
    """Return an exception's own reduction: libraries that register another (tblib, for dask) send tracebacks along."""
    return value.__reduce_ex__(5) if isinstance(value, BaseException) else NotImplemented


class _Rebuilt:
    """An exception that its own constructor could not rebuild: made without it, from its arguments and attributes."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __reduce__(self) -> Any:
        cls = type(self.error)
        builtin: Any = next(base for base in cls.__mro__ if base.__module__ == "builtins")
        return rebuild, (builtin, cls, *builtin.__reduce__(self.error)[1:])


def rebuild(
    builtin: Any, cls: type[BaseException], args: tuple[Any, ...], state: dict[str, Any] | None = None
) -> BaseException:
    """Make an exception without calling its constructor, but that of the builtin exception from which it derives."""
    error = cls.__new__(cls, *args)
    builtin.__init__(error, *args)
    error.__setstate__(state)
    return error


def rebuilt(failure: Failure, what: str) -> BaseException:
    """Return the exception that `what` has raised, its traceback there for its cause."""
    try:
        error: BaseException = loads(failure.stream)
    except Exception as refusal:
        reason = f"{type(refusal).__name__}: {refusal}"
        error = CallUnpicklingError(f"the exception of {what}", "the calling process", reason)
    error.__cause__ = RemoteTraceback(what, failure.remote)
    return error
