"""Many processes use one store, and some of them are killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from _capabilities import SLOWNESS, needs_fork


@needs_fork
def test_a_store_survives_killed_processes(tmp_path: Path) -> None:
    script = Path(__file__).with_name("_store_stress.py")
    command = [sys.executable, "-W", "error", str(script), str(tmp_path / "cache"), "6", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100 * SLOWNESS, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)
