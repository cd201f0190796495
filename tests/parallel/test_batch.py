"""Columns of calls, and the callables in them that are alike."""

from __future__ import annotations

import copyreg
import gc
import weakref
from collections.abc import Callable
from functools import partial, update_wrapper
from typing import Any

import pytest

from shoal import Parallel, delayed
from shoal._pickling import dumps, loads
from shoal.parallel._batch import Ahead, Alike, Batch, folded


class Wrapper:
    """A callable around a function, as libraries make one for each call."""

    def __init__(self, function: Callable[..., Any], **attributes: Any) -> None:
        self.function = function
        vars(self).update(attributes)
        update_wrapper(self, function)

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)


class Counts:
    """Counts its own calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, _: Any) -> int:
        self.calls += 1
        return self.calls


def sent(functions: list[Any]) -> list[Any]:
    """Return what a worker gets."""
    received: list[Any] = loads(dumps(folded(functions))[0])
    return received


@pytest.mark.parametrize("function", [abs, update_wrapper])
def test_wrappers_of_one_function_are_one_in_the_pickle(function: Any) -> None:
    config = {"a": 1}
    functions = [Wrapper(function, config=config) for _ in range(100)]
    assert isinstance(folded(functions), Alike)
    received = sent(functions)
    assert [vars(one) for one in received] == [vars(one) for one in loads(dumps(functions)[0])]
    assert len({id(one) for one in received}) == 100  # as without it
    assert len({id(one.config) for one in received}) == 1
    assert len(dumps(folded(functions))[0]) < len(dumps(functions)[0]) / 3


def test_what_a_call_does_to_its_callable_is_seen_by_no_other_call() -> None:
    assert Parallel(n_jobs=1, backend="loky")(delayed(Counts())(i) for i in range(5)) == [1] * 5
    assert Parallel(n_jobs=2, batch_size=5)(delayed(Counts())(i) for i in range(10)) == [1] * 10


class Slots(Wrapper):
    __slots__ = ("extra",)


class State(Wrapper):
    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "function": abs}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)


class Reduced(Wrapper):
    def __reduce__(self) -> Any:
        return Reduced, (self.function,)


class Made(Wrapper):
    def __new__(cls, *_args: Any, **_kwargs: Any) -> Made:
        return object.__new__(cls)


class Registered(Wrapper):
    pass


@pytest.mark.parametrize("cls", [Slots, State, Reduced, Made, Registered])
def test_classes_that_have_a_say_in_their_pickles_keep_it(cls: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(copyreg.dispatch_table, Registered, lambda one: (Registered, (one.function,)))  # type: ignore[arg-type]
    functions = [cls(abs) for _ in range(3)]
    assert folded(functions) is functions


@pytest.mark.parametrize(
    "functions",
    [
        [abs, abs],
        [len, abs],
        [Wrapper(abs), Wrapper(len)],
        [Wrapper(abs), abs],
        [Wrapper(abs, a=1.5), Wrapper(abs, a=float("1.5"))],  # equal, but not the same object
        [Wrapper(abs, a=1), Wrapper(abs, b=1)],
        [Wrapper(abs), Counts()],
        [partial(max, 1), partial(max, 1)],
    ],
)
def test_what_differs_is_sent_as_it_is(functions: list[Any]) -> None:
    assert folded(functions) is functions


@pytest.mark.parametrize("kinds", [1, 2])
def test_calls_read_ahead_are_split_as_those_of_a_batch(kinds: int) -> None:
    functions = [abs, pow][:kinds]
    ahead, batch = Ahead(0), Batch(0)
    number = 0
    for sizes in ([3, 1], [0, 4, 2], [1], [5, 5]):
        for each in (ahead, batch):
            each.pull(
                iter([(functions[i % kinds], (i,), {"k": i} if i > 8 else {}) for i in range(number, number + 7)]), 7
            )
        number += 7
        for size in sizes:
            ours, theirs = ahead.split(size), batch.split(size)
            assert (ours.start, list(ours)) == (theirs.start, list(theirs))
            assert (len(ahead), ahead.start) == (len(batch), batch.start)


def test_calls_that_were_split_off_are_not_kept() -> None:
    arguments = [Counts() for _ in range(10)]
    alive = [weakref.ref(argument) for argument in arguments]
    ahead = Ahead(0)
    ahead.pull(iter([(abs, (argument,), {}) for argument in arguments]), 10)
    del arguments
    ahead.split(2)
    gc.collect()
    assert [reference() is None for reference in alive] == [True] * 2 + [False] * 8
