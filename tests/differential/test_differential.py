"""The same programs under joblib 1.6 and under shoal, each in a process of its own.

The programs are in this folder, one script for each group; what differs on purpose is in _differences.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from _capabilities import KILL, SLOWNESS
from _children import SPAWNED
from _differences import (
    ENVIRONMENT,
    FAILURES,
    GRID,
    PAYLOADS,
    PICKLER,
    SETTINGS,
    WITHOUT_PROCESSES,
    Difference,
    Outcome,
)

HERE = Path(__file__).parent
OURS = ("joblib.", "shoal.")

VARIABLES = {
    "OMP_NUM_THREADS": "5",
    "KMP_INIT_AT_FORK": "TRUE",
    "JOBLIB_TEMP_FOLDER": "{folder}",
    "JOBLIB_START_METHOD": "spawn",
    "LOKY_MAX_CPU_COUNT": "1",
    "LOKY_MAX_DEPTH": "1",
}
#: `make test` runs two of these; the other tests make the same promises, without joblib beside shoal.
thorough = pytest.mark.thorough
RUNS = [
    pytest.param("grid", {}, GRID, id="calls and settings"),
    pytest.param("payloads", {}, PAYLOADS, id="arrays", marks=thorough),
    pytest.param("failures", {}, FAILURES, id="failures", marks=thorough),
    pytest.param("settings", {}, SETTINGS, id="arguments and contexts", marks=thorough),
    pytest.param("environment", {}, ENVIRONMENT, id="environment"),
    pytest.param("environment", VARIABLES, ENVIRONMENT, id="environment with variables", marks=thorough),
    pytest.param(
        "environment",
        {"JOBLIB_MULTIPROCESSING": "0", "JOBLIB_TESTS_DEFAULT_PARALLEL_BACKEND": ""},
        WITHOUT_PROCESSES,
        id="environment without processes",
        marks=thorough,
    ),
    pytest.param(
        "environment",
        {"LOKY_PICKLER": "pickle", "JOBLIB_TESTS_DEFAULT_PARALLEL_BACKEND": "multiprocessing"},
        PICKLER,
        id="environment with pickle",
        marks=[
            thorough,
            pytest.mark.skipif(SPAWNED, reason="spawned workers import the functions of the main module"),
        ],
    ),
]


@pytest.mark.timeout(int(240 * SLOWNESS))
@pytest.mark.parametrize(("script", "variables", "differences"), RUNS)
def test_programs_do_the_same(
    script: str, variables: dict[str, str], differences: dict[str, Difference], tmp_path: Path
) -> None:
    joblib, shoal = both(script, {name: text.format(folder=tmp_path) for name, text in variables.items()})
    assert list(joblib) == list(shoal)
    assert not differences.keys() - joblib.keys()
    unexpected = {}
    for program, theirs in joblib.items():
        ours, expected = shoal[program], normal(theirs)
        difference = differences.get(program)
        if difference is not None:
            if difference.joblib is not None and difference.joblib != expected:
                unexpected[program] = {"joblib": expected, "expected of it": difference.joblib}
                continue
            expected = difference.shoal(expected) if callable(difference.shoal) else difference.shoal
            if callable(difference.shoal) and expected == normal(theirs):
                unexpected[program] = {"no difference": expected}
        if not fits(ours, expected):
            unexpected[program] = {"shoal": ours, "expected": expected}
    assert not unexpected, json.dumps(unexpected, indent=1)


def test_each_difference_is_a_row_of_the_documentation() -> None:
    table = (HERE.parents[1] / "docs" / "differences.md").read_text(encoding="utf-8")
    cells = [line.split(" | ")[0] for line in table.splitlines() if line.startswith("| ")]
    rows = {difference.row for run in RUNS for difference in run.values[2].values()}  # type: ignore[attr-defined]
    assert not [row for row in rows if sum(row in cell for cell in cells) != 1]


def both(script: str, variables: dict[str, str]) -> list[dict[str, Outcome]]:
    """Run a script under each library, at the same time; return the outcomes of its programs."""
    running = [start(script, library, variables) for library in ("joblib", "shoal")]
    try:
        told = [process.communicate(timeout=110 * SLOWNESS)[0] for process in running]
    finally:
        for process in running:
            if process.poll() is None:
                if hasattr(os, "killpg"):
                    os.killpg(process.pid, KILL)
                process.kill()
                process.communicate()
    assert [process.returncode for process in running] == [0, 0]
    return [dict(map(json.loads, lines.splitlines())) for lines in told]


def start(script: str, library: str, variables: dict[str, str]) -> subprocess.Popen[str]:
    # Two CPUs at most, so that the thread limits in workers are known; loky by default also without a global lock.
    fixed = {"LOKY_MAX_CPU_COUNT": "2", "JOBLIB_TESTS_DEFAULT_PARALLEL_BACKEND": "loky"}
    return subprocess.Popen(
        [sys.executable, str(HERE / f"{script}.py")],
        env={**os.environ, **fixed, **variables, "DIFFERENTIAL_LIBRARY": library},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # joblib prints tracebacks of threads that fail; nothing here depends on them
        text=True,
        start_new_session=True,
    )


def normal(outcome: dict[str, Any]) -> Outcome:
    """Return an outcome with each type as the first class of its line that is not the library's own."""
    told = {**outcome, "warnings": sorted({standard(line) for line in outcome["warnings"]})}
    if "error" in told:
        told["error"] = standard(told["error"])
    return told


def standard(line: list[str]) -> str:
    return next(name for name in line if not name.startswith(OURS))


def fits(ours: dict[str, Any], expected: Outcome) -> bool:
    """Tell whether an outcome is as expected: a handler for the expected error must catch it."""
    if "error" in ours and "error" in expected:
        ours = {**ours, "error": [expected["error"] if expected["error"] in ours["error"] else ours["error"][0]]}
    return normal(ours) == expected
