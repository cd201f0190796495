"""A worker, and its queue, which runs share by turns.

::

    run A ── Turn ──┐                 ┌── Process: one worker process, which is started when an item waits
                    ├── Worker 0 ─────┤      its unanswered items belong to one run at a time
    run B ── Turn ──┘   queue         └── replaced when it dies, is killed, or has served its number of batches
    run A ── Turn ───── Worker 1 ...

    none ──(an item)──> starting ──(first answer)──> begun ──(retired, killed, dead, idle for long)──> none

A worker process dies alone and can be killed alone, and the worker knows which items it had. Since it runs items of
one run at a time, aborting one run does not harm another.
"""

from __future__ import annotations

import pickle
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import BrokenExecutor, Executor, Future
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from shoal.backends._notes import Notes
from shoal.backends._process import Child, Item, Process, fail, fill_standard_streams
from shoal.backends._surroundings import Surroundings, changes, follow
from shoal.backends.base import is_shortage
from shoal.errors import AT_EXIT, cannot_start

if TYPE_CHECKING:
    from shoal.backends._loop import Loop

#: A run of a daemon thread fails this time after the main thread has ended, in seconds. Python would print the error of
#: an earlier failure, unless it ends the thread first. An exit handler may wait for the thread, so the run does fail.
SILENT_SECONDS = 1.0


class Maker(Protocol):
    """Starts the processes of workers of one kind."""

    #: Workers whose makers have equal keys are interchangeable.
    key: Hashable
    #: The seconds after which an idle worker ends; None for never.
    idle_seconds: float | None
    #: The number of batches after which a worker process is replaced; None for no limit.
    max_batches: int | None
    #: Whether warm workers follow the changes of the program: variables, search path, working folder, modules.
    follows: bool

    def prepare(self, worker: Worker) -> bool:
        """Begin what takes long at the start of a process; return whether the loop has to do something for it.

        Called in any thread, when a run has opened the worker and has not submitted anything yet.
        """

    def start(self, worker: Worker, process: Process, loop: Loop) -> Child:
        """Start the process of a worker, and arrange for :meth:`Process.exited` to be called when it has ended.

        Called in the loop's thread, as is :meth:`Process.exited`.
        """


class Registry(Protocol):
    """The part of the pool that its workers use."""

    loop: Loop

    def exits_without(self, worker: Worker) -> bool:
        """Return whether the interpreter shuts down and awaits no run that has this worker."""

    def began(self, process: Process) -> None:
        """Record that a process has started."""

    def ended(self, process: Process) -> None:
        """Record that a process has ended."""

    def once_there_is_room(self, then: Callable[[], object]) -> bool:
        """End the idle workers, and call `then` when they have ended; return whether there are any."""


class Worker:
    """One process at a time, and a queue of items for it.

    Attributes
    ----------
    index
        The number of this worker among those of equal makers. Each of its processes has the same number.
    users
        The number of runs that have a :class:`Turn` of this worker.
    awaited
        The number of those for which the interpreter waits when it exits.
    process
        The present process; None if there is none.
    waiting
        The queue.

    Notes
    -----
    `lock` guards the state. It is not held while code of the user runs.
    """

    def __init__(self, pool: Registry, maker: Maker, index: int) -> None:
        self.maker = maker
        self.index = index
        self.users = 0
        self.awaited = 0
        self.own = False  # whether it belongs to one run alone
        self.closing = False  # whether no new run may use this worker, which ends when its present runs end
        self.idle_since = time.monotonic()
        self.lock = threading.RLock()  # reentrant, because a callback of a future may run under it
        self._pool = pool
        self.process: Process | None = None
        self._starting = False  # whether the loop was asked to start a process
        # The items for which idle workers were ended once, to make room for the process; None if none were ended.
        self._made_room: list[Item] | None = None
        self.waiting: deque[Item] = deque()
        self._served = 0
        self._retiring = False

    @property
    def loop(self) -> Loop:
        """The pool's loop."""
        return self._pool.loop

    @property
    def messages(self) -> list[bytes]:
        """The messages that wait in the queue."""
        with self.lock:
            return [item.message for item in self.waiting]

    def send_next(self) -> None:
        """Send the items at the head of the queue that belong to the run whose turn it is. The lock is held."""
        while True:
            process = self.process
            busy = process is not None and bool(process.items)
            most = self.maker.max_batches
            if self._retiring or (most is not None and self._served >= most):  # the process gets no more items
                if busy:
                    return
                self._end_process(kill=False)
                continue
            if not self.waiting:
                return
            item = self.waiting[0]
            if process is None:
                self.warm()
                return
            if busy and process.items[0].turn is not item.turn:
                return
            if not busy and process.began and process.ended_silently:
                self._end_process(kill=False)  # it died while it was idle, so no item is to blame
                continue
            if not item.begin():
                self.waiting.popleft()
                continue
            if item.turn.surroundings is not process.surroundings and not self._follow(process, item.turn):
                self._end_process(kill=False)  # no item is running: a running one would be of this turn
                continue
            process.items.append(item)  # first, because an interrupt may come at any time
            try:
                process.send(item.message)
            except ConnectionError:  # the item fails when the end of the process is reported
                if process.began and not busy:  # it died while it was idle, so no item is to blame
                    process.items.pop()
                    self._drop_process()
                    continue
            self.waiting.popleft()
            self._served += 1

    def abort(self, turn: Turn) -> None:
        """Cancel the items of `turn`, and kill the process if it runs one of them."""
        with self.lock:
            for item in [item for item in self.waiting if item.turn is turn]:
                self.waiting.remove(item)
                item.future.cancel()
            if self.process is not None and any(item.turn is turn for item in self.process.items):
                self._end_process(kill=True)
                self.send_next()

    def retire(self, pid: int) -> bool:
        """Replace the process `pid` when it has answered its items; return whether it was the present process."""
        with self.lock:
            # The first answer may arrive before the fork server has reported the id.
            if self._retiring or self.process is None or self.process.pid not in (None, pid):
                return False
            self._retiring = True
            self.send_next()
            return True

    def end(self, now: bool = False) -> None:
        """End the process when it has answered its items; with `now`, kill it if it is busy or has not begun."""
        with self.lock:
            self._starting = False
            process = self.process
            self._end_process(kill=now and process is not None and (bool(process.items) or not process.began))
            waiting = list(self.waiting) if now else []
        self._refuse(RuntimeError(AT_EXIT), waiting)

    def warm(self) -> bool:
        """Start the process if there is none; return whether it is starting."""
        with self.lock:
            if self.process is None and not self._starting:
                fill_standard_streams()
                self._starting = True
                self._pool.loop.ask(self._start)
            return self._starting

    def restart(self, process: Process, error: BaseException | None = None) -> None:
        """Replace a process that has never begun, and send its items again; called in the loop's thread.

        `error` is the exception with which the system has refused the process; None for other reasons.
        """
        with self.lock:
            wanted = process is self.process  # if it is not, the run that had sent something to it was aborted
            if wanted:
                self.waiting.extendleft(reversed(process.items))
                process.items.clear()
                self._drop_process()
        process.close(BrokenExecutor("the worker process was not started"))
        if not wanted:
            return
        if error is not None:
            self._starting = True
            self._not_started(error, list(self.waiting))
        else:
            with self.lock:
                self.send_next()

    def answered(self, process: Process, value: Any, error: BaseException | None) -> None:
        """Set the result of the first item of a process; called in the loop's thread."""
        with self.lock:
            item = process.items.popleft()
            if process.paused:  # the next item may be another run's
                process.resume()
            if process is self.process:
                self._made_room = None
                self.send_next()
        if error is None:
            item.future.set_result(value)
        else:
            item.future.set_exception(error)

    def noted(self, process: Process, note: bytes) -> None:
        """Pass a note to the run of the first item of a process; called in the loop's thread."""
        with self.lock:
            turn = process.items[0].turn if process.items else None
        if turn is not None:
            turn.notes.noted(process, note)

    def ended(self, process: Process, error: BaseException) -> None:
        """Fail the items of a process that has ended; called in the loop's thread."""
        self._pool.ended(process)
        with self.lock:
            lost = list(process.items)
            process.items.clear()
            if process is self.process:
                self._drop_process()
                self.send_next()
        self._fail(lost, error)

    def _start(self) -> None:
        """Start the process; called in the loop's thread."""
        with self.lock:
            if self.process is not None or not self._starting:
                return
            asked = list(self.waiting)
        try:
            if self._pool.exits_without(self):
                raise RuntimeError(AT_EXIT)
            process = Process(self, self._pool.loop)
            process.start(lambda process: self.maker.start(self, process, self._pool.loop))
            self._pool.began(process)
        except BaseException as error:
            self._not_started(cannot_start(error), asked)
        else:
            self._use(process)

    def _use(self, process: Process) -> None:
        """Send the items that wait to a new process."""
        with self.lock:
            self.process = process
            if self._starting:
                self._starting = False
                self.send_next()
            else:  # the worker was ended while the process started
                self._end_process(kill=True)

    def _not_started(self, error: BaseException, asked: list[Item]) -> None:
        """End idle workers and try again, if they hold what was short; else fail the items that have `asked`.

        Each item gets one such attempt. A later run may have added items since the last one.
        """
        before, self._made_room = self._made_room, None
        if is_shortage(error):
            if before is None:
                self._made_room = asked
                if self._pool.once_there_is_room(self._start):
                    return
                self._made_room = None
            else:  # for items that came later, _refuse starts another attempt
                asked = [item for item in asked if item in before]
        self._refuse(error, asked)

    def _refuse(self, error: BaseException, items: list[Item]) -> None:
        """Fail those of `items` that still wait. Items that came later get an attempt of their own."""
        with self.lock:
            self._starting = False
            refused = [item for item in self.waiting if item in items]
            self.waiting = deque(item for item in self.waiting if item not in items)
            self.send_next()
        self._fail(refused, error)

    def _fail(self, items: list[Item], error: BaseException) -> None:
        if self._pool.exits_without(self):
            self.loop.ask(partial(self.loop.later, SILENT_SECONDS, partial(fail, items, RuntimeError(AT_EXIT))))
        else:
            fail(items, error)

    def _follow(self, process: Process, turn: Turn) -> bool:
        """Let a process follow the surroundings of a turn; return whether it can.

        It cannot if a module that it may have imported has changed.
        """
        before, after = process.surroundings, turn.surroundings
        if after is None:
            return True
        known = process.versions
        changed = any(known.get(name, version) != version for name, version in after.modules.items())
        if changed and process.began and after.number > before.number:
            return False
        process.versions = {**after.modules, **known}
        process.surroundings = after
        variables = {name: value for name, value in changes(before, after).items() if name not in process.own}
        if variables or before.path != after.path or before.cwd != after.cwd:
            future: Future[Any] = Future()
            future.set_running_or_notify_cancel()
            message = pickle.dumps((follow, (list(after.path), after.cwd, variables)), pickle.HIGHEST_PROTOCOL)
            process.items.append(Item(turn, future, message, begun=True))
            try:
                process.send(message)
            except ConnectionError:  # sending the item reports it as well
                process.items.pop()
        return True

    def _end_process(self, kill: bool) -> None:
        process = self._drop_process()
        if process is not None:
            if kill:
                process.kill()
            else:
                process.end()

    def _drop_process(self) -> Process | None:
        """Give up the present process; return it."""
        process, self.process = self.process, None
        self._served, self._retiring = 0, False
        return process


class Turn(Executor):
    """The executor through which one run uses a worker, which it may share with other runs."""

    def __init__(self, worker: Worker, surroundings: Surroundings | None = None, awaited: bool = False) -> None:
        self.worker = worker
        self.surroundings = surroundings  # that the calls are to have; None for those of the start of the process
        self.awaited = awaited  # whether the interpreter waits for the run when it exits
        self.notes = Notes()
        self._closed = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Submit a call to the worker. It runs after the items before it, when it is this run's turn."""
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
        worker = self.worker
        with worker.lock:
            worker.waiting.append(Item(self, future, message))
            worker.send_next()
        return future

    def close(self) -> None:
        """Accept no more calls."""
        self._closed = True
        self.notes.listen(None)

    def abort(self) -> None:
        """Accept no more calls, and cancel or kill those that have not ended."""
        self._closed = True
        self.worker.abort(self)
        self.notes.listen(None)
