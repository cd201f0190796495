"""The functions that Memory.cache returns: methods, partials, decorated functions, closures."""

from __future__ import annotations

import asyncio
import functools
import inspect
import math
import operator
import re
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest

import shoal
from _memory_util import RUNS, double, make_memory, power, ran, times
from shoal import (
    CacheWarning,
    HashingError,
    MemorizedFunc,
    Memory,
)

memory = pytest.fixture(make_memory)


@pytest.fixture(autouse=True)
def _no_runs() -> None:
    RUNS.clear()


def decorated(memory: Memory) -> Any:
    class Model:
        def __init__(self, scale: int) -> None:
            self.scale = scale

        @memory.cache
        def times(self, x: int) -> int:
            """Multiply."""
            return ran(self.scale * x)

        @memory.cache(ignore=["self"])
        def regardless(self, x: int) -> int:
            return ran(self.scale * x)

        @memory.cache
        @staticmethod
        def inside(x: int) -> int:
            return ran(x)

        @staticmethod
        @memory.cache
        def outside(x: int) -> int:
            return ran(x)

        @memory.cache
        @classmethod
        def named(cls, x: int) -> Any:
            return ran((cls.__name__, x))

        @classmethod
        @memory.cache
        def named_too(cls, x: int) -> Any:
            return ran((cls.__name__, x))

    return Model


def test_a_result_is_computed_once(memory: Memory) -> None:
    cached = memory.cache(double)
    assert [cached(3), cached(x=3), cached(4), cached(3)] == [6, 6, 8, 6]
    assert RUNS == [3, 4]
    assert Memory(memory.location, verbose=0).cache(double)(4) == 8
    assert RUNS == [3, 4]


def test_values_that_are_equal_but_not_the_same_have_results_of_their_own(memory: Memory) -> None:
    cached = memory.cache(ran)
    values = [1, 1.0, True, "1", b"1", np.int64(1), [1], (1,), None, 0.0, -0.0]
    for _ in range(2):
        assert [repr(cached(value)) for value in values] == list(map(repr, values))
    assert len(RUNS) == len(values)


def test_changes_that_a_call_makes_to_its_arguments_do_not_count(memory: Memory) -> None:
    def grow(values: list[int]) -> int:
        values.append(ran(1))
        return len(values)

    cached = memory.cache(grow, ignore=[])
    assert [cached([1]), cached([1]), cached([1, 1])] == [2, 2, 3]


def test_methods_of_a_class_are_cached(memory: Memory) -> None:
    model_type = decorated(memory)
    one, other = model_type(2), model_type(5)
    for _ in range(2):
        assert (one.times(3), other.times(x=3), model_type(2).times(3)) == (6, 15, 6)
        assert (model_type.times(one, 3), memory.cache(one.times)(3)) == (6, 6)
        assert (one.inside(1), model_type.inside(1), one.outside(2), model_type.outside(2)) == (1, 1, 2, 2)
        assert (one.named(1), model_type.named(1)) == (("Model", 1), ("Model", 1))
        assert (one.named_too(1), model_type.named_too(1)) == (("Model", 1), ("Model", 1))
    assert RUNS == [6, 15, 1, 2, ("Model", 1), ("Model", 1)]
    assert (one.regardless(4), other.regardless(4)) == (8, 8)
    one.scale = 7
    assert one.times(3) == 21
    assert one.times.check_call_in_cache(3)
    assert not one.times.check_call_in_cache(4)
    assert one.times.call_and_shelve(3).get() == 21
    assert one.times.call(3)[0] == 21
    assert one.times == one.times
    assert len({one.times, one.times, other.times}) == 2
    assert one.times.__doc__ == "Multiply."
    assert "bound" in repr(one.times)
    assert isinstance(model_type.times, MemorizedFunc)


def test_a_subclass_has_results_of_its_own(memory: Memory) -> None:
    model_type = decorated(memory)

    class Other(model_type):  # type: ignore[misc, valid-type]
        pass

    assert model_type.named(1) == ("Model", 1)
    assert Other.named(1) == ("Other", 1)
    assert model_type(2).times(1) == Other(2).times(1) == 2
    assert len(RUNS) == 4


class Base:
    def f(self, x: int) -> int:
        return x


def test_the_class_of_super_does_not_count(memory: Memory) -> None:
    class Child(Base):
        @memory.cache
        def f(self, x: int) -> int:
            return ran(super().f(x))

    assert [Child().f(3), Child().f(3)] == [3, 3]
    assert RUNS == [3]


class Adder:
    def __init__(self, n: int) -> None:
        self.n = n

    def __call__(self, x: int) -> int:
        return ran(self.n + x)


def test_callable_objects_are_cached(memory: Memory) -> None:
    two, five = memory.cache(Adder(2)), memory.cache(Adder(5))
    assert [two(1), five(1), two(x=1), memory.cache(Adder(2))(1)] == [3, 6, 3, 3]
    assert RUNS == [3, 6]


def test_a_partial_shares_the_results_of_its_function(memory: Memory) -> None:
    two = memory.cache(functools.partial(power, 2))
    squared = memory.cache(functools.partial(functools.partial(power, exponent=2), plus=1))
    assert [two(3), two(exponent=3), squared(5), squared(5, plus=0)] == [8, 8, 26, 25]
    assert memory.cache(power)(2, 3) == 8
    assert RUNS == [8, 26, 25]
    assert memory.cache(functools.partial(power, 2), ignore=["plus"])(1, plus=5) == 7
    assert memory.cache(functools.partial(power, 2), ignore=["plus"])(1, plus=6) == 7
    with pytest.raises(shoal.ArgumentError):
        two()


def test_compiled_functions_are_cached(memory: Memory) -> None:
    for function, args, value in (
        (math.hypot, (3.0, 4.0), 5.0),
        (len, ([1, 2],), 2),
        (np.add, (1, 2), 3),
        (np.linalg.norm, (np.array([3.0, 4.0]),), 5.0),
        (operator.itemgetter(1), ("abc",), "b"),
        (dict, ([(1, 2)],), {1: 2}),
    ):
        cached = memory.cache(function)
        assert [cached(*args), cached(*args)] == [value, value]
    assert memory.info().misses == 6


def test_methods_without_a_cache_get_their_object() -> None:
    memory = Memory(None)

    class Scaled:
        scale = 3

        @memory.cache
        def by(self, x: int) -> int:
            return self.scale * x

        @classmethod
        @memory.cache
        def of_class(cls, x: int) -> int:
            return cls.scale * x

        @staticmethod
        @memory.cache
        def plain(x: int) -> int:
            return x

        @memory.cache
        async def later(self, x: int) -> int:
            return self.scale * x

    scaled = Scaled()
    assert (scaled.by(2), Scaled.by(scaled, 2), scaled.of_class(2), scaled.plain(2)) == (6, 6, 6, 2)
    assert scaled.by.call_and_shelve(2).get() == 6
    assert scaled.by.call(2) == (6, {})
    assert asyncio.run(scaled.later(2)) == 6


def test_the_object_of_a_compiled_method_counts(memory: Memory) -> None:
    assert [memory.cache(",".join)("ab"), memory.cache("-".join)("ab"), memory.cache(",".join)("ab")] == [
        "a,b",
        "a-b",
        "a,b",
    ]
    assert memory.cache(operator.itemgetter(0))("ab") == "a"
    assert memory.cache(operator.itemgetter(1))("ab") == "b"


@functools.lru_cache
def remembered(x: int) -> int:
    return ran(x)


def test_a_function_of_lru_cache_shares_the_results_of_the_function_inside(memory: Memory) -> None:
    assert memory.cache(remembered)(3) == 3
    remembered.cache_clear()
    assert memory.cache(remembered)(x=3) == 3
    assert RUNS == [3]


def tripled(function: Callable[..., int]) -> Callable[..., int]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> int:
        kwargs.pop("quiet", None)
        return 3 * function(*args, **kwargs)

    return wrapper


@tripled
def wrapped(x: int, y: int = 1) -> int:
    return ran(x + y)


@tripled
def wrapped_too(x: int, y: int = 1) -> int:
    return ran(x - y)


def test_a_decorated_function_counts_with_the_function_inside(memory: Memory) -> None:
    one, other = memory.cache(wrapped), memory.cache(wrapped_too)
    assert [one(1), one(1, 1), one(x=1), other(1)] == [6, 6, 6, 0]
    assert RUNS == [2, 2, 2, 0], "the decorator may tell apart what to the function is the same"
    assert [one(1), one(1, 1), one(x=1), other(1)] == [6, 6, 6, 0]
    assert RUNS == [2, 2, 2, 0]
    assert [one(2, quiet=True), one(2, quiet=True)] == [9, 9], "the decorator takes what the function does not"
    assert RUNS == [2, 2, 2, 0, 3]


@pytest.mark.parametrize("name", ["<lambda>", "step"])
def test_two_lambdas_in_one_line_differ(memory: Memory, name: str) -> None:
    both: list[Any] = [lambda x: ran(x + 1), lambda x: ran(x + 2)]
    for each in both:
        each.__name__ = name
    one, other = map(memory.cache, both)
    assert [one(1), other(1), one(1), other(1)] == [2, 3, 2, 3]
    assert RUNS == [2, 3]


def test_an_object_that_is_not_callable_is_refused(memory: Memory) -> None:
    with pytest.raises(TypeError, match="cannot be cached: it is not callable"):
        memory.cache("f")


def test_a_cached_function_looks_like_its_function(memory: Memory) -> None:
    def f(x: int, y: int = 1) -> int:
        """Say it."""
        return x

    f.clear = f.note = "mine"  # type: ignore[attr-defined]
    cached = memory.cache(f)
    assert (cached.__name__, cached.__doc__, cached.__wrapped__, cached.note) == ("f", "Say it.", f, "mine")
    assert callable(cached.clear)
    assert inspect.signature(cached) == inspect.signature(f)
    assert memory.cache(cached).func is f
    assert "MemorizedFunc(func=<function" in repr(cached)
    assert Memory(None).cache(cached).func is f
    assert memory.cache(double).__doc__ == "Memoized version of double(x: 'Any') -> 'Any'\n\n"
    assert MemorizedFunc.__doc__ is not None
    assert MemorizedFunc.__doc__.startswith("A cached function.")
    assert memory.cache(Memory(None).cache(f)).func is f


def test_the_values_of_a_closure_count(memory: Memory) -> None:
    two, five = memory.cache(times(2)), memory.cache(times(5))
    assert [two(3), five(3), two(3), memory.cache(times(5))(3)] == [6, 15, 6, 15]
    assert RUNS == [6, 15]
    (name,) = memory.info().functions
    assert re.split(r"[/\\]", unquote(name)) == ["_memory_util", "times", "<locals>", "inner"]


def test_a_changed_closure_counts(memory: Memory) -> None:
    n = 2

    @memory.cache
    def inner(x: int) -> int:
        return ran(n * x)

    assert inner(3) == 6
    n = 5
    assert inner(3) == 15
    n = 2
    assert inner(3) == 6
    assert RUNS == [6, 15]


def test_a_closure_may_contain_its_own_function(memory: Memory) -> None:
    @memory.cache
    def factorial(n: int) -> int:
        return ran(n * factorial(n - 1) if n else 1)

    assert [factorial(5), factorial(4), factorial(5)] == [120, 24, 120]
    assert RUNS == [1, 1, 2, 6, 24, 120]


def test_a_function_whose_closure_cannot_be_hashed_is_not_cached(memory: Memory) -> None:
    lock = threading.Lock()

    @memory.cache
    def inner(x: int) -> int:
        with lock:
            return ran(x)

    with pytest.warns(CacheWarning, match="its variable 'lock', of the function around it, counts") as told:
        assert [inner(1), inner(1), inner.call(2), inner.call_and_shelve(3).get()] == [1, 1, (2, {}), 3]
    assert len(told) == 1
    assert told[0].filename == __file__
    assert not inner.check_call_in_cache(1)
    with pytest.raises(HashingError):
        memory.cache(double)(lock)
