"""Durations of calls: a histogram, the sum and some quantiles, in memory that does not grow with their number."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from typing import Any

#: The edges of the histogram, in seconds: four bins a decade, from 0.1 us to a million seconds.
EDGES = tuple(10.0 ** (step / 4) for step in range(-28, 25))
#: Up to so many calls, quantiles are exact.
MOST_EXACT = 100_000
_FOLD_AT = 4096


class Durations:
    """The durations of the calls of one run, in seconds.

    Notes
    -----
    Not thread-safe.
    """

    def __init__(self) -> None:
        self._pending = array("d")
        self._exact: array[float] | None = array("d")
        self._counts = [0] * (len(EDGES) - 1)
        self._total = 0.0
        self._number = 0
        self._shortest = float("inf")
        self._longest = 0.0

    def add(self, durations: array[float]) -> None:
        """Add the durations of some calls."""
        self._pending.extend(map(float, durations))
        if len(self._pending) > _FOLD_AT:
            self._fold()

    def add_one(self, duration: float) -> None:
        """Add the duration of one call."""
        self._pending.append(duration)
        if len(self._pending) > _FOLD_AT:
            self._fold()

    def _fold(self) -> None:
        values = sorted(self._pending)
        if not values:
            return
        self._pending = array("d")
        self._number += len(values)
        self._total += sum(values)
        self._shortest = min(self._shortest, values[0])
        self._longest = max(self._longest, values[-1])
        last = 0
        for number, edge in enumerate(EDGES[1:-1]):  # shorter ones are in the first bin, longer ones in the last
            end = bisect_left(values, edge, last)
            self._counts[number] += end - last
            last = end
        self._counts[-1] += len(values) - last
        if self._exact is not None:
            self._exact.extend(values)
            if len(self._exact) > MOST_EXACT:
                self._exact = None

    def summary(self) -> dict[str, Any]:
        """Return the fields ``seconds``, ``shortest``, ``mean``, ``median``, ``p90`` and ``longest`` of ``calls``."""
        self._fold()
        if not self._number:
            return {"seconds": 0.0, **dict.fromkeys(("shortest", "mean", "median", "p90", "longest"))}
        values = None if self._exact is None else sorted(self._exact)
        return {
            "seconds": self._total,
            "shortest": self._shortest,
            "mean": self._total / self._number,
            "median": self._quantile(0.5, values),
            "p90": self._quantile(0.9, values),
            "longest": self._longest,
        }

    def histogram(self) -> dict[str, Any]:
        """Return the edges and the counts of the bins, from the first to the last that is not empty."""
        self._fold()
        used = [number for number, count in enumerate(self._counts) if count]
        if not used:
            return {"edges": [], "counts": []}
        first, end = used[0], used[-1] + 1
        return {"edges": list(EDGES[first : end + 1]), "counts": self._counts[first:end]}

    def _quantile(self, share: float, values: list[float] | None) -> float:
        if values is not None:
            return values[min(int(share * len(values)), len(values) - 1)]
        left = share * self._number
        for number, count in enumerate(self._counts):
            left -= count
            if left < 0:
                middle = (EDGES[number] * EDGES[number + 1]) ** 0.5
                return float(min(max(middle, self._shortest), self._longest))
        return self._longest
