"""Run the benchmarks: ``python -m benchmarks [ROW ...] [--quick] [--runs N] [--json PATH] [--page] [--list]``.

    for each row:  round 1: shoal, joblib, others, floors;  round 2: shoal, joblib, ...;  ...
                      │       each a fresh process, ``python -m benchmarks._one ROW CONTENDER``
                      └→ median over the rounds → one line of the table, and results/latest.json
                                                                               └→ docs/figures.md, README.md

Contenders alternate, so that a period in which the machine is slow affects all of them. With --narrow, runs on worker
processes are compared with joblib's on a system without fork and memfds (scripts/narrow).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from scripts import narrow

from . import _page, _plots, _readme, _results
from ._registry import Row
from ._report import Figures, machine, table
from .contenders import CLUSTERS, POOLS, is_missing
from .rows import NARROW, ROWS

HERE = Path(__file__).resolve().parent
LATEST = HERE / "results" / "latest.json"
DOCS = HERE.parent / "docs"
POOL_ROUNDS = 2  # few, because the other pools have no targets
TIMEOUT = 180.0  # seconds; joblib's slowest measurement takes half a minute


def main() -> int:
    options = parse()
    if options.narrow and not narrow.here():
        return narrow.run([sys.executable, "-m", str(__package__), *sys.argv[1:]], open_files_stay=False)
    rows = NARROW if options.narrow else ROWS
    if options.list:
        width = max(map(len, rows))
        print("\n".join(f"{row.name:{width}}  {row.title}" for row in rows.values()))
        return 0
    if options.page:
        return write_page(options.json)
    facts, start = machine(), time.perf_counter()
    figures: list[Figures] = []
    try:
        for name in options.rows or rows:
            figures.append(run(rows[name], options.runs, quick=options.quick))
            _results.add(options.json, figures[-1], facts)
    except KeyboardInterrupt:
        print("\ninterrupted: these are the rows that were measured", file=sys.stderr)
    clear_line()
    print(table(figures))
    print(f"\n{time.perf_counter() - start:.0f} seconds; medians over fresh processes; two workers")
    print(f"written to {options.json}")
    without_page = write_page(options.json) if options.json == LATEST else 0
    failed = len(figures) < len(options.rows or rows) or any(each.failures for each in figures)
    return 1 if failed else without_page


def write_page(path: Path) -> int:
    """Write docs/figures.md, its pictures and the table of README.md from a file of figures; return the exit code."""
    _results.write(path, _results.read(path))  # rows may have been added or removed since
    content = _results.read(path)
    (DOCS / "figures.md").write_text(_page.page(content), "utf-8")
    readme = HERE.parent / "README.md"
    readme.write_text(_readme.written(readme.read_text("utf-8"), content), "utf-8")
    try:
        _plots.draw(content, DOCS / "figures")
    except ImportError:
        print("docs/figures.md has old pictures: matplotlib is missing (the extra `bench`)", file=sys.stderr)
        return 1
    print("written to docs/figures.md and README.md")
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Time shoal, joblib and others")
    parser.add_argument("rows", nargs="*", metavar="ROW", help="names of rows (all of them if none is given)")
    parser.add_argument("--list", action="store_true", help="print the names of the rows")
    parser.add_argument("--quick", action="store_true", help="one round of shoal, joblib and the floors")
    parser.add_argument("--runs", type=int, metavar="N", help="rounds of every row, instead of its own number")
    parser.add_argument("--json", type=Path, metavar="PATH", help="the file of figures, instead of results/latest.json")
    parser.add_argument("--page", action="store_true", help="measure nothing; write docs/figures.md from the file")
    parser.add_argument("--narrow", action="store_true", help="worker processes on a system without fork and memfds")
    options = parser.parse_args()
    if unknown := [name for name in options.rows if name not in (NARROW if options.narrow else ROWS)]:
        parser.error(f"no such row: {', '.join(unknown)}; --list prints the names of all")
    if options.runs is not None and options.runs < 1:
        parser.error("--runs must be at least 1")
    if options.page and (options.rows or options.narrow):
        parser.error("--page takes all rows of the file, and not those of --narrow")
    options.json = options.json or (LATEST.with_name("narrow.json") if options.narrow else LATEST)
    return options


def run(row: Row, runs: int | None, *, quick: bool) -> Figures:
    """Measure all rounds of a row."""
    figures = Figures(row)
    rounds = runs or (1 if quick else row.rounds)
    contenders = [name for name in (*row.contenders, *row.floors) if not is_missing(name)]
    for number in range(rounds):
        for contender in contenders:
            skipped = contender in (*POOLS, *CLUSTERS) and (quick or number >= POOL_ROUNDS)
            if skipped or contender in figures.failures or number >= row.at_most.get(contender, rounds):
                continue
            progress(f"{row.name}: round {number + 1} of {rounds}, {contender}")
            try:
                measured = measure(row.name, contender)
            except RuntimeError as error:
                figures.failures[contender] = str(error)
                continue
            figures.values.setdefault(contender, []).append(measured["value"])
            if measured["note"]:
                figures.notes[contender] = measured["note"]
    return figures


def measure(name: str, contender: str) -> dict[str, Any]:
    """Measure once in a fresh process; if it fails, raise RuntimeError with the last line of its stderr."""
    process = subprocess.Popen(
        [sys.executable, "-m", f"{__package__}._one", name, contender],
        cwd=HERE.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        output, errors = process.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"no end after {TIMEOUT:g} seconds") from None
    finally:
        if process.returncode is None:
            end_session(process)
    if process.returncode != 0:
        lines = errors.strip().splitlines() or [""]
        raise RuntimeError(f"exit code {process.returncode}: {lines[-1]}")
    measured: dict[str, Any] = json.loads(output.splitlines()[-1])
    return measured


def end_session(process: subprocess.Popen[str]) -> None:
    """Kill a measurement, and end its workers by SIGTERM. Resource trackers ignore SIGTERM, and clean up."""
    process.kill()
    os.killpg(process.pid, signal.SIGTERM)
    process.wait()


def progress(text: str) -> None:
    if sys.stderr.isatty():
        clear_line()
        print(text, end="", file=sys.stderr, flush=True)


def clear_line() -> None:
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
