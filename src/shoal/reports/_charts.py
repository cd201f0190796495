"""The data of a page's charts, small enough for a page.

::

    chart_data ──> {"start", "span", "tick", "kinds", "names", "lanes", "utilisation", "histogram"} ──> assets/page.js

    lanes        rows of workers under a line of titles. Runs of one process that follow each other share a lane, so a
                 row shows one worker after the other. The runs that calls of a lane made are in the lanes below it.
    rows         what a worker did when, as columns. `gap` and `length` are whole ticks: from the end of the slice
                 before, and of the slice. `share` is the part of its time in which calls ran, in percent.
    utilisation  stretches of equal length: how many workers ran calls, and how many there were
    histogram    how many calls took from `low` to `high` seconds

Slices that are too many for the page are joined with their neighbours.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from shoal.errors import printable
from shoal.reports._figures import counted, cut
from shoal.reports._summary import outermost
from shoal.reports._tables import Report, Run, histogram

#: The kinds of slices, and what the page calls them.
KINDS = {"run": "runs", "decode": "decodes", "encode": "encodes", "start": "starts"}
_NUMBERS = {kind: index for index, kind in enumerate(KINDS)}
#: The most rows of a timeline, of which a line of titles takes several; events on a row; and stretches of time.
_MOST_ROWS, _ROWS_OF_TITLES, _MOST_EVENTS, _STRETCHES = 1_000, 5, 100, 240
_TICKS = 2**23  # in a report: fine enough to zoom in a thousand times


class Slice(NamedTuple):
    """What a worker did for some time."""

    start: float
    end: float
    kind: str
    first: int  # the index of the first call
    calls: int
    busy: float  # seconds in which calls ran


class Lane(NamedTuple):
    """Runs of one process that follow each other."""

    process: tuple[str, int]
    runs: list[Run]
    below: list[Lane]  # those of the runs that calls of this lane made


def chart_data(report: Report, most_slices: int) -> dict[str, Any]:
    """Return what the charts show.

    Parameters
    ----------
    report
        The dictionary of a report.
    most_slices
        About how many slices the timeline may have.
    """
    earliest = min([0.0, *(run["start"] for run in report["runs"])])
    span = max([report["elapsed"], *(run["end"] for run in report["runs"])]) - earliest or 1.0
    bins = histogram(report["runs"])
    return {
        "start": earliest,
        "span": span,
        "tick": span / _TICKS,
        "kinds": list(KINDS),
        "names": KINDS,
        "lanes": _drawn(report, earliest, span / _TICKS, most_slices),
        "utilisation": _utilisation(report, earliest, span),
        "histogram": {
            "low": [_short(low) for low, _, _ in bins],
            "high": [_short(high) for _, high, _ in bins],
            "calls": [calls for _, _, calls in bins],
        },
    }


def lanes_of(report: Report) -> list[Lane]:
    """Return the lanes of the outermost runs; those of nested runs are below them."""
    made: dict[str, list[Run]] = {}
    for run in report["runs"]:
        made.setdefault(run["parent"] or "", []).append(run)

    def arranged(runs: list[Run]) -> list[Lane]:
        lanes: list[Lane] = []
        for run in sorted(runs, key=lambda run: float(run["start"])):
            process = (run["host"], run["pid"])
            for lane in lanes:
                if lane.process == process and lane.runs[-1]["end"] <= run["start"]:
                    lane.runs.append(run)
                    break
            else:
                lanes.append(Lane(process, [run], []))
        for lane in lanes:
            lane.below.extend(arranged([child for run in lane.runs for child in made.pop(run["id"], [])]))
        return lanes

    return arranged(outermost(report))


def _drawn(report: Report, earliest: float, tick: float, most_slices: int) -> list[dict[str, Any]]:
    """Return the lanes as the script draws them, as many as there is room for."""
    waiting = lanes_of(report)[::-1]
    room = _MOST_ROWS
    tracks = {run["id"]: tracks_of(run) for run in report["runs"]}
    whole = sum(len(track) for of_run in tracks.values() for track in of_run.values())
    most_joined = max(1, -(-whole // most_slices))
    drawn = []
    while waiting:
        lane = waiting.pop()
        workers = sorted({worker for run in lane.runs for worker in tracks[run["id"]]})
        room -= _ROWS_OF_TITLES + len(workers)
        if room < 0:
            break
        titles = [[_short(run["start"], 7), _short(run["end"], 7), _title(run, report)] for run in lane.runs]
        rows = []
        for worker in workers:
            parts = [(run, tracks[run["id"]][worker]) for run in lane.runs if worker in tracks[run["id"]]]
            rows.append(_row(worker, [(run, _joined(track, most_joined)) for run, track in parts], earliest, tick))
        drawn.append({"titles": titles, "rows": rows})
        waiting += lane.below[::-1]
    return drawn


def _title(run: Run, report: Report) -> str:
    within = f", within {run['parent']}" if run["parent"] else ""
    place = f"process {run['pid']}"
    if run["host"] != report["program"]["host"]:
        place += f" on {run['host']}"
    how = f"{run['backend']}, {counted(run['n_workers'], 'worker')}, {place}{within}"
    return printable(f"{cut(run['id'] + '  ' + run['function'], 80)}  ({how})")


def tracks_of(run: Run) -> dict[int, list[Slice]]:
    """Return what each worker of a run did, by its index and in the order of time.

    A worker process that takes the place of another one has the same index, and so the same track.
    """
    indices = [worker["worker"] for worker in run["workers"]]
    tracks: dict[int, list[Slice]] = {index: [] for index in indices}
    columns = run["slices"]
    keys = ("worker", "start", "end", "first", "calls", "busy")
    for row, start, end, first, calls, busy in zip(*(columns[key] for key in keys), strict=True):
        tracks[indices[row]].append(Slice(start, end, "run", first, calls, busy))
    _add_ways(run, indices, tracks)
    for track in tracks.values():
        track.sort()
    for worker in run["workers"]:
        track, starting = tracks[worker["worker"]], worker["starting"]
        if starting and (not track or track[0].kind != "start"):
            end = min([run["start"] + starting, *(piece.start for piece in track[:1])])
            if end > run["start"]:
                track.insert(0, Slice(run["start"], end, "start", -1, 0, 0.0))
    return tracks


def _add_ways(run: Run, indices: list[int], tracks: dict[int, list[Slice]]) -> None:
    """Add when the batches were decoded and encoded, where a row is of a single batch."""
    columns = run["batches"]
    keys = ("worker", "start", "end", "batches", "first", "calls", "decode", "encode")
    for row, start, end, batches, first, calls, decode, encode in zip(*(columns[key] for key in keys), strict=True):
        if batches != 1:
            continue
        track = tracks[indices[row]]
        if decode > 0:
            track.append(Slice(start, start + decode, "decode", first, calls, 0.0))
        if encode > 0:
            track.append(Slice(end - encode, end, "encode", first, calls, 0.0))


def _joined(track: list[Slice], most: int) -> list[Slice]:
    """Return a track in which up to `most` neighbouring slices are one."""
    if most == 1:
        return track
    calls = [piece for piece in track if piece.kind in ("run", "start")]
    joined = []
    for index in range(0, len(calls), most):
        group = calls[index : index + most]
        first = next((piece.first for piece in group if piece.kind == "run"), -1)
        counts, busy = sum(piece.calls for piece in group), sum(piece.busy for piece in group)
        joined.append(Slice(group[0].start, group[-1].end, "run" if counts else "start", first, counts, busy))
    return joined


def _row(worker: int, parts: list[tuple[Run, list[Slice]]], earliest: float, tick: float) -> dict[str, Any]:
    """Return a row of the timeline, as columns."""
    gaps, lengths, shares = [], [], []
    before = 0
    track = [piece for _, of_run in parts for piece in of_run]
    for piece in track:
        start = max(before, round((piece.start - earliest) / tick))
        end = max(start, round((piece.end - earliest) / tick))
        gaps.append(start - before)
        lengths.append(end - start)
        whole = piece.end - piece.start
        shares.append(round(100 * min(piece.busy / whole, 1)) if piece.kind == "run" and whole > 0 else 100)
        before = end
    row = {
        "worker": worker,
        "there": [[_short(run["start"], 7), _short(run["end"], 7)] for run, _ in parts],
        "gap": gaps,
        "length": lengths,
        "kind": [_NUMBERS[piece.kind] for piece in track],
        "first": [piece.first for piece in track],
        "calls": [piece.calls for piece in track],
        "events": [event for run, _ in parts for event in _events(run, worker)][:_MOST_EVENTS],
    }
    if any(share < 99 for share in shares):
        row["share"] = shares
    return row


def _events(run: Run, worker: int) -> list[list[Any]]:
    """Return what went wrong on a worker: time, kind, call."""
    rows = {row for row, entry in enumerate(run["workers"]) if entry["worker"] == worker}
    return [[event["time"], event["kind"], event["call"]] for event in run["events"] if event["worker"] in rows]


def _utilisation(report: Report, earliest: float, span: float) -> dict[str, list[float]]:
    """Return, for stretches of time, how many workers of outermost runs ran calls, and how many there were."""
    stretch = span / _STRETCHES
    busy, there = [0.0] * _STRETCHES, [0.0] * _STRETCHES

    def spread(into: list[float], start: float, end: float, weight: float) -> None:
        """Add a time to the stretches that it overlaps."""
        first = min(max(int((start - earliest) / stretch), 0), _STRETCHES - 1)
        last = min(max(int((end - earliest) / stretch), first), _STRETCHES - 1)
        for index in range(first, last + 1):
            left = earliest + index * stretch
            into[index] += max(0.0, min(end, left + stretch) - max(start, left)) * weight

    for run in outermost(report):
        spread(there, run["start"], run["end"], len({worker["worker"] for worker in run["workers"]}))
        columns = run["slices"]
        for start, end, seconds in zip(columns["start"], columns["end"], columns["busy"], strict=True):
            if end > start:
                spread(busy, start, end, min(seconds / (end - start), 1.0))
    times = [_short(earliest + index * stretch, 6) for index in range(_STRETCHES)]
    return {
        "times": [*times, earliest + span],
        "busy": [*(_short(value / stretch) for value in busy), 0],
        "workers": [*(_short(value / stretch) for value in there), 0],
    }


def _short(value: float, digits: int = 4) -> float:
    """Return a number that is as exact as a chart needs."""
    return float(f"{value:.{digits}g}")
