"""One worker process, as its parent sees it: a socket, the items that it has not answered, and its end.

::

    any thread:       send ─────── writes what the socket takes at once ──────> worker
    the pool's loop:               writes the rest when there is room ────────>
                      answered <── one answer for each message, in order ────── worker
                      ended <───── the socket was closed, and somebody reported the exit code, in either order;
                                   all answers that had come are delivered before
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import BrokenExecutor, Future
from typing import Any, Protocol

from shoal._platform.processes import send_fails_at_end, socket_pair
from shoal.backends._bootstrap import NOTE
from shoal.backends._failure import rebuilt
from shoal.backends._guard import UNGUARDED, missing_main_guard
from shoal.backends._loop import Loop
from shoal.backends._messages import Reader, framed
from shoal.backends._surroundings import current

#: What a socket takes before it is read, in bytes: to the worker, and, where the system does not bound it, back.
BUFFER_BYTES, BACK_BYTES = 256 * 1024, 32 * 1024
#: After a process has closed its socket, its exit should be reported within this many seconds. If it is not, the
#: process is killed, and after the same time again it counts as dead.
DEAF_SECONDS = 1.0
#: Windows has one way of ending a process, and calls it so.
_SIGKILL: int = getattr(signal, "SIGKILL", signal.SIGTERM)


def fill_standard_streams() -> None:
    """Open /dev/null as those of the descriptors 0 to 2 that are closed.

    Otherwise the socket to a worker could become a standard stream of the worker, which would print into its results.
    """
    if os.name == "posix":
        with contextlib.suppress(OSError):  # then no worker can be started either, and that error is reported
            while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
                os.set_inheritable(fd, True)
            os.close(fd)


class Item:
    """Something for a worker process to do.

    Attributes
    ----------
    turn
        The ``Turn`` of the run that has submitted it.
    future, message
        The future of its result, and the message to send.
    begun
        Whether the future was marked as running: an item of a dead worker is sent again.
    """

    __slots__ = ("begun", "future", "message", "turn")

    def __init__(self, turn: Any, future: Future[Any], message: bytes, begun: bool = False) -> None:
        self.turn, self.future, self.message, self.begun = turn, future, message, begun

    def begin(self) -> bool:
        """Mark the future as running; return False if it was cancelled or has a result."""
        if self.begun and self.future.running():
            return True
        if self.begun and self.future.done() and not self.future.cancelled():
            return False  # an interrupt came before the item was removed
        self.begun = True
        return self.future.set_running_or_notify_cancel()


def fail(items: Iterable[Item], error: BaseException) -> None:
    """Set the exception of items, except of those that were cancelled."""
    for item in items:
        if item.begin():
            item.future.set_exception(error)


class Child(Protocol):
    """A process that was started, or is about to start."""

    #: The process id; None while it is unknown.
    pid: int | None

    def kill(self) -> None:
        """Kill the process and all its descendants; do not wait for them to end."""


class Owner(Protocol):
    """The owner of a process. Its methods are called in the loop's thread."""

    lock: threading.RLock

    def answered(self, process: Process, value: Any, error: BaseException | None) -> None:
        """Handle the answer to the first item of a process."""

    def noted(self, process: Process, note: bytes) -> None:
        """Handle a note, which the process has sent while it handles its first item."""

    def ended(self, process: Process, error: BaseException) -> None:
        """Handle the end of a process: no more answers will come, for the reason given."""


class Process:
    """A worker process.

    Parameters
    ----------
    owner
        Receives the answers and the end.
    loop
        The thread that waits for both.

    Attributes
    ----------
    items
        The items that were sent and have no answer.
    began
        Whether the process has answered anything.
    paused
        Whether nothing is read from the process, until :meth:`resume` or its end.
    surroundings
        The surroundings of the program that the process follows.
    versions
        The versions of the user's modules that the process may have imported.
    own
        Environment variables of this process alone. It does not follow the program's values of them.

    Notes
    -----
    The owner's lock guards :meth:`send`, :meth:`end`, `items` and `surroundings`. All other methods belong to the
    loop's thread unless their docstrings name another.
    """

    def __init__(self, owner: Owner, loop: Loop) -> None:
        self.items: deque[Item] = deque()
        self.surroundings = current()
        self.versions = dict(self.surroundings.modules)
        self.own: dict[str, str | None] = {}
        self._owner = owner
        self._loop = loop
        self._child: Child | None = None
        self._late: deque[memoryview] = deque()  # the parts of messages that the socket has not taken yet
        self.began = False
        self.paused = False
        self._over = False
        self._connection, self.theirs = socket_pair(BUFFER_BYTES, BACK_BYTES)
        self._connection.setblocking(False)
        self._tells_end = send_fails_at_end(self._connection)
        self._reader = Reader(self._connection)

    def start(self, start: Callable[[Process], Child]) -> None:
        """Start the process with a function that passes `theirs`, the worker's end of the socket, to it."""
        try:
            self._child = start(self)
        except BaseException:
            self._connection.close()
            raise
        finally:
            self.theirs.close()
        self._loop.watch(self._connection.fileno(), self._ready)

    @property
    def pid(self) -> int | None:
        """The process id; None while it is unknown. May be read in any thread."""
        return None if self._child is None else self._child.pid

    @property
    def ended_silently(self) -> bool:
        """Whether the process has closed its socket, and :meth:`send` would not tell. May be read in any thread."""
        if self._tells_end:
            return False
        try:
            return not self._connection.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def send(self, message: bytes | None = None) -> None:
        """Send a message as far as the socket takes it now; the loop sends the rest later. Any thread may call it.

        Parameters
        ----------
        message
            The message; None for the rest of earlier ones.

        Raises
        ------
        ConnectionError
            If the process has ended.
        """
        late = self._late
        waiting = bool(late)  # the loop waits until the socket has room
        try:
            if message is not None:
                late.extend(framed(message))
            while late:
                sent = self._connection.send(late[0])
                if sent == len(late[0]):
                    late.popleft()
                else:
                    late[0] = late[0][sent:]
        except BlockingIOError:
            pass
        except OSError as error:  # the kind depends on how the process has ended
            late.clear()
            raise ConnectionError("the process is gone") from error
        except BaseException:  # the socket may have taken half of the message
            self.kill()
            raise
        if bool(late) is not waiting:
            self._loop.ask(self._watch)

    def end(self) -> None:
        """Let the process end when it has answered all items. May be called in any thread."""
        with contextlib.suppress(ConnectionError):  # it has ended already
            self.send(b"")

    def pause(self) -> None:
        """Read nothing from the process, so that it waits when it has filled the socket."""
        self.paused = True
        self._watch()

    def resume(self) -> None:
        """Read from the process again. May be called in any thread."""
        if self.paused:
            self.paused = False
            self._loop.ask(self._watch)

    def kill(self) -> None:
        """Kill the process and all its descendants. May be called in any thread."""
        child = self._child
        if child is not None:
            child.kill()

    def exited(self, exit_code: int | None) -> None:
        """Handle the end of the process, after the answers that came before it.

        Parameters
        ----------
        exit_code
            The exit code; the negative number of the signal that has killed the process; None if it is unknown.
        """
        if not self._over:
            if self._connection.family == socket.AF_INET:  # the system still sends what the process has written
                self._connection.settimeout(DEAF_SECONDS)
            while self._read():
                pass
            if exit_code == UNGUARDED and not self.began:
                self.close(missing_main_guard())
                return
            error = BrokenExecutor("the worker process has ended")
            error.exit_code = exit_code  # type: ignore[attr-defined]
            self.close(error)

    def die(self) -> None:
        """Handle the end of a process that was killed and whose end nobody will report."""
        self._loop.later(0.02, lambda: self.exited(-_SIGKILL))

    def close(self, error: BaseException) -> None:
        """Close the socket, and tell the owner why no more answers will come."""
        if not self._over:
            self._over = True
            self._loop.unwatch(self._connection.fileno())
            self._connection.close()
            self._child = None  # breaks a reference cycle
            self._owner.ended(self, error)

    def abandon(self) -> None:
        """Close the socket's descriptors in a forked child, to which the worker does not belong."""
        for end in (self._connection, self.theirs):
            if end.fileno() >= 0:
                os.close(end.detach())

    def _watch(self) -> None:
        if self._over:
            return
        if self.paused and not self._late:
            self._loop.unwatch(self._connection.fileno())
        else:
            self._loop.watch(self._connection.fileno(), self._ready, not self.paused, writable=bool(self._late))

    def _ready(self) -> None:
        """Write what is late, then read what has come."""
        if self._late:
            with self._owner.lock, contextlib.suppress(ConnectionError):  # reading reports it as well
                self.send()
        if self.paused:  # the end of the process is reported, whether its socket is watched or not
            self._watch()
        elif self._read() is None and not self._over:
            # The worker has closed its end. Either its exit is reported soon, or the process is of no use any more.
            self._loop.unwatch(self._connection.fileno())
            self._loop.later(DEAF_SECONDS, self._deaf)

    def _read(self) -> bool | None:
        """Read once and deliver the answers; return whether there was something to read, or None at the end."""
        try:
            messages = self._reader.read()
        except BlockingIOError:
            return False
        except (EOFError, OSError):
            return None
        except BaseException as error:  # no memory, for example: the rest of the stream cannot be split into answers
            self._fail(error)
            return None
        for message in messages:
            self.began = True
            try:
                if message[:1] == NOTE:
                    self._owner.noted(self, bytes(message[1:]))
                else:
                    self._owner.answered(self, *decoded(message))
            except BaseException as error:
                self._fail(error)
                return None
        return True

    def _deaf(self) -> None:
        if not self._over:
            self.kill()
            self._loop.later(DEAF_SECONDS, self._lost)

    def _lost(self) -> None:
        self.exited(None)

    def _fail(self, error: BaseException) -> None:
        self.kill()
        self.close(error)


def decoded(message: bytes | bytearray) -> tuple[Any, BaseException | None]:
    """Return the value and the exception in an answer."""
    try:
        value, failure = pickle.loads(message)
    except MemoryError:
        raise
    except Exception as error:
        return None, error
    return value, None if failure is None else rebuilt(failure, "a worker process")


def kill_tree(pid: int) -> None:
    """Kill a process and all its descendants, as far as the system lists them."""
    for each in [pid, *descendants_of(pid)]:
        try:
            os.kill(each, _SIGKILL)
        except OSError:
            continue


def descendants_of(pid: int) -> list[int]:
    """Return the ids of all descendants of a process, as far as the system lists them."""
    children = children_of(pid)
    return children + [below for child in children for below in descendants_of(child)]


def children_of(pid: int) -> list[int]:
    """Return the ids of the children of a process, as far as the system lists them."""
    found: list[int] = []
    with contextlib.suppress(OSError):  # it has ended
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children") as file:
                found.extend(map(int, file.read().split()))
    return found
