"""The backends without worker processes: "threading", and "sequential", which uses the caller's thread."""

from __future__ import annotations

import contextlib
import functools
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

from shoal._platform.capabilities import has_threads
from shoal._tracebacks import warn
from shoal.backends.base import Backend, Slot, WorkerSpec, start_thread
from shoal.errors import FallbackWarning

T = TypeVar("T")
_Item = tuple["Future[Any]", Callable[..., Any], tuple[Any, ...], dict[str, Any]]


class DaemonThreads(Executor):
    """An executor of daemon threads, which do not delay the interpreter's exit.

    ``ThreadPoolExecutor`` joins its threads at exit: after an aborted run, one endless call would keep the process
    alive.
    """

    def __init__(self, n_threads: int) -> None:
        self._items: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._n_threads = n_threads
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._closed = False

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Run the call in a thread. A new thread is started while there are fewer than `n_threads`."""
        future: Future[T] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
            item = future, fn, args, kwargs
            if len(self._threads) < self._n_threads:
                # The thread gets its first item directly: waking it up would cost as much as starting it.
                self._threads.append(start_thread("shoal-worker", _work, [item], self._items))
            else:
                self._items.put(item)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the threads once all calls have run."""
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
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)
                del result
        # An idle thread must not keep the call and its result alive.
        del item, future, fn, args, kwargs
        item = items.get()


class ThreadingBackend(Backend):
    """Runs the calls in threads of this process. Arguments are shared, and nothing is pickled."""

    name = "threading"
    in_process = True
    ships_bytes = False

    def workers(self, n_jobs: int | None, depth: int = 0) -> int:
        """Return the number of threads for `n_jobs`; 1, with one warning for all runs, if there are no threads."""
        n_workers = super().workers(n_jobs, depth)
        if n_workers == 1 or has_threads():
            return n_workers
        _warn_of_no_threads()
        return 1

    def open(self, spec: WorkerSpec) -> list[Slot]:
        """Return one slot with a thread for each worker. Threads start when they are needed."""
        return [Slot(DaemonThreads(spec.n_workers), spec.n_workers)]

    def close(self, slots: list[Slot]) -> None:
        """Wait for the threads to end."""
        for slot in slots:
            slot.executor.shutdown(wait=True)

    def abort(self, slot: Slot) -> Slot:
        """Return a slot with new threads. The old ones cannot be stopped: they end after their current calls."""
        slot.executor.shutdown(wait=False, cancel_futures=True)
        return Slot(DaemonThreads(slot.width), slot.width)


@functools.cache
def _warn_of_no_threads() -> None:
    warn("neither processes nor threads can be started here, so calls run one after the other", FallbackWarning)


class InlineExecutor(Executor):
    """Runs a call in :meth:`submit`, which returns a completed future."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Run the call and return its outcome. KeyboardInterrupt and SystemExit are raised."""
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class SequentialBackend(Backend):
    """Runs the calls in the caller's thread."""

    name = "sequential"
    in_process = True
    ships_bytes = False
    supports_timeout = False

    def workers(self, n_jobs: int | None, depth: int = 0) -> int:
        """Return 1 for any valid `n_jobs`."""
        super().workers(n_jobs, depth)
        return 1

    def open(self, spec: WorkerSpec) -> list[Slot]:
        """Return one slot."""
        return [Slot(InlineExecutor())]

    def close(self, slots: list[Slot]) -> None:
        """Do nothing."""

    def abort(self, slot: Slot) -> Slot:
        """Return `slot`: no call is running."""
        return slot

    def nested(self, depth: int) -> str:
        """Return "sequential"."""
        return self.name
