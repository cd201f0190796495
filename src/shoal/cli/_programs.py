"""The programs of this user that have runs, and their workers. All of it is read from /proc.

::

    /proc/*/fd ──> "memfd:status-of-shoal": the page of a program ──> its runs
               ──> "memfd:stack-of-shoal-N": a worker that writes its stacks on request
    /proc/*/stat, statm, status, task/*/children ──> CPU, memory, ids, children
    /proc/*/task/*/stat, status ──> CPU and ids of threads
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import NamedTuple

from shoal._platform.memory import HAS_MEMFD
from shoal._platform.posix import posix
from shoal.backends._process import children_of, descendants_of
from shoal.backends._stacks import STACK_NAME
from shoal.parallel.transport._published import PAGE_BYTES, PAGE_NAME, PublishedRun, owner_of, read_runs

#: A part of the command line of a fork server, which its workers have as well.
_SERVER = b"backends._forked import"


class Usage(NamedTuple):
    """What a process uses.

    Attributes
    ----------
    rss
        Its resident memory, in bytes.
    private
        The same without mapped files and shared memory, in bytes.
    cpu
        The CPU time that it has used, in seconds.
    """

    rss: int
    private: int
    cpu: float


class Program(NamedTuple):
    """A program that has runs.

    Attributes
    ----------
    pid
        Its process id.
    argv
        Its command line.
    runs
        Its runs.
    pids
        The process ids of its descendants, by the ids that they have in their own namespace.
    threads
        The ids of its threads, by the same; none if no run is on threads.
    """

    pid: int
    argv: list[str]
    runs: list[PublishedRun]
    pids: dict[int, int]
    threads: dict[int, int]


def reason_against(pid: int | None) -> str:
    """Return why a process cannot be looked at, or "". None stands for all processes of this user."""
    system: str = sys.platform
    if system != "linux" or not HAS_MEMFD:
        return "this command needs Linux: it reads the memory of other programs through /proc"
    if pid is None:
        return ""
    try:
        owner = os.stat(f"/proc/{pid}").st_uid
        if owner != posix.geteuid():
            return f"process {pid} belongs to another user"
        os.listdir(f"/proc/{pid}/fd")
    except FileNotFoundError:
        return f"there is no process {pid}"
    except OSError as error:
        return f"process {pid} cannot be read: {error.strerror}"
    return ""


def programs(pid: int | None = None) -> list[Program]:
    """Return the programs of this user that have runs; with `pid`, only that one."""
    found = []
    for each in [pid] if pid is not None else sorted(_own_processes()):
        with contextlib.suppress(OSError, ValueError):  # it has ended meanwhile, or may not be read
            runs = _runs_of(each)
            if runs:
                pids = {_inner_pid(below): below for below in descendants_of(each)}
                threads = _threads_of(each) if any(run.kind == "threads" for run in runs) else {}
                found.append(Program(each, argv_of(each), runs, pids, threads))
    return found


def workers_of(pid: int) -> list[int]:
    """Return the processes that write their stacks on request: `pid` itself, if it is a worker, and its workers."""
    found = [pid] if stack_memory(pid) is not None and not _is_server(pid) else []
    for child in children_of(pid):
        if stack_memory(child) is not None and not _is_server(child):
            found.append(child)
        else:
            found += [below for below in children_of(child) if stack_memory(below) is not None]
    return found


def stack_memory(pid: int) -> tuple[str, int] | None:
    """Return the path of the memory to which a process writes its stacks, and the signal; None if it has none."""
    with contextlib.suppress(OSError, ValueError):
        for path, name in _memories(pid):
            if name.startswith(STACK_NAME):
                return path, int(name[len(STACK_NAME) :])
    return None


def usage_of(pid: int) -> Usage | None:
    """Return what a process uses; None if it has ended."""
    try:
        _, resident, shared, *_ = map(int, _read(pid, "statm").split())
        cpu = _cpu(_read(pid, "stat"))
    except (OSError, ValueError):
        return None
    page = posix.sysconf("SC_PAGE_SIZE")
    return Usage(resident * page, (resident - shared) * page, cpu)


def cpu_of_thread(pid: int, thread: int) -> float | None:
    """Return the CPU time that a thread of a process has used, in seconds; None if it has ended."""
    try:
        return _cpu(_read(pid, f"task/{thread}/stat"))
    except (OSError, ValueError):
        return None


def argv_of(pid: int) -> list[str]:
    """Return the command line of a process."""
    return _read(pid, "cmdline").decode(errors="backslashreplace").rstrip("\0").split("\0")


def status_of(pid: int, field: str, thread: int | None = None) -> str:
    """Return a field of /proc/PID/status, or of a thread's; "" if there is none."""
    name = "status" if thread is None else f"task/{thread}/status"
    for line in _read(pid, name).decode(errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return value.strip()
    return ""


def _own_processes() -> Iterator[int]:
    user = posix.geteuid()
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if name.isdecimal() and os.stat(f"/proc/{name}").st_uid == user:
                yield int(name)


def request_path(pid: int) -> str | None:
    """Return the path of the pipe by which a program is asked for its stacks; None if it has none."""
    with contextlib.suppress(OSError, ValueError):
        _, header = _page_of(pid)
        path = f"/proc/{pid}/fd/{header[1]}"
        if os.readlink(path).startswith("pipe:"):
            return path
    return None


def _runs_of(pid: int) -> list[PublishedRun]:
    page, _ = _page_of(pid)
    return read_runs(page) if page else []


def _page_of(pid: int) -> tuple[bytes, tuple[int, int]]:
    """Return a copy of the page of a program, and its header; no bytes if it has no page."""
    for path, name in _memories(pid):
        if name != PAGE_NAME:
            continue
        fd = os.open(path, os.O_RDONLY | posix.O_CLOEXEC)
        try:
            page = posix.pread(fd, PAGE_BYTES, 0)  # to map it would give memory to all of it
        finally:
            os.close(fd)
        header = owner_of(page)
        if header is not None and header[0] == _inner_pid(pid):  # else a fork has inherited it
            return page, header
    return b"", (0, -1)


def _memories(pid: int) -> Iterator[tuple[str, str]]:
    """Yield the memfds that a process has open: their paths and names."""
    for fd in os.listdir(f"/proc/{pid}/fd"):
        path = f"/proc/{pid}/fd/{fd}"
        with contextlib.suppress(OSError):  # it was closed meanwhile
            target = os.readlink(path)
            if target.startswith("/memfd:"):
                yield path, target[len("/memfd:") :].removesuffix(" (deleted)")


def _inner_pid(pid: int, thread: int | None = None) -> int:
    """Return the id that a process, or its thread, has in its own namespace: that of a container, if it is in one."""
    return int((status_of(pid, "NSpid", thread) or str(thread or pid)).split()[-1])


def _threads_of(pid: int) -> dict[int, int]:
    """Return the ids of the threads of a process, by those in its own namespace."""
    threads = {}
    for name in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(OSError, ValueError):  # it has ended meanwhile
            threads[_inner_pid(pid, int(name))] = int(name)
    return threads


def _cpu(stat: bytes) -> float:
    """Return the CPU time in the text of a file "stat", in seconds."""
    fields = stat.rpartition(b")")[2].split()
    return (int(fields[11]) + int(fields[12])) / int(posix.sysconf("SC_CLK_TCK"))


def _is_server(pid: int) -> bool:
    """Tell whether a process is a fork server, whose parent is a program; the parent of a worker is a server."""
    with contextlib.suppress(OSError, ValueError):
        return _SERVER in _read(pid, "cmdline") and _SERVER not in _read(int(status_of(pid, "PPid")), "cmdline")
    return False


def _read(pid: int, name: str) -> bytes:
    with open(f"/proc/{pid}/{name}", "rb") as file:
        return file.read()
