"""The backends of this process: one of its threads, "threading", and of the caller's own thread, "sequential"."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

from shoal.backends.base import Backend, Slot, WorkerSpec, start_thread

T = TypeVar("T")
_Item = tuple["Future[Any]", Callable[..., Any], tuple[Any, ...], dict[str, Any]]


class DaemonThreads(Executor):
    """Threads that never hold up the interpreter's exit.

    ``ThreadPoolExecutor`` joins its threads at exit, so that one call that never returns would keep the process for
    ever after its run was given up.
    """

    def __init__(self, n_threads: int) -> None:
        self._items: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._n_threads = n_threads
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._closed = False

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Have a thread run the call; a thread is started as long as there are fewer than `n_threads`."""
        future: Future[T] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
            item = future, fn, args, kwargs
            if len(self._threads) < self._n_threads:
                # It finds its first item at once; to wait and be woken for it would cost as much as to start.
                self._threads.append(start_thread("shoal-worker", _work, [item], self._items))
            else:
                self._items.put(item)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let the threads end once nothing is left to do."""
        with self._lock:
            if not self._closed:
                self._closed = True
                with contextlib.suppress(queue.Empty):
                    while cancel_futures:
                        if (item := self._items.get_nowait()) is not None:
                            item[0].cancel()
                for _ in self._threads:
                    self._items.put(None)
        if wait:
            for thread in self._threads:
                if thread is not threading.current_thread():
                    thread.join()


def _work(first: list[_Item], items: queue.SimpleQueue[_Item | None]) -> None:
    item: _Item | None = first.pop()
    while item is not None:
        future, fn, args, kwargs = item
        if future.set_running_or_notify_cancel():
            try:
                result = fn(*args, **kwargs)
            except BaseException as error:  # the future carries it to whoever waits
                future.set_exception(error)
            else:
                future.set_result(result)
                del result
        # A thread that waits must not keep alive what it ran.
        del item, future, fn, args, kwargs
        item = items.get()


class ThreadingBackend(Backend):
    """Runs the calls in threads of this process: arguments are shared, nothing is pickled."""

    name = "threading"
    in_process = True
    ships_bytes = False

    def open(self, spec: WorkerSpec) -> list[Slot]:
        """Return one slot of as many threads as workers are wanted; they start when they are needed."""
        return [Slot(DaemonThreads(spec.n_workers), spec.n_workers)]

    def close(self, slots: list[Slot]) -> None:
        """Wait for the threads to end."""
        for slot in slots:
            slot.executor.shutdown(wait=True)

    def abort(self, slot: Slot) -> Slot:
        """Leave the threads to themselves, since none can be stopped; return new ones."""
        slot.executor.shutdown(wait=False, cancel_futures=True)
        return Slot(DaemonThreads(slot.width), slot.width)


class InlineExecutor(Executor):
    """Runs a call when it is submitted; the future that it returns is done."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Run the call and return its outcome; interrupts pass through."""
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class SequentialBackend(Backend):
    """Runs the calls in the caller's thread; a run with one worker is a plain loop on every backend."""

    name = "sequential"
    in_process = True
    ships_bytes = False
    supports_timeout = False

    def workers(self, n_jobs: int | None, depth: int = 0) -> int:
        """Return 1, whatever `n_jobs` is."""
        super().workers(n_jobs, depth)
        return 1

    def open(self, spec: WorkerSpec) -> list[Slot]:
        """Return one slot."""
        return [Slot(InlineExecutor())]

    def close(self, slots: list[Slot]) -> None:
        """Do nothing: there is nothing to take back."""

    def abort(self, slot: Slot) -> Slot:
        """Return `slot`: what it ran has ended."""
        return slot

    def nested(self, depth: int) -> str:
        """Return "sequential"."""
        return self.name
