"""Worker processes, kept warm and shared by all runs of this process.

::

    run A ── Turn ──┐                 ┌── Channel to one worker process, which loky or the standard library has started
                    ├── Worker 0 ─────┤      the batches in it are of one run at a time
    run B ── Turn ──┘   queue         └── replaced when it dies, is killed or has served its time
    run A ── Turn ───── Worker 1 ...

    Pool: the workers by what they were started with; one thread that starts them and ends those that are idle

A worker dies alone, can be killed alone, and what it held is known. Since it runs batches of one run at a time,
giving one run up harms no other. Workers are started from one thread that lasts, because the kernel ties their lives
to it (see _bootstrap).
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import BrokenExecutor, Executor, Future
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Protocol

from shoal.backends._bootstrap import serve
from shoal.backends._channel import Channel, Item
from shoal.backends.base import Slot, start_thread
from shoal.errors import WorkerStartError, cannot_start

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

#: At exit, a worker that has not ended after so many seconds is killed: a call may have left a pool of its own there.
EXIT_SECONDS = 3.0
_AT_EXIT = "cannot run anything in worker processes while the interpreter shuts down"
#: A worker that was started with other options than the last run's goes after so many idle seconds.
BESIDE_SECONDS = 2.0


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


def begin(executor: Any) -> Future[None]:
    """Have a new executor start its process, for the one task there; where that fails, leave nothing of it.

    At exit, since Python 3.12, the thread that would manage the process cannot be started any more: it is ended here.
    """
    try:
        # Its manager would start this thread with the first task, and is lost if that fails.
        executor._call_queue._start_thread()
        life: Future[None] = executor.submit(serve)
    except BaseException:
        for process in list(executor._processes.values()):
            process.terminate()
            process.join()
        manager = executor._executor_manager_thread
        if manager is None or not manager.is_alive():
            # The error holds them, as long as somebody holds the error.
            executor._call_queue.close()
            executor._result_queue.close()
            executor._executor_manager_thread_wakeup.close()
        raise
    return life


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
        channel: Channel | None = None
        try:
            self._pool.check()
            channel = Channel(partial(self.maker.start, self.index), self._answered, self._ended)
            self._pool.end_first(type(self.maker))
            channel.begin()
        except BaseException as error:  # it is raised where the results are awaited
            if channel is not None:
                self.maker.stop(channel.executor, kill=True)
            self._refuse(cannot_start(error), asked)
            return
        self._started(channel)

    def _started(self, channel: Channel) -> None:
        with self._lock:
            wanted, self._starting = self._starting, False
            self._channel = channel
            if wanted:
                self._pump()
            else:  # it was ended while it started
                self._discard(kill=True)

    def end(self, now: bool = False) -> None:
        """End the process once what was submitted has run; with `now`, kill it if something runs or it is not up."""
        with self._lock:
            self._starting = False
            self._discard(kill=now and bool(self._running or not self._served))
            waiting = list(self._waiting)
        if now:
            self._refuse(RuntimeError(_AT_EXIT), waiting)

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

    def _pump(self) -> None:
        """Submit what may run now: the items at the head that belong to the run whose turn it is."""
        while True:
            if self._spent and not self._running:
                self._discard(kill=False)
            if not self._waiting or self._spent:
                return
            item = self._waiting[0]
            if self._running and self._running[0].turn is not item.turn:
                return
            channel = self._channel
            if channel is not None and not channel.items and not channel.alive:
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
                # It died while it was idle. What runs on it, if anything, is told by its reader.
                self._forget()
                continue
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
        if channel is not None:
            self._pool.ending.update(dict.fromkeys(channel.threads, channel.process))
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


class Pool:
    """The worker processes of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._workers: dict[Hashable, list[Worker]] = {}
        self._latest: Hashable = None
        self._kinds: set[type] = set()
        # The threads of channels that end, and their processes.
        self.ending: weakref.WeakKeyDictionary[threading.Thread, Any] = weakref.WeakKeyDictionary()
        self._requests: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False
        #: Called at exit before the workers are ended: what waits until they have done what they have.
        self.before_end: list[Callable[[], None]] = []

    def open(self, maker: Maker, n_workers: int, own: bool = False) -> list[Slot]:
        """Return a slot on each of `n_workers` workers: those that fewest runs use, and new ones where they lack.

        With `own`, they are workers that no run uses, and no other run uses them until they are given back.
        """
        with self._lock:
            self.check()
            if self._thread is None:
                threading._register_atexit(self.shut_down)  # type: ignore[attr-defined]
                thread = threading.Thread(target=self._serve, name="shoal-pool", daemon=True)
                start_thread(thread)
                self._thread = thread
            group = self._workers.setdefault(maker.key, [])
            workers = [worker for worker in group if not (worker.own or (own and worker.users))]
            taken = {worker.index for worker in workers}
            new = [Worker(self, maker, index) for index in range(n_workers) if index not in taken]
            group += new
            workers = sorted(workers + new, key=attrgetter("index"))
            # Those that more demanding runs have left idle stay out: no more run than the largest run in use asks for.
            in_use = max((number for number, worker in enumerate(workers, 1) if worker.users), default=0)
            chosen = sorted(workers[: max(n_workers, in_use)], key=lambda worker: worker.users)[:n_workers]
            for worker in chosen:
                worker.users += 1
                worker.own = own
            if maker.key != self._latest:
                self._latest = maker.key
                self.ask(_nothing)  # what is idle beside goes sooner from now on
        slots = [Slot(Turn(worker)) for worker in chosen]
        try:
            coming = [worker.warm() for worker in chosen]
            if any(coming):
                # Who encodes a large object meanwhile holds the lock of the interpreter, and so the start up. And a
                # fork while this thread imports something leaves the child with a lock that nobody releases.
                self.catch_up()
        except BaseException:
            self.close(slots)
            raise
        return slots

    def close(self, slots: list[Slot], end: bool = False) -> None:
        """Take slots back; with `end`, end their workers too."""
        turns = [slot.executor for slot in slots]
        with self._lock:
            for turn in turns:
                assert isinstance(turn, Turn)
                turn.close()
                worker = turn.worker
                worker.users -= 1
                worker.own = False
                worker.idle_since = time.monotonic()
                group = self._workers.get(worker.maker.key, [])
                twice = [other.index for other in group].count(worker.index) > 1  # beside one that had an owner
                if end or (twice and not worker.users):
                    group.remove(worker)
                    worker.end()

    def abort(self, slot: Slot, warm: bool = False) -> Slot:
        """Stop what a slot's run has on its worker; return a new slot there, with `warm` one that starts at once."""
        assert isinstance(slot.executor, Turn)
        slot.executor.abort()
        if warm and not self._closed:
            slot.executor.worker.warm()
        return Slot(Turn(slot.executor.worker))

    def retire(self, slot: Slot, pid: int) -> bool:
        """Replace the worker process `pid` of a slot once what was submitted to it has run."""
        assert isinstance(slot.executor, Turn)
        return slot.executor.worker.retire(pid)

    def end_idle(self) -> None:
        """End the workers that no run has now."""
        with self._lock:
            for workers in self._workers.values():
                for worker in [worker for worker in workers if not worker.users]:
                    workers.remove(worker)
                    worker.end()

    def ask(self, request: Callable[[], None]) -> None:
        """Have the pool's thread do something."""
        self._requests.put(request)

    def check(self) -> None:
        """Raise RuntimeError if no worker can be started any more."""
        if self._closed:
            raise RuntimeError(_AT_EXIT)

    def end_first(self, kind: type) -> None:
        """See to it that the pool ends its workers, at exit, before the library that starts them waits for them.

        Called in the pool's thread, when a first worker of a kind was started: by now, that library has registered
        what it does at exit; what is registered later is called earlier.
        """
        if kind not in self._kinds:
            from multiprocessing import util

            self._kinds.add(kind)
            threading._register_atexit(self.shut_down)  # type: ignore[attr-defined]
            # A process that multiprocessing has started waits for its children before it comes to what is registered.
            util.Finalize(None, self.shut_down, exitpriority=100)

    def shut_down(self) -> None:
        """End all workers: nothing that still runs will be waited for."""
        if self is not _pool:
            return  # a forked child must not touch the workers of its parent
        for wait in self.before_end:
            wait()
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self.catch_up()  # from here on, nothing starts
        with self._lock:
            workers = [worker for group in self._workers.values() for worker in group]
            self._workers.clear()
        for worker in workers:
            worker.end(now=True)
        # They close pipes into which the standard library writes at exit, which before CPython's gh-125451 (3.12.8,
        # 3.13.1) is an error on stderr if both come at the same time; and queues that multiprocessing closes at exit.
        deadline = time.monotonic() + EXIT_SECONDS
        for thread, process in list(self.ending.items()):
            thread.join(max(deadline - time.monotonic(), 0))
            if thread.is_alive():
                from loky.backend.utils import kill_process_tree

                kill_process_tree(process)
                thread.join()
        self.catch_up()  # with what comes of their ends

    def catch_up(self) -> None:
        """Wait until the pool's thread has done all that it was asked for."""
        done = threading.Event()
        self.ask(done.set)
        done.wait()

    def _serve(self) -> None:
        """Be the pool's thread: start workers when asked, end those that have been idle for long."""
        while True:
            try:
                request = self._requests.get(timeout=self._reap())
            except queue.Empty:
                continue
            request()
            del request  # it may hold what is left of a dead worker

    def _reap(self) -> float | None:
        """End the workers that have been idle for too long; return the seconds until the next may have been."""
        now = time.monotonic()
        next_look: float | None = None
        with self._lock:
            for key, workers in self._workers.items():
                for worker in list(workers):
                    limit = worker.maker.idle_seconds if key == self._latest else BESIDE_SECONDS
                    if limit is None:
                        continue
                    left = limit if worker.users else worker.idle_since + limit - now
                    if left <= 0:
                        workers.remove(worker)
                        worker.end()
                    else:
                        next_look = left if next_look is None else min(next_look, left)
            for key in [key for key, workers in self._workers.items() if not workers]:
                del self._workers[key]
        return next_look


def _nothing() -> None:
    """Wake the pool's thread."""


_pool = Pool()
_inherited: list[Pool] = []


def pool() -> Pool:
    """Return the pool of this process."""
    return _pool


def _after_fork() -> None:
    """Start anew in a forked child: the workers are the parent's.

    The parent's pool is kept, unused, since its executors would wake the parent's threads if they were collected.
    What the libraries below would do at exit with the parent's children fails or, with a lock that was held at the
    fork, waits for ever.
    """
    global _pool
    _inherited.append(_pool)
    _pool = Pool()
    module: Any
    for name in ("concurrent.futures.process", "loky.process_executor"):
        if module := sys.modules.get(name):
            module._threads_wakeups.clear()
    if module := sys.modules.get("multiprocessing.process"):
        module._children.clear()
    if module := sys.modules.get("multiprocessing.resource_tracker"):
        module._resource_tracker._pid = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
