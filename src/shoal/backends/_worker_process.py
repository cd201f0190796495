"""The main function of a worker process that is forked by a server or started by exec.

::

    _forked.main   adopts the common state of workers, forks ──┐
                                                               ├──> run: starts, serves its connection, ends
    work           a new interpreter does the same by itself ──┘

The user's code cannot tell which of the two it runs in (tests/backends/test_worker_probe.py).
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

from shoal.backends._bootstrap import Assignment, die_with, flush_streams, libc, serve, set_up_signals
from shoal.backends._messages import Blocking
from shoal.backends._stacks import answer_requests
from shoal.backends._surroundings import follow

mp: Any = multiprocessing  # this module uses private names of it

_exit = libc().exit  # looked up here, because a lookup in a forked worker would copy memory


class Common(NamedTuple):
    """The state that is the same for many workers. A server adopts it before it forks them."""

    caller: int
    parent_name: str
    authkey: bytes
    log_level: int | None  # of multiprocessing's messages to stderr; None: they are off
    path: list[str]
    argv: list[str]
    cwd: str | None
    files: tuple[int, int]  # the limits of open descriptors
    variables: dict[str, str | None]


class Beginning(NamedTuple):
    """The first message to a worker."""

    common: bytes  # a pickle of :class:`Common`
    name: str
    assignment: tuple[int, tuple[int, ...] | None, int]  # index, CPUs and depth
    initial: bytes  # a pickle of the user's initializer and its arguments; empty if there is none


def work(fd: int, tracker: int, *others: int) -> None:
    """Run a worker in a process that was started by exec.

    It inherits the descriptors of its connection, of the caller's resource tracker, and `others`.
    """
    for descriptor in (fd, tracker, *others):
        os.set_inheritable(descriptor, False)
    connection = Blocking(socket.socket(fileno=fd))
    try:
        beginning = Beginning(*pickle.loads(connection.receive()))
    except (EOFError, OSError):  # the caller has ended or aborted the start
        os._exit(1)
    common = Common(*pickle.loads(beginning.common))
    set_up_signals(common.caller)
    mp.util._close_stdin()
    answer_requests()
    sys.argv[:] = common.argv
    sys.modules["__main__"] = types.ModuleType("__main__")  # hides this interpreter's own main module
    follow(common.path, common.cwd, common.variables)
    process = started_process(tracker)
    process.name = beginning.name
    set_parent(process, common)
    gc.freeze()  # later objects may be the user's; `_exit_process` examines only those
    gc.enable()
    run(connection, common, beginning, common.caller)


def started_process(tracker: int) -> Any:
    """Set this process up like one that multiprocessing has started; return its process object.

    This replaces the first part of `Process._bootstrap`; `run` replaces the rest.
    """
    process = mp.process._current_process = mp.context.Process()
    mp.process._process_counter = itertools.count(1)
    mp.context._default_context._actual_context = _LokyWhenNeeded()
    mp.resource_tracker._resource_tracker._fd = tracker
    return process


def set_parent(process: Any, common: Common) -> None:
    """Make the caller the parent of this process in multiprocessing's view."""
    mp.process._parent_process = mp.process._ParentProcess(common.parent_name, common.caller, None)
    process._parent_pid, process._parent_name = common.caller, common.parent_name
    if common.authkey:
        process.authkey = common.authkey


class _LokyWhenNeeded:
    """The start method of a worker's children: loky's. It imports loky on first use."""

    _name = "loky"

    def __getattr__(self, name: str) -> Any:
        from shoal.errors import import_loky

        import_loky()
        from loky.backend.context import LokyContext

        mp.context._default_context._actual_context = LokyContext()
        return getattr(mp.context._default_context._actual_context, name)


def run(connection: Blocking, common: Common, beginning: Beginning, server: int) -> None:
    """Run a worker until this process ends."""
    die_with(server)
    threading.main_thread()._set_native_id()  # type: ignore[attr-defined]
    if common.log_level is not None:
        mp.util.log_to_stderr(common.log_level)
    code = 1
    try:
        _initialize()
        index, cpus, depth = beginning.assignment
        initial = beginning.initial
        serve(Assignment(index, {}, cpus, depth), lambda: pickle.loads(initial) if initial else (None, ()), connection)
        mp.util._exit_function()
        code = 0
    except BaseException:
        traceback.print_exc()
    threading._shutdown()  # type: ignore[attr-defined]
    _exit_process(code)


#: Files that need only a flush at exit.
_PLAIN_FILES = {
    *(io.FileIO, io.BufferedReader, io.BufferedWriter, io.BufferedRandom, io.TextIOWrapper, io.BytesIO, io.StringIO)
}


def _exit_process(code: int) -> None:
    """End this process. Run the observable parts of an interpreter's exit: exit handlers, file flushes, finalizers.

    A full exit would also free all modules. That takes longer than all other work for one call, and copies shared
    memory.
    """
    atexit._run_exitfuncs()
    flush_streams()
    objects = gc.get_objects()  # without the frozen objects, which are older than the first call
    finalized = {kind for kind in set(map(type, objects)) if any("__del__" in vars(base) for base in kind.__mro__)}
    if finalized - _PLAIN_FILES:
        sys.exit(code)
    for file in objects if finalized else ():
        if type(file) in _PLAIN_FILES:
            with contextlib.suppress(ValueError, OSError):  # closed, or not writable
                file.flush()
    _exit(code)  # unlike os._exit, this runs the exit handlers of compiled code


def _initialize() -> None:
    """Seed numpy's generator, set the BLAS threads, and enable the fault handler of a forked process."""
    if numpy_random := sys.modules.get("numpy.random"):
        numpy_random.seed()
    if "numpy" in sys.modules:
        from shoal.backends._blas import restore_blas_threads

        restore_blas_threads()
    if "PYTHONFAULTHANDLER" not in os.environ and sys.stderr is not None:
        faulthandler.enable()
