"""A terminal of 80 columns that nobody sees: tmux, with a server of its own."""

from __future__ import annotations

import html
import os
import shlex
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType

_PAGE = """<!DOCTYPE html><meta charset="utf-8"><title>a terminal</title>
<style>body {{ margin: 0; background: #14181d; color: #e6eaee }}
pre {{ margin: 0; padding: 12px; display: inline-block; font: 14px/1.25 "DejaVu Sans Mono", monospace }}</style>
<pre>{}</pre>"""


class Terminal:
    """A terminal in which one command runs. Use it in a ``with`` statement.

    Parameters
    ----------
    command
        The command, as a shell reads it.
    folder
        The folder in which it runs.
    path
        Where it finds programs: its variable ``PATH``.
    height
        The number of lines.

    Raises
    ------
    FileNotFoundError
        If tmux is not installed.
    """

    def __init__(self, command: str, folder: Path, path: str, height: int = 40) -> None:
        if shutil.which("tmux") is None:
            raise FileNotFoundError("tmux is not installed. On Debian and Ubuntu: apt install tmux")
        self._folder = tempfile.TemporaryDirectory(prefix="shoal-pictures-")
        self._tmux = ["tmux", "-S", f"{self._folder.name}/socket", "-f", os.devnull]
        size = ["-x", "80", "-y", str(height)]
        # The terminal stays when the command has ended, so that what it wrote can be read.
        self._run("new-session", "-d", *size, "cat")
        self._run("set-option", "-g", "remain-on-exit", "on")
        self._run("set-option", "-g", "remain-on-exit-format", "")
        self._run("respawn-pane", "-k", "-c", str(folder), f"PATH={shlex.quote(path)} {command}")

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run("kill-server")
        self._folder.cleanup()

    def text(self, contains: str, seconds: float = 30) -> str:
        """Return what the terminal shows, once a text is in it.

        Raises
        ------
        TimeoutError
            If the text does not come within so many seconds.
        """
        end = time.monotonic() + seconds
        while contains not in (shown := self._run("capture-pane", "-p")):
            if time.monotonic() > end:
                raise TimeoutError(f"the terminal does not show {contains!r} but:\n{shown}")
            time.sleep(0.1)
        return shown.rstrip()

    def _run(self, *arguments: str) -> str:
        return subprocess.run([*self._tmux, *arguments], check=True, capture_output=True, text=True).stdout


def as_page(text: str, file: Path) -> None:
    """Write a text as a page that looks like a terminal."""
    file.write_text(_PAGE.format(html.escape(text)), encoding="utf-8")
