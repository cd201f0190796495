"""The worker processes of this process: kept warm, and shared by all runs.

One thread serves all of them (_loop). It also starts the processes, because the kernel ends them when the thread that
has started them ends. _workers says what a worker is, and how runs share it.
"""

from __future__ import annotations

import math
import queue
import sys
import threading
import time
from collections.abc import Callable, Hashable
from operator import attrgetter
from typing import Any

from shoal._forks import BACKENDS, after_fork_in_child
from shoal._platform.processes import wait_for
from shoal.backends._guard import refuse_while_main_is_imported
from shoal.backends._loop import Loop
from shoal.backends._process import Process
from shoal.backends._surroundings import current
from shoal.backends._workers import SILENT_SECONDS, Maker, Turn, Worker
from shoal.backends.base import Slot, in_main_thread
from shoal.errors import AT_EXIT

#: If somebody waits for the end of a worker, it is killed after this time, in seconds. A call may have left a process
#: that keeps it from ending.
EXIT_SECONDS = 3.0
#: The time after which an idle worker ends if the last run had other options, in seconds.
BESIDE_SECONDS = 2.0


class Pool:
    """The worker processes of this process."""

    def __init__(self) -> None:
        self.loop = Loop("shoal-pool")
        self._lock = threading.Lock()
        self._workers: dict[Hashable, list[Worker]] = {}
        self._latest: Hashable = None
        self._look_at = math.inf  # when the next worker may have been idle for too long
        # Only the loop's thread changes the next two: the live processes, and what is called when some have ended.
        self._processes: set[Process] = set()
        self._waiting: list[tuple[set[Process], Callable[[], object]]] = []
        # Whether the program has come to its end. From then on, each worker ends with its last run that is awaited.
        self._exiting = False
        #: Functions that are called at exit before workers are ended. They wait for the calls of executors.
        self.before_end: list[Callable[[], None]] = []

    def open(self, maker: Maker, n_workers: int, own: bool = False) -> list[Slot]:
        """Return a slot on each of `n_workers` workers: those with the fewest runs, and new ones if needed.

        With `own`, the workers are ones that no other run uses until they are returned.

        Raises
        ------
        RuntimeError
            If the interpreter shuts down and does not wait for this thread, or can start no thread or process any more.
        """
        refuse_while_main_is_imported()
        if self._exiting and threading.current_thread().daemon:
            time.sleep(SILENT_SECONDS)
            raise RuntimeError(AT_EXIT)
        with self._lock:
            if not self.loop.started:
                try:
                    threading._register_atexit(self.shut_down)  # type: ignore[attr-defined]
                except RuntimeError:  # the main thread has ended
                    self._exiting = True
                self.loop.start()
            awaited = self._awaits_this_thread()
            group = self._workers.setdefault(maker.key, [])
            workers = [worker for worker in group if not (worker.own or worker.closing or (own and worker.users))]
            taken = {worker.index for worker in workers}
            new = [Worker(self, maker, index) for index in range(n_workers) if index not in taken]
            group += new
            workers = sorted(workers + new, key=attrgetter("index"))
            # Workers that a larger run has left idle are not used: as many run as the largest present run needs.
            in_use = max((number for number, worker in enumerate(workers, 1) if worker.users), default=0)
            chosen = sorted(workers[: max(n_workers, in_use)], key=attrgetter("users"))[:n_workers]
            for worker in chosen:
                worker.users += 1
                worker.awaited += awaited
                worker.own = own
                worker.closing = self._exiting
            if maker.key != self._latest:
                self._latest = maker.key
                self.loop.ask(self._reap)  # idle workers of other options end sooner from now on
        surroundings = current() if maker.follows else None
        slots = [Slot(Turn(worker, surroundings, awaited)) for worker in chosen]
        try:
            on_their_way = [maker.prepare(worker) for worker in chosen]
            if any(on_their_way):
                # Wait for the starts: encoding a large object would hold the interpreter's lock and delay them, and a
                # fork while this thread imports a module would leave the child with a lock that nobody releases.
                self.catch_up()
        except BaseException:
            self.close(slots, end=maker.idle_seconds is None)  # no later run would find those that idle for ever
            raise
        return slots

    def close(self, slots: list[Slot], end: bool = False) -> None:
        """Return slots to the pool; with `end`, end their workers too."""
        turns = [slot.executor for slot in slots]
        with self._lock:
            doubled = any(len({worker.index for worker in group}) < len(group) for group in self._workers.values())
            for turn in turns:
                assert isinstance(turn, Turn)
                turn.close()
                worker = turn.worker
                worker.users -= 1
                worker.awaited -= turn.awaited
                worker.own = False
                worker.idle_since = time.monotonic()
                group = self._workers.get(worker.maker.key, [])
                if worker not in group:  # it was ended at exit
                    continue
                # A worker of the same index was added while a run had this one for itself. Closing ones do not count.
                twice = doubled and [other.index for other in group if not other.closing].count(worker.index) > 1
                if end or ((twice or worker.closing) and not self._users(worker)):
                    group.remove(worker)
                    worker.end(now=self._exiting)
                elif (limit := self._limit(worker)) is not None and worker.idle_since + limit < self._look_at:
                    self._look_at = worker.idle_since + limit
                    self.loop.ask(self._reap)
        if self._exiting:  # the program may end next, and the system would kill the workers in their exit handlers
            self.end_all_once_idle(wait=True)

    def abort(self, slot: Slot) -> Slot:
        """Abort what a slot's run has on its worker; return a new slot on that worker."""
        turn = slot.executor
        assert isinstance(turn, Turn)
        turn.abort()
        return Slot(Turn(turn.worker, turn.surroundings, turn.awaited))

    def retire(self, slot: Slot, pid: int) -> bool:
        """Replace the worker process `pid` of a slot when it has run what was submitted."""
        assert isinstance(slot.executor, Turn)
        return slot.executor.worker.retire(pid)

    def end_all_once_idle(self, wait: bool) -> None:
        """End each worker as soon as no run has it; with `wait`, return when those that are idle now have ended."""
        if self.loop.started:
            gone = threading.Event()
            self.loop.ask(lambda: self._end_all_once_idle(gone.set))
            # The collector may close a generator in any thread, and when the interpreter has stopped the pool's.
            if wait and not (self.loop.current or sys.is_finalizing()):
                wait_for(gone)

    def make_room(self) -> bool:
        """End the idle workers, because the system is short of descriptors or memory. Not for the loop's thread.

        Returns
        -------
        Whether processes have ended, so that it is worth trying again.
        """
        if not self.loop.started or self.loop.current:
            return False
        made: queue.SimpleQueue[bool] = queue.SimpleQueue()

        def end_idle() -> None:
            if not self.once_there_is_room(lambda: made.put(True)):
                made.put(False)

        self.loop.ask(end_idle)
        return made.get()

    def once_there_is_room(self, then: Callable[[], object]) -> bool:
        """End the idle workers, and call `then` when they have ended; return whether there are any.

        Called in the loop's thread.
        """
        self._end_idle()
        leaving = self._leaving()
        if leaving:
            self._once_gone(leaving, then)
        return bool(leaving)

    def catch_up(self) -> None:
        """Wait until the pool's thread has done all that it was asked for."""
        self.loop.catch_up()

    def exits_without(self, worker: Worker) -> bool:
        """Return whether the interpreter shuts down and awaits no run that has this worker."""
        return self._exiting and not worker.awaited

    def began(self, process: Process) -> None:
        """Record that a process has started."""
        self._processes.add(process)

    def ended(self, process: Process) -> None:
        """Record that a process has ended, and call the functions that waited for it."""
        self._processes.discard(process)
        for waiting in list(self._waiting):
            waiting[0].discard(process)
            if not waiting[0] and waiting in self._waiting:
                self._waiting.remove(waiting)
                waiting[1]()

    def shut_down(self) -> None:
        """End the workers that no awaited run has, and return when their processes have ended.

        The interpreter calls this when the main thread has ended, before it waits for the threads that are no daemons.
        Their runs go on, and new ones may begin there and in exit handlers. Workers then end with their run. Runs of
        daemon threads, and generators that the main thread has left unfinished, lose their workers.

        A signal may interrupt the caller at any point. The pool's thread, which no signal interrupts, does the work. So
        it is enough that one call gets as far as asking for it; a second call waits for the same end.
        """
        if self is not _pool:
            return  # a forked child must not touch the workers of its parent
        while self.before_end:  # each is called once: a user who interrupts the waiting wants the program to end
            self.before_end.pop()()
        self._exiting = True
        if self.loop.started:
            self.end_all_once_idle(wait=True)
            self.loop.catch_up()  # wait for what their ends have caused

    def abandon(self) -> None:
        """Close the descriptors of the workers in a forked child, because the workers are the parent's."""
        self.loop.abandon()
        for process in list(self._processes):
            process.abandon()

    def _awaits_this_thread(self) -> bool:
        """Return whether the interpreter, when it shuts down, waits for a run that this thread begins now.

        It does not wait for generators that the main thread leaves unfinished. It does wait for its exit handlers.
        """
        return not threading.current_thread().daemon and (self._exiting or not in_main_thread())

    def _users(self, worker: Worker) -> int:
        """Return the number of runs for which a worker is kept."""
        return worker.awaited if self._exiting else worker.users

    def _end_all_once_idle(self, then: Callable[[], object]) -> None:
        with self._lock:
            for workers in self._workers.values():
                for worker in workers:
                    worker.closing = True
        self._end_idle()
        self._once_gone(self._leaving(), then)

    def _end_idle(self) -> None:
        """End the workers that no run has now; at exit, those that no awaited run has."""
        with self._lock:
            idle = [worker for workers in self._workers.values() for worker in workers if not self._users(worker)]
            for worker in idle:
                self._workers[worker.maker.key].remove(worker)
        for worker in idle:
            worker.end(now=True)

    def _leaving(self) -> set[Process]:
        """Return the processes that no worker has any more."""
        with self._lock:
            kept = {worker.process for group in self._workers.values() for worker in group}
        return self._processes - kept

    def _once_gone(self, processes: set[Process], then: Callable[[], object]) -> None:
        """Call `then` when all of the processes have ended. Those that do not end in time are killed."""
        if not processes:
            then()
            return
        waiting = processes, then
        self._waiting.append(waiting)

        def kill() -> None:
            for process in list(processes):
                process.kill()

        def give_up() -> None:  # the system has never reported an end
            if waiting in self._waiting:
                self._waiting.remove(waiting)
                then()

        self.loop.later(EXIT_SECONDS, kill)
        self.loop.later(2 * EXIT_SECONDS, give_up)

    def _limit(self, worker: Worker) -> float | None:
        """Return the seconds after which a worker ends if it is idle; None for never."""
        limit = worker.maker.idle_seconds
        return limit if limit is None or worker.maker.key == self._latest else BESIDE_SECONDS

    def _reap(self) -> None:
        """End the workers that have been idle for too long, and schedule the next look."""
        with self._lock:
            now = time.monotonic()
            self._look_at = math.inf
            for workers in self._workers.values():
                for worker in list(workers):
                    limit = self._limit(worker)
                    if limit is None or worker.users:
                        continue
                    if worker.idle_since + limit <= now:
                        workers.remove(worker)
                        worker.end()
                    else:
                        self._look_at = min(self._look_at, worker.idle_since + limit)
            for key in [key for key, workers in self._workers.items() if not workers]:
                del self._workers[key]
            if self._look_at < math.inf:
                self.loop.later(self._look_at - now, self._reap)


_pool = Pool()
#: The pools of parent processes. They are kept, because another thread may have been changing one at the fork.
_inherited: list[Pool] = []


def pool() -> Pool:
    """Return the pool of this process."""
    return _pool


def shutdown_workers(wait: bool = True) -> None:
    """End the worker processes that are kept for the next run, to free the memory that they hold.

    No run is harmed: a worker that runs something, or belongs to a generator that is not exhausted, to an open ``with
    Parallel(...)`` block or to an :func:`~shoal.executor`, ends with that instead of being kept. The next run starts
    new workers.

    Parameters
    ----------
    wait
        Whether to return only when the processes that have nothing to do are gone. Those in use are not waited for,
        since their run may depend on the caller.

    Notes
    -----
    Thread-safe. Without it, workers of the backend "loky" end after 300 idle seconds (`idle_worker_timeout`), and at
    exit; those of "multiprocessing" end with their run. What workers have registered for their exit still runs. A
    worker that has not ended after three seconds is killed.

    Examples
    --------
    >>> from shoal import Parallel, delayed, shutdown_workers
    >>> Parallel(n_jobs=2)(delayed(abs)(x) for x in (-1, -2))
    [1, 2]
    >>> shutdown_workers()
    """
    _pool.end_all_once_idle(wait)


#: The attributes in which libraries keep the children of this process, or what ends them. An attribute may be missing,
#: if another thread was importing the module at the fork.
_OF_THE_PARENT = {
    "concurrent.futures.process": "_threads_wakeups",
    "loky.process_executor": "_threads_wakeups",
    "multiprocessing.process": "_children",
}
_NONE: set[Any] = set()


def _after_fork() -> None:
    """Give a forked child a pool of its own, and let libraries forget the parent's children.

    At exit they would try to end these children. That fails, or waits for ever for a lock that was held at the fork.
    """
    global _pool
    _inherited.append(_pool)
    _pool, inherited = Pool(), _pool
    inherited.abandon()
    for name, attribute in _OF_THE_PARENT.items():
        getattr(sys.modules.get(name), attribute, _NONE).clear()
    tracker = getattr(sys.modules.get("multiprocessing.resource_tracker"), "_resource_tracker", None)
    if tracker is not None:
        tracker._pid = None


after_fork_in_child(_after_fork, BACKENDS)
