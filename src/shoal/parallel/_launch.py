"""From the arguments of a Parallel to a run on a backend."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

from shoal import errors
from shoal._cpus import BlasCap, cpu_count
from shoal.backends import Backend, Slot
from shoal.parallel._batch_run import BatchRun
from shoal.parallel._delayed import Call
from shoal.parallel._faults import Faults
from shoal.parallel._objects import ObjectTransport
from shoal.parallel._policies import CUT_SECONDS, Pace, auto_batch_size, auto_max_pending
from shoal.parallel._pull_run import PullRun
from shoal.parallel._run import Run
from shoal.parallel._schedule import Schedule
from shoal.parallel._settings import Settings, nested_settings
from shoal.parallel._sharing import KEPT, Workspace
from shoal.parallel._transport import ONCE, Transport

if TYPE_CHECKING:
    from shoal.observe._teller import Teller


def size_policy(batch_size: int | str) -> int | Callable[[Pace], int]:
    """Return what ``batch_size=`` means to a :class:`Schedule`."""
    return auto_batch_size if batch_size == "auto" else int(batch_size)


def make_run(
    calls: Iterable[Call] | Schedule,
    *,
    backend: Backend,
    settings: Settings,
    slots: list[Slot],
    close_slots: Callable[[list[Slot]], None],
    n_workers: int,
    total: int | None,
    batch_size: int | str,
    bound: int | None,
    return_as: str,
    timeout: float | None,
    faults: Faults,
    max_nbytes: int | None,
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
    calls, backend, settings, n_workers, total, batch_size, return_as, timeout, faults, max_nbytes, tell
        As for :class:`~shoal.Parallel`, :class:`Schedule` and :class:`Run`.
    """
    with ExitStack() as opened:
        opened.callback(close_slots, slots)
        if backend.in_process:
            opened.enter_context(BlasCap(max(cpu_count() // n_workers, 1)))
        pending: Any = None
        if return_as != "list":
            pending = settings.max_pending or partial(auto_max_pending, n_workers)
        if isinstance(calls, Schedule):
            schedule = calls
        else:
            schedule = Schedule(
                calls,
                slots=n_workers,
                size=size_policy(batch_size),
                pre_dispatch=bound,
                total=total,
                ordered=return_as != "generator_unordered",
                max_pending=pending,
            )
        nested = backend.nested(settings.depth), settings.depth + 1
        # The consumer of a generator counts the time by itself: only while it waits.
        limit = timeout if return_as == "list" and backend.supports_timeout else None
        task_timeout = settings.task_timeout
        noted = backend.ships_bytes and all(slot.width == 1 for slot in slots)
        if task_timeout is not None and not (noted or backend.in_process):
            message = f"task_timeout={task_timeout} is ignored: the workers of {backend} do not tell what they run"
            warnings.warn(message, errors.FallbackWarning, stacklevel=4)
            task_timeout = None
        common = backend, slots, schedule, tell, limit, faults, task_timeout
        if backend.in_process:
            plainly = tell is None and timeout is None and task_timeout is None and not faults.lenient
            at_once = return_as != "list" or not plainly
            threads = n_workers if bound is None else min(n_workers, bound)
            surroundings = partial(nested_settings, *nested)
            return PullRun(surroundings, at_once, threads, *common, opened.pop_all().close)
        transport: Transport | ObjectTransport
        if backend.ships_bytes:
            temp_folder = settings.temp_folder or os.environ.get("JOBLIB_TEMP_FOLDER") or None
            workspace = Workspace(max_nbytes, settings.mmap_mode, temp_folder, KEPT if remembers else 0)
            seconds = CUT_SECONDS if batch_size == "auto" else math.inf
            transport = Transport(workspace, nested, 2 * n_workers, seconds, noted, ONCE if remembers else 0)
        else:
            transport = ObjectTransport(nested)
        return BatchRun(transport, *common, opened.pop_all().close)
