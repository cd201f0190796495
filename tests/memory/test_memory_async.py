"""Cached coroutine functions."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from _memory_util import RUNS, make_memory, ran
from shoal import (
    Memory,
)

memory = pytest.fixture(make_memory)


@pytest.fixture(autouse=True)
def _no_runs() -> None:
    RUNS.clear()


def test_coroutine_functions_are_cached(memory: Memory) -> None:
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


def test_waiting_tasks_compute_after_a_failure_or_a_cancellation(memory: Memory) -> None:
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


def test_without_a_location_coroutine_functions_are_called() -> None:
    async def fetch(x: int) -> int:
        return ran(x)

    cached = Memory(None).cache(fetch)

    async def main() -> None:
        assert await cached(1) == 1
        assert await cached.call(2) == (2, {})
        assert (await cached.call_and_shelve(3)).get() == 3

    asyncio.run(main())


def test_coroutine_methods_are_cached(memory: Memory) -> None:
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


class Fetch:
    async def __call__(self, x: int) -> int:
        return ran(x)


def test_objects_with_a_coroutine_method_for_calls_are_cached(memory: Memory) -> None:
    cached = memory.cache(Fetch())

    async def main() -> None:
        assert [await cached(1), await cached(1)] == [1, 1]
        assert await Memory(None).cache(Fetch())(2) == 2

    asyncio.run(main())
    assert RUNS == [1, 2]
