"""Which CPUs a process may use, and what Windows says of its CPUs.

Windows splits more than 64 CPUs into groups, and a mask names those of one group.
"""

from __future__ import annotations

import functools
import os
import sys

from shoal._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from typing import Any

_os: Any = os  # macOS and Windows lack the functions that are used here


def can_bind() -> bool:
    """Return whether a process can be bound to some CPUs."""
    return hasattr(os, "sched_setaffinity")


def usable_cpus() -> Collection[int] | None:
    """Return the CPUs in the affinity mask of this process; None if the system has no such mask, or it has no limit."""
    mask: Collection[int] | None = None
    if hasattr(os, "sched_getaffinity"):
        mask = _os.sched_getaffinity(0)
    elif sys.platform == "win32":
        mask = _affinity()
    elif hasattr(process := _psutil_process(), "cpu_affinity"):  # FreeBSD
        mask = process.cpu_affinity()
    return mask


@functools.cache  # a failed import is slow
def _psutil_process() -> Any:
    try:
        import psutil
    except ImportError:
        return None
    return psutil.Process()


def bind(cpus: Iterable[int]) -> None:
    """Bind this process to some CPUs, where :func:`can_bind` is true."""
    _os.sched_setaffinity(0, cpus)


def physical_cores() -> int:
    """Return the number of cores, in all groups of CPUs; 0 if the system does not tell."""
    import ctypes

    kernel = _kernel()
    size = ctypes.c_uint32(0)
    kernel.GetLogicalProcessorInformationEx(_CORES, None, ctypes.byref(size))
    records = ctypes.create_string_buffer(size.value)
    if not size.value or not kernel.GetLogicalProcessorInformationEx(_CORES, records, ctypes.byref(size)):
        return 0
    return count_records(records.raw[: size.value])


def count_records(records: bytes) -> int:
    """Return how many records there are. The second four bytes of each are its size."""
    count = position = 0
    while len(records) >= position + 8:
        step = int.from_bytes(records[position + 4 : position + 8], "little")
        if step < 8:
            break
        position += step
        count += 1
    return count


def _affinity() -> list[int] | None:
    """Return the CPUs to which this process was bound, as numbers in its group; None if it may use all."""
    import ctypes

    kernel = _kernel()
    mine, all_of_group = ctypes.c_size_t(0), ctypes.c_size_t(0)
    this = ctypes.c_void_p(-1)  # stands for this process
    if not kernel.GetProcessAffinityMask(this, ctypes.byref(mine), ctypes.byref(all_of_group)):
        return None
    return cpus_of_masks(mine.value, all_of_group.value)


def cpus_of_masks(mine: int, all_of_group: int) -> list[int] | None:
    """Return the CPUs in a mask; None if it has all of its group, or is 0: then the process has several groups."""
    if mine in (0, all_of_group):
        return None
    return [cpu for cpu in range(mine.bit_length()) if mine >> cpu & 1]


_CORES = 0


def _kernel() -> Any:
    import ctypes

    windows: Any = ctypes
    return windows.WinDLL("kernel32")
