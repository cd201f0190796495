"""The base class of backends with worker processes, and the backend "loky", which keeps workers between runs.

A Parallel that runs nothing on workers needs no more than these classes. What starts workers is in ``_loky.py``.
"""

from __future__ import annotations

import sys

from shoal._typing import TYPE_CHECKING
from shoal.backends.base import PLACEMENT, Backend, in_main_thread

if TYPE_CHECKING:
    from typing import ClassVar

    from shoal.backends.base import Slot, WorkerSpec


class ProcessBackend(Backend):
    """A backend whose slots are workers of the pool."""

    replaces_workers = True
    #: The name of its runs in warnings.
    runs: ClassVar[str]
    #: Whether a worker process may start worker processes.
    nests: ClassVar[bool] = True
    #: Whether workers end with their run.
    ends_workers: ClassVar[bool] = False

    def workers(self, n_jobs: int | None, depth: int = 0) -> int:
        """Return the number of workers for `n_jobs`; 1, with a warning, if this process cannot start workers."""
        n_workers = super().workers(n_jobs, depth)
        process = sys.modules.get("multiprocessing.process")
        if n_workers == 1:
            return 1
        if process is not None and process.current_process().daemon:
            reason = "called in a multiprocessing daemon process"
        elif depth and not in_main_thread():
            reason = "nested below threads"
        elif depth and not self.nests:
            reason = "nested below worker processes"
        else:
            return n_workers
        from shoal._tracebacks import warn
        from shoal.errors import FallbackWarning

        warn(f"{self.runs} parallel loops cannot be {reason}, setting n_jobs=1", FallbackWarning)
        return 1

    def close(self, slots: list[Slot]) -> None:
        """Return the workers to the pool, which keeps them for the next run, or ends them if `ends_workers` is set."""
        from shoal.backends._pool import pool

        pool().close(slots, end=self.ends_workers)

    def abort(self, slot: Slot) -> Slot:
        """Kill the worker if it runs a batch of this run; return a slot that starts a new one when used."""
        from shoal.backends._pool import pool

        return pool().abort(slot)

    def retire(self, slot: Slot, pid: int) -> bool:
        """Replace the worker process `pid` once all batches submitted to it have run."""
        from shoal.backends._pool import pool

        return pool().retire(slot, pid)


class LokyBackend(ProcessBackend):
    """Runs the calls in worker processes. The program needs no ``__main__`` guard. This is the default.

    All runs of this process share the workers. Idle workers end after `idle_worker_timeout` seconds.
    """

    name = "loky"
    options = frozenset({"initializer", "initargs", "idle_worker_timeout", "start_method", *PLACEMENT})
    supports_inner_max_num_threads = True
    runs = "Loky-backed"

    def open(self, spec: WorkerSpec) -> list[Slot]:
        """Return slots of one worker process each.

        Raises
        ------
        RuntimeError
            If worker processes are nested as deep as the environment variable ``LOKY_MAX_DEPTH`` allows; default 10.
        """
        from shoal.backends._loky import open_workers

        return open_workers(spec, {**self.given_options, **spec.options})
