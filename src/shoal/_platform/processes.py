"""What systems do in different ways with processes: pass a socket to one, notice its end, kill it, wait for anything.

::

                      POSIX                               Windows
    socket_pair       a pair of Unix sockets              two TCP sockets of this machine
    for_child         inherited                           duplicated for the process, which is already started
    when_ended        a descriptor, in the pool's loop    a thread that waits for the handle
    Group, end_with   a signal (Linux) or a kqueue        a job, which the system ends together with this process
    wait_for, take    one wait, which Ctrl-C interrupts   short waits, since Ctrl-C interrupts none

``_winapi`` is private, but ``multiprocessing`` cannot start a process without it.
"""

from __future__ import annotations

import contextlib
import math
import os
import queue
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from shoal._platform.posix import posix_select

#: The longest wait for a lock or a queue, in seconds. On Windows, Ctrl-C does not interrupt such a wait: its handler
#: runs between two of them.
LONGEST_WAIT = 0.1 if sys.platform == "win32" else math.inf

#: The exit code of a process that was killed on Windows. ``multiprocessing`` uses the same, and reports it as SIGTERM.
KILLED = 0x10000


def wait_for(event: threading.Event) -> None:
    """Wait until an event is set. On every system, Ctrl-C interrupts the main thread in it."""
    while not event.wait(longest_wait(math.inf)):
        pass


def take(messages: queue.SimpleQueue[Any], timeout: float | None) -> Any:
    """Return the next message of a queue. On every system, Ctrl-C interrupts the main thread in it.

    Raises
    ------
    queue.Empty
        If none has come after `timeout` seconds.
    """
    deadline = math.inf if timeout is None else time.monotonic() + timeout
    while True:
        left = max(deadline - time.monotonic(), 0)
        try:
            return messages.get(timeout=longest_wait(left))
        except queue.Empty:
            if time.monotonic() >= deadline:
                raise


def longest_wait(seconds: float) -> float | None:
    """Return how long to wait at once if `seconds` are left, which may be infinite; None means without a limit."""
    seconds = min(seconds, LONGEST_WAIT)
    return None if seconds == math.inf else min(seconds, threading.TIMEOUT_MAX)


def socket_pair(buffer_bytes: int, back_bytes: int) -> tuple[socket.socket, socket.socket]:
    """Return two connected sockets: the ends of the caller and of a worker.

    Linux counts its own records as well as the bytes, and doubles what is asked for. So only the caller's buffer is
    changed there, and the worker's is what it is by default. Other systems count bytes, in the buffers of both ends.
    macOS begins with 8 kB.

    Parameters
    ----------
    buffer_bytes
        About how much the caller's end takes before the worker reads.
    back_bytes
        About how much the worker's end takes before the caller reads. It bounds how far a worker that sends messages
        runs ahead of its run.
    """
    if os.name == "nt":
        return tcp_pair(buffer_bytes, back_bytes)
    ends = socket.socketpair()
    ends[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer_bytes)
    if sys.platform != "linux":
        ends[1].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
        ends[1].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, back_bytes)
        ends[0].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, back_bytes)
    return ends


def send_fails_at_end(connection: socket.socket) -> bool:
    """Return whether sending fails as soon as the other end is closed: TCP still takes a message after that."""
    return connection.family == getattr(socket, "AF_UNIX", None)


def tcp_pair(buffer_bytes: int, back_bytes: int) -> tuple[socket.socket, socket.socket]:
    """Return what :func:`socket_pair` does, as a TCP connection of this machine.

    The buffers get their sizes before the ends are connected: the connection begins with what its ends say they take,
    and does not take that back. It holds back no short messages to send them together.

    Raises
    ------
    OSError
        If the system allows no more sockets, or no connections to this machine.
    """
    with contextlib.ExitStack() as failing, socket.socket() as listener:
        caller = failing.enter_context(socket.socket())
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)  # accepted sockets inherit it
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, back_bytes)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        caller.connect(listener.getsockname())
        worker, address = listener.accept()
        while address != caller.getsockname():  # another program has connected to the port
            worker.close()
            worker, address = listener.accept()
        failing.enter_context(worker)
        for end, size in ((caller, buffer_bytes), (worker, back_bytes)):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        failing.pop_all()
    return caller, worker


class _Duplicated:
    """A socket among the arguments of a process. It becomes a socket of that process when it is unpickled there.

    ``multiprocessing`` would start a thread that hands out a duplicate of the socket when the process asks for it. If
    the process ended before that, the duplicate would stay open, and hide the end of the process.
    """

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    def __reduce__(self) -> Any:
        from multiprocessing.context import get_spawning_popen

        popen: Any = get_spawning_popen()
        sockets: Any = socket  # only on Windows they have these functions
        end: Any = self._end
        return sockets.fromshare, (end.share(popen.pid),)


def for_child(end: socket.socket) -> Any:
    """Return `end` as an argument for a process of ``multiprocessing`` that is about to start."""
    return _Duplicated(end) if sys.platform == "win32" else end


def when_ended(handle: int, then: Callable[[], object]) -> Callable[[], None]:
    """Return a function that waits for the end of a process, and then calls `then`; for Windows, and for a thread.

    A wait for several handles at once takes at most 64 of them, and one for sockets takes no handles of processes.

    Parameters
    ----------
    handle
        A handle of the process. It is duplicated, so that the caller may close it at any time.
    """
    import _winapi

    api: Any = _winapi
    this = api.GetCurrentProcess()
    own = api.DuplicateHandle(this, handle, this, 0, False, api.DUPLICATE_SAME_ACCESS)

    def wait() -> None:
        api.WaitForSingleObject(own, api.INFINITE)
        api.CloseHandle(own)
        then()

    return wait


def has_kqueue() -> bool:
    """Return whether the system reports the ends of processes by a kqueue: macOS and the BSDs."""
    return hasattr(posix_select, "kqueue")


def end_with(process: int) -> None:
    """End this process when another one ends, where :func:`has_kqueue` is true. A thread waits for it.

    It cannot end this process while compiled code holds the interpreter's lock.
    """
    events = posix_select.kqueue()
    exit_of_process = posix_select.kevent(
        process,
        filter=posix_select.KQ_FILTER_PROC,
        flags=posix_select.KQ_EV_ADD | posix_select.KQ_EV_ONESHOT,
        fflags=posix_select.KQ_NOTE_EXIT,
    )

    def wait() -> None:
        with contextlib.suppress(OSError):  # it has ended already
            events.control([exit_of_process], 1)
        os._exit(1)

    threading.Thread(target=wait, name="shoal-parent-end", daemon=True).start()


class Group:
    """A process and its descendants, on Windows: a job. The system kills them when this process ends, however it ends.

    Descendants that were started with ``CREATE_BREAKAWAY_FROM_JOB`` do not belong to it.

    Parameters
    ----------
    handle
        A handle of the process, which has just been started.

    Raises
    ------
    OSError
        If the system makes no job.
    """

    _BREAKAWAY_OK, _KILL_ON_JOB_CLOSE = 0x800, 0x2000
    _EXTENDED_LIMITS = 9

    def __init__(self, handle: int) -> None:
        import ctypes

        windows: Any = ctypes
        self._kernel: Any = windows.WinDLL("kernel32", use_last_error=True)
        self._kernel.CreateJobObjectW.restype = ctypes.c_void_p
        self._job = ctypes.c_void_p(self._kernel.CreateJobObjectW(None, None))
        assigned = (
            self._job.value
            and self._limit(self._BREAKAWAY_OK | self._KILL_ON_JOB_CLOSE)
            and self._kernel.AssignProcessToJobObject(self._job, ctypes.c_void_p(handle))
        )
        if not assigned:
            error: OSError = windows.WinError(windows.get_last_error())
            self._close()
            raise error

    def kill(self) -> None:
        """Kill all processes of the group. It does not wait for their ends."""
        self._kernel.TerminateJobObject(self._job, KILLED)

    def release(self) -> None:
        """Let descendants that outlive the process live on."""
        self._limit(self._BREAKAWAY_OK)
        self._close()

    def _limit(self, flags: int) -> bool:
        import ctypes

        # JOBOBJECT_EXTENDED_LIMIT_INFORMATION has 144 bytes, or 112 in 32 bits. Its flags are after two 64-bit times.
        size = 144 if ctypes.sizeof(ctypes.c_void_p) == 8 else 112
        limits = bytearray(size)
        limits[16:20] = flags.to_bytes(4, "little")
        buffer = (ctypes.c_char * size).from_buffer(limits)
        return bool(self._kernel.SetInformationJobObject(self._job, self._EXTENDED_LIMITS, buffer, size))

    def _close(self) -> None:
        if self._job.value:
            self._kernel.CloseHandle(self._job)
            self._job.value = None
