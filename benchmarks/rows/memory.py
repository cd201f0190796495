"""Rows on resources of the caller: memory, descriptors, threads, processes."""

from __future__ import annotations

import time
from importlib import import_module
from pathlib import Path

from benchmarks import workloads
from benchmarks._registry import Measured, Target, row
from benchmarks.contenders import LIBRARIES, open_pool, open_unordered


@row("a million calls from a generator", LIBRARIES, Target("shoal", maximum=100), unit="MB", rounds=1)
def million_memory(contender: str) -> Measured:
    """Measure the growth of the caller's peak resident memory during the run."""
    with open_unordered(contender) as run:
        list(run(workloads.nothing, range(100)))
        start = _status("VmRSS")
        count = sum(1 for _ in run(workloads.nothing, range(1_000_000)))
        assert count == 1_000_000
        return (_status("VmHWM") - start) / 1e3


@row("200 runs in a row", LIBRARIES, Target("shoal", maximum=0), unit="more at the end", rounds=1)
def runs_200(contender: str) -> Measured:
    """Count how many more descriptors, threads and processes there are after 200 runs than after the first ten."""
    import numpy as np

    this, array = import_module("psutil").Process(), np.zeros(250_000)

    def counts() -> list[int]:
        time.sleep(0.1)  # a joined thread ends for Python earlier than for the system
        return [this.num_fds(), this.num_threads(), len(this.children(recursive=True))]

    with open_pool(contender) as run, open_unordered(contender) as run_unordered:
        for index in range(210):
            if index == 10:
                start = counts()
            if index % 2:
                list(run_unordered(workloads.nothing, range(20)))
            else:
                run(workloads.plus_one, [array] * 4)
        end = counts()
    pairs = list(zip(start, end, strict=True))
    kinds = ("descriptors", "threads", "processes")
    note = ", ".join(f"{pair[0]} -> {pair[1]} {kind}" for pair, kind in zip(pairs, kinds, strict=True))
    return float(sum(max(0, after - before) for before, after in pairs)), note


def _status(name: str) -> float:
    """Return a value of /proc/self/status in kB: VmRSS is the current memory, VmHWM its peak."""
    with Path("/proc/self/status").open() as lines:
        return next(float(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
