"""Where a child process finds the modules of the tests."""

from __future__ import annotations

import os
import sys
from pathlib import Path

TESTS = Path(__file__).parent


def path_of_tests() -> str:
    """Return the folders of tests/ that this process imports from, as a value of ``PYTHONPATH``."""
    return os.pathsep.join(path for path in sys.path if Path(path).is_relative_to(TESTS))
