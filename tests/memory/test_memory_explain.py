"""``f.explain(...)``: whether the result of a call is stored, and if not, why."""

from __future__ import annotations

import asyncio
import functools
import json
import re
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shoal
from _memory_util import RUNS, double, make_memory, make_module, power, ran, times
from shoal import Memory, expires_after
from shoal.memory._parts import MOST_PARTS, is_complete, parts_of

memory = pytest.fixture(make_memory)
module = pytest.fixture(make_module)


class Model:
    def __init__(self, C: float = 1.0, inner: Any = None) -> None:  # noqa: N803
        self.C, self.inner = C, inner


def train(params: Any, X: Any = None) -> Any:  # noqa: N803
    return ran(1)


def files(memory: Memory) -> list[str]:
    return sorted(str(path) for path in Path(memory.location).rglob("*"))


# ---- Hits and misses.


def test_a_hit_and_a_function_without_results(memory: Memory) -> None:
    cached = memory.cache(double)
    before = files(memory)
    missed = cached.explain(3)
    assert (missed.hit, missed.cause, str(missed)) == (False, "no entry", "miss: no result of double is stored")
    assert (RUNS, files(memory)) == ([], before)
    cached(3)
    found = cached.explain(x=3)
    assert (found.hit, found.cause) == (True, "found")
    assert re.fullmatch(r"hit: the result is stored, saved .* ago.*", str(found))
    assert found.args_id == next(iter(memory.entries())).args_id


def test_the_argument_that_differs(memory: Memory) -> None:
    cached = memory.cache(power)
    cached(2, 3)
    cached(50, 60)
    missed = cached.explain(2, exponent=4)
    assert (missed.cause, missed.differences) == ("arguments", (("exponent", "3", "4"),))
    assert re.fullmatch(
        r"miss: an argument differs from the nearest stored result, saved .* ago\n  exponent: 3 -> 4", repr(missed)
    )
    assert cached.explain(2, 3.0).differences == (("exponent", "3", "3.0"),)
    assert missed.nearest == cached.explain(2, 3).args_id


def test_nested_arguments_differ_by_path(memory: Memory) -> None:
    cached = memory.cache(train)
    data = np.arange(6.0).reshape(2, 3)
    cached({"model": Model(1.0), "n": [1, 2]}, data)
    missed = cached.explain({"model": Model(10.0), "n": [1, 3]}, data.copy())
    assert [str(each) for each in missed.differences] == ["params['model'].C: 1.0 -> 10.0", "params['n'][1]: 2 -> 3"]
    changed = cached.explain({"model": Model(1.0), "n": [1, 2]}, data + 1)
    assert [each.path for each in changed.differences] == ["X"]
    assert cached.explain({"model": Model(1.0), "n": [1, 2]}, data).hit
    cached({"a": [1, {"b": 2}]})
    assert [str(each) for each in cached.explain({"a": [1, {"b": 3}]}).differences] == ["params['a'][1]['b']: 2 -> 3"]


def test_parts_of_another_object_are_not_named(memory: Memory) -> None:
    cached = memory.cache(train)
    cached({"a": 1, "model": Model()}, [1, 2])
    assert [str(each) for each in cached.explain(3, [1, 2]).differences] == ["params: dict of 2 -> 3"]
    missed = cached.explain({"a": 1, "model": Model}, [1])
    assert [each.path for each in missed.differences] == ["X", "params['model']", "X[1]"]


def test_a_difference_that_metadata_do_not_show(memory: Memory) -> None:
    cached = memory.cache(train)
    data = np.zeros(100_000)
    cached(1, data)
    data[2_000] = 1  # not among the samples
    missed = cached.explain(1, data)
    assert (missed.cause, missed.differences) == ("arguments", ())
    assert "in a part that its metadata do not describe completely: X" in str(missed)


@pytest.mark.parametrize(
    ("before", "now"), [([*range(99), 1], [*range(99), 2]), ((lambda x: x), (lambda x: x + 1))], ids=["list", "lambda"]
)
def test_arguments_of_which_metadata_do_not_show_all_are_named(memory: Memory, before: Any, now: Any) -> None:
    cached = memory.cache(train)
    cached(1, before)
    assert "in a part that its metadata do not describe completely: X" in str(cached.explain(1, now))


def test_other_names_of_parameters(memory: Memory) -> None:
    memory.cache(train)(1, 2)
    missed = memory.cache(train, ignore=["X"]).explain(1, 2)
    assert missed.cause == "parameters"
    assert missed.summary.startswith("the names of the parameters are not those of the nearest stored result, saved ")


def test_arguments_that_are_not_kept(tmp_path: Path) -> None:
    cached = Memory(tmp_path, verbose=0, keep_arguments=False).cache(train)
    cached("secret", Model(inner="secret"))
    assert "keep_arguments=False" in str(cached.explain("other"))
    assert not [path for path in tmp_path.rglob("metadata.json") if "parts" in path.read_text()]


def test_a_closure_that_differs(memory: Memory) -> None:
    memory.cache(times(2))(1)
    assert memory.cache(times(3)).explain(1).differences == (("closure n", "2", "3"),)


# ---- Functions.


def test_a_changed_source(module: Callable[[str], Any], memory: Memory) -> None:
    memory.cache(module("def f(x):\n    return 2 * x\n").f)(1)
    cached = memory.cache(module("def f(x):\n    return 3 * x\n").f)
    before = files(memory)
    for _ in range(2):
        missed = cached.explain(1)
        assert (missed.cause, missed.hit) == ("source", False)
        assert "-    return 2 * x" in missed.diff
        assert "+    return 3 * x" in str(missed)
        assert "The next call removes" in missed.summary
    assert files(memory) == before
    cached.check_call_in_cache(1)
    assert "were removed" in cached.explain(1).summary
    assert "-    return 2 * x" in cached.explain(1).diff
    cached(1)
    assert cached.explain(1).hit


def test_another_version_and_another_dependency(module: Callable[[str], Any], memory: Memory) -> None:
    memory.cache(power, version=1)(2, 3)
    missed = memory.cache(power, version=2).explain(2, 3)
    assert (missed.cause, missed.differences) == ("version", (("version", "1", "2"),))
    helper = module("def helper():\n    return 1\n").helper
    memory.cache(double, depends=[helper])(1)
    missed = memory.cache(double, depends=[module("def helper():\n    return 2\n").helper]).explain(1)
    assert missed.cause == "depends"
    assert [each.path for each in missed.differences] == ["depends shoal_changing.helper"]
    assert missed.summary.startswith("the source of a dependency is not that of the nearest stored result")


# ---- Results that are there and not used.


def test_expired_and_refused_results(memory: Memory) -> None:
    memory.cache(double)(1)
    stale = memory.cache(double, cache_validation_callback=expires_after(seconds=0))
    before = files(memory)
    assert stale.explain(1).cause == "expired"
    assert memory.cache(double, cache_validation_callback=expires_after(days=1)).explain(1).hit
    assert memory.cache(double, cache_validation_callback=lambda _: False).explain(1).cause == "invalid"
    assert files(memory) == before
    assert not stale.check_call_in_cache(1)  # which removes it
    assert stale.explain(1).cause == "expired"
    assert "results are valid for 0 µs" in str(stale.explain(1))


def test_a_damaged_result(memory: Memory) -> None:
    cached = memory.cache(double)
    cached(np.arange(1000.0))
    (path,) = Path(memory.location).rglob("output.pkl")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert cached.explain(np.arange(1000.0)).cause == "damaged"
    assert path.exists()


def test_keys_of_another_algorithm(tmp_path: Path) -> None:
    RUNS.clear()
    fast, slow = Memory(tmp_path, verbose=0), Memory(tmp_path, verbose=0, hash_name="md5")
    fast.cache(double)(1)
    missed = slow.cache(double).explain(1)
    assert (missed.cause, missed.hit) == ("hash", False)
    assert "hash_name='xxh3_128'" in str(missed)
    slow.cache(power)(2, 3)
    found = fast.cache(power).explain(2, 3)
    assert found.hit
    assert "by joblib" in str(found)
    assert fast.cache(power)(2, 3) == 8
    assert RUNS == [1, 8]


def test_metadata_that_are_lost_or_damaged(memory: Memory) -> None:
    cached = memory.cache(double)
    cached(1)
    (path,) = Path(memory.location).rglob("metadata.json")
    for damaged in ('{"duration": 0, "input_args": {"x": "1"}, "time": 0, "details": 3}', "x", "{}"):
        path.write_text(damaged)
        assert cached.explain(1).hit
        assert cached.explain(2).cause == "arguments"
    path.write_text('{"duration": 0, "input_args": {"x": "1"}, "time": 0}')  # as joblib writes them
    assert cached.explain(2).differences == (("x", "1", "2"),)


# ---- Who explains.


def test_methods_coroutines_and_no_location(memory: Memory) -> None:
    class Scaled:
        def __init__(self, scale: int) -> None:
            self.scale = scale

        @memory.cache
        def times(self, x: int) -> int:
            return self.scale * x

    Scaled(2).times(3)
    assert Scaled(2).times.explain(3).hit
    assert [str(each) for each in Scaled(5).times.explain(3).differences] == ["self.scale: 2 -> 5"]

    @memory.cache
    async def later(x: int) -> int:
        return x

    asyncio.run(later(1))
    assert later.explain(1).hit
    assert Memory(None).cache(double).explain(1).cause == "no store"


def test_a_function_that_cannot_be_cached(memory: Memory) -> None:
    lock = (i for i in ())

    @memory.cache
    def f(x: int) -> Any:
        return lock

    missed = f.explain(1)
    assert missed.cause == "uncacheable"
    assert "'lock'" in str(missed)


def test_verbose_says_why_a_result_is_computed(
    module: Callable[[str], Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    memory = Memory(tmp_path / "cache", verbose=11)
    cached = memory.cache(power)
    cached(2, 3)
    assert "]: miss: no result of power is stored" in caplog.text
    cached(2, 4)
    assert "\n  exponent: 3 -> 4\n" in caplog.text
    memory.cache(module("def f(x):\n    return 2 * x\n").f)(1)
    memory.cache(module("def f(x):\n    return 3 * x\n").f)(1)
    assert "  +    return 3 * x" in caplog.text
    caplog.clear()
    memory.cache(power, verbose=10)(2, 5)
    assert caplog.text == ""


# ---- The parts of arguments.


def test_parts_are_bounded_and_run_no_code(memory: Memory) -> None:
    class Loud:
        def __getattr__(self, name: str) -> Any:
            raise AssertionError(name)

        def __repr__(self) -> str:
            raise AssertionError

    cycle: list[Any] = []
    cycle.append(cycle)
    deep: Any = Model()
    for _ in range(100):
        deep = Model(inner=deep)
    values = {
        "many": [[i] * 100 for i in range(1000)],
        "cycle": cycle,
        "deep": deep,
        "loud": Loud(),
        "text": "x" * 10**6,
        "bytes": b"x" * 10**6,
        "number": 10**5000,
        "set": {1, 2},
        "date": date(2020, 1, 1),
        "matrix": np.zeros((3, 3))[::2, ::2],
        "objects": np.array([None, Model()]),
        "scalar": np.float32(2),
        "empty": np.zeros((0, 3)),
        "record": np.zeros(2, "i4,f8"),
        "function": double,
    }
    parts = parts_of(values)
    assert len(parts) == MOST_PARTS
    assert set(values) <= set(parts)
    assert len(json.dumps(parts)) < 8_000
    assert parts["date"] == "datetime.date(2020, 1, 1)"
    assert parts["function"] == "function _memory_util.double"
    assert is_complete(parts["scalar"])
    assert not is_complete(parts["matrix"])
    assert not is_complete(parts["bytes"])


def test_looking_at_arguments_does_not_change_their_digest() -> None:
    values = {"error": ValueError("x"), "partial": functools.partial(double, 1), "model": Model()}
    before = shoal.hash(values)
    parts_of(values)
    assert shoal.hash(values) == before


def test_equal_arguments_have_equal_parts() -> None:
    one, other = ({"a": Model(2.0, np.arange(5)), "b": "ü" * 100, "c": np.asfortranarray(np.eye(3))} for _ in range(2))
    parts = parts_of(one, whole=True)
    assert parts == parts_of(other, whole=True)
    other["b"] = "ü" * 99 + "u"
    assert [path for path, text in parts_of(other, whole=True).items() if parts[path] != text] == ["b"]
