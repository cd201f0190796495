"""The multiprocessing backend: worker processes started by the standard library, by default with fork."""

from __future__ import annotations

import ctypes  # noqa: F401 used by a new worker, so it is imported before the fork (see Backend.forks)
import itertools
import multiprocessing
import os
import socket
from typing import Any

from shoal.backends._blas import find_blas, lower_blas_threads
from shoal.backends._bootstrap import Assignment, received, serve, set_up_signals, set_variables
from shoal.backends._messages import Blocking
from shoal.backends._placement import Placement
from shoal.backends._pool import pool
from shoal.backends._processes import ProcessBackend
from shoal.backends._stacks import answer_requests
from shoal.backends._start import ContextMaker
from shoal.backends.base import PLACEMENT, Slot, WorkerSpec

_numbers = itertools.count()


def _serve(parent: int, end: socket.socket, assignment: Assignment, initial: Any) -> None:
    """Run a worker process. Like a Pool's, it may not start processes: multiprocessing would wait for them at exit."""
    multiprocessing.current_process().daemon = True
    set_variables(assignment.variables)
    lower_blas_threads()
    set_up_signals(parent)
    answer_requests()
    connection = Blocking(end)
    serve(assignment, received(initial, connection), connection)


class MultiprocessingBackend(ProcessBackend):
    """Runs the calls in worker processes of the standard library, started for each run and ended with it.

    Notes
    -----
    On free-threaded CPython 3.13, a fork may copy a lock that another thread holds inside the interpreter. The worker
    then hangs. A program with threads should use a "spawn" context there, or the backend "loky".
    """

    name = "multiprocessing"
    options = frozenset({"initializer", "initargs", "maxtasksperchild", "context", *PLACEMENT})
    supports_return_generator = False
    forks = True
    runs, nests, ends_workers = "Multiprocessing-backed", False, True

    def open(self, spec: WorkerSpec) -> list[Slot]:
        """Return slots of one worker process each."""
        options = {**self.given_options, **spec.options}
        context = options.get("context") or multiprocessing.get_context(os.environ.get("JOBLIB_START_METHOD") or None)
        # Workers are not shared with later runs: a forked worker has the program's state at the start of its run.
        key = "multiprocessing", next(_numbers)
        maker = ContextMaker(key, context.get_context(), _serve, Placement(spec, options))
        maker.max_batches = options.get("maxtasksperchild")
        find_blas()
        return pool().open(maker, spec.n_workers)
