"""Reports that look like real ones, of any size. docs/report-schema.md describes what they consist of."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

SAMPLE = Path(__file__).parent.parent / "fixtures" / "report" / "sample.json"
#: Names and values that would do harm if a page, a terminal or a trace took them as they are.
HOSTILE = "</script><script>alert(1)</script><img src=http://example.org onerror=x>"
HOSTILE += "\x1b[31m\x00\n\"'&\u2028\u202e\U0001f41f\ud800"
#: Texts that take more columns than they have characters.
WIDE = "魚の群れ" * 30
_BATCH = [
    "worker",
    "start",
    "end",
    "batches",
    "first",
    "calls",
    "decode",
    "run",
    "encode",
    "sent",
    "returned",
    "pickle",
    "unpickle",
]
_SLICE = ["worker", "batch", "start", "end", "first", "calls", "busy"]
_MOST_ROWS = 2_000


def sample() -> dict[str, Any]:
    """Return the sample of a report: two runs, one within the other, with each fault that shoal knows."""
    found: dict[str, Any] = json.loads(SAMPLE.read_text(encoding="utf-8"))
    return found


def report_of(*runs: dict[str, Any], name: str = "train.py", **fields: Any) -> dict[str, Any]:
    """Return a report of some runs, without findings."""
    return {
        "schema": 1,
        "shoal": "0.1.0",
        "python": "3.11.7",
        "platform": "linux",
        "started": 1_764_395_000.25,
        "elapsed": max((run["end"] for run in runs), default=0.0),
        "program": {"argv": [name], "pid": 4321, "host": "box", "cpus": 2},
        "omitted": 0,
        "findings": [],
        "runs": [*runs],
        **fields,
    }


def run_of(
    calls: int,
    n_workers: int = 2,
    *,
    number: int = 1,
    parent: str | None = None,
    start: float = 0.01,
    mean: float = 0.01,
    text: str = "",
) -> dict[str, Any]:
    """Return a run.

    Parameters
    ----------
    calls
        The number of calls. They are dealt out to the workers in equal parts.
    n_workers
        The number of workers.
    number
        What is different in the ids of the runs of a report.
    parent
        The id of the run in which this one was made.
    start
        When it began, in seconds.
    mean
        The mean duration of a call, in seconds.
    text
        What its names, its errors and the arguments of its calls end with.
    """
    random_of = random.Random(number)
    batches: dict[str, list[Any]] = {name: [] for name in _BATCH}
    slices: dict[str, list[Any]] = {name: [] for name in _SLICE}
    rows = [_add_worker(row, calls, n_workers, start, mean, random_of, batches, slices) for row in range(n_workers)]
    end = max([start, *batches["end"]]) + 0.001
    elapsed, serial = end - start, float(sum(slices["busy"]))
    edges = [10 ** (step / 4) for step in range(-28, 25)]
    counts = [0] * (len(edges) - 1)
    if calls:
        counts[20:24] = [calls // 4] * 3 + [calls - calls // 4 * 3]
    each = serial / calls if calls else None
    ceilings = {"workers": n_workers, "calls": None, "longest_call": None, "input": None, "sending": None}
    return {
        "id": f"4321-{number}",
        "parent": parent,
        "pid": 4321,
        "host": "box",
        "function": f"model.fit{text}",
        "backend": "loky",
        "in_process": False,
        "n_workers": n_workers,
        "start": start,
        "end": end,
        "outcome": "failed" if text else "done",
        "error": f"ValueError: {text}" if text else None,
        "settings": [
            {"name": "n_jobs", "value": str(n_workers), "origin": "argument"},
            {"name": "verbose", "value": f"0{text}", "origin": "default"},
        ],
        "calls": {"total": calls, "done": calls, "seconds": serial, "cpu": None}
        | dict.fromkeys(("shortest", "mean", "median", "p90", "longest"), each),
        "speedup": {"serial": serial, "elapsed": elapsed, "speedup": serial / elapsed, "ceilings": ceilings},
        "histogram": {"edges": edges if calls else [], "counts": counts if calls else []},
        "counts": dict.fromkeys(("retries", "failures", "deaths", "timeouts", "replaced", "cache_hits"), 0)
        | {"batches": sum(batches["batches"])},
        "workers": rows,
        "batches": batches,
        "slices": slices,
        "arguments": [_argument(text)] if calls else [],
        "sending": {"bytes": 100 * calls, "seconds": 1e-6 * calls},
        "results": {"bytes": 50 * calls, "seconds": 1e-6 * calls},
        "input": {"seconds": 0.0},
        "consumer": {"seconds": 0.0},
        "listeners": {"seconds": 0.0},
        "slowest": [_call(index, row, each or 0.0, text) for index in range(min(calls, 10)) for row in [0]],
        "events": [
            {"time": start, "kind": "failure", "call": 0, "worker": 0, "text": text},
            {"time": start, "kind": "death", "call": None, "worker": None, "text": text},
        ]
        if text
        else [],
        "memory": {"swapped_in": None, "limit_events": None},
    }


def _add_worker(
    row: int,
    calls: int,
    n_workers: int,
    start: float,
    mean: float,
    random_of: random.Random,
    batches: dict[str, list[Any]],
    slices: dict[str, list[Any]],
) -> dict[str, Any]:
    """Add what a worker did to the columns, and return its row."""
    own = calls // n_workers + (row < calls % n_workers)
    pieces = min(own, max(_MOST_ROWS // n_workers, 1))
    time, first = start + 0.002, row
    running = 0.0
    for piece in range(pieces):
        number = own // pieces + (piece < own % pieces)
        busy = number * mean * random_of.uniform(0.5, 1.5)
        decode, encode, gaps = 1e-4, 5e-5, 0.1 * busy if number > 1 else 0.0
        end = time + decode + busy + gaps + encode
        values = (row, time, end, 1, first, number, decode, busy, encode, 100 * number, 50 * number, 2e-5, 1e-5)
        for name, value in zip(_BATCH, values, strict=True):
            batches[name].append(value)
        values = (row, len(batches["start"]) - 1, time + decode, end - encode, first, number, busy)
        for name, value in zip(_SLICE, values, strict=True):
            slices[name].append(value)
        time, first, running = end + 2e-4, first + number * n_workers, running + busy
    return {
        "worker": row,
        "pid": 5000 + row,
        "host": "box",
        "calls": own,
        "batches": pieces,
        "starting": 0.001,
        "waiting": 0.0,
        "decoding": 1e-4 * pieces,
        "running": running,
        "encoding": 5e-5 * pieces,
        "cpu": None,
        "peak_memory": 200_000_000,
        "switches": 3,
        "threads": 1,
        "imports": {"modules": 0, "seconds": 0.0},
    }


def _argument(text: str) -> dict[str, Any]:
    name = {"name": f"kwargs['x{text}']", "type": f"numpy.ndarray{text}"}
    return {**name, "samples": 4, "bytes": 100.0, "seconds": 1e-6, "repeated": False, "way": "batch"}


def _call(index: int, worker: int, seconds: float, text: str) -> dict[str, Any]:
    names = {"function": f"model.fit{text}", "arguments": f"{index}, {text!s}"}
    return {"call": index, **names, "worker": worker, "start": 0.02, "seconds": seconds, "cpu": None}


def finding(fault: str, run: str, sentence: str) -> dict[str, Any]:
    """Return a finding."""
    return {"fault": fault, "run": run, "sentence": sentence, "cost": 1.0, "figures": {}}


def extremes() -> dict[str, dict[str, Any]]:
    """Return reports at the edges of what is possible, by name."""
    nested = [run_of(20, number=1)] + [run_of(8, number=number, parent="4321-1", start=0.05) for number in range(2, 40)]
    hostile = run_of(30, text=HOSTILE)
    return {
        "no runs": report_of(),
        "no calls": report_of(run_of(0)),
        "one call": report_of(run_of(1, 1)),
        "no workers": report_of(run_of(0, 0)),
        "no time": report_of(run_of(0, start=0.0) | {"end": 0.0}, elapsed=0.0),
        "before the report": report_of(run_of(20, start=-5.0)),
        "nested": report_of(*nested),
        "a parent that is missing": report_of(run_of(20, parent="1-1")),
        "hostile": report_of(
            hostile, name=HOSTILE, omitted=3, findings=[finding(HOSTILE, hostile["id"], HOSTILE * 20)]
        ),
        "wide": report_of(run_of(30, text=WIDE), name=WIDE, findings=[finding("straggler", "4321-1", WIDE)]),
        "a million calls": report_of(run_of(1_000_000, 8, mean=1e-4)),
        "512 workers": report_of(run_of(100_000, 512)),
        "300 runs": report_of(*(run_of(6, number=number, start=number / 20) for number in range(300))),
    }
