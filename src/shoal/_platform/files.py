"""Files: replacing, renaming, removing, syncing, and opening without standing in the way of others.

::

                        POSIX                              Windows
    replace, rename     always, whoever has the file open  refused while the file, or one in the folder, is open
    remove              always                             refused while the file is open or mapped
    sync                fsync; macOS: F_FULLFSYNC          FlushFileBuffers
    sync_folder         fsync                              nothing: NTFS keeps a journal
    Unnoticed           Linux: O_NOATIME, else as there    the time of reading is set back

Virus scanners, indexers and readers have files open for some milliseconds, so on Windows a refused operation is tried
again for a while. Elsewhere a refusal is final, and raised at once.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Callable
from io import FileIO
from typing import Any, TypeVar

T = TypeVar("T")

#: Whether a file that is open can be neither removed nor replaced, nor the folder that it is in.
OPEN_FILES_STAY = os.name == "nt"

#: Whether ``st_ctime`` is the time at which a file was last changed. On Windows it is that at which the file was made.
HAS_CHANGE_TIMES = os.name != "nt"

#: Whether ``readinto`` of a file fills a part of an array. PyPy refuses slices of the memory of arrays.
READS_INTO_PARTS = sys.implementation.name != "pypy"

#: Windows' codes of what a file in use causes: access denied, sharing violation, a mapped section.
_IN_USE = (5, 32, 1224)

#: How long a file in use is waited for, in seconds; and how long if the caller can do without.
PATIENCE, IMPATIENCE = 1.0, 0.1


def is_in_use(error: BaseException) -> bool:
    """Return whether an error may say that a file is open or mapped. Only Windows has such errors."""
    if not isinstance(error, OSError):
        return False
    code = getattr(error, "winerror", None)
    if code is None:  # Windows' library of C gives no other number
        return os.name == "nt" and error.errno == errno.EACCES
    return code in _IN_USE


def replace(source: str, target: str, patience: float = PATIENCE) -> None:
    """Rename a file and replace the file that is at `target`, in one step.

    Parameters
    ----------
    source, target
        The paths.
    patience
        How long to try if Windows refuses, because a file is in use, in seconds.

    Raises
    ------
    OSError
        As for :func:`os.replace`. :func:`is_in_use` tells whether a file is in use.
    """
    _patiently(os.replace, patience, source, target)


def rename(source: str, target: str, patience: float = PATIENCE) -> None:
    """Rename a file or folder. On Windows it is an error if `target` exists, elsewhere unless it is an empty folder.

    The parameters and errors are those of :func:`replace`.
    """
    _patiently(os.rename, patience, source, target)


def remove(path: str, patience: float = IMPATIENCE) -> None:
    """Remove a file. The parameters and errors are those of :func:`replace`."""
    _patiently(os.unlink, patience, path)


def _patiently(operation: Callable[..., T], patience: float, *arguments: Any) -> T:
    try:
        return operation(*arguments)
    except OSError as error:
        if not is_in_use(error):
            raise
    deadline, pause = time.monotonic() + patience, 0.001
    while True:
        time.sleep(pause)
        try:
            return operation(*arguments)
        except OSError as error:
            if not is_in_use(error) or time.monotonic() >= deadline:
                raise
        pause = min(2 * pause, 0.01)


def real_path(path: str) -> str:
    """Return a path without links, like :func:`os.path.realpath`; the absolute path if the system cannot tell.

    Windows cannot look into a device, such as "nul".
    """
    try:
        return os.path.realpath(path)
    except OSError:
        return os.path.abspath(path)


def sync(fd: int) -> None:
    """Wait until what was written to a file is on the disk.

    On macOS, fsync leaves it in the cache of the drive; F_FULLFSYNC does not. Some file systems do not have that.
    """
    if _full_sync is not None:
        try:
            _full_sync(fd)
            return
        except OSError:
            pass
    os.fsync(fd)


def _find_full_sync() -> Callable[[int], Any] | None:
    try:
        import fcntl
    except ImportError:
        return None
    command = getattr(fcntl, "F_FULLFSYNC", None)
    call: Any = getattr(fcntl, "fcntl", None)
    return None if command is None else lambda fd: call(fd, command)


_full_sync = _find_full_sync()


def sync_folder(path: str) -> None:
    """Wait until the names in a folder are on the disk. Do nothing where folders cannot be opened."""
    if os.name != "nt":
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


if sys.platform == "win32":

    def open_shared(path: str, flags: int) -> int:
        """Open a file that exists, as :func:`os.open` does, so that others can rename it meanwhile.

        Raises
        ------
        OSError
            As for :func:`os.open`.
        """
        import _winapi
        import msvcrt

        flags &= os.O_RDONLY | os.O_WRONLY | os.O_RDWR
        read, write = 0x80000000, 0x40000000  # GENERIC_READ, GENERIC_WRITE
        access = {os.O_RDONLY: read, os.O_WRONLY: write, os.O_RDWR: read | write}[flags]
        shared = 1 | 2 | 4  # FILE_SHARE_READ, FILE_SHARE_WRITE, FILE_SHARE_DELETE
        try:
            # While a file is replaced, it can be opened by nobody.
            handle = _patiently(_winapi.CreateFile, IMPATIENCE, path, access, shared, 0, _winapi.OPEN_EXISTING, 0x80, 0)
        except OSError as error:
            error.filename = path
            raise
        return msvcrt.open_osfhandle(handle, flags | os.O_BINARY)

    #: For ``open(path, "rb", opener=opener)``, which then opens as `open_shared` does.
    opener: Callable[[str, int], int] | None = open_shared
else:
    #: As on Windows. It is called for each value that a cache finds, so it is the function of the system itself.
    open_shared: Callable[[str, int], int] = os.open
    opener: Callable[[str, int], int] | None = None


class Unnoticed(FileIO):
    """A file that is open for reading, and whose time of reading stays. Linux does that itself for the file's owner.

    Elsewhere the time is set back when the file is closed, unless the file was changed or replaced meanwhile.

    Raises
    ------
    OSError
        As for :func:`open`.
    """

    _before: os.stat_result | None = None

    def __init__(self, path: str) -> None:
        super().__init__(path, "rb", opener=self._open)

    def _open(self, path: str, flags: int) -> int:
        if hasattr(os, "O_NOATIME"):
            try:
                return os.open(path, flags | os.O_NOATIME)
            except PermissionError:  # only the owner of a file may do so
                return os.open(path, flags)
        fd = open_shared(path, flags)
        self._before = os.fstat(fd)
        return fd

    def close(self) -> None:
        before, self._before = self._before, None
        super().close()
        if before is not None:
            try:
                now = os.stat(self.name)
                if os.path.samestat(now, before) and now.st_mtime_ns == before.st_mtime_ns:
                    os.utime(self.name, ns=(before.st_atime_ns, before.st_mtime_ns))
            except OSError:  # it was removed, or belongs to another user
                pass
