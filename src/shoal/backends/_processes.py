"""The loky backend: worker processes that need no ``__main__`` guard, kept warm between runs."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Hashable
from functools import partial
from types import FunctionType
from typing import Any

from shoal._pickling import KeepingFile, dumps
from shoal._tracebacks import warn
from shoal.backends._bootstrap import Place, heed, serve
from shoal.backends._loop import Loop
from shoal.backends._messages import Blocking
from shoal.backends._placement import Placement, identity
from shoal.backends._pool import pool
from shoal.backends._process import Child, Process
from shoal.backends._start import Handed, launch, lent, start, watching
from shoal.backends._workers import Worker, fill_standard_streams
from shoal.backends.base import PLACEMENT, Backend, Slot, WorkerSpec, in_main_thread, process_depth
from shoal.errors import FallbackWarning, import_loky

#: The seconds after which an idle worker goes, as in joblib.
IDLE_SECONDS = 300.0
#: Ways of starting workers that may be asked for, and where.
_METHODS, _VARIABLE = ("loky", "spawn"), "SHOAL_START_METHOD"


class LokyMaker:
    """Starts workers by a fork server, or by loky."""

    max_batches: int | None = None
    follows = True

    def __init__(
        self,
        environment: dict[str, str],
        placement: Placement,
        initializer: Callable[..., object] | None,
        initargs: tuple[Any, ...],
        idle_seconds: float | None,
        method: str | None,
    ) -> None:
        self._environment = environment
        self._method = method
        self._prepared = False  # whether the server was asked to start
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
            method,
        )

    def prepare(self, worker: Worker) -> bool:
        """Start the fork server, or, without one, the worker's process, unless it is there."""
        if worker.process is not None:
            return False
        if not self._forks:
            return worker.warm()
        if self._prepared:
            return False
        self._prepared = True
        fill_standard_streams()
        worker.loop.ask(lambda: self._begin(worker.loop))
        return True

    def start(self, worker: Worker, process: Process, loop: Loop) -> Child:
        """Start a worker process."""
        place = self._placement.of(worker.index)
        process.own = {**self._environment, **place.variables}
        if self._forks and (initial := self._initial()) is not None:
            from shoal.backends._forkserver import modules_named, servers

            server = servers.of(self._placement.variables, loop)
            # A server may import modules for its workers if they all have the variables that an import may read.
            modules = () if self._placement.variables is None else modules_named(worker.messages)
            return server.fork(worker, process, place, initial, servers.wanted(modules))
        initializer: Any = self._initializer
        if isinstance(initializer, FunctionType):
            initializer = KeepingFile(initializer)
        if self._method == "spawn":
            import multiprocessing

            make: Any = watching(multiprocessing.get_context("spawn").Process)
        else:
            given = {name: value for name, value in process.own.items() if value is not None}
            make = partial(_context_class()().Process, env=given)
        with lent(process.own if self._method == "spawn" else {}):
            return start(make, _serve, place, process, loop, initializer, self._initargs)

    @property
    def _forks(self) -> bool:
        """Whether a fork server starts the processes."""
        if self._method is None and sys.platform == "linux" and sys.executable and not getattr(sys, "frozen", False):
            from shoal.backends._forkserver import servers

            return servers.usable
        return False

    def _begin(self, loop: Loop) -> None:
        from shoal.backends._forkserver import servers

        with contextlib.suppress(OSError):  # what keeps a server from starting is said where a worker is wanted
            servers.look()
            servers.of(self._placement.variables, loop)

    def _initial(self) -> bytes | None:
        """Return a pickle of the initializer; None where it can only be sent to a process that is being started."""
        if self._initializer is None:
            return b""
        try:
            return dumps((self._initializer, self._initargs), out_of_band=2**63)[0]
        except RuntimeError:  # locks and queues of multiprocessing
            return None


def _serve(place: Place, parent: int, end: Handed, *initial: Any) -> None:
    """Be a worker process of loky's: one that tells of crashes in compiled code."""
    import faulthandler

    if sys.stderr is None:  # as under pythonw
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 for as long as this process lives
    elif "PYTHONFAULTHANDLER" not in os.environ:
        faulthandler.enable()
    heed(parent)
    serve(place, lambda: initial, Blocking(end.socket))


@functools.cache
def _context_class() -> Any:
    """Return loky's context, with our way of starting a process.

    In multiprocessing, joblib's own loky may stand under its name.
    """
    import_loky()
    from loky.backend.context import LokyContext

    class Context(LokyContext):  # type: ignore[misc]
        if sys.platform != "win32":
            Process = staticmethod(watching(LokyContext.Process, launch))

    return Context


class LokyBackend(Backend):
    """Runs the calls in worker processes, started by loky; the default.

    The workers are shared by all runs of this process and stay for `idle_worker_timeout` seconds.
    """

    name = "loky"
    options = frozenset({"initializer", "initargs", "idle_worker_timeout", "start_method", *PLACEMENT})
    supports_inner_max_num_threads = True
    replaces_workers = True

    def workers(self, n_jobs: int | None, depth: int = 0) -> int:
        """Return how many workers `n_jobs` means; 1, with a warning, where the system allows no children."""
        return _or_one(super().workers(n_jobs, depth), depth, "Loky-backed")

    def open(self, spec: WorkerSpec) -> list[Slot]:
        """Return slots of one worker process each.

        Raises
        ------
        RuntimeError
            If this process is a worker of workers, as many deep as ``LOKY_MAX_DEPTH`` allows, or 10.
        """
        _check_depth()
        options = {**self.given_options, **spec.options}
        idle_seconds = options.get("idle_worker_timeout")
        maker = LokyMaker(
            dict(spec.environment),
            Placement(spec, options),
            options.get("initializer"),
            tuple(options.get("initargs") or ()),
            IDLE_SECONDS if idle_seconds is None else float(idle_seconds),
            _start_method(options.get("start_method")),
        )
        return pool().open(maker, spec.n_workers, spec.own)

    def close(self, slots: list[Slot]) -> None:
        """Give the workers back; they stay warm."""
        pool().close(slots)

    def abort(self, slot: Slot) -> Slot:
        """Kill the worker if this run's batches are on it; the slot that is returned starts a new one when used."""
        return pool().abort(slot)

    def retire(self, slot: Slot, pid: int) -> bool:
        """Replace the worker process `pid` once what was submitted to it has run."""
        return pool().retire(slot, pid)


def _check_depth() -> None:
    """Refuse workers of workers that are nested too deep: a mistake would fill the machine."""
    most = int(os.environ.get("LOKY_MAX_DEPTH") or 10)
    if 0 < most <= process_depth():
        raise RuntimeError(
            f"worker processes are nested {most} deep, and no deeper ones are started. If that is meant, set the "
            "environment variable LOKY_MAX_DEPTH to a larger number"
        )


def _start_method(given: Any) -> str | None:
    """Return how workers are started: "loky", "spawn", or None for a fork server where there can be one."""
    name, value = ("start_method", given) if given is not None else ("SHOAL_START_METHOD", os.environ.get(_VARIABLE))
    if value not in (None, "", *_METHODS):
        raise ValueError(f"{name} must be one of {_METHODS}, or None for the fastest that there is, got: {value!r}")
    return value or None


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
