"""Long rows: many calls, runs, deaths and stored results. Each returns whether it is good, and what it found."""

from __future__ import annotations

import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from typing import Any

import psutil

from shoal import Memory, Parallel, WorkerDied, delayed

from ._calls import die, same
from ._watch import SIGNIFICANT, fit

#: Growth of memory that is no finding, in MB.
GROWTH = 8.0
#: How much longer a hit or a miss may take among all results than among a thousand.
TIMES = 1.5


class Memories:
    """Samples of the private memory of this process."""

    def __init__(self) -> None:
        self._process, self._at, self._values = psutil.Process(), list[float](), list[float]()

    def sample(self, at: float) -> None:
        self._at.append(at)
        self._values.append(self._process.memory_full_info().uss / 1e6)

    def verdict(self, unit: str) -> tuple[bool, str]:
        """Return whether memory stays, after a third of the samples, and how it grows."""
        start = len(self._at) // 3
        line = fit(self._at[start:], self._values[start:])
        rises = line.slope > SIGNIFICANT * line.error and line.slope * line.seconds > GROWTH
        grown = f"{self._values[start]:.1f} -> {self._values[-1]:.1f} MB"
        return not rises, f"{grown}, {line.slope * 1e6:+.2f} ± {line.error * 1e6:.2f} MB per million {unit}"


def generator(n: int) -> tuple[bool, str]:
    """Take the results of `n` calls one by one."""
    memories, each, total = Memories(), max(n // 50, 1), 0
    began = time.perf_counter()
    for number, value in enumerate(
        Parallel(n_jobs=2, backend="loky", return_as="generator")(delayed(same)(i) for i in range(n))
    ):
        total += value
        if number % each == 0:
            memories.sample(number)
    good, text = memories.verdict("calls")
    taken = (time.perf_counter() - began) / n * 1e6
    return good and total == n * (n - 1) // 2, f"{n:,} calls, {taken:.2f} µs each, {text}"


def runs(n: int) -> tuple[bool, str]:
    """Make `n` runs on one pool, of four calls each; a tenth of them are generators."""
    memories, each, right = Memories(), max(n // 50, 1), True
    began, quarters = time.perf_counter(), [time.perf_counter()]
    for number in range(n):
        form: Any = "list" if number % 10 else "generator"
        found: Any = Parallel(n_jobs=2, backend="loky", return_as=form)(delayed(same)(i) for i in range(4))
        right = right and list(found) == [0, 1, 2, 3]
        if number % each == 0:
            memories.sample(number)
        if (number + 1) % max(n // 4, 1) == 0:
            quarters.append(time.perf_counter())
    good, text = memories.verdict("runs")
    first, last = quarters[1] - quarters[0], quarters[-1] - quarters[-2]
    taken = (time.perf_counter() - began) / n * 1e3
    text = f"{n:,} runs, {taken:.2f} ms each (the last quarter took {last / first:.2f} times the first), {text}"
    return good and right, text


def deaths(n: int) -> tuple[bool, str]:
    """Let `n` workers die, each by its call."""
    memories, each, right, number = Memories(), max(n // 50, 1), True, 0
    began = time.perf_counter()
    descriptors = 0
    parallel = Parallel(n_jobs=2, backend="loky", return_as="generator", batch_size=1, on_error="return")
    for number, value in enumerate(parallel(delayed(die)(i) for i in range(n))):
        right = right and isinstance(value, WorkerDied)
        if number % each == 0:
            memories.sample(number)
        if number == n // 10:
            descriptors = len(os.listdir("/proc/self/fd"))
    good, text = memories.verdict("deaths")
    more = len(os.listdir("/proc/self/fd")) - descriptors
    taken = (time.perf_counter() - began) / n * 1e3
    return (
        good and right and more <= 6 and number + 1 == n,
        f"{n:,} deaths, {taken:.2f} ms each, {more:+d} descriptors, {text}",
    )


def cache(n: int) -> tuple[bool, str]:
    """Store `n` results; compare the times of a hit, a miss, `info` and `prune` with those among a thousand.

    They are compared in a cache without limits, and then with limits, so with an index. Hits are read twice: after the
    first, the file system knows where the entry is.
    """
    few, many = _cache_times(1000), _cache_times(n)
    texts, good = [], True
    for name in few:
        ratio = many[name] / few[name]
        if name in ("hit", "miss"):
            good = good and ratio <= TIMES
        texts.append(f"{name} {_time(few[name])} -> {_time(many[name])}")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return good, f"1,000 -> {n:,} results: {', '.join(texts)}; {memory:.0f} MB at most"


def _cache_times(n: int) -> dict[str, float]:
    folder = tempfile.mkdtemp()
    try:
        with Memory(folder, verbose=0) as memory:
            cached = memory.cache(same)
            for x in range(n):
                cached(x)
            times = _times_of(memory, n, range(n, n + 500))
        with Memory(folder, verbose=0, items_limit=2 * n) as memory:
            times["making an index"] = _seconds(lambda: memory.reduce_size(items_limit=2 * n))
            indexed = _times_of(memory, n, range(n + 500, n + 1000))
        return times | {f"{name} with it": seconds for name, seconds in indexed.items()}
    finally:
        shutil.rmtree(folder)


def _times_of(memory: Memory, n: int, missing: range) -> dict[str, float]:
    """Return the times for a cache of the results of 0 to `n`, and a few less or more."""
    cached = memory.cache(same)
    # The first reading of an entry is the file system's: it looks for a folder and an inode among all of them.
    times = {
        "first hit": _median(lambda i: cached(i * 7919 % n), 2000),
        "hit": _median(lambda i: cached(i * 7919 % n), 2000),
        "miss": _median(lambda i: cached(missing[i]), len(missing)),
    }
    infos: list[Any] = []
    times["info"] = _seconds(lambda: infos.append(memory.info()))
    entries = infos[0].entries
    return times | {"prune of 1 %": _seconds(lambda: memory.reduce_size(items_limit=entries - n // 100))}


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _median(call: Callable[[int], object], count: int) -> float:
    times = []
    for number in range(count):
        began = time.perf_counter()
        call(number)
        times.append(time.perf_counter() - began)
    return sorted(times)[count // 2]


def _time(seconds: float) -> str:
    return (
        f"{seconds * 1e6:.1f} µs"
        if seconds < 1e-3
        else f"{seconds * 1e3:.1f} ms"
        if seconds < 1
        else f"{seconds:.1f} s"
    )


#: The rows, and their numbers.
ROWS: dict[str, tuple[Callable[[int], tuple[bool, str]], int]] = {
    "generator": (generator, 10**7),
    "runs": (runs, 10**4),
    "deaths": (deaths, 10**5),
    "cache": (cache, 10**6),
}
