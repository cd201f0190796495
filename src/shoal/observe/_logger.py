"""Logger: the base class of objects that write to ``logging``; and values and times as text."""

from __future__ import annotations

import sys
from typing import Any, Protocol


class LogsInfo(Protocol):
    """A logger, of :mod:`logging` or another one."""

    def info(self, msg: Any, /, *args: Any) -> object:
        """Log a message."""


class Logger:
    """Writes messages to the ``logging`` module, each with the repr of this object in front.

    Parameters
    ----------
    depth : int, default 3
        The nesting depth to which :meth:`format` shows objects.
    name : str, optional
        The name of the logger; "shoal" by default.
    """

    def __init__(self, depth: int = 3, name: str | None = None) -> None:
        self.depth = depth
        self._name = name or "shoal"

    def warn(self, msg: str) -> None:
        """Log a message at level WARNING."""
        import logging

        logging.getLogger(self._name).warning("[%s]: %s", self, msg)

    def info(self, msg: str) -> None:
        """Log a message at level INFO."""
        import logging

        logging.getLogger(self._name).info("[%s]: %s", self, msg)

    def debug(self, msg: str) -> None:
        """Log a message at level DEBUG."""
        import logging

        logging.getLogger(self._name).debug("[%s]: %s", self, msg)

    def format(self, obj: Any, indent: int = 0) -> str:
        """Return an object as text, nested objects down to ``depth``."""
        return pformat(obj, indent, self.depth)


def pformat(obj: Any, indent: int = 0, depth: int = 3) -> str:
    """Return an object as text. Arrays are shortened to a few elements with a few digits each."""
    import contextlib
    import pprint

    numpy = sys.modules.get("numpy")
    short_arrays: Any = contextlib.nullcontext()
    if numpy is not None:
        short_arrays = numpy.printoptions(precision=6, threshold=64, edgeitems=1)
    with short_arrays:
        return pprint.pformat(obj, depth=depth, indent=indent)


def format_time(seconds: float) -> str:
    """Return a duration in seconds and in minutes: ``'12.3s, 0.2min'``."""
    return f"{seconds:.1f}s, {seconds / 60:.1f}min"
