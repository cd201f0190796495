"""What objects say by way of ``logging``, and how they show values."""

from __future__ import annotations

import sys
from typing import Any


class Logger:
    """Says things in the log, under the name "shoal", with its own repr before them.

    Parameters
    ----------
    depth
        How deep nested objects are shown by :meth:`format`.
    name
        The name of the log.
    """

    def __init__(self, depth: int = 3, name: str | None = None) -> None:
        self.depth = depth
        self._name = name or "shoal"

    def warn(self, msg: str) -> None:
        """Log a warning."""
        import logging

        logging.getLogger(self._name).warning("[%s]: %s", self, msg)

    def info(self, msg: str) -> None:
        """Log what may be of interest."""
        import logging

        logging.getLogger(self._name).info("[%s]: %s", self, msg)

    def debug(self, msg: str) -> None:
        """Log what is of interest to developers."""
        import logging

        logging.getLogger(self._name).debug("[%s]: %s", self, msg)

    def format(self, obj: Any, indent: int = 0) -> str:
        """Return an object as text."""
        return pformat(obj, indent, self.depth)


def pformat(obj: Any, indent: int = 0, depth: int = 3) -> str:
    """Return an object as text, arrays in few digits and elements."""
    import contextlib
    import pprint

    numpy = sys.modules.get("numpy")
    terse: Any = contextlib.nullcontext()
    if numpy is not None:
        terse = numpy.printoptions(precision=6, threshold=64, edgeitems=1)
    with terse:
        return pprint.pformat(obj, depth=depth, indent=indent)


def format_time(seconds: float) -> str:
    """Return a time in seconds and minutes: ``'12.3s, 0.2min'``."""
    return f"{seconds:.1f}s, {seconds / 60:.1f}min"
