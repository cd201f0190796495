"""The backends of worker processes, and the one named loky: its workers are kept warm between runs."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Hashable
from types import FunctionType
from typing import Any, ClassVar

from shoal._pickling import KeepingFile, dumps
from shoal._tracebacks import warn
from shoal.backends._bootstrap import Place, heed, serve
from shoal.backends._loop import Loop
from shoal.backends._messages import Blocking
from shoal.backends._placement import Placement
from shoal.backends._pool import pool
from shoal.backends._process import Child, Process, fill_standard_streams
from shoal.backends._workers import Worker
from shoal.backends.base import PLACEMENT, Backend, Slot, WorkerSpec, in_main_thread, process_depth
from shoal.errors import FallbackWarning

#: The seconds after which an idle worker goes, as in joblib.
IDLE_SECONDS = 300.0
#: Ways of starting workers that may be asked for.
_METHODS = "loky", "spawn"


class LokyMaker:
    """Starts workers by a fork server; where there is none, or where it is asked to, by exec.

    Parameters
    ----------
    placement
        What each worker is given.
    idle_seconds
        The seconds after which an idle worker goes.
    method
        "loky" for exec; None for a fork server where there can be one.
    """

    max_batches: int | None = None
    follows = True

    def __init__(self, key: Hashable, placement: Placement, idle_seconds: float, method: str | None) -> None:
        self.key = key
        self.idle_seconds: float | None = idle_seconds
        self._placement = placement
        self._method = method
        self._prepared = False  # whether the server was asked to start

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
        process.own = place.variables
        initial, inherited = self._initial()
        from shoal.backends._forkserver import servers
        from shoal.backends._inheritance import beginning, changed_environment, modules_named

        if self._forks and inherited is None:
            server = servers.of(self._placement.variables, loop)
            # A server may import modules for its workers if they all have the variables that an import may read.
            modules = () if self._placement.variables is None else modules_named(worker.messages)
            return server.fork(worker, process, place, initial, servers.wanted(modules))
        from shoal.backends._start import Executed, StartedChild

        process.prepare(beginning({}, place, initial))
        fds = [process.theirs.fileno(), *(inherited or [])]
        return StartedChild(Executed(changed_environment(os.environ, place.variables), fds), process, loop)

    def _initial(self) -> tuple[bytes, list[int] | None]:
        """Return a pickle of the initializer with its arguments, and the descriptors that it needs.

        These are None unless the pickle can only be sent to a process that is being started.
        """
        initializer, initargs = self._placement.initializer, self._placement.initargs
        if initializer is None:
            return b"", None
        try:
            return dumps((initializer, initargs), _refused, out_of_band=2**63)[0], None
        except RuntimeError:  # as locks and queues of multiprocessing raise, too
            from shoal.backends._start import dumps_for_child

            return dumps_for_child((_keeping_file(initializer), initargs))

    @property
    def _forks(self) -> bool:
        """Whether a fork server starts the processes."""
        if self._method is None and sys.platform == "linux" and sys.executable:
            from shoal.backends._forkserver import servers

            return servers.usable
        return False

    def _begin(self, loop: Loop) -> None:
        from shoal.backends._forkserver import servers

        with contextlib.suppress(OSError):  # what keeps a server from starting is said where a worker is wanted
            servers.look()
            servers.of(self._placement.variables, loop)


def _refused(value: Any) -> Any:
    """Refuse what has a descriptor: only a process that is being started can have a copy of that.

    A connection of ``multiprocessing`` would be pickled with the number of its descriptor.
    """
    connections: Any = sys.modules.get("multiprocessing.connection")
    if isinstance(value, socket.socket) or (connections and isinstance(value, connections.Connection)):
        raise RuntimeError(f"{type(value).__name__} is only sent to a process that is being started")
    return NotImplemented


def _keeping_file(initializer: Any) -> Any:
    """Return what other picklers than ours are to send of an initializer."""
    return KeepingFile(initializer) if isinstance(initializer, FunctionType) else initializer


def _serve(parent: int, end: socket.socket, place: Place, *initial: Any) -> None:
    """Run a worker process that a context has started; it tells of crashes in compiled code."""
    import faulthandler

    if sys.stderr is None:  # as under pythonw
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 for as long as this process lives
    elif "PYTHONFAULTHANDLER" not in os.environ:
        faulthandler.enable()
    heed(parent)
    serve(place, lambda: initial, Blocking(end))


class ProcessBackend(Backend):
    """A backend of worker processes: its slots are workers of the pool."""

    replaces_workers = True
    #: How warnings name its runs.
    runs: ClassVar[str]
    #: Whether a worker of worker processes may have worker processes of its own.
    nests: ClassVar[bool] = True
    #: Whether its workers end with their run, instead of being kept for the next.
    ends_workers: ClassVar[bool] = False

    def workers(self, n_jobs: int | None, depth: int = 0) -> int:
        """Return how many workers `n_jobs` means; 1, with a warning, where this process can have none of its own."""
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
        warn(f"{self.runs} parallel loops cannot be {reason}, setting n_jobs=1", FallbackWarning)
        return 1

    def close(self, slots: list[Slot]) -> None:
        """Give the workers back: the next run finds them warm, unless they end with this one."""
        pool().close(slots, end=self.ends_workers)

    def abort(self, slot: Slot) -> Slot:
        """Kill the worker if this run's batches are on it; the slot that is returned starts a new one when used."""
        return pool().abort(slot)

    def retire(self, slot: Slot, pid: int) -> bool:
        """Replace the worker process `pid` once what was submitted to it has run."""
        return pool().retire(slot, pid)


class LokyBackend(ProcessBackend):
    """Runs the calls in worker processes that need no ``__main__`` guard; the default.

    The workers are shared by all runs of this process and stay for `idle_worker_timeout` seconds.
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
            If this process is a worker of workers, as many deep as ``LOKY_MAX_DEPTH`` allows, or 10.
        """
        _check_depth()
        options = {**self.given_options, **spec.options}
        idle_seconds = options.get("idle_worker_timeout")
        idle_seconds = IDLE_SECONDS if idle_seconds is None else float(idle_seconds)
        placement = Placement(spec, options)
        method = _start_method(options.get("start_method"))
        key = "loky", placement.key, idle_seconds, method
        maker: Any
        if method != "spawn" and os.name == "posix" and not getattr(sys, "frozen", False):
            maker = LokyMaker(key, placement, idle_seconds, method)
        else:
            from shoal.backends._start import ContextMaker, context

            placement.initializer = _keeping_file(placement.initializer)
            maker = ContextMaker(key, context(method), _serve, placement)
            maker.idle_seconds, maker.follows = idle_seconds, True
        return pool().open(maker, spec.n_workers, spec.own)


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
    name, value = "start_method", given
    if given is None:
        name, value = "SHOAL_START_METHOD", os.environ.get("SHOAL_START_METHOD")
    if value not in (None, "", *_METHODS):
        raise ValueError(f"{name} must be one of {_METHODS}, or None for the fastest that there is, got: {value!r}")
    return value or None
