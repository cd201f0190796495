"""A worker process and the queue before it, which runs share by turns.

::

    run A ── Turn ──┐                 ┌── Channel to one worker process, which loky or the standard library has started
                    ├── Worker 0 ─────┤      the batches in it are of one run at a time
    run B ── Turn ──┘   queue         └── replaced when it dies, is killed or has served its time
    run A ── Turn ───── Worker 1 ...

A worker dies alone, can be killed alone, and what it held is known. Since it runs batches of one run at a time,
giving one run up harms no other.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import BrokenExecutor, Executor, Future
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from shoal.backends._channel import Channel, Item
from shoal.backends.base import is_shortage
from shoal.errors import WorkerStartError, cannot_start

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from shoal.backends._pool import Pool

AT_EXIT = "cannot run anything in worker processes while the interpreter shuts down"


class Maker(Protocol):
    """How workers of one kind are started and stopped."""

    #: Workers whose makers have equal keys are interchangeable.
    key: Hashable
    #: The seconds after which an idle worker goes; None: never.
    idle_seconds: float | None
    #: The batches after which a worker is replaced; None: never.
    max_batches: int | None

    def start(self, index: int, connection: Connection) -> tuple[Executor, Future[None]]:
        """Start the worker process of an index, which takes messages from a connection.

        Return its executor once the process exists, and the future of its one task.
        """

    def stop(self, executor: Executor, kill: bool) -> None:
        """End a worker process; without waiting for it."""


def fill_standard_streams() -> None:
    """Have descriptors 0 to 2 be something: a pipe of ours there would be a worker's standard stream.

    The worker would write what a call prints among its results.
    """
    if os.name == "posix":
        with contextlib.suppress(OSError):  # where none can be opened, no worker starts either, and says why
            while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
                os.set_inheritable(fd, True)
            os.close(fd)


class Worker:
    """One worker process and the queue before it.

    Notes
    -----
    Its lock guards all of its state; it is not held while anything of a user's runs.
    """

    def __init__(self, pool: Pool, maker: Maker, index: int) -> None:
        self.maker = maker
        self.index = index  # among the workers of equal makers; its processes have it one after the other
        self.users = 0
        self.own = False  # whether it has a user who shares it with nobody
        self.last = False  # whether it ends with the runs that have it now, and takes no others
        self.idle_since = time.monotonic()
        self._pool = pool
        self._lock = threading.RLock()  # a future that is done at once calls back under it
        self._channel: Channel | None = None
        self._starting = False
        self._waiting: deque[Item] = deque()
        self._served = 0
        self._retiring = False

    def submit(self, item: Item) -> None:
        """Queue an item; it runs when the run that owns it has its turn."""
        with self._lock:
            self._waiting.append(item)
            self._pump()

    def abort(self, turn: Turn) -> None:
        """Take back what `turn` has queued, and kill the process if it runs something of it."""
        with self._lock:
            for item in [item for item in self._waiting if item.turn is turn]:
                self._waiting.remove(item)
                item.future.cancel()
            if any(item.turn is turn for item in self._running):
                self._discard(kill=True)
                self._pump()

    def retire(self, pid: int) -> bool:
        """Replace the process `pid` once what was submitted to it has run; return whether it was still there."""
        with self._lock:
            if self._retiring or self._channel is None or self._channel.pid != pid:
                return False
            self._retiring = True
            self._pump()
            return True

    def start(self) -> None:
        """Start the process; called in the pool's thread."""
        with self._lock:
            if self._channel is not None or not self._starting:
                return
            asked = list(self._waiting)
        error = self._try_to_start()
        if is_shortage(error) and self._pool.make_room():
            error = self._try_to_start()
        if error is not None:  # it is raised where the results are awaited
            self._refuse(error, asked)

    def _try_to_start(self) -> BaseException | None:
        """Start the process; return what has kept it from starting."""
        channel: Channel | None = None
        try:
            self._pool.check()
            channel = Channel(partial(self.maker.start, self.index), self._answered, self._ended)
            self._pool.started(type(self.maker), channel)
            self._take(channel)
        except BaseException as error:
            if channel is not None:
                self.maker.stop(channel.executor, kill=True)
            return cannot_start(error)
        return None

    def _take(self, channel: Channel) -> None:
        """Have a new process run what waits."""
        with self._lock:  # the channel cannot say that the process has ended before it is known here
            channel.begin()
            wanted, self._starting = self._starting, False
            self._channel = channel
            if wanted:
                self._pump(new=True)
            else:  # it was ended while it started
                self._discard(kill=True)

    @property
    def threads(self) -> list[threading.Thread]:
        """The threads that live as long as the process, if there is one."""
        channel = self._channel
        return [] if channel is None else channel.threads

    def end(self, now: bool = False) -> None:
        """End the process once what was submitted has run; with `now`, kill it if something runs or it is not up."""
        with self._lock:
            self._starting = False
            self._discard(kill=now and bool(self._running or not self._served))
            waiting = list(self._waiting)
        if now:
            self._refuse(RuntimeError(AT_EXIT), waiting)

    def _refuse(self, error: BaseException, items: list[Item]) -> None:
        """Fail those of `items` that still wait; what came later deserves an attempt of its own."""
        with self._lock:
            self._starting = False
            refused = [item for item in self._waiting if item in items]
            self._waiting = deque(item for item in self._waiting if item not in items)
            self._pump()
        for item in refused:
            if _begun(item.future):
                item.future.set_exception(error)

    def warm(self) -> bool:
        """See to it that the process is there or on its way; return whether it is on its way."""
        with self._lock:
            if self._channel is None and not self._starting:
                fill_standard_streams()
                self._starting = True
                self._pool.ask(self.start)
            return self._starting

    def _pump(self, new: bool = False) -> None:
        """Submit what may run now: the items at the head that belong to the run whose turn it is.

        If the process has died, another takes its place; but a `new` one has died of its start, as the next would.
        """
        while True:
            if self._spent and not self._running:
                self._discard(kill=False)
            if not self._waiting or self._spent:
                return
            item = self._waiting[0]
            if self._running and self._running[0].turn is not item.turn:
                return
            channel = self._channel
            if channel is not None and not new and not channel.items and not channel.alive:
                self._discard(kill=False)  # it died while it was idle, and its executor may not know yet
                continue
            if channel is None:
                self.warm()
                return
            if not _begun(item.future):
                self._waiting.popleft()
                continue
            try:
                channel.send(item)
            except ConnectionError:
                if not new:  # it died while it was idle; what runs on it, if anything, is told by its reader
                    self._forget()
                    continue
                channel.items.append(item)
            except WorkerStartError as error:
                item.future.set_exception(error)
            self._waiting.popleft()
            self._served += 1

    @property
    def _running(self) -> deque[Item]:
        """What the process was sent and did not answer."""
        return deque() if self._channel is None else self._channel.items

    @property
    def _spent(self) -> bool:
        """Whether the process has served its time: nothing more is submitted to it."""
        return self._retiring or (self.maker.max_batches is not None and self._served >= self.maker.max_batches)

    def _answered(self, channel: Channel, value: Any, error: BaseException | None) -> None:
        """Pass on what came of an item; called in a thread of the channel's."""
        with self._lock:
            item = channel.items.popleft()
            if channel is self._channel:
                self._pump()
        if error is None:
            item.future.set_result(value)
        else:
            item.future.set_exception(error)

    def _ended(self, channel: Channel, error: BaseException) -> None:
        """Take note that a process is gone, or of no use; called in a thread of the channel's."""
        with self._lock:
            if channel is self._channel:
                if isinstance(error, BrokenExecutor):
                    self._forget()
                else:
                    self._discard(kill=True)
                self._pump()
        for item in channel.items:
            item.future.set_exception(error)

    def _discard(self, kill: bool) -> None:
        channel = self._forget()
        if channel is not None:
            if not kill:
                channel.end()
            self.maker.stop(channel.executor, kill)

    def _forget(self) -> Channel | None:
        """Have no process; return the channel to the one there was. One that is broken ends by itself."""
        channel, self._channel = self._channel, None
        self._served, self._retiring = 0, False
        return channel


def _begun(future: Future[Any]) -> bool:
    """Have a future be one that runs, which it may be already: what was sent to a dead worker waits again.

    Return False if it was cancelled.
    """
    return future.running() or future.set_running_or_notify_cancel()


class Turn(Executor):
    """One run's way to a worker that it may share with others."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self._closed = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Submit a call to the worker; it runs after what is there, when it is this run's turn."""
        if self._closed:
            raise RuntimeError("cannot submit to a slot that was closed")
        if kwargs:
            raise TypeError("a slot of processes takes positional arguments only")
        future: Future[Any] = Future()
        try:
            message = pickle.dumps((fn, args), pickle.HIGHEST_PROTOCOL)
        except Exception as error:
            future.set_exception(error)
            return future
        self.worker.submit(Item(self, future, message))
        return future

    def close(self) -> None:
        """Give the worker back."""
        self._closed = True

    def abort(self) -> None:
        """Stop what this run has on the worker."""
        self._closed = True
        self.worker.abort(self)
