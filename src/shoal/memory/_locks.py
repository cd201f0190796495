"""Locks between processes: bytes of one file, which the system frees when their owner dies.

They are POSIX record locks. Those of a process go when it does, however it ends, and a child does not inherit them, so
that what a computation leaves running in the background holds nothing. All threads of a process own them together, and
closing any descriptor of the file gives all of them up: hence one open file, and :mod:`shoal.memory._leases` above.
"""

from __future__ import annotations

import errno
import importlib
import os
import secrets
import threading
import time
from typing import Any

from shoal.memory._places import create_own_file, make_own_folder

fcntl: Any = importlib.import_module("fcntl") if os.name == "posix" else None

#: Bytes from here on stand for processes, those below for keys.
_PROCESSES = 2**62
#: The byte of the process whose turn it is.
QUEUE = 2**62 + 2**61
#: Failures are counted in so many places of eight bytes each, which keys share.
_PLACES = 4096
_BUSY = (errno.EACCES, errno.EAGAIN)


class LockFile:
    """The locks of a folder.

    Parameters
    ----------
    path
        The file, which is made when the first lock is taken.

    Attributes
    ----------
    token
        A number that stands for this process; its byte is locked as long as the process lives.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self.forget()

    def forget(self) -> None:
        """Be that of another process: a fork's child."""
        self._file: _File | None = None
        self._opening = threading.Lock()
        self.token = secrets.randbits(61)

    def take(self, number: int) -> Any:
        """Lock a byte.

        Returns
        -------
        What :meth:`give_back` takes; False if another process has it; None if there are no locks here.
        """
        file = self._open()
        if file is None:
            return None
        try:
            fcntl.lockf(file.fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
        except OSError as error:
            return False if error.errno in _BUSY else None
        return file

    def give_back(self, file: Any, number: int) -> None:
        """Unlock a byte."""
        try:
            fcntl.lockf(file.fd, fcntl.LOCK_UN, 1, number)
        except OSError:
            pass

    def wait(self, number: int) -> None:
        """Wait until nobody has a byte. All who wait go on at once. An interrupt ends it."""
        file = self._open()
        if file is None:
            return
        pause = 0.001
        flags = fcntl.LOCK_SH
        while True:
            try:
                fcntl.lockf(file.fd, flags, 1, number)
                break
            except OSError as error:
                # The system looks for circles of processes, where threads wait: there may be none.
                if error.errno not in (*_BUSY, errno.EDEADLK):
                    return
            flags = fcntl.LOCK_SH | fcntl.LOCK_NB
            time.sleep(pause)
            pause = min(2 * pause, 0.05)
        self.give_back(file, number)

    def live(self) -> None:
        """Have this process's token count as alive from now on."""
        self._open()

    def turn(self) -> Any:
        """Wait for one's turn, as processes do in a queue; return what :meth:`give_back` takes, or None."""
        file = self._open()
        if file is None:
            return None
        try:
            fcntl.lockf(file.fd, fcntl.LOCK_EX, 1, QUEUE)
        except OSError:
            return None
        return file

    def is_alive(self, token: int) -> bool | None:
        """Tell whether the process lives that a token stands for; None if nobody can tell."""
        if token == self.token:
            return True
        taken = self.take(_PROCESSES + token)
        if taken:
            self.give_back(taken, _PROCESSES + token)
        return None if taken is None else not taken

    def failures(self, number: int) -> bytes:
        """Return what :meth:`fail` changes."""
        file = self._open()
        try:
            return b"" if file is None else os.pread(file.fd, 8, number % _PLACES * 8)
        except OSError:
            return b""

    def fail(self, number: int) -> None:
        """Tell those who wait for a byte that what they wait for has failed."""
        file = self._open()
        if file is not None:
            try:
                os.pwrite(file.fd, secrets.token_bytes(8), number % _PLACES * 8)
            except OSError:
                pass

    def _open(self) -> _File | None:
        """Return the file; a new one, if somebody has removed it."""
        file = self._file
        try:
            if file is not None and os.fstat(file.fd).st_nlink:
                return file
            return self._opened(file)
        except OSError:
            return None

    def _opened(self, before: _File | None) -> _File | None:
        if fcntl is None:
            return None
        with self._opening:  # of two descriptors, the one that is closed would take the locks of the other with it
            if self._file is before:
                make_own_folder(os.path.dirname(self._path))
                fd = create_own_file(self._path)
                file = _File(os.open(self._path, os.O_RDWR | os.O_NOFOLLOW) if fd is None else fd)
                fcntl.lockf(file.fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _PROCESSES + self.token)
                self._file = file
            return self._file


class _File:
    """An open file. It stays open as long as anybody has a lock of it, also when another has taken its place."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        os.close(self.fd)
