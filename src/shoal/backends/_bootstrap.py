"""What a worker process does: before its first call, between calls, and when it is interrupted."""

from __future__ import annotations

import functools
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

from shoal.backends._failure import Failure, failure_of
from shoal.backends._messages import Blocking
from shoal.backends.base import be_worker

_PR_SET_PDEATHSIG = 1
_F_SETSIG = 10

_connection: Blocking
_failed: Failure | None = None


class Place:
    """Which worker of its kind a process is, and what it is given for that.

    Where it is unpickled, its variables are set: what is unpickled after it may import anything.

    Parameters
    ----------
    index
        The worker's index.
    variables
        Variables of its environment; None: there is none of that name.
    cpus
        The CPUs to run on; None: all.
    depth
        How deep it is in workers of workers.
    """

    def __init__(
        self, index: int, variables: dict[str, str | None], cpus: tuple[int, ...] | None, depth: int = 1
    ) -> None:
        self.index, self.variables, self.cpus, self.depth = index, variables, cpus, depth

    def __reduce__(self) -> Any:
        return _arrive, (self.index, self.variables, self.cpus, self.depth)

    def take(self) -> None:
        """Make this process the worker that belongs here; its variables are set."""
        be_worker(self.index, self.depth)
        if self.cpus is not None:
            os.sched_setaffinity(0, self.cpus)


def _arrive(*given: Any) -> Place:
    place = Place(*given)
    set_variables(place.variables)
    return place


def set_variables(variables: Mapping[str, str | None]) -> None:
    """Set variables of this process's environment; None takes one away."""
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def heed(parent: int) -> None:
    """Have this process end with its parent, and be interrupted only while it runs a call."""
    die_with(parent)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as the parent may have been told to do
        signal.signal(signal.SIGINT, on_interrupt)


def serve(place: Place, initial: Callable[[], tuple[Any, Any]], connection: Blocking) -> None:
    """Run what the parent sends, and answer each message, until one is empty.

    Parameters
    ----------
    place
        Which worker this is.
    initial
        Returns the user's initializer, or None, with its arguments. What that raises is raised instead of the worker's
        calls, so that a run fails with that error and not with a dead worker.
    connection
        Where messages come from.
    """
    global _connection, _failed
    _connection = connection
    try:
        place.take()
        initializer, initargs = initial()
        if initializer is not None:
            initializer(*initargs)
    except BaseException as error:  # kept for the answers, so that it is raised where the caller sees it
        _failed = failure_of(error, error)
    while message := _received():
        answer = _answer(message)
        del message  # which the next is waited for without
        flush_streams()
        _send(answer)
        del answer
    _end_executors()
    _connection.leave()


def flush_streams() -> None:
    """Write out what calls have printed, before their answer is sent.

    A stream that is no terminal keeps it until this process ends, which may be much later, or by a signal. Where
    nothing is kept, this takes less than a microsecond.
    """
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            try:
                stream.flush()
            except BaseException:  # it is closed, has no reader, or is of a user's own class: no reason to lose results
                pass


def _received() -> bytes | bytearray:
    try:
        return _connection.receive()
    except (EOFError, OSError):  # the parent is gone: nobody is left to be told anything
        os._exit(1)


def _send(answer: bytes) -> None:
    try:
        _connection.send(answer)
    except OSError:
        os._exit(1)


def _end_executors() -> None:
    """End the processes of executors that calls have left open, as the end of an interpreter would.

    multiprocessing, which ends this process, waits for its children first, and idle ones wait to be told.
    """
    at_exit: list[Callable[[], object]] = threading._threading_atexits  # type: ignore[attr-defined]
    while at_exit:
        at_exit.pop()()


def _answer(message: bytes | bytearray) -> bytes:
    """Call the function in a message with its arguments; return the pickle of its value, and of how it has failed."""
    failure = _failed
    if failure is None:
        try:
            fn, args = pickle.loads(message)
            return pickle.dumps((fn(*args), None), pickle.HIGHEST_PROTOCOL)
        except BaseException as error:
            failure = failure_of(error, error)
    return pickle.dumps((None, failure), pickle.HIGHEST_PROTOCOL)


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent ends, however that ends, also while compiled code runs here.

    The signal comes when the *thread* that started this process ends; the pool starts its workers in one that lasts.
    """
    if sys.platform == "linux":
        libc().prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent and not _die_with_pipe(parent):  # it ended before the call
            os._exit(1)


@functools.cache
def libc() -> Any:
    """Return the C library; the interpreter's lock is held while a function of it runs."""
    import ctypes

    return ctypes.PyDLL(None)


def _die_with_pipe(parent: int) -> bool:
    """Have the kernel kill this process, a fork server's child, when nobody holds the other end of its parent's pipe.

    Return whether that is open. The pipe has no data any more; a signal comes with the next thing that happens to it.
    """
    import fcntl
    from multiprocessing import parent_process

    program = parent_process()
    fd: int | None = getattr(program, "sentinel", None)  # loky's have none
    if program is None or fd is None or program.pid != parent:
        return False
    fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(fd, _F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC)
    return program.is_alive()


class interruptible:
    """While it is entered, Ctrl-C interrupts the call that runs; between calls it must not, or idle workers would die.

    The handler is a Python function, so that programs which a call starts do not inherit it.
    """

    active = False

    def __enter__(self) -> None:
        interruptible.active = True

    def __exit__(self, *_: object) -> None:
        interruptible.active = False


def on_interrupt(_signal: int, _frame: object) -> None:
    """Handle SIGINT in a worker."""
    if interruptible.active:
        raise KeyboardInterrupt
