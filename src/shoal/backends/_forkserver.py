"""The caller's side of fork servers (see _forked): starts, uses, replaces and ends them, in the pool's thread.

::

    Servers ── one for each state of the environment ──> ForkServer ── control ──> the process
                                                             │
                                                             └── ForkedChild ── one for each worker

A server is unfit if an import starts a thread, prints, fails, hangs or ends the process. It forks no more workers, and
ends after its last worker. A new server replaces it and does not import that module: the workers do.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import math
import os
import pickle
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from typing import TYPE_CHECKING, Any

from shoal._cpus import THREAD_VARIABLES
from shoal._forks import BACKENDS, after_fork_in_child
from shoal.backends._inheritance import beginning, changed_environment, command, inherited_state, search_path
from shoal.backends._messages import CONTROL_BYTES
from shoal.backends._process import Process, kill_tree
from shoal.backends._tracker import TrackerRelay
from shoal.errors import cannot_start

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shoal.backends._bootstrap import Assignment
    from shoal.backends._loop import Loop
    from shoal.backends._workers import Worker

assert sys.platform == "linux"

logger = logging.getLogger("shoal.workers")

#: The timeout for the start of a server.
START_SECONDS = 30.0
#: The timeout for one import in a server. After it, workers import the module themselves.
IMPORT_SECONDS = 30.0
#: The timeout for the answer to a request. A server that does not answer may have been stopped by a signal.
STUCK_SECONDS = 10.0
#: A server without workers ends after this time.
LINGER_SECONDS = 2.0
#: After this many servers in a row that have ended without a worker, workers are started by exec.
TRIES = 3
#: The descriptors of a server: its control connection, and the pipe to the caller's resource tracker. In processes that
#: multiprocessing starts, 3 is the replacement of stdin.
_FDS = (4, 5)
#: The modules that each server imports. The others depend on the calls.
MODULES: tuple[str, ...] = ("shoal.parallel.transport._worker",)
#: The inherited state is checked once for each run, and within a run again after this time, because the check takes
#: longer than to request a worker.
STATE_SECONDS = 0.1
#: With these variables, no BLAS or OpenMP starts a thread when it is loaded.
ONE_THREAD = dict.fromkeys(THREAD_VARIABLES, "1")
#: pytest changes this variable for each test. Servers do without it, or each test would need another one.
_OF_A_TEST = "PYTEST_CURRENT_TEST"


class ForkedChild:
    """A worker process, requested from a server."""

    pid: int | None = None  # None until the server has forked it
    _killed = False

    def __init__(self, worker: Worker, process: Process) -> None:
        self.worker, self.process = worker, process

    def kill(self) -> None:
        """Kill the worker and its descendants, now or as soon as it is forked."""
        self._killed = True
        if self.pid is not None:
            kill_tree(self.pid)

    def forked(self, pid: int) -> None:
        """Store the process id."""
        self.pid = pid
        if self._killed:
            self.kill()


class ForkServer:
    """One fork server. It inherits the state `key` and imports `modules` first.

    `tracker` is the descriptor of the pipe to the caller's resource tracker.
    """

    def __init__(
        self, key: Hashable, loop: Loop, environment: Mapping[str, str], modules: tuple[str, ...], tracker: int
    ) -> None:
        self.key, self.environment = key, environment
        self._pending: deque[ForkedChild] = deque()  # requested, in the order in which the server forks them
        self._children: dict[int, ForkedChild] = {}  # by process id
        self.fit = True  # whether it can fork more workers
        self._proven = False  # whether it has forked a worker
        self._loop = loop
        self._importing: str | None = ""  # the module; "" while the server starts; None: nothing
        self._since = time.monotonic()  # the time of its last message, or of the first request after that
        self._check_at = math.inf  # the time of the next check for a timeout
        self._unsent: deque[tuple[bytes, socket.socket]] = deque()  # requests that the connection did not take yet
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        cpus = tuple(os.sched_getaffinity(os.getpid()))  # of the main thread; this thread may have others
        with theirs:
            try:
                # Only the first argument is sent, because the length of a message is limited.
                self._control.send(pickle.dumps((os.getpid(), search_path(), sys.argv[:1], cpus, MODULES, modules)))
                self.pid = _spawn(theirs.fileno(), tracker, environment)
            except BaseException:
                self._control.close()
                raise
        self._control.setblocking(False)
        loop.watch(self._control.fileno(), self._ready)
        loop.later(START_SECONDS, self._end_if_unused)  # in case no worker is requested
        self._schedule_check()

    def fork(
        self, worker: Worker, process: Process, assignment: Assignment, initial: bytes, modules: tuple[str, ...]
    ) -> ForkedChild:
        """Request the process of a worker. The server imports `modules` before it forks the process.

        `initial` is a pickle of the user's initializer and its arguments; empty if there is none.
        """
        if self._timeout is None:
            self._since = time.monotonic()
        child = ForkedChild(worker, process)
        wanted: dict[str, str | None] = {name: os.environ.get(name) for name in (*ONE_THREAD, _OF_A_TEST)}
        wanted.update(process.own)
        variables = {name: value for name, value in wanted.items() if self.environment.get(name) != value}
        process.send(beginning(variables, assignment, initial))
        request = pickle.dumps(modules), socket.socket(fileno=process.theirs.detach())
        self._pending.append(child)
        self._unsent.append(request)
        self._flush()
        self._schedule_check()
        return child

    def end(self) -> None:
        """End the server, which has no workers. It also ends when the caller does."""
        self.fit = False
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_WR)
        self._loop.later(1.0, self._kill)  # a stopped process would not end

    def abandon(self) -> None:
        """Close this process's copies of the descriptors, in a forked child."""
        for end in (self._control, *(end for _, end in self._unsent)):
            end.close()

    def _flush(self) -> None:
        """Send requests until the connection is full."""
        full = False
        try:
            while self._unsent:
                message, end = self._unsent[0]
                socket.send_fds(self._control, [message], [end.fileno()])
                end.close()
                self._unsent.popleft()
        except BlockingIOError:
            full = True
        except OSError:  # too many descriptors are in flight; or the server has died, which reading will report
            self._loop.later(0.01, self._flush)
        if self._control.fileno() >= 0:
            self._loop.watch(self._control.fileno(), self._ready, writable=full)

    def _ready(self) -> None:
        """Read a message from the server, and send requests that are left."""
        if self._unsent:
            self._flush()
        try:
            message = self._control.recv(CONTROL_BYTES)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        if not message:
            self._died()
            return
        self._since = time.monotonic()
        kind, *arguments = pickle.loads(message)
        handlers: dict[str, Callable[..., None]] = {
            "importing": self._imports,
            "tainted": self._tainted,
            "refused": self._refused,
            "forked": self._forked,
            "ended": self._ended,
        }
        handlers[kind](*arguments)

    def _imports(self, module: str | None) -> None:
        self._importing = module
        self._schedule_check()

    @property
    def _timeout(self) -> float | None:
        """The seconds within which the server must send its next message; None if it is idle."""
        if self._importing is not None:
            return IMPORT_SECONDS if self._importing else START_SECONDS
        return STUCK_SECONDS if self._pending else None

    def _schedule_check(self) -> None:
        """Schedule a check for a timeout, unless one is scheduled early enough."""
        if self._timeout is not None and self._since + self._timeout < self._check_at:
            self._check_at = self._since + self._timeout
            self._loop.later(max(self._check_at - time.monotonic(), 0), self._check)

    def _check(self) -> None:
        """Replace the server if it has timed out."""
        self._check_at = math.inf
        if self._timeout is None or self._control.fileno() < 0:
            return
        if time.monotonic() < self._since + self._timeout:
            self._schedule_check()
            return
        if self._importing is not None:
            self._tainted(self._importing, "it takes too long")
            self._importing = None
        else:
            message = "the fork server %d has not answered for %g s, in state %s: another takes its place"
            logger.debug(message, self.pid, STUCK_SECONDS, _state_of(self.pid))
        self.fit = False
        self._restart_pending()

    def _tainted(self, module: str, why: str) -> None:
        if module:
            logger.debug("the fork server does not import %s: %s", module, why)
            servers.avoid(module)
        else:
            logger.debug("the fork server cannot be used: %s", why)
            servers.failures += 1
        self.fit = False

    def _ended(self, pid: int, code: int) -> None:
        child = self._children.pop(pid, None)
        if child is not None:
            child.process.exited(code)
            self._end_later_if_unused()

    def _refused(self, reason: int | None) -> None:
        self._importing = None
        if self._pending:  # else it was restarted after a timeout
            child = self._pending.popleft()
            error = None if reason is None else cannot_start(OSError(reason, os.strerror(reason)))
            child.worker.restart(child.process, error)
            self._end_later_if_unused()

    def _restart_pending(self) -> None:
        """Request the workers that this server has not forked yet from another server."""
        while self._unsent:
            self._unsent.popleft()[1].close()
        while self._pending:
            child = self._pending.popleft()
            child.worker.restart(child.process)
        self._end_later_if_unused()

    def _died(self) -> None:
        """Handle the end of the server, which also ends its workers."""
        self.fit = False
        if self._importing:
            servers.avoid(self._importing)
        elif not self._proven and self._pending:
            servers.failures += 1
        self._loop.unwatch(self._control.fileno())
        self._control.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)
        servers.living.discard(self)
        self._restart_pending()
        for child in self._children.values():
            child.kill()
            child.process.die()
        self._children.clear()

    def _kill(self) -> None:
        if self._control.fileno() >= 0:
            os.kill(self.pid, signal.SIGKILL)

    def _forked(self, pid: int) -> None:
        self._proven, self._importing = True, None
        servers.failures = 0
        if self._pending:  # else it was restarted after a timeout
            child = self._children[pid] = self._pending.popleft()
            child.forked(pid)

    def _end_later_if_unused(self) -> None:
        """End the server later if it has no workers by then."""
        if not (self._children or self._pending):
            self._loop.later(LINGER_SECONDS if self.fit else 0.0, self._end_if_unused)

    def _end_if_unused(self) -> None:
        if not (self._children or self._pending) and self._control.fileno() >= 0:
            self.end()


class Servers:
    """The fork servers of this process, used in the pool's thread."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all servers and failures."""
        self.living: set[ForkServer] = set()
        self._latest: tuple[Any, ForkServer] | None = None  # the last state that was requested, and its server
        self._relay: TrackerRelay | None = None
        self.avoided: set[str] = set()  # packages that no server imports
        self.failures = 0  # servers in a row that have ended without a worker

    @property
    def usable(self) -> bool:
        """Whether servers have not failed too often."""
        return self.failures < TRIES

    def avoid(self, module: str) -> None:
        """Exclude the package of a module from imports in servers: its other modules would likely fail as well."""
        self.avoided.add(module.partition(".")[0])

    def importable(self, modules: Iterable[str]) -> tuple[str, ...]:
        """Return the modules that a server may import."""
        return tuple(module for module in modules if module.partition(".")[0] not in self.avoided)

    def of(self, variables: Mapping[str, str | None] | None, loop: Loop) -> ForkServer:
        """Return the server for workers with these variables; None if they differ. Start it if needed."""
        state = variables, os.environ._data.copy()  # type: ignore[attr-defined] # copy() decodes every variable
        if self._latest is not None and self._latest[0] == state and self._latest[1].fit:
            return self._latest[1]
        environment = changed_environment({**os.environ, **ONE_THREAD}, variables or {})
        environment.pop(_OF_A_TEST, None)
        key = variables is None, *inherited_state(environment)
        server = next((server for server in self.living if server.fit and server.key == key), None)
        if server is None:
            modules = self.importable(["numpy"]) if variables is not None and "numpy" in sys.modules else ()
            if self._relay is None:
                self._relay = TrackerRelay(loop)
            server = ForkServer(key, loop, environment, modules, self._relay.writer)
            self.living.add(server)
        self._latest = state, server
        loop.later(STATE_SECONDS, self.check_state)
        return server

    def check_state(self) -> None:
        """Check the state of this process again at the next request."""
        self._latest = None

    def abandon(self) -> None:
        """Forget all servers, in a forked child: they belong to the parent."""
        for server in self.living:
            server.abandon()
        if self._relay is not None:
            self._relay.abandon()
        self.reset()


servers = Servers()
after_fork_in_child(servers.abandon, BACKENDS)


def _state_of(pid: int) -> str:
    """Return what the system says of a process: its state, and the kernel's function in which it waits."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat") as status, open(f"/proc/{pid}/wchan") as call:
        return f"{status.read().rpartition(')')[2].split()[0]}, in {call.read()}"
    return "unknown"


def _spawn(control: int, tracker: int, environment: Mapping[str, str]) -> int:
    """Start a server process with two descriptors; return its id."""
    # dup2 works on copies: a descriptor duplicated onto itself is not inherited, and neither may overwrite the other.
    copies = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, max(_FDS) + 1) for fd in (control, tracker)]
    try:
        actions = [(os.POSIX_SPAWN_DUP2, fd, target) for fd, target in zip(copies, _FDS, strict=True)]
        return os.posix_spawn(sys.executable, command("_forked.main", *_FDS), environment, file_actions=actions)
    finally:
        for fd in copies:
            os.close(fd)
