"""The environment of child processes: where they find the modules of the tests, and that they check assertions."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from _capabilities import FORKS, SLOWNESS

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


def run_program(command: Sequence[str], timeout: float, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a program with pipes; like ``subprocess.run``, but with a timeout for its children too.

    It is given in seconds on a machine of usual speed.

    They may hold the pipes open after the program has been killed.
    """
    pipes = dict.fromkeys(["stdout", "stderr"], subprocess.PIPE)
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, text=True, **pipes, **options) as process:
        try:
            out, err = process.communicate(timeout=timeout * SLOWNESS)
        except subprocess.TimeoutExpired:
            for one in [*psutil.Process(process.pid).children(recursive=True), process]:
                with contextlib.suppress(psutil.Error, OSError):
                    one.kill()
            raise AssertionError("it does not end:\n" + "\n".join(process.communicate())) from None
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def runnable(program: Path) -> Path:
    """Return the file to start for a program, which may lack a main guard.

    Spawned workers import the main module, so that another file runs the program under a guard. Workers are spawned
    with ``SHOAL_START_METHOD=spawn``, and for the backend "multiprocessing" where a system cannot fork.
    """
    source = program.read_text(encoding="utf-8")
    if (FORKS and not SPAWNED) or '__name__ == "__main__"' in source:
        return program
    text = f"exec(compile({source!r}, {str(program)!r}, 'exec'))"
    starter = program.with_name(f"start-{program.name}")
    starter.write_text(f'if __name__ == "__main__":\n    {text}\n')
    return starter
