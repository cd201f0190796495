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

#: Tests that do not depend on what a system has: they run on any.
OTHERS = "parallel/options cli compat differential reports hashing observe/test_notebook.py backends/test_ray.py"
OTHERS += " backends/test_dask.py test_tests.py test_architecture.py"


def tests() -> list[str]:
    """Return the arguments of pytest that choose the tests which depend on the system."""
    return ["tests", *(f"--ignore=tests/{name}" for name in OTHERS.split())]


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
