"""Runs with one worker: a loop in the caller's thread, with almost no overhead and a short traceback."""

from __future__ import annotations

import time

from shoal._tracebacks import warn
from shoal._typing import TYPE_CHECKING
from shoal.backends.base import CallHere, call_here, placement_options, worker_index
from shoal.errors import FallbackWarning, attach
from shoal.parallel._delayed import Placeholder, is_call, not_a_call, resolved, unpacked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, Protocol

    from shoal.observe._teller import Teller
    from shoal.parallel._delayed import Call
    from shoal.parallel.options._plan import Plan

    class Stoppable(Protocol):
        """What a loop asks whether it is to end."""

        stopped: bool


def warn_of_ignored(plan: Plan) -> None:
    """Warn of each argument that has no effect in a run with one worker."""
    settings, options = plan.settings, {**plan.backend.given_options, **plan.options}
    values = {
        "timeout": plan.timeout,
        "task_timeout": settings.task_timeout,
        "max_tasks_per_worker": settings.max_tasks_per_worker,
        "max_worker_memory": settings.max_worker_memory,
        **{name: options[name] for name in placement_options(options)},
    }
    for name, value in values.items():
        if value is not None:
            message = f"{name}={value!r} is ignored: with one worker, calls run in the caller's own thread"
            warn(message, FallbackWarning)


def run_plainly(calls: Iterable[Call], runner: Stoppable) -> list[Any]:
    """Run calls one after the other, until none are left, one fails, or the run is stopped; return their results.

    This is the fastest loop, for runs without a listener, retries or a cache, which end with the first failure.

    Parameters
    ----------
    calls
        The calls.
    runner
        Tells whether the run was stopped; it is asked before each call.
    """
    results: list[Any] = []
    outside = call_here.set(CallHere(worker_index() or 0, results.__len__, call_here.get(None)))
    try:
        for call in calls:
            try:
                function, args, kwargs = resolved(unpacked(call, len(results))) if Placeholder.in_use else call
            except (TypeError, ValueError):
                raise not_a_call(call, len(results)) from None
            if runner.stopped:
                break
            try:
                results.append(function(*args, **kwargs))
            except BaseException as error:
                if not is_call((function, args, kwargs)):
                    raise not_a_call(call, len(results)) from None
                from shoal.parallel.running._faults import described

                attach(error, "call", described(len(results), (function, args, kwargs)))
                raise
    except BaseException as error:
        attach(error, "results", dict(enumerate(results)))
        raise
    finally:
        call_here.reset(outside)
    return results


def run_one_by_one(
    plan: Plan, calls: Iterable[Call], listener: Teller | None, runner: Stoppable, ended: Callable[[], None]
) -> Iterator[Any]:
    """Yield None, then the result of each call when the consumer asks for it.

    The caller takes the None at once. From then on, dropping the generator ends the run.

    Parameters
    ----------
    plan, calls
        The values of all arguments, and the calls.
    listener
        Receives the events of the run; None if nobody listens.
    runner
        Tells whether the run was stopped; it is asked before each call.
    ended
        Called at the end of the run, whatever ends it.
    """
    from shoal.parallel.running._faults import Faults
    from shoal.parallel.running._resume import store

    direct = None
    if plan.on_message is not None or listener is not None:
        from shoal.observe._receiving import direct_of

        direct = direct_of(plan.on_message, listener)
    faults = Faults(plan.settings, listener)
    error: BaseException | None = None
    done = 0
    # A loop inside a call belongs to the worker that runs that call.
    inside = CallHere(worker_index() or 0, lambda: done, call_here.get(None))
    try:
        yield None
        for call in calls:
            if runner.stopped:
                return
            if listener is not None:
                listener.dispatched(1)
            call = unpacked(call, done)
            while True:
                function, args, kwargs = resolved(call)  # anew for each attempt
                outside = call_here.set(inside)  # only for this call, since the consumer's code runs between calls
                try:
                    value = function(*args, **kwargs) if direct is None else direct.call(done, function, args, kwargs)
                except BaseException as raised:
                    if direct is not None and direct.error is not None:
                        raise
                    wait = faults.judge(done, (function, args, kwargs), raised)
                    if wait is None:
                        value = raised
                        break
                    time.sleep(wait)
                else:
                    store(plan.memory, call, value)
                    break
                finally:
                    call_here.reset(outside)
            done += 1
            if listener is not None:
                listener.completed(1, 0.0, 1)
            yield value
            del value
        if listener is not None:
            listener.exhausted(done)
    except BaseException as caught:
        error = caught
        raise
    finally:
        ended()
        if listener is not None:
            listener.finished(error)
