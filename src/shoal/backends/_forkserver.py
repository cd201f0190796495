"""The caller's side of fork servers (see _forked): they are started, asked for workers, replaced and ended.

All of it happens in the pool's thread.

::

    Servers ── one for each state of the environment ──> ForkServer ── control ──> the process
                                                             │
                                                             └── ForkedChild ── one for each worker

A server whose imports start a thread, print, fail, hang or end it is unfit: it forks no more, and goes with its last
worker. Another takes its place, which does not import the module in question; workers import it by themselves.
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

    from shoal.backends._bootstrap import Place
    from shoal.backends._loop import Loop
    from shoal.backends._workers import Worker

logger = logging.getLogger("shoal.workers")

#: A server that has not started in so many seconds is given up.
START_SECONDS = 30.0
#: A module that takes longer to import, in seconds, is left to the workers.
IMPORT_SECONDS = 30.0
#: A server that has said nothing for so many seconds, while a worker is wanted, is given up: it may have been stopped.
STUCK_SECONDS = 10.0
#: A server without workers goes after so many seconds.
LINGER_SECONDS = 2.0
#: After so many servers that have ended without a worker, workers are started in another way.
TRIES = 3
#: The descriptors that a server is given: its control connection, and the way to the caller's resource tracker. What
#: multiprocessing puts in the place of stdin has 3 in a process that it starts.
_GIVEN = (4, 5)
#: What a server imports at least. The rest is what calls need.
MODULES: tuple[str, ...] = ("shoal.parallel.transport._worker",)
#: The state that a server inherits is looked at for each run, and within a run after so many seconds: that takes longer
#: than to ask for a worker.
LOOK_SECONDS = 0.1
#: Variables with which no BLAS or OpenMP starts a thread when it is loaded.
ONE_THREAD = dict.fromkeys(THREAD_VARIABLES, "1")


class ForkedChild:
    """A worker process that a server was asked for."""

    pid: int | None = None  # once it is forked
    _killed = False

    def __init__(self, worker: Worker, process: Process) -> None:
        self.worker, self.process = worker, process

    def kill(self) -> None:
        """Kill it, and all that it has started, now or as soon as it is forked."""
        self._killed = True
        if self.pid is not None:
            kill_tree(self.pid)

    def forked(self, pid: int) -> None:
        """Take note of its process id."""
        self.pid = pid
        if self._killed:
            self.kill()


class ForkServer:
    """One fork server, in the pool's thread.

    Parameters
    ----------
    key
        The state of the environment that it was started in, and so its workers are.
    environment
        The variables of its environment.
    modules
        What it imports before anything else.
    tracker
        The descriptor by which workers reach the caller's resource tracker.
    """

    def __init__(
        self, key: Hashable, loop: Loop, environment: Mapping[str, str], modules: tuple[str, ...], tracker: int
    ) -> None:
        self.key, self.environment = key, environment
        self._unborn: deque[ForkedChild] = deque()  # in the order in which the server forks them
        self._children: dict[int, ForkedChild] = {}  # by process id
        self.fit = True  # whether it can fork more workers
        self._proven = False  # whether it has forked a worker
        self._loop = loop
        self._importing: str | None = ""  # the module; "" while the server starts; None: nothing
        self._since = time.monotonic()  # when it said something for the last time, or was asked after a rest
        self._look_at = math.inf  # when the next look at its silence is due
        self._requests: deque[tuple[bytes, socket.socket]] = deque()  # that the connection did not take yet
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        cpus = tuple(os.sched_getaffinity(os.getpid()))  # this thread's may be others
        with theirs:
            try:
                # Of the arguments only the first: a message has a limit, and arguments may be many.
                self._control.send(pickle.dumps((os.getpid(), search_path(), sys.argv[:1], cpus, MODULES, modules)))
                self.pid = _spawn(theirs.fileno(), tracker, environment)
            except BaseException:
                self._control.close()
                raise
        self._control.setblocking(False)
        loop.watch(self._control.fileno(), self._ready)
        loop.later(START_SECONDS, self._leave)  # if nobody wants a worker after all
        self._expect()

    def fork(
        self, worker: Worker, process: Process, place: Place, initial: bytes, modules: tuple[str, ...]
    ) -> ForkedChild:
        """Ask for the process of a worker.

        Parameters
        ----------
        initial
            The pickle of the user's initializer with its arguments; empty without one.
        modules
            What the server imports first, if it has not yet.
        """
        if self._patience is None:
            self._since = time.monotonic()
        child = ForkedChild(worker, process)
        wanted: dict[str, str | None] = {name: os.environ.get(name) for name in ONE_THREAD}
        wanted.update(process.own)
        variables = {name: value for name, value in wanted.items() if self.environment.get(name) != value}
        process.prepare(beginning(variables, place, initial))
        request = pickle.dumps(modules), socket.socket(fileno=process.theirs.detach())
        self._unborn.append(child)
        self._requests.append(request)
        self._flush()
        self._expect()
        return child

    def end(self) -> None:
        """End the server, which has no workers; it goes by itself if the caller does."""
        self.fit = False
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_WR)
        self._loop.later(1.0, self._kill)  # it may have been stopped

    def abandon(self) -> None:
        """Close this process's copies of the descriptors, in a forked child."""
        for end in (self._control, *(end for _, end in self._requests)):
            end.close()

    def _flush(self) -> None:
        """Send what the connection takes."""
        full = False
        try:
            while self._requests:
                message, end = self._requests[0]
                socket.send_fds(self._control, [message], [end.fileno()])
                end.close()
                self._requests.popleft()
        except BlockingIOError:
            full = True
        except OSError:  # it has died, as reading will say; or too many descriptors are on their way already
            self._loop.later(0.01, self._flush)
        if self._control.fileno() >= 0:
            self._loop.watch(self._control.fileno(), self._ready, writable=full)

    def _ready(self) -> None:
        """Take what the server says, and send what is still to be sent."""
        if self._requests:
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
        what, *more = pickle.loads(message)
        take: dict[str, Callable[..., None]] = {
            "importing": self._imports,
            "tainted": self._tainted,
            "refused": self._refused,
            "forked": self._forked,
            "ended": self._ended,
        }
        take[what](*more)

    def _imports(self, module: str | None) -> None:
        self._importing = module
        self._expect()

    @property
    def _patience(self) -> float | None:
        """The seconds for which the server may be silent now; None if it has nothing to do."""
        if self._importing is not None:
            return IMPORT_SECONDS if self._importing else START_SECONDS
        return STUCK_SECONDS if self._unborn else None

    def _expect(self) -> None:
        """See to it that the server's silence is looked at when it may have lasted for too long."""
        if self._patience is not None and self._since + self._patience < self._look_at:
            self._look_at = self._since + self._patience
            self._loop.later(max(self._look_at - time.monotonic(), 0), self._look)

    def _look(self) -> None:
        """Give the server up if it has been silent for too long."""
        self._look_at = math.inf
        if self._patience is None or self._control.fileno() < 0:
            return
        if time.monotonic() < self._since + self._patience:
            self._expect()
            return
        if self._importing is not None:
            self._tainted(self._importing, "it takes too long")
            self._importing = None
        self.fit = False
        self._restart_unborn()

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
            self._linger()

    def _refused(self, reason: int | None) -> None:
        self._importing = None
        if self._unborn:  # else it was given up meanwhile, as below
            child = self._unborn.popleft()
            error = None if reason is None else cannot_start(OSError(reason, os.strerror(reason)))
            child.worker.restart(child.process, error)
            self._linger()

    def _restart_unborn(self) -> None:
        """Have another server start the workers that this one has not forked yet."""
        while self._requests:
            self._requests.popleft()[1].close()
        while self._unborn:
            child = self._unborn.popleft()
            child.worker.restart(child.process)
        self._linger()

    def _died(self) -> None:
        """Take note that the server has ended, and with it its workers, if there are any."""
        self.fit = False
        if self._importing:
            servers.avoid(self._importing)
        elif not self._proven and self._unborn:
            servers.failures += 1
        self._loop.unwatch(self._control.fileno())
        self._control.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)
        servers.living.discard(self)
        self._restart_unborn()
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
        if self._unborn:  # else it was given up meanwhile
            child = self._children[pid] = self._unborn.popleft()
            child.forked(pid)

    def _linger(self) -> None:
        """See to it that the server goes when it has had no workers for some time."""
        if not (self._children or self._unborn):
            self._loop.later(LINGER_SECONDS if self.fit else 0.0, self._leave)

    def _leave(self) -> None:
        if not (self._children or self._unborn) and self._control.fileno() >= 0:
            self.end()


class Servers:
    """The fork servers of this process that can be asked for workers; all in the pool's thread."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Know of no server, and of no failure."""
        self.living: set[ForkServer] = set()
        self._latest: tuple[Any, ForkServer] | None = None  # what was asked for last, and its server
        self._relay: TrackerRelay | None = None
        self.avoided: set[str] = set()  # packages that no server imports
        self.failures = 0  # servers that have ended without a worker

    @property
    def usable(self) -> bool:
        """Whether servers have not failed too often."""
        return self.failures < TRIES

    def avoid(self, module: str) -> None:
        """Have no server import a module, nor others of its package, which would most likely do the same."""
        self.avoided.add(module.partition(".")[0])

    def wanted(self, modules: Iterable[str]) -> tuple[str, ...]:
        """Return those of the modules that a server may import."""
        return tuple(module for module in modules if module.partition(".")[0] not in self.avoided)

    def of(self, variables: Mapping[str, str | None] | None, loop: Loop) -> ForkServer:
        """Return the server for workers that all have `variables`; None: each has its own. Start one if need be."""
        asked = variables, os.environ._data.copy()  # type: ignore[attr-defined] # copy() decodes every variable
        if self._latest is not None and self._latest[0] == asked and self._latest[1].fit:
            return self._latest[1]
        environment = changed_environment({**os.environ, **ONE_THREAD}, variables or {})
        key = variables is None, *inherited_state(environment)
        server = next((server for server in self.living if server.fit and server.key == key), None)
        if server is None:
            modules = self.wanted(["numpy"]) if variables is not None and "numpy" in sys.modules else ()
            if self._relay is None:
                self._relay = TrackerRelay(loop)
            server = ForkServer(key, loop, environment, modules, self._relay.writer)
            self.living.add(server)
        self._latest = asked, server
        loop.later(LOOK_SECONDS, self.look)
        return server

    def look(self) -> None:
        """Look at the state of this process when a server is asked for next."""
        self._latest = None

    def abandon(self) -> None:
        """Have no servers any more, in a forked child: they are the parent's."""
        for server in self.living:
            server.abandon()
        if self._relay is not None:
            self._relay.abandon()
        self.reset()


servers = Servers()
after_fork_in_child(servers.abandon, BACKENDS)


def _spawn(control: int, tracker: int, environment: Mapping[str, str]) -> int:
    """Start the process of a server by exec, with two descriptors; return its id."""
    # Copies: a descriptor that is copied onto itself would not be inherited, and one must not overwrite the other.
    copies = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, max(_GIVEN) + 1) for fd in (control, tracker)]
    try:
        actions = [(os.POSIX_SPAWN_DUP2, fd, there) for fd, there in zip(copies, _GIVEN, strict=True)]
        return os.posix_spawn(sys.executable, command("_forked.main", *_GIVEN), environment, file_actions=actions)
    finally:
        for fd in copies:
            os.close(fd)
