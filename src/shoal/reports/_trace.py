"""A report as a trace for Perfetto (ui.perfetto.dev), in the Trace Event Format of Chrome.

::

    process of the caller    run 4321-1        ├──────────────── f ────────────────┤
    process of a worker      4321-1 worker 0     ├──── batch ────┤ ├──── batch ────┤
                                                  decode|f|f|encode  decode|f|f|encode

A track holds what one worker did in one run, or one run as a whole. So slices of a track never overlap: they follow
each other, or one lies within the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from shoal.errors import printable
from shoal.reports._figures import cut
from shoal.reports._tables import Report, Run

_LONGEST = 160

Event = dict[str, Any]


def trace(report: Report) -> dict[str, Any]:
    """Return a report in the Trace Event Format, for ``json.dump``.

    Parameters
    ----------
    report : dict
        What ``report.to_dict()`` returns. docs/report-schema.md describes it.

    Returns
    -------
    dict
        ``traceEvents``: complete events (``"X"``) for runs, batches, and the calls, the decoding and the encoding
        within them; instants (``"i"``) for failures, retries, deaths and timeouts; and the names of the tracks
        (``"M"``). Times are in microseconds since the earliest one.
    """
    earliest = min([0.0, *(run["start"] for run in report["runs"])])
    tracks = _Tracks(earliest)
    for run in report["runs"]:
        tracks.add_run(run)
    return {
        "traceEvents": tracks.events,
        "displayTimeUnit": "ms",
        "otherData": {"shoal": report["shoal"], "started": report["started"] + earliest},
    }


class _Tracks:
    """The events of the tracks.

    Processes of different machines may have the same number, so each gets a number of its own.
    """

    def __init__(self, earliest: float) -> None:
        self.events: list[Event] = []
        self._earliest = earliest
        self._processes: dict[tuple[str, int], int] = {}
        self._threads = 0

    def add_run(self, run: Run) -> None:
        """Add a track for the run, and one for each of its workers."""
        name = _text(run["function"])
        own = self._track(run["host"], run["pid"], f"run {run['id']}")
        details = {"backend": run["backend"], "workers": run["n_workers"], "outcome": run["outcome"]}
        self._slice(own, name, run["start"], run["end"], details)
        workers = [
            self._track(worker["host"], worker["pid"], f"{run['id']} worker {worker['worker']}")
            for worker in run["workers"]
        ]
        for start, end, worker, name, details in _slices(run):
            self._slice(workers[worker], name, start, end, details)
        for event in run["events"]:
            track = own if event["worker"] is None else workers[event["worker"]]
            details = {"call": event["call"], "text": _text(event["text"])}
            self.events.append(
                {"ph": "i", "s": "t", "name": event["kind"], "ts": self._time(event["time"]), **track, "args": details}
            )

    def _track(self, host: str, pid: int, name: str) -> dict[str, int]:
        """Return a new track of a process, and name it."""
        number = self._processes.get((host, pid))
        if number is None:
            number = pid
            while number in self._processes.values():
                number += 1
            self._processes[host, pid] = number
            self._name("process_name", {"pid": number, "tid": 0}, f"process {pid} on {_text(host)}")
        self._threads += 1
        track = {"pid": number, "tid": self._threads}
        self._name("thread_name", track, _text(name))
        return track

    def _name(self, what: str, track: dict[str, int], name: str) -> None:
        self.events.append({"ph": "M", "name": what, **track, "args": {"name": name}})

    def _slice(self, track: dict[str, int], name: str, start: float, end: float, details: Event) -> None:
        begin = self._time(start)
        duration = round(max(self._time(end) - begin, 0.0), 3)
        self.events.append({"ph": "X", "name": name, "ts": begin, "dur": duration, **track, "args": details})

    def _time(self, seconds: float) -> float:
        """Return a time in microseconds, to the nanosecond."""
        return round((seconds - self._earliest) * 1e6, 3)


def _slices(run: Run) -> Iterator[tuple[float, float, int, str, Event]]:
    """Yield start, end, worker, name and details of what the workers did; a batch comes before its parts."""
    within: dict[int, list[tuple[float, float, int, str, Event]]] = {}
    calls = run["slices"]
    parts_of = ("worker", "batch", "start", "end", "first", "calls")
    for worker, batch, start, end, first, number in zip(*(calls[key] for key in parts_of), strict=True):
        name = cut(run["function"], _LONGEST) if number == 1 else f"{number:,} × {run['function']}"
        details = {"first call": first, "calls": number}
        within.setdefault(batch, []).append((start, end, worker, _text(name), details))
    yield from within.pop(-1, [])
    batches = run["batches"]
    keys = ("worker", "start", "end", "batches", "first", "calls", "decode", "encode", "sent", "returned")
    for row, values in enumerate(zip(*(batches[key] for key in keys), strict=True)):
        worker, start, end, number, first, count, decode, encode, sent, returned = values
        parts = within.get(row, [])
        name = "batch" if number == 1 else f"{number:,} batches"
        sizes = {"bytes sent": sent, "bytes returned": returned}
        yield start, end, worker, name, {"first call": first, "calls": count, **sizes}
        if number == 1 and decode > 0:
            yield start, min([start + decode, end, *(part[0] for part in parts)]), worker, "decode", {}
        for part in parts:
            yield max(part[0], start), min(part[1], end), *part[2:]
        if number == 1 and encode > 0:
            yield max([end - encode, start, *(part[1] for part in parts)]), end, worker, "encode", {}


def _text(text: str) -> str:
    return printable(cut(text, _LONGEST))
