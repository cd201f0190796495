"""What one worker did when, in a bounded number of rows.

::

    batch  |decode| call | call | call |encode|      |decode| call ...
           └──────── one row of batches ──────┘
                  └── rows of slices ──┘

If there are too many rows, neighbouring calls of a batch share a slice; then neighbouring batches share a row.
"""

from __future__ import annotations

from array import array
from typing import Any

#: The columns of a row of batches that add up if rows are joined.
_SUMS = ("batches", "calls", "decode", "run", "encode", "sent", "returned", "pickle", "unpickle")
BATCH_COLUMNS = ("start", "end", "first", *_SUMS)
SLICE_COLUMNS = ("start", "end", "first", "calls", "busy")

Row = dict[str, Any]


class Timeline:
    """The batches and the calls of one worker, in the order of time.

    Parameters
    ----------
    most
        The number of slices that are kept.

    Notes
    -----
    Not thread-safe.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        # Each batch, and its slices. Where calls do not travel, there is one batch None.
        self._batches: list[tuple[Row | None, list[Row]]] = []
        self._grain = 1  # the number of calls in a slice
        self._joined = 1  # the number of batches in a row
        self._slices = 0

    def add_batch(self, row: Row, began: float, durations: array[float]) -> None:
        """Add a batch, whose first call began at `began`."""
        slices = _sliced(began, row["end"], row["first"], durations, self._grain)
        self._slices += len(slices)
        if self._joined > 1 and self._batches:
            last, known = self._batches[-1]
            if last is not None and last["batches"] < self._joined:
                _join(last, row)
                known += slices
                self.limit(self._most)
                return
        self._batches.append((row, slices))
        self.limit(self._most)

    def add_call(self, start: float, end: float, index: int) -> None:
        """Add a call that did not travel."""
        if not self._batches:
            self._batches.append((None, []))
        slices = self._batches[0][1]
        row = {"start": start, "end": end, "first": index, "calls": 1, "busy": end - start}
        if slices and slices[-1]["calls"] < self._grain:
            _merge(slices[-1], row)
            return
        slices.append(row)
        self._slices += 1
        self.limit(self._most)

    def limit(self, most: int) -> None:
        """Keep at most `most` slices, and no more batches."""
        self._most = most
        while self._slices > most and self._slices > 1:
            if self._slices >= 2 * len(self._batches):
                self._grain *= 2
                self._batches = [(row, _in_pairs(slices)) for row, slices in self._batches]
            else:
                self._joined *= 2
                self._batches = _joined_in_pairs(self._batches)
            self._slices = sum(len(slices) for _, slices in self._batches)

    def rows(self) -> tuple[list[Row], list[Row]]:
        """Return the rows of batches, and those of slices. In slices, ``batch`` is the number of a batch, or -1."""
        batches: list[Row] = []
        found: list[Row] = []
        for row, slices in self._batches:
            number = -1
            if row is not None:
                number = len(batches)
                batches.append(row)
            found += [{**one, "batch": number} for one in slices]
        return batches, found


def _sliced(began: float, end: float, first: int, durations: array[float], grain: int) -> list[Row]:
    """Return slices of `grain` calls that follow each other from `began` on, and end before `end`."""
    slices = []
    start = began
    for position in range(0, len(durations), grain):
        part = durations[position : position + grain]
        busy = sum(part)
        stop = min(start + busy, end)
        row = {"start": min(start, end), "end": stop, "first": first + position, "calls": len(part), "busy": busy}
        slices.append(row)
        start = stop
    return slices


def _merge(slice_: Row, later: Row) -> None:
    slice_["end"] = later["end"]
    slice_["first"] = min(slice_["first"], later["first"])
    slice_["calls"] += later["calls"]
    slice_["busy"] += later["busy"]


def _in_pairs(slices: list[Row]) -> list[Row]:
    for one, other in zip(slices[::2], slices[1::2], strict=False):
        _merge(one, other)
    return slices[::2]


def _join(row: Row, later: Row) -> None:
    row["end"] = later["end"]
    row["first"] = min(row["first"], later["first"])
    for column in _SUMS:
        row[column] += later[column]


def _joined_in_pairs(batches: list[tuple[Row | None, list[Row]]]) -> list[tuple[Row | None, list[Row]]]:
    joined = batches[::2]
    for (row, slices), (later, more) in zip(batches[::2], batches[1::2], strict=False):
        if row is not None and later is not None:
            _join(row, later)
        slices += more
    return joined
