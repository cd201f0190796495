"""Calls that run ahead on threads, with results in the order of the calls."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from shoal._cpus import cpu_budget

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

T = TypeVar("T")

#: More threads than this gain little: one thread feeds them all and takes what they made.
_MOST_THREADS = 8


class Ahead(Generic[T]):
    """A queue of calls, of which threads run those in front before their results are asked for.

    A call that is alone is run by whoever takes its result; threads start with the second, if there are CPUs for two.
    Where the system grants no thread, every call is run like that. To be used from one thread.
    """

    def __init__(self) -> None:
        self._executor: ThreadPoolExecutor | None = None
        self._results: deque[Callable[[], T]] = deque()

    def __len__(self) -> int:
        return len(self._results)

    @cached_property  # not asked for where there is but one call
    def _n_threads(self) -> int:
        return min(cpu_budget(), _MOST_THREADS)

    @property
    def full(self) -> bool:
        """Whether a result should be taken before the next call is put."""
        return len(self._results) > 1 and len(self._results) >= 2 * self._n_threads

    def put(self, function: Callable[..., T], *args: Any) -> None:
        """Have ``function(*args)`` run, by now or by the time that its result is taken."""
        self._results.append(partial(function, *args))
        if self._executor is not None:
            self._results.append(self._submitted(self._results.pop()))
        elif len(self._results) > 1 and self._n_threads > 1:
            from concurrent.futures import ThreadPoolExecutor

            self._executor = ThreadPoolExecutor(self._n_threads, "shoal-blocks")
            self._results = deque([self._submitted(call) for call in self._results])

    def take(self) -> T:
        """Return the result of the oldest call; raise what it raised."""
        return self._results.popleft()()

    def close(self) -> None:
        """Drop the calls that have not begun, and wait for the threads to end."""
        self._results.clear()
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
            self._executor = None

    def _submitted(self, call: Callable[[], T]) -> Callable[[], T]:
        if self._executor is not None and self._n_threads > 1:
            try:
                return self._executor.submit(call).result
            except RuntimeError:  # no further thread can be started, or the interpreter is about to end
                self._n_threads = 1
        return call
