"""What ``Memory`` remembers of runs, for ``Parallel(memory=)``."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from shoal.memory.store import Key

#: The largest number of calls of runs whose keys are remembered.
_MOST_PENDING = 100_000

#: A call of a run: (function, args, kwargs).
Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]


class RunCalls:
    """The functions and the unfinished calls of runs, ``Parallel(memory=)``. Thread-safe.

    Attributes
    ----------
    functions
        The cached forms of functions, by the id of the function: equal functions may do different things.
    """

    def __init__(self) -> None:
        self.functions: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
        self._keys: dict[tuple[int, int, int], Key | None] = {}

    def expect(self, call: Call, key: Key | None) -> None:
        """Record the key of a call that is about to run."""
        while len(self._keys) >= _MOST_PENDING:
            self._keys.pop(next(iter(self._keys)), None)
        self._keys[self._ids(call)] = key

    def key_of(self, call: Call) -> Key | None:
        """Return the key of a call that has run, and forget the call."""
        return self._keys.pop(self._ids(call), None)

    @staticmethod
    def _ids(call: Call) -> tuple[int, int, int]:
        # The run refers to these objects from get() to put(), so no others have their ids. It may make a new empty
        # dictionary for a call without keyword arguments.
        function, args, kwargs = call
        return id(function), id(args), id(kwargs) if kwargs else 0
