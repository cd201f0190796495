"""What a report says first: findings, and the figures of its outermost runs."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import PurePath
from typing import NamedTuple

from shoal.reports._figures import counted, factor, number, seconds
from shoal.reports._tables import Report, Run

#: What sets a ceiling of the speedup.
_CEILINGS = {
    "workers": "the number of workers",
    "calls": "the number of calls",
    "longest_call": "the longest call",
    "input": "the caller's iterator",
    "sending": "sending by the caller",
}


class Finding(NamedTuple):
    """A cause and its remedy."""

    title: str
    sentence: str
    run: str
    others: int  # further runs of which the same is true


def findings(report: Report) -> list[Finding]:
    """Return the findings in their order; those of the same fault are one."""
    found: dict[str, Finding] = {}
    for entry in report["findings"]:
        fault = entry["fault"]
        if fault in found:
            found[fault] = found[fault]._replace(others=found[fault].others + 1)
        else:
            title = "GIL" if fault == "gil" else fault.replace("_", " ").capitalize()
            found[fault] = Finding(title, entry["sentence"], entry["run"], 0)
    return list(found.values())


def about(finding: Finding, report: Report) -> str:
    """Return of which run a finding is, or nothing where there is only one run."""
    if len(report["runs"]) < 2:
        return ""
    also = f", and the same in {counted(finding.others, 'other run')}" if finding.others else ""
    return f"Run {finding.run}{also}."


class Headline(NamedTuple):
    """A figure at the top of a report."""

    name: str
    value: str
    note: str = ""


def headlines(report: Report) -> Iterator[Headline]:
    """Yield the figures of the outermost runs together. Their calls include the runs that they made."""
    outer = outermost(report)
    yield Headline("elapsed", seconds(report["elapsed"]))
    if not outer:
        return
    nested = len(report["runs"]) - len(outer)
    calls = sum(run["calls"]["done"] for run in outer)
    yield Headline("runs", number(len(outer)), counted(nested, "nested run") if nested else "")
    yield Headline("calls", number(calls), counted(sum(run["counts"]["batches"] for run in outer), "batch", "batches"))
    serial = sum(run["speedup"]["serial"] for run in outer)
    elapsed = sum(run["speedup"]["elapsed"] for run in outer)
    yield Headline("serial estimate", seconds(serial), "all calls, one after another")
    yield Headline("with workers", seconds(elapsed), "" if len(outer) == 1 else "all runs together")
    yield Headline("speedup", factor(serial / elapsed if elapsed else None))
    longest = max(outer, key=lambda run: float(run["speedup"]["elapsed"]))
    ceilings = [(value, name) for name, value in longest["speedup"]["ceilings"].items() if value is not None]
    if ceilings:
        value, name = min(ceilings)
        of = "" if len(outer) == 1 else f" of run {longest['id']}"
        yield Headline("ceiling", factor(value), f"because of {_CEILINGS.get(name, name)}{of}")


def outermost(report: Report) -> list[Run]:
    """Return the runs that no call of another run in the report has made."""
    known = {run["id"] for run in report["runs"]}
    return [run for run in report["runs"] if run["parent"] not in known]


def title(report: Report) -> str:
    """Return the program, without its folder, and its arguments."""
    script, *arguments = report["program"]["argv"] or [""]
    return " ".join([PurePath(script).name or "a program", *arguments])


def facts(report: Report) -> str:
    """Return when and where the program ran."""
    program = report["program"]
    started = datetime.fromtimestamp(report["started"], timezone.utc)
    where = f"process {program['pid']} on {program['host']}, {counted(program['cpus'], 'CPU')}"
    versions = f"shoal {report['shoal']}, Python {report['python']}, {report['platform']}"
    return f"{started:%Y-%m-%d %H:%M:%S} UTC; {where}; {versions}"
