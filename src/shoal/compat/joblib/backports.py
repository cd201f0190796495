"""Versions that can be compared, memory maps, and renaming."""

from __future__ import annotations

import functools
import os
import re
import time
from typing import Any

__all__ = ["LooseVersion", "Version", "concurrency_safe_rename", "make_memmap"]

_ACCESS_DENIED = (5, 13)


@functools.total_ordering
class Version:
    """Something with ``vstring`` and ``version``, of which the latter is compared."""

    vstring: str
    version: list[Any]

    def __init__(self, vstring: str | None = None) -> None:
        if vstring:
            self.parse(vstring)

    def parse(self, vstring: str) -> None:
        """Take a version apart."""
        raise NotImplementedError

    def _cmp(self, other: Any) -> Any:
        """Return a number less than, equal to or greater than 0, as the versions compare."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__} ('{self}')"

    def __eq__(self, other: object) -> Any:
        order = self._cmp(other)
        return order if order is NotImplemented else order == 0

    def __lt__(self, other: object) -> Any:
        order = self._cmp(other)
        return order if order is NotImplemented else order < 0

    __hash__ = None  # type: ignore[assignment]


class LooseVersion(Version):
    """A version of any form: its numbers are compared as numbers, the rest as text."""

    component_re = re.compile(r"\d+|[a-z]+|[^\d.a-z]+")

    def parse(self, vstring: str) -> None:
        """Take a version apart."""
        self.vstring = vstring
        self.version = [int(part) if part.isdigit() else part for part in self.component_re.findall(vstring)]

    def __str__(self) -> str:
        return self.vstring

    def _cmp(self, other: Any) -> Any:
        if isinstance(other, str):
            other = LooseVersion(other)
        if not isinstance(other, LooseVersion):
            return NotImplemented
        return (self.version > other.version) - (self.version < other.version)


def make_memmap(
    filename: Any,
    dtype: Any = "uint8",
    mode: Any = "r+",
    offset: int = 0,
    shape: Any = None,
    order: Any = "C",
    unlink_on_gc_collect: bool = False,
) -> Any:
    """Return a ``numpy.memmap``. Files that are there for workers only go with their folder: `unlink_on_gc_collect`."""
    import numpy as np

    return np.memmap(filename, dtype=dtype, mode=mode, offset=offset, shape=shape, order=order)


def concurrency_safe_rename(src: Any, dst: Any) -> None:
    """Rename a file over another; on Windows try again for a second where somebody else has it open."""
    pause, until = 0.001, time.monotonic() + 1
    while True:
        try:
            os.replace(src, dst)
            return
        except OSError as error:
            if getattr(error, "winerror", None) not in _ACCESS_DENIED or time.monotonic() > until:
                raise
        time.sleep(pause)
        pause *= 2
