"""What runs in the workers: functions that a worker imports by name.

numpy is imported where it is used, so that the workers of a row on plain Python objects do not pay for it.
"""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Iterable
from typing import Any


def nothing(x: Any) -> Any:
    return x


def busy(seconds: float) -> None:
    """Hold a core for a time, as work does; a sleep would leave both cores to the parent."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def slept(seconds: float, result: Any) -> Any:
    time.sleep(seconds)
    return result


def item(array: Any, index: int) -> float:
    return float(array[index])


def ones(count: int) -> Any:
    import numpy as np

    return np.ones(count)


def plus_one(array: Any) -> Any:
    """A new array, so that handing the argument itself back is no shortcut."""
    return array + 1.0


def look_up(table: dict[int, Any], key: int) -> Any:
    return table[key]


def run_pickled(batch: bytes) -> bytes:
    """The least that a worker can do: decode one function and its arguments, call, encode the results."""
    function, arguments = pickle.loads(batch)
    return pickle.dumps([function(argument) for argument in arguments], pickle.HIGHEST_PROTOCOL)


def write_ones(path: str, count: int) -> None:
    """Make an array and write its bytes into the file `path` (in shared memory)."""
    write_arrays(path, [ones(count)])


def plus_one_in_files(source: str, target: str, count: int) -> None:
    """Map arrays of `count` numbers from `source`, write each plus one into `target`."""
    import numpy as np

    arrays = np.memmap(source, dtype=np.float64, mode="c").reshape(-1, count)
    write_arrays(target, (array + 1.0 for array in arrays))


def write_arrays(path: str, arrays: Iterable[Any]) -> None:
    """Append the raw bytes of the arrays; writing fresh pages is faster than storing through a mapping."""
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    try:
        for array in arrays:
            view = memoryview(array).cast("B")
            while view:
                view = view[os.write(descriptor, view) :]
    finally:
        os.close(descriptor)
