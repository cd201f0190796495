"""Which leases wait for which: the edges of a graph, which all callers and processes share.

An edge is an empty file in a folder, whose name is "owned-wanted-number". A name appears and disappears in one step, so
other processes never see half of one. Symbolic links would do as well, but few users of Windows may make them.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Collection

from shoal._output import write_new
from shoal.memory.storage._paths import make_own_folder

#: A lease that is owned, the lease that its owner waits for, and a number that tells edges of one process apart.
Edge = tuple[int, int, int]

_is_edge = re.compile("[0-9a-f]{1,16}-[0-9a-f]{1,16}-[0-9a-f]+").fullmatch


class Edges:
    """The edges in a folder, or with None, those of this process. Thread-safe."""

    def __init__(self, folder: str | None) -> None:
        self._folder = folder
        self.reset()

    def reset(self) -> None:
        """Forget the edges of this process: a forked child waits for nothing."""
        self._mine: set[Edge] = set()
        self._counter = itertools.count()

    def add(self, owned: Collection[int], wanted: int) -> list[Edge]:
        """Record that the owner of some leases waits for another one; return the edges, for :meth:`remove`.

        Raises
        ------
        OSError
            If that fails. Then no edge is recorded.
        """
        added = [(number, wanted, next(self._counter)) for number in owned]
        self._mine.update(added)
        if self._folder is not None:
            try:
                make_own_folder(self._folder)
                for edge in self._found():
                    if edge[0] in owned and edge not in self._mine:  # a killed process has left it
                        self._unlink(edge)
                for edge in added:
                    write_new(self._path(edge), b"")
            except BaseException:
                self.remove(added)
                raise
        return added

    def remove(self, edges: list[Edge]) -> None:
        """Remove edges of this process."""
        for edge in edges:
            if self._folder is not None:
                self._unlink(edge)
            self._mine.discard(edge)

    def forget(self, owned: int) -> None:
        """Remove the edges from a lease that nobody owns."""
        for edge in self._found():
            if edge[0] == owned:
                self._unlink(edge)

    def graph(self) -> dict[int, list[int]]:
        """Return the leases that are wanted by the owner of each lease."""
        found: dict[int, list[int]] = {}
        for owned, wanted, _ in list(self._mine) if self._folder is None else self._found():
            found.setdefault(owned, []).append(wanted)
        return found

    def lead(self, wanted: int, owned: Collection[int]) -> bool:
        """Return whether the edges lead from a lease to one of some leases."""
        graph, left, seen = self.graph(), [wanted], {wanted}
        while left:
            number = left.pop()
            if number in owned:
                return True
            further = set(graph.get(number, ())) - seen
            seen |= further
            left += further
        return False

    def _found(self) -> list[Edge]:
        """Return the edges that the folder contains."""
        folder = self._folder
        try:
            names = [] if folder is None or os.path.islink(folder) else os.listdir(folder)
        except OSError:
            return []
        edges = (name.split("-") for name in names if _is_edge(name))
        return [(int(owned, 16), int(wanted, 16), int(number, 16)) for owned, wanted, number in edges]

    def _path(self, edge: Edge) -> str:
        assert self._folder is not None
        return os.path.join(self._folder, "-".join(f"{number:x}" for number in edge))

    def _unlink(self, edge: Edge) -> None:
        try:
            os.unlink(self._path(edge))
        except OSError:
            pass
