"""When a worker process is replaced: after a number of calls, or when it uses too much memory.

::

    worker   between calls: it has run `calls`, or uses more than `memory`  ──> it ends its batch, asks to be replaced
    parent   ten times a second: it uses more than 1.5 times `memory`       ──> it is killed; the call that ran fails
"""

from __future__ import annotations

import os
import sys
from typing import NamedTuple

from shoal._forks import CALLERS, after_fork_in_child
from shoal._platform.posix import posix

#: How often the parent checks the memory of its workers, in seconds.
SAMPLE_SECONDS = 0.1
#: How often a worker checks its own memory, in seconds. It does so between calls: if its memory grows call by call, it
#: notices that before the parent kills it. A check takes some 5 us.
CHECK_SECONDS = 0.005
#: The parent kills a worker in the middle of a call if it uses so many times the limit.
KILL_FACTOR = 1.5


class WorkerLimits(NamedTuple):
    """When a worker process is to be replaced.

    Attributes
    ----------
    calls
        The number of calls after which it is replaced; None for no limit.
    memory
        The private memory, in bytes, above which it is replaced; None for no limit.
    """

    calls: int | None
    memory: int | None

    def memory_exceeded(self, pid: int | str) -> bool:
        """Tell whether a process uses more memory than the limit."""
        return self.memory is not None and (private_memory(pid) or 0) > self.memory


class WorkerUsage:
    """How much this process has worked.

    Attributes
    ----------
    calls
        The number of calls that it has run.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Count from 0: a forked child has run nothing."""
        self.calls = 0

    def calls_left(self, limits: WorkerLimits) -> int:
        """Return how many calls this process may still run."""
        return sys.maxsize if limits.calls is None else limits.calls - self.calls

    def reached(self, limits: WorkerLimits) -> bool:
        """Tell whether this process has to be replaced.

        Every process runs at least one call. Otherwise, no call would ever run under a small limit of memory.
        """
        return self.calls > 0 and (self.calls_left(limits) <= 0 or limits.memory_exceeded("self"))


usage = WorkerUsage()
after_fork_in_child(usage.reset, CALLERS)


def private_memory(pid: int | str) -> int | None:
    """Return the private memory of a process in bytes; None if it cannot be read.

    It is the resident memory without the pages that are shared with other processes: the arrays that shoal shares
    belong to the parent, and libraries to every process.

    Parameters
    ----------
    pid
        The process id; "self" for this process.
    """
    return _private_memory_by_proc(pid) if sys.platform == "linux" else _private_memory_by_psutil(pid)


def _private_memory_by_proc(pid: int | str) -> int | None:
    try:
        fd = os.open(f"/proc/{pid}/statm", os.O_RDONLY | posix.O_CLOEXEC)
    except OSError:
        return None
    try:
        _, resident, shared, *_ = os.read(fd, 200).split()
    except (OSError, ValueError):  # the process has just ended
        return None
    finally:
        os.close(fd)
    return (int(resident) - int(shared)) * int(posix.sysconf("SC_PAGE_SIZE"))


def _private_memory_by_psutil(pid: int | str) -> int | None:
    try:
        import psutil

        memory = psutil.Process(None if pid == "self" else pid).memory_info()
    except Exception:  # psutil is not installed, or the process has ended
        return None
    return int(memory.rss - getattr(memory, "shared", 0))
