"""A worker, and the queue before it, which runs share by turns.

::

    run A ── Turn ──┐                 ┌── Process: one worker process, started when there is something for it to do
                    ├── Worker 0 ─────┤      the batches in it are of one run at a time
    run B ── Turn ──┘   queue         └── replaced when it dies, is killed or has served its time
    run A ── Turn ───── Worker 1 ...

    none ──(an item)──> starting ──(first answer)──> up ──(retired, killed, dead, idle for long)──> none

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
from typing import TYPE_CHECKING, Any, Protocol

from shoal.backends._process import Child, Item, Process
from shoal.backends._surroundings import Surroundings, changes, follow
from shoal.backends.base import is_shortage
from shoal.errors import cannot_start

if TYPE_CHECKING:
    from shoal.backends._loop import Loop

AT_EXIT = "cannot run anything in worker processes while the interpreter shuts down"


class Maker(Protocol):
    """How the processes of workers of one kind are started."""

    #: Workers whose makers have equal keys are interchangeable.
    key: Hashable
    #: The seconds after which an idle worker goes; None: never.
    idle_seconds: float | None
    #: The batches after which a worker is replaced; None: never.
    max_batches: int | None
    #: Whether warm workers follow what has changed in the program since they were started.
    follows: bool

    def prepare(self, worker: Worker) -> bool:
        """Do early what starting the process of a worker takes; return whether the loop was asked to do something.

        Called in any thread, when a run has opened the worker and has not sent anything yet.
        """

    def start(self, worker: Worker, process: Process, loop: Loop) -> Child:
        """Start the process of a worker; called in the loop's thread.

        See to it that :meth:`Process.exited` is called there when it has ended.
        """


class Registry(Protocol):
    """What a worker asks of the pool, in any thread."""

    loop: Loop

    def check(self) -> None:
        """Raise RuntimeError if no worker can be started any more."""

    def began(self, process: Process) -> None:
        """Take note of a process."""

    def ended(self, process: Process) -> None:
        """Take note that it is gone."""

    def once_there_is_room(self, then: Callable[[], object]) -> bool:
        """End the idle workers, and call `then` when they are gone; return whether there are any."""


def fill_standard_streams() -> None:
    """Have descriptors 0 to 2 be something: a socket of ours there would be a worker's standard stream.

    The worker would write what a call prints among its results.
    """
    if os.name == "posix":
        with contextlib.suppress(OSError):  # where none can be opened, no worker starts either, and says why
            while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
                os.set_inheritable(fd, True)
            os.close(fd)


class Worker:
    """A worker: one process at a time, and the queue before it.

    Attributes
    ----------
    index
        Its number among the workers of equal makers; its processes have it one after the other.

    Notes
    -----
    Its lock guards all of its state; it is not held while anything of a user's runs.
    """

    def __init__(self, pool: Registry, maker: Maker, index: int) -> None:
        self.maker = maker
        self.index = index
        self.users = 0
        self.own = False  # whether it has a user who shares it with nobody
        self.last = False  # whether it ends with the runs that have it now, and takes no others
        self.idle_since = time.monotonic()
        self.lock = threading.RLock()  # a future that is done at once calls back under it
        self._pool = pool
        self._process: Process | None = None
        self._starting = False  # whether the loop was asked to start a process
        # What waited when idle workers were ended to make room for the process; None if none were.
        self._made_room: list[Item] | None = None
        self._proven = False  # whether the process has answered
        self._waiting: deque[Item] = deque()
        self._served = 0
        self._retiring = False

    @property
    def loop(self) -> Loop:
        """The thread that serves it."""
        return self._pool.loop

    @property
    def process(self) -> Process | None:
        """Its process, if there is one."""
        return self._process

    @property
    def messages(self) -> list[bytes]:
        """What waits to be sent."""
        with self.lock:
            return [item.message for item in self._waiting]

    def submit(self, item: Item) -> None:
        """Queue an item; it runs when the run that owns it has its turn."""
        with self.lock:
            self._waiting.append(item)
            self._pump()

    def abort(self, turn: Turn) -> None:
        """Take back what `turn` has queued, and kill the process if it runs something of it."""
        with self.lock:
            for item in [item for item in self._waiting if item.turn is turn]:
                self._waiting.remove(item)
                item.future.cancel()
            if any(item.turn is turn for item in self._running):
                self._discard(kill=True)
                self._pump()

    def retire(self, pid: int) -> bool:
        """Replace the process `pid` once what was submitted to it has run; return whether it was still there."""
        with self.lock:
            # Its first answer may come before the fork server has told its id.
            if self._retiring or self._process is None or self._process.pid not in (None, pid):
                return False
            self._retiring = True
            self._pump()
            return True

    def end(self, now: bool = False) -> None:
        """End the process once what was submitted has run; with `now`, kill it if something runs or it is not up."""
        with self.lock:
            self._starting = False
            self._discard(kill=now and bool(self._running or not self._proven))
            waiting = list(self._waiting) if now else []
        self._refuse(RuntimeError(AT_EXIT), waiting)

    def warm(self) -> bool:
        """See to it that the process is there or on its way; return whether it is on its way."""
        with self.lock:
            if self._process is None and not self._starting:
                fill_standard_streams()
                self._starting = True
                self._pool.loop.ask(self._start)
            return self._starting

    def restart(self, process: Process, error: BaseException | None = None) -> None:
        """Start another process in the place of one that never began; what was sent to it is sent again.

        Called in the loop's thread; with an error where the system has refused the process.
        """
        with self.lock:
            wanted = process is self._process  # else the run that had sent something to it was given up
            if wanted:
                self._waiting.extendleft(reversed(process.items))
                process.items.clear()
                self._forget()
        process.close(BrokenExecutor("the worker process was not started"))
        if not wanted:
            return
        if error is not None:
            self._starting = True
            self._not_started(error, list(self._waiting))
        else:
            with self.lock:
                self._pump()

    def answered(self, process: Process, value: Any, error: BaseException | None) -> None:
        """Pass on what came of an item; called in the loop's thread."""
        with self.lock:
            item = process.items.popleft()
            if process is self._process:
                self._proven, self._made_room = True, None
                self._pump()
        if error is None:
            item.future.set_result(value)
        else:
            item.future.set_exception(error)

    def ended(self, process: Process, error: BaseException) -> None:
        """Take note that a process is gone, or of no use; called in the loop's thread."""
        self._pool.ended(process)
        with self.lock:
            lost = list(process.items)
            process.items.clear()
            if process is self._process:
                self._forget()
                self._pump()
        for item in lost:
            item.future.set_exception(error)

    def _start(self) -> None:
        """Start the process; called in the loop's thread."""
        with self.lock:
            if self._process is not None or not self._starting:
                return
            asked = list(self._waiting)
        try:
            self._pool.check()
            process = Process(self, self._pool.loop)
            process.start(lambda process: self.maker.start(self, process, self._pool.loop))
            self._pool.began(process)
        except BaseException as error:
            self._not_started(cannot_start(error), asked)
        else:
            self._take(process)

    def _not_started(self, error: BaseException, asked: list[Item]) -> None:
        """Try once more where idle workers hold what is short; else raise the error where the results are awaited.

        Each item deserves such an attempt: those of a later run may have come since the last one.
        """
        before, self._made_room = self._made_room, None
        if is_shortage(error):
            if before is None:
                self._made_room = asked
                if self._pool.once_there_is_room(self._start):
                    return
                self._made_room = None
            else:  # for those that have come since, _refuse asks for a process again
                asked = [item for item in asked if item in before]
        self._refuse(error, asked)

    def _take(self, process: Process) -> None:
        """Have a new process run what waits."""
        with self.lock:
            self._process = process
            if self._starting:
                self._starting = False
                self._pump()
            else:  # it was ended while it started
                self._discard(kill=True)

    def _refuse(self, error: BaseException, items: list[Item]) -> None:
        """Fail those of `items` that still wait; what came later deserves an attempt of its own."""
        with self.lock:
            self._starting = False
            refused = [item for item in self._waiting if item in items]
            self._waiting = deque(item for item in self._waiting if item not in items)
            self._pump()
        for item in refused:
            if _begun(item.future):
                item.future.set_exception(error)

    def _pump(self) -> None:
        """Send what may run now: the items at the head that belong to the run whose turn it is."""
        while True:
            if self._spent and not self._running:
                self._discard(kill=False)
            if not self._waiting or self._spent:
                return
            item = self._waiting[0]
            if self._running and self._running[0].turn is not item.turn:
                return
            process = self._process
            if process is None:
                self.warm()
                return
            if self._proven and not process.items and not process.alive:
                self._discard(kill=False)  # it died while it was idle, and nobody is to blame
                continue
            if not _begun(item.future):
                self._waiting.popleft()
                continue
            if item.turn.surroundings is not process.surroundings and not self._follow(process, item.turn):
                self._discard(kill=False)  # nothing of it runs: that would be of the same turn
                continue
            try:
                process.send(item)
            except ConnectionError:
                if self._proven and not process.items:  # as above
                    self._forget()
                    continue
                process.items.append(item)  # how it has ended will be known
            self._waiting.popleft()
            self._served += 1

    def _follow(self, process: Process, turn: Turn) -> bool:
        """Have the surroundings of a process be those of a turn; return whether it can have them.

        It cannot where a module that it may have imported has changed since.
        """
        before, after = process.surroundings, turn.surroundings
        if after is None:
            return True
        known = process.versions
        changed = any(known.get(name, version) != version for name, version in after.modules.items())
        if changed and self._proven and after.number > before.number:
            return False
        process.versions = {**after.modules, **known}
        process.surroundings = after
        variables = {name: value for name, value in changes(before, after).items() if name not in process.own}
        if variables or before.path != after.path or before.cwd != after.cwd:
            future: Future[Any] = Future()
            future.set_running_or_notify_cancel()
            message = pickle.dumps((follow, (list(after.path), after.cwd, variables)), pickle.HIGHEST_PROTOCOL)
            with contextlib.suppress(ConnectionError):  # it is gone, as sending the item will say
                process.send(Item(turn, future, message))
        return True

    @property
    def _running(self) -> deque[Item]:
        """What the process was sent and did not answer."""
        return deque() if self._process is None else self._process.items

    @property
    def _spent(self) -> bool:
        """Whether the process has served its time: nothing more is sent to it."""
        return self._retiring or (self.maker.max_batches is not None and self._served >= self.maker.max_batches)

    def _discard(self, kill: bool) -> None:
        process = self._forget()
        if process is not None:
            if kill:
                process.kill()
            else:
                process.end()

    def _forget(self) -> Process | None:
        """Have no process; return the one there was."""
        process, self._process = self._process, None
        self._served, self._retiring, self._proven = 0, False, False
        return process


def _begun(future: Future[Any]) -> bool:
    """Have a future be one that runs, which it may be already: what was sent to a dead worker waits again.

    Return False if it was cancelled, or has its result.
    """
    if future.done() and not future.cancelled():  # an interrupt came after it was sent and before it left the queue
        return False
    return future.running() or future.set_running_or_notify_cancel()


class Turn(Executor):
    """One run's way to a worker that it may share with others."""

    def __init__(self, worker: Worker, surroundings: Surroundings | None = None) -> None:
        self.worker = worker
        self.surroundings = surroundings  # which the calls are to have; None: those with which the worker began
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
