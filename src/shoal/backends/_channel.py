"""The way to a worker process and back, past the queues of the executor that has started it.

::

    Worker ── send ───────> a pair of sockets ───────> serve(), in the worker process (_bootstrap)
      ^                            │
      └── answered <── a thread ───┘  one answer to each message, in their order

The executor (loky's, or the standard library's) starts the process, knows of its death and ends it. All that it runs
there is one task, which lasts as long as the process is used. What goes through an executor's own queues wakes two
threads on its way there and two on its way back, each of which may have to wait for a CPU that calls use.
"""

from __future__ import annotations

import contextlib
import pickle
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, wait
from typing import TYPE_CHECKING, Any, NamedTuple

from shoal.backends._failure import rebuilt
from shoal.backends._start import UNGUARDED, missing_main_guard
from shoal.backends.base import start_thread
from shoal.errors import WorkerStartError

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

#: As long as what was sent and not answered takes no more bytes, the sockets surely hold it, so that nobody waits for a
#: worker to read. A message takes up to `MESSAGE_BYTES` beside its own.
SURE_BYTES, MESSAGE_BYTES = 64 * 1024, 1024
#: What the sockets are asked to hold, in bytes.
BUFFER_BYTES = 256 * 1024
#: A process that has closed its end, and has not died so many seconds later, is of no use.
DEAF_SECONDS = 1.0

#: What starts a process, given its end of the connection: returns the executor, and the future of its one task.
Start = Callable[["Connection"], tuple[Executor, "Future[None]"]]


class Item(NamedTuple):
    """Something for a worker process to do."""

    turn: Any  # whose it is
    future: Future[Any]
    message: bytes


class Channel:
    """One worker process, which takes messages at any time and answers them one after the other.

    Parameters
    ----------
    start
        Starts the process.
    answered
        Called with each answer, a value or an exception, in a thread of the channel's.
    ended
        Called there once, when no answer will come any more, with the exception that says why.

    Attributes
    ----------
    items
        What was sent and is not answered; `answered` takes the first of them away.
    executor
        What has started the process.
    threads
        Those that live as long as the process, or a little longer.

    Raises
    ------
    Exception
        What `start` raises.

    Notes
    -----
    `items`, and so `send`, are guarded by a lock of the owner's.
    """

    def __init__(
        self,
        start: Start,
        answered: Callable[[Channel, Any, BaseException | None], None],
        ended: Callable[[Channel, BaseException], None],
    ) -> None:
        from multiprocessing import Pipe

        self._answered, self._ended = answered, ended
        self.items: deque[Item] = deque()
        self._lock = threading.Lock()  # over what is late, and the connection's end
        self._late: deque[bytes] = deque()  # messages for which there is surely no room yet
        self._sender: threading.Thread | None = None  # what sends those
        self._began = False  # whether an answer has come
        self._reader = threading.Thread(target=self._read, name="shoal-answers", daemon=True)
        self._connection, theirs = Pipe()
        try:
            try:
                self.executor, self._life = start(theirs)
            finally:
                theirs.close()
        except BaseException:
            self._connection.close()
            raise
        executor: Any = self.executor
        self.threads: list[threading.Thread] = [executor._executor_manager_thread, self._reader]
        # Taken now, since it is gone from there when it has died; this is the one way to its exit code.
        self.process: Any = next(iter(executor._processes.values()), None)
        # This process only reads from it. Were it kept open here, a worker that dies while it writes there would leave
        # the executor waiting for the rest for ever.
        executor._result_queue._writer.close()
        self._with_socket(lambda end: end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES))

    def begin(self) -> None:
        """Begin to pass answers on.

        Raises
        ------
        WorkerStartError
            If the system allows no more threads.
        """
        try:
            start_thread(self._reader, make_room=False)  # the pool does that, without the worker's lock
        except BaseException:
            self._connection.close()
            raise
        self._life.add_done_callback(self._hang_up)

    @property
    def pid(self) -> int | None:
        """The id of the process; None if it had died before it could be known."""
        return None if self.process is None else self.process.pid

    @property
    def alive(self) -> bool:
        """Whether the process has not ended."""
        return self.process is not None and self.process.is_alive()

    def send(self, item: Item) -> None:
        """Send the message of an item, without waiting for the worker, whatever that does.

        Raises
        ------
        ConnectionError
            If the process is gone.
        WorkerStartError
            If a thread is needed and the system allows no more.

        Then the item is none of `items`.
        """
        self.items.append(item)  # first, since an interrupt may come at any time
        try:
            taken = sum(len(item.message) + MESSAGE_BYTES for item in self.items)
            self._send(item.message, taken <= SURE_BYTES)
        except (ConnectionError, WorkerStartError):
            self.items.pop()
            raise
        except BaseException:  # half of it may be on its way
            self.kill()
            raise

    def end(self) -> None:
        """Have the process end its task when it has answered everything."""
        with contextlib.suppress(ConnectionError):  # it is gone
            self._send(b"", not self.items)

    def kill(self) -> None:
        """Kill the process; its executor will notice."""
        if self.process is not None:
            self.process.kill()

    def _send(self, message: bytes, fits: bool) -> None:
        with self._lock:
            if fits and not self._late:
                try:
                    self._connection.send_bytes(message)
                except OSError as error:  # of many kinds
                    raise ConnectionError("the process is gone") from error
                return
            if not self._late:
                sender = threading.Thread(target=self._send_late, name="shoal-requests", daemon=True)
                start_thread(sender, make_room=False)
                self._sender = sender
            self._late.append(message)

    def _send_late(self) -> None:
        """Be the thread that waits until there is room."""
        while True:
            with self._lock:  # by whose holder the first was appended
                message = self._late[0]
            try:
                self._connection.send_bytes(message)
            except OSError:  # the process is gone, as the reader will say
                return
            with self._lock:
                self._late.popleft()
                if not self._late:
                    return

    def _read(self) -> None:
        """Be the thread that reads answers."""
        error: BaseException | None = None
        try:
            while (data := self._receive()) is not None:
                self._began = True
                self._answered(self, *_decoded(data))
                del data
        except BaseException as caught:  # there is no memory, say: no answer can be told from another any more
            error = caught
            self.kill()
        if error is None:
            error = self._verdict()
        self._hang_up(self._life)
        if self._sender is not None:
            self._sender.join()
        with self._lock:
            self._connection.close()
        self._ended(self, error)
        # An executor that is collected takes a lock, which its manager holds when it ends, while it waits for a thread
        # in which the collector may be at work; and in a child that is forked then, nobody will ever release it. So the
        # executor stays until its manager has ended, and goes at once then, since no circle holds it.
        self.threads[0].join()
        del self._life, self.executor

    def _receive(self) -> bytes | None:
        try:
            return self._connection.recv_bytes()
        except (EOFError, OSError):
            return None

    def _verdict(self) -> BaseException:
        """Wait until the executor knows how the process has ended; return an exception that says so."""
        if not wait([self._life], DEAF_SECONDS).done:
            self.kill()
        try:
            error = self._life.exception()
        except CancelledError as cancelled:
            return cancelled
        if isinstance(error, BrokenExecutor):
            exit_code = self._exit_code()
            if exit_code == UNGUARDED and not self._began:
                return missing_main_guard()
            error.exit_code = exit_code  # type: ignore[attr-defined]
        return error or BrokenExecutor("the worker process has ended its task")

    def _exit_code(self) -> int | None:
        """Return the exit code of the process, which is dead; the system may take a moment to say it.

        The executor asks for it too, in another thread: the system tells one of them, who then passes it on.
        """
        deadline = time.monotonic() + 1
        while self.process is not None and self.process.exitcode is None and time.monotonic() < deadline:
            time.sleep(0.001)
        if self.process is None or self.process.exitcode is None:
            return None
        code: int = self.process.exitcode
        return code

    def _hang_up(self, _life: Future[None]) -> None:
        """See to it that the reader comes to an end, also if a child of the worker's holds the other end open."""
        self._with_socket(lambda end: end.shutdown(socket.SHUT_RDWR))

    def _with_socket(self, do: Callable[[socket.socket], object]) -> None:
        """Do something with the socket that the connection is, where it is one, and not closed."""
        if sys.platform != "win32":
            with self._lock, contextlib.suppress(OSError):
                end = socket.socket(fileno=self._connection.fileno())
                try:
                    do(end)
                finally:
                    end.detach()


def _decoded(data: bytes) -> tuple[Any, BaseException | None]:
    """Return the value in an answer, and the exception."""
    try:
        value, failure = pickle.loads(data)
    except Exception as error:
        return None, error
    return value, None if failure is None else rebuilt(failure, "a worker process")
