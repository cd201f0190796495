"""Rows whose calls do almost nothing, or work of a known duration, so that they time the library."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

from benchmarks import floors, workloads
from benchmarks._registry import Measured, Target, faster, row, timed
from benchmarks.contenders import CLUSTERS, EVERYONE, LIBRARIES, WORKERS, open_pool, open_unordered


def map_range(contender: str, function: Callable[[Any], Any], count: int, repeat: int, threads: bool = False) -> float:
    numbers = range(count)
    with open_pool(contender, threads=threads) as run:
        assert run(function, numbers) == list(numbers)
        return timed(lambda: run(function, numbers), repeat)


def through_sockets(count: int, repeat: int, n_processes: int = WORKERS) -> float:
    """Time one batch for each of some forked processes, whose sockets take pickles there and back."""
    batches = floors.batches(workloads.nothing, count, n_processes)
    with floors.forked(n_processes) as processes:
        return timed(lambda: floors.run(processes, workloads.each, batches), repeat)


@row("warm pool, 2 no-op calls", (*EVERYONE, *CLUSTERS), faster(12), floors=("sockets",))
def warm_two(contender: str) -> Measured:
    if contender == "sockets":
        return through_sockets(2, 50)
    return map_range(contender, workloads.nothing, 2, 50)


@row("1,000 no-op calls", (*EVERYONE, *CLUSTERS), faster(5), floors=("sockets",))
def calls_1000(contender: str) -> Measured:
    if contender == "sockets":
        return through_sockets(1_000, 30)
    return map_range(contender, workloads.nothing, 1_000, 5 if contender in CLUSTERS else 30)


@row("1,000 no-op calls of __main__", EVERYONE, faster(5), floors=("sockets",))
def calls_1000_main(contender: str) -> Measured:
    if contender == "sockets":
        return through_sockets(1_000, 30)
    return map_range(contender, sys.modules["__main__"].nothing, 1_000, 30)


@row("1,000, generator_unordered", EVERYONE, faster(4), floors=("sockets",))
def unordered_1000(contender: str) -> Measured:
    if contender == "sockets":
        return through_sockets(1_000, 30)
    numbers = range(1_000)
    with open_unordered(contender) as run:
        assert sorted(run(workloads.nothing, numbers)) == list(numbers)
        return timed(lambda: [None for _ in run(workloads.nothing, numbers)], 20)


@row("100,000 no-op calls", EVERYONE, faster(3), floors=("sockets", "generator"))
def calls_100000(contender: str) -> Measured:
    if contender == "sockets":
        return through_sockets(100_000, 5)
    if contender == "generator":
        delayed = import_module("shoal").delayed
        return timed(lambda: [None for _ in (delayed(workloads.nothing)(i) for i in range(100_000))], 5)
    return map_range(contender, workloads.nothing, 100_000, 5)


@row("100,000 no-op calls of __main__", EVERYONE, faster(3), floors=("sockets",))
def calls_100000_main(contender: str) -> Measured:
    if contender == "sockets":
        return through_sockets(100_000, 5)
    return map_range(contender, sys.modules["__main__"].nothing, 100_000, 5)


@row("2,000 no-op calls on threads", EVERYONE, faster(25), floors=("pull",))
def threads_2000(contender: str) -> Measured:
    if contender == "pull":
        numbers = range(2_000)
        return timed(lambda: floors.pull_on_threads((workloads.nothing, (i,), {}) for i in numbers), 15)
    return map_range(contender, workloads.nothing, 2_000, 15, threads=True)


@row("20,000 calls, n_jobs=1", LIBRARIES, Target("shoal", "loop", maximum=4), floors=("loop",))
def inline_20000(contender: str) -> Measured:
    library = import_module("shoal" if contender == "loop" else contender)
    calls = [library.delayed(workloads.nothing)(i) for i in range(20_000)]
    if contender == "loop":
        return timed(lambda: [function(*args, **kwargs) for function, args, kwargs in calls], 15)
    return timed(lambda: library.Parallel(n_jobs=1)(calls), 15)


@row("400 calls of 0.5, 1, 2 or 20 ms", EVERYONE, Target("shoal", maximum=1.03), unit="x ideal", rounds=3)
def mixed_400(contender: str) -> Measured:
    seconds = [0.0005, 0.001, 0.002, 0.02] * 100
    random.Random(0).shuffle(seconds)
    with open_pool(contender) as run:
        run(workloads.busy, [0.001] * 20)
        elapsed = timed(lambda: run(workloads.busy, seconds), 2, warm_up=False)
    return elapsed * WORKERS / sum(seconds)


REPORTED = Target("shoal", "plain", maximum=1.02)


@row("2,000 calls of 1 ms, with a report", ("shoal",), REPORTED, floors=("plain",), rounds=7)
def reported_1ms(contender: str) -> Measured:
    """Time calls with a report, and without one."""
    shoal = import_module("shoal")

    def run() -> None:
        with shoal.report() if contender == "shoal" else contextlib.nullcontext():
            shoal.Parallel(n_jobs=WORKERS)(shoal.delayed(workloads.busy)(0.001) for _ in range(2_000))

    return timed(run, 3)
