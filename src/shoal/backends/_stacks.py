"""A worker process writes its stacks when another process of the same user asks for them: ``shoal stack``.

::

    shoal stack                                                       worker
    finds the memfd "stack-of-shoal-N" in /proc/PID/fd, empties it       answer_requests: at its start
    sends the signal N ─────────────────────────────────────────────> faulthandler writes the stacks to the memfd
    reads the memfd <─────────────────────────────────────────────────┘ in C, and also while compiled code runs

The signal is one of the real-time signals, which few programs use. Batch systems and preemption send SIGUSR1 and
SIGUSR2, which programs handle themselves. The workers of a fork server share one memfd, which the server makes: a
worker then takes no time for it.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys

#: The signal. Linux has it since 2.2, and so have both C libraries; their own signals are lower.
STACK_SIGNAL = 45
#: The start of the name that the system shows for the memfd; the number of the signal follows.
STACK_NAME = "stack-of-shoal-"

_fd = -1


def answer_requests() -> None:
    """Write the stacks of this process to a memfd whenever the signal comes, unless the program handles that signal."""
    global _fd
    before = _fd  # of the parent, if this process was forked from a worker
    with contextlib.suppress(AttributeError, ImportError, OSError, RuntimeError, ValueError):  # not on this system
        import fcntl

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
