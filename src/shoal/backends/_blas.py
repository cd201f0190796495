"""How many threads the BLAS libraries of this process may use."""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

from shoal._cpus import NO_LIMIT, THREAD_VARIABLES, threads_allowed
from shoal._forks import BACKENDS, after_fork_in_child


class BlasCap:
    """Cap the BLAS threads of this process while the ``with`` block runs.

    Caps may overlap, in one thread or in several: the smallest one holds, and the limits found by
    the first come back when the last is gone. A limit is never raised above what it was.
    A library that is loaded inside the block is met by the next cap that begins. A BLAS built on
    OpenMP has a limit for each thread: there, the thread that enters is capped, and others by
    `cap_this_thread`. Thread-safe.

    Parameters
    ----------
    limit : int
        Threads that one BLAS call may use, at least 1.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit

    def __enter__(self) -> None:
        with _limits.lock:
            _limits.find_libraries()
            _limits.caps.append(self._limit)
            _limits.apply()

    def __exit__(self, *exc_info: object) -> None:
        with _limits.lock:
            _limits.caps.remove(self._limit)
            _limits.apply()


class _Limits:
    """The caps in force and the limits before them; the one owner of this process's BLAS limits.

    Whoever calls its methods, or reads `caps`, holds its lock.
    """

    def __init__(self) -> None:
        self.libraries: list[Any] = []
        self._modules_seen = 0
        self.forget()

    def forget(self) -> None:
        """Begin without caps, in a forked child: a thread of the parent's may have held the lock at the fork."""
        self.lock = threading.Lock()
        self.caps: list[int] = []
        self._originals: dict[str, int] = {}  # by path of the library; only those that were lowered

    def apply(self) -> None:
        """Give each library the smallest of the caps, or, without caps, the limit that it had before them."""
        cap = min(self.caps, default=NO_LIMIT)
        for library in self.libraries:
            now = library.get_num_threads()
            original = self._originals.get(library.filepath, now)
            if original is None:  # the library does not tell
                continue
            wanted = min(original, cap)
            if wanted != now:
                self._originals[library.filepath] = original
                _set_threads(library, wanted)
        if not self.caps:
            self._originals.clear()

    def find_libraries(self) -> None:
        """Look for libraries if modules were imported since: one comes with an extension module.

        A scan costs 50 times what all else here does.
        """
        if len(sys.modules) == self._modules_seen or sys.modules.keys().isdisjoint(("numpy", "torch")):
            return
        try:
            from threadpoolctl import ThreadpoolController

            modules = len(sys.modules)
            self.libraries = ThreadpoolController().select(user_api="blas").lib_controllers
        except OSError:  # no descriptor is left to import it, or to read /proc: the next run looks again
            return
        self._modules_seen = modules


def _set_threads(library: Any, n_threads: int) -> None:
    # From 3.8 on, threadpoolctl takes these from one thread only while that lives, and ignores all others: a cap would
    # not hold, or never go. Here they are counted, and may come from any thread.
    clear = getattr(library, "clear_controlling_thread", None)
    if clear is not None:
        clear(force=True)
    library.set_num_threads(n_threads)
    if clear is not None:
        clear()


_limits = _Limits()


def cap_this_thread(limit: int) -> None:
    """Cap the threads of each BLAS that has a limit for each thread, for good; others have a `BlasCap`."""
    for library in _limits.libraries:
        if getattr(library, "threading_layer", None) == "openmp" and limit < (library.get_num_threads() or 0):
            library.set_num_threads(limit)


def find_blas() -> None:
    """Look for BLAS libraries now, so that a child that is forked need not."""
    with _limits.lock:
        _limits.find_libraries()


def heed_thread_variables() -> None:
    """Lower the threads of each BLAS to its variable, in a process that had loaded it before that was set.

    To be called in the main thread, before there are others. After a fork OpenBLAS starts its threads anew when it is
    told their number; where the system allows none, it says so on stderr and interrupts the process, and needs none.
    """
    import signal

    try:
        stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    except OSError:  # no descriptors are left: there are other worries
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.dup2(nowhere, 2)
    try:
        find_blas()
        for library in _limits.libraries:
            wanted = threads_allowed(f"{library.internal_api.upper()}_NUM_THREADS")
            if wanted < (library.get_num_threads() or 0):
                _set_threads(library, wanted)
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)
        signal.signal(signal.SIGINT, handler)


def follow_thread_variables() -> None:
    """Give each BLAS and OpenMP that is loaded the threads that it would have, were it loaded now.

    For a process that was forked from one that had loaded them with one thread each.
    """
    names = [name for name in THREAD_VARIABLES if os.environ.get(name) != "1"]
    if not names:
        return
    from threadpoolctl import ThreadpoolController

    for library in ThreadpoolController().lib_controllers:
        own = threads_allowed(f"{library.internal_api.upper()}_NUM_THREADS")
        wanted = min(own if own < NO_LIMIT else threads_allowed("OMP_NUM_THREADS"), _cpus_seen())
        if wanted != (library.get_num_threads() or wanted):
            _set_threads(library, wanted)


def _cpus_seen() -> int:
    """Return how many threads such a library takes without being told."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# The caps are those of the parent's threads, of which one may have held the lock. The number of threads stays.
after_fork_in_child(_limits.forget, BACKENDS)
