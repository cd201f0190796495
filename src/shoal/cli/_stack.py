"""``shoal stack``: the Python stacks of a running program and of its worker processes.

::

    each worker   ── a signal ──> faulthandler, in the worker ──> memory that it shares with us    (backends/_stacks.py)
    the program   ── a message through a pipe ──> the pool's thread ──> memory of ours
                  ── py-spy dump, if it does not answer, and py-spy is installed and may trace
    --native      ── py-spy dump --native, for all of them
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import time
from argparse import Namespace
from typing import Any

from shoal._platform.posix import posix, posix_signal
from shoal._sizes import format_duration
from shoal.backends._stacks import ANSWER_NAME
from shoal.cli._programs import argv_of, reason_against, request_path, stack_memory, status_of, workers_of
from shoal.cli._text import DONE, FAILED, complain, say
from shoal.cli._top import doing, named, workers_by_pid
from shoal.errors import printable

#: The seconds in which a worker has to answer, and those without a further line after which its answer is complete.
_ANSWER_SECONDS, _QUIET_SECONDS = 3.0, 0.05
#: The end of the line of a stack from which on all frames are shoal's.
_OURS = " in _run_calls"
_NO_PY_SPY = (
    "it does not answer: it has had no worker processes, or compiled code does not let other threads run. py-spy shows "
    "its stacks (pip install py-spy). Without py-spy, start the program with python -X faulthandler: 'kill -ABRT "
    "{pid}' then prints its stacks, and ends it"
)


class _NoAnswer(Exception):
    """The stacks of a process cannot be shown, for the reason given."""


def main(given: Namespace) -> int:
    """Show the stacks of the program, then of each worker."""
    pid: int = given.pid
    if reason := reason_against(pid):
        complain(reason)
        return FAILED
    spy = _py_spy()
    if given.native and spy is None:
        complain("--native needs py-spy: pip install py-spy")
        return FAILED
    workers = workers_of(pid)
    doings = workers_by_pid(pid)
    code = DONE
    if pid not in workers:
        say(printable(f"program {pid}: {' '.join(argv_of(pid))}"))
        try:
            say(_of_program(pid, spy, given.native))
        except _NoAnswer as reason:
            say(f"  {reason}")
            code = DONE if workers else FAILED
    for number, worker in enumerate(workers):
        if number or pid not in workers:
            say()
        doing_now = doings.get(worker)
        say(f"worker {worker}: {'no call' if doing_now is None else _words(doing_now)}")
        try:
            say(_spied(spy, worker, True) if given.native and spy else _asked(worker))
        except _NoAnswer as reason:
            say(f"  {reason}")
            code = FAILED
    return code


def _of_program(pid: int, spy: str | None, native: bool) -> str:
    """Return the stacks of a program: its own answer, or else what py-spy finds."""
    answer = None if native else _answered(pid)
    if answer is not None:
        return answer
    if spy is None:
        raise _NoAnswer(_NO_PY_SPY.format(pid=pid))
    return _spied(spy, pid, native)


def _answered(pid: int) -> str | None:
    """Return the stacks that the pool's thread of a program writes; None if it does not answer."""
    path = request_path(pid)
    if path is None:
        return None
    memory = posix.memfd_create(ANSWER_NAME, posix.MFD_CLOEXEC)
    try:
        pipe = os.open(path, os.O_WRONLY | posix.O_NONBLOCK | posix.O_CLOEXEC)
        try:
            os.write(pipe, f"/proc/{os.getpid()}/fd/{memory}\n".encode())
        finally:
            os.close(pipe)
        deadline = time.monotonic() + _ANSWER_SECONDS
        while time.monotonic() < deadline:
            time.sleep(_QUIET_SECONDS / 5)
            text = posix.pread(memory, os.fstat(memory).st_size, 0)
            if text.endswith(b"\0"):
                return _printable(text[:-1].decode(errors="replace").splitlines())
    except OSError:  # it has ended, or has not read earlier requests
        pass
    finally:
        os.close(memory)
    return None


def _words(worker: dict[str, object]) -> str:
    parts = [doing(worker), printable(named(worker))]
    seconds = worker["seconds"]
    if isinstance(seconds, float):
        parts.append(f"for {format_duration(seconds)}")
    return ", ".join(filter(None, parts))


def _asked(pid: int) -> str:
    """Return the stacks that a worker writes when it gets the signal."""
    try:
        process = posix.pidfd_open(pid)
    except OSError as error:
        raise _NoAnswer("it has ended") from error
    try:
        found = stack_memory(pid)  # after the process was opened, so that the signal reaches this process or none
        if found is None:
            raise _NoAnswer("it has ended")
        path, number = found
        _check(pid, number)
        locks: Any = fcntl
        with open(path, "r+b", buffering=0) as memory:
            locks.flock(memory, locks.LOCK_EX)  # the workers share it, and this command may run twice at a time
            memory.truncate(0)
            posix_signal.pidfd_send_signal(process, number)
            text = _answer(memory.fileno())
    except OSError as error:
        raise _NoAnswer(f"it cannot be asked: {error.strerror}") from error
    finally:
        os.close(process)
    return _without_ours(text.decode(errors="replace")).rstrip("\n")


def _check(pid: int, number: int) -> None:
    """Refuse to send the signal to a process that does not handle it, because the signal would end it."""
    if not int(status_of(pid, "SigCgt") or "0", 16) >> (number - 1) & 1:
        raise _NoAnswer(f"it cannot be asked: the program has changed the handler of signal {number} there")
    if status_of(pid, "State").startswith(("T", "t")):
        raise _NoAnswer(f"it is stopped ('kill -CONT {pid}' continues it), or a debugger holds it")


def _answer(memory: int) -> bytes:
    """Wait until nothing more is written to the memory, and return what is there."""
    deadline = time.monotonic() + _ANSWER_SECONDS
    size = 0
    while time.monotonic() < deadline:
        time.sleep(_QUIET_SECONDS)
        before, size = size, os.fstat(memory).st_size
        if size and size == before:
            return bytes(posix.pread(memory, size, 0))
    raise _NoAnswer(f"it has not answered within {_ANSWER_SECONDS:g} s: the system does not let it run now")


def _without_ours(text: str) -> str:
    """Remove, from each stack, the frames below the user's function: they are shoal's, and the same in all workers."""
    lines: list[str] = []
    ours = False
    for line in text.splitlines():
        if not line.startswith("  File "):
            ours = False
        ours = ours or line.endswith(_OURS)
        if not ours:
            lines.append(line)
    return _printable(lines)


def _printable(lines: list[str]) -> str:
    """Join lines, with characters escaped that a terminal might take for commands."""
    return "\n".join(map(printable, lines))


def _py_spy() -> str | None:
    """Return the path of py-spy: on the PATH, or beside this interpreter; None if there is none."""
    return shutil.which("py-spy") or shutil.which("py-spy", path=os.path.dirname(sys.executable))


def _spied(spy: str, pid: int, native: bool) -> str:
    """Return the stacks that py-spy finds in a process."""
    command = [spy, "dump", *(["--native"] if native else []), "--pid", str(pid)]
    with contextlib.suppress(OSError):
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        if done.returncode == 0:
            return _printable(done.stdout.decode(errors="replace").rstrip().splitlines())
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise _NoAnswer(printable(f"py-spy cannot read it: {said[0] if said else done.returncode}"))
    raise _NoAnswer(f"{spy} cannot be run")
