"""Runs scikit-learn's own tests, from its wheel, with joblib and with shoal in joblib's place, and compares them.

``python tests/compat/sklearn_suite.py [parts] [pytest options]`` runs each part with both, in turns. Tests that pass
with joblib must pass with shoal. The times are printed for comparison only, because other programs may run meanwhile.
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
import time
from pathlib import Path
from typing import NamedTuple

from _suites import ROOT, environment, outcomes_of, pytest, worse

PARTS = (
    "callback",
    "utils/tests/test_parallel.py",
    "tests/test_pipeline.py",
    "feature_selection",
    "neighbors",
    "cluster",
    "model_selection",
    "ensemble",
)
WORK = ROOT / "build" / "sklearn-suite"


class Ran(NamedTuple):
    """The outcome of a part."""

    outcomes: dict[str, str]  # "passed", "skipped" or "failed", by the name of the test
    seconds: float
    cpu_seconds: float  # of all processes


def run(python: Path, library: str, part: str, options: list[str]) -> Ran:
    """Run the tests of a part."""
    package = Path(str(importlib.metadata.distribution("scikit-learn").locate_file("sklearn")))
    report = WORK / f"{library}.xml"
    report.unlink(missing_ok=True)
    fixed = [f"--junitxml={report}", "-o", "junit_family=xunit1", "--timeout=600", "-rfE"]
    used, start = _cpu_seconds(), time.perf_counter()
    done = pytest(python, package, [*fixed, *options, package / part], WORK / "work")
    seconds, cpu_seconds = time.perf_counter() - start, _cpu_seconds() - used
    print(f"== {library}: {part}\n{done.stdout}", file=sys.stderr)
    outcomes = outcomes_of(report)
    assert outcomes, f"no test of {part} ran with {library}"
    return Ran(outcomes, seconds, cpu_seconds)


def _cpu_seconds() -> float:
    used = os.times()  # Windows does not count the time of children
    return used.children_user + used.children_system


def main(arguments: list[str]) -> int:
    """Run the tests; return 0 if all that pass with joblib pass with shoal."""
    parts = [argument for argument in arguments if not argument.startswith("-")] or PARTS
    options = [argument for argument in arguments if argument.startswith("-")] or ["-n2"]
    pythons = {
        library: environment(f"sklearn-suite/{library}", shoal=library == "shoal") for library in ("joblib", "shoal")
    }
    sums = {library: [0.0, 0.0] for library in pythons}
    failed: list[str] = []
    print(f"{'':<30} {'passed':>8} {'joblib':>18} {'shoal':>18}   s (of all processes)")
    for number, part in enumerate(parts):
        order = list(pythons) if number % 2 else list(pythons)[::-1]
        ran = {library: run(pythons[library], library, part, options) for library in order}
        for library, result in ran.items():
            sums[library][0] += result.seconds
            sums[library][1] += result.cpu_seconds
        with_joblib, with_shoal = (ran[library].outcomes for library in ("joblib", "shoal"))
        failed += worse(with_joblib, with_shoal)
        shown = "".join(f" {ran[library].seconds:9.1f} ({ran[library].cpu_seconds:6.1f})" for library in pythons)
        print(f"{part:<30} {sum(outcome == 'passed' for outcome in with_shoal.values()):8}{shown}", flush=True)
    shown = "".join(f" {seconds:9.1f} ({cpu:6.1f})" for seconds, cpu in sums.values())
    print(f"{'in sum':<30} {'':8}{shown}")
    print(f"shoal takes {sums['shoal'][0] / sums['joblib'][0]:.2f} of joblib's time")
    for name in failed:
        print(f"passes with joblib, not with shoal: {name}")
    return int(bool(failed))


if __name__ == "__main__":
    os.makedirs(WORK, exist_ok=True)
    sys.exit(main(sys.argv[1:]))
