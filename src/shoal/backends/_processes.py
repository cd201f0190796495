"""The loky backend: worker processes that need no ``__main__`` guard, kept warm between runs."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Hashable
from concurrent.futures import Executor, Future
from functools import partial
from types import FunctionType
from typing import TYPE_CHECKING, Any

from shoal._pickling import KeepingFile
from shoal._tracebacks import warn
from shoal.backends import _bootstrap
from shoal.backends._locks import OwnLock, Unbounded
from shoal.backends._placement import Placement, identity
from shoal.backends._pool import pool
from shoal.backends._start import begin, launch, watching
from shoal.backends.base import PLACEMENT, Backend, Slot, WorkerSpec, in_main_thread
from shoal.errors import FallbackWarning, import_loky

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

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

    def start(self, index: int, connection: Connection) -> tuple[Executor, Future[None]]:
        """Start a worker process."""
        place = self._placement.of(index)
        variables = {name: value for name, value in place.variables.items() if value is not None}
        initializer: Any = self._initializer
        if isinstance(initializer, FunctionType):
            initializer = KeepingFile(initializer)
        loky = import_loky()
        executor: Executor = loky.ProcessPoolExecutor(
            1,
            context=_context_class()(),
            initializer=_bootstrap.initialize,
            initargs=(place, os.getpid(), connection, initializer, self._initargs),
            env={**self._environment, **variables},
        )
        try:
            life = begin(executor)
        except BaseException:  # the interpreter shuts down: loky can register nothing for its exit any more
            self.stop(executor, kill=True)
            raise
        manager = executor._executor_manager_thread  # type: ignore[attr-defined]
        manager.kill_workers = partial(_kill_workers, manager.processes)
        # Else loky registers what it does at exit anew for each executor (up to 3.7 at least), and after the pool.
        loky.process_pool_executor_at_exit = True
        return executor, life

    def stop(self, executor: Executor, kill: bool) -> None:
        """End a worker process, or kill it with all that it has started."""
        executor.shutdown(wait=False, kill_workers=kill)  # type: ignore[call-arg]


def _kill_workers(processes: dict[int, Any], reason: str) -> None:
    """Kill processes with all that they have started; where no descriptors are left to look for that, at least them.

    loky's own (3.7) leaves them alive then.
    """
    from loky.backend.utils import kill_process_tree

    while processes:
        process = processes.popitem()[1]
        try:
            kill_process_tree(process)
        except OSError:
            process.kill()
            process.join()


@functools.cache
def _context_class() -> Any:
    """Return loky's context, with locks that need no semaphores, and our way of starting a process.

    It is passed to loky explicitly: in multiprocessing, joblib's own loky may stand under that name.
    """
    import_loky()
    from loky.backend.context import LokyContext

    class Context(LokyContext):  # type: ignore[misc]
        Lock = OwnLock
        BoundedSemaphore = Unbounded

        if sys.platform != "win32":
            Process = staticmethod(watching(LokyContext.Process, launch))

    return Context


class LokyBackend(Backend):
    """Runs the calls in worker processes, started by loky; the default.

    The workers are shared by all runs of this process and stay for `idle_worker_timeout` seconds.
    """

    name = "loky"
    options = frozenset({"initializer", "initargs", "idle_worker_timeout", *PLACEMENT})
    supports_inner_max_num_threads = True
    replaces_workers = True

    def workers(self, n_jobs: int | None, depth: int = 0) -> int:
        """Return how many workers `n_jobs` means; 1, with a warning, where the system allows no children."""
        return _or_one(super().workers(n_jobs, depth), depth, "Loky-backed")

    def open(self, spec: WorkerSpec) -> list[Slot]:
        """Return slots of one worker process each."""
        options = {**self.given_options, **spec.options}
        idle_seconds = options.get("idle_worker_timeout")
        maker = LokyMaker(
            dict(spec.environment),
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
    warn(f"{what} parallel loops cannot be {reason}, setting n_jobs=1", FallbackWarning)
    return 1
