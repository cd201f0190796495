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
    """Return whether programs can start worker processes here, with a thread that serves them.

    Pyodide lacks them, and all that they share locks by. A subinterpreter may lack the thread, and it cannot fork.
    """
    if sys.platform in _WEB:
        return False
    try:
        __import__("_multiprocessing")
    except ImportError:
        return False
    return has_threads()


@functools.cache
def has_threads() -> bool:
    """Return whether programs can start threads here that do not hold up the end of the program.

    Pyodide has them only if it was built for them. The subinterpreters of ``InterpreterPoolExecutor`` refuse them.
    """
    import threading

    try:
        thread = threading.Thread(target=int, daemon=True)
        if sys.platform in _WEB:  # if another system refuses one, it may have too many, and not always
            thread.start()
    except RuntimeError:
        return False
    return True
