"""Calls whose results an earlier run has stored: they do not run again.

::

    the caller's calls ──with_known──> a call, or a Known instead ──> the run, as usual ──store──> ResultCache
                            └─ ResultCache.get

A Known has the same index as the call that it replaces, so results keep their order. A worker process receives a
token, which it returns at once; the value stays in this process.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from shoal.parallel._delayed import Call, is_call


class ResultCache(Protocol):
    """A store of results of calls, for ``Parallel(memory=)``.

    Any object with these two methods is one. A call is ``(function, args, kwargs)``, as
    ``delayed(function)(*args, **kwargs)`` makes it. An exception of either method ends the run.

    A cache may have a third method, ``reader()``. It returns a function that the run calls instead of ``get``, and
    drops when it has read all calls. So a cache can remember something for the time of one run only.

    Notes
    -----
    shoal calls the methods in the process that made the ``Parallel``. On a backend of threads it calls ``put`` in
    several threads at a time.
    """

    def get(self, call: Call, default: Any) -> Any:
        """Return the stored result of an equal call, or `default`; called before the call is dispatched."""

    def put(self, call: Call, value: Any) -> None:
        """Store the result of a call that has just ended."""


class Known:
    """The function of a call whose result is known: it returns that result. It wraps the function of the user."""

    __slots__ = ("__weakref__", "__wrapped__", "number", "value")

    def __init__(self, value: Any, function: Any) -> None:
        self.value, self.__wrapped__ = value, function
        self.number = next(_numbers)

    def __call__(self) -> Any:
        """Return the result."""
        return self.value

    def __reduce__(self) -> Any:
        _known[self.number] = self
        return _Token, (self.number,)


class _Token:
    """A Known in a worker process. It returns itself, and becomes the value when it is back in the first process."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __call__(self) -> _Token:
        return self

    def __reduce__(self) -> Any:
        return _value_of, (self._number,)


_numbers = itertools.count()
#: Those that were sent to workers. They live as long as the run holds their batch.
_known: weakref.WeakValueDictionary[int, Known] = weakref.WeakValueDictionary()


def _value_of(number: int) -> Any:
    return _known[number].value


_ABSENT = object()


def with_known(calls: Iterable[Any], cache: ResultCache) -> Iterator[Any]:
    """Yield the calls, with a :class:`Known` instead of each call whose result `cache` has."""
    reader = getattr(cache, "reader", None)
    get = cache.get if reader is None else reader()
    for call in calls:
        value = get(call, _ABSENT) if isinstance(call, tuple) and len(call) == 3 and is_call(call) else _ABSENT
        yield call if value is _ABSENT else (Known(value, call[0]), (), {})


def store(cache: ResultCache | None, call: Call, value: Any) -> None:
    """Store the result of a call in the cache, if there is one and the result does not come from there."""
    if cache is not None and type(call[0]) is not Known:
        cache.put(call, value)
