"""The worker processes of this process: kept warm, and shared by all runs.

One thread that lasts starts them, because the kernel ties their lives to it (see _bootstrap), and ends those that are
idle; what a worker is, and how runs share it, is in _workers.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
import weakref
from collections.abc import Callable, Hashable
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from shoal.backends._start import refuse_while_main_is_imported
from shoal.backends._workers import AT_EXIT, Maker, Turn, Worker
from shoal.backends.base import Slot, start_thread

if TYPE_CHECKING:
    from shoal.backends._channel import Channel

#: A worker that has not ended so many seconds after it was told to is killed, where that is waited for: a call may have
#: left a process there.
EXIT_SECONDS = 3.0
#: A worker that was started with other options than the last run's goes after so many idle seconds.
BESIDE_SECONDS = 2.0


class Pool:
    """The worker processes of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._workers: dict[Hashable, list[Worker]] = {}
        self._latest: Hashable = None
        self._kinds: set[type] = set()
        # The threads that live as long as a process of ours, and that process. Only the pool's thread uses it, so that
        # no signal can keep a process from being entered here or ended.
        self._processes: weakref.WeakKeyDictionary[threading.Thread, Any] = weakref.WeakKeyDictionary()
        self._requests: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False
        #: Called at exit before the workers are ended: what waits until they have done what they have.
        self.before_end: list[Callable[[], None]] = []

    def open(self, maker: Maker, n_workers: int, own: bool = False) -> list[Slot]:
        """Return a slot on each of `n_workers` workers: those that fewest runs use, and new ones where they lack.

        With `own`, they are workers that no run uses, and no other run uses them until they are given back.
        """
        refuse_while_main_is_imported()
        with self._lock:
            self.check()
            if self._thread is None:
                threading._register_atexit(self.shut_down)  # type: ignore[attr-defined]
                thread = threading.Thread(target=self._serve, name="shoal-pool", daemon=True)
                start_thread(thread, make_room=False)
                self._thread = thread
            group = self._workers.setdefault(maker.key, [])
            workers = [worker for worker in group if not (worker.own or worker.last or (own and worker.users))]
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
                # Beside one that had an owner. One that ends anyway does not count.
                twice = [other.index for other in group if not other.last].count(worker.index) > 1
                if end or ((twice or worker.last) and not worker.users):
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
                    worker.end(now=True)

    def end_all_once_idle(self, wait: bool) -> None:
        """End each worker as soon as no run has it; with `wait`, return when those that are idle now are gone."""
        if self._thread is None or self._closed:
            return
        gone = threading.Event()
        self.ask(partial(self._end_all_once_idle, gone))
        if wait:
            gone.wait()

    def _end_all_once_idle(self, gone: threading.Event) -> None:
        with self._lock:
            for workers in self._workers.values():
                for worker in workers:
                    worker.last = True
        self.end_idle()
        self._see_off()
        gone.set()

    def make_room(self) -> bool:
        """End the idle workers, because the system refuses something that they hold: descriptors, threads, memory.

        Returns
        -------
        Whether processes have ended, so that it is worth trying again.
        """
        if threading.current_thread() is self._thread:
            self.end_idle()
            return self._see_off()
        if self._thread is None:
            return False
        made: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self.ask(lambda: made.put(self.make_room()))
        return made.get()

    def ask(self, request: Callable[[], None]) -> None:
        """Have the pool's thread do something."""
        self._requests.put(request)

    def check(self) -> None:
        """Raise RuntimeError if no worker can be started any more."""
        if self._closed:
            raise RuntimeError(AT_EXIT)

    def started(self, kind: type, channel: Channel) -> None:
        """Take note of a process, so that it is ended at exit, before the library that has started it waits for it.

        Called in the pool's thread. By now that library has registered what it does at exit; what is registered later
        is called earlier.
        """
        self._processes.update(dict.fromkeys(channel.threads, channel.process))
        if kind not in self._kinds:
            from multiprocessing import util

            self._kinds.add(kind)
            threading._register_atexit(self.shut_down)  # type: ignore[attr-defined]
            # A process that multiprocessing has started waits for its children before it comes to what is registered.
            util.Finalize(None, self.shut_down, exitpriority=100)

    def shut_down(self) -> None:
        """End all workers at exit, and return when their processes are gone; from then on none is started.

        A signal may interrupt the caller at any point. The pool's thread does the work, which no signal interrupts. So
        one call that comes as far as asking for it suffices, and whoever calls again waits for the same end.
        """
        if self is not _pool:
            return  # a forked child must not touch the workers of its parent
        while self.before_end:  # each is waited for once: whoever interrupts that wants the program to end
            self.before_end.pop()()
        self._closed = True
        if self._thread is not None:
            ended = threading.Event()
            self.ask(partial(self._end_all, ended))
            ended.wait()

    def _end_all(self, ended: threading.Event) -> None:
        """End all workers and what runs on them, and wait until they are gone; called in the pool's thread."""
        with self._lock:
            workers = [worker for group in self._workers.values() for worker in group]
            self._workers.clear()
        for worker in workers:
            worker.end(now=True)
        # They close pipes into which the standard library writes at exit, which before CPython's gh-125451 (3.12.8,
        # 3.13.1) is an error on stderr if both come at the same time; and queues that multiprocessing closes at exit.
        self._see_off()
        self.ask(ended.set)  # after what was asked for because of their ends

    def _see_off(self) -> bool:
        """Wait until all processes are gone that are no worker's any more; kill those that do not end.

        Called in the pool's thread. Return whether there were any.
        """
        with self._lock:
            kept = {thread for group in self._workers.values() for worker in group for thread in worker.threads}
        leaving = [thread for thread in self._processes if thread not in kept and thread.is_alive()]
        deadline = time.monotonic() + EXIT_SECONDS
        for thread in leaving:
            thread.join(max(deadline - time.monotonic(), 0))
            process = self._processes[thread]
            if thread.is_alive() and process is not None:  # else it is dead, and its end about to be noticed
                from loky.backend.utils import kill_process_tree

                try:
                    kill_process_tree(process)
                except Exception:  # no descriptors are left, say, to look for what it has started
                    process.kill()
            thread.join()
        return bool(leaving)

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


#: Where libraries keep the children of this process, and what ends them. A module that another thread of the parent's
#: was importing at the fork does not have it yet.
_OF_THE_PARENT = {
    "concurrent.futures.process": "_threads_wakeups",
    "loky.process_executor": "_threads_wakeups",
    "multiprocessing.process": "_children",
}
_NONE: set[Any] = set()


def _after_fork() -> None:
    """Start anew in a forked child: the workers are the parent's.

    The parent's pool is kept, unused, since its executors would wake the parent's threads if they were collected.
    What the libraries below would do at exit with the parent's children fails or, with a lock that was held at the
    fork, waits for ever.
    """
    global _pool
    _inherited.append(_pool)
    _pool = Pool()
    for name, attribute in _OF_THE_PARENT.items():
        getattr(sys.modules.get(name), attribute, _NONE).clear()
    tracker = getattr(sys.modules.get("multiprocessing.resource_tracker"), "_resource_tracker", None)
    if tracker is not None:
        tracker._pid = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
