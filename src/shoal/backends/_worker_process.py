"""A worker process of shoal's own, from its first message to its end: forked by a server, or started by exec.

::

    _forked.main   adopts what workers have in common, forks ──┐
                                                               ├──> run: begins, serves its connection, leaves
    work           a fresh interpreter does the same by itself ┘

A worker cannot tell which of the two it is (tests/backends/test_worker_probe.py).
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import gc
import io
import itertools
import multiprocessing.resource_tracker
import multiprocessing.util
import os
import pickle
import socket
import sys
import threading
import traceback
import types
from typing import Any, NamedTuple

from shoal.backends._bootstrap import Place, die_with, flush_streams, heed, libc, serve
from shoal.backends._messages import Blocking
from shoal.backends._surroundings import follow

mp: Any = multiprocessing  # much of what is used of it is not public

_exit = libc().exit  # to look it up in a worker would touch memory


class Common(NamedTuple):
    """The part of a worker's beginning that workers have in common; a server adopts it before it forks them."""

    caller: int
    parent_name: str
    authkey: bytes
    log_level: int | None  # of multiprocessing's messages to stderr, if they are wanted
    path: list[str]
    argv: list[str]
    cwd: str | None
    files: tuple[int, int]  # the limits of open descriptors
    variables: dict[str, str | None]


class Beginning(NamedTuple):
    """How a worker begins; the caller sends it before the first message."""

    common: bytes  # a pickle of :class:`Common`
    name: str
    place: tuple[int, tuple[int, ...] | None, int]  # index, CPUs and depth
    initial: bytes  # a pickle of the user's initializer with its arguments; empty without one


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
        begins = Beginning(*pickle.loads(connection.receive()))
    except (EOFError, OSError):  # the caller is gone, or does not want the worker any more
        os._exit(1)
    told = Common(*pickle.loads(begins.common))
    heed(told.caller)
    mp.util._close_stdin()
    sys.argv[:] = told.argv
    sys.modules["__main__"] = types.ModuleType("__main__")  # nothing of this program is seen there
    follow(told.path, told.cwd, told.variables)
    process = started_process(tracker)
    process.name = begins.name
    belong(process, told)
    gc.freeze()  # what is made from here on is the user's; _leave looks at nothing else
    run(connection, told, begins, told.caller)


def started_process(tracker: int) -> Any:
    """Turn this process into one that multiprocessing has started; return its process object.

    This is what `Process._bootstrap` does first; `run` does the rest of it.
    """
    process = mp.process._current_process = mp.context.Process()
    mp.process._process_counter = itertools.count(1)
    mp.context._default_context._actual_context = _LokyWhenNeeded()
    mp.resource_tracker._resource_tracker._fd = tracker
    return process


def belong(process: Any, told: Common) -> None:
    """Make the caller the parent of this process, for multiprocessing."""
    mp.process._parent_process = mp.process._ParentProcess(told.parent_name, told.caller, None)
    process._parent_pid, process._parent_name = told.caller, told.parent_name
    if told.authkey:
        process.authkey = told.authkey


class _LokyWhenNeeded:
    """The start method of a worker's children, loky's, for which loky is imported when they are started."""

    _name = "loky"

    def __getattr__(self, name: str) -> Any:
        from shoal.errors import import_loky

        import_loky()
        from loky.backend.context import LokyContext

        mp.context._default_context._actual_context = LokyContext()
        return getattr(mp.context._default_context._actual_context, name)


def run(connection: Blocking, told: Common, begins: Beginning, server: int) -> None:
    """Run a worker, up to the end of this process."""
    die_with(server)
    threading.main_thread()._set_native_id()  # type: ignore[attr-defined]
    if told.log_level is not None:
        mp.util.log_to_stderr(told.log_level)
    code = 1
    try:
        mp.process._children.clear()  # they are the server's
        mp.process.BaseProcess._after_fork()
        _settle()
        index, cpus, depth = begins.place
        initial = begins.initial
        serve(Place(index, {}, cpus, depth), lambda: pickle.loads(initial) if initial else (None, ()), connection)
        mp.util._exit_function()
        code = 0
    except BaseException:
        traceback.print_exc()
    threading._shutdown()  # type: ignore[attr-defined]
    _leave(code)


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
    _exit(code)  # with the hooks of compiled code, which os._exit leaves out


def _settle() -> None:
    """Give this process random states, BLAS threads and a handler of crashes of its own."""
    if numpy_random := sys.modules.get("numpy.random"):
        numpy_random.seed()
    if "numpy" in sys.modules:
        from shoal.backends._blas import follow_thread_variables

        follow_thread_variables()
    if "PYTHONFAULTHANDLER" not in os.environ and sys.stderr is not None:
        faulthandler.enable()
