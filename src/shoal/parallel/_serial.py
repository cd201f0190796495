"""Runs of one worker: a loop in the caller's thread, with next to no overhead and a plain traceback."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from shoal._tracebacks import warn
from shoal.backends.base import index_of_call, placed_by, worker_index
from shoal.errors import FallbackWarning, attach
from shoal.parallel._delayed import Call, StandIn, is_call, not_a_call, parts, plain

if TYPE_CHECKING:
    from shoal.observe._teller import Teller
    from shoal.parallel._plan import Plan


def warn_of_ignored(plan: Plan) -> None:
    """Warn of each argument that has no effect where there is one worker."""
    settings, options = plan.settings, {**plan.backend.given_options, **plan.options}
    values = {
        "timeout": plan.timeout,
        "task_timeout": settings.task_timeout,
        "max_tasks_per_worker": settings.max_tasks_per_worker,
        "max_worker_memory": settings.max_worker_memory,
        **{name: options[name] for name in placed_by(options)},
    }
    for name, value in values.items():
        if value is not None:
            message = f"{name}={value!r} is ignored: with one worker, calls run in the caller's own thread"
            warn(message, FallbackWarning)


def run_plainly(calls: Iterable[Call], stopped: Callable[[], bool]) -> list[Any]:
    """Run calls one after the other until there are no more, one fails, or the run was stopped.

    This is for runs that nobody observes and that end with the first failure.

    Parameters
    ----------
    calls
        The calls.
    stopped
        Tells, before each call, whether the run was stopped.
    """
    results: list[Any] = []
    outside = index_of_call.set(worker_index() or 0)
    try:
        for call in calls:
            try:
                function, args, kwargs = plain(parts(call, len(results))) if StandIn.in_use else call
            except (TypeError, ValueError):
                raise not_a_call(call, len(results)) from None
            if stopped():
                break
            try:
                results.append(function(*args, **kwargs))
            except BaseException as error:
                if not is_call((function, args, kwargs)):
                    raise not_a_call(call, len(results)) from None
                from shoal.parallel._faults import named

                attach(error, "call", named(len(results), (function, args, kwargs)))
                raise
    except BaseException as error:
        attach(error, "results", dict(enumerate(results)))
        raise
    finally:
        index_of_call.reset(outside)
    return results


def run_one_by_one(
    plan: Plan, calls: Iterable[Call], tell: Teller | None, stopped: Callable[[], bool], ended: Callable[[], None]
) -> Iterator[Any]:
    """Yield the result of each call when the consumer asks for it.

    Parameters
    ----------
    plan, calls
        What is to be run.
    tell
        What tells of the run; None if nobody listens.
    stopped
        Tells, before each call, whether the run was stopped.
    ended
        Called at the end of the run, whatever ends it.

    Returns
    -------
    A generator that has begun: to drop it, even unused, ends the run.
    """
    results = _one_by_one(plan, calls, tell, stopped, ended)
    next(results)
    return results


def _one_by_one(
    plan: Plan, calls: Iterable[Call], tell: Teller | None, stopped: Callable[[], bool], ended: Callable[[], None]
) -> Iterator[Any]:
    from shoal.parallel._faults import Faults
    from shoal.parallel._resume import keep

    faults = Faults(plan.settings, tell)
    error: BaseException | None = None
    inside = worker_index() or 0  # a loop inside a call belongs to the worker that runs that call
    done = 0
    try:
        yield None
        for call in calls:
            if stopped():
                return
            if tell is not None:
                tell.dispatched(1)
            call = parts(call, done)
            while True:
                function, args, kwargs = plain(call)  # anew for each attempt
                outside = index_of_call.set(inside)  # for this call alone: between calls, the consumer's code runs
                try:
                    value = function(*args, **kwargs)
                except BaseException as raised:
                    wait = faults.judge(done, (function, args, kwargs), raised)
                    if wait is None:
                        value = raised
                        break
                    time.sleep(wait)
                else:
                    keep(plan.memory, call, value)
                    break
                finally:
                    index_of_call.reset(outside)
            done += 1
            if tell is not None:
                tell.completed(1, 0.0, 1)
            yield value
            del value
        if tell is not None:
            tell.exhausted(done)
    except BaseException as caught:
        error = caught
        raise
    finally:
        ended()
        if tell is not None:
            tell.finished(error)
