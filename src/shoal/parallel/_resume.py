"""Calls whose results are known already, from an earlier run: they are not run again.

::

    the caller's calls ──looked_up──> a call, or a Known in its place ──> the run, as ever ──keep──> ResultCache
                            └─ ResultCache.get

A known result keeps its place among the calls, and so its index and its turn. To a worker process goes a token, which
it gives back at once; the value stays here.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from shoal.parallel._delayed import Call, is_call


class ResultCache(Protocol):
    """Results of calls: what ``Parallel(memory=)`` takes.

    A call is ``(function, args, kwargs)``, as ``delayed(function)(*args, **kwargs)`` makes it. Both methods are called
    in the process that made the ``Parallel``; where the backend is one of threads, in several threads at a time. What
    they raise ends the run.

    A cache may have a third method, ``reader()``. It returns a function that a run calls in place of ``get``, and drops
    when it has read its calls: so what is remembered for one run is not kept for longer.
    """

    def get(self, call: Call, default: Any) -> Any:
        """Return the result of an equal call, or `default`; asked before the call is given out."""

    def put(self, call: Call, value: Any) -> None:
        """Take the result of a call that has just ended."""


class Known:
    """The function of a call whose result is known."""

    __slots__ = ("__weakref__", "number", "value")

    def __init__(self, value: Any) -> None:
        self.value = value
        self.number = next(_numbers)

    def __call__(self) -> Any:
        """Return the result."""
        return self.value

    def __reduce__(self) -> Any:
        _known[self.number] = self
        return _Token, (self.number,)


class _Token:
    """A Known in a worker process: what it returns becomes the value when it is back."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __call__(self) -> _Token:
        return self

    def __reduce__(self) -> Any:
        return _redeemed, (self._number,)


_numbers = itertools.count()
#: Those that travel; they live as long as the batch that the run keeps of them.
_known: weakref.WeakValueDictionary[int, Known] = weakref.WeakValueDictionary()


def _redeemed(number: int) -> Any:
    return _known[number].value


_ABSENT = object()


def looked_up(calls: Iterable[Any], cache: ResultCache) -> Iterator[Any]:
    """Yield the calls, with a :class:`Known` in the place of each whose result `cache` has."""
    reader = getattr(cache, "reader", None)
    get = cache.get if reader is None else reader()
    for call in calls:
        value = get(call, _ABSENT) if isinstance(call, tuple) and len(call) == 3 and is_call(call) else _ABSENT
        yield call if value is _ABSENT else (Known(value), (), {})


def keep(cache: ResultCache | None, call: Call, value: Any) -> None:
    """Give the result of a call to the cache, if there is one and it did not come from there."""
    if cache is not None and type(call[0]) is not Known:
        cache.put(call, value)
