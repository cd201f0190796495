"""How much a file that nobody trusts may have the process take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from shoal.errors import FileLimitError

#: By default, a file may take so many bytes, and so many for each of its own.
FLOOR, RATIO = 2**26, 4000
#: An opcode of one byte makes an object of some so many.
PER_OPCODE = 64


class Misuse(Exception):
    """Something is done that pickle does not do, and nobody can go on; the text says what."""


class Budget:
    """Counts the bytes that loading a file would take, before they are taken.

    Parameters
    ----------
    name
        The file's name.
    limit
        How many it may take; by default, `FLOOR` and `RATIO` times the file's size.
    size
        The number of the file's bytes; None if nobody knows.
    count
        Returns how many were read so far, if nobody knows how many there are.
    """

    def __init__(self, name: str, limit: int | None, size: int | None, count: Callable[[], int] | None = None) -> None:
        self._name, self._taken = name, 0
        self._end = limit if limit is not None else FLOOR + RATIO * (size or 0)
        self._count = count if limit is None and size is None else None

    def charge(self, nbytes: int) -> None:
        """Take note of some bytes.

        Raises
        ------
        FileLimitError
            If these are too many.
        """
        self._taken += nbytes
        if self._taken > self._end:
            if self._count is not None:
                self._end = FLOOR + RATIO * self._count()
                if self._taken <= self._end:
                    return
            raise FileLimitError(self._name, self._end)


def checked_limit(limit: Any) -> int | None:
    """Return what ``max_bytes=`` says.

    Raises
    ------
    TypeError, ValueError
        If it is no number of bytes.
    """
    if limit is None:
        return None
    if isinstance(limit, bool) or not isinstance(limit, int):
        raise TypeError(f"max_bytes takes a number of bytes, got: {limit!r}")
    if limit < 0:
        raise ValueError(f"max_bytes must be 0 or more, got: {limit}")
    return limit
