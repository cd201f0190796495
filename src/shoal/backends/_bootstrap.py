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

from shoal._forks import BACKENDS, after_fork_in_child
from shoal._platform.cpus import bind
from shoal._platform.processes import end_with, has_kqueue
from shoal.backends._failure import Failure, failure_of
from shoal.backends._messages import Blocking
from shoal.backends.base import be_worker, in_main_thread

#: The first byte of a message to the parent that is no answer. A pickle begins with another one.
NOTE = b"n"

_PR_SET_PDEATHSIG = 1
_F_SETSIG = 10

_connection: Blocking | None = None


class Assignment:
    """The index of a worker process, and what the process gets for that index.

    Unpickling it sets the variables, because whatever is unpickled after it may import modules that read them.

    Parameters
    ----------
    index
        The worker's index.
    variables
        Environment variables to set; None as a value removes the variable.
    cpus
        The CPUs to run on; None for all.
    depth
        How deep this worker is nested in other workers.
    """

    def __init__(
        self, index: int, variables: dict[str, str | None], cpus: tuple[int, ...] | None, depth: int = 1
    ) -> None:
        self.index, self.variables, self.cpus, self.depth = index, variables, cpus, depth

    def __reduce__(self) -> Any:
        return _assigned, (self.index, self.variables, self.cpus, self.depth)

    def apply(self) -> None:
        """Apply the index and the CPUs to this process. The variables are set already."""
        be_worker(self.index, self.depth)
        if self.cpus is not None:
            bind(self.cpus)


def _assigned(*given: Any) -> Assignment:
    assignment = Assignment(*given)
    set_variables(assignment.variables)
    return assignment


def set_variables(variables: Mapping[str, str | None]) -> None:
    """Set environment variables of this process; None as a value removes the variable."""
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def set_up_signals(parent: int) -> None:
    """Let this process end with its parent, and let Ctrl-C interrupt it only while it runs a call."""
    die_with(parent)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # inherited from a parent that ignores it
        signal.signal(signal.SIGINT, on_interrupt)


def received(initial: tuple[Any, Any] | None, connection: Blocking) -> Callable[[], tuple[Any, Any]]:
    """Return what :func:`serve` takes as `initial`: for None, the first message is read."""
    return lambda: pickle.loads(connection.receive()) if initial is None else initial


def serve(assignment: Assignment, initial: Callable[[], tuple[Any, Any]], connection: Blocking) -> None:
    """Run what the parent sends, and answer each message, until an empty one comes.

    Parameters
    ----------
    assignment
        Which worker this process is.
    initial
        Returns the user's initializer, or None, with its arguments. If it fails, each call raises its exception, so
        that the run fails with that exception and not with a dead worker.
    connection
        The socket to the parent.
    """
    global _connection
    _connection = connection
    failure: Failure | None = None
    try:
        assignment.apply()
        initializer, initargs = initial()
        if initializer is not None:
            initializer(*initargs)
    except BaseException as error:
        failure = failure_of(error, error)
    try:
        while message := connection.receive():
            answer = _answer(message) if failure is None else _encoded(None, failure)
            del message  # its memory is free while the worker waits
            flush_streams()
            connection.send(answer)
            del answer
    except (EOFError, OSError):  # the parent has ended, and nobody is left who could be told anything
        os._exit(1)
    _end_executors()
    connection.leave()


def can_tell() -> bool:
    """Return whether this process is a worker that can :func:`tell`."""
    return _connection is not None


def tell(note: bytes) -> None:
    """Send a note to the run whose message this worker handles, before the answer. Thread-safe.

    It waits as long as the run is too far behind with its notes; Ctrl-C interrupts that. When a note is half sent,
    KeyboardInterrupt has to wait for the other half, without which the rest of the stream would be unreadable.

    Raises
    ------
    OSError
        If the parent has ended, or this process is no worker, but a fork of one.
    """
    if _connection is None:
        raise OSError("this process has no connection to a caller")
    if not in_main_thread():  # signals are handled in the main thread
        _connection.send(NOTE + note)
        return
    _connection.wait_for_room()
    active, interruptible.active, interruptible.late = interruptible.active, False, False
    try:
        _connection.send(NOTE + note)
    except OSError:
        raise
    except BaseException:  # a signal handler of the user's has raised it; perhaps half of the note is sent
        os._exit(1)
    finally:
        interruptible.active = active
    if interruptible.late and active:
        raise KeyboardInterrupt


def _disconnect() -> None:
    """Forget the connection, in a fork of this worker: two processes that write to it would mix their messages."""
    global _connection
    _connection = None


after_fork_in_child(_disconnect, BACKENDS)


def _answer(message: bytes | bytearray) -> bytes:
    """Call the function in a message with its arguments; return the pickled result, or the pickled failure."""
    try:
        function, args = pickle.loads(message)
        return _encoded(function(*args), None)
    except BaseException as error:
        return _encoded(None, failure_of(error, error))


def _encoded(value: Any, failure: Failure | None) -> bytes:
    return pickle.dumps((value, failure), pickle.HIGHEST_PROTOCOL)


def flush_streams() -> None:
    """Flush the standard streams, so that what calls have printed appears before their results.

    A stream that is not a terminal would keep the text until this process ends, which may be much later. If a signal
    ends the process, the text would be lost. With empty buffers this takes less than a microsecond.
    """
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            try:
                stream.flush()
            except BaseException:  # the stream may be closed or broken, which is no reason to lose results
                pass


def _end_executors() -> None:
    """Shut down executors that calls have left open, as the end of an interpreter does.

    Otherwise multiprocessing, when it ends this process, would wait for ever for their idle child processes.
    """
    at_exit: list[Callable[[], object]] = threading._threading_atexits  # type: ignore[attr-defined]
    while at_exit:
        at_exit.pop()()


def die_with(parent: int) -> None:
    """Let the kernel kill this process when its parent ends, however that happens.

    On Windows, the parent has put this process into a job, which does the same. On Linux, the kernel sends the signal
    when the *thread* ends that started this process. The pool's thread starts all workers, and it lasts as long as the
    parent. On macOS, a thread of this process does what it can.
    """
    if sys.platform == "linux":
        libc().prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent and not _die_with_pipe(parent):  # it ended before the call
            os._exit(1)
    elif has_kqueue():
        end_with(parent)


@functools.cache
def libc() -> Any:
    """Return the C library. Its functions run without releasing the interpreter's lock."""
    import ctypes

    return getattr(ctypes, "PyDLL", ctypes.CDLL)(None)  # PyPy lacks PyDLL


def _die_with_pipe(parent: int) -> bool:
    """Let the kernel kill this child of a fork server when the other end of the program's pipe is closed.

    Nothing is written to that pipe any more, so the next event on it, which sends the signal, is its end.

    Returns
    -------
    Whether the program still runs.
    """
    from multiprocessing import parent_process

    program = parent_process()
    fd: int | None = getattr(program, "sentinel", None)  # children of loky have none
    if program is None or fd is None or program.pid != parent:
        return False
    if sys.platform == "linux":
        import fcntl

        fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(fd, _F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC)
    return program.is_alive()


class interruptible:
    """A block in which Ctrl-C interrupts this worker. Outside of it, Ctrl-C would kill idle workers.

    The handler is a Python function, so that programs which a call starts do not inherit it.
    """

    active = False
    late = False  # whether an interrupt came outside of such a block

    def __enter__(self) -> None:
        interruptible.active = True

    def __exit__(self, *_: object) -> None:
        interruptible.active = False


def on_interrupt(_signal: int, _frame: object) -> None:
    """Handle SIGINT in a worker."""
    if interruptible.active:
        raise KeyboardInterrupt
    interruptible.late = True
