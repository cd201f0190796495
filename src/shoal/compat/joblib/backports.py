"""Comparable versions, memory maps, and renaming."""

from __future__ import annotations

import functools
import re
from typing import Any, ClassVar

from shoal._platform.files import replace

__all__ = ["LooseVersion", "Version", "concurrency_safe_rename", "make_memmap"]


@functools.total_ordering
class Version:
    """A version, as a string (``vstring``) and as a list of parts (``version``), by which it is compared."""

    vstring: str
    version: list[Any]

    def __init__(self, vstring: str | None = None) -> None:
        if vstring:
            self.parse(vstring)

    def parse(self, vstring: str) -> None:
        """Set ``vstring`` and ``version`` from a string."""
        raise NotImplementedError

    def _cmp(self, other: Any) -> Any:
        """Return a negative number, 0 or a positive number, as this version is lower, equal or higher."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__} ('{self}')"

    def __eq__(self, other: object) -> Any:
        order = self._cmp(other)
        return order if order is NotImplemented else order == 0

    def __lt__(self, other: object) -> Any:
        order = self._cmp(other)
        return order if order is NotImplemented else order < 0

    __hash__: ClassVar[None] = None  # type: ignore[assignment]


class LooseVersion(Version):
    """A version of any form, whose numbers are compared as numbers and whose other parts as text."""

    component_re: ClassVar[re.Pattern[str]] = re.compile(r"\d+|[a-z]+|[^\d.a-z]+")

    def parse(self, vstring: str) -> None:
        """Set ``vstring`` and ``version`` from a string."""
        self.vstring = vstring
        self.version: list[Any] = [int(part) if part.isdigit() else part for part in self.component_re.findall(vstring)]

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
    """Return a ``numpy.memmap``. `unlink_on_gc_collect` is ignored: files are removed with their folder."""
    import numpy as np

    return np.memmap(filename, dtype=dtype, mode=mode, offset=offset, shape=shape, order=order)


def concurrency_safe_rename(src: Any, dst: Any) -> None:
    """Rename a file over another. On Windows, try again for a second while another process has it open."""
    replace(src, dst)
