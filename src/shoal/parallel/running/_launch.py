"""Makes a run from a plan and the slots of a backend.

::

    Plan ──> Schedule, Faults, limits ──┬──> PullRun     where the slots are threads of this process
    slots ──────────────────────────────┴──> BatchRun    else, with a ProcessTransport or an ObjectTransport
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from shoal import errors
from shoal._environment import variable
from shoal._sizes import parse_size
from shoal._tracebacks import warn
from shoal.backends import Backend, Slot
from shoal.backends._blas import BlasCap
from shoal.backends.base import process_name
from shoal.observe._saying import conditions
from shoal.parallel._batch import CallQueue
from shoal.parallel._delayed import Call
from shoal.parallel.options._settings import Settings, nested_settings
from shoal.parallel.running._batch_run import BatchRun
from shoal.parallel.running._faults import Faults
from shoal.parallel.running._log_attributes import mark_records
from shoal.parallel.running._policies import (
    CUT_SECONDS,
    FED_WORKERS,
    MOST_CALLS,
    Pace,
    asked_batch_size,
    auto_batch_size,
    auto_max_pending,
)
from shoal.parallel.running._pull_run import PullRun
from shoal.parallel.running._run import Run
from shoal.parallel.running._schedule import Schedule
from shoal.parallel.running._stream import stream as stream  # with the first run: later, no descriptor may be left
from shoal.parallel.transport._contract import Transport
from shoal.parallel.transport._processes import MOST_BY_VALUE, ProcessTransport
from shoal.parallel.transport._variables import variables_for
from shoal.parallel.transport._worker_limits import WorkerLimits, private_memory
from shoal.parallel.transport._workspace import MOST_IDLE, Workspace

if TYPE_CHECKING:
    from shoal.observe._teller import Teller
    from shoal.parallel.options._plan import Plan


class Kinds(NamedTuple):
    """The classes of runs, or functions that make them."""

    on_threads: Callable[..., Run]
    of_batches: Callable[..., Run]


KINDS = Kinds(PullRun, BatchRun)


def distance_of(plan: Plan, n_workers: int) -> float:
    """Return how far away the workers are: their backend's distance, or more where the caller has many to feed."""
    return max(plan.backend.distance, n_workers / FED_WORKERS)


def size_policy(plan: Plan, n_workers: int) -> int | Callable[[Pace], int]:
    """Return the `size` of a :class:`Schedule`. No batch has more calls than its worker serves."""
    batch_size, most = plan.batch_size, plan.settings.max_tasks_per_worker
    policy: Callable[[Pace], int]
    if batch_size == "auto":
        policy = partial(auto_batch_size, distance=distance_of(plan, n_workers))
    elif callable(batch_size):
        policy = partial(asked_batch_size, batch_size)
    else:
        return min(max(int(batch_size), 1), MOST_CALLS if most is None else most)
    return policy if most is None else lambda pace: min(policy(pace), most)


def make_run(
    plan: Plan,
    calls: Iterable[Call] | CallQueue | Schedule,
    slots: list[Slot],
    close_slots: Callable[[list[Slot]], None],
    n_workers: int,
    shares: tuple[int, int],
    number: int | None,
    bound: int | None,
    listener: Teller | None,
    faults: type[Faults] = Faults,
    kinds: Kinds = KINDS,
) -> Run:
    """Make a run. It closes its slots when it ends; if it cannot be made, they are closed at once.

    Parameters
    ----------
    plan, calls
        The values of all arguments; and the calls, or the schedule that dispatches them.
    slots, close_slots
        The slots on which the run runs, and the function that closes them.
    n_workers, shares
        The number of batches that run at a time, and the CPUs of their workers: :meth:`Plan.cpu_shares`.
    number
        The number of calls, if it is known.
    bound
        The number of batches that may be in flight; None for no bound.
    listener
        Receives the events of the run; None if nobody listens.
    faults
        The class of the policy for failed calls.
    kinds
        The classes of runs.
    """
    release: Callable[[], None] = partial(close_slots, slots)
    try:
        backend, settings = plan.backend, plan.settings
        share, n_first = shares
        if backend.in_process:
            cap = BlasCap(share)
            cap.__enter__()
            release = partial(_uncap, cap, release)
        schedule = calls if isinstance(calls, Schedule) else _schedule(plan, calls, n_workers, number, bound)
        # Only where a slot has one worker, the worker notes which call it runs.
        noted = backend.ships_bytes and all(slot.width == 1 for slot in slots)
        plan = _without_ignored(plan, noted)
        nested = backend.nested(settings.depth), settings.depth + 1, share, n_first
        policy = faults(settings, listener)
        limits = _limits(backend, settings)
        if "logging" in settings.forwarded:
            mark_records()
        if backend.in_process:
            threads = n_workers if bound is None else min(n_workers, bound)
            surroundings = partial(nested_settings, *nested)
            return kinds.on_threads(plan, slots, schedule, listener, policy, release, threads, surroundings)
        transport: Transport[Any]
        forwarded = conditions(settings.forwarded)
        variables = variables_for(settings.context)
        seconds = CUT_SECONDS * distance_of(plan, n_workers) if plan.batch_size == "auto" else math.inf
        if backend.ships_bytes:
            max_nbytes = None if settings.max_nbytes is None else parse_size(settings.max_nbytes)
            temp_folder = settings.temp_folder or variable("JOBLIB_TEMP_FOLDER") or None
            workspace = Workspace(max_nbytes, settings.mmap_mode, temp_folder, 0 if plan.resends else MOST_IDLE)
            by_value = 0 if plan.resends else MOST_BY_VALUE
            transport = ProcessTransport(
                workspace, nested, forwarded, 2 * n_workers, seconds, noted, limits, by_value, variables
            )
        else:
            from shoal.parallel.transport._engines import ObjectTransport, TaskOptions, machine_name

            # The workers of clusters are no children of this process, and the CPUs there are not divided up here.
            there = nested if backend.shares_cpus else (nested[0], settings.depth, None, 0)
            options = TaskOptions(
                there, seconds, settings.mmap_mode, forwarded, process_name(), machine_name(), variables=variables
            )
            transport = ObjectTransport(options)
        return kinds.of_batches(plan, slots, schedule, listener, policy, release, transport, limits)
    except BaseException:
        release()
        raise


def _uncap(cap: BlasCap, release: Callable[[], None]) -> None:
    """End the limit of the BLAS threads of a run on threads, and do what else is done at its end."""
    cap.__exit__()
    release()


def _schedule(
    plan: Plan, calls: Iterable[Call] | CallQueue, n_workers: int, number: int | None, bound: int | None
) -> Schedule:
    pending: Any = None
    if plan.generates:
        pending = plan.settings.max_pending or partial(auto_max_pending, n_workers)
    return Schedule(
        calls,
        slots=n_workers,
        size=size_policy(plan, n_workers),
        pre_dispatch=bound,
        total=number,
        ordered=plan.return_as != "generator_unordered",
        max_pending=pending,
        distance=distance_of(plan, n_workers),
    )


def _without_ignored(plan: Plan, noted: bool) -> Plan:
    """Return a plan without the timeouts that its backend cannot apply, and warn of each."""
    backend, timeout, task_timeout = plan.backend, plan.timeout, plan.settings.task_timeout
    if timeout is not None and not backend.supports_timeout:
        warn(f"timeout={timeout} is ignored: {backend} cannot abort a run", errors.FallbackWarning)
        plan = plan.changed(timeout=None)
    if task_timeout is not None and not (noted or backend.in_process):
        message = f"task_timeout={task_timeout} is ignored: the workers of {backend} do not report which call they run"
        warn(message, errors.FallbackWarning)
        plan = plan.changed(task_timeout=None)
    return plan


def _limits(backend: Backend, settings: Settings) -> WorkerLimits | None:
    """Return the limits at which workers are replaced; None for no limit. Warn of limits that cannot be applied."""
    calls, memory = settings.max_tasks_per_worker, settings.max_worker_memory
    ignored = {}
    if not (backend.ships_bytes and backend.replaces_workers):
        reason = f"the workers of {backend} are not processes that shoal can replace"
        ignored = {"max_tasks_per_worker": calls, "max_worker_memory": memory}
        calls = memory = None
    elif memory is not None and private_memory(os.getpid()) is None:
        reason = "this system does not report the memory of processes without psutil"
        ignored = {"max_worker_memory": memory}
        memory = None
    for name, value in ignored.items():
        if value is not None:
            warn(f"{name}={value!r} is ignored: {reason}", errors.FallbackWarning)
    if calls is None and memory is None:
        return None
    return WorkerLimits(calls, None if memory is None else parse_size(memory))
