"""What this process holds, sampled between rounds, and the lines through the samples."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import math
import os
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

SHARED_MEMORY = Path("/dev/shm")
#: Growth over the time of a soak that is no finding, by quantity. Memory: an allocator keeps what it has had. Processes
#: and what belongs to them: the pool has as many workers as the round before has used.
TOLERATED = {
    "MB": 4.0,
    "descriptors": 6.0,
    "threads": 2.0,
    "processes": 3.0,
    "files": 1.0,
    "shared": 1.0,
}
#: A slope counts that is so many standard errors above 0.
SIGNIFICANT = 3.0
#: The share of the first samples that count as warming up.
WARM_UP = 0.3


class Line(NamedTuple):
    """A line through samples.

    Attributes
    ----------
    slope, error
        What a quantity grows by in a second, and the standard error of that.
    seconds
        The time from the first to the last sample.
    """

    slope: float
    error: float
    seconds: float

    def rises(self, tolerated: float) -> bool:
        """Whether the line rises: by more than `tolerated` in all, and by more than chance."""
        return self.slope > SIGNIFICANT * self.error and self.slope * self.seconds > tolerated


def fit(times: Sequence[float], values: Sequence[float]) -> Line:
    """Return the line of least squares. With fewer than three samples, its slope is 0."""
    n = len(times)
    if n < 3 or times[0] == times[-1]:
        return Line(0.0, math.inf, 0.0)
    mean_time, mean = sum(times) / n, sum(values) / n
    spread = sum((time - mean_time) ** 2 for time in times)
    slope = sum((time - mean_time) * (value - mean) for time, value in zip(times, values, strict=True)) / spread
    rest = sum((value - mean - slope * (time - mean_time)) ** 2 for time, value in zip(times, values, strict=True))
    return Line(slope, math.sqrt(rest / (n - 2) / spread), times[-1] - times[0])


class Watch:
    """Samples what this process holds.

    Attributes
    ----------
    samples
        The values of each sample, by quantity: "MB" of private memory (USS) of this process, its descriptors and
        threads, its processes (children of children, too), the entries of its temporary folder, and those of
        ``/dev/shm`` that are new since the start and belong to this user and shoal.
    """

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._began = time.monotonic()
        self._shared_before = _shared()
        self.times: list[float] = []
        self.samples: dict[str, list[float]] = {name: [] for name in TOLERATED}

    def sample(self) -> dict[str, float]:
        """Take a sample, and return it. No run may be under way."""
        gc.collect()
        _trim()
        found = {
            "MB": self._process.memory_full_info().uss / 1e6,
            "descriptors": float(len(os.listdir("/proc/self/fd"))),
            "threads": float(threading.active_count()),
            "processes": float(len(self._process.children(recursive=True))),
            "files": float(sum(len(files) + len(folders) for _, folders, files in os.walk(tempfile.gettempdir()))),
            "shared": float(len(_shared() - self._shared_before)),
        }
        self.times.append(time.monotonic() - self._began)
        for name, value in found.items():
            self.samples[name].append(value)
        return found

    def lines(self) -> dict[str, Line]:
        """Return the line of each quantity, without the samples of the warming up."""
        start = int(len(self.times) * WARM_UP)
        return {name: fit(self.times[start:], values[start:]) for name, values in self.samples.items()}

    def verdict(self) -> tuple[list[str], list[str]]:
        """Return a line of text for each quantity, and the names of those that rise."""
        texts, rising = [], []
        start = int(len(self.times) * WARM_UP)
        for name, line in self.lines().items():
            values, rises = self.samples[name][start:], line.rises(TOLERATED[name])
            rising += [name] if rises else []
            texts.append(
                f"{name:12} {values[0]:8.1f} -> {values[-1]:8.1f}   slope per hour {line.slope * 3600:+10.3f} "
                f"± {line.error * 3600:.3f}{'   RISES' if rises else ''}"
            )
        return texts, rising


def _trim() -> None:
    """Let the allocator of the C library give back what is free, where it can."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def _shared() -> set[str]:
    """Return the names in ``/dev/shm`` that runs of this process may have made."""
    mark = str(os.getpid())
    return {name for name in os.listdir(SHARED_MEMORY) if mark in name} if SHARED_MEMORY.is_dir() else set()
