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
from shoal.reports._batch_meter import BatchMeter, Gathered, Measured, _Latest
from shoal.reports._calls import SLOWEST, CallClock, SlowCall, name_of
from shoal.reports._durations import EDGES, MOST_EXACT, Durations
from shoal.reports._meter import About, Meter
from shoal.reports._shown import MOST, MOST_OF_ONE, shown, shown_arguments, shown_error
from shoal.reports._system import (
    LONG,
    ThreadsInUse,
    _field,
    out_of_memory,
    swapped_in,
    thread_use,
    threads_in_use,
    usage,
)
from shoal.reports._timeline import BATCH_COLUMNS, Timeline
from shoal.reports._workers import Workers

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
    assert shown_error(Odd(1, Rude())) == "Odd: 1, <Rude>"
    assert shown_error(Odd()) == "Odd"
    assert shown_error(Odd("")) == "Odd"
    assert len(shown_error(Odd("x" * 1000))) <= MOST


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError(3), "ValueError: 3"),
        (KeyError(5), "KeyError: 5"),
        (OSError(2, "No such file"), "FileNotFoundError: 2, 'No such file'"),
        (KeyError("name"), "KeyError: name"),
    ],
)
def test_errors_are_shown_with_their_arguments(error: Exception, text: str) -> None:
    assert shown_error(error) == text


def test_functions_have_names() -> None:
    class Odd:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError(name)

    assert name_of(abs) == "abs"
    assert name_of(name_of) == "shoal.reports._calls.name_of"
    assert name_of(Odd()) == "?"


# ---- Sizes of arguments.


def run_nothing() -> None:
    pass


def test_arguments_are_sampled_and_compared() -> None:
    big = list(range(1000))

    def way_of(obj: Any) -> Way | None:
        return Way("mapped", 5_000) if type(obj) is Named else None

    arguments = Arguments(way_of)
    for number in range(20):
        arguments.see([abs], [(big, number, Named())] * 2, None)
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
        arguments.see([abs], [(same, [number] * 100)], [{"key": same}])
    repeated = {row["name"]: row["repeated"] for row in arguments.to_list()}
    assert repeated == {"args[0]": True, "args[1]": False, "kwargs['key']": True}


def test_the_same_object_in_several_markers_is_the_same() -> None:
    arguments = Arguments(lambda obj: Way("once", None, obj.value) if isinstance(obj, SimpleNamespace) else None)
    same = list(range(1000))
    for number in range(5):
        arguments.see([abs], [(SimpleNamespace(value=same), SimpleNamespace(value=[number]))], None)
    assert {row["name"]: row["repeated"] for row in arguments.to_list()} == {"args[0]": True, "args[1]": False}


class Callable:
    def __init__(self) -> None:
        self.values = list(range(1000))

    def method(self) -> None:
        pass

    @classmethod
    def of_class(cls) -> None:
        pass

    def __call__(self) -> None:
        pass


@pytest.mark.parametrize(
    ("function", "sampled"),
    [
        *((function, False) for function in (abs, time.sleep, run_nothing, Callable, Callable.of_class, dict.fromkeys)),
        *((function, True) for function in (Callable(), Callable().method, list(range(1000)).count)),
    ],
)
def test_the_object_of_a_function_is_sampled(function: Any, sampled: bool) -> None:
    arguments = Arguments(lambda obj: None)
    for _ in range(5):
        arguments.see([function], [(1,)], None)
    by_name = {row["name"]: row for row in arguments.to_list()}
    assert ("function" in by_name) is sampled
    if sampled:
        assert by_name["function"]["bytes"] > 1000
        assert by_name["function"]["repeated"]


def test_methods_of_the_same_object_are_the_same() -> None:
    arguments = Arguments(lambda obj: None)
    table = Callable()
    arguments.see([table.method, table.method], [(), ()], None)
    assert arguments.to_list()[0]["repeated"]


def test_arguments_that_cannot_be_pickled_are_left_out() -> None:
    arguments = Arguments(lambda obj: None)
    arguments.see([abs], [(threading.Lock(), 1)], None)
    assert [row["name"] for row in arguments.to_list()] == ["args[1]"]


def test_objects_that_stand_for_descriptors_are_not_pickled(monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = multiprocessing.Pipe()
    pickled: list[Any] = []
    monkeypatch.setattr(type(here), "__reduce_ex__", lambda self, protocol: pickled.append(self) or (int, ()))
    arguments = Arguments(lambda obj: None)
    arguments.see([abs], [(here, [there])], None)
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
    found = run(BatchMeter(100, 0.0, True, None), calls)
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
    found = run(BatchMeter(0, 0.0, True, None), [(time.sleep, (0.005,), {})] * 5, stop_after)
    durations = list(array("f", found.durations))
    assert len(durations) == stop_after
    assert durations[-1] >= 0.0049
    assert len(found.slow) == stop_after


def test_the_call_that_raises_is_measured() -> None:
    meter = BatchMeter(0, 0.0, True, None)
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
    found = run(BatchMeter(0, 10.0, True, None), [(time.sleep, (0.001,), {})] * 3)
    assert found.slow == ()


def test_imports_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "planted_outer.py").write_text("import planted_inner")
    (tmp_path / "planted_inner.py").write_text("import time; time.sleep(0.02)")
    monkeypatch.syspath_prepend(str(tmp_path))
    usual = builtins.__import__

    def import_it() -> None:
        exec("import planted_outer, os")

    try:
        found = run(BatchMeter(0, 10.0, True, None), [(import_it, (), {})] * 2)
    finally:
        sys.modules.pop("planted_outer", None)
        sys.modules.pop("planted_inner", None)
    assert found.modules == 2
    assert 0.019 <= found.import_seconds <= sum(array("f", found.durations)) + 0.001
    assert builtins.__import__ is usual


def looks(
    monkeypatch: pytest.MonkeyPatch, batches: list[tuple[Any, float, float]], before: int | None = None
) -> list[bool]:
    """Run batches at given times; return at which of them the threads were looked at.

    Each batch is the run, when it begins, and how long it takes. `before` is the number of calls before each of them.
    """
    now, begun = [0.0], [False]
    monkeypatch.setattr("shoal.reports._batch_meter._latest", _Latest())
    clock = SimpleNamespace(perf_counter=lambda: now[0], time=time.time, process_time=time.process_time)
    monkeypatch.setattr("shoal.reports._batch_meter.time", clock)
    monkeypatch.setattr(threads_in_use, "begin", lambda: begun.__setitem__(0, True))
    looked = []
    for run, start, seconds in batches:
        now[0], begun[0] = start, False
        meter = BatchMeter(0, 0.0, True, before, run)
        monkeypatch.setattr(threads_in_use, "count", lambda seconds=seconds: None if seconds < LONG else 2)
        now[0] += seconds
        found = Measured(*meter.finish())
        assert (found.threads is not None) == (begun[0] and seconds >= (0.5 if before == 0 else LONG))
        looked.append(begun[0])
    return looked


def test_the_threads_are_looked_at_in_each_run(monkeypatch: pytest.MonkeyPatch) -> None:
    assert looks(monkeypatch, [((1, 1), 5.0, 0.1), ((1, 2), 5.2, 0.1), ((1, 3), 5.4, 0.1)]) == [True] * 3


def test_the_first_batch_of_a_process_has_to_be_long_to_tell_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenBLAS restarts its threads after a fork, and they spin for a while."""
    assert looks(monkeypatch, [((1, 1), 5.0, 0.4)], before=0) == [True]
    assert looks(monkeypatch, [((1, 1), 5.0, 0.6)], before=0) == [True]


def test_the_threads_are_looked_at_once_a_second_in_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = [((1, 1), 5.0 + 0.1 * number, 0.1) for number in range(30)]
    assert sum(looks(monkeypatch, batches)) == 3


def test_a_look_that_told_nothing_is_soon_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    short = [((1, 1), 5.0, 0.001)]
    batches = [((1, 1), 5.01 + 0.05 * number, 0.05) for number in range(8)]
    looked = looks(monkeypatch, short + batches)
    assert looked[0]
    assert looked[1:].index(True) == 4  # 0.2 s later
    assert sum(looked) == 2


# ---- What the caller adds up.


def meter_of(*collectors: Any) -> Meter:
    """Return a meter of a run on two workers."""
    return Meter(About("loky", False, 2, [], None, None), collectors or (Gathered(),))


def measured_of(**fields: Any) -> Measured:
    """Return what a worker has measured of a batch of one call."""
    found = Measured(*BatchMeter(0, 0.0, True, 0).finish())
    return found._replace(durations=array("f", [0.1]).tobytes(), **fields)


TRAVEL = dict.fromkeys(("sent", "returned", "pickle", "unpickle"), 0)


def test_runs_that_were_handed_on_are_not_kept() -> None:
    meter = meter_of(Gathered())
    nested = {**meter_of().to_dict(), "id": "1-1"}
    meter.received(0, measured_of(nested=(nested,), slow=((0.1, 0, 0.0, None, "f", "1"),)), TRAVEL, 0)
    assert [run["id"] for run in meter.collectors[0].runs] == ["1-1"]
    assert all(not found.nested and not found.slow for _, found, *_ in meter._pending)
    assert [call["function"] for call in meter.to_dict()["slowest"]] == ["f"]


def test_slow_calls_that_took_equally_long_are_not_compared() -> None:
    meter = meter_of()
    for cpu in [None, 0.1] * 10:
        meter.received(0, measured_of(slow=((0.5, 1, 2.0, cpu, "f", "1"),), clock=0.0), TRAVEL, 0)
    assert len(meter.to_dict()["slowest"]) == SLOWEST


def test_a_death_belongs_to_a_process_that_has_run_a_batch() -> None:
    meter = meter_of()
    meter.received(0, measured_of(pid=1), TRAVEL, 0)
    meter.lost(0, "death", "the first")
    meter.lost(0, "death", "the second, which has run nothing")
    meter.received(0, measured_of(pid=3), TRAVEL, 0)
    meter.lost(0, "death", "the third")
    meter.lost(None, "death", "one of several")
    assert [event["worker"] for event in meter.to_dict()["events"]] == [0, None, 1, None]


def test_the_start_of_a_process_that_has_run_nothing_is_not_lost() -> None:
    workers = Workers(1, 0.0, 100)
    workers.of_reply((0, "box", 1, None), measured_of(received=1.0, host="box", pid=1), 0.0)
    workers.lose(0, 2.0, 0.5)
    workers.lose(0, 5.0, 2.0)  # from 2 to 3 it started, and then it ran a call
    workers.of_reply((0, "box", 3, None), measured_of(received=6.0, host="box", pid=3), 0.0)
    rows = workers.tables(7.0)["workers"]
    assert [row["starting"] for row in rows] == [1.0, 2.0]


def test_starts_of_processes_that_share_a_row_are_added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shoal.reports._workers.MOST_ROWS", 0)
    workers = Workers(1, 0.0, 100)
    for pid in range(4):
        workers.of_reply((0, "box", pid, None), measured_of(received=pid + 0.25, host="box", pid=pid), 0.0)
        workers.lose(0, float(pid + 1), 0.0)
    (row,) = workers.tables(4.0)["workers"]
    assert row["starting"] == 1.0


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
