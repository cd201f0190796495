"""Locks between processes: one byte of a file for each lock. The system releases them when their process dies.

They are POSIX record locks, for two reasons: the system releases the locks of a process however it ends, and a child
does not inherit them, so background processes that a computation leaves behind do not keep them. They have two
drawbacks. They belong to the process, not to a thread: :mod:`shoal.memory.storage._leases` sorts out the threads. And
closing any descriptor of the file releases all locks of the process: so each process opens the file only once.
"""

from __future__ import annotations

import errno
import importlib
import os
import secrets
import threading
import time
from typing import Any

from shoal.memory.storage._paths import create_own_file, make_own_folder

fcntl: Any = importlib.import_module("fcntl") if os.name == "posix" else None

#: The bytes from here on are the tokens of processes; those below are keys.
_PROCESSES = 2**62
#: The byte that a process locks while it writes to the index; the others queue for it.
QUEUE = 2**62 + 2**61
#: The number of failure counters, of eight bytes each. Keys share them.
_COUNTERS = 4096
_BUSY = (errno.EACCES, errno.EAGAIN)


class LockFile:
    """The locks of one folder. Thread-safe; all threads of a process own its locks together.

    The first lock creates the file. `token` is the number of this process: its byte is locked while the process lives.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self.reset()

    def reset(self) -> None:
        """Forget the file and choose a new token: a forked child owns none of its parent's locks."""
        self._file: _File | None = None
        self._opening = threading.Lock()
        self.token = secrets.randbits(61)

    def lock(self, number: int) -> Any:
        """Lock a byte, without waiting.

        Returns
        -------
        object
            The value for :meth:`unlock`; False if another process has locked the byte; None if locks do not work here.
        """
        file = self._current()
        if file is None:
            return None
        try:
            fcntl.lockf(file.fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
        except OSError as error:
            return False if error.errno in _BUSY else None
        return file

    def unlock(self, file: Any, number: int) -> None:
        """Unlock a byte."""
        try:
            fcntl.lockf(file.fd, fcntl.LOCK_UN, 1, number)
        except OSError:
            pass

    def wait(self, number: int) -> None:
        """Wait until no process has locked a byte. All waiting processes continue together. A signal can interrupt."""
        file = self._current()
        if file is None:
            return
        pause = 0.001
        flags = fcntl.LOCK_SH
        while True:
            try:
                fcntl.lockf(file.fd, flags, 1, number)
                break
            except OSError as error:
                # EDEADLK can be a false alarm: the system looks for deadlocks between processes, but threads wait.
                if error.errno not in (*_BUSY, errno.EDEADLK):
                    return
            flags = fcntl.LOCK_SH | fcntl.LOCK_NB
            time.sleep(pause)
            pause = min(2 * pause, 0.05)
        self.unlock(file, number)

    def mark_alive(self) -> None:
        """Lock the byte of this process's token, unless that was done before."""
        self._current()

    def queue(self) -> Any:
        """Wait in the queue for :data:`QUEUE`; return the value for :meth:`unlock`, or None if locks do not work."""
        file = self._current()
        if file is None:
            return None
        try:
            fcntl.lockf(file.fd, fcntl.LOCK_EX, 1, QUEUE)
        except OSError:
            return None
        return file

    def is_alive(self, token: int) -> bool | None:
        """Return whether the process with a token is alive; None if locks do not work here."""
        if token == self.token:
            return True
        locked = self.lock(_PROCESSES + token)
        if locked:
            self.unlock(locked, _PROCESSES + token)
        return None if locked is None else not locked

    def failures(self, number: int) -> bytes:
        """Return the failure counter of a byte: two equal values mean that nothing failed between them."""
        file = self._current()
        try:
            return b"" if file is None else os.pread(file.fd, 8, number % _COUNTERS * 8)
        except OSError:
            return b""

    def report_failure(self, number: int) -> None:
        """Change the failure counter of a byte, to tell the processes that wait for it."""
        file = self._current()
        if file is not None:
            try:
                os.pwrite(file.fd, secrets.token_bytes(8), number % _COUNTERS * 8)
            except OSError:
                pass

    def _current(self) -> _File | None:
        """Return the open file, a new one if it was removed from its folder, or None if locks do not work here."""
        file = self._file
        try:
            if file is not None and os.fstat(file.fd).st_nlink:
                return file
            return self._open(file)
        except OSError:
            return None

    def _open(self, before: _File | None) -> _File | None:
        if fcntl is None:
            return None
        with self._opening:  # two threads must not both open it: closing one descriptor would release all locks
            if self._file is before:
                make_own_folder(os.path.dirname(self._path))
                fd = create_own_file(self._path)
                file = _File(os.open(self._path, os.O_RDWR | os.O_NOFOLLOW) if fd is None else fd)
                fcntl.lockf(file.fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _PROCESSES + self.token)
                self._file = file
            return self._file


class _File:
    """An open file. It stays open as long as a lock in it is in use, even if another file has replaced it on disk."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        os.close(self.fd)
