"""How many results there are, and how often they were of use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from threading import get_ident

from shoal.memory.store import Entry


class Counts:
    """How often a function's results were found, and not, in this process."""

    __slots__ = ("_of_threads",)

    def __init__(self) -> None:
        # Each thread changes its own: there is no lock that a fork could leave taken.
        self._of_threads: dict[int, list[int]] = {}

    def hit(self) -> None:
        """Count a result that was found."""
        self._of_threads.setdefault(get_ident(), [0, 0])[0] += 1

    def miss(self) -> None:
        """Count one that was not."""
        self._of_threads.setdefault(get_ident(), [0, 0])[1] += 1

    @property
    def hits(self) -> int:
        """How often a result was found."""
        return sum(counts[0] for counts in list(self._of_threads.values()))

    @property
    def misses(self) -> int:
        """How often one was computed."""
        return sum(counts[1] for counts in list(self._of_threads.values()))


@dataclass
class FunctionInfo:
    """The results of one function.

    Attributes
    ----------
    entries, nbytes
        How many are kept, and the bytes that they take.
    hits, misses
        How often this process has found one, and not.
    """

    entries: int = 0
    nbytes: int = 0
    hits: int = 0
    misses: int = 0


@dataclass
class MemoryInfo(FunctionInfo):
    """All results, and those of each function.

    Attributes
    ----------
    functions
        A :class:`FunctionInfo` by the path of each function.
    """

    functions: dict[str, FunctionInfo] = field(default_factory=dict)

    @classmethod
    def of(cls, entries: Iterable[Entry], counts: Mapping[str, Counts]) -> MemoryInfo:
        """Count."""
        info = cls()
        for entry in entries:
            function = info.functions.setdefault(entry.key.function, FunctionInfo())
            for each in (info, function):
                each.entries += 1
                each.nbytes += entry.nbytes
        for path, count in list(counts.items()):
            function = info.functions.setdefault(path, FunctionInfo())
            for each in (info, function):
                each.hits += count.hits
                each.misses += count.misses
        return info
