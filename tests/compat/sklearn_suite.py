"""Runs scikit-learn's own tests, from its wheel, with joblib and with shoal in joblib's place, and compares them.

``python tests/compat/sklearn_suite.py [parts] [pytest options]`` runs each part with both, in turns. Tests that pass
with joblib must pass with shoal. The times are printed for comparison only, because other programs may run meanwhile.
"""

from __future__ import annotations

import importlib.metadata
import os
import resource
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import NamedTuple

from _suites import ROOT, environment, pytest

PARTS = (
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


def run(python: Path, who: str, part: str, options: list[str]) -> Ran:
    """Run the tests of a part."""
    package = Path(str(importlib.metadata.distribution("scikit-learn").locate_file("sklearn")))
    report = WORK / f"{who}.xml"
    report.unlink(missing_ok=True)
    fixed = [f"--junitxml={report}", "-o", "junit_family=xunit1", "--timeout=600", "-rfE"]
    used, start = _cpu_seconds(), time.perf_counter()
    done = pytest(python, package, [*fixed, *options, package / part], WORK / "work")
    seconds, cpu_seconds = time.perf_counter() - start, _cpu_seconds() - used
    print(f"== {who}: {part}\n{done.stdout}", file=sys.stderr)
    outcomes: dict[str, str] = {}
    if report.exists():
        for case in ElementTree.parse(report).iter("testcase"):
            kinds = {child.tag for child in case}
            outcome = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
            outcomes[f"{case.get('classname')}::{case.get('name')}"] = outcome
    assert outcomes, f"no test of {part} ran with {who}"
    return Ran(outcomes, seconds, cpu_seconds)


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main(arguments: list[str]) -> int:
    """Run the tests; return 0 if all that pass with joblib pass with shoal."""
    parts = [argument for argument in arguments if not argument.startswith("-")] or PARTS
    options = [argument for argument in arguments if argument.startswith("-")] or ["-n2"]
    pythons = {who: environment(f"sklearn-suite/{who}", shoal=who == "shoal") for who in ("joblib", "shoal")}
    sums = {who: [0.0, 0.0] for who in pythons}
    worse: list[str] = []
    print(f"{'':<30} {'passed':>8} {'joblib':>18} {'shoal':>18}   s (of all processes)")
    for number, part in enumerate(parts):
        order = list(pythons) if number % 2 else list(pythons)[::-1]
        ran = {who: run(pythons[who], who, part, options) for who in order}
        for who, result in ran.items():
            sums[who][0] += result.seconds
            sums[who][1] += result.cpu_seconds
        with_joblib, with_shoal = (ran[who].outcomes for who in ("joblib", "shoal"))
        worse += [name for name, outcome in with_joblib.items() if outcome == "passed" != with_shoal.get(name)]
        shown = "".join(f" {ran[who].seconds:9.1f} ({ran[who].cpu_seconds:6.1f})" for who in pythons)
        print(f"{part:<30} {sum(outcome == 'passed' for outcome in with_shoal.values()):8}{shown}", flush=True)
    shown = "".join(f" {seconds:9.1f} ({cpu:6.1f})" for seconds, cpu in sums.values())
    print(f"{'in sum':<30} {'':8}{shown}")
    print(f"shoal takes {sums['shoal'][0] / sums['joblib'][0]:.2f} of joblib's time")
    for name in worse:
        print(f"passes with joblib, not with shoal: {name}")
    return int(bool(worse))


if __name__ == "__main__":
    os.makedirs(WORK, exist_ok=True)
    sys.exit(main(sys.argv[1:]))
