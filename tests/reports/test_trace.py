"""The trace of a report: events that Perfetto takes, and slices that lie within each other or apart."""

from __future__ import annotations

import json
from typing import Any

import pytest

from _synthetic import extremes, report_of, run_of, sample
from shoal.reports._trace import trace

REPORTS = {"the sample": sample(), **extremes()}
FIELDS = {
    "X": {"ph", "name", "ts", "dur", "pid", "tid", "args"},
    "i": {"ph", "name", "ts", "s", "pid", "tid", "args"},
    "M": {"ph", "name", "pid", "tid", "args"},
}


def nanoseconds(event: dict[str, Any]) -> tuple[int, int]:
    """Return the start and the end of a slice."""
    start = round(event["ts"] * 1000)
    return start, start + round(event["dur"] * 1000)


@pytest.fixture(params=[pytest.param(report, id=name) for name, report in REPORTS.items()])
def report(request: pytest.FixtureRequest) -> dict[str, Any]:
    found: dict[str, Any] = request.param
    return found


def test_events_have_the_fields_of_the_format(report: dict[str, Any]) -> None:
    events = trace(report)["traceEvents"]
    wrong = [
        event
        for event in events
        if event.keys() != FIELDS[event["ph"]]
        or not event["name"].isprintable()
        or {type(event["pid"]), type(event["tid"])} != {int}
        or event.get("ts", 0) < 0
        or event.get("dur", 0) < 0
    ]
    assert wrong == []
    assert json.loads(json.dumps(trace(report), allow_nan=False))["traceEvents"] == events


def test_slices_of_a_track_do_not_overlap(report: dict[str, Any]) -> None:
    tracks: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for event in trace(report)["traceEvents"]:
        if event["ph"] == "X":
            tracks.setdefault((event["pid"], event["tid"]), []).append(nanoseconds(event))
    for slices in tracks.values():
        within: list[int] = []  # the ends of the slices that contain the next one
        for start, end in sorted(slices, key=lambda times: (times[0], -times[1])):
            while within and within[-1] <= start:
                within.pop()
            assert not within or end <= within[-1]
            within.append(end)


def test_each_track_has_a_name_and_belongs_to_one_worker(report: dict[str, Any]) -> None:
    events = trace(report)["traceEvents"]
    named = [(event["pid"], event["tid"]) for event in events if event["name"] == "thread_name"]
    assert len(named) == len({*named}) == sum(1 + len(run["workers"]) for run in report["runs"])
    assert {(event["pid"], event["tid"]) for event in events if event["ph"] != "M"} <= {*named}
    processes = [event["pid"] for event in events if event["name"] == "process_name"]
    assert len(processes) == len({*processes})


def test_each_call_is_in_the_trace(report: dict[str, Any]) -> None:
    events = trace(report)["traceEvents"]
    parts = [event["args"]["calls"] for event in events if event["args"].keys() == {"first call", "calls"}]
    assert sum(parts) == sum(sum(run["slices"]["calls"]) for run in report["runs"])
    failures = [event for event in events if event["ph"] == "i"]
    assert len(failures) == sum(len(run["events"]) for run in report["runs"])


def test_a_batch_contains_decoding_calls_and_encoding() -> None:
    events = trace(sample())["traceEvents"]
    (track,) = [event["tid"] for event in events if event["args"].get("name") == "4321-1 worker 0"]
    slices = sorted(
        (*nanoseconds(event), event["name"]) for event in events if event["ph"] == "X" and event["tid"] == track
    )
    first = [name for start, end, name in slices if end <= 237_544_000]
    assert first == ["decode", "batch", "model.fit", "model.fit", "encode"]


def test_processes_of_two_machines_with_one_number_are_two() -> None:
    run = run_of(4)
    for worker in run["workers"]:
        worker["pid"] = 1
    run["workers"][1]["host"] = "other"
    names = {
        event["args"]["name"]: event["pid"]
        for event in trace(report_of(run))["traceEvents"]
        if event["name"] == "process_name"
    }
    assert names == {"process 4321 on box": 4321, "process 1 on box": 1, "process 1 on other": 2}
