"""Starts the workers of the backend "loky": by a fork server if there is one, else each as a new interpreter.

::

    open_workers ──> LokyMaker ────┬─ prepare, start ──> the fork server (_forkserver) ──> a forked worker
                         │         └─ start ───────────> a new interpreter (_start.Executed)
                         └ method="spawn", or no CPython ──> ContextMaker (_start), as multiprocessing does it
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Hashable, Mapping
from types import FunctionType
from typing import Any

from shoal._environment import variable
from shoal._hints import hint
from shoal._pickling import KeepingFile, dumps
from shoal._platform.capabilities import HAS_EXECUTED, HAS_FORK_SERVER
from shoal.backends._bootstrap import Assignment, received, serve, set_up_signals
from shoal.backends._loop import Loop
from shoal.backends._messages import Blocking
from shoal.backends._placement import Placement
from shoal.backends._pool import pool
from shoal.backends._process import Child, Process, fill_standard_streams
from shoal.backends._stacks import answer_requests
from shoal.backends._workers import Worker
from shoal.backends.base import Slot, WorkerSpec, process_depth

#: The seconds after which an idle worker ends, as in joblib.
IDLE_SECONDS = 300.0
#: The values of `start_method`.
_METHODS = "loky", "spawn"


def open_workers(spec: WorkerSpec, options: Mapping[str, Any]) -> list[Slot]:
    """Return slots of one worker process each, for the options of the backend "loky"."""
    _check_depth()
    idle_seconds = options.get("idle_worker_timeout")
    idle_seconds = IDLE_SECONDS if idle_seconds is None else float(idle_seconds)
    placement = Placement(spec, options)
    method = _start_method(options.get("start_method"))
    key = "loky", placement.key, idle_seconds, method
    maker: Any
    if method != "spawn" and HAS_EXECUTED and not getattr(sys, "frozen", False):
        maker = LokyMaker(key, placement, idle_seconds, method)
    else:
        from shoal.backends._start import ContextMaker, context

        placement.initializer = _keeping_file(placement.initializer)
        maker = ContextMaker(key, context(method), _serve, placement)
        maker.idle_seconds, maker.follows = idle_seconds, True
    return pool().open(maker, spec.n_workers, spec.own)


class LokyMaker:
    """Starts workers by a fork server if there is one and `method` is None, else by exec."""

    max_batches: int | None = None
    follows = True

    def __init__(self, key: Hashable, placement: Placement, idle_seconds: float, method: str | None) -> None:
        self.key = key
        self.idle_seconds: float | None = idle_seconds
        self._placement = placement
        self._method = method
        self._prepared = False  # whether the start of the server was requested

    def prepare(self, worker: Worker) -> bool:
        """Start the fork server or, without one, the worker's process, unless it is running."""
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
        assignment = self._placement.of(worker.index)
        process.own = assignment.variables
        initial, inherited = self._initial()
        from shoal.backends._inheritance import beginning, changed_environment, modules_named

        if sys.platform == "linux" and self._forks and inherited is None:
            from shoal.backends._forkserver import servers

            server = servers.of(self._placement.variables, loop)
            # An import may read environment variables, so the server imports only if all workers have the same ones.
            modules = () if self._placement.variables is None else modules_named(worker.messages)
            return server.fork(worker, process, assignment, initial, servers.importable(modules))
        from shoal.backends._start import Executed, StartedChild

        process.send(beginning({}, assignment, initial))
        fds = [process.theirs.fileno(), *(inherited or [])]
        return StartedChild(Executed(changed_environment(os.environ, assignment.variables), fds), process, loop)

    def _initial(self) -> tuple[bytes, list[int] | None]:
        """Return a pickle of the initializer and its arguments, and the descriptors that the worker must inherit.

        The descriptors are None if the pickle can be sent to any process, including a forked one.
        """
        initializer, initargs = self._placement.initializer, self._placement.initargs
        if initializer is None:
            return b"", None
        try:
            return dumps((initializer, initargs), _refuse_descriptors, out_of_band=2**63)[0], None
        except RuntimeError:  # by _refuse_descriptors, and by locks and queues of multiprocessing
            from shoal.backends._start import dumps_for_child

            return dumps_for_child((_keeping_file(initializer), initargs))

    @property
    def _forks(self) -> bool:
        """Whether a fork server starts the processes."""
        if sys.platform == "linux" and self._method is None and HAS_FORK_SERVER and sys.executable:
            from shoal.backends._forkserver import servers

            return servers.usable
        return False

    def _begin(self, loop: Loop) -> None:
        if sys.platform == "linux":
            from shoal.backends._forkserver import servers

            with contextlib.suppress(OSError):  # the start of a worker will raise the error again
                servers.check_state()
                servers.of(self._placement.variables, loop)


def _refuse_descriptors(value: Any) -> Any:
    """Refuse sockets and connections, because only a child of this process can inherit their descriptors."""
    connections: Any = sys.modules.get("multiprocessing.connection")
    if isinstance(value, socket.socket) or (connections and isinstance(value, connections.Connection)):
        raise RuntimeError(f"{type(value).__name__} can only be sent to a process that is being started")
    return NotImplemented


def _keeping_file(initializer: Any) -> Any:
    """Return an initializer such that other picklers keep the name of its source file."""
    return KeepingFile(initializer) if isinstance(initializer, FunctionType) else initializer


def _serve(parent: int, end: socket.socket, assignment: Assignment, initial: Any) -> None:
    """Run a worker process that a context has started."""
    import faulthandler

    if sys.stderr is None:  # under pythonw
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 open until the process ends
    elif "PYTHONFAULTHANDLER" not in os.environ:
        faulthandler.enable()
    set_up_signals(parent)
    answer_requests()
    connection = Blocking(end)
    serve(assignment, received(initial, connection), connection)


def _check_depth() -> None:
    """Refuse worker processes that are nested too deep, because an endless recursion would fill the machine."""
    limit = int(variable("LOKY_MAX_DEPTH") or 10)
    if 0 < limit <= process_depth():
        raise RuntimeError(
            f"worker processes are nested {limit} levels deep, which is the limit. If your program needs more, set the "
            "environment variable LOKY_MAX_DEPTH to a larger number"
        )


def _start_method(given: Any) -> str | None:
    """Return the start method: "loky", "spawn", or None for a fork server if the system has one."""
    name, value = "start_method", given
    if given is None:
        name, value = "SHOAL_START_METHOD", variable("SHOAL_START_METHOD")
    if value not in (None, "", *_METHODS):
        near = hint(value, _METHODS)
        raise ValueError(f"{name} must be one of {_METHODS}, or None for the fastest method, got: {value!r}{near}")
    return value or None
