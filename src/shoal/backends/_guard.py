"""Programs without a ``__main__`` guard: each worker that imports such a program would start workers in turn."""

from __future__ import annotations

import os
import sys
from typing import Any

from shoal.backends._bootstrap import flush_streams
from shoal.errors import MissingMainGuard

#: The exit code of a worker that would have started workers while it imported the main module.
UNGUARDED = 177
#: What is in the name of a worker process that imports the main module.
MARK = "ShoalWorker"


def refuse_while_main_is_imported() -> None:
    """Refuse to start workers while a process of multiprocessing imports the program's main module.

    That would never end, because each worker would import the module again. A worker of ours tells its parent by its
    exit code, and the parent raises the error: once, and not each time that a worker is started.

    Raises
    ------
    MissingMainGuard
        In a process that is no worker of ours.
    """
    multiprocessing: Any = sys.modules.get("multiprocessing.process")
    process = None if multiprocessing is None else multiprocessing.current_process()
    if process is not None and getattr(process, "_inheriting", False):
        if MARK in process.name:
            flush_streams()
            os._exit(UNGUARDED)
        raise missing_main_guard()


def missing_main_guard() -> MissingMainGuard:
    """Return the error for the program that runs here."""
    return MissingMainGuard(getattr(sys.modules.get("__main__"), "__file__", None) or "the program")
