"""Runs the tests on a narrow Linux: ``python -m scripts.narrow``.

Arguments are those of pytest; without any, the parts of the suite run that depend on the system.
"""

from __future__ import annotations

import sys

from scripts.narrow import run

#: The parts of the suite that depend most on the system. Other tests can be named; some of them need guards for
#: spawned workers.
PARTS = """
    _platform memory test_sizes.py test_output.py test_published_files.py test_cpus.py
    backends/test_backends.py backends/test_blas.py backends/test_slots.py backends/test_channel.py
    parallel/test_batch.py parallel/test_by_value.py
"""


def tests() -> list[str]:
    """Return the tests to run unless some are named."""
    return [f"tests/{name}" for name in PARTS.split()]


if __name__ == "__main__":
    command = [sys.executable, "-m", "pytest", "-n", "2", *(sys.argv[1:] or tests())]
    sys.exit(run(command, open_files_stay=True))
