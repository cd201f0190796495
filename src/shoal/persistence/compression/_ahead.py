"""Calls that threads run ahead of time, and whose results come in the order of the calls."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from shoal._cpus import cpu_budget

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

T = TypeVar("T")

#: More threads gain little, because one thread feeds all of them and collects their results.
_MOST_THREADS = 8


class Ahead(Generic[T]):
    """A queue of calls. Threads run the first ones before their results are asked for.

    One CPU is left to the thread that puts calls in; only while that thread waits for a result do all threads run. The
    calling thread runs a call itself if it is alone in the queue, if there is one CPU, or if the system grants no
    thread. To be used from one thread. That thread also drops the last references to the arguments of the calls,
    because several threads must not make and drop slices of one memoryview on a free-threaded Python (CPython 3.13).

    Parameters
    ----------
    per_thread
        The number of calls and results in the queue, for each thread.
    """

    def __init__(self, per_thread: int) -> None:
        self._per_thread = per_thread
        self._executor: ThreadPoolExecutor | None = None
        self._begun: deque[tuple[Future[T], list[Callable[[], T]]]] = (
            deque()
        )  # with a list of the call, which this thread clears
        self._calls: deque[Callable[[], T]] = deque()  # calls that have not begun

    def __len__(self) -> int:
        return len(self._begun) + len(self._calls)

    @cached_property  # because a single call does not need it
    def _n_threads(self) -> int:
        return min(cpu_budget(), _MOST_THREADS)

    @property
    def full(self) -> bool:
        """Whether a result should be collected before the next call is put in."""
        return len(self) > 1 and len(self) >= self._per_thread * self._n_threads

    def put(self, function: Callable[..., T], *args: Any) -> None:
        """Add the call ``function(*args)``. It runs at once on a thread, or at the latest in :meth:`result`."""
        self._calls.append(partial(function, *args))
        if len(self) > 1:
            self._begin(self._n_threads - 1)

    def result(self) -> T:
        """Remove the oldest call, and return its result or raise its exception."""
        if len(self) > 1 and self._n_threads > 1:
            self._begin(len(self))
        if not self._begun:
            return self._calls.popleft()()
        future, call = self._begun.popleft()
        try:
            return future.result()
        finally:
            call.clear()

    def close(self) -> None:
        """Drop the calls that have not begun, and wait until the threads have ended."""
        self._calls.clear()
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
            self._executor = None
        for _, call in self._begun:
            call.clear()
        self._begun.clear()

    def _begin(self, most: int) -> None:
        """Hand calls to threads until `most` of them are running."""
        under_way = sum(not future.done() for future, _ in self._begun)
        while self._calls and under_way < most:
            if self._executor is None:
                from concurrent.futures import ThreadPoolExecutor

                self._executor = ThreadPoolExecutor(self._n_threads, "shoal-blocks")
            try:
                call = [self._calls[0]]
                self._begun.append((self._executor.submit(_run, call), call))
            except RuntimeError:  # the system grants no thread, or the interpreter is shutting down
                self._n_threads = 1
                return
            self._calls.popleft()
            under_way += 1


def _run(call: list[Callable[[], T]]) -> T:
    return call[0]()
