"""Starting a worker process where no fork server does it: by exec, or by a context of ``multiprocessing``.

::

    Executed      a fresh interpreter runs _worker_process.work with its end of the connection
    ContextMaker  the Process of a context serves its end: of "spawn", of what users give to the backend
                  "multiprocessing", and of loky's on Windows and in frozen programs
    StartedChild  waits for the end of either

Private names of other libraries that are read here, since nothing public does the same:

* ``multiprocessing.process._children``: multiprocessing waits at exit for the children in it, for ever if a signal has
  kept the pool from ending its workers before; and in a forked child of this process it would take them for its own.
* ``Process._start_method``: whether the worker imports the program's main module, and takes over our environment.
* ``popen_fork.Popen._launch``: the pipes that it has opened when a fork fails; see `_close_pipes`.
* ``popen_spawn_posix.Popen._fds``: which descriptors a new process has to inherit for what was pickled for it.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing.process
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping
from multiprocessing import util
from typing import Any

from shoal.backends._bootstrap import set_variables
from shoal.backends._guard import MARK
from shoal.backends._loop import Loop
from shoal.backends._placement import Placement
from shoal.backends._process import Process, kill_tree
from shoal.backends._workers import Worker
from shoal.errors import import_loky


class StartedChild:
    """A worker process that was started here.

    Parameters
    ----------
    started
        A ``multiprocessing.Process`` that was started, or an :class:`Executed`.
    process
        Is told when it has ended.
    """

    def __init__(self, started: Any, process: Process, loop: Loop) -> None:
        self.pid: int | None = started.pid
        self._started = started
        self._process: Process | None = process
        self._loop = loop
        self._tries = 0
        # The sentinel is a pipe that the worker holds. A child that it has forked holds it, too, and nobody would hear
        # of the worker's death as long as that child lives. Linux has descriptors of processes since 5.3.
        self._sentinel = started.sentinel
        if hasattr(os, "pidfd_open"):
            with contextlib.suppress(OSError):
                self._sentinel = os.pidfd_open(started.pid)
                util.Finalize(self, os.close, (self._sentinel,))
        loop.watch(self._sentinel, self._ended)

    def kill(self) -> None:
        """Kill it, and all that it has started."""
        if sys.platform == "linux":
            if self._started.exitcode is None:
                kill_tree(self._started.pid)
        else:
            import_loky()
            from loky.backend.utils import kill_process_tree

            kill_process_tree(self._started)

    def _ended(self) -> None:
        """Take note of its end; the system may take a moment to say how it was."""
        self._loop.unwatch(self._sentinel)
        self._tries += 1
        code = self._started.exitcode
        if code is None and self._tries < 1000:
            self._loop.later(0.001, self._ended)
            return
        if code is not None:
            self._started.join()  # else multiprocessing keeps it
        process, self._process = self._process, None
        if process is not None:
            process.exited(code)


class ContextMaker:
    """Starts workers by a context of ``multiprocessing``.

    Parameters
    ----------
    key
        Workers of equal keys are interchangeable.
    context
        Its ``Process`` makes a process.
    serve
        What the process does, given its parent's id, its end of the connection, and how it begins.
    placement
        What each worker is given.
    """

    idle_seconds: float | None = None
    max_batches: int | None = None
    follows = False

    def __init__(self, key: Hashable, context: Any, serve: Callable[..., object], placement: Placement) -> None:
        self.key = key
        self._context = context
        self._serve = serve
        self._placement = placement

    def prepare(self, worker: Worker) -> bool:
        """Start the worker's process, unless it is there."""
        return worker.warm()

    def start(self, worker: Worker, process: Process, loop: Loop) -> StartedChild:
        """Start a worker process."""
        place = self._placement.of(worker.index)
        process.own = place.variables
        beginning = place, self._placement.initializer, self._placement.initargs
        started = self._context.Process(target=self._serve, args=(os.getpid(), process.theirs, *beginning))
        method = started._start_method
        if method in ("spawn", "forkserver"):
            started.name = started.name.replace("Process", MARK)
        # A worker that is spawned may import the program's main module before it is sent anything.
        with warnings.catch_warnings(), lent(place.variables if method in ("spawn", "loky") else {}):
            # Python 3.12 warns of every fork of a process that has threads, which each that has workers is.
            warnings.filterwarnings("ignore", message=".*fork", category=DeprecationWarning)
            try:
                started.start()
            except OSError as error:
                _close_pipes(error)
                raise
        multiprocessing.process._children.discard(started)  # type: ignore[attr-defined]
        return StartedChild(started, process, loop)


def context(method: str | None) -> Any:
    """Return the context of "spawn"; for others loky's, which needs no ``__main__`` guard."""
    if method == "spawn":
        return multiprocessing.get_context(method)
    import_loky()
    from loky.backend.context import LokyContext

    return LokyContext  # not by its name in multiprocessing, under which joblib's own may stand


def _close_pipes(error: OSError) -> None:
    """Close the pipes to a process that could not be forked, which the standard library (up to 3.13) leaves open."""
    popen_fork: Any = sys.modules.get("multiprocessing.popen_fork")
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if popen_fork is not None and frame.f_code is popen_fork.Popen._launch.__code__:
            for name in ("parent_r", "child_w", "child_r", "parent_w"):
                if name in frame.f_locals:
                    os.close(frame.f_locals[name])


@contextlib.contextmanager
def lent(variables: Mapping[str, str | None]) -> Iterator[None]:
    """Have `variables` in the environment of this process, from which a child that is spawned takes its own."""
    before = {name: os.environ.get(name) for name in variables}
    set_variables(variables)
    try:
        yield
    finally:
        set_variables(before)


class Executed:
    """A process that was started by exec; it has what :class:`StartedChild` needs of ``multiprocessing.Process``.

    Parameters
    ----------
    environment
        The variables of its environment.
    fds
        The descriptors that it inherits, under the same numbers; the first is its end of the connection.
    """

    def __init__(self, environment: Mapping[str, str], fds: list[int]) -> None:
        import subprocess
        from multiprocessing import resource_tracker

        from shoal.backends._inheritance import command

        tracker: int = resource_tracker.getfd()  # type: ignore[assignment]
        self.sentinel, held = os.pipe()
        util.Finalize(self, os.close, (self.sentinel,))
        given = [fds[0], tracker, held, *fds[1:]]
        try:
            started = subprocess.Popen(command("_worker_process.work", *given), env=environment, pass_fds=given)
        finally:
            os.close(held)
        self.pid = started.pid
        started.returncode = 0  # it is waited for here; subprocess would, and warn, also in a forked child
        self._code: int | None = None

    @property
    def exitcode(self) -> int | None:
        """Its exit code, negative for a signal; None while it lives, and if something else has waited for it."""
        if self._code is None:
            with contextlib.suppress(ChildProcessError):
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                if pid:
                    self._code = os.waitstatus_to_exitcode(status)
        return self._code

    def kill(self) -> None:
        """Kill it alone, as loky asks for where it cannot kill what the process has started."""
        os.kill(self.pid, signal.SIGKILL)

    def join(self) -> None:
        """Do nothing: nothing is kept that would have to go."""


def dumps_for_child(obj: Any) -> tuple[bytes, list[int]]:
    """Pickle locks, queues and connections of ``multiprocessing``, which are only sent to a process that starts.

    Return also the descriptors that the process has to inherit for them.
    """
    from multiprocessing import popen_spawn_posix
    from multiprocessing.context import set_spawning_popen

    import_loky()
    from loky.backend import reduction  # it can pickle all that cloudpickle can, and what belongs to multiprocessing

    popen: Any = object.__new__(popen_spawn_posix.Popen)
    popen._fds = []
    stream = io.BytesIO()
    set_spawning_popen(popen)
    try:
        reduction.dump(obj, stream)
    finally:
        set_spawning_popen(None)
    return stream.getvalue(), popen._fds
