"""Detects programs without a ``__main__`` guard: each worker would import the program, and start workers again."""

from __future__ import annotations

import os
import sys
from typing import Any

from shoal.backends._bootstrap import flush_streams
from shoal.errors import MissingMainGuard

#: The exit code of a worker that tried to start workers while it imported the main module.
UNGUARDED = 177
#: Part of the name of each worker process that imports the main module.
MARK = "ShoalWorker"


def refuse_while_main_is_imported() -> None:
    """Refuse to start workers while this process imports the program's main module.

    It would never end, because each worker would import the module again. A shoal worker exits with a special code
    and its parent raises the error, so that it is raised once, and not in every worker.

    Raises
    ------
    MissingMainGuard
        In a process of multiprocessing that is not a shoal worker.
    """
    multiprocessing: Any = sys.modules.get("multiprocessing.process")
    process = None if multiprocessing is None else multiprocessing.current_process()
    if process is not None and getattr(process, "_inheriting", False):
        if MARK in process.name:
            flush_streams()
            os._exit(UNGUARDED)
        raise missing_main_guard()


def missing_main_guard() -> MissingMainGuard:
    """Return the error, with the path of this program."""
    return MissingMainGuard(getattr(sys.modules.get("__main__"), "__file__", None) or "the program")
