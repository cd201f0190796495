"""What a call does: it computes once for many callers, and survives results and stores that fail."""

from __future__ import annotations

import asyncio
import pickle
import random
import shutil
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shoal
from _memory_util import RUNS, double, make_memory, ran, slow_of_module, threads
from shoal import (
    CacheWarning,
    Memory,
    NotMemorizedResult,
    Parallel,
    delayed,
)
from shoal.memory import store as stores
from shoal.memory.store import Entry, Key, Limits, Meta, Store

memory = pytest.fixture(make_memory)


@pytest.fixture(autouse=True)
def _no_runs() -> None:
    RUNS.clear()


def test_a_result_that_cannot_be_pickled_is_returned_with_a_warning(memory: Memory) -> None:
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


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("size", [3, 300_000], ids=["small", "large"])
def test_a_result_that_is_damaged_is_computed_again_with_a_warning(tmp_path: Path, size: int, compress: bool) -> None:
    cached = Memory(tmp_path, verbose=0, compress=compress).cache(ran)
    expected = cached(size, [np.arange(size), "text"])
    (path,) = tmp_path.rglob("output.pkl")
    draw = random.Random(size)
    for n in range(1, 21):
        data = bytearray(path.read_bytes())
        for _ in range(8):
            data[draw.randrange(12, len(data))] ^= 1 << draw.randrange(8)
        path.write_bytes(data)
        with pytest.warns(CacheWarning, match="cannot be read"):
            again = cached(size, [np.arange(size), "text"])
        assert again[1] == expected[1]
        assert (again[0] == expected[0]).all()
        assert len(RUNS) == n + 1
        assert (cached(size, [np.arange(size), "text"])[0] == expected[0]).all()
        assert len(RUNS) == n + 1


def test_functions_are_called_if_the_folder_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    memory = Memory(tmp_path / "file" / "cache", verbose=0)
    cached, other = memory.cache(double), memory.cache(ran)
    with pytest.warns(CacheWarning, match="Unable to cache to disk") as told:
        assert [cached(1), cached(1), cached(2), other(3), cached.call_and_shelve(4).get()] == [2, 2, 4, 3, 8]
    assert len(told) == 1
    assert RUNS == [1, 1, 2, 3, 4]
    memory.clear(warn=False)
    assert list(memory.entries()) == []


def test_functions_are_called_if_the_folder_disappears(memory: Memory) -> None:
    cached = memory.cache(double)
    assert cached(1) == 2
    shutil.rmtree(memory.location)
    assert [cached(1), cached(1)] == [2, 2]
    assert RUNS == [1, 1]


class Full(Store):
    """A store of the user's own, in memory, that can be full or broken."""

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


def test_tasks_share_a_computation_in_a_store_whose_leases_block() -> None:
    @Memory(Full(), verbose=0).cache
    async def slow(x: int) -> int:
        await asyncio.sleep(0.01)
        return ran(x)

    async def main() -> list[int]:
        return await asyncio.gather(*(slow(1) for _ in range(5)))

    assert asyncio.run(main()) == [1] * 5
    assert RUNS == [1]


def test_a_store_of_the_users_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "_stores", dict(stores._stores))
    memory = Memory(Full(), verbose=0)
    cached = memory.cache(double)
    assert [cached(1), cached(1), cached.call_and_shelve(1).get()] == [2, 2, 2]
    assert RUNS == [1]
    assert memory.info().entries == 1
    shoal.register_store_backend("full", lambda location, **options: Full())
    assert Memory("anywhere", backend="full", verbose=0).cache(double)(1) == 2
    assert RUNS == [1, 1]


def test_a_full_disk_warns_once() -> None:
    cached = Memory(Full(OSError(28, "No space left on device")), verbose=0).cache(double)
    with pytest.warns(CacheWarning) as told:
        assert [cached(1), cached(1)] == [2, 2]
    assert [str(warning.message).partition(":")[0] for warning in told] == ["Unable to read from the cache"]


def test_errors_of_a_store_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    cached = Memory(Full(AttributeError("gone")), verbose=0).cache(double)
    assert [cached(1), cached(1)] == [2, 2]
    assert "Exception while loading results for" in caplog.text


@pytest.mark.parametrize("store", ["files", "other"])
def test_one_thread_computes_for_all(tmp_path: Path, store: str) -> None:
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


def test_after_a_failure_each_waiting_thread_computes_for_itself(memory: Memory) -> None:
    @memory.cache
    def fails(x: int) -> int:
        time.sleep(0.05)
        raise ValueError(ran(x))

    results = threads(4, lambda i: fails(1))
    assert [str(error) for error in results] == ["1"] * 4
    assert len(RUNS) == 4


def test_after_an_unsaved_result_each_waiting_thread_computes_for_itself(memory: Memory) -> None:
    @memory.cache
    def unpicklable(x: int) -> Any:
        time.sleep(0.05)
        return ran(x, lambda: x)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = threads(6, lambda i: unpicklable(1)())
    assert results == [1] * 6
    assert len(RUNS) == 6


def test_functions_that_call_each_other_cause_no_deadlock(memory: Memory) -> None:
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


def test_one_process_computes_for_all(tmp_path: Path) -> None:
    cached = Memory(tmp_path / "cache", verbose=0).cache(slow_of_module)
    start = time.time()
    assert Parallel(n_jobs=2, batch_size=1)(delayed(cached)(i // 4, str(tmp_path)) for i in range(12)) == [
        i // 4 for i in range(12)
    ]
    assert sorted((tmp_path / "runs").read_text().split()) == ["0", "1", "2"]
    assert time.time() > start
