"""Memory: its arguments, its pickles, and the runs of Parallel(memory=)."""

from __future__ import annotations

import datetime
import gc
import linecache
import math
import os
import pickle
import re
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest

import shoal
from _memory_util import RUNS, cell, double, make_memory, power, ran, slow_of_module, times
from shoal import (
    Memory,
    NotMemorizedFunc,
    Parallel,
    delayed,
    shared,
)
from shoal.memory.store import Limits

memory = pytest.fixture(make_memory)


@pytest.fixture(autouse=True)
def _no_runs() -> None:
    RUNS.clear()


@pytest.mark.parametrize("kind", [str, Path])
def test_strings_and_paths_as_locations(tmp_path: Path, kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    memory = Memory(kind("~/cache") if kind is str else tmp_path / "cache", verbose=0)
    assert memory.cache(double)(1) == 2
    folder = tmp_path / "cache" / "joblib" if kind is str else tmp_path / "cache"
    assert memory.store_backend.location == str(folder)
    assert repr(memory) == f"Memory(location={folder})"
    assert (tmp_path / "cache" / ".gitignore").read_text().splitlines()[-1] == "*"
    assert (folder / "_memory_util" / "double" / "func_code.py").read_text().startswith("# first line: ")
    (found,) = folder.glob("_memory_util/double/*/output.pkl")
    assert shoal.load(found) == 2


def test_without_a_location_nothing_is_saved() -> None:
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


def test_wrong_arguments_raise_or_warn(tmp_path: Path) -> None:
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
    with pytest.raises(ValueError, match="is not a size"):
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
        ({"bytes_limit": -1}, ValueError, "bytes_limit: -1 is not a size"),
        ({"bytes_limit": "abc"}, ValueError, "bytes_limit: 'abc' is not a size"),
        ({"bytes_limit": True}, ValueError, "bytes_limit: True is not a size"),
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


def test_the_call_that_computes_returns_a_mapped_result(tmp_path: Path) -> None:
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


def test_results_are_compressed(tmp_path: Path) -> None:
    sizes = []
    for compress in (False, True, 9, ("zlib", 3), "xz"):
        memory = Memory(tmp_path / str(len(sizes)), compress=compress, verbose=0)
        cached = memory.cache(np.zeros)
        assert cached(10_000).sum() == cached(10_000).sum() == 0
        sizes.append(memory.info().nbytes)
    assert max(sizes[1:]) < sizes[0] / 10


def test_the_method_call_always_computes(memory: Memory) -> None:
    cached = memory.cache(double)
    assert cached(3) == 6
    value, metadata = cached.call(3)
    assert (value, metadata["input_args"], RUNS) == (6, {"x": "3"}, [3, 3])
    assert set(metadata) == {"duration", "input_args", "time"}


def test_clear_removes_results(memory: Memory) -> None:
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


def test_limits_remove_the_least_recently_used_results(tmp_path: Path) -> None:
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


# In other processes


module_memory = Memory(Path(__file__), verbose=0)  # where nothing can be stored


@module_memory.cache(version=3)
def of_module(x: int) -> int:
    return 10 * x


def test_pickled_objects_find_the_same_results(memory: Memory) -> None:
    for dumps in (pickle.dumps, cloudpickle.dumps):
        again = pickle.loads(dumps(memory))
        assert (again.location, again.timestamp, repr(again)) == (memory.location, None, repr(memory))
        cached = pickle.loads(dumps(memory.cache(double)))
        assert [cached(1), cached(1)] == [2, 2]
        assert cached.__wrapped__ is cached.func is double
        found = pickle.loads(dumps(of_module))
        assert found.func is of_module.func
        assert found._identity.version == 3
    assert RUNS == [1]
    local = cloudpickle.loads(cloudpickle.dumps(memory.cache(times(3))))
    assert local(2) == 6
    assert shoal.hash(memory) == shoal.hash(pickle.loads(pickle.dumps(memory)))
    assert shoal.hash(memory.cache(double)) == shoal.hash(cached)
    assert shoal.hash(memory, "md5") == shoal.hash(pickle.loads(pickle.dumps(memory)), "md5")


def test_a_pickled_function_brings_its_source_along(memory: Memory) -> None:
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
def test_cached_functions_in_workers(memory: Memory, backend: str) -> None:
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
def test_a_run_loads_and_saves_results(tmp_path: Path, backend: str) -> None:
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


def test_a_run_leaves_cached_functions_to_themselves(tmp_path: Path) -> None:
    memory = Memory(tmp_path / "cache", verbose=0)
    cached = Memory(tmp_path / "other", verbose=0).cache(slow_of_module)
    for _ in range(2):
        assert Parallel(n_jobs=2, memory=memory)(delayed(cached)(i, str(tmp_path)) for i in range(2)) == [0, 1]
    assert memory.info().entries == 0
    assert sorted((tmp_path / "runs").read_text().split()) == ["0", "1"]


def test_seeds_and_shared_arguments_in_runs(tmp_path: Path) -> None:
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


def test_importing_memory_is_cheap(fresh_python: Any) -> None:
    loaded = fresh_python("import sys\nfrom shoal import Memory\nMemory(None)\nprint(*sys.modules)").split()
    assert not {"numpy", "asyncio", "cloudpickle", "loky", "pydoc", "logging", "sqlite3"} & set(loaded)


def test_a_dropped_memory_is_freed(memory: Memory) -> None:
    import weakref

    def f(x: int) -> int:
        return x

    cached = memory.cache(f)
    cached(1)
    gone = weakref.ref(f)
    del f, cached
    gc.collect()
    assert gone() is None
