"""The floors: the least time that a row could take, without the work of a library."""

from __future__ import annotations

import os
import pickle
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from . import workloads
from .contenders import WORKERS


class LokySlots:
    """loky alone: for each of the two slots, a warm executor with one worker."""

    def __init__(self) -> None:
        executor = import_module("loky").ProcessPoolExecutor
        self._executors = [executor(1) for _ in range(WORKERS)]
        self.run(workloads.nothing, [(None,)] * WORKERS)

    def run(self, function: Callable[..., Any], arguments: Iterable[tuple[Any, ...]]) -> list[Any]:
        """Call the function for each tuple of arguments, in turns on the slots, as soon as the tuple is made."""
        futures = [self._executors[index % WORKERS].submit(function, *given) for index, given in enumerate(arguments)]
        return [future.result() for future in futures]

    def close(self) -> None:
        for executor in self._executors:
            executor.shutdown()


@contextmanager
def loky_slots() -> Iterator[LokySlots]:
    slots = LokySlots()
    try:
        yield slots
    finally:
        slots.close()


def ready_made(function: Callable[[Any], Any], count: int) -> list[tuple[bytes]]:
    """Return one pickled batch for each slot, with `count` calls in all."""
    return [
        (pickle.dumps((function, list(range(start, count, WORKERS))), pickle.HIGHEST_PROTOCOL),)
        for start in range(WORKERS)
    ]


def pull_on_threads(calls: Iterable[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]]) -> None:
    """Run calls on two threads that take them from one iterator under one lock, without futures and callbacks."""
    source, lock = iter(calls), threading.Lock()
    results: list[Any] = []

    def pull() -> None:
        while True:
            with lock:
                call = next(source, None)
            if call is None:
                return
            function, args, kwargs = call
            results.append(function(*args, **kwargs))

    threads = [threading.Thread(target=pull) for _ in range(WORKERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@contextmanager
def shared_folder() -> Iterator[Path]:
    """Give a folder in shared memory, or a temporary folder if there is no shared memory."""
    shm = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="benchmarks-", dir=shm))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def through_files(slots: LokySlots, arrays: list[Any]) -> list[Any]:
    """Return `plus_one` of each array: eight files in shared memory carry them there, eight carry the results back."""
    import numpy as np

    size, files = arrays[0].size, 8
    with shared_folder() as folder:

        def written() -> Iterator[tuple[str, str, int]]:
            for index in range(files):
                source, target = str(folder / f"to{index}"), str(folder / f"from{index}")
                workloads.write_arrays(source, arrays[index::files])
                yield source, target, size

        slots.run(workloads.plus_one_in_files, written())
        return [
            array
            for index in range(files)
            for array in np.memmap(folder / f"from{index}", dtype=np.float64, mode="r+").reshape(-1, size)
        ]


def results_through_files(slots: LokySlots, results: int, size: int) -> list[Any]:
    """Return `results` arrays of ones, which workers make and write to shared memory, and which are mapped here."""
    import numpy as np

    with shared_folder() as folder:
        paths = [str(folder / str(index)) for index in range(results)]
        slots.run(workloads.write_ones, [(path, size) for path in paths])
        return [np.memmap(path, dtype=np.float64, mode="r+") for path in paths]
