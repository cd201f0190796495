"""The fork server: a process with one thread that forks a worker for each connection that it receives.

::

    caller ── control: a list of modules and a socket ──> server ── fork ──> worker, which serves its socket
           <── ("importing", module or None) ("tainted", module, why)   imports
           <── ("forked", pid) or ("refused", errno or None): the answer to each request, in order
           <── ("ended", pid, exit code)   reaps

It is a new interpreter, started by exec. It runs no code of the user: it imports installed packages only. A worker
starts with these imports, in memory that it shares with the server.
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
from collections.abc import Callable
from typing import Any, NamedTuple

from shoal._forks import renew, without_calls
from shoal.backends._bootstrap import flush_streams, set_up_signals, set_variables
from shoal.backends._messages import CONTROL_BYTES, Blocking
from shoal.backends._stacks import answer_requests
from shoal.backends._surroundings import follow, working_folder
from shoal.backends._worker_process import Beginning, Common, run, set_parent, started_process

assert sys.platform == "linux"

mp: Any = multiprocessing  # this module uses private names of it


class Start(NamedTuple):
    """The first message to a server."""

    caller: int  # the process id
    path: list[str]
    argv: list[str]
    cpus: tuple[int, ...]
    base: tuple[str, ...]  # modules that every worker needs, which may have the functions ``rehearse`` and ``settle``
    modules: tuple[str, ...]  # others to import before the first worker


def main(fd: int, tracker: int) -> None:
    """Run a fork server on its control connection and, in the forked processes, workers.

    The descriptor `tracker`, the pipe to the caller's resource tracker, must be the next number after `fd`.
    """
    for descriptor in (fd, tracker):
        os.set_inheritable(descriptor, False)
    control = socket.socket(fileno=fd)
    start = Start(*pickle.loads(control.recv(CONTROL_BYTES)))
    set_up_signals(start.caller)
    os.closerange(3, fd)  # closes all inherited descriptors but the standard streams and these two
    os.closerange(tracker + 1, max(map(int, os.listdir("/proc/self/fd"))) + 1)
    mp.util._close_stdin()
    answer_requests()
    if start.cpus:
        os.sched_setaffinity(0, start.cpus)
    sys.path[:], sys.argv[:] = start.path, start.argv
    sys.modules["__main__"] = types.ModuleType("__main__")  # hides the main module of the server
    server = _Server(control)
    try:
        for name in start.base:
            module = importlib.import_module(name)
            server.settlers.append(getattr(module, "settle", int))
            getattr(module, "rehearse", int)()
        server.prepare(start.modules, tracker)
        begun = server.run()
    except Exception:  # not printed: the caller logs it, and starts workers by exec
        server.taint("", traceback.format_exc())
        os._exit(1)
    if begun is None:
        os._exit(0)  # exit handlers run in workers only
    gc.enable()
    run(*begun, server.pid)


class _Server:
    """The loop of a server, and its state."""

    def __init__(self, control: socket.socket) -> None:
        self.pid = os.getpid()
        #: Called before a fork, if modules were imported since then.
        self.settlers: list[Callable[[], object]] = []
        self._settled_at = 0  # the number of modules then
        self._control = control
        self._children: set[int] = set()
        self._unfit = False
        self._common = b""  # the pickle of the state that this process has adopted
        self._state: Common  # the state itself
        self._replaced: dict[str, str | None] = {}  # the variables that it has replaced
        self._process: Any = None
        self._woken, self._waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._on_child = _signal.signal(signal.SIGCHLD, lambda *_: None)  # a handler, so that the wakeup fd is used
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)

    def prepare(self, modules: tuple[str, ...], tracker: int) -> None:
        """Set this process up like one that multiprocessing has started, and import modules."""
        self._process = started_process(tracker)
        if why := _unfit():  # a thread that every interpreter starts here, for example
            self.taint("", why)
        self._import(modules)
        self._send("importing", None)

    def run(self) -> tuple[Blocking, Common, Beginning] | None:
        """Fork workers until the caller has ended, then return None. In each worker, return its beginning."""
        sources: list[Any] = [self._control, self._woken]
        while True:
            ready, _, _ = select.select(sources, [], [])
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
                beginning = self._fork(connection, pickle.loads(message))
                if beginning is not None:
                    return connection, self._state, beginning
                connection.close()

    def _fork(self, connection: Blocking, modules: tuple[str, ...]) -> Beginning | None:
        """Import modules and fork a worker. Return None in the server, and the worker's beginning in the worker."""
        self._import(modules)
        if self._unfit:
            self._send("refused", None)
            return None
        try:
            beginning = Beginning(*pickle.loads(connection.receive()))
            self._adopt(beginning.common)
            self._settle()
            self._process.name = beginning.name
            gc.freeze()  # later objects may be the user's; `_exit_process` examines only those
            with without_calls():
                pid = os.fork()
        except (EOFError, OSError) as error:
            self._send("refused", getattr(error, "errno", errno.ECONNRESET))
            return None
        if pid:
            self._children.add(pid)
            self._send("forked", pid)
            return None
        signal.set_wakeup_fd(-1)
        _signal.signal(signal.SIGCHLD, self._on_child)  # `signal.signal` would touch ten times as much memory
        for end in (self._control.detach(), self._woken, self._waker):
            os.close(end)
        mp.process._children.clear()  # these belong to the server
        if mp.util._afterfork_registry.data:  # the rest of BaseProcess._after_fork
            mp.util._run_after_forkers()
        return beginning

    def _adopt(self, common: bytes) -> None:
        """Adopt the common state of the next workers, unless the last ones had the same.

        If each worker did this by itself, it would copy the memory that this writes to.
        """
        if common == self._common:
            return
        state = self._state = Common(*pickle.loads(common))
        self._restore()
        sys.argv[:] = state.argv
        self._replaced = {name: os.environ.get(name) for name in state.variables}
        follow(state.path, state.cwd, state.variables)
        with contextlib.suppress(OSError, ValueError):  # the hard limit may be too low
            resource.setrlimit(resource.RLIMIT_NOFILE, state.files)
        set_parent(self._process, state)
        self._common = common

    def _settle(self) -> None:
        """Do once what each worker would do in its first batch; do it again if modules were imported since."""
        if self._settled_at != len(sys.modules):
            if "numpy" in sys.modules:  # then each worker sets the threads of its BLAS
                importlib.import_module("shoal.backends._blas")
            mp.util._finalizer_registry.clear()  # a part of BaseProcess._after_fork
            renew()
            for settle in self.settlers:
                settle()
            self._settled_at = len(sys.modules)

    def _restore(self) -> None:
        """Restore the replaced variables."""
        set_variables(self._replaced)
        self._replaced, self._common = {}, b""

    def _import(self, modules: tuple[str, ...]) -> None:
        """Import modules, until one has a side effect that must happen in each worker instead."""
        for module in modules:
            if self._unfit or module in sys.modules:
                continue
            self._send("importing", module)
            self._restore()
            before, why = _process_state(), ""
            try:
                if _import_prints(module):
                    why = "it prints"
            except BaseException as error:
                why = f"{type(error).__name__}: {error}"
            if not why and before != _process_state():
                why = "it opens descriptors, or changes the working folder or signal handlers"
            why = why or _unfit()
            if why:
                self.taint(module, why)

    def taint(self, module: str, why: str) -> None:
        """Stop forking, and tell the caller the reason and the module, which is "" if it is not an import."""
        self._unfit = True
        self._send("tainted", module, why)

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while (reaped := os.waitpid(-1, os.WNOHANG))[0]:
                pid, status = reaped
                if pid in self._children:  # else an import has started it
                    self._children.remove(pid)
                    self._send("ended", pid, os.waitstatus_to_exitcode(status))

    def _send(self, *message: Any) -> None:
        try:
            self._control.send(pickle.dumps(message))
        except OSError:  # the caller has ended
            os._exit(0)


def _unfit() -> str:
    """Return the reason why this process must not be forked, or ""."""
    if sum(not _allows_forks(thread) for thread in os.listdir("/proc/self/task")) > 1:
        return "it has threads"
    monitoring = getattr(sys, "monitoring", None)
    if sys.gettrace() or sys.getprofile() or (monitoring and any(map(monitoring.get_tool, range(6)))):
        return "the interpreter is traced or profiled"
    return ""


def _allows_forks(thread: str) -> bool:
    """Return whether a thread does not hinder forks: jemalloc (in pyarrow) restarts its thread after a fork."""
    try:
        with open(f"/proc/self/task/{thread}/comm") as file:
            return file.read().strip() == "jemalloc_bg_thd"
    except OSError:  # the thread has ended
        return True


def _process_state() -> tuple[Any, ...]:
    """Return the state that a fork copies and an import should not change."""
    return (
        os.listdir("/proc/self/fd"),
        working_folder(),
        signal.getsignal(signal.SIGINT),
        signal.getsignal(signal.SIGCHLD),
    )


def _import_prints(module: str) -> bool:
    """Import a module, discard its output, and return whether there was any."""
    with open(os.memfd_create("shoal-prints"), "rb") as file:
        copies = [(fd, os.dup(fd)) for fd in (1, 2)]
        for fd, _ in copies:
            os.dup2(file.fileno(), fd)
        try:
            importlib.import_module(module)
        finally:
            flush_streams()
            for fd, copy in copies:
                os.dup2(copy, fd)
                os.close(copy)
        return os.fstat(file.fileno()).st_size > 0
