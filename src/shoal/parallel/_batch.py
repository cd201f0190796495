"""Calls that no worker has yet, and calls that travel together, as columns.

::

    the caller's iterator ──fill──> ahead ─────┐
                                               ├──next_batch, next_call──> dispatched
          a batch that was lost or cut short ──┘
                               (requeued)

    (f, args, kwargs)          functions   [f, f, ...]   or f alone, while all calls have the same
    (f, args, kwargs)   ──>    args        [args, args, ...]
    ...                        kwargs      [kwargs, kwargs, ...]   or None, while no call has any

Pickling the columns of 100,000 calls takes a third of the time that pickling the calls takes. Also, the tuples that the
caller makes are freed at once, so that the garbage collector does not visit them again and again.
"""

from __future__ import annotations

import copyreg
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice, repeat
from operator import attrgetter
from typing import Any

from shoal.parallel._delayed import Call, not_a_call


class Batch:
    """Consecutive calls of a run.

    Attributes
    ----------
    start
        The index of the first call, among all calls of the run.
    functions
        A list of the function of each call; or one function, which all calls have.
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
            If an item is no call.
        Exception
            Whatever the iterator raises. The calls that it gave before are appended.
        """
        args, kwargs, shared = self.args, self.kwargs, self.functions
        many = shared if type(shared) is list else None
        before = len(args)
        for item in islice(calls, wanted):
            try:
                function, positional, keywords = item
            except (TypeError, ValueError):
                raise not_a_call(item, self.start + len(self)) from None
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
        """Remove and return the first `size` calls."""
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


class Ahead(Batch):
    """Calls that were read and not dispatched. Removing some takes a time that depends on their number alone.

    Thousands of workers have millions of calls read ahead, of which each batch takes a few.
    """

    __slots__ = ("_gone",)

    def __init__(self, start: int) -> None:
        super().__init__(start)
        self._gone = 0  # how many calls at the front of the columns were removed already

    def __len__(self) -> int:
        return len(self.args) - self._gone

    def split(self, size: int) -> Batch:
        """Remove and return the first `size` calls."""
        first = Batch(self.start)
        self.start += size
        begin, end = self._gone, self._gone + size
        first.args, first.functions = self.args[begin:end], self.functions
        columns: list[list[Any]] = [self.args]
        if type(self.functions) is list:
            first.functions = self.functions[begin:end]
            columns.append(self.functions)
        if self.kwargs is not None:
            first.kwargs = self.kwargs[begin:end]
            columns.append(self.kwargs)
        if 2 * end >= len(self.args):
            for column in columns:
                del column[:end]
            self._gone = 0
        else:  # drop the arguments, which may be large, and shorten the columns later
            for column in columns:
                column[begin:end] = [None] * size
            self._gone = end
        return first


class CallQueue:
    """The calls of a run that no worker has yet.

    Parameters
    ----------
    calls
        The caller's calls. They are read one after the other, and no earlier than they are asked for.
    total
        The number of calls; None if it is not known.

    Attributes
    ----------
    clock
        Returns the time, in seconds.
    seconds_to_read
        The seconds that it took to read a call the last time. It is 0 where the number of calls is known.
    reading
        Whether :meth:`fill` waits for the caller's iterator.
    ahead
        The calls that were read and not dispatched, as a :class:`Batch`.
    requeued
        The batches whose calls are to be dispatched again. They go before the calls in `ahead`.
    exhausted
        Whether the caller's iterator has ended.
    dispatched
        The number of calls that were dispatched at least once.

    Notes
    -----
    Not thread-safe.
    """

    def __init__(self, calls: Iterable[Call], total: int | None = None) -> None:
        self._calls = iter(calls)
        self.total = total
        self.clock: Callable[[], float] = time.perf_counter
        self.seconds_to_read = 0.0
        self.reading = False
        self.ahead: Any = Ahead(0)
        self.requeued: list[Batch] = []
        self.exhausted = False
        self.dispatched = 0

    @property
    def empty(self) -> bool:
        """Whether no call is left to dispatch, as far as is known now."""
        return self.exhausted and not (self.ahead or self.requeued)

    @property
    def read(self) -> int:
        """The number of calls that were read from the caller's iterator."""
        return self.dispatched + len(self.ahead)

    @property
    def left(self) -> int | None:
        """The number of calls that are left to dispatch; None while it is unknown."""
        if not self.exhausted and self.total is None:
            return None
        left = len(self.ahead)
        if not self.exhausted and self.total is not None:
            left = max(self.total - self.dispatched, left)
        return left + sum(map(len, self.requeued)) if self.requeued else left

    def fill(self, wanted: int) -> None:
        """Read from the caller's iterator until `wanted` calls are read ahead, or it ends.

        Raises
        ------
        Exception
            Whatever the iterator raises.
        """
        missing = wanted - len(self.ahead)
        if missing > 0 and not self.exhausted:
            began = self.clock() if self.total is None else 0.0
            self.reading = True
            try:
                self.exhausted = not self.ahead.pull(self._calls, missing)
            finally:
                self.reading = False
            if self.total is None:
                self.seconds_to_read = (self.clock() - began) / missing

    def next_batch(self, size: int, room: int, accepts: Any = None) -> Batch | None:
        """Return a batch of at most `size` calls, the earliest requeued ones first; None if there is none.

        Parameters
        ----------
        size
            The largest number of calls.
        room
            The largest number of calls that were not dispatched before.
        accepts
            Takes the size of the batch, and tells whether the caller wants it; None if the caller wants any.
        """
        ahead = self.ahead
        source = min(self.requeued, key=attrgetter("start")) if self.requeued else ahead
        size = min(size, len(source), room) if source is ahead else min(size, len(source))
        if not size or (accepts is not None and not accepts(size)):
            return None
        batch: Batch = source.split(size)
        taken = len(batch.args)
        if not taken:  # of submitted calls, all were cancelled meanwhile
            return None
        if source is ahead:
            self.dispatched += taken
        elif not source:
            self.requeued.remove(source)
        return batch

    def next_call(self) -> tuple[int, Call] | None:
        """Return the index of the next call, and the call; None if there is none. Threads take their calls here."""
        if self.requeued:
            (call,) = batch = self.requeued.pop()
            return batch.start, call
        try:
            call = next(self._calls)
        except StopIteration:
            self.exhausted = True
            return None
        index = self.dispatched
        self.dispatched = index + 1
        return index, call

    def available(self, _wanted: int) -> int:
        """Return how many calls can be dispatched at once, without reading from the caller's iterator."""
        return len(self.requeued)

    def requeue(self, batch: Batch) -> None:
        """Have the calls of a batch dispatched again, before the calls that were never dispatched."""
        if len(batch):
            self.requeued.append(batch)


def rows(functions: Any, args: list[tuple[Any, ...]], kwargs: list[dict[str, Any]] | None) -> Iterator[Call]:
    """Turn columns back into calls."""
    many = functions if type(functions) is list else repeat(functions, len(args))
    return zip(many, args, ({} for _ in args) if kwargs is None else kwargs, strict=True)


class Alike:
    """Replaces, in a pickle, a list of objects of one class whose attributes are the same objects.

    scikit-learn makes a new callable around its function for every call. The pickle holds the first one. The worker
    that decodes the batch makes the others as copies of it, which equal what pickle would rebuild.
    """

    __slots__ = ("first", "number")

    def __init__(self, first: Any, number: int) -> None:
        self.first, self.number = first, number

    def __reduce__(self) -> Any:
        return copies, (self.first, self.number)


def copies(first: Any, number: int) -> list[Any]:
    """Return a list of an object and its shallow copies, `number` objects in all."""
    cls, state = type(first), vars(first)
    every = [first]
    for _ in range(number - 1):
        copy = object.__new__(cls)
        vars(copy).update(state)
        every.append(copy)
    return every


def folded(functions: list[Any]) -> list[Any] | Alike:
    """Return the :class:`Alike` that replaces a list of functions; the list itself if they are not alike."""
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
            # Builtin functions make a new string of their name each time; equal strings are alike to any call.
            if one is not other and not (type(one) is str is type(other) and one == other):
                return functions
    return Alike(first, len(functions))


def plainly_reduced(cls: Any) -> bool:
    """Tell whether pickle stores the class and the ``__dict__`` of an instance, and nothing else."""
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
