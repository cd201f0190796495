"""The command line in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SHOAL = (sys.executable, "-m", "shoal")
PYTHON = (sys.executable,)


def run(command: Sequence[str], *arguments: str, cwd: Path | None = None, **options: Any) -> Any:
    """Run a command; return its exit code, its output and what it wrote to stderr."""
    done = subprocess.run(
        [*command, *arguments],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        **options,
    )
    return done.returncode, done.stdout, done.stderr
