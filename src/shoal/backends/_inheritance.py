"""What a process that shoal starts is told, what it inherits, and which modules it may import ahead."""

from __future__ import annotations

import itertools
import os
import pickle
import re
import resource
import sys
from collections.abc import Hashable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from shoal.backends._surroundings import installed, working_folder

if TYPE_CHECKING:
    from shoal.backends._bootstrap import Place

#: Counts the workers of this process, as multiprocessing counts those that it starts.
_workers = itertools.count(1)


def command(function: str, *fds: int) -> list[str]:
    """Return the command line by which a fresh interpreter calls a function with descriptors.

    Parameters
    ----------
    function
        A module of this package and a function of it: ``"_forked.main"``.
    fds
        The numbers of the descriptors.
    """
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    path = f"sys.path[:] = [*filter(None, sys.path), {root!r}]"
    module, _, name = function.partition(".")
    return [sys.executable, "-c", f"import sys; {path}; from shoal.backends.{module} import {name}; {name}{fds}"]


def changed_environment(environment: Mapping[str, str], variables: Mapping[str, str | None]) -> dict[str, str]:
    """Return an environment in which `variables` are set, or, where they are None, are missing."""
    return {name: value for name, value in {**environment, **variables}.items() if value is not None}


def beginning(variables: dict[str, str | None], place: Place, initial: bytes) -> bytes:
    """Return the first message to a worker: `_worker_process.Beginning`.

    Parameters
    ----------
    variables
        The variables that the worker sets, because it has inherited other values.
    place, initial
        As for :meth:`shoal.backends._forkserver.ForkServer.fork`.
    """
    own = f"LokyProcess-{next(_workers)}", (place.index, place.cpus, place.depth), initial
    return pickle.dumps((_common(variables), *own))


def _common(variables: dict[str, str | None]) -> bytes:
    """Return a pickle of what workers have in common (`_worker_process.Common`), with the variables that they set."""
    process: Any = sys.modules.get("multiprocessing.process")
    util: Any = sys.modules.get("multiprocessing.util")
    parent = None if process is None else process.current_process()
    name, authkey = ("MainProcess", b"") if parent is None else (parent.name, bytes(parent.authkey))
    log_level = util.get_logger().getEffectiveLevel() if util is not None and util._log_to_stderr else None
    files = resource.getrlimit(resource.RLIMIT_NOFILE)
    return pickle.dumps(
        (os.getpid(), name, authkey, log_level, search_path(), sys.argv, working_folder(), files, variables)
    )


def search_path() -> list[str]:
    """Return ``sys.path``, with the working folder in the place of empty entries."""
    return [entry or working_folder() or "" for entry in sys.path]


def inherited_state(environment: Mapping[str, str]) -> tuple[Hashable, ...]:
    """Return all that a process inherits from its parent by exec and cannot be given later."""
    with open("/proc/self/status") as file:
        lines = [line for line in file if line.startswith(_INHERITED)]
    with open("/proc/self/limits") as file:  # that of open files each worker takes from the caller
        limits = tuple(line for line in file if not line.startswith("Max open files"))
    streams: list[Hashable] = []
    for fd in range(3):
        try:
            found = os.fstat(fd)
            streams.append((found.st_dev, found.st_ino))
        except OSError:
            streams.append(None)
    return (
        tuple(sorted(environment.items())),
        sys.executable,
        tuple(lines),
        limits,
        tuple(streams),
        os.getpriority(os.PRIO_PROCESS, os.getpid()),
        tuple(os.sched_getaffinity(os.getpid())),
        os.getpgrp(),
        os.getsid(0),
    )


_INHERITED = ("Umask", "Uid", "Gid", "Groups", "SigIgn", "SigBlk", "CapEff", "NoNewPrivs", "Seccomp", "Cpus_allowed:")


#: A short string in a pickle.
_STRING = re.compile(rb"\x8c(.)", re.DOTALL)
#: Where modules are searched for in a message, in bytes from its start.
_SEARCHED = 64 * 1024


def modules_named(messages: Iterable[bytes]) -> tuple[str, ...]:
    """Return the installed modules that pickles name and that this process has imported, sorted.

    A string that happens to be the name of such a module counts, too: it does no harm.
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
