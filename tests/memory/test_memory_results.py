"""References to results, their validity, and statistics."""

from __future__ import annotations

import pickle
import time
from typing import Any

import pytest

from _memory_util import RUNS, double, make_memory, power
from shoal import (
    MemorizedResult,
    Memory,
    expires_after,
)

memory = pytest.fixture(make_memory)


@pytest.fixture(autouse=True)
def _no_runs() -> None:
    RUNS.clear()


def test_a_reference_reads_and_removes_its_result(memory: Memory) -> None:
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


def test_an_invalid_result_is_computed_again(memory: Memory) -> None:
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


def test_an_expired_result_is_computed_again(memory: Memory) -> None:
    assert memory.cache(double, cache_validation_callback=expires_after(hours=1))(1) == 2
    assert memory.cache(double, cache_validation_callback=expires_after(hours=1))(1) == 2
    assert RUNS == [1]
    assert memory.cache(double, cache_validation_callback=expires_after(microseconds=1))(1) == 2
    assert RUNS == [1, 1]
    assert not expires_after(days=1)({})
    assert pickle.loads(pickle.dumps(expires_after(days=1)))({"time": time.time()})


def test_info_and_entries_describe_the_cache(memory: Memory) -> None:
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
