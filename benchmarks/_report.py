"""The table and the JSON of a run of the benchmarks."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib import metadata
from statistics import median
from typing import Any

from ._registry import Row
from .contenders import EVERYONE, WORKERS

PACKAGES = (
    *("shoal", "joblib", "loky", "cloudpickle", "numpy", "scikit-learn"),
    *("mpire", "distributed", "ray", "diskcache", "skops"),
)
HEADS = ("row", "unit", *EVERYONE, "others", "target", "value", "bound", "reached")


@dataclass
class Figures:
    """The measurements of one row, by contender: the value of each round, notes and failures."""

    row: Row
    values: dict[str, list[float]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def medians(self) -> dict[str, float]:
        return {contender: median(values) for contender, values in self.values.items()}

    def verdicts(self) -> list[tuple[str, float | None, str, bool | None]]:
        """Return, for each target: the name of the quotient, its value, the bound, and whether it is reached."""
        medians = self.medians()
        verdicts = []
        for target in self.row.targets:
            value = target.value(medians)
            reached = None if value is None else target.reached(value)
            verdicts.append((target.quotient, value, str(target), reached))
        return verdicts

    def lines(self) -> list[list[str]]:
        """Return the cells of the table: a line for the row, and another line for each further target."""
        scale = 1e3 if self.row.unit == "ms" else 1
        shown = {contender: number(value * scale) for contender, value in self.medians().items()}
        shown.update(dict.fromkeys(self.failures, "failed"))
        others = ", ".join(f"{value} {name}" for name, value in shown.items() if name not in EVERYONE)
        first = [self.row.title, self.row.unit, *(shown.get(name, "") for name in EVERYONE), others]
        return [
            [*(first if index == 0 else [""] * len(first)), name, number(value), bound, yes_or_no(reached)]
            for index, (name, value, bound, reached) in enumerate(self.verdicts())
        ]

    def as_json(self) -> dict[str, Any]:
        return {
            "title": self.row.title,
            "unit": "s" if self.row.unit == "ms" else self.row.unit,
            "medians": self.medians(),
            "values": self.values,
            "notes": self.notes,
            "failures": self.failures,
            "asked": [
                {"of": name, "is": value, "wanted": bound, "reached": reached}
                for name, value, bound, reached in self.verdicts()
            ],
        }


def table(figures: Sequence[Figures]) -> str:
    cells = [list(HEADS), *(line for each in figures for line in each.lines())]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEADS))]
    numeric = range(2, 2 + len(EVERYONE))
    rows = [
        "  ".join(
            text.rjust(width) if column in numeric or HEADS[column] == "value" else text.ljust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    ]
    remarks = [
        f"{each.row.name}, {contender}: {text}"
        for each in figures
        for contender, text in (each.notes | each.failures).items()
    ]
    return "\n".join([rows[0], "-" * len(rows[0]), *rows[1:], *([""] if remarks else []), *remarks])


def number(value: float | None) -> str:
    """Format a number with three significant digits."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def yes_or_no(reached: bool | None) -> str:
    return {True: "yes", False: "NO", None: "not measured"}[reached]


def machine() -> dict[str, Any]:
    """Return the facts that the figures depend on."""
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC"),
        "python": sys.version,
        "implementation": platform.python_implementation(),
        "platform": platform.platform(),
        "cpu": cpu(),
        "cpus": os.cpu_count(),
        "cpus_usable": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load_at_start": os.getloadavg() if hasattr(os, "getloadavg") else None,
        "workers": WORKERS,
        "packages": versions(PACKAGES),
    }


def cpu() -> str:
    """Return the name of the CPU, as the system has it; "" if it has none."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor()


def versions(packages: Sequence[str]) -> Mapping[str, str | None]:
    """Return the versions of packages; None for one that is not installed, even if it can be imported from a folder."""
    found: dict[str, str | None] = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found
