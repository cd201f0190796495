"""The policy for a failed call: retry it, make its exception its result, or end the run with the exception."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, ClassVar

from shoal._tracebacks import from_user
from shoal.errors import CallStopped, FailedCall, attach
from shoal.parallel._delayed import Call, describe
from shoal.parallel.options._settings import Settings, survives_failures
from shoal.parallel.running._policies import number_from

if TYPE_CHECKING:
    from shoal.observe._teller import Teller


class Attempt(int):
    """The number of attempts at a call so far, all of which have failed.

    A callable for ``retries=`` or ``retry_wait=`` receives it. Beside the number, it has the attributes of tenacity's
    ``RetryCallState`` that tenacity's stop and wait objects read.

    Attributes
    ----------
    attempt_number
        The number itself.
    outcome
        A future that holds the exception of the last attempt.
    seconds_since_start
        The seconds since the first failure of the call.
    idle_for
        The seconds that the call has waited between attempts so far.
    upcoming_sleep
        The seconds that it will wait before the next attempt; 0 until they are known.
    """

    attempt_number: int
    outcome: Future[Any]
    seconds_since_start: float
    idle_for: float
    upcoming_sleep: float


class Faults:
    """The policy of one run for calls that fail, and the failures so far.

    Parameters
    ----------
    settings
        The settings of the run. The callables for retries among them take an :class:`Attempt`.
    listener
        Receives the failures; None if nobody listens.

    Attributes
    ----------
    returnable
        The type of exceptions that may be the result of a call, under ``on_error="return"``. Others end the run.
    lasting
        Whether the run goes on when a user's callable fails. Then the callable's exception is the result of the call.
    lenient
        Whether the run may go on after a failed call.

    Notes
    -----
    Not thread-safe: it belongs to the thread that owns the run.
    """

    returnable: ClassVar[type[BaseException]] = Exception
    lasting: ClassVar[bool] = False

    def __init__(self, settings: Settings, listener: Teller | None) -> None:
        self._retries: int | Callable[[Attempt], bool] = settings.retries
        self._retry_on: Any = settings.retry_on
        self._retry_wait: float | Callable[[Attempt], float] = settings.retry_wait
        self._returns = settings.on_error == "return"
        self._listener = listener
        self._failures: dict[int, tuple[int, float, float]] = {}  # attempts, time of the first failure, seconds waited
        self.lenient = survives_failures(settings)

    def judge(self, index: int, call: Call, error: BaseException) -> float | None:
        """Return the seconds until a failed call is retried; None if its exception is its result.

        Raises
        ------
        BaseException
            `error`, if it ends the run; for a StopIteration a :class:`~shoal.errors.CallStopped` instead, because the
            loop of a run is a generator, which cannot raise StopIteration.
        Exception
            Whatever a user's callable raises.
        """
        attach(error, "call", described(index, call))
        try:
            wait = self._wait(index, error) if isinstance(error, Exception) else None
        except Exception as raised:  # by a user's callable: its traceback shows the exception of the call too
            if raised is not error and raised.__context__ is None:
                raised.__context__ = error
            attach(raised, "call", described(index, call))
            raise
        if self._listener is not None:
            self._listener.failed(index, error, wait)
        if wait is not None:
            return wait
        if self._returns and isinstance(error, self.returnable):
            self._failures.pop(index, None)
            return None
        error = error.with_traceback(from_user(error.__traceback__))
        if isinstance(error, StopIteration):
            raise CallStopped(described(index, call), error)
        raise error

    def _wait(self, index: int, error: Exception) -> float | None:
        if not self._retries:
            return None
        retry_on = self._retry_on
        typed = isinstance(retry_on, (type, tuple))
        if not (isinstance(error, retry_on) if typed else retry_on(error)):
            return None
        now = time.monotonic()
        number, first, waited = self._failures.get(index, (0, now, 0.0))
        number += 1
        if not callable(self._retries) and number > self._retries:
            return None
        attempt = Attempt(number)
        attempt.attempt_number, attempt.seconds_since_start = number, now - first
        attempt.idle_for, attempt.upcoming_sleep = waited, 0.0
        attempt.outcome = Future()
        attempt.outcome.set_exception(error)
        wait = self._retry_wait if not callable(self._retry_wait) else self._asked_wait(self._retry_wait, attempt)
        attempt.upcoming_sleep = wait
        if callable(self._retries) and self._retries(attempt):
            return None
        self._failures[index] = number, first, waited + wait
        return wait

    @staticmethod
    def _asked_wait(retry_wait: Callable[[Attempt], float], attempt: Attempt) -> float:
        """Return the seconds that a user's callable asks for. A negative number means at once."""
        wait = number_from("retry_wait", retry_wait, retry_wait(attempt))
        if wait > threading.TIMEOUT_MAX:
            raise ValueError(f"the callable retry_wait={retry_wait!r} must return seconds, but it returned {wait!r}")
        return max(wait, 0.0)


def described(index: int, call: Call) -> FailedCall:
    """Return the description of a call for a message; its arguments are cut to a readable length."""
    import reprlib

    function, args, kwargs = call
    shown = [*map(reprlib.repr, args), *(f"{name}={reprlib.repr(value)}" for name, value in kwargs.items())]
    arguments = ", ".join(shown)
    return FailedCall(index, describe(function), arguments if len(arguments) <= 200 else arguments[:197] + "...")
