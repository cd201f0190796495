"""What this system and interpreter can do with processes and threads. It imports little: every program needs it."""

from __future__ import annotations

import functools
import os
import sys

#: Whether shoal can make a new interpreter a worker by itself. That takes parts of CPython which PyPy does not have.
HAS_EXECUTED = os.name == "posix" and sys.implementation.name == "cpython"

#: Whether a process can fork workers from a server: the system has fork, and /proc tells which state they inherit.
HAS_FORK_SERVER = sys.platform == "linux" and HAS_EXECUTED and hasattr(os, "fork") and os.path.isdir("/proc/self/task")

#: Whether a pipe takes only 8 kB. What a new process begins with may be longer, and a thread that writes it waits until
#: the process reads; for ever, if the process ends before that.
SHORT_PIPES = sys.platform == "win32"

#: The systems of WebAssembly.
_WEB = ("emscripten", "wasi")


@functools.cache
def has_processes() -> bool:
    """Return whether programs can start worker processes here. Pyodide lacks them, and all that they share locks by."""
    if sys.platform in _WEB:
        return False
    try:
        __import__("_multiprocessing")
    except ImportError:
        return False
    return True


@functools.cache
def has_threads() -> bool:
    """Return whether programs can start threads here. Pyodide has them only if it was built for them."""
    if sys.platform not in _WEB:
        return True  # if the system refuses one, it may have too many, and not always
    import threading

    try:
        threading.Thread(target=int).start()
    except RuntimeError:
        return False
    return True
