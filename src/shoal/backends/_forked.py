"""The fork server: a process with one thread that forks a worker for each connection that it is handed.

::

    caller ── control: ("fork", number, modules) and a socket ──> server ── fork ──> worker, which serves its socket
           <── ("ready",) ("importing", module) ("tainted", module, why)   imports
           <── ("unfit", number) ("refused", number, errno) ──── where there is no worker
           <── ("forked", number) ── ("ended", number, exit code)  reaps

It is a fresh interpreter, started by exec, and never runs anything of a user's: it imports installed packages only. A
worker begins with what the server has imported, in memory that they share.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import gc
import importlib
import io
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

from shoal.backends._bootstrap import die_with, flush_streams, libc, on_interrupt, serve, set_variables
from shoal.backends._messages import Blocking

#: No message on the control connection is longer.
CONTROL_BYTES = 128 * 1024


class Start(NamedTuple):
    """What a server is told first."""

    caller: int  # the process id
    path: list[str]
    argv: list[str]
    cwd: str | None
    cpus: tuple[int, ...]
    base: tuple[str, ...]  # modules that every worker needs; those that have a ``rehearse`` are to rehearse
    modules: tuple[str, ...]  # others, to be imported before there is a worker


class Preparation(NamedTuple):
    """What a worker is told first."""

    caller: int
    parent_name: str
    name: str
    authkey: bytes
    log_level: int | None  # of multiprocessing's messages to stderr, if they are wanted
    path: list[str]
    argv: list[str]
    cwd: str | None
    variables: dict[str, str | None]
    initial: bytes  # the pickle of its place, and of the initializer with its arguments


def main(fd: int, tracker: int) -> None:
    """Be a fork server, and in the end one of the workers that it forks.

    Parameters
    ----------
    fd
        The descriptor of the control connection.
    tracker
        The one by which workers reach their caller's resource tracker.
    """
    for given in (fd, tracker):
        os.set_inheritable(given, False)
    control = socket.socket(fileno=fd)
    told = Start(*pickle.loads(control.recv(CONTROL_BYTES)))
    die_with(told.caller)
    _close_others(fd, tracker)
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
        server.prepare(told.modules)
        begun = server.run()
    except Exception:  # the caller is told, and nobody else: workers are started in another way
        server.fail(traceback.format_exc())
        os._exit(1)
    if begun is None:
        os._exit(0)  # what libraries do at exit is for workers to do
    gc.enable()
    _work(*begun, server.pid, tracker)


def work(fd: int, tracker: int, *others: int) -> None:
    """Do what a forked worker does, in a process that was started by exec.

    Parameters
    ----------
    fd
        The descriptor of its connection.
    tracker
        The one of the caller's resource tracker.
    others
        All others that it was given.
    """
    for given in (fd, tracker, *others):
        os.set_inheritable(given, False)
    connection = Blocking(socket.socket(fileno=fd))
    try:
        told = Preparation(*pickle.loads(connection.receive()))
    except (EOFError, OSError):  # nobody wants it any more
        os._exit(1)
    sys.path[:], sys.argv[:] = told.path, told.argv
    sys.modules["__main__"] = types.ModuleType("__main__")  # nothing of this program is seen there
    _work(connection, told, told.caller, tracker)


def _close_others(*kept: int) -> None:
    """Close what was inherited beside the standard streams."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in kept:
            try:
                os.close(int(name))
            except OSError:  # that of the listing itself
                continue


class _Server:
    """The server's loop, and what it knows."""

    def __init__(self, control: socket.socket) -> None:
        self.pid = os.getpid()
        self._control = control
        self._children: dict[int, int] = {}  # the numbers of workers, by their process ids
        self._known: set[str] = set()
        self._unfit = False
        self._woken, self._waker = socket.socketpair()
        self._waker.setblocking(False)
        self._woken.setblocking(False)
        self._before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGCHLD)}
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, _nothing)
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)

    def prepare(self, modules: tuple[str, ...]) -> None:
        """Import modules before there is a worker."""
        if why := _unfit():  # something that starts with every interpreter
            self._taint("", why)
        self._import_all(modules)
        gc.freeze()
        self._tell("ready")

    def fail(self, why: str) -> None:
        """Tell the caller that this is no server any more."""
        self._taint("", why)

    def run(self) -> tuple[Blocking, Preparation] | None:
        """Do what the caller asks for; return in each worker, with how it begins, and at the end, with None."""
        while True:
            ready, _, _ = select.select([self._control, self._woken], [], [])
            if self._woken in ready:
                self._woken.recv(4096)
                self._reap()
            if self._control in ready:
                try:
                    message, fds, _, _ = socket.recv_fds(self._control, CONTROL_BYTES, 1)
                except OSError:
                    return None
                if not message:
                    return None
                what, number, modules = pickle.loads(message)
                if what == "kill":
                    for pid in [pid for pid, known in self._children.items() if known == number]:
                        os.kill(pid, signal.SIGKILL)
                    continue
                connection = Blocking(socket.socket(fileno=fds[0]))
                told = self._fork(connection, number, modules)
                if told is not None:
                    return connection, told
                connection.close()

    def _fork(self, connection: Blocking, number: int, modules: tuple[str, ...]) -> Preparation | None:
        """Import modules and fork a worker; return, in the worker, what it was told first."""
        self._import_all(modules)
        if self._unfit:
            self._tell("unfit", number)
            return None
        # As much as possible is done here, where it is done for each worker in the same memory. A worker copies each
        # page that it touches, which costs more than what is done there.
        try:
            told = Preparation(*pickle.loads(connection.receive()))
        except (EOFError, OSError):  # nobody wants it any more
            self._tell("ended", number, 1)
            return None
        sys.path[:], sys.argv[:] = told.path, told.argv
        importlib.invalidate_caches()
        with contextlib.suppress(OSError, ValueError):  # it may be too low to be raised
            resource.setrlimit(resource.RLIMIT_NOFILE, resource.prlimit(told.caller, resource.RLIMIT_NOFILE))
        try:
            pid = os.fork()
        except OSError as error:
            self._tell("refused", number, error.errno)
            return None
        if pid:
            self._children[pid] = number
            self._tell("forked", number)
            return None
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, self._before[signal.SIGCHLD])
        if self._before[signal.SIGINT] is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, on_interrupt)
        for end in (self._control, self._woken, self._waker):
            end.close()
        return told

    def _import_all(self, modules: tuple[str, ...]) -> None:
        for module in modules:
            if not self._unfit and module not in self._known:
                self._import(module)

    def _import(self, module: str) -> None:
        """Import a module; what it does beside that, a worker would have to do by itself."""
        self._known.add(module)
        self._tell("importing", module)
        before = _traces()
        why = ""
        with _Overheard() as overheard:
            try:
                importlib.import_module(module)
            except BaseException as error:
                why = f"{type(error).__name__}: {error}"
        if not why and overheard.said:
            why = "it prints"
        if not why and before != _traces():
            why = "it leaves descriptors open, or changes the working folder or signal handlers"
        why = why or _unfit()
        if why:
            self._taint(module, why)
        gc.freeze()

    def _taint(self, module: str, why: str) -> None:
        self._unfit = True
        self._tell("tainted", module, why)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            number = self._children.pop(pid, None)
            if number is not None:  # else it is something that an import has started
                self._tell("ended", number, os.waitstatus_to_exitcode(status))

    def _tell(self, *message: Any) -> None:
        try:
            self._control.send(pickle.dumps(message))
        except OSError:  # the caller is gone
            os._exit(0)


def _nothing(_signal: int, _frame: object) -> None:
    """Handle SIGCHLD: the descriptor that wakes the loop tells of it."""


def _unfit() -> str:
    """Return why this process must not be forked; nothing if it may be."""
    threads = os.listdir("/proc/self/task")
    if len(threads) > 1 and len(threads) > 1 + sum(map(_forks_well, threads)):
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
    try:
        cwd = os.getcwd()
    except OSError:  # it was removed
        cwd = ""
    return os.listdir("/proc/self/fd"), cwd, signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGCHLD)


class _Overheard:
    """While it is entered, what is written to the standard streams is kept from them, and noticed."""

    said = False

    def __enter__(self) -> _Overheard:
        self._file = os.memfd_create("shoal-overheard")
        self._streams = [(fd, os.dup(fd)) for fd in (1, 2)]
        for fd, _ in self._streams:
            os.dup2(self._file, fd)
        return self

    def __exit__(self, *_: object) -> None:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        self.said = os.fstat(self._file).st_size > 0
        for fd, kept in self._streams:
            os.dup2(kept, fd)
            os.close(kept)
        os.close(self._file)


class _LokyWhenNeeded:
    """The start method of a worker's children, loky's, for which loky is imported when they are started."""

    _name = "loky"

    def __getattr__(self, name: str) -> Any:
        from multiprocessing import context

        from shoal.errors import import_loky

        import_loky()
        from loky.backend.context import LokyContext

        context._default_context._actual_context = LokyContext()  # type: ignore[attr-defined]
        return getattr(context._default_context._actual_context, name)  # type: ignore[attr-defined]


def _work(connection: Blocking, told: Preparation, server: int, tracker: int) -> None:
    """Be a worker, up to the end of this process."""
    import multiprocessing.util
    from multiprocessing import resource_tracker

    if told.cwd is not None:
        os.chdir(told.cwd)
    set_variables(told.variables)
    _settle()
    # The process object that multiprocessing would have made in the caller, and sent here.
    process: Any = multiprocessing.Process(target=_serve, args=(connection, server, told.initial), name=told.name)
    process._parent_pid, process._parent_name = told.caller, told.parent_name
    if told.authkey:
        process.authkey = told.authkey
    if told.log_level is not None:
        multiprocessing.util.log_to_stderr(told.log_level)
    resource_tracker._resource_tracker._fd = tracker  # type: ignore[attr-defined] # as in a process that it spawns
    _leave(process._bootstrap())


#: Files whose end is of no consequence once they are flushed.
_PLAIN_FILES = {
    io.FileIO,
    io.BufferedReader,
    io.BufferedWriter,
    io.BufferedRandom,
    io.TextIOWrapper,
    io.BytesIO,
    io.StringIO,
}


def _leave(code: int) -> None:
    """End this process, and do what can be noticed of the end of an interpreter: hooks, files, finalizers.

    It would also take apart all that was imported. That takes longer than everything else a worker does for one call,
    and copies the memory that it shares with others.
    """
    atexit._run_exitfuncs()
    flush_streams()
    objects = gc.get_objects()  # without what was frozen, which is older than the first call
    finalized = {kind for kind in set(map(type, objects)) if any("__del__" in vars(base) for base in kind.__mro__)}
    if finalized - _PLAIN_FILES:
        sys.exit(code)
    for file in objects if finalized else ():
        if type(file) in _PLAIN_FILES:
            with contextlib.suppress(ValueError, OSError):  # it is closed, or cannot be written to
                file.flush()
    libc().exit(code)  # with the hooks of compiled code, which os._exit leaves out


def _settle() -> None:
    """Be unlike what this process was forked from, in what a new one would have for its own."""
    if numpy_random := sys.modules.get("numpy.random"):
        numpy_random.seed()
    if "numpy" in sys.modules:
        from shoal.backends._blas import follow_thread_variables

        follow_thread_variables()
    if "PYTHONFAULTHANDLER" not in os.environ and sys.stderr is not None:
        faulthandler.enable()


def _serve(connection: Blocking, server: int, initial: bytes) -> None:
    from multiprocessing import context

    gc.freeze()  # what is made from here on is the user's; _leave looks at nothing else
    context._default_context._actual_context = _LokyWhenNeeded()  # type: ignore[attr-defined]
    serve(lambda: pickle.loads(initial), server, connection)
