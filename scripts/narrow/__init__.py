"""Runs a command on a Linux that has no more than macOS and Windows have: :func:`run`.

::

    unshare --mount ──> enter ──> /proc kept in a folder of build/, then covered by an empty one
                                  /dev/shm: empty and small, for semaphores
                                  the command, with sitecustomize.py of this folder

Without root, a user namespace is made, if the system allows that.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
SEEN = ROOT / "build" / "narrow" / "proc"


def here() -> bool:
    """Tell whether this process runs on the narrow system."""
    return "TESTS_PROC" in os.environ


def run(command: Sequence[str], open_files_stay: bool) -> int:
    """Run a command in a namespace of mounts of its own; return its exit code.

    Parameters
    ----------
    command
        The command. Python processes below it find sitecustomize.py.
    open_files_stay
        Whether files that are open are neither removed nor replaced, as on Windows. This makes removals slow.
    """
    SEEN.mkdir(parents=True, exist_ok=True)
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    code = f"from scripts.narrow import enter; enter({list(command)!r}, {open_files_stay})"
    return subprocess.run(["unshare", "--mount", *user, sys.executable, "-c", code], cwd=ROOT, check=False).returncode


def enter(command: Sequence[str], open_files_stay: bool) -> None:
    """Hide /proc from this process, and replace it by the command."""
    for mount in (
        ["--make-rprivate", "/"],
        ["--rbind", "/proc", str(SEEN)],
        ["-t", "tmpfs", "-o", "size=512k", "none", "/dev/shm"],
        ["-t", "tmpfs", "-o", "ro", "none", "/proc"],
    ):
        subprocess.run(["mount", *mount], check=True)
    path = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "TESTS_PROC": str(SEEN)}
    if open_files_stay:
        environment["TESTS_OPEN_FILES"] = "stay"
    os.execve(command[0], command, environment)
