"""Random pickle programs: ``make fuzz`` runs many, this file a few. A program that runs code would be noticed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from _capabilities import SLOWNESS, needs_proc

pytestmark = needs_proc  # the script measures itself as Linux allows

ROOT = Path(__file__).parents[3]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "scripts.pickle_fuzz", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100 * SLOWNESS)


@pytest.mark.parametrize("seed", [0, 2_000_000])
def test_random_programs_run_nothing(seed: int) -> None:
    done = run("--programs=150", f"--seed={seed}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "150 programs: none ran code, crashed or hung" in done.stdout


def test_a_program_that_runs_code_is_noticed() -> None:
    program = """
import shoal, io, sys
from scripts import pickle_fuzz
heard = pickle_fuzz.Heard()
shoal.load = lambda file, trusted=None: trusted is not None and __import__("os").listxattr(".")
shoal.inspect = lambda file: None
try:
    pickle_fuzz.check(0, heard)
except AssertionError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=100 * SLOWNESS
    )
    assert "seed 0, trusted: [\"os.listxattr ('.',)\"]" in done.stdout, done.stdout + done.stderr
