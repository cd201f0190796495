"""The environment of child processes: where they find the modules of the tests, and that they check assertions."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

TESTS = Path(__file__).parent


def path_of_tests() -> str:
    """Return the folders of tests/ that this process imports from, as a value of ``PYTHONPATH``."""
    return os.pathsep.join(path for path in sys.path if Path(path).is_relative_to(TESTS))


def with_assertions(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which a program checks its own assertions, also if the tests run under `python -O`."""
    return {name: value for name, value in environment.items() if name != "PYTHONOPTIMIZE"}
