"""What the system knows of processes: CPU time, memory, threads, swap. Values that it does not tell are None."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from shoal._cpus import cgroup_folders
from shoal._forks import CALLERS, after_fork_in_child

#: Threads are looked at only around batches that take so long, because that takes some 20 us per thread: during a batch
#: that follows such a batch. In seconds.
LONG = 0.02
#: A thread that has run, or waited for a CPU, for less than this part of the time is not counted.
_ACTIVE = 0.15


#: Returns the CPU time of this thread, in seconds. Pyodide has one thread, and only the time of the process.
thread_time: Callable[[], float] = getattr(time, "thread_time", time.process_time)


class Usage(NamedTuple):
    """The resources that this process has used so far.

    Attributes
    ----------
    memory
        The largest resident memory, in bytes.
    switches
        The number of involuntary context switches: the system gave the CPU to another thread.
    """

    memory: int | None
    switches: int | None


class ThreadUse(NamedTuple):
    """The resources that a thread has used.

    Attributes
    ----------
    cpu, queued
        How long it had a CPU, and how long it waited for one, in seconds.
    switches, waits
        How often the system gave its CPU to another thread, and how often it waited for something by itself.
    """

    cpu: float
    queued: float
    switches: int
    waits: int

    def since(self, before: ThreadUse) -> ThreadUse:
        """Return what was used since then."""
        return ThreadUse(*(after - earlier for after, earlier in zip(self, before, strict=True)))  # type: ignore[arg-type]


try:
    import resource
except ImportError:  # Windows, Pyodide

    def usage() -> Usage:
        """Return the resources that this process has used."""
        return Usage(None, None)

else:
    _resource: Any = resource

    def usage() -> Usage:
        """Return the resources that this process has used."""
        used = _resource.getrusage(_resource.RUSAGE_SELF)
        return Usage(used.ru_maxrss * (1 if sys.platform == "darwin" else 1024), used.ru_nivcsw)


def thread_use() -> ThreadUse | None:
    """Return the resources that this thread has used; None on systems other than Linux."""
    if sys.platform == "linux" and (data := _read("/proc/thread-self/schedstat")):
        cpu, queued = map(int, data.split()[:2])
        used = resource.getrusage(resource.RUSAGE_THREAD)
        return ThreadUse(cpu / 1e9, queued / 1e9, used.ru_nivcsw, used.ru_nvcsw)
    return None


class ThreadsInUse:
    """Counts the threads of this process that use a CPU.

    Notes
    -----
    Not thread-safe.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all threads: a forked child has others."""
        self._before: dict[str, int] = {}
        self._at = 0.0

    def begin(self) -> None:
        """Look at the threads before work that may take long."""
        self._before, self._at = _demand_of_threads(), time.perf_counter()

    def count(self) -> int | None:
        """Return the number of threads that were active since :meth:`begin`; None if that was too short a time."""
        seconds = time.perf_counter() - self._at
        if not self._before or seconds < LONG:
            return None
        now = _demand_of_threads()
        least = _ACTIVE * seconds * 1e9
        return sum(used - self._before.get(thread, 0) > least for thread, used in now.items())


threads_in_use = ThreadsInUse()
after_fork_in_child(threads_in_use.reset, CALLERS)


def _demand_of_threads() -> dict[str, int]:
    """Return, in nanoseconds, how long each thread of this process has run or waited for a CPU, by the thread's id.

    On a busy machine, threads that would run have to wait. On systems other than Linux, the result is empty.
    """
    used: dict[str, int] = {}
    folder = "/proc/self/task"
    try:
        threads = os.listdir(folder) if sys.platform == "linux" else []
    except OSError:
        threads = []
    for thread in threads:
        data = _read(f"{folder}/{thread}/schedstat")
        if data:
            used[thread] = sum(map(int, data.split()[:2]))
    return used


def swapped_in() -> int | None:
    """Return the bytes that the system has read back from swap since it was booted."""
    if sys.platform == "linux" and (pages := _field(_read("/proc/vmstat"), "pswpin")) is not None:
        return pages * os.sysconf("SC_PAGE_SIZE")
    return None


def out_of_memory() -> int | None:
    """Return how often the system has killed a process of this control group because it was out of memory."""
    first, second = cgroup_folders("memory") if sys.platform == "linux" else ([], [])
    files = [f"{folder}/memory.events" for folder in first] + [f"{folder}/memory.oom_control" for folder in second]
    for file in files:
        number = _field(_read(file), "oom_kill")
        if number is not None:
            return number
    return None


def _field(data: str | None, name: str) -> int | None:
    for line in (data or "").splitlines():
        key, _, value = line.partition(" ")
        if key == name and value.strip().isdigit():
            return int(value)
    return None


def _read(path: str) -> str | None:
    try:
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    except OSError:
        return None
    try:
        return os.read(fd, 65536).decode("ascii", "replace")
    except OSError:
        return None
    finally:
        os.close(fd)


def uses_gil() -> bool:
    """Tell whether this interpreter has a global lock."""
    enabled: Any = getattr(sys, "_is_gil_enabled", None)
    return True if enabled is None else bool(enabled())
