"""The tables of a report, as texts. The page, the page of text and rich show the same ones.

::

    the dict of a report ──> tables ──> Table: columns, rows of cells ──┬──> _page
                                                                        ├──> _text
                                                                        └──> _rich

docs/report-schema.md describes the dict.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from shoal.reports._figures import UNKNOWN, counted, factor, number, rounded, seconds, size

_WAYS = {"batch": "with each batch", "mapped": "once, in shared memory", "once": "once per worker"}
#: How often calls went wrong, and the names of these counts in a table.
_TROUBLES = {
    "failures": "failures",
    "retries": "retries",
    "deaths": "deaths",
    "timeouts": "timeouts",
    "replaced": "replaced",
    "cache_hits": "cache hits",
}
_MOST_SLOWEST, _MOST_BATCHES = 30, 10

Report = dict[str, Any]
Run = dict[str, Any]
Row = tuple[str, ...]


class Column(NamedTuple):
    """A column of a table."""

    name: str
    number: bool = True  # aligned to the right
    code: bool = False  # comes from the program; the longest one is cut where room is scarce
    page_only: bool = False  # left out where room is scarce


class Table(NamedTuple):
    """A table: its title, a sentence about it, columns, and rows with a cell for each column."""

    title: str
    note: str
    columns: list[Column]
    rows: Sequence[Row]

    def without(self, leave_out: Callable[[Column], bool]) -> Table:
        """Return the table without the columns for which `leave_out` is true."""
        kept = [index for index, column in enumerate(self.columns) if not leave_out(column)]
        return self._replace(
            columns=[self.columns[index] for index in kept],
            rows=[tuple(row[index] for index in kept) for row in self.rows],
        )


_RUN = Column("run", number=False)


def tables(report: Report) -> list[Table]:
    """Return the tables that have rows. A report of a single run has no column for the run."""
    made = [table(report["runs"]) for table in (*_SHORT_TABLES, *_LONG_TABLES, _settings)]
    return _fitting(report, made)


def short_tables(report: Report) -> list[Table]:
    """Return the tables for a page of text: fewer, with fewer columns, and without the settings that have defaults."""
    made = [table(report["runs"]) for table in _SHORT_TABLES]
    settings = _settings(report["runs"])
    made.append(settings._replace(rows=[row for row in settings.rows if row[-1] != "default"]))
    return _fitting(report, [table.without(lambda column: column.page_only) for table in made])


def _fitting(report: Report, made: list[Table]) -> list[Table]:
    if len(report["runs"]) == 1:
        made = [table.without(lambda column: column is _RUN) for table in made]
    return [table for table in made if table.rows]


def _runs(runs: list[Run]) -> Table:
    columns = [_RUN, Column("function", number=False, code=True), Column("backend", number=False), Column("workers")]
    columns += [Column("calls"), Column("start"), Column("elapsed"), Column("outcome", number=False, code=True)]
    columns += [Column("within", number=False, page_only=True), Column("process", page_only=True)]
    columns += [Column("host", number=False, page_only=True)]
    rows = [
        (
            *(run["id"], run["function"], run["backend"], number(run["n_workers"]), _calls(run["calls"])),
            *(seconds(run["start"]), seconds(run["end"] - run["start"]), _outcome(run)),
            *(run["parent"] or "", str(run["pid"]), run["host"]),
        )
        for run in runs
    ]
    return Table("Runs", "", columns, rows)


def _calls(calls: dict[str, Any]) -> str:
    done, total = calls["done"], calls["total"]
    return number(done) if total in (done, None) else f"{done:,} of {total:,}"


def _outcome(run: Run) -> str:
    outcome = "has not ended" if run["outcome"] == "running" else str(run["outcome"])
    return f"{outcome}: {run['error']}" if run["error"] else outcome


def _speedups(runs: list[Run]) -> Table:
    columns = [_RUN, *map(Column, ("elapsed", "serial", "speedup"))]
    limits = ("workers", "calls", "longest_call", "input", "sending")
    columns += [Column(limit.replace("_", " ")) for limit in limits]
    rows = []
    for run in runs:
        speedup = run["speedup"]
        ceilings = [factor(speedup["ceilings"].get(limit)) for limit in limits]
        times = (seconds(speedup["elapsed"]), seconds(speedup["serial"]), factor(speedup["speedup"]))
        rows.append((run["id"], *times, *ceilings))
    note = (
        "The serial estimate is the time of all calls together. The last five columns are ceilings: the speedup cannot "
        "exceed the number of workers, nor what the number of calls, the longest call, the caller's iterator, and "
        "encoding and decoding in the caller allow."
    )
    return Table("Speedup and its ceilings", note, columns, rows)


def _durations(runs: list[Run]) -> Table:
    names = ("shortest", "median", "mean", "p90", "longest")
    columns = [_RUN, Column("calls"), *map(Column, names), Column("together"), Column("CPU")]
    rows = [
        (
            *(run["id"], number(run["calls"]["done"]), *(seconds(run["calls"][name]) for name in names)),
            *(seconds(run["calls"]["seconds"]), seconds(run["calls"]["cpu"])),
        )
        for run in runs
        if run["calls"]["done"]
    ]
    return Table("Durations of calls", "90 % of the calls took at most p90.", columns, rows)


def _slowest(runs: list[Run]) -> Table:
    columns = [_RUN, Column("call"), Column("took"), Column("CPU"), Column("start", page_only=True), Column("worker")]
    columns += [Column("function", number=False, code=True), Column("arguments", number=False, code=True)]
    found = [(call["seconds"], run, call) for run in runs for call in run["slowest"]]
    found.sort(key=lambda entry: -entry[0])
    rows = [
        (
            *(run["id"], str(call["call"]), seconds(call["seconds"]), seconds(call["cpu"]), seconds(call["start"])),
            *(_worker(run, call["worker"]), call["function"], call["arguments"]),
        )
        for _, run, call in found[:_MOST_SLOWEST]
    ]
    return Table("Slowest calls", "", columns, rows)


def _worker(run: Run, row: int | None) -> str:
    return UNKNOWN if row is None or not 0 <= row < len(run["workers"]) else str(run["workers"][row]["worker"])


def _arguments(runs: list[Run]) -> Table:
    columns = [_RUN, Column("argument", number=False, code=True), Column("type", number=False, code=True)]
    columns += [
        Column("size"),
        Column("to pickle"),
        Column("travels", number=False),
        Column("same object", number=False),
    ]
    columns += [Column("samples", page_only=True)]
    rows = [
        (
            *(run["id"], argument["name"], argument["type"], size(argument["bytes"]), seconds(argument["seconds"])),
            *(_WAYS.get(argument["way"], argument["way"]), "yes" if argument["repeated"] else "no"),
            number(argument["samples"]),
        )
        for run in runs
        for argument in sorted(run["arguments"], key=lambda argument: -float(argument["bytes"]))
    ]
    note = "Means of samples. The column 'same object' says whether calls of a batch got the same object."
    return Table("Arguments", note, columns, rows)


def _workers(runs: list[Run]) -> Table:
    columns = [_RUN, Column("worker"), Column("process", page_only=True), Column("calls")]
    columns += [Column("batches", page_only=True)]
    columns += map(Column, ("start", "decode", "running", "encode", "wait", "CPU"))
    columns += [Column("peak memory"), Column("switches", page_only=True), Column("threads", page_only=True)]
    columns += [Column("imports", page_only=True), Column("importing", page_only=True)]
    columns += [Column("host", number=False, page_only=True)]
    rows = [
        (
            *(run["id"], str(worker["worker"]), str(worker["pid"]), number(worker["calls"]), number(worker["batches"])),
            *(seconds(worker[part]) for part in ("starting", "decoding", "running", "encoding", "waiting", "cpu")),
            *(size(worker["peak_memory"]), number(worker["switches"]), number(worker["threads"])),
            *(number(worker["imports"]["modules"]), seconds(worker["imports"]["seconds"]), worker["host"]),
        )
        for run in runs
        for worker in run["workers"]
    ]
    note = (
        "'switches' counts how often the system gave a worker's CPU to another thread; 'threads', how many threads of "
        "the process used a CPU at the same time."
    )
    return Table("Workers", note, columns, rows)


def _sending(runs: list[Run]) -> Table:
    columns = [_RUN, Column("batches"), Column("calls each"), Column("sent"), Column("to pickle"), Column("returned")]
    columns += [Column("to rebuild"), Column("wait: input"), Column("wait: consumer")]
    columns += [Column("wait: listeners", page_only=True)]
    rows = []
    for run in runs:
        batches = run["counts"]["batches"]
        each = rounded(run["calls"]["done"] / batches) if batches else UNKNOWN
        sending, results = run["sending"], run["results"]
        rows.append(
            (
                *(run["id"], number(batches), each, size(sending["bytes"]), seconds(sending["seconds"])),
                *(size(results["bytes"]), seconds(results["seconds"])),
                *(seconds(run["input"]["seconds"]), seconds(run["consumer"]["seconds"])),
                seconds(run.get("listeners", {}).get("seconds")),  # earlier versions did not measure it
            )
        )
    note = (
        "What the caller sent and got back, and how long the run waited for the caller's iterator, for the consumer "
        "of its results, and for progress, verbose and on_message."
    )
    return Table("Sending and waiting", note, columns, rows)


def _batches(runs: list[Run]) -> Table:
    columns = [_RUN, Column("first call"), Column("calls"), Column("worker"), Column("start", page_only=True)]
    columns += [Column("batches", page_only=True), Column("sent"), Column("returned")]
    columns += map(Column, ("pickle", "decode", "run", "encode", "unpickle"))
    found = []
    for run in runs:
        columns_of = run["batches"]
        for index in range(len(columns_of["start"])):
            batch = {name: values[index] for name, values in columns_of.items()}
            found.append((sum(batch[part] for part in ("pickle", "decode", "encode", "unpickle")), run, batch))
    found.sort(key=lambda entry: -entry[0])
    rows = [
        (
            *(run["id"], str(batch["first"]), number(batch["calls"]), _worker(run, batch["worker"])),
            *(seconds(batch["start"]), number(batch["batches"]), size(batch["sent"]), size(batch["returned"])),
            *(seconds(batch[part]) for part in ("pickle", "decode", "run", "encode", "unpickle")),
        )
        for _, run, batch in found[:_MOST_BATCHES]
    ]
    return Table("Batches whose way took longest", "", columns, rows)


def _troubles(runs: list[Run]) -> Table:
    columns = [_RUN, *map(Column, _TROUBLES.values())]
    rows = [
        (run["id"], *(number(run["counts"][count]) for count in _TROUBLES))
        for run in runs
        if any(run["counts"][count] for count in _TROUBLES)
    ]
    return Table("Failures, retries, deaths, timeouts", "", columns, rows)


def _events(runs: list[Run]) -> Table:
    columns = [_RUN, Column("time"), Column("event", number=False), Column("call"), Column("worker")]
    columns += [Column("text", number=False, code=True)]
    found = [(event["time"], run, event) for run in runs for event in run["events"]]
    found.sort(key=lambda entry: entry[0])
    rows = [
        (
            *(run["id"], seconds(time), event["kind"], UNKNOWN if event["call"] is None else str(event["call"])),
            *(_worker(run, event["worker"]), event["text"]),
        )
        for time, run, event in found
    ]
    return Table("Events", "", columns, rows)


def _histogram(runs: list[Run]) -> Table:
    rows = [(seconds(low), seconds(high), number(calls)) for low, high, calls in histogram(runs)]
    return Table("Histogram of durations", "", [Column("from"), Column("to"), Column("calls")], rows)


def histogram(runs: list[Run]) -> list[tuple[float, float, int]]:
    """Return the bins of the durations of the calls of all runs, without the empty ones at both ends.

    Runs have the same edges, as far as they have bins; those that differ by rounding count as the same.
    """
    bins: dict[str, tuple[float, float, int]] = {}
    for run in runs:
        edges, counts = run["histogram"]["edges"], run["histogram"]["counts"]
        for low, high, calls in zip(edges, edges[1:], counts, strict=False):
            name = f"{low:.3g} {high:.3g}"
            bins[name] = (low, high, calls + (bins[name][2] if name in bins else 0))
    ordered = sorted(bins.values())
    filled = [index for index, (_, _, calls) in enumerate(ordered) if calls]
    return ordered[filled[0] : filled[-1] + 1] if filled else []


def _settings(runs: list[Run]) -> Table:
    """Return the settings; runs that have the same ones share their rows."""
    columns = [_RUN, Column("setting", number=False), Column("value", number=False, code=True)]
    columns += [Column("from", number=False)]
    shared: dict[tuple[tuple[str, str, str], ...], list[str]] = {}
    for run in runs:
        given = tuple((setting["name"], setting["value"], setting["origin"]) for setting in run["settings"])
        shared.setdefault(given, []).append(run["id"])
    rows = [(_and_others(names), *setting) for given, names in shared.items() for setting in given]
    return Table("Settings", "", columns, rows)


def _and_others(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {counted(len(names) - 1, 'other')}"


def _memory(runs: list[Run]) -> Table:
    columns = [_RUN, Column("swapped in"), Column("limit reached")]
    rows = [
        (run["id"], size(run["memory"]["swapped_in"]), number(run["memory"]["limit_events"]))
        for run in runs
        if run["memory"]["swapped_in"] or run["memory"]["limit_events"]
    ]
    return Table("Memory", "", columns, rows)


#: In the order in which they are shown.
_SHORT_TABLES: list[Callable[[list[Run]], Table]] = [
    *(_runs, _speedups, _durations, _slowest, _workers, _arguments, _sending, _troubles, _events, _memory),
]
_LONG_TABLES: list[Callable[[list[Run]], Table]] = [_batches, _histogram]
