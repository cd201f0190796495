"""Locks between processes. The system releases them when their process ends, however it ends.

::

                   POSIX                                          Windows
    lock_byte      fcntl.lockf: belongs to the process            LockFileEx: belongs to the open file
    lock_file      fcntl.flock                                    a byte behind the end of the file
    wait_for_lock  the same, and the system waits                 the same, tried again and again
    read_at        os.pread                                       seek and read, one thread at a time

A byte may lie behind the end of the file, up to 2**63 - 1. Children inherit neither kind of lock of a byte.

On POSIX, a process that locks a byte again has it, and loses all its locks when it closes any descriptor of the file.
On Windows, it does not get the byte a second time, and a lock of a byte keeps others from reading or writing it.
"""

from __future__ import annotations

import errno
import os
import sys
import threading

#: The byte that :func:`lock_file` locks where the system cannot lock a whole file without locking others out.
_WHOLE = 2**62

_BUSY = (errno.EACCES, errno.EAGAIN)

if sys.platform == "win32":
    import functools
    import msvcrt
    import time
    from typing import Any

    _SHARED, _AT_ONCE, _EXCLUSIVE = 0, 1, 2  # of LockFileEx
    _BUSY_THERE = 33, 997  # ERROR_LOCK_VIOLATION, ERROR_IO_PENDING
    #: A descriptor has one position, which all threads share.
    _seeking = threading.Lock()

    @functools.cache
    def _functions() -> tuple[Any, Any, Any]:
        """Return LockFileEx, UnlockFileEx, and the class of the argument that says which byte."""
        import ctypes  # takes some milliseconds, and few programs lock anything
        from ctypes import wintypes

        class Overlapped(ctypes.Structure):
            _fields_ = (
                ("internal", ctypes.c_void_p),
                ("internal_high", ctypes.c_void_p),
                ("offset", wintypes.DWORD),
                ("offset_high", wintypes.DWORD),
                ("event", wintypes.HANDLE),
            )

        kernel, word = ctypes.WinDLL("kernel32", use_last_error=True), wintypes.DWORD
        lock, unlock = kernel.LockFileEx, kernel.UnlockFileEx
        lock.argtypes = wintypes.HANDLE, word, word, word, word, ctypes.POINTER(Overlapped)
        unlock.argtypes = wintypes.HANDLE, word, word, word, ctypes.POINTER(Overlapped)
        return lock, unlock, Overlapped

    def lock_byte(fd: int, number: int, shared: bool = False, wait: bool = False) -> bool:
        """Lock a byte of a file; return False if another open file has it. `wait` has no effect: nothing could end it.

        Raises
        ------
        OSError
            If locks do not work here.
        """
        import ctypes

        lock, _, overlapped = _functions()
        at = overlapped(offset=number & 0xFFFFFFFF, offset_high=number >> 32)
        flags = _AT_ONCE | (_SHARED if shared else _EXCLUSIVE)
        if lock(msvcrt.get_osfhandle(fd), flags, 0, 1, 0, at):
            return True
        code = ctypes.get_last_error()
        if code in _BUSY_THERE:
            return False
        raise ctypes.WinError(code)

    def unlock_byte(fd: int, number: int) -> None:
        """Unlock a byte. Raise OSError if it is not locked."""
        import ctypes

        _, unlock, overlapped = _functions()
        at = overlapped(offset=number & 0xFFFFFFFF, offset_high=number >> 32)
        if not unlock(msvcrt.get_osfhandle(fd), 0, 1, 0, at):
            raise ctypes.WinError(ctypes.get_last_error())

    def lock_file(fd: int) -> bool:
        """Lock a file that is being written, without waiting; return False if another process has locked it.

        Return True if the file system has no such locks.
        """
        try:
            return lock_byte(fd, _WHOLE)
        except OSError:
            return True

    def wait_for_lock(fd: int) -> None:
        """Lock a file as soon as no other process has locked it. Do nothing if the file system has no such locks.

        It tries again and again, because Ctrl-C could not end a wait.
        """
        while not lock_file(fd):
            time.sleep(0.01)

    def read_at(fd: int, count: int, position: int) -> bytes:
        """Read up to `count` bytes from a position."""
        with _seeking:
            os.lseek(fd, position, os.SEEK_SET)
            return os.read(fd, count)

    def write_at(fd: int, data: bytes, position: int) -> None:
        """Write some bytes to a position."""
        with _seeking:
            os.lseek(fd, position, os.SEEK_SET)
            os.write(fd, data)

else:
    import contextlib
    import importlib
    from typing import Any

    try:
        fcntl: Any = importlib.import_module("fcntl")
    except ImportError:  # Python for a browser may lack it
        fcntl = None

    def lock_byte(fd: int, number: int, shared: bool = False, wait: bool = False) -> bool:
        """Lock a byte of a file; return False if another process has it.

        With `wait`, return False only if the system believes that waiting would be a deadlock. A signal interrupts it.

        Raises
        ------
        OSError
            If locks do not work here.
        """
        if fcntl is None:
            raise OSError(errno.ENOTSUP, "this system has no locks of files")
        flags = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            fcntl.lockf(fd, flags if wait else flags | fcntl.LOCK_NB, 1, number)
        except OSError as error:
            if error.errno in _BUSY or (wait and error.errno == errno.EDEADLK):
                return False
            raise
        return True

    def unlock_byte(fd: int, number: int) -> None:
        """Unlock a byte. Raise OSError if locks do not work here."""
        fcntl.lockf(fd, fcntl.LOCK_UN, 1, number)

    def lock_file(fd: int) -> bool:
        """Lock a file that is being written, without waiting; return False if another process has locked it.

        Return True if the system, or the file system, has no such locks.
        """
        if fcntl is None:
            return True
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # this file system has no locks
            return True
        return True

    def wait_for_lock(fd: int) -> None:
        """Lock a file as soon as no other process has locked it. Do nothing if there are no such locks."""
        if fcntl is not None:
            with contextlib.suppress(OSError):  # this file system has no locks
                fcntl.flock(fd, fcntl.LOCK_EX)

    def read_at(fd: int, count: int, position: int) -> bytes:
        """Read up to `count` bytes from a position."""
        return os.pread(fd, count, position)

    def write_at(fd: int, data: bytes, position: int) -> None:
        """Write some bytes to a position."""
        os.pwrite(fd, data, position)
