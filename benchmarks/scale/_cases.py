"""The cases, and what their calls take."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import numpy as np

from ._world import BYTES_PER_SECOND, MAKE, PICKLE, UNPICKLE, Case, Machine, World

#: The durations of so many calls are drawn at once.
BLOCK = 2**14
#: The longest call of the Pareto distribution, as a multiple of the mean. Its exponent is 1.5.
LONGEST = 1000.0


def blocks(case: Case, seed: int = 0) -> Iterator[list[float]]:
    """Yield the seconds of calls, block by block."""
    random = np.random.default_rng(seed)
    for start in range(0, case.calls, BLOCK):
        n = min(BLOCK, case.calls - start)
        if case.durations == "constant":
            drawn = np.ones(n)
        elif case.durations == "uniform":
            drawn = random.uniform(0, 2, n)
        elif case.durations == "lognormal":
            drawn = random.lognormal(-0.5, 1, n)
        elif case.durations == "pareto":
            drawn = np.minimum((1 + random.pareto(1.5, n)) / 3, LONGEST)
        else:
            raise ValueError(f"no such distribution: {case.durations!r}")
        yield (drawn * case.mean).tolist()


def durations(case: Case) -> Iterator[float]:
    """Yield the seconds of calls. They are drawn when they are needed."""
    return chain.from_iterable(blocks(case))


def least(case: Case) -> float:
    """Return the virtual seconds below which no rule can be: by its work, its longest call, or the caller's share."""
    work, longest = 0.0, 0.0
    for block in blocks(case):
        work, longest = work + sum(block), max(longest, max(block))
    speed = sum(1 / slowness for slowness in Machine(World(), case).slowness)
    if case.absent:
        speed *= case.present / (case.present + case.absent)
    caller = case.calls * (MAKE + case.gap + PICKLE + UNPICKLE + case.nbytes / BYTES_PER_SECOND)
    return max(work / speed, longest, caller)


MB = 2**20


def cases(largest: int = 10_000, times: float = 1.0) -> list[Case]:
    """Return the cases in which shoal is compared with other rules.

    Parameters
    ----------
    largest
        The largest number of workers.
    times
        Multiplies the number of calls.
    """
    found = []
    for workers in (1, 2, 16, 128, 1000, 10_000):
        calls = int((100 if workers <= 1000 else 30) * workers * times)
        for kind in ("constant", "uniform", "lognormal", "pareto"):
            found.append(Case(f"{kind}, 100 ms", workers, calls, kind, 0.1))
        found.append(Case("lognormal, 10 s", workers, calls // 5, "lognormal", 10.0))
        if workers <= 128:
            found.append(Case("lognormal, 1 ms", workers, 10 * calls, "lognormal", 0.001))
    for workers in (16, 1000):
        calls = int(100 * workers * times)
        found += [
            Case("arguments of 1 MB", workers, calls, "uniform", 0.5, nbytes=MB),
            Case("arguments of 100 MB", workers, calls // 5, "uniform", 5.0, nbytes=100 * MB),
            Case("input slower than the workers", workers, calls, "uniform", 0.1, gap=0.11 / workers, known=False),
            Case("each worker dies every 100 s", workers, calls, "uniform", 0.1, deaths=0.01),
            Case("a tenth of the workers is slow", workers, calls, "uniform", 0.1, slow=0.1),
            Case("an engine, latency 2 ms", workers, calls, "lognormal", 0.1, latency=0.002, engine=True),
            Case("an engine, latency 50 ms", workers, calls, "lognormal", 0.1, latency=0.05, engine=True),
            Case("an engine, workers come and go", workers, calls, "uniform", 0.1, engine=True)._replace(
                latency=0.002, present=10.0, absent=5.0
            ),
        ]
    return [case for case in found if case.workers <= largest]


def cases_of_cpu(largest: int = 10_000) -> list[Case]:
    """Return the cases in which the caller's time is measured: of batches of one call, and of several."""
    return [
        Case(name, workers, max(least, each * workers), "constant", mean)
        for name, mean, least, each in (("calls of 1 s", 1.0, 5000, 3), ("calls of 10 ms", 0.01, 50_000, 30))
        for workers in (2, 16, 128, 1000, 10_000)
        if workers <= largest
    ]


def cases_of_limit(largest: int = 10_000) -> list[Case]:
    """Return the cases that show where the caller becomes the bottleneck."""
    return [
        Case(f"calls of {name}", workers, min(each * workers, 10**6), "uniform", mean)
        for name, mean, each in (("1 ms", 0.001, 300), ("10 ms", 0.01, 300), ("100 ms", 0.1, 300), ("1 s", 1.0, 30))
        for workers in (10, 30, 100, 300, 1000, 3000, 10_000)
        if workers <= largest
    ]


def cases_of_memory(most: int = 10**6) -> list[Case]:
    """Return the cases that show what a run holds: results are taken one by one, and their number is not known."""
    return [
        Case("a generator", 100, 10**power, "uniform", 0.001, known=False, generates=True)
        for power in range(3, 9)
        if 10**power <= most
    ]
