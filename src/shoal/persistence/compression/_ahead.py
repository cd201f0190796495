"""Calls on threads: those that run ahead, with results in the order of the calls; and one beside what goes on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from shoal._cpus import cpu_budget

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

T = TypeVar("T")

#: More threads than this gain little: one thread feeds them all and takes what they made.
_MOST_THREADS = 8


class Ahead(Generic[T]):
    """A queue of calls, of which threads run those in front before their results are asked for.

    A CPU is left to whoever puts the calls: only when a result is asked for, and somebody waits, do all threads run.
    A call that is alone is run by whoever takes its result, and so is every call where there is one CPU, or the system
    grants no thread. To be used from one thread, which is also the one that lets go of what calls are given: without a
    GIL (CPython 3.13), parts of one memoryview must not be made and given up by several threads.

    Parameters
    ----------
    per_thread
        How many calls wait, or their results, for each thread.
    """

    def __init__(self, per_thread: int) -> None:
        self._per_thread = per_thread
        self._executor: ThreadPoolExecutor | None = None
        self._begun: deque[tuple[Future[T], list[Callable[[], T]]]] = deque()  # what runs is held by this thread
        self._calls: deque[Callable[[], T]] = deque()  # behind those

    def __len__(self) -> int:
        return len(self._begun) + len(self._calls)

    @cached_property  # not asked for where there is but one call
    def _n_threads(self) -> int:
        return min(cpu_budget(), _MOST_THREADS)

    @property
    def full(self) -> bool:
        """Whether a result should be taken before the next call is put."""
        return len(self) > 1 and len(self) >= self._per_thread * self._n_threads

    def put(self, function: Callable[..., T], *args: Any) -> None:
        """Have ``function(*args)`` run, by now or by the time that its result is taken."""
        self._calls.append(partial(function, *args))
        if len(self) > 1:
            self._begin(self._n_threads - 1)

    def take(self) -> T:
        """Return the result of the oldest call; raise what it raised."""
        if len(self) > 1 and self._n_threads > 1:
            self._begin(len(self))
        if not self._begun:
            return self._calls.popleft()()
        future, held = self._begun.popleft()
        try:
            return future.result()
        finally:
            held.clear()

    def close(self) -> None:
        """Drop the calls that have not begun, and wait for the threads to end."""
        self._calls.clear()
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
            self._executor = None
        for _, held in self._begun:
            held.clear()
        self._begun.clear()

    def _begin(self, most: int) -> None:
        """Give calls to threads, unless so many are under way."""
        under_way = sum(not future.done() for future, _ in self._begun)
        while self._calls and under_way < most:
            if self._executor is None:
                from concurrent.futures import ThreadPoolExecutor

                self._executor = ThreadPoolExecutor(self._n_threads, "shoal-blocks")
            try:
                held = [self._calls[0]]
                self._begun.append((self._executor.submit(_run, held), held))
            except RuntimeError:  # no further thread can be started, or the interpreter is about to end
                self._n_threads = 1
                return
            self._calls.popleft()
            under_way += 1


def _run(held: list[Callable[[], T]]) -> T:
    return held[0]()


@contextmanager
def beside(call: Callable[[], T]) -> Iterator[Callable[[], T]]:
    """Run a call on a thread while the block runs, if there is a CPU for it and the system grants a thread.

    The block is given what returns the result, and raises what the call raised.
    """
    if cpu_budget() < 2:
        yield call
        return
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1, "shoal-beside") as executor:
        result = call
        with suppress(RuntimeError):
            result = executor.submit(call).result
        yield result
