"""Nested runs that compute with BLAS, and how often the system takes a CPU away from them.

::

    python -m benchmarks.nested_cpus              prints the table of docs/cpu-budget.md
    python -m benchmarks.nested_cpus --runs 9     more rounds
    python -m benchmarks.nested_cpus --one shoal 3    one case in this process: prints JSON

A thread that has to leave its CPU although it could go on has met another one that is ready to run. This is an
involuntary switch. More threads than CPUs cause such switches. So do other programs, so the two libraries alternate.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import warnings
from importlib import import_module
from statistics import median
from typing import NamedTuple

from .contenders import WORKERS

CONTENDERS = ("shoal", "joblib")
#: Matrix products of each case. The innermost calls share them evenly.
PRODUCTS, SIZE = 480, 300
ROUNDS = 5


class Level(NamedTuple):
    """A run: its backend ("": the default), and its `n_jobs`."""

    backend: str
    n_jobs: int

    def __str__(self) -> str:
        return f"{self.backend or 'default'} {self.n_jobs}"


class Usage(NamedTuple):
    """What a process has used up to a time."""

    pid: int
    seconds: float
    switches: int


CASES = (
    (Level("loky", WORKERS),),
    (Level("multiprocessing", WORKERS),),
    (Level("threading", WORKERS),),
    (Level("loky", WORKERS), Level("", -1)),
    (Level("loky", WORKERS), Level("threading", WORKERS)),
    (Level("loky", WORKERS), Level("loky", -1)),
    (Level("threading", WORKERS), Level("threading", -1)),
    (Level("loky", 2 * WORKERS), Level("", -1)),
)


def used() -> Usage:
    import resource

    own = resource.getrusage(resource.RUSAGE_SELF)
    return Usage(os.getpid(), own.ru_utime + own.ru_stime, own.ru_nivcsw)


def call(library: str, levels: tuple[Level, ...], products: int) -> list[Usage]:
    """Run the next level, or compute; return what processes have used before and after that."""
    before = used()
    if levels:
        inside = run(library, levels, products)
    else:
        numpy = import_module("numpy")
        matrix = numpy.ones((SIZE, SIZE))
        for _ in range(products):
            matrix @ matrix
        inside = []
    return [before, *inside, used()]


def run(library: str, levels: tuple[Level, ...], products: int) -> list[Usage]:
    """Run the first level; its calls run the others."""
    joblib = import_module(library)
    level, *deeper = levels
    options = {"backend": level.backend} if level.backend else {}
    with joblib.parallel_config(n_jobs=level.n_jobs, **options):
        n_workers = joblib.effective_n_jobs(None)
        calls = [joblib.delayed(call)(library, tuple(deeper), products // n_workers)] * n_workers
        found: list[list[Usage]] = joblib.Parallel(batch_size=1)(calls)
    return [usage for usages in found for usage in usages]


def measure(library: str, levels: tuple[Level, ...]) -> dict[str, float]:
    """Return the seconds, CPU seconds and involuntary switches of a case, on workers that are warm."""
    import_module("numpy")
    here = import_module("benchmarks.nested_cpus")  # the one whose functions workers find by name
    warnings.simplefilter("ignore")  # where levels cannot be nested, the inner one has one worker
    here.run(library, levels, 0)
    began = time.perf_counter()
    usages: list[Usage] = here.call(library, levels, PRODUCTS)
    seconds = time.perf_counter() - began
    processes = {usage.pid: [other for other in usages if other.pid == usage.pid] for usage in usages}
    spans = [(min(of_one), max(of_one)) for of_one in processes.values()]
    return {
        "seconds": seconds,
        "cpu": sum(last.seconds - first.seconds for first, last in spans),
        "switches": sum(last.switches - first.switches for first, last in spans),
    }


def measured(library: str, case: int) -> dict[str, float]:
    """Measure a case in a new process."""
    command = [sys.executable, "-m", "benchmarks.nested_cpus", "--one", library, str(case)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def table(runs: int) -> list[str]:
    """Measure all cases, and return the lines of the table."""
    lines = ["| outer run | inner run | switches | with joblib | ms | with joblib |", "|---|---|---|---|---|---|"]
    for number, levels in enumerate(CASES):
        rounds = [{library: measured(library, number) for library in CONTENDERS} for _ in range(runs)]
        cells = [str(level) for level in levels] + [""] * (2 - len(levels))
        for figure, unit in (("switches", 1), ("seconds", 1000)):
            for library in CONTENDERS:
                cells.append(f"{median(each[library][figure] for each in rounds) * unit:.0f}")
        lines.append(f"| {' | '.join(cells)} |")
        print(lines[-1], file=sys.stderr)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.nested_cpus", description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=ROUNDS, metavar="N", help="rounds of each case")
    parser.add_argument("--one", nargs=2, metavar=("LIBRARY", "CASE"), help="measure one case in this process")
    given = parser.parse_args()
    if given.one:
        library, case = given.one
        print(json.dumps(measure(library, CASES[int(case)])))
    else:
        print("\n".join(table(given.runs)))


if __name__ == "__main__":
    main()
