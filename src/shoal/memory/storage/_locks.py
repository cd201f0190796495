"""Locks between processes: one byte of a file for each lock. The system releases them when their process dies.

They are POSIX record locks, for two reasons: the system releases the locks of a process however it ends, and a child
does not inherit them, so background processes that a computation leaves behind do not keep them. They have two
drawbacks. They belong to the process, not to a thread: :mod:`shoal.memory.storage._leases` sorts out the threads. And
closing any descriptor of the file releases all locks of the process: so each process opens the file only once.

Windows' locks belong to the open file instead (:mod:`shoal._platform.locks`). The rest holds there too. But Windows
does not remove a folder with a file that is open, so there the file is closed when the last lock in it is released.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

from shoal._platform.files import OPEN_FILES_STAY
from shoal._platform.locks import lock_byte, read_at, unlock_byte, write_at
from shoal.memory.storage._paths import create_own_file, make_own_folder

#: The bytes from here on are the tokens of processes; those below are keys.
_PROCESSES = 2**62
#: The byte that a process locks while it writes to the index; the others queue for it.
QUEUE = 2**62 + 2**61
_READ_AND_WRITE = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
#: The number of failure counters, of eight bytes each. Keys share them.
_COUNTERS = 4096


class LockFile:
    """The locks of one folder. Thread-safe; all threads of a process own its locks together.

    The first lock creates the file. `token` is the number of this process: its byte is locked while the process lives.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self.reset()

    def reset(self) -> None:
        """Forget the file and choose a new token: a forked child owns none of its parent's locks."""
        self._file: Callable[[], _File | None] = _no_file
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
            return file if lock_byte(file.fd, number) else False
        except OSError:
            return None

    def unlock(self, file: Any, number: int) -> None:
        """Unlock a byte."""
        try:
            unlock_byte(file.fd, number)
        except OSError:
            pass

    def wait(self, number: int) -> None:
        """Wait until no process has locked a byte. All waiting processes continue together. A signal can interrupt."""
        file = self._current()
        if file is None:
            return
        if _wait(file.fd, number, shared=True):
            self.unlock(file, number)

    def is_free(self, number: int) -> bool:
        """Return whether no other process has locked a byte. It is so if locks do not work here."""
        file = self._current()
        try:
            if file is None or not lock_byte(file.fd, number, shared=True):
                return file is None
        except OSError:
            return True
        self.unlock(file, number)
        return True

    def mark_alive(self) -> Any:
        """Lock the byte of this process's token, unless that was done before. It is locked while the result exists."""
        return self._current()

    def queue(self) -> Any:
        """Wait in the queue for :data:`QUEUE`; return the value for :meth:`unlock`, or None if locks do not work."""
        file = self._current()
        return file if file is not None and _wait(file.fd, QUEUE) else None

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
            return b"" if file is None else read_at(file.fd, 8, number % _COUNTERS * 8)
        except OSError:
            return b""

    def report_failure(self, number: int) -> None:
        """Change the failure counter of a byte, to tell the processes that wait for it."""
        file = self._current()
        if file is not None:
            try:
                write_at(file.fd, secrets.token_bytes(8), number % _COUNTERS * 8)
            except OSError:
                pass

    def _current(self) -> _File | None:
        """Return the open file, a new one if it was removed from its folder, or None if locks do not work here."""
        file = self._file()
        try:
            if file is not None and os.fstat(file.fd).st_nlink:
                return file
            return self._open(file)
        except OSError:
            return None

    def _open(self, before: _File | None) -> _File | None:
        with self._opening:  # two threads must not both open it: closing one descriptor would release all locks
            file = self._file()
            if file is None or file is before:
                make_own_folder(os.path.dirname(self._path))
                fd = create_own_file(self._path)
                opened = _File(os.open(self._path, _READ_AND_WRITE) if fd is None else fd)
                _wait(opened.fd, _PROCESSES + self.token)  # another process may be looking whether this one is alive
                self._file = weakref.ref(opened) if OPEN_FILES_STAY else lambda: opened
                return opened
            return file


class _File:
    """An open file. It stays open as long as a lock in it is in use, even if another file has replaced it on disk."""

    __slots__ = ("__weakref__", "fd")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        # Not by __del__: another thread could still get the object from a weak reference while the file is closed.
        weakref.finalize(self, os.close, fd).atexit = False


def _no_file() -> None:
    return None


def _wait(fd: int, number: int, shared: bool = False) -> bool:
    """Wait until a byte can be locked, and lock it. Return False if locks do not work here. A signal interrupts it."""
    pause, wait = 0.001, True
    try:
        # The system looks for deadlocks between processes, but threads wait. So what it takes for one is tried again.
        while not lock_byte(fd, number, shared, wait):
            time.sleep(pause)
            pause, wait = min(2 * pause, 0.05), False
    except OSError:
        return False
    return True
