"""Reports of programs that nobody edits: ``SHOAL_REPORT``, ``shoal run --report``, the page of several processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from _capabilities import SLOWNESS, needs_fork
from shoal.reports._folder import joined, write_index

PROGRAM = """
import sys
from shoal import Parallel, delayed

def square(number):
    return number * number

if __name__ == "__main__":
    for _ in range(int(sys.argv[1])):
        Parallel(n_jobs=2)(delayed(square)(number) for number in range(10))
"""

IN_THREADS = """
import threading
from shoal import Parallel, delayed

def run():
    Parallel(n_jobs=2, backend="threading")(delayed(abs)(number) for number in range(10))

threads = [threading.Thread(target=run) for _ in range(3)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""

CHILDREN = """
import multiprocessing
from shoal import Parallel, delayed

def run():
    Parallel(n_jobs=2, backend="threading")(delayed(abs)(number) for number in range(10))

if __name__ == "__main__":
    run()
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=run) for _ in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join()
"""

FOREST = """
from shoal import install_as_joblib
install_as_joblib()
from sklearn.datasets import make_classification
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import cross_val_score

if __name__ == "__main__":
    X, y = make_classification(200, random_state=0)
    cross_val_score(RandomForestClassifier(5, n_jobs=2), X, y, cv=3, n_jobs=2)
"""


def run(
    folder: Path, source: str, *arguments: str, variables: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    (folder / "program.py").write_text(textwrap.dedent(source))
    env = {**os.environ, **(variables or {})}
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, timeout=100 * SLOWNESS, check=False
    )


def reports_in(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]


def test_a_variable_names_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "reports"
    for count in ("2", "1"):
        done = run(tmp_path, PROGRAM, "program.py", count, variables={"SHOAL_REPORT": str(folder)})
        assert (done.returncode, done.stderr) == (0, "")
    found = reports_in(folder)
    assert sorted(len(report["runs"]) for report in found) == [1, 2]
    assert all(path.name.startswith("program-") for path in folder.glob("*.json"))
    page = (folder / "index.html").read_text(encoding="utf-8")
    assert "square" in page
    assert {path.suffix or path.name for path in folder.iterdir()} == {".json", ".html", ".lock"}


def test_runs_of_all_threads_are_in_the_folder(tmp_path: Path) -> None:
    done = run(tmp_path, IN_THREADS, "program.py", variables={"SHOAL_REPORT": "reports"})
    assert (done.returncode, done.stderr) == (0, "")
    (report,) = reports_in(tmp_path / "reports")
    assert [run["calls"]["done"] for run in report["runs"]] == [10, 10, 10]


@needs_fork
def test_forked_children_write_files_of_their_own(tmp_path: Path) -> None:
    done = run(tmp_path, CHILDREN, "-W", "ignore", "program.py", variables={"SHOAL_REPORT": "reports"})
    assert done.returncode == 0, done.stderr
    found = reports_in(tmp_path / "reports")
    assert [len(report["runs"]) for report in found] == [1, 1, 1]
    assert len({report["program"]["pid"] for report in found}) == 3


def test_scikit_learn_under_the_name_joblib(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    done = run(tmp_path, FOREST, "program.py", variables={"SHOAL_REPORT": "reports"})
    assert done.returncode == 0, done.stderr
    (report,) = reports_in(tmp_path / "reports")
    outer = next(run for run in report["runs"] if run["parent"] is None)
    assert (outer["backend"], outer["calls"]["done"]) == ("loky", 3)
    assert {row["name"]: row["origin"] for row in outer["settings"]}["n_jobs"] == "argument"
    assert [run["parent"] for run in report["runs"] if run is not outer] == [outer["id"]] * (len(report["runs"]) - 1)
    assert len(report["runs"]) > 3


def test_a_folder_that_cannot_be_written_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "reports").write_text("a file")
    done = run(tmp_path, PROGRAM, "program.py", "1", variables={"SHOAL_REPORT": "reports"})
    assert done.returncode == 0
    assert "could not be written" in done.stderr


@pytest.mark.parametrize("end", [".html", ".json", ".trace.json"])
def test_a_program_is_run_with_a_report(tmp_path: Path, end: str) -> None:
    done = run(tmp_path, PROGRAM, "-m", "shoal", "run", "--report", f"run{end}", "program.py", "2")
    assert (done.returncode, done.stderr) == (0, "")
    text = (tmp_path / f"run{end}").read_text(encoding="utf-8")
    if end == ".json":
        assert [run["calls"]["done"] for run in json.loads(text)["runs"]] == [10, 10]
    else:
        assert "square" in text


def test_a_report_of_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    done = run(tmp_path, PROGRAM, "-m", "shoal", "run", "--report", "run.txt", "program.py", "2")
    assert done.returncode == 2
    assert ".html" in done.stderr


def test_reports_of_several_processes_are_joined(tmp_path: Path) -> None:
    sample = json.loads((Path(__file__).parents[1] / "fixtures" / "report" / "sample.json").read_text(encoding="utf-8"))
    later = {**sample, "started": sample["started"] + 5, "omitted": 2}
    found = joined([later, sample])
    assert found["started"] == sample["started"]
    assert len(found["runs"]) == 4
    starts = [run["start"] for run in found["runs"]]
    assert starts == sorted(starts)
    assert starts[2] == pytest.approx(sample["runs"][0]["start"] + 5)
    assert found["elapsed"] == pytest.approx(sample["elapsed"] + 5)
    assert found["omitted"] == 2
    (tmp_path / "a.json").write_text(json.dumps(sample), encoding="utf-8")
    (tmp_path / "b.json").write_text("damaged", encoding="utf-8")
    (tmp_path / "c.json").write_text('{"schema": 99}', encoding="utf-8")
    write_index(str(tmp_path))
    assert "<html" in (tmp_path / "index.html").read_text(encoding="utf-8")
