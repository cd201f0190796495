"""Runs joblib's own tests, from its wheel, with shoal in joblib's place.

``python tests/compat/joblib_suite.py [arguments]``. Of the wheel, only ``joblib/test`` can be imported. Failures that
expected.txt lists are ignored; a line there whose test passes is a failure. joblib's tests of dask use the fixtures of
dask's pytest plugin, if dask is installed. With ``--beside``, the tests are run with joblib too, and those that pass
with joblib must pass with shoal: that is for systems on which joblib does not pass all of them.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

from _suites import ROOT, environment, outcomes_of, pytest, worse

EXPECTED = Path(__file__).with_name("expected.txt")
WORK = ROOT / "build" / "joblib-suite"

SERVED = """

from importlib.util import spec_from_file_location


class Finder:
    @staticmethod
    def find_spec(fullname, path=None, target=None):
        if fullname == "joblib.test":
            tests = {tests!r}
            return spec_from_file_location(fullname, tests + "/__init__.py", submodule_search_locations=[tests])
        return None


sys.meta_path.insert(1, Finder)
"""


def tests_of_the_wheel() -> Path:
    """Return the folder of joblib's tests."""
    path = importlib.metadata.distribution("joblib").locate_file("joblib/test")
    assert os.path.isdir(path), "joblib is not installed from its wheel"
    return Path(str(path))


def expected() -> dict[str, str]:
    """Return the tests that may fail and the files that cannot be collected: the reasons by name."""
    lines = [line for line in EXPECTED.read_text().splitlines() if line and not line.startswith("#")]
    return dict(re.split(r"\s{2,}", line, maxsplit=1) for line in lines)


def run_tests(library: str, arguments: list[str], known: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run the tests with "joblib" or "shoal". Arguments that are no files are options of pytest."""
    tests = tests_of_the_wheel()
    # joblib's tests count the threads of 2 and 4 workers, and expect none of what is left over when CPUs are divided.
    cpus = os.cpu_count() or 1
    os.environ.setdefault("LOKY_MAX_CPU_COUNT", str(cpus - cpus % 4 if cpus > 3 else min(cpus, 2)))
    further, allowed = SERVED.format(tests=str(tests)), [tests]
    python = environment(f"joblib-suite/{library}", shoal=library == "shoal", further=further, allowed=allowed)
    left_out = [name for name in known if "::" not in name]
    chosen = [argument for argument in arguments if argument.startswith("test_")]
    options = [argument for argument in arguments if argument not in chosen]
    names = chosen or sorted(path.name for path in tests.glob("test_*.py") if path.name not in left_out)
    fixtures = ["-p", "distributed.utils_test"] if importlib.util.find_spec("distributed") else []
    fixed = [*fixtures, "-rfExX", "-o", "asyncio_default_fixture_loop_scope=function", "--timeout=120"]
    return pytest(python, tests, [*fixed, *options, *(tests / name for name in names)], WORK / "work")


def beside(arguments: list[str], known: dict[str, str]) -> int:
    """Run each file of tests with both; return 0 if all that pass with joblib pass with shoal."""
    chosen = [argument for argument in arguments if argument.startswith("test_")]
    options = [argument for argument in arguments if argument not in chosen]
    failed: list[str] = []
    for name in chosen or sorted(path.name for path in tests_of_the_wheel().glob("test_*.py")):
        ran: dict[str, dict[str, str]] = {}
        for library in ("joblib", "shoal"):
            report = WORK / f"{library}.xml"
            report.unlink(missing_ok=True)
            done = run_tests(library, [name, f"--junitxml={report}", "-o", "junit_family=xunit1", *options], known)
            print(f"== {library}: {name}\n{done.stdout}", file=sys.stderr)
            ran[library] = outcomes_of(report)
        passed = (sum(outcome == "passed" for outcome in ran[library].values()) for library in ran)
        print(f"{name:<40} passed with joblib: {next(passed)}, with shoal: {next(passed)}", flush=True)
        failed += worse(ran["joblib"], ran["shoal"])
    for name in failed:
        print(f"passes with joblib, not with shoal: {name}")
    return int(bool(failed))


def main(arguments: list[str]) -> int:
    """Run the tests; return 0 if only expected failures occur, and all of them."""
    known = expected()
    if "--beside" in arguments:
        return beside([argument for argument in arguments if argument != "--beside"], known)
    run = run_tests("shoal", arguments, known)
    print(run.stdout)
    failed = re.findall(
        r"^(?:FAILED|ERROR) \S*?(test_\w+\.py(?:::[^\s\[]+(?:\[.*?\](?= - |$))?)?)", run.stdout, re.MULTILINE
    )
    surprises = [name for name in failed if not any(name == line or name.split("[")[0] == line for line in known)]
    for name in surprises:
        print(f"not expected to fail: {name}")
    stale = (
        []
        if arguments
        else [
            name
            for name in known
            if "::" in name and not any(name in (failure, failure.split("[")[0]) for failure in failed)
        ]
    )
    for name in stale:
        print(f"expected to fail, and does not: {name}")
    broken = run.returncode not in (0, 1) or not re.search(r"\d+ passed", run.stdout)
    return int(bool(surprises or stale) or broken)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
