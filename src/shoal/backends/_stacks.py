"""A worker process or a program writes its stacks when another process of the same user asks: ``shoal stack``.

::

    shoal stack                                                       worker
    finds the memfd "stack-of-shoal-N" in /proc/PID/fd, empties it       answer_requests: at its start
    sends the signal N ─────────────────────────────────────────────> faulthandler writes the stacks to the memfd
    reads the memfd <─────────────────────────────────────────────────┘ in C, and also while compiled code runs

    shoal stack                                                       program with workers
    writes the path of its own memfd to /proc/PID/fd/N ── a pipe ───> write_stacks, in the pool's thread
    reads the memfd <─────────────────────────────────────────────────┘ in Python, while no code holds the interpreter

The signal is one of the real-time signals, which few programs use. Batch systems and preemption send SIGUSR1 and
SIGUSR2, which programs handle themselves. The program itself gets no handler: its signals are the user's. The workers
of a fork server share one memfd, which the server makes: a worker then takes no time for it.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import threading

from shoal._platform.posix import posix

#: The signal. Linux has it since 2.2, and so have both C libraries; their own signals are lower.
STACK_SIGNAL = 45
#: The start of the name that the system shows for the memfd; the number of the signal follows.
STACK_NAME = "stack-of-shoal-"
#: The name of the memfd into which a program writes its stacks.
ANSWER_NAME = "answer-to-shoal"

_fd = -1


def answer_requests() -> None:
    """Write the stacks of this process to a memfd whenever the signal comes, unless the program handles that signal."""
    global _fd
    if sys.platform == "linux":
        import faulthandler  # subinterpreters cannot have it, and never call this
        import fcntl

        before = _fd  # of the parent, if this process was forked from a worker
        with contextlib.suppress(AttributeError, OSError, RuntimeError, ValueError):
            if signal.getsignal(STACK_SIGNAL) is not signal.SIG_DFL:
                return
            fd = os.memfd_create(f"{STACK_NAME}{STACK_SIGNAL}", os.MFD_CLOEXEC)
            if fd <= 2:  # a closed standard stream, to which libraries write
                os.close(fd)
                return
            fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_APPEND)
            # Without a global lock, other threads change their stacks while faulthandler reads them.
            gil = getattr(sys, "_is_gil_enabled", lambda: True)()
            faulthandler.register(STACK_SIGNAL, file=fd, all_threads=gil, chain=False)
            _fd = fd
            if before >= 0:
                os.close(before)


class Requests:
    """The pipe through which other processes ask this program for its stacks.

    Attributes
    ----------
    fd
        Its descriptor, for reading and writing: a pipe without a writer would count as closed. -1 if there is none.
    """

    fd = -1

    @classmethod
    def open(cls) -> bool:
        """Open the pipe, where the system has ``/proc``; return whether it was opened now."""
        if cls.fd >= 0:
            return False
        if sys.platform == "linux":
            with contextlib.suppress(OSError):
                ends = os.pipe2(os.O_CLOEXEC)
                try:
                    cls.fd = os.open(f"/proc/self/fd/{ends[0]}", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
                finally:
                    for end in ends:
                        os.close(end)
        return cls.fd >= 0

    @classmethod
    def close(cls) -> None:
        """Close the pipe."""
        if cls.fd >= 0:
            os.close(cls.fd)
            cls.fd = -1


def write_stacks() -> None:
    """Answer the requests that are in the pipe. Each is the path of a memfd of the process that asks."""
    requests = b""
    with contextlib.suppress(OSError):
        requests = os.read(Requests.fd, 4096)
    for path in re.findall(rb"/proc/\d+/fd/\d+", requests):
        with contextlib.suppress(OSError):  # the process that asked has ended
            fd = os.open(path, os.O_WRONLY | posix.O_NONBLOCK | posix.O_CLOEXEC)
            try:
                # Another process may have got its id, with a file of the user under that descriptor.
                if os.readlink(f"/proc/self/fd/{fd}").startswith(f"/memfd:{ANSWER_NAME}"):
                    os.write(fd, f"{_stacks()}\0".encode(errors="backslashreplace"))
            finally:
                os.close(fd)


def _stacks() -> str:
    """Return the stacks of all other threads, as faulthandler shows them, with the names of the threads."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    lines = []
    for ident, frame in sys._current_frames().items():
        if ident == threading.get_ident():
            continue
        lines.append(f"Thread {names.get(ident, hex(ident))} (most recent call first):")
        inner = frame
        while inner is not None:
            lines.append(f'  File "{inner.f_code.co_filename}", line {inner.f_lineno} in {inner.f_code.co_name}')
            inner = inner.f_back  # type: ignore[assignment]
    return "\n".join(lines)
