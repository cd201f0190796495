"""Starts a worker process without a fork server: by exec, or by a context of ``multiprocessing``.

::

    Executed      a new interpreter that runs _worker_process.work with its end of the connection
    ContextMaker  starts a Process of a context: "spawn"; any context for the backend "multiprocessing"; loky's context
                  on Windows and in frozen programs
    StartedChild  watches for the exit of either

This module uses private names of other libraries, because there are no public ones:

* ``multiprocessing.process._children``: workers are removed from it. At exit multiprocessing waits for all children in
  it, which hangs if a signal has kept the pool from ending its workers. A forked child of this process would take them
  for its own children.
* ``Process._start_method``: tells whether the worker imports the main module, and whether it copies our environment.
* ``popen_fork.Popen._launch``: holds the pipes that it opened when a fork fails (see `_close_pipes`).
* ``popen_spawn_posix.Popen._fds``: lists the descriptors that a new process must inherit to unpickle its objects.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing.process
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping
from functools import partial
from multiprocessing import util
from typing import Any

from shoal._platform.capabilities import SHORT_PIPES
from shoal._platform.posix import posix, posix_signal
from shoal._platform.processes import Group, for_child, when_ended
from shoal.backends._bootstrap import set_variables
from shoal.backends._guard import MARK
from shoal.backends._loop import Loop
from shoal.backends._placement import Placement
from shoal.backends._process import Process, kill_tree
from shoal.backends._workers import Worker
from shoal.backends.base import start_thread
from shoal.errors import import_loky


class StartedChild:
    """A worker process started by this process: a ``multiprocessing.Process`` or an :class:`Executed`.

    When it ends, `process.exited` is called in the loop's thread.
    """

    def __init__(self, started: Any, process: Process, loop: Loop) -> None:
        self.pid: int | None = started.pid
        self._started = started
        self._process: Process | None = process
        self._loop = loop
        self._tries = 0
        # The sentinel is a pipe that closes with the worker. But children that the worker has forked keep it open, and
        # hide the worker's death. Linux 5.3 and later have process descriptors, which do not have this problem.
        self._sentinel = started.sentinel
        self._group: Group | None = None
        if sys.platform == "win32":  # a selector takes no handles of processes
            with contextlib.suppress(OSError):  # then the process alone is killed
                self._group = Group(self._sentinel)
            try:
                wait = when_ended(self._sentinel, partial(loop.ask, self._ended))
                start_thread("shoal-worker-end", wait, make_room=False)
            except BaseException:
                self._started.kill()
                raise
        else:
            if hasattr(os, "pidfd_open"):
                with contextlib.suppress(OSError):
                    self._sentinel = os.pidfd_open(started.pid)
                    util.Finalize(self, os.close, (self._sentinel,))
            loop.watch(self._sentinel, self._ended)

    def kill(self) -> None:
        """Kill the worker and its descendants."""
        if sys.platform == "linux":
            if self._started.exitcode is None:
                kill_tree(self._started.pid)
        elif self._group is not None:
            self._group.kill()
        elif sys.platform == "win32":
            self._started.kill()
        else:
            import_loky()
            from loky.backend.utils import kill_process_tree

            kill_process_tree(self._started)

    def _ended(self) -> None:
        if sys.platform != "win32":
            self._loop.unwatch(self._sentinel)
        self._tries += 1
        code = self._started.exitcode
        if code is None and self._tries < 1000:  # the exit code may be available a moment later
            self._loop.later(0.001, self._ended)
            return
        if code is not None:
            self._started.join()  # removes it from multiprocessing's list of children
        if self._group is not None:
            self._group.release()
        process, self._process = self._process, None
        if process is not None:
            process.exited(code)


class ContextMaker:
    """Starts workers by a context of ``multiprocessing``. Workers with equal keys are interchangeable.

    The process calls `serve` with its parent's id, its end of the connection, its `Assignment`, and a pair of the
    initializer and its arguments. Instead of the pair it gets None if the first message contains it.
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
        """Start the worker's process unless it is running."""
        return worker.warm()

    def start(self, worker: Worker, process: Process, loop: Loop) -> StartedChild:
        """Start a worker process."""
        assignment = self._placement.of(worker.index)
        process.own = assignment.variables
        initial: Any = self._placement.initializer, self._placement.initargs
        if SHORT_PIPES and self._placement.initializer is not None:
            initial = _SentLater(initial, process)
        beginning = os.getpid(), for_child(process.theirs), assignment, initial
        started = self._context.Process(target=self._serve, args=beginning)
        method = started._start_method
        if method in ("spawn", "forkserver"):
            started.name = started.name.replace("Process", MARK)
        # A spawned worker may import the main module before its first message, so its variables are set here.
        with (
            warnings.catch_warnings(),
            temporary_variables(assignment.variables if method in ("spawn", "loky") else {}),
        ):
            # Since Python 3.12, a fork in a process with threads warns. A process with workers always has threads.
            warnings.filterwarnings("ignore", message=".*fork", category=DeprecationWarning)
            try:
                started.start()
            except OSError as error:
                _close_pipes(error)
                raise
        multiprocessing.process._children.discard(started)  # type: ignore[attr-defined]
        return StartedChild(started, process, loop)


class _SentLater:
    """An argument of a process that is about to start. It is pickled like the others, but sent by the connection.

    The process gets None in its place.
    """

    def __init__(self, argument: Any, process: Process) -> None:
        self._argument, self._process = argument, process

    def __reduce__(self) -> Any:
        from multiprocessing.context import get_spawning_popen

        pickled = io.BytesIO()
        popen: Any = get_spawning_popen()
        try:
            sys.modules[type(popen).__module__].reduction.dump(self._argument, pickled)
        except BaseException:
            if sys.platform == "win32":
                # The process runs already, and will copy its pipe by the number of our handle. That is closed next, and
                # the number may be that of the next worker's pipe by then.
                popen.terminate()
                popen.wait()
            raise
        self._process.send(pickled.getvalue())
        return type(None), ()


def context(method: str | None) -> Any:
    """Return the "spawn" context if `method` is "spawn", else loky's, which needs no ``__main__`` guard."""
    if method == "spawn":
        return multiprocessing.get_context(method)
    import_loky()
    from loky.backend.context import LokyContext

    return LokyContext  # imported directly, because joblib may have registered its own context as "loky"


def _close_pipes(error: OSError) -> None:
    """Close the pipes of a failed fork, which the standard library leaves open (up to Python 3.13)."""
    popen_fork: Any = sys.modules.get("multiprocessing.popen_fork")
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if popen_fork is not None and frame.f_code is popen_fork.Popen._launch.__code__:
            for name in ("parent_r", "child_w", "child_r", "parent_w"):
                if name in frame.f_locals:
                    os.close(frame.f_locals[name])


@contextlib.contextmanager
def temporary_variables(variables: Mapping[str, str | None]) -> Iterator[None]:
    """Set environment variables of this process while a child is spawned, which copies them."""
    before = {name: os.environ.get(name) for name in variables}
    set_variables(variables)
    try:
        yield
    finally:
        set_variables(before)


class Executed:
    """A process started by exec, with the part of ``multiprocessing.Process`` that :class:`StartedChild` needs.

    It inherits the descriptors `fds` under the same numbers; the first is its end of the connection.
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
        started.returncode = 0  # this class waits for the exit; without this, subprocess would also wait, and warn
        self._code: int | None = None

    @property
    def exitcode(self) -> int | None:
        """The exit code, negative for a signal; None while the process runs, or if other code has waited for it."""
        if self._code is None:
            with contextlib.suppress(ChildProcessError):
                pid, status = os.waitpid(self.pid, posix.WNOHANG)
                if pid:
                    self._code = os.waitstatus_to_exitcode(status)
        return self._code

    def kill(self) -> None:
        """Kill the process only; loky calls this if it cannot kill the descendants."""
        os.kill(self.pid, posix_signal.SIGKILL)

    def join(self) -> None:
        """Do nothing."""


def dumps_for_child(obj: Any) -> tuple[bytes, list[int]]:
    """Pickle an object with locks, queues or connections of ``multiprocessing``, for a process about to start.

    Also return the descriptors that the process must inherit.
    """
    from multiprocessing import popen_spawn_posix
    from multiprocessing.context import set_spawning_popen

    import_loky()
    from loky.backend import reduction  # pickles everything that cloudpickle and multiprocessing can pickle

    spawning: Any = popen_spawn_posix
    popen: Any = object.__new__(spawning.Popen)
    popen._fds = []
    stream = io.BytesIO()
    set_spawning_popen(popen)
    try:
        reduction.dump(obj, stream)
    finally:
        set_spawning_popen(None)
    return stream.getvalue(), popen._fds
