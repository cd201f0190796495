"""Limits the threads that the BLAS libraries of this process use."""

from __future__ import annotations

import os
import sys
import threading

from shoal._cpus import NO_LIMIT, THREAD_VARIABLES, threads_allowed
from shoal._forks import BACKENDS, after_fork_in_child
from shoal._platform.cpus import usable_cpus
from shoal._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any


class BlasCap:
    """Limits the BLAS threads of this process to `limit` per call while the ``with`` block runs. Thread-safe.

    Caps may overlap, in one thread or in several: the smallest one applies. When the last cap ends, the original limits
    are restored. A cap never raises a limit. A library that is loaded inside the block is limited from the next cap on.
    A BLAS built on OpenMP has a limit for each thread: the cap limits the thread that enters, and other threads call
    `cap_this_thread`.
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


class _Caps:
    """The active caps, and the limits before them. Callers hold the lock."""

    def __init__(self) -> None:
        self.libraries: list[Any] = []
        self._modules_seen = 0
        self.forget()

    def forget(self) -> None:
        """Drop all caps. A forked child also needs a new lock: another thread may have held it during the fork."""
        self.lock = threading.Lock()
        self.caps: list[int] = []
        self._originals: dict[str, int] = {}  # by path; only of libraries whose limit was lowered

    def apply(self) -> None:
        """Set each library to the smallest cap or, without caps, to its original limit."""
        cap = min(self.caps, default=NO_LIMIT)
        for library in self.libraries:
            now = library.get_num_threads()
            original = self._originals.get(library.filepath, now)
            if original is None:  # the library does not report its limit
                continue
            wanted = min(original, cap)
            if wanted != now:
                self._originals[library.filepath] = original
                _set_threads(library, wanted)
        if not self.caps:
            self._originals.clear()

    def find_libraries(self) -> None:
        """Search for libraries, if modules were imported since the last search: it is slow."""
        if len(sys.modules) == self._modules_seen or sys.modules.keys().isdisjoint(("numpy", "torch")):
            return
        try:
            from threadpoolctl import ThreadpoolController

            modules = len(sys.modules)
            self.libraries = ThreadpoolController().select(user_api="blas").lib_controllers
        except OSError:  # out of descriptors; the next run searches again
            return
        self._modules_seen = modules


def _set_threads(library: Any, n_threads: int) -> None:
    # Since threadpoolctl 3.8, only one thread may set limits while it is alive; calls from others are ignored. Here the
    # caps of all threads are counted, so any thread may set the limit.
    clear = getattr(library, "clear_controlling_thread", None)
    if clear is not None:
        clear(force=True)
    library.set_num_threads(n_threads)
    if clear is not None:
        clear()


_limits = _Caps()


def cap_this_thread(limit: int) -> None:
    """Lower the limit of this thread, permanently, in each BLAS with a limit for each thread (see `BlasCap`)."""
    for library in _limits.libraries:
        if getattr(library, "threading_layer", None) == "openmp" and limit < (library.get_num_threads() or 0):
            library.set_num_threads(limit)


def limits_of_this_thread() -> list[tuple[Any, int]]:
    """Return each BLAS with a limit for each thread, and its limit for this one: `cap_this_thread` may lower it."""
    libraries = [library for library in _limits.libraries if getattr(library, "threading_layer", None) == "openmp"]
    return [(library, library.get_num_threads() or 0) for library in libraries]


def restore_limits_of_this_thread(limits: list[tuple[Any, int]]) -> None:
    """Set the limits of this thread to what they were."""
    for library, limit in limits:
        if limit and limit != library.get_num_threads():
            library.set_num_threads(limit)


def find_blas() -> None:
    """Search for BLAS libraries before a fork, so that the child need not."""
    with _limits.lock:
        _limits.find_libraries()


def lower_blas_threads() -> None:
    """Lower the limit of each BLAS to its environment variable, which was set after the BLAS was loaded.

    Called in the main thread, before other threads start. After a fork OpenBLAS restarts its threads when the limit is
    set. If the system allows no threads, it prints that to stderr and sends SIGINT. Both are ignored, because OpenBLAS
    works without threads.
    """
    import signal

    try:
        stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    except OSError:  # out of descriptors
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


def restore_blas_threads() -> None:
    """Set each loaded BLAS and OpenMP to the limit that it would have if it were loaded now.

    A fork server loads them with one thread each; its workers call this.
    """
    names = [name for name in THREAD_VARIABLES if os.environ.get(name) != "1"]
    if not names:
        return
    from threadpoolctl import ThreadpoolController

    for library in ThreadpoolController().lib_controllers:
        own = threads_allowed(f"{library.internal_api.upper()}_NUM_THREADS")
        wanted = min(own if own < NO_LIMIT else threads_allowed("OMP_NUM_THREADS"), _default_threads())
        if wanted != (library.get_num_threads() or wanted):
            _set_threads(library, wanted)


def _default_threads() -> int:
    """Return the default number of threads of a BLAS or OpenMP library."""
    usable = usable_cpus()
    return (os.cpu_count() or 1) if usable is None else len(usable)


# The caps belong to threads of the parent. The limits of the libraries stay as they are.
after_fork_in_child(_limits.forget, BACKENDS)
