"""Calls that travel together, as columns.

::

    (f, args, kwargs)          functions   [f, f, ...]   or f alone, while all calls have the same
    (f, args, kwargs)   ──>    args        [args, args, ...]
    ...                        kwargs      [kwargs, kwargs, ...]   or None, while no call has any

Columns of 100,000 calls are pickled in a third of the time that the calls would take; and the tuples that the caller
makes are gone at once, so that the garbage collector does not go through them again and again.
"""

from __future__ import annotations

import copyreg
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


class Alike:
    """Stands, in a pickle, for a list of objects of one class whose attributes are the same objects.

    scikit-learn makes a new callable around its function for every call: the pickle holds the first, and each of the
    others is copied from it where the batch is decoded, which is what it would be rebuilt to.
    """

    __slots__ = ("first", "number")

    def __init__(self, first: Any, number: int) -> None:
        self.first, self.number = first, number

    def __reduce__(self) -> Any:
        return copies, (self.first, self.number)


def copies(first: Any, number: int) -> list[Any]:
    """Return a list of an object and its shallow copies, so many in all."""
    cls, state = type(first), vars(first)
    every = [first]
    for _ in range(number - 1):
        copy = object.__new__(cls)
        vars(copy).update(state)
        every.append(copy)
    return every


def folded(functions: list[Any]) -> list[Any] | Alike:
    """Return what stands for a list of objects that are alike; the list itself if they are not."""
    first = functions[0]
    cls = type(first)
    if not plainly_reduced(cls):
        return functions
    names, values = list(vars(first)), list(vars(first).values())
    for function in functions:
        if type(function) is not cls:
            return functions
        state = vars(function)
        if list(state) != names:
            return functions
        for one, other in zip(values, state.values(), strict=True):
            # Builtin functions make the string of their name anew, and no call can tell two strings apart.
            if one is not other and not (type(one) is str is type(other) and one == other):
                return functions
    return Alike(first, len(functions))


def plainly_reduced(cls: Any) -> bool:
    """Tell whether what pickle stores of an instance is its class and its ``__dict__``, and nothing else."""
    return (
        cls.__reduce_ex__ is object.__reduce_ex__
        and cls.__reduce__ is object.__reduce__
        and cls.__new__ is object.__new__
        and getattr(cls, "__getstate__", None) is getattr(object, "__getstate__", None)
        and not any(hasattr(cls, name) for name in ("__setstate__", "__getnewargs__", "__getnewargs_ex__"))
        and cls.__dictoffset__ != 0
        and not copyreg._slotnames(cls)  # type: ignore[attr-defined]
        and cls not in copyreg.dispatch_table
    )
