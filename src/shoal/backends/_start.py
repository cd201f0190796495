"""Starting processes as loky and the standard library do, without what fails in their own way of doing it.

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
import sys
from collections.abc import Callable
from concurrent.futures import Future
from multiprocessing import util
from multiprocessing.context import set_spawning_popen
from typing import Any

from shoal.backends._bootstrap import flush_streams, serve
from shoal.errors import MissingMainGuard

#: The exit code of a worker that would have started workers while it imported the main module.
UNGUARDED = 177
#: What is in the name of a worker process that imports the main module.
_MARK = "ShoalWorker"


def begin(executor: Any) -> Future[None]:
    """Have a new executor start its process, for the one task there; where that fails, leave nothing of it.

    At exit, since Python 3.12, the thread that would manage the process cannot be started any more: it is ended here.
    """
    try:
        # Its manager would start this thread with the first task, and is lost if that fails.
        executor._call_queue._start_thread()
        life: Future[None] = executor.submit(serve)
    except BaseException:
        for process in list(executor._processes.values()):
            process.terminate()
            process.join()
        manager = executor._executor_manager_thread
        if manager is None or not manager.is_alive():
            # The error holds them, as long as somebody holds the error.
            executor._call_queue.close()
            executor._result_queue.close()
            executor._executor_manager_thread_wakeup.close()
        raise
    for process in list(executor._processes.values()):
        # multiprocessing waits at exit for the children that it knows, and would wait for ever if a signal has kept the
        # pool from ending its workers before. The executor knows the process; nobody else has to.
        multiprocessing.process._children.discard(process)  # type: ignore[attr-defined]
    return life


def refuse_while_main_is_imported() -> None:
    """Refuse to start workers where a process of multiprocessing imports the program's main module.

    That would never end, since each worker would import it. A worker of ours says so by its exit code, so that its
    parent raises the error: once, and not each time that a worker is started.

    Raises
    ------
    MissingMainGuard
        In a process that is no worker of ours.
    """
    process = multiprocessing.process.current_process()
    if getattr(process, "_inheriting", False):
        if _MARK in process.name:
            flush_streams()
            os._exit(UNGUARDED)
        raise missing_main_guard()


def missing_main_guard() -> MissingMainGuard:
    """Return the error for the program that runs here."""
    return MissingMainGuard(getattr(sys.modules.get("__main__"), "__file__", None) or "the program")


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
            process.name = process.name.replace("Process", _MARK)
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
