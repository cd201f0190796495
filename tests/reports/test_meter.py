"""The parts of a meter: timelines, durations, short texts, sizes of arguments, and the measuring of a batch."""

from __future__ import annotations

import builtins
import itertools
import math
import multiprocessing
import os
import sys
import threading
import time
from array import array
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies

from _capabilities import needs_proc
from shoal.reports._arguments import Arguments, Way
from shoal.reports._batch_meter import BatchMeter, Measured
from shoal.reports._calls import SLOWEST, CallClock, SlowCall, name_of
from shoal.reports._durations import EDGES, MOST_EXACT, Durations
from shoal.reports._shown import MOST, MOST_OF_ONE, shown, shown_arguments, shown_error
from shoal.reports._system import LONG, ThreadsInUse, _field, out_of_memory, swapped_in, thread_use, usage
from shoal.reports._timeline import BATCH_COLUMNS, Timeline

# ---- Durations.


@given(strategies.lists(strategies.floats(0, 1e5, width=32), max_size=300))
def test_durations_are_exact(values: list[float]) -> None:
    durations = Durations()
    for start in range(0, len(values), 7):
        durations.add(array("f", values[start : start + 7]))
    summary, histogram = durations.summary(), durations.histogram()
    assert sum(histogram["counts"]) == len(values)
    if not values:
        assert summary["longest"] is None
        return
    assert summary["seconds"] == pytest.approx(math.fsum(values))
    assert (summary["shortest"], summary["longest"]) == (min(values), max(values))
    assert summary["median"] == sorted(values)[len(values) // 2]
    edges, counts = histogram["edges"], histogram["counts"]
    assert len(edges) == len(counts) + 1
    assert list(edges) == sorted(edges)
    inner = [value for value in values if EDGES[1] <= value < EDGES[-2]]
    for low, high, count in zip(edges, edges[1:], counts, strict=False):
        if low >= EDGES[1] and high <= EDGES[-2]:
            assert count == sum(low <= value < high for value in inner)


def test_quantiles_of_many_durations_are_near() -> None:
    durations = Durations()
    values = array("d", (0.001 + 0.001 * (number % 10) for number in range(MOST_EXACT + 10_000)))
    durations.add(values)
    summary = durations.summary()
    assert summary["shortest"] <= summary["median"] <= summary["p90"] <= summary["longest"]
    assert 0.5 < summary["median"] / 0.0055 < 2
    assert sum(durations.histogram()["counts"]) == len(values)


# ---- Timelines.


def batch(start: float, first: int, calls: int) -> dict[str, Any]:
    row = dict.fromkeys(BATCH_COLUMNS, 1)
    return {**row, "start": start, "end": start + 0.9, "first": first, "calls": calls, "run": 0.5}


@given(strategies.lists(strategies.integers(1, 40), max_size=120), strategies.integers(1, 60))
def test_timelines_of_batches_are_bounded_and_nested(sizes: list[int], most: int) -> None:
    line = Timeline(most)
    first = 0
    for number, size in enumerate(sizes):
        line.add_batch(batch(number, first, size), number + 0.1, array("f", [0.5 / size] * size))
        first += size
    batches, slices = line.rows()
    assert len(slices) <= max(most, 1)
    assert len(batches) <= max(most, 1)
    assert sum(row["calls"] for row in slices) == sum(row["calls"] for row in batches) == first
    assert sum(row["batches"] for row in batches) == len(sizes)
    assert math.isclose(sum(row["busy"] for row in slices), 0.5 * len(sizes), rel_tol=1e-5, abs_tol=1e-9)
    for before, after in itertools.pairwise(slices):
        assert before["end"] <= after["start"]
    for row in slices:
        around = batches[row["batch"]]
        assert around["start"] <= row["start"] <= row["end"] <= around["end"]


@given(strategies.integers(0, 300), strategies.integers(1, 50))
def test_timelines_of_calls_are_bounded(calls: int, most: int) -> None:
    line = Timeline(most)
    for number in range(calls):
        line.add_call(number, number + 0.5, number)
    batches, slices = line.rows()
    assert batches == []
    assert len(slices) <= most
    assert sum(row["calls"] for row in slices) == calls
    assert {row["batch"] for row in slices} <= {-1}


# ---- Short texts.


class Rude:
    def __repr__(self) -> str:
        raise AssertionError("the repr of a user's class runs")

    @property
    def shape(self) -> Any:
        raise ValueError("no shape")


class Named:
    pass


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3, "3"),
        (None, "None"),
        (2.5, "2.5"),
        ("text", "'text'"),
        ([1, 2], "[1, 2]"),
        ((1,), "(1)"),
        ({"a": 1}, "{'a': 1}"),
        (set(), "set()"),
        (list(range(100)), "[0, 1, 2, ... 100 in all]"),
        ([[[[1]]]], "[[<list of 1>]]"),
        (1 << 4000, "<int of 4001 bits>"),
        (Rude(), "<Rude>"),
        (Named(), "<Named>"),
        (Path("a/b"), "PosixPath('a/b')"),
        (abs, "abs"),
        (np.zeros((3, 4)), "<ndarray 3 x 4 float64>"),
        (np.float64(2.5), "2.5"),
        (np.zeros(5, dtype=object), "<ndarray 5 object>"),
    ],
)
def test_values_are_shown_in_short(value: Any, text: str) -> None:
    if sys.platform == "win32" and isinstance(value, Path):
        pytest.skip("paths have another class")
    assert shown(value) == text


@given(strategies.recursive(strategies.text() | strategies.binary() | strategies.integers(), strategies.lists))
def test_shown_values_are_bounded(value: Any) -> None:
    assert len(shown(value)) <= MOST_OF_ONE
    assert len(shown_arguments((value,) * 9, {"name": value})) <= MOST


def test_a_list_that_contains_itself_is_shown() -> None:
    value: list[Any] = []
    value.append(value)
    assert shown(value) == "[[<list of 1>]]"


def test_errors_are_shown_without_code_of_their_classes() -> None:
    class Odd(Exception):
        def __str__(self) -> str:
            raise AssertionError("the str of a user's class runs")

    assert shown_error(Odd("x" * 1000)).startswith("Odd: xxx")
    assert shown_error(Odd(1, 2)) == "Odd"
    assert len(shown_error(Odd("x" * 1000))) <= MOST


def test_functions_have_names() -> None:
    class Odd:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError(name)

    assert name_of(abs) == "abs"
    assert name_of(name_of) == "shoal.reports._calls.name_of"
    assert name_of(Odd()) == "?"


# ---- Sizes of arguments.


def test_arguments_are_sampled_and_compared() -> None:
    big = list(range(1000))

    def way_of(obj: Any) -> Way | None:
        return Way("mapped", 5_000) if type(obj) is Named else None

    arguments = Arguments(way_of)
    for number in range(20):
        arguments.see([(big, number, Named())] * 2, None)
    by_name = {row["name"]: row for row in arguments.to_list()}
    assert [by_name[f"args[{position}]"]["samples"] for position in range(3)] == [3, 3, 3]  # batches 0, 3 and 15
    assert by_name["args[0]"]["repeated"]
    assert by_name["args[0]"]["bytes"] > 1000
    assert (by_name["args[2]"]["way"], by_name["args[2]"]["bytes"] >= 5_000) == ("mapped", True)
    assert arguments.to_list()[0]["name"] == "args[2]"


def test_equal_arguments_of_single_calls_are_told_from_the_same() -> None:
    arguments = Arguments(lambda obj: None)
    same = [1, 2, 3]
    for number in range(5):
        arguments.see([(same, [number] * 100)], [{"key": same}])
    repeated = {row["name"]: row["repeated"] for row in arguments.to_list()}
    assert repeated == {"args[0]": True, "args[1]": False, "kwargs['key']": True}


def test_arguments_that_cannot_be_pickled_are_left_out() -> None:
    arguments = Arguments(lambda obj: None)
    arguments.see([(threading.Lock(), 1)], None)
    assert [row["name"] for row in arguments.to_list()] == ["args[1]"]


def test_objects_that_stand_for_descriptors_are_not_pickled(monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = multiprocessing.Pipe()
    pickled: list[Any] = []
    monkeypatch.setattr(type(here), "__reduce_ex__", lambda self, protocol: pickled.append(self) or (int, ()))
    arguments = Arguments(lambda obj: None)
    arguments.see([(here, [there])], None)
    assert pickled == []
    here.close()
    there.close()


# ---- The measuring of a batch.


def run(meter: BatchMeter, calls: list[Any], stop_after: int | None = None) -> Any:
    """Run calls as a worker does; return what was measured."""
    with meter:
        began = time.perf_counter()
        marks = meter.marked(iter(calls))
        for done, (function, args, kwargs) in enumerate(marks, 1):
            function(*args, **kwargs)
            if done == stop_after:
                break
        meter.stop(time.perf_counter() - began)
        return measured(meter)


def measured(meter: BatchMeter) -> Any:
    """Return what was measured, as the caller unpacks it."""
    found = Measured(*meter.finish())
    return found._replace(slow=tuple(SlowCall(*fields) for fields in found.slow))


def test_each_call_of_a_batch_is_measured() -> None:
    calls = [(time.sleep, (0.001 * number,), {}) for number in range(SLOWEST + 5)]
    found = run(BatchMeter(100, 0.0, True, False), calls)
    durations = list(array("f", found.durations))
    assert len(durations) == len(calls)
    assert all(seconds >= 0.00099 * number for number, seconds in enumerate(durations))
    assert found.received <= found.began <= found.called <= found.ended
    assert len(found.slow) <= SLOWEST
    assert 100 + len(calls) - 1 in [call.call for call in found.slow]
    assert {call.function for call in found.slow} == {"time.sleep"} or {call.function for call in found.slow} == {
        "sleep"
    }
    assert found.pid == os.getpid()


@pytest.mark.parametrize(
    ("seconds", "cpu"),
    [
        ((0.03, 0.001, 0.05), [0.015, 0.0005, 0.025]),  # the clock is read after each of them
        ((0.0001, 0.0001, 0.05), [None, None, 0.0251]),  # 0.2 ms before the last one: its CPU time is nearly right
        ((0.0009, 0.0009, 0.006), [None, None, None]),  # 1.8 ms before the last one
    ],
)
def test_the_cpu_time_of_a_call_is_known_if_the_clock_was_read_just_before_it(
    seconds: tuple[float, ...], cpu: list[float | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("shoal.reports._calls.time", SimpleNamespace(perf_counter=lambda: now[0]))

    def use(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr("shoal.reports._calls.SHORT", 0.00095)
    clock = CallClock(0, 0.0, lambda: now[0] / 2)  # every call uses a CPU for half its time
    for function, args, _ in clock.marked(iter([(use, (duration,), {}) for duration in seconds])):
        function(*args)
    clock.close(now[0])
    known = {call.call: call.cpu for call in clock.slow}
    assert [known.get(call) for call in range(3)] == pytest.approx(cpu)
    assert 2 in known
    assert clock.cpu == pytest.approx(now[0] / 2)


@pytest.mark.parametrize("stop_after", [1, 3])
def test_the_last_call_of_a_batch_that_is_cut_short_is_measured(stop_after: int) -> None:
    found = run(BatchMeter(0, 0.0, True, False), [(time.sleep, (0.005,), {})] * 5, stop_after)
    durations = list(array("f", found.durations))
    assert len(durations) == stop_after
    assert durations[-1] >= 0.0049
    assert len(found.slow) == stop_after


def test_the_call_that_raises_is_measured() -> None:
    meter = BatchMeter(0, 0.0, True, False)
    calls = [(time.sleep, (0.005,), {}), (divmod, (1, 0), {})]
    began = time.perf_counter()
    with meter:
        for function, args, _ in meter.marked(iter(calls)):
            try:
                function(*args)
            except ZeroDivisionError:
                break
    meter.stop(time.perf_counter() - began)
    found = measured(meter)
    assert len(array("f", found.durations)) == 2


def test_fast_calls_are_not_described() -> None:
    found = run(BatchMeter(0, 10.0, True, False), [(time.sleep, (0.001,), {})] * 3)
    assert found.slow == ()


def test_imports_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "planted_outer.py").write_text("import planted_inner")
    (tmp_path / "planted_inner.py").write_text("import time; time.sleep(0.02)")
    monkeypatch.syspath_prepend(str(tmp_path))
    usual = builtins.__import__

    def import_it() -> None:
        exec("import planted_outer, os")

    try:
        found = run(BatchMeter(0, 10.0, True, False), [(import_it, (), {})] * 2)
    finally:
        sys.modules.pop("planted_outer", None)
        sys.modules.pop("planted_inner", None)
    assert found.modules == 2
    assert 0.019 <= found.import_seconds <= sum(array("f", found.durations)) + 0.001
    assert builtins.__import__ is usual


# ---- What the system knows.


def test_usage_of_this_process() -> None:
    if sys.platform == "win32":
        assert usage() == (None, None)
        return
    memory, switches = usage()
    assert memory is not None
    assert memory > 1_000_000
    assert switches is not None


@needs_proc
def test_the_use_of_a_thread() -> None:
    before = thread_use()
    for _ in range(5):
        time.sleep(0.001)
    while time.thread_time() < 0.01:
        pass
    after = thread_use()
    assert before is not None
    assert after is not None
    used = after.since(before)
    assert used.waits >= 5
    assert used.cpu > 0
    assert used.queued >= 0


@needs_proc
def test_threads_that_run_are_counted() -> None:
    threads = ThreadsInUse()
    assert threads.count() is None
    ended = threading.Event()

    def spin() -> None:
        while not ended.is_set():
            sum(range(100))

    spinning = [threading.Thread(target=spin) for _ in range(2)]
    threads.begin()
    for thread in spinning:
        thread.start()
    time.sleep(10 * LONG)
    count = threads.count()
    ended.set()
    for thread in spinning:
        thread.join()
    assert count is not None
    assert count >= 1
    threads.begin()
    assert threads.count() is None  # too short a time


def test_counters_of_the_system() -> None:
    for value in (swapped_in(), out_of_memory()):
        assert value is None or value >= 0
    assert _field("low 0\noom_kill 12\n", "oom_kill") == 12
    assert _field("low 0\n", "oom_kill") is None
    assert _field(None, "oom_kill") is None
