"""How long a worker process serves: the calls that it may run, and the memory that it may hold.

::

    worker   between calls: has run `calls`, or holds more than `memory`  ──> ends its batch, asks to be replaced
    parent   ten times a second: holds more than half as much again       ──> kills it; the call that ran has failed
"""

from __future__ import annotations

import os
import sys
from typing import NamedTuple

from shoal._forks import CALLERS, after_fork_in_child

#: How often the parent looks at its workers' memory, in seconds.
SAMPLE_SECONDS = 0.1
#: How often a worker looks at its own, in seconds: between calls, so that what grows call by call is seen before it is
#: killed for it. A look takes some 5 us.
LOOK_SECONDS = 0.005
#: A worker that holds so many times the limit is killed in the middle of a call.
KILL_FACTOR = 1.5


class Limits(NamedTuple):
    """When a worker process is to be replaced.

    Attributes
    ----------
    calls
        After so many calls; None for no limit.
    memory
        Once it holds more than so many bytes; None for no limit.
    """

    calls: int | None
    memory: int | None

    def exceeded_by(self, pid: int | str) -> bool:
        """Tell whether a process holds more memory than it may."""
        return self.memory is not None and (held(pid) or 0) > self.memory


class Served:
    """What this process has done as a worker."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget what the parent of a forked process has done."""
        self.calls = 0

    def left(self, limits: Limits) -> int:
        """Return how many calls it may still run."""
        return sys.maxsize if limits.calls is None else limits.calls - self.calls

    def spent(self, limits: Limits) -> bool:
        """Tell whether its time is over. Each process runs one call at least, or a small limit would end in none."""
        return self.calls > 0 and (self.left(limits) <= 0 or limits.exceeded_by("self"))


served = Served()
after_fork_in_child(served.reset, CALLERS)


def held(pid: int | str) -> int | None:
    """Return the bytes of memory that a process holds, "self" for this one; None if nobody knows.

    That is its resident memory without what it has in common with others: the arrays that shoal shares are the
    parent's, and libraries are everybody's.
    """
    if sys.platform != "linux":
        return _held_elsewhere(pid)
    try:
        fd = os.open(f"/proc/{pid}/statm", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        _, resident, shared, *_ = os.read(fd, 200).split()
    except (OSError, ValueError):  # it has just ended
        return None
    finally:
        os.close(fd)
    return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")


def _held_elsewhere(pid: int | str) -> int | None:
    try:
        import psutil

        memory = psutil.Process(None if pid == "self" else pid).memory_info()
    except Exception:  # psutil is not there, or the process is not
        return None
    return int(memory.rss - getattr(memory, "shared", 0))
