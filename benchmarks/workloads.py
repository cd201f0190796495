"""The functions that run in the workers, which import them by name.

numpy is imported inside the functions that use it, so that the other rows do not pay for it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from typing import Any


def nothing(x: Any) -> Any:
    return x


def busy(seconds: float) -> None:
    """Keep a core busy, as work does. A sleep would leave both cores to the parent."""
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
    """Return a new array, so that a library cannot simply return the argument."""
    return array + 1.0


def look_up(table: dict[int, Any], key: int) -> Any:
    return table[key]


def each(function: Any, arguments: list[Any]) -> list[Any]:
    return [function(argument) for argument in arguments]


def write_ones(path: str, count: int) -> None:
    """Make an array and write its bytes to the file `path` in shared memory."""
    write_arrays(path, [ones(count)])


def plus_one_in_files(source: str, target: str, count: int) -> None:
    """Map arrays of `count` numbers from `source`, and write each plus one to `target`."""
    import numpy as np

    arrays = np.memmap(source, dtype=np.float64, mode="c").reshape(-1, count)
    write_arrays(target, (array + 1.0 for array in arrays))


def write_arrays(path: str, arrays: Iterable[Any]) -> None:
    """Append the bytes of the arrays to a file. For fresh pages, writing is faster than storing through a mapping."""
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    try:
        for array in arrays:
            view = memoryview(array).cast("B")
            while view:
                view = view[os.write(descriptor, view) :]
    finally:
        os.close(descriptor)
