"""Folders for segments that have to be files, and the removal of those that killed programs have left behind.

::

    parent/shoal-PID-xxxxxxxx/
        lock          contains the name of the host. The program keeps it locked for as long as it has the folder
        segment-0     ...

Usually the program removes its folder, and loky's resource tracker does so if the program is killed. Both may fail: the
tracker may be killed too, and Windows removes no file that a worker still maps. So a program that makes a folder first
removes the abandoned ones beside it. A lock tells which these are: it ends with its process. The id of a process does
not tell, because it may be that of another process by now, and containers and hosts that share a folder have their own.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from typing import Any

from shoal._platform.memory import discard
from shoal.errors import import_loky

_PREFIX = "shoal-"
_LOCK = "lock"
#: The byte of the lock file that is locked. Windows lets nobody read a locked byte, so it is behind the name.
_LOCKED_BYTE = 2**20
#: A younger folder is not removed, in seconds: its program may not have locked it yet.
_YOUNG = 60.0

_FLAGS = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)

#: The names of this process's folders, and the folders in which it has looked for abandoned ones. Adding is atomic.
_own: set[str] = set()
_swept: set[str] = set()


class Folder:
    """A folder for the segments of this process that have to be files. It is made when it is first needed.

    Parameters
    ----------
    parent
        The folder in which it is made; None for the system's temporary folder.

    Attributes
    ----------
    parent
        The path of that folder, or a name for it, as messages show it.

    Notes
    -----
    Thread-safe, except :meth:`remove`.
    """

    def __init__(self, parent: str | None) -> None:
        self.parent = "the system's temporary folder" if parent is None else os.path.abspath(os.path.expanduser(parent))
        self._parent = parent
        self._path: str | None = None
        self._lock = -1
        self._making = threading.Lock()

    @property
    def is_temporary(self) -> bool:
        """Whether it is in the system's temporary folder."""
        import tempfile

        return self._parent is None or self.parent == os.path.abspath(tempfile.gettempdir())

    def path(self) -> str:
        """Return the path of the folder. loky's resource tracker removes the folder if this process is killed."""
        if self._path is None:
            with self._making:
                if self._path is None:
                    made = self._make()
                    try:
                        _tracker().register(made, "folder")
                    except BaseException:  # it was not there yet, and cannot be started, for example
                        self._take_back(made)
                        raise
                    self._path = made
        return self._path

    def _make(self) -> str:
        """Make the folder; return its path."""
        import tempfile

        if self._parent is not None:
            os.makedirs(self.parent, exist_ok=True)
        parent = tempfile.gettempdir() if self._parent is None else self.parent
        if parent not in _swept:
            _swept.add(parent)
            remove_abandoned(parent)
        made = tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=parent)
        _own.add(os.path.basename(made))
        try:
            self._lock = _locked(os.path.join(made, _LOCK))
        except BaseException:
            self._take_back(made)
            raise
        return made

    def _take_back(self, made: str) -> None:
        self._unlock()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(made, _LOCK))
        os.rmdir(made)
        _own.discard(os.path.basename(made))

    def remove(self) -> None:
        """Remove the folder and its files. A process that has mapped a file keeps the file's memory."""
        if self._path is not None:
            self._unlock()
            discard(self._path)
            _tracker().unregister(self._path, "folder")
            _own.discard(os.path.basename(self._path))
            self._path = None

    def forget(self) -> None:
        """Leave the folder to the parent of this process; called in a forked child."""
        self._unlock()  # the lock itself belongs to the parent
        self._path = None
        self._making = threading.Lock()

    def _unlock(self) -> None:
        if self._lock >= 0:
            with contextlib.suppress(OSError):  # the code that forks may already have closed descriptors
                os.close(self._lock)
            self._lock = -1


def remove_abandoned(parent: str) -> None:
    """Remove the folders in `parent` whose programs have ended, as far as that is possible.

    Folders of other users and of other hosts are left alone.
    """
    try:
        with os.scandir(parent) as entries:
            folders = [entry for entry in entries if entry.name.startswith(_PREFIX)]
    except OSError:
        return
    for entry in folders:
        if entry.name not in _own and _is_abandoned(entry):
            import shutil  # it imports the libraries of three compressors

            shutil.rmtree(entry.path, ignore_errors=True)


def above_standard_streams(fd: int) -> int:
    """Return `fd`; if it is 0, 1 or 2 because a standard stream was closed, duplicate it to another number.

    Otherwise, libraries that write to stderr would write into the file, and a worker that starts now would have no
    such stream.
    """
    if sys.platform != "win32" and fd <= 2:
        import fcntl

        try:
            return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
        finally:
            os.close(fd)
    return fd


def _locked(path: str) -> int:
    """Make and lock a lock file; return its descriptor. Where files cannot be locked, the file is made all the same."""
    from shoal._platform.locks import lock_byte

    fd = above_standard_streams(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _FLAGS, 0o600))
    try:
        os.write(fd, _host())
        with contextlib.suppress(OSError):
            lock_byte(fd, _LOCKED_BYTE)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _is_abandoned(entry: os.DirEntry[str]) -> bool:
    """Return whether a folder belongs to no program any more.

    Each folder has a lock file, except for a moment after it is made, and while it is being removed.
    """
    from shoal._platform.locks import lock_byte

    try:
        status = entry.stat(follow_symlinks=False)
        if not entry.is_dir(follow_symlinks=False) or not _is_ours(status) or time.time() - status.st_mtime < _YOUNG:
            return False
        fd = os.open(os.path.join(entry.path, _LOCK), os.O_RDWR | _FLAGS)
    except FileNotFoundError:
        return os.path.isdir(entry.path)
    except OSError:
        return False
    try:
        return os.read(fd, 1024) in (_host(), b"") and lock_byte(fd, _LOCKED_BYTE)
    except OSError:  # files cannot be locked here
        return False
    finally:
        os.close(fd)


def _is_ours(status: os.stat_result) -> bool:
    return sys.platform == "win32" or status.st_uid == os.geteuid()


def _host() -> bytes:
    import socket

    return socket.gethostname().encode("utf-8", "surrogateescape")


def _tracker() -> Any:
    import_loky()
    from loky.backend import resource_tracker

    return resource_tracker
