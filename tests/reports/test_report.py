"""Reports of real runs: the ways to ask for one, what is in it, and that its schema is the documented one."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import os
import re
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shoal
from _capabilities import needs_fork, needs_proc
from conftest import FreshPython
from shoal import Memory, Parallel, delayed, executor, parallel_config, shutdown_workers
from shoal.parallel._delayed import Call
from shoal.reports._batch_meter import MOST_NESTED
from shoal.reports._calls import SHORT
from shoal.reports._findings import _FAULTS
from shoal.reports._report import MOST_RUNS

DOCUMENT = (Path(__file__).parents[2] / "docs" / "report-schema.md").read_text(encoding="utf-8")

TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "number": (int, float),
    "string": (str,),
    "bool": (bool,),
    "list": (list,),
    "object": (dict,),
    "columns": (dict,),
    "null": (type(None),),
}


def square(number: int) -> int:
    return number * number


def add(number: int, other: int = 0) -> int:
    return number + other


def fail(number: int) -> int:
    raise ValueError(f"number {number}")


def fail_once(marker: str) -> int:
    if not os.path.exists(marker):
        Path(marker).touch()
        raise OSError("not yet")
    return 1


def die_once(marker: str) -> int:
    if not os.path.exists(marker):
        Path(marker).touch()
        os._exit(3)
    return 1


def wait_for(path: str) -> bool:
    end = time.monotonic() + 60
    while not os.path.exists(path) and time.monotonic() < end:
        time.sleep(0.001)
    return os.path.exists(path)


def many_inner_runs(number: int) -> int:
    for _ in range(MOST_NESTED + 3):
        Parallel(n_jobs=1)([delayed(abs)(number)])
    return number


def total(array: Any) -> float:
    return float(array.sum())


# ---- The schema.


def fields_of(heading: str) -> dict[str, str]:
    """Return the fields of the first table below a heading of docs/report-schema.md, with their types."""
    section = re.split(r"^#+ ", DOCUMENT.partition(f"# {heading}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    table = section[section.index("|---") :].partition("\n\n")[0]
    fields = {}
    for row in re.findall(r"^\| (`.*?) \| (.*?) \|", table, re.MULTILINE):
        names, types = re.findall(r"`([^`]+)`", row[0]), row[1].split(", ")
        for position, name in enumerate(names):
            fields[name] = types[min(position, len(types) - 1)]
    assert fields, f"no table below {heading}"
    return fields


#: Fields that have come within schema 1, after the sample was frozen.
ADDED = {"listeners"}


def assert_of_types(found: dict[str, Any], heading: str, absent: frozenset[str] | set[str] = frozenset()) -> None:
    fields = {name: kind for name, kind in fields_of(heading).items() if "." not in name and name not in absent}
    assert found.keys() == fields.keys(), heading
    for name, kind in fields.items():
        types = tuple(one for part in kind.split(" or ") for one in TYPES[part])
        assert isinstance(found[name], types), f"{heading}: {name} is {found[name]!r}, not {kind}"
        assert not isinstance(found[name], float) or math.isfinite(found[name])


def assert_columns(found: dict[str, list[Any]], heading: str) -> None:
    fields = fields_of(heading)
    assert found.keys() == fields.keys()
    assert len({len(column) for column in found.values()}) == 1
    for name, kind in fields.items():
        assert all(isinstance(value, TYPES[kind]) for value in found[name]), name


def assert_ordered(table: dict[str, list[Any]]) -> None:
    rows = list(zip(table["worker"], table["start"], table["end"], strict=True))
    assert rows == sorted(rows)
    for (worker, _, end), (following, start, _) in itertools.pairwise(rows):
        assert worker != following or end <= start
    assert all(start <= end for _, start, end in rows)


def assert_follows_the_schema(found: dict[str, Any], absent: frozenset[str] | set[str] = frozenset()) -> None:
    assert_of_types(found, "The report")
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    for finding in found["findings"]:
        assert_of_types(finding, "Findings")
    for run in found["runs"]:
        assert_of_types(run, "Runs", absent)
        assert_of_types(run["calls"], "`calls`")
        assert_of_types(run["speedup"], "`speedup`")
        ceilings = {f"ceilings.{name}" for name in run["speedup"]["ceilings"]}
        assert ceilings == {name for name in fields_of("`speedup`") if "." in name}
        for worker in run["workers"]:
            assert_of_types(worker, "`workers`")
        for argument in run["arguments"]:
            assert_of_types(argument, "`arguments`")
        for name in ("sending", "results"):
            assert_of_types(run[name], "`sending` and `results`")
        batches, slices = run["batches"], run["slices"]
        assert_columns(batches, "`batches`")
        assert_columns(slices, "`slices`")
        assert_ordered(batches)
        assert_ordered(slices)
        for row, batch in enumerate(slices["batch"]):
            if batch >= 0:
                assert batches["start"][batch] <= slices["start"][row] <= slices["end"][row] <= batches["end"][batch]
        assert sum(slices["calls"]) == run["calls"]["done"] == sum(run["histogram"]["counts"])
        edges = run["histogram"]["edges"]
        assert len(edges) == len(run["histogram"]["counts"]) + (run["calls"]["done"] > 0)
        assert run["start"] <= run["end"] <= found["elapsed"]


def test_the_schema_lists_every_fault() -> None:
    listed = re.findall(r"^\| `(\w+)` \|", DOCUMENT.partition("| fault | cause |")[2], re.MULTILINE)
    assert listed == list(_FAULTS)


def test_the_sample_follows_the_schema() -> None:
    sample = Path(__file__).parents[1] / "fixtures" / "report" / "sample.json"
    assert_follows_the_schema(json.loads(sample.read_text(encoding="utf-8")), ADDED)


@pytest.mark.parametrize(
    ("backend", "return_as"),
    [
        ("multiprocessing", "list"),
        *itertools.product(("loky", "threading", "sequential"), ("list", "generator", "generator_unordered")),
    ],
)
def test_reports_follow_the_schema(backend: str, return_as: str) -> None:
    with shoal.report() as report:
        parallel = Parallel(n_jobs=2, backend=backend, return_as=return_as)
        assert sorted(parallel(delayed(square)(number) for number in range(30))) == [n * n for n in range(30)]
        assert sorted(parallel(delayed(total)(np.ones(200_000)) for _ in range(3))) == [200_000.0] * 3
    found = report.to_dict()
    assert [run["calls"]["done"] for run in found["runs"]] == [30, 3]
    assert [run["outcome"] for run in found["runs"]] == ["done", "done"]
    assert_follows_the_schema(found)


def test_a_report_of_many_calls_is_bounded_and_exact() -> None:
    with shoal.report() as report:
        Parallel(n_jobs=2)(delayed(abs)(number) for number in range(150_000))
        Parallel(n_jobs=2, batch_size=1)(delayed(abs)(number) for number in range(3_000))
    found = report.to_dict()
    assert_follows_the_schema(found)
    first, second = found["runs"]
    assert first["calls"]["done"] == sum(first["batches"]["calls"]) == 150_000
    assert second["calls"]["done"] == 3_000
    assert sum(second["batches"]["batches"]) == 3_000
    assert len(first["slices"]["start"]) <= 2_000
    assert len(second["batches"]["start"]) <= 2_000
    assert len(first["slowest"]) <= 10
    assert all(call["seconds"] > SHORT for call in first["slowest"])  # of these, few calls may be as long as that
    assert len(json.dumps(found)) < 1_000_000


# ---- The ways to ask for one.


def test_a_report_contains_the_runs_of_its_block_only() -> None:
    parallel = Parallel(n_jobs=2, backend="threading")
    parallel([delayed(square)(1)])
    with shoal.report() as report:
        parallel([delayed(square)(2)])
        with shoal.report() as inner:
            parallel([delayed(square)(3)])
        thread = threading.Thread(target=parallel, args=([delayed(square)(4)],))
        thread.start()
        thread.join()
    parallel([delayed(square)(5)])
    assert [[call["arguments"] for call in run["slowest"]] for run in report.to_dict()["runs"]] == [["2"], ["3"]]
    assert [[call["arguments"] for call in run["slowest"]] for run in inner.to_dict()["runs"]] == [["3"]]


def test_a_report_can_be_entered_again_but_not_twice_at_a_time() -> None:
    report = shoal.report()
    for _ in range(2):
        with report:
            Parallel(n_jobs=1)([delayed(square)(2)])
            with pytest.raises(RuntimeError, match="entered already"):
                report.__enter__()
    assert len(report.to_dict()["runs"]) == 2


@pytest.mark.parametrize("end", [".html", ".json", ".trace.json"])
def test_a_path_as_an_argument(tmp_path: Path, end: str) -> None:
    path = tmp_path / f"run{end}"
    parallel = Parallel(n_jobs=2, report=path)
    parallel([delayed(square)(2)])
    first = path.read_text(encoding="utf-8")
    parallel([delayed(square)(3)])
    both = path.read_text(encoding="utf-8")
    assert first != both
    if end == ".html":
        assert "<html" in both
    elif end == ".trace.json":
        assert json.loads(both)["traceEvents"]
    else:
        assert len(json.loads(first)["runs"]) == 1
        assert len(json.loads(both)["runs"]) == 2


def test_a_context_collects_all_runs_in_one_file(tmp_path: Path) -> None:
    path = str(tmp_path / "runs.json")
    with parallel_config(n_jobs=2, backend="threading", report=path):
        Parallel()([delayed(square)(2)])
        Parallel()([delayed(square)(3)])
    Parallel(n_jobs=2, backend="threading")([delayed(square)(4)])
    found = json.loads(Path(path).read_text(encoding="utf-8"))
    assert len(found["runs"]) == 2
    assert_follows_the_schema(found)


def test_a_report_as_an_argument() -> None:
    report = shoal.report()
    Parallel(n_jobs=2, backend="threading", report=report)([delayed(square)(2)])
    with parallel_config(report=report):
        Parallel(n_jobs=1)([delayed(square)(3)])
    assert [run["backend"] for run in report.to_dict()["runs"]] == ["threading", "sequential"]


@pytest.mark.parametrize("make", [Parallel, parallel_config, executor])
def test_a_place_that_is_no_report_is_refused(make: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=r"\.html"):
        make(report="run.txt")
    with pytest.raises(TypeError, match="report must be"):
        make(report=3)


def test_an_executor_and_asyncio_report_too() -> None:
    report = shoal.report()
    with executor(2, backend="threading", report=report) as workers:
        assert workers.submit(square, 3).result() == 9

    async def main() -> Any:
        return await Parallel(n_jobs=2, report=report).acall(delayed(square)(number) for number in range(4))

    assert asyncio.run(main()) == [0, 1, 4, 9]
    found = report.to_dict()
    assert [run["calls"]["done"] for run in found["runs"]] == [1, 4]
    assert_follows_the_schema(found)


def test_a_run_that_goes_on_is_in_the_report(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with shoal.report() as report:
        calls = [delayed(square)(2), delayed(wait_for)(str(gate))]
        results = Parallel(n_jobs=2, return_as="generator", batch_size=1)(calls)
        assert next(results) == 4
        (run,) = report.to_dict()["runs"]
        assert (run["outcome"], run["calls"]["done"]) == ("running", 1)
        gate.touch()
        assert list(results) == [True]
    assert report.to_dict()["runs"][0]["outcome"] == "done"


def test_a_report_shows_itself() -> None:
    with shoal.report() as report:
        Parallel(n_jobs=2, backend="threading")(delayed(square)(number) for number in range(4))
    assert "square" in str(report)
    assert "&lt;html" in report._repr_html_()
    assert repr(report) == "<shoal.Report of 1 run>"


def test_an_unknown_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="ends with none"):
        shoal.report().save(tmp_path / "run.txt")
    assert list(tmp_path.iterdir()) == []


# ---- What is in it.


def test_settings_and_their_origins() -> None:
    with shoal.report() as report, parallel_config(backend="threading", retries=2):
        Parallel(n_jobs=2, batch_size=3, on_error="raise")([delayed(square)(2)])
    (run,) = report.to_dict()["runs"]
    settings = {row["name"]: (row["value"], row["origin"]) for row in run["settings"]}
    assert settings["n_jobs"] == ("2", "argument")
    assert settings["batch_size"] == ("3", "argument")
    assert settings["on_error"] == ("'raise'", "argument")
    assert settings["backend"] == ("'threading'", "context")
    assert settings["retries"] == ("2", "context")
    assert settings["max_nbytes"] == ("'1M'", "default")
    assert settings["return_as"] == ("'list'", "default")


def test_calls_that_fail_are_retried_or_returned(tmp_path: Path) -> None:
    for backend in ("loky", "threading", "sequential"):
        with shoal.report() as report:
            marker = str(tmp_path / backend)
            Parallel(n_jobs=2, backend=backend, retries=1)([delayed(fail_once)(marker), delayed(square)(2)])
            Parallel(n_jobs=2, backend=backend, on_error="return")([delayed(fail)(7), delayed(square)(2)])
        first, second = report.to_dict()["runs"]
        assert (first["counts"]["failures"], first["counts"]["retries"]) == (1, 1)
        assert [event["kind"] for event in first["events"]] == ["failure", "retry"]
        assert first["events"][0]["text"] == "OSError: not yet"
        assert (second["outcome"], second["counts"]["failures"], second["events"][0]["call"]) == ("done", 1, 0)


def test_a_failed_run_and_a_dropped_generator() -> None:
    with shoal.report() as report:
        with pytest.raises(ValueError, match="number 7"):
            Parallel(n_jobs=2)([delayed(fail)(7)])
        with pytest.warns(shoal.UnusedResultsWarning):
            Parallel(n_jobs=2, return_as="generator")(delayed(time.sleep)(0.01) for _ in range(50)).close()
    failed, stopped = report.to_dict()["runs"]
    assert (failed["outcome"], failed["error"]) == ("failed", "ValueError: number 7")
    assert (stopped["outcome"], stopped["error"]) == ("stopped", None)


def test_a_worker_that_dies_has_a_successor(tmp_path: Path) -> None:
    with shoal.report() as report:
        calls = [delayed(die_once)(str(tmp_path / "died")), *(delayed(time.sleep)(0.02) for _ in range(10))]
        Parallel(n_jobs=2, retries=1, batch_size=1)(calls)
    found = report.to_dict()
    assert_follows_the_schema(found)
    (run,) = found["runs"]
    assert run["counts"]["deaths"] == 1
    (death,) = [event for event in run["events"] if event["kind"] == "death"]
    assert "exit code 3" in death["text"]
    assert run["counts"]["retries"] == 1


def test_task_timeouts_are_counted() -> None:
    with shoal.report() as report:
        calls = [delayed(time.sleep)(30), *(delayed(time.sleep)(0.01) for _ in range(4))]
        Parallel(n_jobs=2, task_timeout=0.5, on_error="return", batch_size=1)(calls)
    (run,) = report.to_dict()["runs"]
    assert run["counts"]["timeouts"] == run["counts"]["failures"] == 1
    assert run["counts"]["deaths"] == 0
    assert [(event["kind"], event["call"]) for event in run["events"]] == [("failure", 0), ("timeout", 0)]


def test_workers_that_are_replaced() -> None:
    shutdown_workers()  # warm workers have run calls before
    with shoal.report() as report:
        Parallel(n_jobs=2, max_tasks_per_worker=1)(delayed(square)(number) for number in range(6))
    found = report.to_dict()
    assert_follows_the_schema(found)
    (run,) = found["runs"]
    assert run["counts"]["replaced"] == 6
    assert run["memory"]["replaced"] == 0
    assert len({worker["pid"] for worker in run["workers"]}) == 6
    assert {worker["worker"] for worker in run["workers"]} <= {0, 1}


def hold(nbytes: int) -> None:
    held.append(b"x" * nbytes)


held: list[bytes] = []


@pytest.mark.parametrize(
    ("limits", "nbytes", "limit"),
    [
        ({"max_worker_memory": "300M", "max_tasks_per_worker": 50}, 150_000_000, "max_worker_memory"),
        ({"max_worker_memory": "300M"}, 150_000_000, "max_worker_memory"),
        ({"max_worker_memory": "4G", "max_tasks_per_worker": 2}, 1, "max_tasks_per_worker"),
    ],
)
def test_the_limit_that_was_reached_is_named(limits: dict[str, Any], nbytes: int, limit: str) -> None:
    shutdown_workers()
    with shoal.report() as report:
        Parallel(n_jobs=2, batch_size=1, **limits)(delayed(hold)(nbytes) for _ in range(8))
    shutdown_workers()  # those that hold memory
    (run,) = report.to_dict()["runs"]
    texts = [event["text"] for event in run["events"] if event["kind"] == "replaced"]
    assert run["counts"]["replaced"] == len(texts) == len(set(texts)) > 0  # once for each process
    assert all(limit in text for text in texts)
    assert run["memory"]["replaced"] == (len(texts) if limit == "max_worker_memory" else 0)


def test_a_pool_that_breaks_has_one_death() -> None:
    with ProcessPoolExecutor(2) as pool, shoal.report() as report:
        parallel = Parallel(n_jobs=2, backend=pool, batch_size=1, on_error="return")
        results = parallel(delayed(os._exit)(3) for _ in range(6))
    assert all(isinstance(result, Exception) for result in results)
    (run,) = report.to_dict()["runs"]
    deaths = [event for event in run["events"] if event["kind"] == "death"]
    assert run["counts"]["deaths"] == len(deaths) == 1
    assert deaths[0]["worker"] is None


def test_deaths_belong_to_processes_that_have_run_calls() -> None:
    with shoal.report() as report:
        calls = [delayed(os._exit)(3) if number == 3 else delayed(square)(number) for number in range(6)]
        Parallel(n_jobs=2, retries=3, on_error="return", batch_size=1)(calls)
    (run,) = report.to_dict()["runs"]
    rows = [event["worker"] for event in run["events"] if event["kind"] == "death"]
    assert len(rows) == 4
    known = [row for row in rows if row is not None]
    assert len(known) == len(set(known))  # each process dies once
    assert_follows_the_schema(report.to_dict())


def test_the_time_of_listeners_is_measured() -> None:
    for backend in ("loky", "threading", "sequential"):
        with shoal.report() as report:
            parallel = Parallel(n_jobs=2, backend=backend, batch_size=1, progress=lambda *_: time.sleep(0.02))
            parallel(delayed(square)(number) for number in range(4))
        (run,) = report.to_dict()["runs"]
        assert 0.08 <= run["listeners"]["seconds"] <= run["speedup"]["elapsed"]
    for backend in ("loky", "threading"):
        with shoal.report() as report:
            parallel = Parallel(n_jobs=2, backend=backend, on_message=lambda *_: time.sleep(0.02))
            parallel(delayed(shoal.send)(number) for number in range(4))
        (run,) = report.to_dict()["runs"]
        assert 0.08 <= run["listeners"]["seconds"] <= run["speedup"]["elapsed"]


def test_a_failed_call_on_a_thread_ends_when_it_fails() -> None:
    """And not when the run learns of it, which a slow listener delays."""
    with shoal.report() as report:
        Parallel(n_jobs=2, backend="threading", on_error="return", progress=lambda done, total: time.sleep(0.1))(
            delayed(fail)(number) for number in range(4)
        )
    (run,) = report.to_dict()["runs"]
    assert run["counts"]["failures"] > 0
    assert run["calls"]["longest"] < 0.09


def test_a_progress_of_a_measured_run_sees_the_same_calls() -> None:
    for backend in ("loky", "threading", "sequential"):
        seen: list[list[tuple[int, int | None]]] = []
        for report in (None, shoal.report()):
            told: list[tuple[int, int | None]] = []
            parallel = Parallel(
                n_jobs=2,
                backend=backend,
                batch_size=1,
                report=report,
                progress=lambda *now, told=told: told.append(now),
            )
            parallel(delayed(square)(number) for number in range(5))
            seen.append(told)
        assert seen[0] == seen[1]


def test_the_function_is_that_of_the_user_although_memory_has_the_first_results(tmp_path: Path) -> None:
    for backend in ("loky", "threading", "sequential"):
        memory = Memory(tmp_path / backend, verbose=0)
        Parallel(n_jobs=2, backend=backend, memory=memory)(delayed(square)(number) for number in range(2))
        with shoal.report() as report:
            Parallel(n_jobs=2, backend=backend, memory=memory)(delayed(square)(number) for number in range(6))
        (run,) = report.to_dict()["runs"]
        assert run["function"].endswith("square")
        assert {call["function"] for call in run["slowest"]} <= {run["function"]}
        assert run["counts"]["cache_hits"] == 2


@needs_proc
def test_threads_are_counted_in_a_run_that_follows_another() -> None:
    for _ in range(3):
        with shoal.report() as report:
            Parallel(n_jobs=2)(delayed(compute)(0.1) for _ in range(2))
        (run,) = report.to_dict()["runs"]
        assert all(worker["threads"] for worker in run["workers"])


def compute(seconds: float) -> int:
    end, number = time.perf_counter() + seconds, 0
    while time.perf_counter() < end:
        number += 1
    return number


def test_results_that_memory_has(tmp_path: Path) -> None:
    for backend in ("loky", "threading", "sequential"):
        memory = Memory(tmp_path / backend, verbose=0)
        with shoal.report() as report:
            for count in (3, 5):
                Parallel(n_jobs=2, backend=backend, memory=memory)(delayed(square)(number) for number in range(count))
        assert [run["counts"]["cache_hits"] for run in report.to_dict()["runs"]] == [0, 3]


def test_arguments_and_how_they_travel() -> None:
    small, large = np.ones(1_000), np.ones(500_000)
    once = shoal.shared(list(range(100_000)))

    with shoal.report() as report:
        Parallel(n_jobs=2)(delayed(pick)(small, large, once, number, key="value") for number in range(6))
    (run,) = report.to_dict()["runs"]
    arguments = {argument["name"]: argument for argument in run["arguments"]}
    ways = {name: argument["way"] for name, argument in arguments.items()}
    assert ways == {
        "args[0]": "batch",
        "args[1]": "mapped",
        "args[2]": "once",
        "args[3]": "batch",
        "kwargs['key']": "batch",
    }
    assert arguments["args[0]"]["bytes"] >= 8_000
    assert arguments["args[1]"]["bytes"] >= 4_000_000
    assert arguments["args[1]"]["repeated"]
    assert arguments["args[2]"]["bytes"] > 100_000
    assert arguments["args[1]"]["type"] == "numpy.ndarray"


def pick(small: Any, large: Any, once: Any, number: int, key: str) -> int:
    return number


def test_runs_in_calls_are_bounded() -> None:
    with shoal.report() as report:
        Parallel(n_jobs=2, batch_size=1)(delayed(many_inner_runs)(number) for number in range(2))
    found = report.to_dict()
    assert len(found["runs"]) == 1 + 2 * MOST_NESTED
    assert found["omitted"] == 2 * 3
    assert_follows_the_schema(found)


def test_runs_of_a_report_are_bounded() -> None:
    with shoal.report() as report:
        for number in range(MOST_RUNS + 5):
            Parallel(n_jobs=1)([delayed(abs)(number)])
    found = report.to_dict()
    assert (len(found["runs"]), found["omitted"]) == (MOST_RUNS, 5)


def test_the_time_of_the_input_is_measured() -> None:
    def calls() -> Iterator[Call]:
        for number in range(4):
            time.sleep(0.02)
            yield delayed(square)(number)

    for backend in ("loky", "threading", "sequential"):
        with shoal.report() as report:
            Parallel(n_jobs=2, backend=backend)(calls())
        (run,) = report.to_dict()["runs"]
        assert run["input"]["seconds"] >= 0.08
        assert run["speedup"]["ceilings"]["input"] is not None


def test_without_a_report_nothing_is_measured() -> None:
    report = shoal.report()
    with report:
        pass
    parallel = Parallel(n_jobs=2)
    parallel([delayed(square)(2)])
    assert parallel._plan.meter(2, None) is None
    assert report.to_dict()["runs"] == []
    assert_follows_the_schema(report.to_dict())


def test_a_run_without_a_report_loads_nothing_of_reports(fresh_python: FreshPython) -> None:
    loaded = fresh_python(
        """
        import sys
        from shoal import Parallel, delayed

        for backend in ("loky", "threading", "sequential"):
            Parallel(n_jobs=2, backend=backend)(delayed(abs)(number) for number in range(10))
        print(sorted(name for name in sys.modules if name.startswith("shoal.reports")))
        loaded = "'shoal.reports._batch_meter' in __import__('sys').modules"  # in the worker
        print(Parallel(n_jobs=2)(delayed(eval)(loaded) for _ in range(2)))
        """
    )
    assert loaded.splitlines() == ["['shoal.reports', 'shoal.reports._active']", "[False, False]"]


@needs_fork
def test_runs_of_a_forked_child_are_not_in_the_report(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    with shoal.report() as report, parallel_config(report=path), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork in a process with threads
        Parallel(n_jobs=1)([delayed(abs)(1)])
        child = os.fork()
        if not child:
            try:
                Parallel(n_jobs=1)([delayed(abs)(number) for number in range(5)])
            finally:
                os._exit(0)
        os.waitpid(child, 0)
    assert [run["calls"]["done"] for run in json.loads(path.read_text(encoding="utf-8"))["runs"]] == [1]
    assert len(report.to_dict()["runs"]) == 1


def test_a_file_that_cannot_be_written_is_a_warning(tmp_path: Path) -> None:
    with pytest.warns(shoal.FallbackWarning, match="could not be written"):
        assert Parallel(n_jobs=1, report=tmp_path / "none" / "run.html")([delayed(abs)(-1)]) == [1]


@pytest.mark.parametrize("backend", ["loky", "threading", "sequential"])
def test_a_run_that_is_stopped(backend: str) -> None:
    with shoal.report() as report:
        parallel = Parallel(n_jobs=2, backend=backend, batch_size=1, progress=lambda done, _: parallel.stop())
        parallel(delayed(time.sleep)(0.01) for _ in range(100))
    assert report.to_dict()["runs"][0]["outcome"] == "stopped"


def draw(rng: Any) -> float:
    return float(rng.random())


def test_a_report_changes_no_results() -> None:
    without = Parallel(n_jobs=2, seed=3)(delayed(draw)() for _ in range(20))
    with shoal.report():
        assert Parallel(n_jobs=2, seed=3)(delayed(draw)() for _ in range(20)) == without
        assert Parallel(n_jobs=2, seed=3, backend="threading")(delayed(draw)() for _ in range(20)) == without
        assert Parallel(n_jobs=1, seed=3)(delayed(draw)() for _ in range(20)) == without


def import_nothing() -> None:
    import json.no_such_module  # noqa: F401


def test_tracebacks_of_imports_have_no_frames_of_shoal() -> None:
    with shoal.report(), pytest.raises(ModuleNotFoundError) as caught:
        Parallel(n_jobs=2)([delayed(import_nothing)()])
    assert "import json.no_such_module" in str(caught.value.__cause__)
    assert "reports" not in str(caught.value.__cause__).replace(__file__, "")
