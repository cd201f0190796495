"""Memory: what is found again, what is not, and what is said."""

from __future__ import annotations

import asyncio
import datetime
import functools
import gc
import importlib
import inspect
import linecache
import math
import operator
import os
import pickle
import re
import shutil
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import shoal
from shoal import (
    CacheWarning,
    HashingError,
    MemorizedFunc,
    MemorizedResult,
    Memory,
    NotMemorizedFunc,
    NotMemorizedResult,
    Parallel,
    delayed,
    expires_after,
    shared,
)
from shoal.memory._texts import TEXT_LENGTH, argument_texts
from shoal.memory.store import Entry, Key, Limits, Meta, Store

RUNS: list[Any] = []


@pytest.fixture(autouse=True)
def _no_runs() -> None:
    RUNS.clear()


@pytest.fixture
def memory(tmp_path: Path) -> Memory:
    return Memory(tmp_path / "cache", verbose=0)


def ran(value: Any, result: Any = None) -> Any:
    RUNS.append(value)
    return value if result is None else result


def double(x: Any) -> Any:
    return ran(x, 2 * x)


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


# Functions of each kind


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


def test_what_a_call_changes_in_its_arguments_does_not_count(memory: Memory) -> None:
    def grow(values: list[int]) -> int:
        values.append(ran(1))
        return len(values)

    cached = memory.cache(grow, ignore=[])
    assert [cached([1]), cached([1]), cached([1, 1])] == [2, 2, 3]


def test_methods(memory: Memory) -> None:
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


def test_a_method_that_uses_super(memory: Memory) -> None:
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


def test_objects_that_can_be_called(memory: Memory) -> None:
    two, five = memory.cache(Adder(2)), memory.cache(Adder(5))
    assert [two(1), five(1), two(x=1), memory.cache(Adder(2))(1)] == [3, 6, 3, 3]
    assert RUNS == [3, 6]


def power(base: int, exponent: int, *, plus: int = 0) -> int:
    return ran(base**exponent + plus)


def test_partials_are_their_functions(memory: Memory) -> None:
    two = memory.cache(functools.partial(power, 2))
    squared = memory.cache(functools.partial(functools.partial(power, exponent=2), plus=1))
    assert [two(3), two(exponent=3), squared(5), squared(5, plus=0)] == [8, 8, 26, 25]
    assert memory.cache(power)(2, 3) == 8
    assert RUNS == [8, 26, 25]
    assert memory.cache(functools.partial(power, 2), ignore=["plus"])(1, plus=5) == 7
    assert memory.cache(functools.partial(power, 2), ignore=["plus"])(1, plus=6) == 7
    with pytest.raises(shoal.ArgumentError):
        two()


def test_compiled_functions(memory: Memory) -> None:
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


def test_functions_that_are_cached_in_memory_too(memory: Memory) -> None:
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


def test_decorated_functions(memory: Memory) -> None:
    one, other = memory.cache(wrapped), memory.cache(wrapped_too)
    assert [one(1), one(1, 1), one(x=1), other(1)] == [6, 6, 6, 0]
    assert RUNS == [2, 2, 2, 0], "the decorator may tell apart what to the function is the same"
    assert [one(1), one(1, 1), one(x=1), other(1)] == [6, 6, 6, 0]
    assert RUNS == [2, 2, 2, 0]
    assert [one(2, quiet=True), one(2, quiet=True)] == [9, 9], "the decorator takes what the function does not"
    assert RUNS == [2, 2, 2, 0, 3]


def test_lambdas_in_one_line(memory: Memory) -> None:
    one, other = memory.cache(lambda x: ran(x + 1)), memory.cache(lambda x: ran(x + 2))
    assert [one(1), other(1), one(1), other(1)] == [2, 3, 2, 3]
    assert RUNS == [2, 3]


def test_what_is_no_function_is_refused(memory: Memory) -> None:
    with pytest.raises(TypeError, match="cannot be cached: it is not callable"):
        memory.cache("f")


def test_it_looks_like_its_function(memory: Memory) -> None:
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


# Closures


def times(n: Any) -> Callable[[int], Any]:
    def inner(x: int) -> Any:
        return ran(n * x)

    return inner


def test_the_values_of_a_closure_count(memory: Memory) -> None:
    two, five = memory.cache(times(2)), memory.cache(times(5))
    assert [two(3), five(3), two(3), memory.cache(times(5))(3)] == [6, 15, 6, 15]
    assert RUNS == [6, 15]
    assert memory.info().functions.keys() == {"test_memory/times/<locals>/inner"}


def test_a_closure_that_changes(memory: Memory) -> None:
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


def test_a_recursive_closure(memory: Memory) -> None:
    @memory.cache
    def factorial(n: int) -> int:
        return ran(n * factorial(n - 1) if n else 1)

    assert [factorial(5), factorial(4), factorial(5)] == [120, 24, 120]
    assert RUNS == [1, 1, 2, 6, 24, 120]


def test_a_closure_that_cannot_be_hashed(memory: Memory) -> None:
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


# Changes of a function


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """Write a module and import it as it is now, or again if it was."""
    folder = tmp_path / "modules"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def written(source: str, again: bool = True) -> Any:
        (folder / "shoal_changing.py").write_text(source)
        if not again:
            return None
        importlib.invalidate_caches()
        known = sys.modules.get("shoal_changing")
        return importlib.import_module("shoal_changing") if known is None else importlib.reload(known)

    yield written
    sys.modules.pop("shoal_changing", None)


def test_a_change_is_seen_after_a_reload(memory: Memory, module: Any) -> None:
    for text, result in (("x + 1", 2), ("x + 2", 3), ("x + 1", 2)):
        made = module(f"def f(x):\n    return {text}\n\ndef g(x):\n    return -x\n")
        assert [memory.cache(made.f)(1), memory.cache(made.g)(1)] == [result, -1]
        assert memory.cache(made.f).check_call_in_cache(1)
        assert len(list(memory.entries())) == 2, "those of the former source are removed"
    assert memory.info().misses == 4


def test_a_file_that_has_changed_since_the_import_is_not_the_source(memory: Memory, module: Any) -> None:
    old = module("def f(x):\n    return 1\n").f
    module("def f(x):\n    return 2\n", again=False)
    assert memory.cache(old)(0) == 1
    new = module("def f(x):\n    return 2\n").f
    assert memory.cache(new)(0) == 2
    assert memory.cache(old)(0) == 1


def test_code_that_is_exchanged(memory: Memory) -> None:
    def f(x: int, y: int = 1) -> Any:
        return x, y

    def g(x: int, y: int = 1) -> Any:
        return y, x

    cached = memory.cache(f)
    assert cached(5) == (5, 1)
    f.__defaults__ = (2,)
    assert cached(5) == (5, 2)
    f.__code__ = g.__code__
    assert cached(5) == (2, 5)


def cell(number: int, text: str) -> Any:
    """Run a cell of a notebook."""
    file = f"/tmp/ipykernel_{number}/1234567.py"
    linecache.cache[file] = (len(text), None, text.splitlines(True), file)
    namespace = {"__name__": "__main__"}
    exec(compile(text, file, "exec"), namespace)
    return namespace["f"]


def test_a_function_that_is_defined_again_in_a_notebook(memory: Memory) -> None:
    assert memory.cache(cell(1, "def f(x):\n    return 1\n"))(0) == 1
    assert memory.cache(cell(2, "def f(x):\n    return 1\n"))(0) == 1
    assert memory.info().misses == 1, "another kernel's process"
    assert memory.cache(cell(2, "def f(x):\n    return 2\n"))(0) == 2


def test_functions_of_strings(fresh_python: Any, tmp_path: Path) -> None:
    """Those of exec() claim to be of the file that `python -c` is."""
    source = f"""
        from shoal import Memory
        memory = Memory({str(tmp_path)!r}, verbose=0)

        def f(x):
            return 0

        def of(text):
            names = {{}}
            exec(text, names)
            return memory.cache(names["f"])(1)

        print(memory.cache(f)(1), of("def f(x):\\n    return 1"), of("def f(x):\\n    return 2"), memory.cache(f)(1))
        """
    assert fresh_python(source).split() == ["0", "1", "2", "0"]
    assert fresh_python(source).split() == ["0", "1", "2", "0"]


HELPER = "def helper(x):\n    return {}\n\ndef f(x):\n    return helper(x)\n"


def test_what_a_function_depends_on(memory: Memory, module: Any) -> None:
    def cached(made: Any, *depends: Any) -> Any:
        return memory.cache(made.f, depends=depends)

    first = module(HELPER.format(1))
    assert cached(first, first.helper)(0) == cached(first)(0) == cached(first, first)(0) == 1
    second = module(HELPER.format(2))
    assert cached(second)(0) == 1, "what a function calls does not count by itself"
    assert cached(second, second.helper)(0) == cached(second, second)(0) == 2
    assert cached(second, memory.cache(second.helper))(0) == 2
    with pytest.raises(TypeError, match="name functions, classes or modules"):
        cached(second, "helper")


def test_versions(memory: Memory, module: Any) -> None:
    made = module("def f(x):\n    return 1\n")
    assert memory.cache(made.f, version=1)(0) == 1
    made = module("def f(x):\n    return 2\n")
    assert memory.cache(made.f, version=1)(0) == 1, "with a version, the source does not count"
    assert memory.cache(made.f, version=2)(0) == 2
    assert memory.cache(made.f, version=1)(0) == 1, "results of other versions stay"
    assert len(list(memory.entries())) == 2
    assert memory.store_backend.source(memory.cache(made.f).func_id) is None


# What is kept, and where


@pytest.mark.parametrize("kind", [str, Path])
def test_locations(tmp_path: Path, kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    memory = Memory(kind("~/cache") if kind is str else tmp_path / "cache", verbose=0)
    assert memory.cache(double)(1) == 2
    folder = tmp_path / "cache" / "joblib" if kind is str else tmp_path / "cache"
    assert memory.store_backend.location == str(folder)
    assert repr(memory) == f"Memory(location={folder})"
    assert (tmp_path / "cache" / ".gitignore").read_text().splitlines()[-1] == "*"
    assert (folder / "test_memory" / "double" / "func_code.py").read_text().startswith("# first line: ")
    (found,) = folder.glob("test_memory/double/*/output.pkl")
    assert shoal.load(found) == 2


def test_no_location() -> None:
    memory = Memory(None)
    cached = memory.cache(double, ignore=["x"])
    assert isinstance(cached, NotMemorizedFunc)
    assert [cached(1), cached(1), cached.call(2), cached.call_and_shelve(3).get()] == [2, 2, (4, {}), 6]
    assert memory.eval(double, 4) == 8
    assert not cached.check_call_in_cache(1)
    cached.clear()
    memory.clear(warn=False)
    memory.reduce_size(0)
    assert list(memory.entries()) == []
    assert memory.info().entries == 0
    assert repr(memory) == "Memory(location=None)"
    assert "NotMemorizedFunc(func=<function double" in repr(cached)
    result = cached.call_and_shelve(1)
    assert "NotMemorizedResult(2)" in repr(pickle.loads(pickle.dumps(result)))
    result.clear()
    assert "no value" in repr(result)
    with pytest.raises(KeyError):
        result.get()


def test_wrong_arguments_to_memory(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="hash_name='sha1' is not an algorithm of keys"):
        Memory(tmp_path, hash_name="sha1")
    with pytest.raises(TypeError, match="Unknown location"):
        Memory(tmp_path, backend="nowhere")
    with pytest.warns(UserWarning, match="cannot be the location of a store"):
        assert isinstance(Memory(3).cache(double), NotMemorizedFunc)
    with pytest.warns(UserWarning, match="Compressed results cannot be memmapped"):
        Memory(None, compress=True, mmap_mode="r")
    with pytest.raises(ValueError, match="age_limit has to be a positive timedelta"):
        Memory(None, age_limit=datetime.timedelta(-1))
    with pytest.raises(TypeError, match=r"is not a datetime\.timedelta"):
        Memory(None, age_limit=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="is no size"):
        Memory(None, bytes_limit="much")
    with pytest.raises(ValueError, match="items_limit=-1 is negative"):
        Memory(None, items_limit=-1)
    memory = Memory(tmp_path)
    with pytest.raises(ValueError, match=r"needs to be callable\. Got 3"):
        memory.cache(double, cache_validation_callback=3)
    with pytest.raises(ValueError, match="argument 'z' is not defined for function double"):
        memory.cache(double, ignore=["z"])
    with pytest.raises(ValueError, match="must be a list of the names of parameters"):
        memory.cache(double, ignore="x")
    with pytest.warns(UserWarning, match="ignore list will not work"):
        memory.cache(math.sqrt, ignore=["x"])


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (
            {"mmap_mode": "w"},
            ValueError,
            "is not a mode for mapped arrays: use one of r, r+, w+, c, or None",
        ),
        ({"mmap_mode": True}, ValueError, "mmap_mode=True is not a mode for mapped arrays"),
        ({"verbose": "x"}, TypeError, "verbose='x' (str) is not a number"),
        ({"bytes_limit": -1}, ValueError, "bytes_limit: -1 is no size"),
        ({"bytes_limit": "abc"}, ValueError, "bytes_limit: 'abc' is no size"),
        ({"bytes_limit": True}, ValueError, "bytes_limit: True is no size"),
        ({"items_limit": "3"}, TypeError, "items_limit='3' (str) is not a number of results"),
        ({"items_limit": 2.5}, TypeError, "items_limit=2.5 (float) is not a number of results"),
        ({"backend": ["local"]}, TypeError, "or backend ['local']: the known backends are ['fsspec', 'local'"),
        ({"backend_options": {"a": 1}}, TypeError, "the store 'local' does not accept the option 'a'"),
        ({"backend_options": [1]}, TypeError, "backend_options=[1] is not a dictionary of options"),
        ({"compress": "abc"}, ValueError, 'Non valid compression method given: "abc"'),
    ],
)
def test_wrong_values_are_refused_at_once(tmp_path: Path, wrong: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        Memory(tmp_path, **wrong)


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"mmap_mode": "w"}, ValueError, "mmap_mode='w' is not a mode for mapped arrays"),
        ({"verbose": "x"}, TypeError, "verbose='x' (str) is not a number"),
        ({"ignore": 3}, TypeError, "ignore must be a list of the names of parameters, not 3"),
        ({"depends": double}, TypeError, "is not a list: pass a list of functions, classes or modules"),
    ],
)
def test_wrong_values_of_a_function_are_refused_at_once(memory: Memory, wrong: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        memory.cache(double, **wrong)
    with pytest.raises(error, match=re.escape(message)):
        memory.cache(**wrong)(double)


def test_decorator_forms(memory: Memory) -> None:
    @memory.cache
    def f(x: int) -> int:
        return ran(x)

    @memory.cache()
    def g(x: int) -> int:
        return ran(x)

    @memory.cache(verbose=0, ignore=["y"])
    def h(x: int, y: int) -> int:
        return ran(x)

    assert [f(1), f(1), g(2), g(2), h(3, 4), h(3, 5), memory.eval(power, 2, exponent=2), memory.eval(power, 2, 2)] == [
        *(1, 1, 2, 2, 3, 3, 4, 4)
    ]
    assert RUNS == [1, 2, 3, 4]


def test_results_are_mapped_from_the_first_call_on(tmp_path: Path) -> None:
    memory = Memory(tmp_path, mmap_mode="r", verbose=0)
    cached = memory.cache(np.arange)
    for value in (cached(100), cached(100), cached.call_and_shelve(100).get(), cached.call(100)[0]):
        assert isinstance(value, np.memmap)
        assert value.tolist() == list(range(100))
    copied = memory.cache(np.arange, mmap_mode=None)(100)
    assert type(copied) is np.ndarray
    total = memory.cache(np.sum)
    assert total(np.arange(100)) == total(cached(100)) == 4950
    assert memory.info().functions[total.func_id].misses == 1, "a mapped array counts as the array"


def test_compressed_results(tmp_path: Path) -> None:
    sizes = []
    for compress in (False, True, 9, ("zlib", 3), "xz"):
        memory = Memory(tmp_path / str(len(sizes)), compress=compress, verbose=0)
        cached = memory.cache(np.zeros)
        assert cached(10_000).sum() == cached(10_000).sum() == 0
        sizes.append(memory.info().nbytes)
    assert max(sizes[1:]) < sizes[0] / 10


def test_shelved_results(memory: Memory) -> None:
    cached = memory.cache(double)
    result = cached.call_and_shelve(3)
    assert isinstance(result, MemorizedResult)
    assert RUNS == [3]
    assert cached.call_and_shelve(3).get() == result.get() == pickle.loads(pickle.dumps(result)).get() == 6
    assert (result.func_id, result.func, result.args_id) == (cached.func_id, cached.func_id, cached._key((3,), {}).call)
    assert result.arguments == {"x": "3"}
    assert result.duration is not None
    assert 0 <= result.age < 100
    again = eval(repr(result))
    assert (again.get(), again.arguments) == (6, {"x": "3"})
    result.clear()
    with pytest.raises(KeyError, match="may have been cleared"):
        result.get()
    assert cached.call_and_shelve(3).get() == 6
    assert RUNS == [3, 3]
    with pytest.raises(TypeError, match="give call_id"):
        MemorizedResult(memory.location)


def test_call_computes_always(memory: Memory) -> None:
    cached = memory.cache(double)
    assert cached(3) == 6
    value, metadata = cached.call(3)
    assert (value, metadata["input_args"], RUNS) == (6, {"x": "3"}, [3, 3])
    assert set(metadata) == {"duration", "input_args", "time"}


def test_validation(memory: Memory) -> None:
    seen: list[dict[str, Any]] = []
    answer = [True]

    def is_valid(metadata: dict[str, Any]) -> bool:
        seen.append(metadata)
        return answer[0]

    cached = memory.cache(double, cache_validation_callback=is_valid)
    assert [cached(1), cached(1)] == [2, 2]
    assert (RUNS, len(seen), seen[0]["input_args"]) == ([1], 1, {"x": "1"})
    answer[0] = False
    assert not cached.check_call_in_cache(1)
    assert not memory.cache(double).check_call_in_cache(1)
    assert [cached(1), cached(1), cached.call_and_shelve(1).get()] == [2, 2, 2]
    assert RUNS == [1] * 4


def test_expiry(memory: Memory) -> None:
    assert memory.cache(double, cache_validation_callback=expires_after(hours=1))(1) == 2
    assert memory.cache(double, cache_validation_callback=expires_after(hours=1))(1) == 2
    assert RUNS == [1]
    assert memory.cache(double, cache_validation_callback=expires_after(microseconds=1))(1) == 2
    assert RUNS == [1, 1]
    assert not expires_after(days=1)({})


def test_clearing(memory: Memory) -> None:
    one, other = memory.cache(double), memory.cache(ran)
    assert [one(1), other(1)] == [2, 1]
    one.clear()
    assert not one.check_call_in_cache(1)
    assert other.check_call_in_cache(1)
    assert memory.store_backend.source(one.func_id) is not None
    memory.clear(warn=False)
    assert list(memory.entries()) == []
    assert [one(1), one(1), other(1)] == [2, 2, 1]
    assert memory.store_backend.source(one.func_id) is not None


def test_what_is_in_it(memory: Memory) -> None:
    cached = memory.cache(power)
    for base in range(3):
        cached(base, 2)
    cached(1, 2)
    info = memory.info()
    assert (info.entries, info.hits, info.misses) == (3, 1, 3)
    assert info.functions[cached.func_id].entries == 3
    entries = {entry.arguments["base"]: entry for entry in memory.entries()}
    assert sum(entry.nbytes for entry in entries.values()) == info.nbytes
    assert {base: entry.get() for base, entry in entries.items()} == {"0": 0, "1": 1, "2": 4}
    assert all(entry.func == cached.func_id and abs(entry.used - time.time()) < 100 for entry in entries.values())
    entries["1"].clear()
    assert [cached.check_call_in_cache(base, 2) for base in range(3)] == [True, False, True]


def test_limits(tmp_path: Path) -> None:
    memory = Memory(tmp_path, verbose=0, items_limit=3, bytes_limit="1M", age_limit=datetime.timedelta(days=1))
    assert memory.limits == Limits(2**20, 3, 86400.0)
    cached = memory.cache(double)
    for x in range(10):
        cached(x)
    assert memory.info().entries == 3
    memory.reduce_size(items_limit=1)
    assert [cached.check_call_in_cache(x) for x in (7, 8, 9)] == [False, False, True]
    memory.reduce_size()
    memory.reduce_size(bytes_limit=0)
    assert memory.info().entries == 0
    with pytest.raises(ValueError, match="positive"):
        memory.reduce_size(age_limit=datetime.timedelta(-1))


# Texts of arguments


@given(st.recursive(st.integers() | st.text() | st.binary() | st.none(), st.lists))
def test_texts_are_bounded(value: Any) -> None:
    text = argument_texts({"x": value})["x"]
    assert len(text) <= TEXT_LENGTH
    if len(repr(value)) < 100 and not isinstance(value, list):
        assert text == repr(value)


def test_texts_of_large_values_are_short() -> None:
    class Slow:
        def __repr__(self) -> str:
            time.sleep(0.2)
            return "slow"

    class Broken:
        def __repr__(self) -> str:
            raise RuntimeError

    large: dict[str, Any] = {
        "array": np.zeros((1000, 1000)),
        "list": list(range(10**6)),
        "text": "x" * 10**7,
        "number": 10**100_000,
        "broken": Broken(),
    }
    started = time.perf_counter()
    texts = argument_texts(large)
    assert all(len(text) <= TEXT_LENGTH for text in texts.values())
    assert texts["array"] == "<ndarray of float64, shape (1000, 1000)>"
    assert "raises RuntimeError" in argument_texts({"broken": Broken()})["broken"]
    assert argument_texts({"slow": Slow(), "later": [1]}) == {"slow": "slow", "later": "<list>"}
    assert argument_texts({"slow": Slow()})["slow"].endswith("Slow>")
    assert time.perf_counter() - started < 30


def test_texts_can_be_left_out(tmp_path: Path) -> None:
    memory = Memory(tmp_path, verbose=0, keep_arguments=False)
    assert memory.cache(double).call_and_shelve("secret").arguments == {}
    assert not [path for path in tmp_path.rglob("metadata.json") if "secret" in path.read_text()]


# What cannot be kept


def test_what_cannot_be_pickled_is_not_kept(memory: Memory) -> None:
    def f() -> Any:
        return ran(1, {"a": [1, {"call": lambda: 1}]})

    cached = memory.cache(f)
    for _ in range(2):
        with pytest.warns(CacheWarning, match=r"result\['a'\]\[1\]\['call'\] cannot be pickled") as told:
            assert cached()["a"][0] == 1
        assert told[0].filename == __file__
    with pytest.warns(CacheWarning, match="cannot be pickled"):
        assert isinstance(cached.call_and_shelve(), NotMemorizedResult)
    assert RUNS == [1, 1, 1]
    assert memory.info().entries == 0
    with pytest.warns(CacheWarning, match="generator"):
        assert list(memory.cache(lambda: (i for i in range(3)))()) == [0, 1, 2]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    memory = Memory(tmp_path / "file" / "cache", verbose=0)
    cached, other = memory.cache(double), memory.cache(ran)
    with pytest.warns(CacheWarning, match="Unable to cache to disk") as told:
        assert [cached(1), cached(1), cached(2), other(3), cached.call_and_shelve(4).get()] == [2, 2, 4, 3, 8]
    assert len(told) == 1
    assert RUNS == [1, 1, 2, 3, 4]
    memory.clear(warn=False)
    assert list(memory.entries()) == []


def test_a_folder_that_disappears(memory: Memory) -> None:
    cached = memory.cache(double)
    assert cached(1) == 2
    shutil.rmtree(memory.location)
    assert [cached(1), cached(1)] == [2, 2]
    assert RUNS == [1, 1]


class Full(Store):
    """A store in memory that is full, or broken."""

    def __init__(self, error: Exception | None = None) -> None:
        self.values: dict[Key, bytes] = {}
        self.metas: dict[Key, Meta] = {}
        self.sources: dict[str, str] = {}
        self.locks: dict[Key, Any] = {}
        self.error = error

    def load(self, key: Key, mmap_mode: str | None = None) -> Any:
        if self.error is not None:
            raise self.error
        return pickle.loads(self.values[key])

    def save(self, key: Key, value: Any, meta: Meta) -> None:
        if isinstance(self.error, OSError):
            raise self.error
        self.values[key], self.metas[key] = pickle.dumps(value), meta

    def contains(self, key: Key) -> bool:
        return key in self.values

    def meta(self, key: Key) -> Meta:
        return self.metas[key]

    def discard(self, key: Key) -> None:
        self.values.pop(key, None)

    def entries(self) -> Iterator[Entry]:
        return (Entry(key, len(value), 0.0) for key, value in self.values.items())

    def clear(self, function: str | None = None) -> None:
        self.values.clear()

    def source(self, function: str) -> str | None:
        return self.sources.get(function)

    def keep_source(self, function: str, source: str) -> None:
        self.sources[function] = source

    def lease(self, key: Key) -> Any:
        lock = self.locks.setdefault(key, threading.RLock())

        class Lease:
            def __enter__(self) -> bool:
                self.waited = not lock.acquire(blocking=False)
                if self.waited:
                    lock.acquire()
                return not self.waited

            def __exit__(self, *_: object) -> None:
                lock.release()

        return Lease()

    def reduce(self, limits: Limits) -> None:
        pass


def test_a_store_of_ones_own() -> None:
    memory = Memory(Full(), verbose=0)
    cached = memory.cache(double)
    assert [cached(1), cached(1), cached.call_and_shelve(1).get()] == [2, 2, 2]
    assert RUNS == [1]
    assert memory.info().entries == 1
    shoal.register_store_backend("full", lambda location, **options: Full())
    assert Memory("anywhere", backend="full", verbose=0).cache(double)(1) == 2
    assert RUNS == [1, 1]


def test_a_disk_that_is_full() -> None:
    cached = Memory(Full(OSError(28, "No space left on device")), verbose=0).cache(double)
    with pytest.warns(CacheWarning) as told:
        assert [cached(1), cached(1)] == [2, 2]
    assert [str(warning.message).partition(":")[0] for warning in told] == ["Unable to read from the cache"]


def test_a_store_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    cached = Memory(Full(AttributeError("gone")), verbose=0).cache(double)
    assert [cached(1), cached(1)] == [2, 2]
    assert "Exception while loading results for" in caplog.text


# Computed once


def threads(count: int, run: Callable[[int], Any]) -> list[Any]:
    results: list[Any] = [None] * count
    barrier = threading.Barrier(count)

    def one(i: int) -> None:
        barrier.wait()
        try:
            results[i] = run(i)
        except Exception as error:
            results[i] = error

    started = [threading.Thread(target=one, args=(i,)) for i in range(count)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    return results


@pytest.mark.parametrize("store", ["files", "other"])
def test_one_thread_computes(tmp_path: Path, store: str) -> None:
    memory = Memory(tmp_path if store == "files" else Full(), verbose=0)

    @memory.cache
    def slow(x: int) -> int:
        time.sleep(0.1)
        return ran(x)

    assert threads(8, lambda i: slow(1)) == [1] * 8
    assert RUNS == [1]
    assert memory.info().hits == 7


def test_each_thread_computes_if_asked_to(tmp_path: Path) -> None:
    memory = Memory(tmp_path, verbose=0, compute_once=False)
    barrier = threading.Barrier(4)
    slow = memory.cache(ran)

    @memory.cache(ignore=["barrier"])
    def meet(x: int, barrier: Any) -> int:
        barrier.wait(30)
        return ran(x)

    assert threads(4, lambda i: meet(1, barrier)) == [1] * 4
    assert RUNS == [1] * 4
    assert slow(1) == 1


def test_who_fails_fails_alone(memory: Memory) -> None:
    @memory.cache
    def fails(x: int) -> int:
        time.sleep(0.05)
        raise ValueError(ran(x))

    results = threads(4, lambda i: fails(1))
    assert [str(error) for error in results] == ["1"] * 4
    assert len(RUNS) == 4


def test_results_that_cannot_be_kept_keep_nobody_waiting(memory: Memory) -> None:
    @memory.cache
    def unpicklable(x: int) -> Any:
        time.sleep(0.05)
        return ran(x, lambda: x)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = threads(6, lambda i: unpicklable(1)())
    assert results == [1] * 6
    assert len(RUNS) == 6


def test_functions_that_call_each_other(memory: Memory) -> None:
    @memory.cache(ignore=["depth"])
    def one(x: int, depth: int) -> int:
        time.sleep(0.01)
        return ran(x) + (other(x, depth - 1) if depth else 0)

    @memory.cache(ignore=["depth"])
    def other(x: int, depth: int) -> int:
        time.sleep(0.01)
        return ran(x) + (one(x, depth - 1) if depth else 0)

    results = threads(2, lambda i: (one, other)[i](1, 2))
    assert all(isinstance(result, int) for result in results)


def slow_of_module(x: int, folder: str) -> int:
    with open(os.path.join(folder, "runs"), "a") as file:
        file.write(f"{x}\n")
    time.sleep(0.3)
    return x


def test_one_process_computes(tmp_path: Path) -> None:
    cached = Memory(tmp_path / "cache", verbose=0).cache(slow_of_module)
    start = time.time()
    assert Parallel(n_jobs=2, batch_size=1)(delayed(cached)(i // 4, str(tmp_path)) for i in range(12)) == [
        i // 4 for i in range(12)
    ]
    assert sorted((tmp_path / "runs").read_text().split()) == ["0", "1", "2"]
    assert time.time() > start


# Coroutine functions


def test_coroutine_functions(memory: Memory) -> None:
    @memory.cache
    async def fetch(x: int) -> Any:
        await asyncio.sleep(0.01)
        return ran(x, [x])

    async def main() -> None:
        results = await asyncio.gather(*(fetch(i % 2) for i in range(10)))
        assert results == [[i % 2] for i in range(10)]
        assert RUNS == [0, 1]
        assert results[0] is not results[2]
        assert await fetch(0) == [0]
        assert (await fetch.call_and_shelve(1)).get() == [1]
        assert (await fetch.call_and_shelve(2)).get() == [2]
        assert (await fetch.call(0))[0] == [0]
        assert RUNS == [0, 1, 2, 0]
        assert fetch.check_call_in_cache(2)

    asyncio.run(main())


def test_coroutine_functions_that_fail_or_are_cancelled(memory: Memory) -> None:
    @memory.cache
    async def fails(x: int) -> int:
        await asyncio.sleep(0.01)
        if len(RUNS) < 2:
            raise ValueError(ran(x))
        return ran(x)

    @memory.cache
    async def waits(x: int) -> int:
        await asyncio.sleep(0.05)
        return ran(x)

    async def main() -> None:
        results = await asyncio.gather(*(fails(1) for _ in range(3)), return_exceptions=True)
        assert sorted(type(result).__name__ for result in results) == ["ValueError", "ValueError", "int"]
        RUNS.clear()
        one, other = asyncio.ensure_future(waits(1)), asyncio.ensure_future(waits(1))
        await asyncio.sleep(0.01)
        one.cancel()
        assert await other == 1
        assert RUNS == [1]

    asyncio.run(main())


def test_coroutine_functions_that_are_not_cached() -> None:
    async def fetch(x: int) -> int:
        return ran(x)

    cached = Memory(None).cache(fetch)

    async def main() -> None:
        assert await cached(1) == 1
        assert await cached.call(2) == (2, {})
        assert (await cached.call_and_shelve(3)).get() == 3

    asyncio.run(main())


def test_a_coroutine_method(memory: Memory) -> None:
    class Client:
        @memory.cache
        async def fetch(self, x: int) -> int:
            return ran(x)

        def __reduce__(self) -> Any:
            return Client, ()

    async def main() -> None:
        assert [await Client().fetch(1), await Client().fetch(x=1)] == [1, 1]
        assert RUNS == [1]

    asyncio.run(main())


# In other processes

held_memory = Memory(Path(os.devnull), verbose=0)


@held_memory.cache(version=3)
def held(x: int) -> int:
    return 10 * x


def test_pickles(memory: Memory) -> None:
    for dumps in (pickle.dumps, cloudpickle.dumps):
        again = pickle.loads(dumps(memory))
        assert (again.location, again.timestamp, repr(again)) == (memory.location, None, repr(memory))
        cached = pickle.loads(dumps(memory.cache(double)))
        assert [cached(1), cached(1)] == [2, 2]
        assert cached.__wrapped__ is cached.func is double
        found = pickle.loads(dumps(held))
        assert found.func is held.func
        assert found._identity.version == 3
    assert RUNS == [1]
    local = cloudpickle.loads(cloudpickle.dumps(memory.cache(times(3))))
    assert local(2) == 6
    assert shoal.hash(memory) == shoal.hash(pickle.loads(pickle.dumps(memory)))
    assert shoal.hash(memory.cache(double)) == shoal.hash(cached)
    assert shoal.hash(memory, "md5") == shoal.hash(pickle.loads(pickle.dumps(memory)), "md5")


def test_pickled_functions_know_their_source(memory: Memory) -> None:
    function = cell(7, "def f(x):\n    return x\n")
    cached = memory.cache(function)
    data = cloudpickle.dumps(cached)
    linecache.cache.clear()
    again = pickle.loads(data)
    assert again.func_code_info == cached.func_code_info
    assert cached(1) == again(1)
    assert again.func_id == cached.func_id
    assert len(list(memory.entries())) == 1


@pytest.mark.parametrize("backend", ["loky", "threading", "multiprocessing", "sequential"])
def test_cached_functions_in_parallel(memory: Memory, backend: str) -> None:
    cached = memory.cache(slow_of_module, ignore=["folder"])
    folder = str(memory.location)
    for _ in range(2):
        assert Parallel(n_jobs=2, backend=backend)(delayed(cached)(i, folder) for i in range(3)) == [0, 1, 2]
    assert sorted((memory.location / "runs").read_text().split()) == ["0", "1", "2"]


# Parallel(memory=)


def grows(values: list[int], folder: str) -> int:
    with open(os.path.join(folder, "runs"), "a") as file:
        file.write(f"{len(values)}\n")
    values.append(1)
    return len(values)


@pytest.mark.parametrize("backend", ["loky", "threading", "sequential"])
def test_runs_are_looked_up_and_kept(tmp_path: Path, backend: str) -> None:
    memory = Memory(tmp_path / "cache", verbose=0)
    folder = str(tmp_path)

    def run(numbers: list[int]) -> Any:
        calls = (delayed(grows)([0] * n, folder) for n in numbers)
        return Parallel(n_jobs=2, backend=backend, memory=memory)(calls)

    assert run([1, 2]) == [2, 3]
    assert run([1, 2, 3, 4]) == [2, 3, 4, 5]
    assert run([2, 5]) == [3, 6]
    assert sorted((tmp_path / "runs").read_text().split()) == ["1", "2", "3", "4", "5"]
    assert memory.cache(grows)([0, 0], folder) == 3, "and by the function itself"
    info = memory.info()
    assert (info.entries, info.hits, info.misses) == (5, 4, 5)
    assert not memory._run_calls._keys


def test_runs_of_cached_functions(tmp_path: Path) -> None:
    memory = Memory(tmp_path / "cache", verbose=0)
    cached = Memory(tmp_path / "other", verbose=0).cache(slow_of_module)
    for _ in range(2):
        assert Parallel(n_jobs=2, memory=memory)(delayed(cached)(i, str(tmp_path)) for i in range(2)) == [0, 1]
    assert memory.info().entries == 0
    assert sorted((tmp_path / "runs").read_text().split()) == ["0", "1"]


def test_runs_with_seeds_and_shared_arguments(tmp_path: Path) -> None:
    memory = Memory(tmp_path / "cache", verbose=0)
    table = {"a": 1}
    first = Parallel(n_jobs=2, memory=memory)(delayed(dict.get)(shared(table), key) for key in "ab")
    assert (
        first == Parallel(n_jobs=2, memory=memory)(delayed(dict.get)(shared(table), key) for key in "ab") == [1, None]
    )
    assert memory.info().hits == 2
    assert Parallel(n_jobs=2, memory=Memory(None))(delayed(abs)(-i) for i in range(3)) == [0, 1, 2]
    with pytest.raises(TypeError):
        Parallel(n_jobs=2, memory=memory)([delayed(double)()])


def test_importing_memory_is_light(fresh_python: Any) -> None:
    loaded = fresh_python("import sys\nfrom shoal import Memory\nMemory(None)\nprint(*sys.modules)").split()
    assert not {"numpy", "asyncio", "cloudpickle", "loky", "pydoc", "logging", "sqlite3"} & set(loaded)


def test_nothing_is_kept_alive(memory: Memory) -> None:
    import weakref

    def f(x: int) -> int:
        return x

    cached = memory.cache(f)
    cached(1)
    gone = weakref.ref(f)
    del f, cached
    gc.collect()
    assert gone() is None
