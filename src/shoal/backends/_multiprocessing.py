"""The multiprocessing backend: worker processes by a start method of the standard library, fork by default."""

from __future__ import annotations

import ctypes  # noqa: F401 a worker's first steps take it; see Backend.forks
import itertools
import multiprocessing
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Hashable
from typing import Any

from shoal.backends._blas import find_blas, heed_thread_variables
from shoal.backends._bootstrap import Place, heed, serve, set_variables
from shoal.backends._loop import Loop
from shoal.backends._messages import Blocking
from shoal.backends._placement import Placement
from shoal.backends._pool import pool
from shoal.backends._process import Child, Process
from shoal.backends._processes import _or_one
from shoal.backends._start import Handed, lent, start, watching
from shoal.backends._workers import Worker
from shoal.backends.base import PLACEMENT, Backend, Slot, WorkerSpec
from shoal.errors import cannot_start

_numbers = itertools.count()


class ProcessMaker:
    """Starts workers by a context of multiprocessing."""

    idle_seconds: float | None = None
    follows = False  # each run has its own

    def __init__(
        self,
        context: Any,
        environment: dict[str, str],
        placement: Placement,
        initializer: Callable[..., object] | None,
        initargs: tuple[Any, ...],
        max_batches: int | None,
    ) -> None:
        self._context = context
        self._environment = environment
        self._placement = placement
        self._initializer = initializer
        self._initargs = initargs
        self.max_batches = max_batches
        # Workers are not shared: a forked one knows the program as it was when its run began.
        self.key: Hashable = ("multiprocessing", next(_numbers))

    def prepare(self, worker: Worker) -> bool:
        """Start the worker's process, unless it is there."""
        return worker.warm()

    def start(self, worker: Worker, process: Process, loop: Loop) -> Child:
        """Start a worker process."""
        place = self._placement.of(worker.index)
        # A worker that is spawned imports the program's main module before it is sent anything.
        variables = place.variables if self._context.get_start_method() == "spawn" else {}
        with warnings.catch_warnings(), lent(variables):
            # Python 3.12 warns of every fork of a process that has threads, which each that has workers is.
            warnings.filterwarnings("ignore", message=".*fork", category=DeprecationWarning)
            try:
                return start(
                    watching(self._context.Process),
                    _serve,
                    place,
                    process,
                    loop,
                    self._initializer,
                    self._initargs,
                    self._environment,
                )
            except OSError as error:
                _close_pipes(error)
                raise


def _close_pipes(error: OSError) -> None:
    """Close the pipes to a process that could not be forked, which the standard library (up to 3.13) leaves open."""
    popen_fork: Any = sys.modules.get("multiprocessing.popen_fork")
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if popen_fork is not None and frame.f_code is popen_fork.Popen._launch.__code__:
            for name in ("parent_r", "child_w", "child_r", "parent_w"):
                if name in frame.f_locals:
                    os.close(frame.f_locals[name])


def _serve(place: Place, parent: int, end: Handed, initializer: Any, initargs: Any, environment: Any) -> None:
    """Be a worker process that may start no processes, as a Pool's: multiprocessing would wait for them at its end."""
    multiprocessing.current_process().daemon = True
    set_variables({**environment, **place.variables})
    heed_thread_variables()
    heed(parent)
    serve(place, lambda: (initializer, initargs), Blocking(end.socket))


class MultiprocessingBackend(Backend):
    """Runs the calls in worker processes of the standard library's, started for each run and ended with it.

    Notes
    -----
    On a free-threaded interpreter a fork may copy a lock that another thread holds inside the interpreter, and the
    worker then waits for ever (CPython 3.13). A program that has threads uses a context of "spawn" there, or loky.
    """

    name = "multiprocessing"
    options = frozenset({"initializer", "initargs", "maxtasksperchild", "context", *PLACEMENT})
    supports_return_generator = False
    replaces_workers = True
    forks = True

    def workers(self, n_jobs: int | None, depth: int = 0) -> int:
        """Return how many workers `n_jobs` means; 1, with a warning, where no children are allowed."""
        return _or_one(super().workers(n_jobs, depth), depth, "Multiprocessing-backed", nests=False)

    def open(self, spec: WorkerSpec) -> list[Slot]:
        """Return slots of one worker process each."""
        options = {**self.given_options, **spec.options}
        context = options.get("context") or multiprocessing.get_context(os.environ.get("JOBLIB_START_METHOD") or None)
        maker = ProcessMaker(
            context.get_context(),
            dict(spec.environment),
            Placement(spec, options),
            options.get("initializer"),
            tuple(options.get("initargs") or ()),
            options.get("maxtasksperchild"),
        )
        try:
            find_blas()
        except OSError as error:  # it reads what is mapped, for which no descriptor may be left
            if not pool().make_room():
                raise cannot_start(error) from error
            find_blas()
        return pool().open(maker, spec.n_workers)

    def close(self, slots: list[Slot]) -> None:
        """End the workers."""
        pool().close(slots, end=True)

    def abort(self, slot: Slot) -> Slot:
        """Kill the worker if this run's batches are on it; the slot that is returned starts a new one when used."""
        return pool().abort(slot)

    def retire(self, slot: Slot, pid: int) -> bool:
        """Replace the worker process `pid` once what was submitted to it has run."""
        return pool().retire(slot, pid)
