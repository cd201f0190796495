"""Calls that travel together, as columns.

::

    (f, args, kwargs)          functions   [f, f, ...]   or f alone, while all calls have the same
    (f, args, kwargs)   ──>    args        [args, args, ...]
    ...                        kwargs      [kwargs, kwargs, ...]   or None, while no call has any

Columns of 100,000 calls are pickled in a third of the time that the calls would take; and the tuples that the caller
makes are gone at once, so that the garbage collector does not go through them again and again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice, repeat
from typing import Any

from shoal.parallel._delayed import Call, not_a_call


class Batch:
    """A run of consecutive calls.

    Attributes
    ----------
    start
        The index of the first in all calls of the run.
    functions
        The function of each call in a list; or the one function of all.
    args
        The positional arguments of each call.
    kwargs
        The keyword arguments of each call; None if no call has any.
    """

    __slots__ = ("args", "functions", "kwargs", "start")

    def __init__(self, start: int) -> None:
        self.start = start
        self.functions: Any = None
        self.args: list[tuple[Any, ...]] = []
        self.kwargs: list[dict[str, Any]] | None = None

    @classmethod
    def of(cls, index: int, call: Call) -> Batch:
        """Return the batch of one call."""
        batch = cls(index)
        batch.pull(iter((call,)), 1)
        return batch

    def __len__(self) -> int:
        return len(self.args)

    def __repr__(self) -> str:
        return f"Batch({self.start}, {len(self)} calls)"

    def __iter__(self) -> Iterator[Call]:
        return rows(self.functions, self.args, self.kwargs)

    def pull(self, calls: Iterator[Any], wanted: int) -> bool:
        """Append the next `wanted` of `calls`; return whether there were as many.

        Raises
        ------
        TypeError
            If one of them is no call.
        Exception
            What the iterator raises. What it gave before is kept.
        """
        args, kwargs, shared = self.args, self.kwargs, self.functions
        many = shared if type(shared) is list else None
        before = len(args)
        for item in islice(calls, wanted):
            try:
                function, positional, keywords = item
            except (TypeError, ValueError):
                raise not_a_call(item, self.start + len(args)) from None
            if many is not None:
                many.append(function)
            elif function is not shared:
                if args:
                    self.functions = many = [*repeat(shared, len(args)), function]
                else:
                    self.functions = shared = function
            if kwargs is not None:
                kwargs.append(keywords)
            elif keywords:
                self.kwargs = kwargs = [*({} for _ in args), keywords]
            args.append(positional)
        return len(args) - before == wanted

    def split(self, size: int) -> Batch:
        """Take the first `size` calls out; return them."""
        first = Batch(self.start)
        self.start += size
        first.args, self.args = self.args[:size], self.args[size:]
        first.functions = self.functions
        if type(self.functions) is list:
            first.functions, self.functions = self.functions[:size], self.functions[size:]
        if self.kwargs is not None:
            first.kwargs, self.kwargs = self.kwargs[:size], self.kwargs[size:]
        return first

    def function(self, index: int) -> Callable[..., Any]:
        """Return the function of one of its calls."""
        function: Callable[..., Any] = self.functions[index] if type(self.functions) is list else self.functions
        return function


def rows(functions: Any, args: list[tuple[Any, ...]], kwargs: list[dict[str, Any]] | None) -> Iterator[Call]:
    """Turn columns back into calls."""
    many = functions if type(functions) is list else repeat(functions, len(args))
    return zip(many, args, ({} for _ in args) if kwargs is None else kwargs, strict=True)
