"""From the arguments of a Parallel to a run on a backend."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

from shoal._cpus import BlasCap, cpu_count
from shoal.backends import Backend, Slot
from shoal.observe._printer import Printer
from shoal.observe._progress import progress_listener
from shoal.observe.events import (
    BatchCompleted,
    BatchDispatched,
    Event,
    InputExhausted,
    Listener,
    RunFinished,
    RunStarted,
)
from shoal.parallel._delayed import Call, not_a_call, plain
from shoal.parallel._policies import auto_batch_size
from shoal.parallel._run import BatchRun, Emit, PullRun, Run
from shoal.parallel._schedule import Schedule
from shoal.parallel._settings import Settings, nested_settings
from shoal.parallel._sharing import Workspace
from shoal.parallel._transport import Transport


def make_run(
    calls: Iterable[Call],
    *,
    backend: Backend,
    settings: Settings,
    n_workers: int,
    total: int | None,
    batch_size: int | str,
    bound: int | None,
    return_as: str,
    timeout: float | None,
    max_nbytes: int | None,
    emit: Emit | None,
    open_slots: Callable[[int], list[Slot]],
    close_slots: Callable[[list[Slot]], None],
) -> Run:
    """Make a run: open its slots, and see to it that they are given back when it ends.

    Parameters
    ----------
    bound
        The number of batches that may be in flight; None for no bound.
    open_slots, close_slots
        Called with the number of workers, and with what it has returned.
    calls, backend, settings, n_workers, total, batch_size, return_as, timeout, max_nbytes, emit
        As for :class:`~shoal.Parallel`, :class:`Schedule` and :class:`Run`.
    """
    schedule = Schedule(
        calls,
        slots=n_workers,
        size=auto_batch_size if batch_size == "auto" else int(batch_size),
        pre_dispatch=bound,
        total=total,
        ordered=return_as != "generator_unordered",
    )
    nested = backend.nested(settings.depth), settings.depth + 1
    at_once = emit is not None or timeout is not None or return_as != "list"
    with ExitStack() as opened:
        if backend.in_process:
            opened.enter_context(BlasCap(max(cpu_count() // n_workers, 1)))
        slots = open_slots(n_workers)
        opened.callback(close_slots, slots)
        # The consumer of a generator counts the time by itself: only while it waits.
        limit = timeout if return_as == "list" and backend.supports_timeout else None
        common = backend, slots, schedule, emit, limit, opened.pop_all().close
        if backend.in_process:
            threads = n_workers if bound is None else min(n_workers, bound)
            return PullRun(partial(nested_settings, *nested), at_once, threads, *common)
        workspace = Workspace(max_nbytes, settings.mmap_mode, settings.temp_folder)
        return BatchRun(Transport(workspace, nested, 2 * n_workers), *common)


def listen(
    verbose: int, progress: Any, label: str, ahead: int, n_workers: int, backend: str, total: int | None
) -> Emit | None:
    """Return what takes the events of a run, and has told that it began; None where nobody listens."""
    listeners: list[Listener] = []
    if verbose:
        listeners.append(Printer(verbose, label, ahead))
    shown = progress_listener(progress, label)
    if shown is not None:
        listeners.append(shown)
    if not listeners:
        return None

    def emit(event: Event) -> None:
        for listener in listeners:
            listener(event)

    emit(RunStarted(n_workers, backend, total))
    return emit


def one_by_one(calls: Iterable[Call], emit: Emit | None) -> Iterator[Any]:
    """Run calls one after the other, as their results are taken, and tell of each."""
    tell = emit or _unheard
    error: BaseException | None = None
    done = 0
    try:
        for call in calls:
            try:
                function, args, kwargs = plain(call)
            except (TypeError, ValueError):
                raise not_a_call(call, done) from None
            tell(BatchDispatched(1))
            value = function(*args, **kwargs)
            done += 1
            tell(BatchCompleted(1, 0.0))
            yield value
            del value
        tell(InputExhausted(done))
    except BaseException as caught:
        error = caught
        raise
    finally:
        tell(RunFinished(error))


def _unheard(_event: Event) -> None:
    """Take an event to which nobody listens."""
