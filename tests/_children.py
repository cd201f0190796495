"""The environment of child processes: where they find the modules of the tests, and that they check assertions."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

TESTS = Path(__file__).parent

SPAWNED = os.environ.get("SHOAL_START_METHOD") == "spawn"
#: For tests of programs without a main guard.
without_guard = pytest.mark.skipif(SPAWNED, reason="spawned workers import the main module, which needs a guard")


def path_of_tests() -> str:
    """Return the folders of tests/ that this process imports from, as a value of ``PYTHONPATH``."""
    return os.pathsep.join(path for path in sys.path if Path(path).is_relative_to(TESTS))


def with_assertions(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which a program checks its own assertions, also if the tests run under `python -O`."""
    return {name: value for name, value in environment.items() if name != "PYTHONOPTIMIZE"}


def runnable(program: Path) -> Path:
    """Return the file to start for a program without a main guard.

    With ``SHOAL_START_METHOD=spawn``, workers import the main module, so that another file runs the program under a
    guard. Else it is the program itself.
    """
    if not SPAWNED:
        return program
    text = f"exec(compile({program.read_text()!r}, {str(program)!r}, 'exec'))"
    starter = program.with_name(f"start-{program.name}")
    starter.write_text(f'if __name__ == "__main__":\n    {text}\n')
    return starter
