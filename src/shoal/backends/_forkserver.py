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
import itertools
import logging
import os
import pickle
import re
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from typing import TYPE_CHECKING, Any

from shoal.backends._forked import CONTROL_BYTES
from shoal.backends._process import Process, kill_tree
from shoal.backends._surroundings import installed
from shoal.backends._tracker import TrackerRelay
from shoal.errors import cannot_start

if TYPE_CHECKING:
    from collections.abc import Mapping

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
#: The descriptors that a server is given: its control connection, and the way to the caller's resource tracker.
_GIVEN = (3, 4)
#: What a server imports at least. The rest is what calls need.
MODULES: tuple[str, ...] = ("multiprocessing.context", "multiprocessing.resource_tracker", "shoal.parallel._worker")


class ForkedChild:
    """A worker process that a server was asked for."""

    pid: int | None = None  # it says so itself
    forked = False

    def __init__(self, server: ForkServer, number: int, worker: Worker, process: Process) -> None:
        self.worker, self.process = worker, process
        self._server, self._number = server, number

    def kill(self, pid: int | None) -> None:
        """Kill it, and all that it has started."""
        if pid is None:
            self._server.kill(self._number)
        else:
            kill_tree(pid)


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
        self.children: dict[int, ForkedChild] = {}
        self.fit = True
        self.proven = False  # whether it has forked a worker
        self._loop = loop
        self._numbers = itertools.count()
        self._heard = 0.0  # when it last said something
        self._importing: str | None = ""  # a module, or that it is starting; None: neither
        self._requests: deque[tuple[bytes, socket.socket | None]] = deque()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                self.pid = _spawn(theirs.fileno(), tracker, environment)
            except BaseException:
                self._control.close()
                raise
        self._control.setblocking(False)
        cpus = tuple(os.sched_getaffinity(os.getpid()))  # this thread's may be others
        # Of the arguments only the first: a message has a limit, and arguments may be many.
        self._request(pickle.dumps((os.getpid(), _path(), sys.argv[:1], _cwd(), cpus, MODULES, modules)), None)
        loop.watch(self._control.fileno(), self._ready)
        loop.later(START_SECONDS, self._look_at_start)

    def fork(self, worker: Worker, process: Process, modules: tuple[str, ...]) -> ForkedChild:
        """Ask for the process of a worker, which begins with `modules`."""
        number = next(self._numbers)
        child = self.children[number] = ForkedChild(self, number, worker, process)
        end = socket.socket(fileno=process.theirs.detach())
        self._request(pickle.dumps(("fork", number, modules)), end)
        self._loop.later(STUCK_SECONDS, lambda: self._look(number))
        return child

    def kill(self, number: int) -> None:
        """Kill a worker that has not said its process id yet."""
        self._loop.ask(lambda: self._request(pickle.dumps(("kill", number, ())), None))

    def end(self) -> None:
        """End the server, which has no workers; it goes by itself if the caller does."""
        self._retire()
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_WR)
        self._loop.later(1.0, self._kill)  # it may have been stopped

    def abandon(self) -> None:
        """Close this process's copies of the descriptors, in a forked child."""
        for end in (self._control, *(end for _, end in self._requests)):
            if end is not None and end.fileno() >= 0:
                os.close(end.detach())

    def _request(self, message: bytes, end: socket.socket | None) -> None:
        self._requests.append((message, end))
        self._flush()

    def _flush(self) -> None:
        """Send what the connection takes."""
        try:
            while self._requests:
                message, end = self._requests[0]
                if end is None:
                    self._control.send(message)
                else:
                    socket.send_fds(self._control, [message], [end.fileno()])
                    end.close()
                self._requests.popleft()
        except BlockingIOError:
            pass
        except OSError:  # it has died, as reading will say
            self._drop_requests()
        if self._control.fileno() >= 0:
            self._loop.watch(self._control.fileno(), self._ready, writable=bool(self._requests))

    def _drop_requests(self) -> None:
        for _, end in self._requests:
            if end is not None:
                end.close()
        self._requests.clear()

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
        self._heard = time.monotonic()
        what, *more = pickle.loads(message)
        take: dict[str, Callable[..., None]] = {
            "ready": self._started,
            "importing": self._imports,
            "tainted": self._tainted,
            "unfit": self._unfit,
            "refused": self._refused,
            "forked": self._forked,
            "ended": self._ended,
        }
        take[what](*more)

    def _started(self) -> None:
        self._importing = None

    def _look_at_start(self) -> None:
        self._give_up_import("")
        self._leave()  # if nobody wanted a worker after all

    def _imports(self, module: str) -> None:
        self._importing = module
        self._loop.later(IMPORT_SECONDS, lambda: self._give_up_import(module))

    def _give_up_import(self, module: str) -> None:
        if self._importing == module and self._control.fileno() >= 0:
            self._tainted(module, "it takes too long")
            self._restart_unborn()

    def _tainted(self, module: str, why: str) -> None:
        if module:
            logger.debug("the fork server does not import %s: %s", module, why)
            servers.avoid(module)
        else:
            logger.debug("the fork server cannot be used: %s", why)
            servers.failures += 1
        self._retire()

    def _retire(self) -> None:
        """Take note that this server forks no more."""
        self.fit = False
        servers.forget(self)

    def _ended(self, number: int, code: int) -> None:
        child = self._gone(number)
        if child is not None:
            child.process.exited(code)

    def _refused(self, number: int, reason: int) -> None:
        self._importing = None
        child = self._gone(number)
        if child is not None:
            child.worker.restart(child.process, cannot_start(OSError(reason, os.strerror(reason))))

    def _unfit(self, number: int) -> None:
        self._retire()
        child = self._gone(number)
        if child is not None:
            child.worker.restart(child.process)

    def _restart_unborn(self) -> None:
        """Have another server start the workers that this one has not forked yet."""
        for number, child in list(self.children.items()):
            if not child.forked:
                self._gone(number)
                child.worker.restart(child.process)

    def _look(self, number: int) -> None:
        """See whether the server goes on with what it was asked for: if not, it may have been stopped."""
        child = self.children.get(number)
        if child is not None and not child.forked and self._control.fileno() >= 0:
            left = self._heard + STUCK_SECONDS - time.monotonic()
            if self._importing is not None or left > 0:
                self._loop.later(max(left, 0.1), lambda: self._look(number))
            else:
                self._retire()
                self._restart_unborn()

    def _died(self) -> None:
        """Take note that the server has ended, and with it its workers, if there are any."""
        self._retire()
        if self._importing:
            servers.avoid(self._importing)
        elif not self.proven and self.children:
            servers.failures += 1
        self._loop.unwatch(self._control.fileno())
        self._control.close()
        self._drop_requests()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)
        servers.ended(self)
        self._restart_unborn()
        for child in self.children.values():
            child.kill(child.process.pid)
            child.process.die()
        self.children.clear()

    def _kill(self) -> None:
        if self._control.fileno() >= 0:
            os.kill(self.pid, signal.SIGKILL)

    def _forked(self, number: int) -> None:
        self.proven, self._importing = True, None
        servers.failures = 0
        if number in self.children:
            self.children[number].forked = True

    def _gone(self, number: int) -> ForkedChild | None:
        """Forget a worker; without any, the server goes, too."""
        child = self.children.pop(number, None)
        if not self.children:
            self._loop.later(LINGER_SECONDS if self.fit else 0.0, self._leave)
        return child

    def _leave(self) -> None:
        if not self.children and self._control.fileno() >= 0:
            self.end()


class Servers:
    """The fork servers of this process that can be asked for workers; all in the pool's thread."""

    def __init__(self) -> None:
        self._fit: dict[Hashable, ForkServer] = {}
        self._living: set[ForkServer] = set()
        # For workers that are wanted at the same time: what was asked for last, and its server.
        self._latest: tuple[tuple[bool, Mapping[str, str]], ForkServer] | None = None
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

    def of(self, environment: Mapping[str, str], preloads: bool, loop: Loop) -> ForkServer:
        """Return the server for an environment, a new one if there is none."""
        asked = preloads, environment
        if self._latest is not None and self._latest[0] == asked and self._latest[1].fit:
            return self._latest[1]
        key = (preloads, *_state(environment))
        server = self._fit.get(key)
        if server is None:
            modules = self.wanted(["numpy"]) if preloads and "numpy" in sys.modules else ()
            if self._relay is None:
                self._relay = TrackerRelay(loop)
            server = self._fit[key] = ForkServer(key, loop, environment, modules, self._relay.writer)
            self._living.add(server)
        self._latest = asked, server
        loop.later(0, self._forget_latest)
        return server

    def _forget_latest(self) -> None:
        self._latest = None

    def forget(self, server: ForkServer) -> None:
        """Take note that a server forks no more."""
        if self._fit.get(server.key) is server:
            del self._fit[server.key]

    def ended(self, server: ForkServer) -> None:
        """Take note that the process of a server is gone."""
        self._living.discard(server)

    def abandon(self) -> None:
        """Have no servers any more, in a forked child: they are the parent's."""
        for server in self._living:
            server.abandon()
        if self._relay is not None:
            self._relay.abandon()
        self.__init__()  # type: ignore[misc]


servers = Servers()
os.register_at_fork(after_in_child=servers.abandon)


def command(function: str, *fds: int) -> list[str]:
    """Return the command line by which a fresh interpreter calls a function of _forked with descriptors."""
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    path = f"sys.path[:] = [*filter(None, sys.path), {root!r}]"
    return [sys.executable, "-c", f"import sys; {path}; from shoal.backends._forked import {function}; {function}{fds}"]


def _spawn(control: int, tracker: int, environment: Mapping[str, str]) -> int:
    """Start the process of a server by exec, with two descriptors; return its id."""
    # Copies: a descriptor that is copied onto itself would not be inherited, and one must not overwrite the other.
    copies = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3 + len(_GIVEN)) for fd in (control, tracker)]
    try:
        actions = [(os.POSIX_SPAWN_DUP2, fd, there) for fd, there in zip(copies, _GIVEN, strict=True)]
        return os.posix_spawn(sys.executable, command("main", *_GIVEN), environment, file_actions=actions)
    finally:
        for fd in copies:
            os.close(fd)


#: Of the workers of this process, as multiprocessing counts those that it starts.
_numbers = itertools.count(1)


def preparation(variables: dict[str, str | None], initial: bytes) -> bytes:
    """Return what a worker is told first.

    Parameters
    ----------
    variables
        Variables that it sets; None takes one away.
    initial
        The pickle of its place, and of the initializer with its arguments.
    """
    process: Any = sys.modules.get("multiprocessing.process")
    util: Any = sys.modules.get("multiprocessing.util")
    parent = None if process is None else process.current_process()
    name, authkey = ("MainProcess", b"") if parent is None else (parent.name, bytes(parent.authkey))
    log_level = util.get_logger().getEffectiveLevel() if util is not None and util._log_to_stderr else None
    own = f"LokyProcess-{next(_numbers)}"
    return pickle.dumps((os.getpid(), name, own, authkey, log_level, _path(), sys.argv, _cwd(), variables, initial))


def _cwd() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return None


def _path() -> list[str]:
    cwd = _cwd()
    return [entry or cwd or "" for entry in sys.path]


def _state(environment: Mapping[str, str]) -> tuple[Hashable, ...]:
    """Return all that a process inherits from its parent by exec and cannot be given later."""
    with open("/proc/self/status") as file:
        lines = [line for line in file if line.startswith(_INHERITED)]
    with open("/proc/self/limits") as file:  # that of open files each worker takes from the caller
        limits = tuple(line for line in file if not line.startswith("Max open files"))
    streams: list[Hashable] = []
    for fd in range(3):
        try:
            found = os.fstat(fd)
            streams.append((found.st_dev, found.st_ino))
        except OSError:
            streams.append(None)
    return (
        tuple(sorted(environment.items())),
        sys.executable,
        tuple(lines),
        limits,
        tuple(streams),
        os.getpriority(os.PRIO_PROCESS, os.getpid()),
        tuple(os.sched_getaffinity(os.getpid())),
        os.getpgrp(),
        os.getsid(0),
    )


_INHERITED = ("Umask", "Uid", "Gid", "Groups", "SigIgn", "SigBlk", "CapEff", "NoNewPrivs", "Seccomp", "Cpus_allowed:")


#: A short string in a pickle.
_STRING = re.compile(rb"\x8c(.)", re.DOTALL)
#: Where modules are searched for in a message, in bytes from its start.
_SEARCHED = 64 * 1024


def modules_named(messages: Iterable[bytes]) -> tuple[str, ...]:
    """Return the installed modules that pickles name and that this process has imported, sorted.

    A string that happens to be the name of such a module counts, too: it does no harm.
    """
    found = set()
    for message in messages:
        head = message[:_SEARCHED]
        for match in _STRING.finditer(head):
            start = match.end()
            name = head[start : start + match[1][0]]
            if name.isascii():
                found.add(name.decode())
    return tuple(sorted(name for name in found if name in sys.modules and installed(name)))
