"""Rows of Memory: hits, misses, large caches, limits, and processes that want the same result."""

from __future__ import annotations

import itertools
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks._registry import Measured, Target, faster, row, timed
from benchmarks.contenders import LIBRARIES

_xxh3 = import_module("xxhash").xxh3_128_hexdigest

CACHES = (*LIBRARIES, "diskcache")
MANY = 100_000
#: Used for large caches, because some disks take minutes to remove so many folders.
IN_MEMORY = "/dev/shm"
PROCESSES = 16


@contextmanager
def cache(contender: str, within: str | None = None, **options: Any) -> Iterator[tuple[Callable[[Any], Any], Path]]:
    """Give the decorator of a cache in a new folder, and the folder."""
    with tempfile.TemporaryDirectory(dir=within) as name:
        if contender == "diskcache":
            with import_module("diskcache").Cache(name, **options) as store:
                yield store.memoize(), Path(name)
        else:
            yield import_module(contender).Memory(name, verbose=0, **options).cache, Path(name)


def same(x: Any, y: Any = "abc") -> Any:
    return x


def first(x: Any) -> Any:
    return float(x[0])


def fill(cached: Any, folder: Path) -> None:
    """Store ten results, and add 100,000 quickly: as hard links to the files of a few."""
    for x in range(10):
        cached(x)
    first = next(folder.rglob("output.pkl")).parent
    for number in range(MANY):
        entry = first.with_name(f"{number:032x}x")
        entry.mkdir()
        for name in ("output.pkl", "metadata.json"):
            if number % 10_000:
                os.link(first / name, entry / name)
            else:
                shutil.copy(first / name, entry / name)
        first = first if number % 10_000 else entry


def per_call(call: Callable[[int], object], count: int, rounds: int = 7) -> float:
    """Return the time per call of `count` calls, each of which gets another number."""
    numbers = itertools.count()
    return timed(lambda: [call(next(numbers)) for _ in range(count)], rounds) / count


def look_up(path: Path, *args: Any) -> Any:
    """Do the least that a cache must do for a hit: hash the arguments' pickle, read a file, unpickle its content."""
    _xxh3(pickle.dumps(args))
    with open(path, "rb", 0) as file:
        return pickle.loads(file.read())


def store(folder: Path, value: Any) -> None:
    """Do the least that a cache must do for a miss: make a folder, write a file in it, and give the file its name."""
    folder.mkdir()
    with open(folder / "new", "xb", 0) as file:
        file.write(pickle.dumps(value))
    os.rename(folder / "new", folder / "value")


@row("a stored result, small", CACHES, faster(4), faster(1, "diskcache"), floors=("file",), unit="us")
def cache_hit(contender: str) -> Measured:
    if contender == "file":
        with tempfile.TemporaryDirectory() as name:
            store(Path(name, "entry"), same(3))
            path = Path(name, "entry", "value")
            return per_call(lambda _: look_up(path, 3), 1000) * 1e6
    with cache(contender) as (decorate, _):
        cached = decorate(same)
        cached(3)
        return per_call(lambda _: cached(3), 1000) * 1e6


@row("a stored result, argument of 100 MB", LIBRARIES, faster(20), floors=("xxh3",))
def cache_hit_100mb(contender: str) -> Measured:
    import numpy as np

    array = np.random.default_rng(0).random(12_500_000)
    if contender == "xxh3":
        return timed(lambda: _xxh3(array), 9)
    with cache(contender) as (decorate, _):
        cached = decorate(first)
        return timed(lambda: cached(array), 9)


@row("a result that is not stored, small", CACHES, faster(2), faster(1, "diskcache"), floors=("file",), unit="us")
def cache_miss(contender: str) -> Measured:
    if contender == "file":
        with tempfile.TemporaryDirectory() as name:
            return per_call(lambda number: store(Path(name, str(number)), same(number)), 500) * 1e6
    with cache(contender) as (decorate, _):
        return per_call(decorate(same), 500) * 1e6


@row("a hit among 100,000 entries", ("shoal", "few"), Target("shoal", "few", maximum=1.2), unit="us", rounds=3)
def cache_among_many(contender: str) -> Measured:
    with cache("shoal", IN_MEMORY) as (decorate, folder):
        cached = decorate(same)
        if contender == "shoal":
            fill(cached, folder)
        for x in range(10):
            cached(x)
        return per_call(lambda number: cached(number % 10), 2000) * 1e6


@row(
    "a miss among 100,000 entries, at the limit",
    ("shoal", "diskcache", "plain"),
    Target(numerator="shoal", maximum=1000.0),
    floors=("file",),
    unit="us",
    rounds=2,
)
def cache_at_limit(contender: str) -> Measured:
    """Time a miss at a limit. `plain` is the same without a limit, in shoal."""
    if contender == "file":
        with tempfile.TemporaryDirectory(dir=IN_MEMORY) as name:
            return per_call(lambda number: replaced(Path(name), number), 500) * 1e6
    if contender == "diskcache":
        limits: dict[str, Any] = {"size_limit": MANY * 40}
    else:
        limits = {} if contender == "plain" else {"items_limit": MANY}
    with cache("shoal" if contender == "plain" else contender, IN_MEMORY, **limits) as (decorate, folder):
        cached = decorate(same)
        if contender == "shoal":
            fill(cached, folder)
        elif contender == "diskcache":
            for x in range(MANY):
                cached(x)
        return per_call(lambda number: cached(MANY + number), 500) * 1e6


def replaced(folder: Path, number: int) -> None:
    """Store a value, and remove the one before it."""
    store(folder / str(number), same(number))
    if number:
        (folder / str(number - 1) / "value").unlink()
        (folder / str(number - 1)).rmdir()


SLOW = """
import os, sys, time
library = __import__(sys.argv[1])

def slow(x):
    with open(os.path.join(sys.argv[2], "runs"), "ab", 0) as file:
        file.write(b"x")
    time.sleep(1)
    return x

cached = library.Memory(os.path.join(sys.argv[2], "cache"), verbose=0).cache(slow, ignore=[])
print("ready", flush=True)
sys.stdin.readline()
cached(1)
print("done", flush=True)
"""


@row("16 processes want one result of 1 s", LIBRARIES, Target(numerator="shoal", maximum=1.3), rounds=3)
def cache_stampede(contender: str) -> Measured:
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "slow.py")
        script.write_text(SLOW)
        command = [sys.executable, str(script), contender, folder]
        running = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=dict(os.environ))
            for _ in range(PROCESSES)
        ]
        pipes: list[Any] = [(process.stdin, process.stdout) for process in running]
        for _, output in pipes:
            output.readline()
        start = time.perf_counter()
        for start_input, _ in pipes:
            start_input.write(b"\n")
            start_input.flush()
        for _, output in pipes:
            output.readline()
        seconds = time.perf_counter() - start
        for process in running:
            process.communicate()
        runs = Path(folder, "runs").stat().st_size
    return seconds, f"{runs} computed it"
