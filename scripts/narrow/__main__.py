"""Runs the tests on a Linux that has no more than macOS and Windows have: ``python -m scripts.narrow``.

::

    unshare --mount ──> this module, once more ──> /proc kept in a folder of build/, then covered by an empty one
                                                   /dev/shm: empty and small, for semaphores
                                                   pytest, with sitecustomize.py of this folder

Arguments are those of pytest; without any, the parts of the suite run that depend on the system. Without root, a
user namespace is made, if the system allows that.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
SEEN = ROOT / "build" / "narrow" / "proc"

#: The parts of the suite that depend most on the system. Other tests can be named; some of them need guards for
#: spawned workers.
PARTS = """
    _platform memory test_sizes.py test_published_files.py test_cpus.py backends/test_blas.py backends/test_slots.py
    backends/test_channel.py parallel/test_batch.py parallel/test_by_value.py
"""


def tests() -> list[str]:
    """Return the tests to run unless some are named."""
    return [f"tests/{name}" for name in PARTS.split()]


def outside(arguments: list[str]) -> int:
    """Start this module again, in a namespace of mounts of its own."""
    SEEN.mkdir(parents=True, exist_ok=True)
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    command = ["unshare", "--mount", *user, sys.executable, "-m", "scripts.narrow", "--inside", *arguments]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


def inside(arguments: list[str]) -> None:
    """Hide /proc, and become pytest."""
    for command in (
        ["mount", "--make-rprivate", "/"],
        ["mount", "--rbind", "/proc", str(SEEN)],
        ["mount", "-t", "tmpfs", "-o", "size=512k", "none", "/dev/shm"],
        ["mount", "-t", "tmpfs", "-o", "ro", "none", "/proc"],
    ):
        subprocess.run(command, check=True)
    path = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "TESTS_PROC": str(SEEN)}
    os.execve(sys.executable, [sys.executable, "-m", "pytest", "-n", "2", *(arguments or tests())], environment)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        inside(sys.argv[2:])
    sys.exit(outside(sys.argv[1:]))
