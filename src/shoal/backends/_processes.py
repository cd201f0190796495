"""The loky backend: worker processes that need no ``__main__`` guard, kept warm between runs."""

from __future__ import annotations

import functools
import os
import sys
import warnings
from collections.abc import Callable, Hashable
from concurrent.futures import Executor, Future
from functools import partial
from typing import Any

from shoal.backends import _bootstrap
from shoal.backends._placement import Placement, identity
from shoal.backends._pool import begin, pool
from shoal.backends.base import PLACEMENT, Backend, Slot, WorkerSpec, in_main_thread
from shoal.errors import FallbackWarning, import_loky

#: The seconds after which an idle worker goes, as in joblib.
IDLE_SECONDS = 300.0


class LokyMaker:
    """Starts workers as loky executors of one process."""

    max_batches: int | None = None

    def __init__(
        self,
        environment: dict[str, str],
        placement: Placement,
        initializer: Callable[..., object] | None,
        initargs: tuple[Any, ...],
        idle_seconds: float | None,
    ) -> None:
        self._environment = environment
        self._placement = placement
        self._initializer = initializer
        self._initargs = initargs
        self.idle_seconds = idle_seconds
        self.key: Hashable = (
            "loky",
            tuple(sorted(environment.items())),
            placement.key,
            *map(identity, (initializer, *initargs)),
            idle_seconds,
        )

    def start(self, index: int) -> Executor:
        """Start a worker process."""
        place = self._placement.of(index)
        variables = {name: value for name, value in place.variables.items() if value is not None}
        loky, context = import_loky(), _context_class()()
        executor: Executor = loky.ProcessPoolExecutor(
            1,
            context=context,
            initializer=_bootstrap.initialize,
            initargs=(place, os.getpid(), self._initializer, self._initargs),
            env={**self._environment, **variables},
        )
        try:
            # The executor's thread would start it with its first task, and print a traceback where the interpreter
            # shuts down in between.
            executor._call_queue._start_thread()  # type: ignore[attr-defined]
            up = begin(executor)
        except BaseException:  # the interpreter shuts down: loky can register nothing for its exit any more
            self.stop(executor, kill=True)
            _take_names_away(context.locks)
            raise
        process = next(iter(executor._processes.values()), None)  # type: ignore[attr-defined]
        up.add_done_callback(partial(_up_or_gone, process, context.locks))
        # Else loky registers what it does at exit anew for each executor (up to 3.7 at least), and after the pool.
        loky.process_pool_executor_at_exit = True
        return executor

    def stop(self, executor: Executor, kill: bool) -> None:
        """End a worker process, or kill it with all that it has started."""
        executor.shutdown(wait=False, kill_workers=kill)  # type: ignore[call-arg]


@functools.cache
def _context_class() -> Any:
    """Return loky's context, such that it keeps the locks that it makes.

    It is passed to loky explicitly: in multiprocessing, joblib's own loky may stand under that name.
    """
    import_loky()
    from loky.backend.context import LokyContext

    class Context(LokyContext):  # type: ignore[misc]
        def __init__(self) -> None:
            self.locks: list[Any] = []

        def Lock(self) -> Any:  # noqa: N802 its name in multiprocessing
            self.locks.append(super().Lock())
            return self.locks[-1]

        def BoundedSemaphore(self, value: int = 1) -> Any:  # noqa: N802
            self.locks.append(super().BoundedSemaphore(value))
            return self.locks[-1]

    return Context


def _up_or_gone(process: Any, locks: list[Any], up: Future[None]) -> None:
    """Take the names of a worker's locks away once it has opened them, or will not any more."""
    if not up.cancelled() and up.exception() is None:
        _take_names_away(locks)
    else:
        pool().ask(partial(_gone, process, locks))


def _gone(process: Any, locks: list[Any]) -> None:
    if process is not None:
        process.join(1)  # it is being killed; until then it would complain of names that it does not find
    _take_names_away(locks)


def _take_names_away(locks: list[Any]) -> None:
    """Unlink the names of locks, so that nothing is left should this process be killed.

    That is what their finalizers do. If this process is killed before, loky's resource tracker does it, and complains
    on stderr; so it does if the collector comes to them in a thread that stops half-way because the program ends.
    """
    from multiprocessing import util

    held = {id(lock) for lock in locks}
    registry: dict[Any, Any] = util._finalizer_registry  # type: ignore[attr-defined]
    for finalizer in list(registry.values()):
        lock = getattr(finalizer, "_weakref", None)  # taken off it when it has run, in whichever thread
        if lock is not None and id(lock()) in held:
            finalizer()


class LokyBackend(Backend):
    """Runs the calls in worker processes, started by loky; the default.

    The workers are shared by all runs of this process and stay for `idle_worker_timeout` seconds.
    """

    name = "loky"
    options = frozenset({"initializer", "initargs", "idle_worker_timeout", "context", *PLACEMENT})
    supports_inner_max_num_threads = True
    replaces_workers = True

    def workers(self, n_jobs: int | None, depth: int = 0) -> int:
        """Return how many workers `n_jobs` means; 1, with a warning, where the system allows no children."""
        return _or_one(super().workers(n_jobs, depth), depth, "Loky-backed")

    def open(self, spec: WorkerSpec) -> list[Slot]:
        """Return slots of one worker process each."""
        options = {**self.given_options, **spec.options}
        idle_seconds = options.get("idle_worker_timeout")
        # loky restarts a worker that has grown by 300 MB, which many calls do that leak nothing.
        environment = {"LOKY_MAX_MEMORY_LEAK_SIZE": str(sys.maxsize), **spec.environment}
        maker = LokyMaker(
            environment,
            Placement(spec, options),
            options.get("initializer"),
            tuple(options.get("initargs") or ()),
            IDLE_SECONDS if idle_seconds is None else float(idle_seconds),
        )
        return pool().open(maker, spec.n_workers, spec.own)

    def close(self, slots: list[Slot]) -> None:
        """Give the workers back; they stay warm."""
        pool().close(slots)

    def abort(self, slot: Slot) -> Slot:
        """Kill the worker if this run's batches are on it; the slot that is returned has a new one."""
        return pool().abort(slot, warm=True)

    def retire(self, slot: Slot, pid: int) -> bool:
        """Replace the worker process `pid` once what was submitted to it has run."""
        return pool().retire(slot, pid)


def _or_one(n_workers: int, depth: int, what: str, nests: bool = True) -> int:
    """Return `n_workers`, or 1 with a warning where this process cannot have worker processes of its own."""
    if n_workers == 1:
        return 1
    process = sys.modules.get("multiprocessing.process")
    reason = None
    if process is not None and process.current_process().daemon:
        reason = "called in a multiprocessing daemon process"
    elif depth and not in_main_thread():
        reason = "nested below threads"
    elif depth and not nests:
        reason = "nested below worker processes"
    if reason is None:
        return n_workers
    warnings.warn(f"{what} parallel loops cannot be {reason}, setting n_jobs=1", FallbackWarning, stacklevel=6)
    return 1
