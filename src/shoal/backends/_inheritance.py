"""What a new worker or fork server inherits, what it is sent first, and which modules it may import early."""

from __future__ import annotations

import itertools
import os
import pickle
import re
import resource
import sys
from collections.abc import Hashable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from shoal._platform.posix import posix
from shoal.backends._surroundings import installed, working_folder

if TYPE_CHECKING:
    from shoal.backends._bootstrap import Assignment

#: Numbers for the names of workers, as in multiprocessing.
_workers = itertools.count(1)


def command(function: str, *fds: int) -> list[str]:
    """Return the command line of a new interpreter that calls a function of this package, such as ``_forked.main``.

    The function has to enable the garbage collector, which would take a tenth of the time of the imports.
    """
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    path = f"sys.path[:] = [*filter(None, sys.path), {root!r}]"
    module, _, name = function.partition(".")
    code = f"import gc, sys; gc.disable(); {path}; from shoal.backends.{module} import {name}; {name}{fds}"
    return [sys.executable, "-c", code]


def changed_environment(environment: Mapping[str, str], variables: Mapping[str, str | None]) -> dict[str, str]:
    """Return `environment`, updated by `variables`. The value None removes a variable."""
    return {name: value for name, value in {**environment, **variables}.items() if value is not None}


def beginning(variables: dict[str, str | None], assignment: Assignment, initial: bytes) -> bytes:
    """Return the first message to a worker: a pickle of a `_worker_process.Beginning`.

    `variables` are those that the worker has to set, because it inherits other values. `initial` is a pickle of the
    user's initializer and its arguments, or empty.
    """
    own = f"LokyProcess-{next(_workers)}", (assignment.index, assignment.cpus, assignment.depth), initial
    return pickle.dumps((_common(variables), *own))


def _common(variables: dict[str, str | None]) -> bytes:
    """Return a pickle of a `_worker_process.Common`, the part of the message that is the same for many workers."""
    process: Any = sys.modules.get("multiprocessing.process")
    util: Any = sys.modules.get("multiprocessing.util")
    parent = None if process is None else process.current_process()
    name, authkey = ("MainProcess", b"") if parent is None else (parent.name, bytes(parent.authkey))
    log_level = util.get_logger().getEffectiveLevel() if util is not None and util._log_to_stderr else None
    limits: Any = resource  # Windows has no such module
    files = limits.getrlimit(limits.RLIMIT_NOFILE)
    return pickle.dumps(
        (os.getpid(), name, authkey, log_level, search_path(), sys.argv, working_folder(), files, variables)
    )


def search_path() -> list[str]:
    """Return ``sys.path``, with each empty entry replaced by the working folder."""
    return [entry or working_folder() or "" for entry in sys.path]


def inherited_state(environment: Mapping[str, str]) -> tuple[Hashable, ...]:
    """Return the state that a process inherits from its parent by exec and that cannot be changed later."""
    with open("/proc/self/status") as file:
        lines = [line for line in file if line.startswith(_INHERITED)]
    with open("/proc/self/limits") as file:  # without the limit of open files, which each worker sets itself
        limits = tuple(line for line in file if not line.startswith("Max open files"))
    streams: list[Hashable] = []
    for fd in range(3):
        try:
            status = os.fstat(fd)
            streams.append((status.st_dev, status.st_ino))
        except OSError:
            streams.append(None)
    return (
        tuple(sorted(environment.items())),
        sys.executable,
        tuple(lines),
        limits,
        tuple(streams),
        posix.getpriority(posix.PRIO_PROCESS, os.getpid()),
        tuple(posix.sched_getaffinity(os.getpid())),
        posix.getpgrp(),
        posix.getsid(0),
    )


_INHERITED = ("Umask", "Uid", "Gid", "Groups", "SigIgn", "SigBlk", "CapEff", "NoNewPrivs", "Seccomp", "Cpus_allowed:")


#: The opcode of a short string in a pickle, and its length.
_STRING = re.compile(rb"\x8c(.)", re.DOTALL)
#: The bytes at the start of a message that are searched for names of modules.
_SEARCHED = 64 * 1024


def modules_named(messages: Iterable[bytes]) -> tuple[str, ...]:
    """Return the sorted names of installed, imported modules that occur as strings in pickles.

    A string that is the name of a module by coincidence does no harm.
    """
    found = set()
    for message in messages:
        head = message[:_SEARCHED]
        for match in _STRING.finditer(head):
            start = match.end()
            name = head[start : start + match[1][0]]
            if name.isascii():
                found.add(name.decode())
    return tuple(sorted(name for name in found if name in sys.modules and installed(name)))
