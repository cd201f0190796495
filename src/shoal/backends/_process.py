"""One worker process, as its parent sees it: a connection, what was sent and not answered, how it has ended.

::

    any thread:   send ────── writes what the socket takes at once ──────> worker
    the loop:     the rest, when there is room ──────────────────────────>
                  answered <── one answer to each message, in order ────── worker
                  ended <───── the connection has come to its end, and somebody has said how the process has ended,
                               in either order; what was answered before is read first
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Future
from typing import Any, NamedTuple, Protocol

from shoal.backends._failure import rebuilt
from shoal.backends._guard import UNGUARDED, missing_main_guard
from shoal.backends._loop import Loop
from shoal.backends._messages import Reader, framed
from shoal.backends._surroundings import current

#: What a socket is asked to hold, in bytes.
BUFFER_BYTES = 256 * 1024
#: A process that has closed its end of the connection, and of whose end nothing is heard in so many seconds, is killed;
#: and so many seconds later it counts as dead.
DEAF_SECONDS = 1.0


class Item(NamedTuple):
    """Something for a worker process to do."""

    turn: Any  # whose it is
    future: Future[Any]
    message: bytes


class Child(Protocol):
    """A process that was started, or asked for."""

    #: None as long as it is not known.
    pid: int | None

    def kill(self) -> None:
        """Kill it, and all that it has started, without waiting for their ends."""


class Owner(Protocol):
    """Who has a process; its methods are called in the loop's thread."""

    lock: threading.RLock

    def answered(self, process: Process, value: Any, error: BaseException | None) -> None:
        """Take the answer to the first of the process's items."""

    def ended(self, process: Process, error: BaseException) -> None:
        """Take note that no answer will come any more, and why."""


class Process:
    """A worker process.

    Parameters
    ----------
    owner
        Is told of answers, and of the end.
    loop
        The thread that waits for both.

    Attributes
    ----------
    items
        What was sent and is not answered.
    pid
        Its id; None as long as it is not known.
    surroundings
        Those of the program that it has.
    versions
        The versions of the user's modules that it may have imported.
    own
        Variables that are its own, whatever the program's are.

    Notes
    -----
    :meth:`send`, `items` and `surroundings` are guarded by a lock of the owner's. All else belongs to the loop's
    thread, where nothing else is said.
    """

    def __init__(self, owner: Owner, loop: Loop) -> None:
        self.items: deque[Item] = deque()
        self.surroundings = current()
        self.versions = dict(self.surroundings.modules)
        self.own: dict[str, str | None] = {}
        self._owner = owner
        self._loop = loop
        self._child: Child | None = None
        self._late: deque[memoryview] = deque()  # what the socket has not taken yet
        self._began = False  # whether an answer has come
        self._over = False
        self._connection, self.theirs = socket.socketpair()
        self._connection.setblocking(False)
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
        self._reader = Reader(self._connection)

    def prepare(self, message: bytes) -> None:
        """Send something that is not answered, before all else."""
        self._write(message)

    def start(self, start: Callable[[Process], Child]) -> None:
        """Start the process by a function that gives it `theirs`, the worker's end of the connection."""
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
        """Its id; None as long as it is not known. In any thread."""
        return None if self._child is None else self._child.pid

    @property
    def alive(self) -> bool:
        """Whether it can take messages, as far as is known. In any thread."""
        try:
            return bool(self._connection.recv(1, socket.MSG_PEEK))
        except BlockingIOError:
            return True
        except OSError:
            return False

    def send(self, item: Item) -> None:
        """Send the message of an item, without waiting for the worker, whatever that does. In any thread.

        Raises
        ------
        ConnectionError
            If the process is gone. Then the item is none of `items`.
        """
        self.items.append(item)  # first, since an interrupt may come at any time
        try:
            self._write(item.message)
        except ConnectionError:
            self.items.pop()
            raise
        except BaseException:  # half of it may be on its way
            self.kill()
            raise

    def end(self) -> None:
        """Have the process end when it has answered everything. In any thread, under the owner's lock."""
        try:
            self._write(b"")
        except ConnectionError:  # it is gone
            pass

    def kill(self) -> None:
        """Kill the process, and all that it has started. In any thread."""
        child = self._child
        if child is not None:
            child.kill()

    def exited(self, exit_code: int | None) -> None:
        """Take note of how the process has ended."""
        if not self._over:
            while self._read():
                pass
            if exit_code == UNGUARDED and not self._began:
                self.close(missing_main_guard())
                return
            error = BrokenExecutor("the worker process has ended")
            error.exit_code = exit_code  # type: ignore[attr-defined]
            self.close(error)

    def die(self) -> None:
        """Take note that the process was killed, of which nobody will tell when it has ended."""
        self._loop.later(0.02, lambda: self.exited(-signal.SIGKILL))

    def close(self, error: BaseException) -> None:
        """Have nothing to do with the process any more: no answer will come, for the reason given."""
        if not self._over:
            self._over = True
            self._loop.unwatch(self._connection.fileno())
            self._connection.close()
            self._child = None  # it refers to this object
            self._owner.ended(self, error)

    def abandon(self) -> None:
        """Close this process's copy of the connection, in a forked child."""
        for end in (self._connection, self.theirs):
            if end.fileno() >= 0:
                os.close(end.detach())

    def _write(self, message: bytes) -> None:
        late = bool(self._late)
        self._late.extend(framed(message))
        if not late and not self._flushed():
            self._loop.ask(self._watch)

    def _flushed(self) -> bool:
        """Write what the socket takes; return whether nothing is left."""
        try:
            while self._late:
                part = self._late[0]
                sent = self._connection.send(part)
                if sent == len(part):
                    self._late.popleft()
                else:
                    self._late[0] = part[sent:]
        except BlockingIOError:
            return False
        except OSError as error:  # of many kinds
            self._late.clear()
            raise ConnectionError("the process is gone") from error
        return True

    def _watch(self) -> None:
        if not self._over:
            self._loop.watch(self._connection.fileno(), self._ready, writable=bool(self._late))

    def _ready(self) -> None:
        """Write what was late, and read what is there."""
        try:
            if self._late:
                with self._owner.lock:
                    if self._flushed():
                        self._watch()
        except ConnectionError:
            pass  # as reading will say, too
        if self._read() is None:
            self._hung_up()

    def _read(self) -> bool | None:
        """Read once, and pass answers on; return whether something was there, None at the end of the connection."""
        try:
            messages = self._reader.read()
        except BlockingIOError:
            return False
        except (EOFError, OSError):
            return None
        except BaseException as error:  # there is no memory, say: no answer can be told from another any more
            self._fail(error)
            return None
        for message in messages:
            self._began = True
            try:
                self._owner.answered(self, *decoded(message))
            except BaseException as error:
                self._fail(error)
                return None
        return True

    def _hung_up(self) -> None:
        """Take note that the worker has closed its end: it has died, as somebody will say, or is of no use."""
        if not self._over:
            self._loop.unwatch(self._connection.fileno())
            self._loop.later(DEAF_SECONDS, self._deaf)

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
    """Return the value in an answer, and the exception."""
    try:
        value, failure = pickle.loads(message)
    except MemoryError:
        raise
    except Exception as error:
        return None, error
    return value, None if failure is None else rebuilt(failure, "a worker process")


def kill_tree(pid: int) -> None:
    """Kill a process and all that descend from it, as far as the system tells which these are."""
    for each in [pid, *_descendants(pid)]:
        try:
            os.kill(each, signal.SIGKILL)
        except OSError:
            continue


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children") as file:
                found.extend(map(int, file.read().split()))
    except OSError:  # it is gone
        pass
    return found + [below for child in found for below in _descendants(child)]
