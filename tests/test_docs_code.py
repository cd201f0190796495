"""The programs and commands on the pages of the documentation run, the programs without a warning."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from _children import run_program, runnable, with_assertions
from _docs import PAGES, commands_of, name_of, program_of


@pytest.mark.parametrize("page", [page for page in PAGES if program_of(page)], ids=name_of)
def test_the_program_of_a_page_runs(page: Path, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(program_of(page), encoding="utf-8")
    # On free-threaded Pythons, modules that are not made for them switch the lock on, with a warning.
    filters = ["-W", "error", "-W", "ignore:The global interpreter lock:RuntimeWarning"]
    filters += ["-W", "ignore:Port 8787 is already in use:UserWarning"]  # another program uses dask's
    environment = with_assertions({**os.environ, "PYTHONIOENCODING": "utf-8"})
    ran = run_program([sys.executable, *filters, runnable(program)], 100, cwd=tmp_path, env=environment)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.skipif(os.name != "posix", reason="the commands are for a POSIX shell")
@pytest.mark.parametrize("page", [page for page in PAGES if commands_of(page)], ids=name_of)
def test_the_commands_of_a_page_run(page: Path, tmp_path: Path) -> None:
    commands = commands_of(page)
    for name in re.findall(r"[\w-]+\.py", commands):  # the page has it, or it is the reader's
        program = program_of(page) if name == "first.py" else "import joblib; print(joblib.cpu_count())"
        (tmp_path / name).write_text(program, encoding="utf-8")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    ran = run_program(["/bin/sh", "-ec", commands], 100, cwd=tmp_path, env={**os.environ, "PATH": path})
    assert ran.returncode == 0, ran.stderr
