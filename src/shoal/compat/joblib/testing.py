"""pytest under the names of joblib's tests."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings
from typing import Any

import pytest

from shoal._tracebacks import warn

__all__ = [
    "SkipTest",
    "check_subprocess_call",
    "fixture",
    "param",
    "parametrize",
    "raises",
    "skipif",
    "timeout",
    "warnings_to_stdout",
    "warns",
    "xfail",
]

raises: Any = pytest.raises
warns: Any = pytest.warns
SkipTest: Any = pytest.skip.Exception
skipif: Any = pytest.mark.skipif
fixture: Any = pytest.fixture
parametrize: Any = pytest.mark.parametrize
timeout: Any = pytest.mark.timeout
xfail: Any = pytest.mark.xfail
param: Any = pytest.param


def warnings_to_stdout() -> None:
    """Print warnings on stdout, with the base names of their files and without source lines."""
    show = warnings.showwarning

    def showwarning(msg: Any, cat: Any, fname: str, lno: int, file: Any = None, line: Any = 0) -> None:
        show(msg, cat, os.path.basename(fname), line, sys.stdout)

    warnings.showwarning = showwarning  # type: ignore[assignment]


def check_subprocess_call(
    cmd: Any, timeout: float | None = 5, stdout_regex: str | None = None, stderr_regex: str | None = None
) -> None:
    """Run a command.

    Raises
    ------
    ValueError
        If it fails, or its output does not match.

    Warns
    -----
    UserWarning
        If it is ended because it takes longer than `timeout` seconds.
    """
    process = subprocess.Popen(cmd, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    for end in (process.terminate, process.kill, None):
        try:
            printed = process.communicate(timeout=None if end is None else timeout)
            break
        except subprocess.TimeoutExpired:
            warn(f"Timeout running {cmd}")
            end()  # type: ignore[misc] # without `end` there is no timeout
    stdout, stderr = (text.decode() for text in printed)
    if process.returncode != 0:
        raise ValueError(f"Non-zero return code: {process.returncode}.\nStdout:\n{stdout}\nStderr:\n{stderr}")
    for name, regex, text in (("stdout", stdout_regex, stdout), ("stderr", stderr_regex, stderr)):
        if regex is not None and not re.search(regex, text):
            raise ValueError(f"Unexpected {name}: {regex!r} does not match:\n{text!r}")
