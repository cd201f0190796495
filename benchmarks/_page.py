"""The page of figures, docs/figures.md, from the file of figures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from ._report import number

Row = Mapping[str, Any]  # a row of the file of figures
EXPLAINED = 1.5  # a multiple above this needs an explanation, in rests.py
NBSP = "\u00a0"  # a space at which no line breaks
HEADS = ("", "shoal", "joblib", "joblib/shoal", "others", "lower bounds", "multiple", "target", "run")
BEGIN = """\
<!-- `make bench` writes this page: see benchmarks/README.md. -->
# Figures

`make bench` measures shoal, joblib and others, and writes this page from
[latest.json](../benchmarks/results/latest.json). [How the times are measured](../benchmarks/README.md) describes the
rows, the contenders and the lower bounds.

- A value is the median over the rounds of a row. Each round is a new process, with two workers if the row names no
  other number.
- `joblib/shoal` is joblib's median divided by shoal's: 5 means that shoal takes a fifth of joblib's time or memory. The
  range in brackets is that of the rounds. Its lower end is joblib's least value divided by shoal's greatest.
- A target bounds `joblib/shoal`, or the quotient or value that it names.
- A lower bound is the least time that the row could take, most often that of a loop of C-level calls that moves the
  same bytes and wakes the same processes. The multiple is shoal's median divided by the greatest lower bound. It is
  below 1 where shoal uses both cores and the loop one (hashes of arrays), or imports less (first fits).
- In the pictures, shoal's median is 1. Lines join the least and the greatest value of the rounds.
"""


def page(content: Mapping[str, Any]) -> str:
    """Return the text of the page."""
    rows: list[Row] = list(content["rows"].values())
    numbers = {date: str(index) for index, date in enumerate(content["runs"], 1)}
    parts = [BEGIN, *_summary(rows)]
    for group, members in groups(content).items():
        parts.append(f"## {group}\n")
        if drawn(members):
            text = f"{group}: the values of the table below, divided by shoal's"
            parts.append(f"![{text}](figures/{slug(group)}.svg)\n")
        parts.append(_table(HEADS, [_cells(row, numbers[row["run"]]) for row in members]))
        parts += [f"- {_title(row)}, {name}: {text}\n" for row in members for name, text in row["notes"].items()]
    lines = [_run(facts, numbers[date]) for date, facts in content["runs"].items()]
    parts += ["## The runs\n", _table(("run", "date", "machine", "versions"), lines)]
    if missing := content["missing"].values():
        parts.append(f"Not measured yet: {'; '.join(map(_escaped, missing))}.\n")
    return "\n".join(parts)


def groups(content: Mapping[str, Any]) -> dict[str, list[Row]]:
    """Return the rows by the headings of the page."""
    found: dict[str, list[Row]] = {}
    for row in content["rows"].values():
        found.setdefault(row["group"], []).append(row)
    return found


def drawn(rows: list[Row]) -> list[Row]:
    """Return the rows that a picture can compare: with a value of shoal above 0, and of another contender."""
    return [row for row in rows if min(row["values"].get("shoal", [0])) > 0 and len(row["values"]) > 1]


def slug(group: str) -> str:
    return group.lower().replace(" ", "-")


def digest(rows: list[Row]) -> str:
    """Return a digest of what a picture of these rows shows."""
    shown = [[row["title"], row["floors"], row["values"]] for row in rows]
    return hashlib.sha256(json.dumps(shown).encode()).hexdigest()[:16]


def ratio(row: Row) -> tuple[float, float, float] | None:
    """Return joblib's value divided by shoal's: that of the medians, the least and the greatest of the rounds."""
    ours, theirs = row["values"].get("shoal"), row["values"].get("joblib")
    if not ours or not theirs or min(*ours, *theirs) <= 0:
        return None
    medians = row["medians"]
    return medians["joblib"] / medians["shoal"], min(theirs) / max(ours), max(theirs) / min(ours)


def multiple(row: Row) -> float | None:
    """Return shoal's median divided by the greatest lower bound; None if one of them was not measured."""
    bound = max((row["medians"][name] for name in row["floors"] if name in row["medians"]), default=0)
    return row["medians"]["shoal"] / bound if bound > 0 and "shoal" in row["medians"] else None


def amount(value: float, unit: str) -> str:
    """Return a value with its unit. Seconds and microseconds are shown in the unit that fits."""
    if unit not in ("s", "us"):
        return number(value) if unit == "1" else f"{number(value)}{NBSP}{unit}"
    seconds = value if unit == "s" else value / 1e6
    factor, name = (1e6, "µs") if abs(seconds) < 1e-3 else (1e3, "ms") if abs(seconds) < 1 else (1, "s")
    return f"{number(seconds * factor)}{NBSP}{name}"


def _summary(rows: list[Row]) -> Iterator[str]:
    """Yield what is slower than joblib, and what is short of its target."""
    slower = [f"{_title(row)}: {_ratio(row)}" for row in rows if (found := ratio(row)) and found[0] < 1]
    short = [
        f"{_title(row)}: {target['of']} is {_value(target, row['unit'])}, the target {_bound(target, row['unit'])}"
        for row in rows
        for target in row["asked"]
        if target["reached"] is False
    ]
    above = [
        f"{_title(row)}: {number(found)}. {row['rest'] or 'Not explained yet.'}"
        for row in rows
        if (found := multiple(row)) is not None and found > EXPLAINED
    ]
    yield from (f"Of {len(rows)} rows, shoal is slower or larger than joblib in {len(slower)}:\n", _bullets(slower))
    yield from (f"{len(short)} {'target is' if len(short) == 1 else 'targets are'} missed:\n", _bullets(short))
    yield from (f"{len(above)} multiples are above {EXPLAINED:g}. What the rest is:\n", _bullets(above))


def _bullets(lines: list[str]) -> str:
    return "".join(f"- {line}\n" for line in lines or ["none"])


def _cells(row: Row, run: str) -> list[str]:
    """Return the cells of a row, in the order of HEADS."""
    shown = {name: amount(value, row["unit"]) for name, value in row["medians"].items()}
    shown |= dict.fromkeys(row["failures"], "failed")
    others = [f"{name} {text}" for name, text in shown.items() if name not in ("shoal", "joblib", *row["floors"])]
    floors = [f"{name} {shown[name]}" for name in row["floors"] if name in shown]
    targets = [_verdict(target, row["unit"]) for target in row["asked"]]
    rounds = len(row["values"].get("shoal", []))
    found = multiple(row)
    return [
        _title(row),
        shown.get("shoal", ""),
        shown.get("joblib", ""),
        _ratio(row),
        ", ".join(others),
        ", ".join(floors),
        "" if found is None else number(found),
        "; ".join(targets),
        f"{run}, {rounds} {'round' if rounds == 1 else 'rounds'}",
    ]


def _title(row: Row) -> str:
    return _escaped(row["title"])


def _escaped(text: str) -> str:
    return text.replace("_", r"\_")


def _ratio(row: Row) -> str:
    found = ratio(row)
    if found is None:
        return ""
    spread = f" ({number(found[1])} to {number(found[2])})" if len(row["values"]["shoal"]) > 1 else ""
    return number(found[0]) + spread


def _verdict(target: Mapping[str, Any], unit: str) -> str:
    """Return a target and whether it is reached; its value, if no other cell of the row has it."""
    of = target["of"]
    parts = [_bound(target, unit)] if of == "joblib/shoal" else [of, _bound(target, unit)]
    if "/" in of and of != "joblib/shoal" and target["is"] is not None:
        parts.append(f"({number(target['is'])})")
    return " ".join(parts) + {True: "", False: ": missed", None: ": not measured"}[target["reached"]]


def _bound(target: Mapping[str, Any], unit: str) -> str:
    sign, _, bound = target["wanted"].partition(" ")
    return f"{'≥' if sign == '>=' else '≤'} {_value({**target, 'is': float(bound)}, unit)}"


def _value(target: Mapping[str, Any], unit: str) -> str:
    """Return the value of a target, with the unit if it is not a quotient."""
    return number(target["is"]) if "/" in target["of"] else amount(target["is"], unit)


def _run(facts: Mapping[str, Any], number: str) -> list[str]:
    load = facts["load_at_start"]
    machine = [facts["cpu"], f"{facts['cpus_usable']} CPUs", facts["platform"]]
    machine += [f"load {load[0]:.1f} at the start"] if load else []
    versions = [f"{name} {version}" for name, version in facts["packages"].items() if version]
    python = f"{facts['implementation']} {facts['python'].split()[0]}"
    return [number, facts["date"], ", ".join(filter(None, machine)), ", ".join([python, *versions])]


def _table(heads: tuple[str, ...], lines: list[list[str]]) -> str:
    aligned = ["---:" if head in ("shoal", "joblib") else "---" for head in heads]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, aligned, *lines)) + "\n"
