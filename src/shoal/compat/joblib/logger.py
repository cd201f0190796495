"""joblib's ``Logger`` and ``PrintTime``, and the formatting of times and objects."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from typing import Any

__all__ = ["Logger", "PrintTime", "format_time", "pformat", "short_format_time"]

_OLD_LOGS = 9


def _squeeze_time(t: float) -> float:
    # On Windows, starting a process takes 0.1 s.
    return max(0, t - 0.1) if sys.platform.startswith("win") else t


def format_time(t: float) -> str:
    """Format seconds as seconds and minutes."""
    t = _squeeze_time(t)
    return f"{t:.1f}s, {t / 60:.1f}min"


def short_format_time(t: float) -> str:
    """Format seconds as seconds, or as minutes if it is more than one minute."""
    t = _squeeze_time(t)
    return f"{t / 60:4.1f}min" if t > 60 else f" {t:5.1f}s"


def pformat(obj: Any, indent: int = 0, depth: int = 3) -> str:
    """Format an object, with arrays abbreviated."""
    import pprint

    numpy = sys.modules.get("numpy")
    short: Any = contextlib.nullcontext()
    if numpy is not None:
        short = numpy.printoptions(precision=6, threshold=64, edgeitems=1)
    with short:
        return pprint.pformat(obj, depth=depth, indent=indent)


class Logger:
    """Base class of objects that log messages, each of which begins with the object.

    Parameters
    ----------
    depth
        The number of nested levels that :meth:`format` shows.
    name
        The name of the logger; "joblib" by default.
    """

    depth: int = 3
    _name: str = "joblib"

    def __init__(self, depth: int = 3, name: str | None = None) -> None:
        self.depth = depth
        self._name = name or "joblib"

    def warn(self, msg: str) -> None:
        """Log a warning."""
        import logging

        logging.getLogger(self._name).warning("[%s]: %s", self, msg)

    def info(self, msg: str) -> None:
        """Log a message to the root logger."""
        import logging

        logging.info("[%s]: %s", self, msg)  # noqa: LOG015 as joblib does

    def debug(self, msg: str) -> None:
        """Log a message at debug level."""
        import logging

        logging.getLogger(self._name).debug("[%s]: %s", self, msg)

    def format(self, obj: Any, indent: int = 0) -> str:
        """Format an object."""
        return pformat(obj, indent=indent, depth=self.depth)


class PrintTime:
    """Prints messages with the time since the last one, on stderr and to a log file.

    Parameters
    ----------
    logfile, logdir
        The log file, or the folder of a log file ``joblib.log``. Older log files are kept with a number.

    Raises
    ------
    ValueError
        If both are given.
    """

    def __init__(self, logfile: str | None = None, logdir: str | None = None) -> None:
        if logfile is not None and logdir is not None:
            raise ValueError("Cannot specify both logfile and logdir")
        self.start_time: float = time.time()
        self.last_time: float = self.start_time
        self.logfile: str | None = logfile if logdir is None else os.path.join(logdir, "joblib.log")
        if self.logfile is None:
            return
        folder = os.path.dirname(self.logfile)
        if folder:
            os.makedirs(folder, exist_ok=True)
        # Another process may rotate the files at the same time. A log must not make the program fail.
        with contextlib.suppress(OSError):
            self._rotate(self.logfile)
        with contextlib.suppress(OSError), open(self.logfile, "w") as file:
            file.write(f"\nLogging joblib python script\n\n---{time.ctime(self.last_time)}---\n")

    @staticmethod
    def _rotate(logfile: str) -> None:
        if not os.path.exists(logfile):
            return
        for number in reversed(range(1, _OLD_LOGS)):
            if os.path.exists(f"{logfile}.{number}"):
                shutil.move(f"{logfile}.{number}", f"{logfile}.{number + 1}")
        shutil.copy(logfile, f"{logfile}.1")

    def __call__(self, msg: str = "", total: bool = False) -> None:
        """Print a message with the time since the last one or, with `total`, since this object was made."""
        now = time.time()
        if total:
            lapse = now - self.start_time
            line = f"{msg}: {lapse:.2f}s, {lapse / 60:.1f} min"
        else:
            line = f"{msg}: {format_time(now - self.last_time)}"
        print(line, file=sys.stderr)  # noqa: T201 its purpose
        if self.logfile is not None:
            with contextlib.suppress(OSError), open(self.logfile, "a") as file:
                print(line, file=file)
        self.last_time = time.time()
