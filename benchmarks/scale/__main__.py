"""Simulate: ``python -m benchmarks.scale [--full] [--only PART] [--workers N] [--json PATH] [--page]``."""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .._report import machine
from . import _page
from ._cases import cases, cases_of_cpu, cases_of_limit, cases_of_memory, durations, least
from ._rules import RULES, by_rule
from ._shoal import by_shoal
from ._stealing import by_stealing
from ._world import Case

HERE = Path(__file__).resolve().parent
LATEST = HERE.parent / "results" / "scale.json"
DOCS = HERE.parents[1] / "docs"
PARTS = ("efficiency", "limit", "cpu", "memory")


def main() -> int:
    options = parse()
    if options.page:
        return write_page(json.loads(options.json.read_text("utf-8")))
    began = time.perf_counter()
    most, largest = 10 if options.full else 1, options.workers
    parts: dict[str, tuple[list[Case], Callable[[Case], dict[str, Any]]]] = {
        "efficiency": (cases(largest, most), efficiency),
        "limit": (cases_of_limit(largest), limit),
        "cpu": (cases_of_cpu(largest), cpu),
        "memory": (cases_of_memory(10**8 if options.full else 10**6), memory),
    }
    content = json.loads(options.json.read_text("utf-8")) if options.only else {}
    content["machine"] = machine()
    for name, (found, measure) in parts.items():
        if name in (options.only or parts):
            content[name] = each(found, measure)
    options.json.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    print("\n".join(_page.summary(content)))
    print(f"{time.perf_counter() - began:.0f} seconds; written to {options.json}")
    return write_page(content) if options.json == LATEST else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description="Simulate thousands of workers")
    parser.add_argument("--full", action="store_true", help="ten times the calls, and 10^8 calls through a generator")
    parser.add_argument("--workers", type=int, default=10_000, metavar="N", help="the largest number of workers")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=PARTS,
        metavar="PART",
        help="some of the four parts; the others stay in the file",
    )
    parser.add_argument("--json", type=Path, default=LATEST, metavar="PATH", help="the file of figures")
    parser.add_argument("--page", action="store_true", help="simulate nothing; write docs/scale.md from the file")
    return parser.parse_args()


def each(found: list[Case], measure: Callable[[Case], dict[str, Any]]) -> list[dict[str, Any]]:
    """Measure each case, and print what was found."""
    rows = []
    for case in found:
        gc.collect()
        row = {"case": case.name, "workers": case.workers, "calls": case.calls, **measure(case)}
        rows.append(row)
        print("  ".join(f"{key} {shown(value)}" for key, value in row.items()), flush=True)
    return rows


def shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def efficiency(case: Case) -> dict[str, Any]:
    """Return the efficiency of shoal and of each other rule: 1 is the least time that the case can take."""
    bound, drawn = least(case), list(durations(case))
    times: dict[str, float | None] = {"shoal": by_shoal(case, drawn).makespan}
    times |= {name: by_rule(case, drawn, rule) for name, rule in RULES.items()}
    times["stealing"] = by_stealing(case, drawn)
    return {name: None if taken is None else round(bound / taken, 4) for name, taken in times.items()}


def limit(case: Case) -> dict[str, Any]:
    simulated = by_shoal(case, durations(case))
    return {"shoal": round(least(case) / simulated.makespan, 4), "batches": simulated.batches}


def cpu(case: Case) -> dict[str, Any]:
    """Return the microseconds of the caller's time for each call and each batch: the least of three runs."""
    runs = [by_shoal(case, durations(case)) for _ in range(3 if case.workers <= 1000 else 2)]
    found = min(runs, key=lambda run: run.cpu)
    return {"call": round(found.cpu / case.calls * 1e6, 2), "batch": round(found.cpu / found.batches * 1e6, 2)}


def memory(case: Case) -> dict[str, Any]:
    """Return the most calls that a run holds, and its peak of memory in MB (of Python's objects)."""
    simulated = by_shoal(case, durations(case))
    peak = None
    if case.calls <= 10**6:  # it makes the run several times slower
        tracemalloc.start()
        by_shoal(case, durations(case))
        peak = round(tracemalloc.get_traced_memory()[1] / 1e6, 1)
        tracemalloc.stop()
    return {"held": simulated.held, "in_flight": simulated.in_flight, "mb": peak}


def write_page(content: dict[str, Any]) -> int:
    """Write docs/scale.md and its pictures; return the exit code."""
    (DOCS / "scale.md").write_text(_page.page(content), "utf-8")
    try:
        from . import _pictures

        _pictures.draw(content, DOCS / "scale")
    except ImportError:
        print("docs/scale.md has old pictures: matplotlib is missing (the extra `bench`)", file=sys.stderr)
        return 1
    print("written to docs/scale.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
