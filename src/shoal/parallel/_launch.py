"""From the arguments of a Parallel to a run on a backend."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

from shoal import errors
from shoal._cpus import cpu_share
from shoal._files import parse_size
from shoal._tracebacks import warn
from shoal.backends import Backend, Slot
from shoal.backends._blas import BlasCap
from shoal.parallel._arrivals import Arrived
from shoal.parallel._batch_run import BatchRun
from shoal.parallel._delayed import Call
from shoal.parallel._faults import Faults
from shoal.parallel._limits import Limits, held
from shoal.parallel._objects import ObjectTransport, Order
from shoal.parallel._policies import (
    CUT_SECONDS,
    MOST_CALLS,
    Pace,
    asked_batch_size,
    auto_batch_size,
    auto_max_pending,
)
from shoal.parallel._pull_run import PullRun
from shoal.parallel._run import Run
from shoal.parallel._schedule import Schedule
from shoal.parallel._settings import Settings, nested_settings
from shoal.parallel._sharing import KEPT, Workspace
from shoal.parallel._transport import ONCE, Transport

if TYPE_CHECKING:
    from shoal.observe._teller import Teller
    from shoal.parallel._resume import ResultCache


Sizes = int | str | Callable[[Pace], int]


def size_policy(batch_size: Sizes, settings: Settings, distance: float = 1.0) -> int | Callable[[Pace], int]:
    """Return what ``batch_size=`` means to a :class:`Schedule`: no batch is longer than its worker serves."""
    most = settings.max_tasks_per_worker
    policy: Callable[[Pace], int]
    if batch_size == "auto":
        policy = partial(auto_batch_size, distance=distance)
    elif callable(batch_size):
        policy = partial(asked_batch_size, batch_size)
    else:
        return min(max(int(batch_size), 1), MOST_CALLS if most is None else most)
    return policy if most is None else lambda pace: min(policy(pace), most)


def make_run(
    calls: Iterable[Call] | Schedule,
    *,
    backend: Backend,
    settings: Settings,
    slots: list[Slot],
    close_slots: Callable[[list[Slot]], None],
    n_workers: int,
    total: int | None,
    batch_size: Sizes,
    bound: int | None,
    return_as: str,
    timeout: float | None,
    faults: Faults,
    max_nbytes: int | None,
    memory: ResultCache | None,
    tell: Teller | None,
    remembers: bool = True,
) -> Run:
    """Make a run, and see to it that its slots are given back when it ends, or if it cannot be made.

    Parameters
    ----------
    slots, close_slots
        Where it runs, and what takes them back.
    bound
        The number of batches that may be in flight; None for no bound.
    remembers
        Whether functions and arrays are taken to be the same in a later batch, so that they need not be sent again.
    calls, backend, settings, n_workers, total, batch_size, return_as, timeout, faults, max_nbytes, memory, tell
        As for :class:`~shoal.Parallel`, :class:`Schedule` and :class:`Run`.
    """
    with ExitStack() as opened:
        opened.callback(close_slots, slots)
        share = cpu_share(n_workers)
        if backend.in_process:
            opened.enter_context(BlasCap(share))
        if isinstance(calls, Schedule):
            schedule = calls
        else:
            make = calls.schedule if isinstance(calls, Arrived) else partial(Schedule, calls)
            pending: Any = None
            if return_as != "list":
                pending = settings.max_pending or partial(auto_max_pending, n_workers)
            schedule = make(
                slots=n_workers,
                size=size_policy(batch_size, settings, backend.distance),
                pre_dispatch=bound,
                total=total,
                ordered=return_as != "generator_unordered",
                max_pending=pending,
                distance=backend.distance,
            )
        nested = backend.nested(settings.depth), settings.depth + 1, share
        if timeout is not None and not backend.supports_timeout:
            message = f"timeout={timeout} is ignored: {backend} cannot give up a run"
            warn(message, errors.FallbackWarning)
        # The consumer of a generator counts the time by itself: only while it waits.
        limit = timeout if return_as == "list" and backend.supports_timeout else None
        task_timeout = settings.task_timeout
        noted = backend.ships_bytes and all(slot.width == 1 for slot in slots)
        if task_timeout is not None and not (noted or backend.in_process):
            message = f"task_timeout={task_timeout} is ignored: the workers of {backend} do not tell what they run"
            warn(message, errors.FallbackWarning)
            task_timeout = None
        limits = _limits(backend, settings)
        common = backend, slots, schedule, tell, limit, faults, task_timeout, memory
        if backend.in_process:
            plainly = tell is None and timeout is None and task_timeout is None and not faults.lenient
            at_once = return_as != "list" or not plainly
            threads = n_workers if bound is None else min(n_workers, bound)
            surroundings = partial(nested_settings, *nested)
            return PullRun(surroundings, at_once, threads, *common, opened.pop_all().close)
        transport: Transport | ObjectTransport
        seconds = CUT_SECONDS * backend.distance if batch_size == "auto" else math.inf
        if backend.ships_bytes:
            temp_folder = settings.temp_folder or os.environ.get("JOBLIB_TEMP_FOLDER") or None
            workspace = Workspace(max_nbytes, settings.mmap_mode, temp_folder, KEPT if remembers else 0)
            once = ONCE if remembers else 0
            transport = Transport(workspace, nested, 2 * n_workers, seconds, noted, limits, once)
        else:
            # There, a process is nobody's child, and the CPUs are those of other machines, not to be shared out here.
            there = nested[0], settings.depth, None
            transport = ObjectTransport(Order(there, seconds, settings.mmap_mode))
        return BatchRun(transport, limits, *common, opened.pop_all().close)


def _limits(backend: Backend, settings: Settings) -> Limits | None:
    """Return when workers are replaced: None for never, with a warning if they should be and cannot."""
    calls, memory = settings.max_tasks_per_worker, settings.max_worker_memory
    ignored = {}
    if not (backend.ships_bytes and backend.replaces_workers):
        reason = f"the workers of {backend} are no processes that shoal can replace"
        ignored = {"max_tasks_per_worker": calls, "max_worker_memory": memory}
        calls = memory = None
    elif memory is not None and held(os.getpid()) is None:
        reason = "this system does not tell what processes hold, or only by way of psutil"
        ignored = {"max_worker_memory": memory}
        memory = None
    for name, value in ignored.items():
        if value is not None:
            warn(f"{name}={value!r} is ignored: {reason}", errors.FallbackWarning)
    if calls is None and memory is None:
        return None
    return Limits(calls, None if memory is None else parse_size(memory))
