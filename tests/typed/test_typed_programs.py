"""What type checkers say of users' programs. `make types` asks mypy and pyright about all of them; this asks mypy."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from _children import run_program

HERE = Path(__file__).parent
PROGRAMS = sorted((HERE / "programs").glob("*.py"))


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_a_program_runs(program: Path, tmp_path: Path) -> None:
    environment = {**os.environ, **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(tmp_path))}  # its folders stay
    done = run_program([sys.executable, "-W", "error", str(program)], 100, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_mypy_agrees_with_the_types_of_a_program(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    options = ["--strict", "--config-file=", f"--cache-dir={tmp_path}"]
    done = run_program([sys.executable, "-m", "mypy", *options, str(HERE / "programs" / "calls.py")], 100)
    assert done.stdout == "Success: no issues found in 1 source file\n"
