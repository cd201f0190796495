"""Starting a worker process by a context of loky or the standard library; without what fails in their own ways of it.

loky (up to 3.7 at least) flushes ``sys.stdout``, which may be None or closed; and it leaves a pipe open where no
process can be started. Both know that a process has ended from the end of a pipe that it held: a child that it has
forked holds it, too, and nobody would hear of its death as long as that child lives.
"""

from __future__ import annotations

import contextlib
import functools
import io
import multiprocessing.process
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from multiprocessing import util
from multiprocessing.context import set_spawning_popen
from multiprocessing.reduction import DupFd
from typing import Any

from shoal.backends._bootstrap import Place, set_variables
from shoal.backends._guard import MARK
from shoal.backends._loop import Loop
from shoal.backends._process import Process, kill_tree


class ContextChild:
    """A process that a context has started.

    Parameters
    ----------
    started
        The started ``multiprocessing.Process``.
    process
        Is told when it has ended.
    """

    def __init__(self, started: Any, process: Process, loop: Loop) -> None:
        self.pid: int | None = started.pid
        self._started = started
        self._process: Process | None = process
        self._loop = loop
        self._tries = 0
        loop.watch(started.sentinel, self._ended)

    def kill(self) -> None:
        """Kill it, and all that it has started."""
        if sys.platform == "linux":
            if self._started.exitcode is None:
                kill_tree(self._started.pid)
        else:
            from loky.backend.utils import kill_process_tree

            kill_process_tree(self._started)

    def _ended(self) -> None:
        """Take note of its end; the system may take a moment to say how it was."""
        self._loop.unwatch(self._started.sentinel)
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


class Handed:
    """A socket on its way to a process that is started; loky (up to 3.7) would leave a copy of it open there."""

    def __init__(self, end: socket.socket) -> None:
        self.socket = end

    def __reduce__(self) -> Any:
        if sys.platform == "win32":
            return Handed, (self.socket,)
        return _taken, (DupFd(self.socket.fileno()),)


def _taken(handed: Any) -> Handed:
    return Handed(socket.socket(fileno=handed.detach()))


def start(
    make: Callable[..., Any],
    serve: Callable[..., object],
    place: Place,
    process: Process,
    loop: Loop,
    *more: Any,
    **options: Any,
) -> ContextChild:
    """Start the process that `make` makes, a context's ``Process``, which does `serve`; in the loop's thread."""
    started = make(target=serve, args=(place, os.getpid(), Handed(process.theirs), *more), **options)
    started.start()
    # multiprocessing waits at exit for the children that it knows, for ever if a signal has kept the pool from ending
    # its workers before; and in a forked child of this process it would take them for its own.
    multiprocessing.process._children.discard(started)  # type: ignore[attr-defined]
    return ContextChild(started, process, loop)


@contextlib.contextmanager
def lent(variables: Mapping[str, str | None]) -> Iterator[None]:
    """Have `variables` in the environment of this process, from which a child that is spawned takes its own."""
    before = {name: os.environ.get(name) for name in variables}
    set_variables(variables)
    try:
        yield
    finally:
        set_variables(before)


def launch(process: Any) -> Any:
    """Start a process of loky's; return what stands for it in ``multiprocessing``."""
    return _popen_class()(process)


def watching(make: Callable[..., Any], start: Callable[[Any], Any] | None = None) -> Callable[..., Any]:
    """Return what makes processes as `make` does, whose end is known whatever they have forked.

    They are started by `start`, which is given one and returns what stands for it; None: as they would be.
    """

    def make_watched(**options: Any) -> Any:
        process = make(**options)
        if process._start_method in ("spawn", "forkserver"):
            process.name = process.name.replace("Process", MARK)
        started = start or process._Popen

        def launch_watched(process: Any) -> Any:
            del process._Popen  # this function, which the child need not know
            return _watched(started(process))

        process._Popen = launch_watched
        return process

    return make_watched


def _watched(popen: Any) -> Any:
    """Have what stands for a child in ``multiprocessing`` tell of its end by a descriptor of the process; return it.

    Where there is none (Linux has them, since 5.3), it is left as it was; and where it is a fork server's child, whose
    exit code comes through the pipe.
    """
    if hasattr(os, "pidfd_open") and popen.method != "forkserver":
        with contextlib.suppress(OSError):
            popen.sentinel = os.pidfd_open(popen.pid)
            util.Finalize(popen, os.close, (popen.sentinel,))
    return popen


@functools.cache
def _popen_class() -> Any:
    from loky.backend import popen_loky_posix, reduction, spawn
    from loky.backend.fork_exec import fork_exec

    class Popen(popen_loky_posix.Popen):  # type: ignore[misc]
        def __init__(self, process: Any) -> None:
            self.returncode = None
            self._fds: list[int] = []
            message = io.BytesIO()
            set_spawning_popen(self)
            try:
                preparation = spawn.get_preparation_data(process.name, process.init_main_module)
                reduction.dump(preparation, message)
                reduction.dump(process, message)
            finally:
                set_spawning_popen(None)
            with contextlib.ExitStack() as opened:
                pipes = []
                for _ in range(2):
                    pipes.append(os.pipe())
                    for fd in pipes[-1]:
                        opened.callback(os.close, fd)
                (sentinel, held), (told, outlet) = pipes
                command = [sys.executable, "-m", popen_loky_posix.__name__]
                command += ["--process-name", process.name, "--pipe", str(told)]
                kept = [*self._fds, preparation["tracker_fd"], preparation["mp_tracker_fd"], held, told]
                for fd in kept:
                    os.set_inheritable(fd, True)
                self.pid = fork_exec(command, kept, env=process.env)
                opened.pop_all()
            os.close(held)  # what the child keeps open until it ends
            os.close(told)
            self.sentinel = sentinel
            util.Finalize(self, os.close, (sentinel,))
            with contextlib.suppress(BrokenPipeError), open(outlet, "wb") as file:  # its death is told by the sentinel
                file.write(message.getbuffer())

        def kill(self) -> None:
            """Kill the process, as ``multiprocessing.Process.kill`` asks for and loky's own does not know."""
            if self.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.pid, signal.SIGKILL)

    return Popen
