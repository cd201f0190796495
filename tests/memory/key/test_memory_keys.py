"""When two calls are the same: the keys of Memory."""

from __future__ import annotations

import dataclasses
import functools
import gc
import inspect
import sys
import time
import types
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal import CacheWarning, Memory, Parallel, delayed


@pytest.fixture
def memory(tmp_path: Path) -> Memory:
    return Memory(tmp_path / "cache", verbose=0)


def scaled(x: int) -> int:
    return x


# Defaults


def test_changed_keyword_defaults_count(memory: Memory) -> None:
    def f(x: int = 1, *, y: Any = 1) -> Any:
        return x, y

    cached = memory.cache(f)
    assert cached() == (1, 1)
    f.__kwdefaults__ = {"y": 2}
    assert cached() == (1, 2)
    f.__kwdefaults__["y"] = 3
    assert cached() == (1, 3)
    f.__defaults__ = (4,)
    assert cached() == (4, 3)


def test_a_default_that_the_function_changes_counts(memory: Memory) -> None:
    def f(x: int, *, seen: list[int] = []) -> list[int]:  # noqa: B006
        seen.append(x)
        return list(seen)

    cached = memory.cache(f)
    assert [cached(1), cached(1)] == [[1], [1, 1]]


# Decorators


def with_own_default(function: Callable[..., Any]) -> Any:
    @functools.wraps(function)
    def wrapper(x: int = 1) -> Any:
        return function(x)

    return wrapper


def with_own_order(function: Callable[..., Any]) -> Any:
    @functools.wraps(function)
    def wrapper(y: int, x: int) -> Any:
        return function(x, y)

    return wrapper


def filling_in(function: Callable[..., Any]) -> Any:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs) if args else function(**{"x": 5, **kwargs})

    return wrapper


def backwards(function: Callable[..., Any]) -> Any:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args[::-1], **kwargs)

    return wrapper


def claiming(function: Callable[..., Any]) -> Any:
    def wrapper(*args: Any) -> Any:
        return len(args)

    wrapper.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    return wrapper


def test_calls_are_bound_by_the_parameters_of_the_decorator(memory: Memory) -> None:
    def f(x: int = 0) -> int:
        return x

    def g(x: int, y: int) -> int:
        return x - y

    own = memory.cache(with_own_default(f))
    assert [own(0), own(), own(1), own(x=1)] == [0, 1, 1, 1]
    order = memory.cache(with_own_order(g))
    assert [order(1, 2), order(x=1, y=2), order(2, 1)] == [1, -1, -1]
    filled = memory.cache(filling_in(f))
    assert [filled(0), filled(), filled(x=0)] == [0, 5, 0]
    turned = memory.cache(backwards(g))
    assert [turned(1, 2), turned(x=1, y=2)] == [1, -1]
    claimed = memory.cache(claiming(f))
    assert [claimed(), claimed(0)] == [0, 1]


RUNS: list[int] = []


@filling_in
def verbose_one(x: int = 0, verbose: int = 0) -> int:
    RUNS.append(x)
    return x


def test_ignore_may_name_parameters_of_the_function_inside_a_decorator(memory: Memory) -> None:
    RUNS.clear()
    cached = memory.cache(verbose_one, ignore=["verbose"])
    assert [cached(1), cached(1, 5), cached(x=1, verbose=2), cached(0), cached(verbose=1)] == [1, 1, 1, 0, 5]
    assert RUNS == [1, 0, 5]


@pytest.fixture
def helper() -> Iterator[Any]:
    """A function that a decorator's closure holds, and that an import finds."""
    module = types.ModuleType("shoal_helper")
    exec("def helper(x, *, k=1):\n    return k * x\n", module.__dict__)
    sys.modules["shoal_helper"] = module
    yield module.helper
    del sys.modules["shoal_helper"]


def test_a_changed_function_inside_a_decorator_counts(memory: Memory, helper: Any) -> None:
    cached = memory.cache(backwards(helper))
    assert cached(2) == 2
    helper.__kwdefaults__ = {"k": 5}
    assert cached(2) == 10
    helper.__code__ = (lambda x, *, k=1: x - k).__code__
    assert cached(2) == -3


class Scale:
    """A class that decorates functions."""

    def __init__(self, function: Callable[[int], int], factor: int) -> None:
        functools.update_wrapper(self, function)
        self.function, self.factor = function, factor

    def __call__(self, x: int) -> int:
        return self.factor * self.function(x)


class Constant(functools.partial[Any]):
    def __call__(self, *_args: Any, **_kwargs: Any) -> int:
        return 100


def test_the_state_of_an_object_that_wraps_a_function_counts(memory: Memory) -> None:
    assert [memory.cache(Scale(scaled, factor))(1) for factor in (2, 3)] == [2, 3]
    assert [memory.cache(scaled)(1), memory.cache(Constant(scaled))(1)] == [1, 100]


def test_a_compiled_object_that_no_import_finds_is_not_cached(memory: Memory) -> None:
    one, other = (np.frompyfunc(function, 1, 1) for function in (lambda x: x, lambda x: x + 1))
    with pytest.warns(CacheWarning, match="is an object, so its state counts as an argument"):
        assert [memory.cache(one)(1), memory.cache(other)(1)] == [1, 2]


# Runs


@dataclasses.dataclass(frozen=True)
class Factor:
    """A callable that equals others, which do something else."""

    name: str
    factor: int = dataclasses.field(compare=False)

    def __call__(self, x: int) -> int:
        return self.factor * x

    def times(self, x: int) -> int:
        return self.factor * x


@pytest.mark.parametrize("backend", ["sequential", "threading", "loky"])
def test_equal_functions_of_a_run_have_their_own_results(memory: Memory, backend: str) -> None:
    one, other = Factor("a", 1), Factor("a", 2)
    assert one == other
    for _ in range(2):
        run = Parallel(n_jobs=2, backend=backend, memory=memory)
        assert run(delayed(function)(10) for function in (one, other)) == [10, 20]
        assert run(delayed(function.times)(20) for function in (one, other)) == [20, 40]
    assert memory.info().entries == 4


class Large:
    """A large argument of a partial."""


def first(_large: Any, x: int) -> int:
    return x


def fails(_large: Any, x: int) -> int:
    raise ValueError(x)


@pytest.mark.parametrize("backend", ["sequential", "threading", "loky"])
def test_functions_of_a_run_are_freed_after_it(memory: Memory, backend: str) -> None:
    gone = []
    for _ in range(3):
        large = Large()
        gone.append(weakref.ref(large))
        parallel = Parallel(n_jobs=2, backend=backend, memory=memory)
        parallel(delayed(functools.partial(first, large))(i) for i in range(3))
        if backend != "loky":
            with pytest.raises(ValueError, match="0"):
                parallel(delayed(functools.partial(fails, large))(i) for i in range(3))
        del large, parallel
    deadline = time.monotonic() + 60
    while any(reference() is not None for reference in gone) and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.01)  # threads of the run that has failed may just be ending
    assert [reference() for reference in gone] == [None] * 3
    assert len(memory._run_calls.functions) == 0


def test_a_function_of_a_run_is_examined_once(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    cache = Memory.cache
    monkeypatch.setattr(Memory, "cache", lambda self, *args, **kwargs: made.append(1) or cache(self, *args, **kwargs))
    partial = functools.partial(first, 1)
    for _ in range(2):
        made.clear()
        assert Parallel(memory=memory)(delayed(partial)(i) for i in range(50)) == list(range(50))
        assert len(made) == 1


# Differences that do not count, in docs/memory.md


def test_differences_that_do_not_count(memory: Memory) -> None:
    def f(*args: Any, **kwargs: Any) -> str:
        return repr((args, kwargs))

    cached = memory.cache(f)
    one = [1]
    read_only = np.arange(3)
    read_only.setflags(write=False)
    by_name: Any = lambda x: x  # noqa: E731
    annotated: Any = types.FunctionType(by_name.__code__, by_name.__globals__, by_name.__name__)
    annotated.__qualname__, annotated.__annotations__ = by_name.__qualname__, {"x": int}
    error = ValueError("x")
    error.__cause__ = KeyError("y")
    for first_, second in (
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({"a", "b", "c"}, {"c", "b", "a"}),
        ([one, one], [[1], [1]]),
        (np.arange(3), read_only),
        (types.ModuleType("m"), types.ModuleType("m")),
        (by_name, annotated),
        (ValueError("x"), error),
    ):
        result = cached(first_)
        assert cached(second) == result
        assert cached(a=1, b=first_) == cached(b=second, a=1)
    assert memory.info().misses == 2 * 7
