"""The fork server: a process with one thread that forks a worker for each connection that it is handed.

::

    caller ── control: a list of modules and a socket ──> server ── fork ──> worker, which serves its socket
           <── ("importing", module or None) ("tainted", module, why)   imports
           <── ("forked", pid) or ("refused", errno or None): the answer to each request, in order
           <── ("ended", pid, exit code)   reaps

It is a fresh interpreter, started by exec, and never runs anything of a user's: it imports installed packages only. A
worker begins with what the server has imported, in memory that they share.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import contextlib
import errno
import gc
import importlib
import multiprocessing.resource_tracker
import multiprocessing.util
import os
import pickle
import resource
import select
import signal
import socket
import sys
import traceback
import types
from typing import Any, NamedTuple

from shoal.backends._bootstrap import flush_streams, heed, set_variables
from shoal.backends._messages import CONTROL_BYTES, Blocking
from shoal.backends._surroundings import follow, working_folder
from shoal.backends._worker_process import Beginning, Common, belong, run, started_process

mp: Any = multiprocessing  # much of what is used of it is not public


class Start(NamedTuple):
    """The first message to a server."""

    caller: int  # the process id
    path: list[str]
    argv: list[str]
    cpus: tuple[int, ...]
    base: tuple[str, ...]  # modules that every worker needs; those that have a ``rehearse`` are to rehearse
    modules: tuple[str, ...]  # others, to be imported before there is a worker


def main(fd: int, tracker: int) -> None:
    """Run a fork server, and in the end one of the workers that it forks.

    Parameters
    ----------
    fd
        The descriptor of the control connection.
    tracker
        The one, next to it, by which workers reach their caller's resource tracker.
    """
    for given in (fd, tracker):
        os.set_inheritable(given, False)
    control = socket.socket(fileno=fd)
    told = Start(*pickle.loads(control.recv(CONTROL_BYTES)))
    heed(told.caller)
    os.closerange(3, fd)  # what was inherited beside the standard streams and these two
    os.closerange(tracker + 1, max(map(int, os.listdir("/proc/self/fd"))) + 1)
    mp.util._close_stdin()
    if told.cpus:
        os.sched_setaffinity(0, told.cpus)
    sys.path[:], sys.argv[:] = told.path, told.argv
    sys.modules["__main__"] = types.ModuleType("__main__")  # nothing of the server's is seen there
    gc.disable()
    server = _Server(control)
    try:
        for name in told.base:
            module = importlib.import_module(name)
            if hasattr(module, "rehearse"):
                module.rehearse()
        server.prepare(told.modules, tracker)
        begun = server.run()
    except Exception:  # the caller is told, and nobody else: workers are started in another way
        server.taint("", traceback.format_exc())
        os._exit(1)
    if begun is None:
        os._exit(0)  # what libraries do at exit is for workers to do
    gc.enable()
    run(*begun, server.pid)


class _Server:
    """The loop of a server, and its state."""

    def __init__(self, control: socket.socket) -> None:
        self.pid = os.getpid()
        self._control = control
        self._children: set[int] = set()
        self._unfit = False
        self._common = b""  # what this process has adopted for the workers that it forks
        self._told: Common
        self._replaced: dict[str, str | None] = {}  # variables as they were before that
        self._process: Any = None
        self._woken, self._waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._on_child = _signal.signal(signal.SIGCHLD, lambda *_: None)  # the loop is woken
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)

    def prepare(self, modules: tuple[str, ...], tracker: int) -> None:
        """Turn this process into one that multiprocessing has started, and import modules before there is a worker."""
        self._process = started_process(tracker)
        if why := _unfit():  # something that starts with every interpreter
            self.taint("", why)
        self._import(modules)
        self._tell("importing", None)

    def run(self) -> tuple[Blocking, Common, Beginning] | None:
        """Fork workers until the caller is gone, and return None; return in each worker, with its beginning."""
        while True:
            awaited: list[Any] = [self._control, self._woken]
            ready, _, _ = select.select(awaited, [], [])
            if self._woken in ready:
                os.read(self._woken, 4096)
                self._reap()
            if self._control in ready:
                try:
                    message, fds, _, _ = socket.recv_fds(self._control, CONTROL_BYTES, 1)
                except OSError:
                    return None
                if not message:
                    return None
                connection = Blocking(socket.socket(fileno=fds[0]))
                begins = self._fork(connection, pickle.loads(message))
                if begins is not None:
                    return connection, self._told, begins
                connection.close()

    def _fork(self, connection: Blocking, modules: tuple[str, ...]) -> Beginning | None:
        """Import modules and fork a worker; return its beginning there, and None here."""
        self._import(modules)
        if self._unfit:
            self._tell("refused", None)
            return None
        try:
            begins = Beginning(*pickle.loads(connection.receive()))
            self._adopt(begins.common)
            self._process.name = begins.name
            gc.freeze()  # what is made from here on is the user's; _leave looks at nothing else
            pid = os.fork()
        except (EOFError, OSError) as error:
            self._tell("refused", getattr(error, "errno", errno.ECONNRESET))
            return None
        if pid:
            self._children.add(pid)
            self._tell("forked", pid)
            return None
        signal.set_wakeup_fd(-1)
        _signal.signal(signal.SIGCHLD, self._on_child)  # the one of `signal` touches ten times as much memory
        for end in (self._control.detach(), self._woken, self._waker):
            os.close(end)
        return begins

    def _adopt(self, common: bytes) -> None:
        """Take over what the next workers have in common, unless the last ones had the same.

        Each worker would copy the memory that it touches for that.
        """
        if common == self._common:
            return
        told = self._told = Common(*pickle.loads(common))
        self._restore()
        sys.argv[:] = told.argv
        self._replaced = {name: os.environ.get(name) for name in told.variables}
        follow(told.path, told.cwd, told.variables)
        with contextlib.suppress(OSError, ValueError):  # it may be too low to be raised
            resource.setrlimit(resource.RLIMIT_NOFILE, told.files)
        belong(self._process, told)
        self._common = common

    def _restore(self) -> None:
        """Put back the variables that were replaced."""
        set_variables(self._replaced)
        self._replaced, self._common = {}, b""

    def _import(self, modules: tuple[str, ...]) -> None:
        """Import modules, up to the first that does more than that, which would have to happen in each worker."""
        for module in modules:
            if self._unfit or module in sys.modules:
                continue
            self._tell("importing", module)
            self._restore()
            before, why = _traces(), ""
            try:
                if _prints(module):
                    why = "it prints"
            except BaseException as error:
                why = f"{type(error).__name__}: {error}"
            if not why and before != _traces():
                why = "it leaves descriptors open, or changes the working folder or signal handlers"
            why = why or _unfit()
            if why:
                self.taint(module, why)

    def taint(self, module: str, why: str) -> None:
        """Fork no more, and tell the caller why: because of a module, or "" for another reason."""
        self._unfit = True
        self._tell("tainted", module, why)

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while (reaped := os.waitpid(-1, os.WNOHANG))[0]:
                pid, status = reaped
                if pid in self._children:  # else it is something that an import has started
                    self._children.remove(pid)
                    self._tell("ended", pid, os.waitstatus_to_exitcode(status))

    def _tell(self, *message: Any) -> None:
        try:
            self._control.send(pickle.dumps(message))
        except OSError:  # the caller is gone
            os._exit(0)


def _unfit() -> str:
    """Return why this process must not be forked; nothing if it may be."""
    if len([thread for thread in os.listdir("/proc/self/task") if not _forks_well(thread)]) > 1:
        return "there are threads"
    monitoring = getattr(sys, "monitoring", None)
    if sys.gettrace() or sys.getprofile() or (monitoring and any(map(monitoring.get_tool, range(6)))):
        return "the interpreter is traced or profiled"
    return ""


def _forks_well(thread: str) -> bool:
    """Tell whether a thread is one that a fork may do without: jemalloc's, which has handlers for forks (pyarrow)."""
    try:
        with open(f"/proc/self/task/{thread}/comm") as file:
            return file.read().strip() == "jemalloc_bg_thd"
    except OSError:  # it has ended
        return True


def _traces() -> tuple[Any, ...]:
    """Return what a fork copies and an import should leave alone."""
    return (
        os.listdir("/proc/self/fd"),
        working_folder(),
        signal.getsignal(signal.SIGINT),
        signal.getsignal(signal.SIGCHLD),
    )


def _prints(module: str) -> bool:
    """Import a module with its output discarded; return whether there was any."""
    with open(os.memfd_create("shoal-prints"), "rb") as file:
        kept = [(fd, os.dup(fd)) for fd in (1, 2)]
        for fd, _ in kept:
            os.dup2(file.fileno(), fd)
        try:
            importlib.import_module(module)
        finally:
            flush_streams()
            for fd, copy in kept:
                os.dup2(copy, fd)
                os.close(copy)
        return os.fstat(file.fileno()).st_size > 0
