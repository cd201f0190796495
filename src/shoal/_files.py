"""Files and folders: atomic replacement of a file, and removal.

::

    with replacement(path) as file:      the block writes a file without a name, or one with a temporary name
        file.write(...)                  if the block succeeds, that file replaces `path` in one step; else `path` stays

What systems do differently is in :mod:`shoal._platform.files`.
"""

from __future__ import annotations

import binascii
import contextlib
import errno
import os
import stat
import sys
import time
from typing import Any, ClassVar

from shoal._output import Output, WritesAll, write_all
from shoal._platform.files import OPEN_FILES_STAY, is_in_use, open_shared, real_path, remove, replace, sync, sync_folder
from shoal._platform.locks import lock_file
from shoal.errors import FileInUse

#: The buffer of a file that is written, in bytes.
_BUFFER = 2**17

#: The folder of links to what the process has open.
_DESCRIPTORS = "/proc/self/fd"

#: On Windows, a file is neither open nor locked while it is renamed. So there, a file without a lock is taken for that
#: of a killed writer only if it was last written to this many seconds ago.
_UNLOCKED = 60.0


def make_folder(path: str) -> None:
    """Create a folder and its parents, unless they exist. Other processes may remove them at the same time."""
    for _ in range(10):
        try:
            os.makedirs(path, exist_ok=True)
            return
        except FileNotFoundError:
            continue
        except FileExistsError:
            if os.path.lexists(path):
                raise
    os.makedirs(path, exist_ok=True)


def delete(path: str) -> None:
    """Delete a file, or a folder with its contents. Ignore errors."""
    try:
        if stat.S_ISDIR(os.lstat(path).st_mode):
            import shutil  # it imports the libraries of three compressors

            shutil.rmtree(path, ignore_errors=True)
        else:
            remove(path)
    except OSError:
        pass


class replacement(WritesAll):
    """A block that writes a new file, which replaces `path` when the block has succeeded, and not before.

    In everything else this is like ``open(path, "wb")``: the permissions, the errors, and that links are followed.
    If `path` is not a regular file, or if its folder allows no new file, the block writes to `path` itself. The file is
    opened when more is written to it than one ``bytes`` object, or else when the block ends.

    Parameters
    ----------
    path : str
        The path of the file.
    durable : bool, default False
        Whether to wait until the system has written the file to the disk.

    Raises
    ------
    FileInUse
        If Windows does not let the file be replaced or changed, because it is mapped.
    OSError
        If ``open(path, "wb")`` would raise it, or if the file cannot be written or put in place.
    """

    __slots__ = ("_before", "_durable", "_new", "_output", "_path", "_whole")

    def __init__(self, path: str, durable: bool = False) -> None:
        self._path, self._durable = path, durable
        self._whole = b""  # what was written, before the file is opened
        self._output: Output | None = None

    def write(self, data: Any) -> None:
        """Write all bytes of a buffer. The caller may change the buffer when this returns."""
        if self._output is None:
            if not self._whole and type(data) is bytes:
                self._whole = data
                return
            self._open()
        self._output.write(data)  # type: ignore[union-attr]  # _open() has made it

    def tell(self) -> int:
        """Return the position of the next byte."""
        return len(self._whole) if self._output is None else self._output.tell()

    def fileno(self) -> int:
        """Return the descriptor. Bytes that are gathered have not been written to it yet."""
        if self._output is None:
            self._open()
        return self._new.fd

    def _open(self) -> None:
        self._path, self._before, self._new = _opened(self._path)
        self._output = Output(self._new.fd)
        self._output.write(self._whole)
        self._whole = b""

    def __enter__(self) -> replacement:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        output = self._output
        if output is None:
            if kind is not None:
                return
            self._path, self._before, self._new = _opened(self._path)
        try:
            if kind is None:
                if output is None:
                    write_all(self._new.fd, self._whole)
                else:
                    output.flush()
                self._new.publish(self._path, self._before, self._durable)
        finally:
            self._new.close()


def _opened(path: str) -> tuple[str, os.stat_result | None, _TemporaryFile | _ExistingFile]:
    """Open a file whose content will be that of `path`. Also return what :func:`_target` tells of the path."""
    path, before = _target(path)
    if before is None or stat.S_ISREG(before.st_mode):
        if before is not None:
            os.close(open_shared(path, os.O_WRONLY))  # raises if the old file must not be written to
        try:
            return path, before, _TemporaryFile(_folder_of(path))
        except PermissionError:
            pass
    return path, before, _ExistingFile(path)


class _ExistingFile:
    """The file of a path that no new file can replace."""

    def __init__(self, path: str) -> None:
        self._file = open(path, "wb", 0)  # noqa: SIM115  # the end of the block closes it
        self.fd = self._file.fileno()

    def publish(self, path: str, before: os.stat_result | None, durable: bool) -> None:
        """Do nothing: everything is in the file already."""

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _target(path: str) -> tuple[str, os.stat_result | None]:
    """Return the absolute path of the file that a path leads to, and its status; None if there is no such file."""
    if not path or path.endswith(("/", os.sep)):  # realpath() would drop it, so let open() raise the error
        open(path, "wb").close()
    try:
        if os.name != "nt":  # there, links are more than lstat() tells
            status = os.lstat(path)
            if not stat.S_ISLNK(status.st_mode):  # realpath() would look at each part of the path
                return _absolute(path), status
        path = real_path(path)
        return path, os.stat(path)
    except FileNotFoundError:
        return _absolute(path), None


def _absolute(path: str) -> str:
    """Return an absolute path: the working folder may change. ``abspath`` would misread ".." behind a link."""
    return path if path.startswith("/") or os.path.isabs(path) else os.path.join(os.getcwd(), path)


def _folder_of(path: str) -> str:
    """Return the folder of an absolute path."""
    return os.path.dirname(path) if os.name == "nt" else path[: path.rfind("/") + 1]


class _TemporaryFile:
    """A new file in a folder. It has no name, or a temporary name, until :meth:`publish` gives it its path.

    If the system has files without a name, nothing is left behind, however the process ends. Elsewhere the file has a
    temporary name and is locked while it is written. If its writer is killed, the next writer in the folder removes it.
    """

    _SUFFIX = ".shoal-part"
    #: Whether a file without a name can be given one. It cannot where /proc is not mounted.
    _can_be_linked: ClassVar[bool] = True

    __slots__ = ("_folder", "_name", "fd")
    fd: int

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._name: str | None = None
        if hasattr(os, "O_TMPFILE") and self._can_be_linked:
            try:
                self.fd = os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o666)
                return
            except PermissionError:
                raise
            except OSError:  # this file system has no files without a name
                pass
        self.fd = self._open_with_name()

    def _open_with_name(self) -> int:
        self._remove_abandoned()
        while True:
            name = self._random_name()
            fd = os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0), 0o666)
            if lock_file(fd) and os.path.exists(name):  # else another writer removed it before it was locked
                self._name = name
                return fd
            os.close(fd)

    def _random_name(self) -> str:
        return os.path.join(self._folder, f".{os.urandom(8).hex()}{self._SUFFIX}")

    def _remove_abandoned(self) -> None:
        """Remove the files of writers that have been killed."""
        try:
            entries = os.scandir(self._folder)
        except NotADirectoryError:
            if os.name != "nt":
                raise
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self._folder) from None  # as open() does
        for entry in entries:
            if entry.name.endswith(self._SUFFIX):
                _remove_if_abandoned(entry.path)

    def _copy_permissions(self, before: os.stat_result) -> None:
        """Copy owner, group and mode of the file that is to be replaced, as far as the system allows."""
        if sys.platform != "win32":
            now = os.fstat(self.fd)
            owner = before.st_uid, before.st_gid
            if owner != (now.st_uid, now.st_gid):
                with contextlib.suppress(PermissionError):
                    os.fchown(self.fd, *owner)
                    now = os.fstat(self.fd)  # a file that is given away may lose S_ISUID and S_ISGID
            if before.st_mode != now.st_mode:
                os.fchmod(self.fd, stat.S_IMODE(before.st_mode))

    def publish(self, path: str, before: os.stat_result | None, durable: bool) -> None:
        """Give the file its path, in one step; a file that is there is replaced. `before` is its status.

        Windows refuses this while the old file is open. After a while the contents are then copied to the old file,
        as if it had been opened for writing.
        """
        exists = before is not None
        if before is not None:
            self._copy_permissions(before)
        if durable:
            sync(self.fd)
        if self._name is None:
            source = f"{_DESCRIPTORS}/{self.fd}"
            try:
                if not exists:
                    try:
                        # os.link() follows the link in /proc only if it has a directory descriptor (AT_SYMLINK_FOLLOW).
                        os.link(source, path, src_dir_fd=self.fd)
                    except FileExistsError:
                        exists = True
                if exists:
                    self._name = self._link_temporary_name(source, path)
            except FileNotFoundError:
                if os.access(source, os.F_OK):  # then the folder is missing
                    raise
                self._copy_with_name(durable)
        if self._name is not None:
            if OPEN_FILES_STAY:
                self._close_fd()
            refusal = _put(self._name, path, durable)
            if refusal is not None:
                raise FileInUse(path, refusal)
            self._name = None
        if durable:
            sync_folder(self._folder)

    def _link_temporary_name(self, source: str, path: str) -> str:
        """Give the file a temporary name, because the system cannot replace a path by a file without a name.

        If the writer is killed before it renames the file, the name is left. The next writer of this path removes it.
        """
        lock_file(self.fd)
        name = f"{self._folder}/.{binascii.crc32(os.fsencode(path)):08x}{self._SUFFIX}"
        while True:
            try:
                os.link(source, name, src_dir_fd=self.fd)
                return name
            except FileExistsError:
                if not _remove_if_abandoned(name):
                    name = self._random_name()

    def _copy_with_name(self, durable: bool) -> None:
        """Copy the file to one that has a name, because without /proc this one cannot be given any."""
        import shutil  # it imports the libraries of three compressors

        _TemporaryFile._can_be_linked = False
        nameless, self.fd = self.fd, self._open_with_name()
        with open(nameless, "rb") as contents, open(self.fd, "wb", 0, closefd=False) as file:
            self._copy_permissions(os.fstat(nameless))
            contents.seek(0)
            shutil.copyfileobj(contents, file, _BUFFER)
        if durable:
            sync(self.fd)

    def close(self) -> None:
        """Close the file, and remove it if it was not published."""
        self._close_fd()
        if self._name is not None:
            with contextlib.suppress(OSError):
                remove(self._name)

    def _close_fd(self) -> None:
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            os.close(fd)


def _remove_if_abandoned(path: str) -> bool:
    """Remove a file if its writer has ended; return whether there is no such file now."""
    try:
        if OPEN_FILES_STAY and _is_recent(os.stat(path)):
            return False
        fd = os.open(path, os.O_WRONLY)
    except OSError as error:
        return isinstance(error, FileNotFoundError)
    try:
        # No other process removes the file while it is locked. Before that, one may have removed it, and a writer may
        # have created a new file of the same name.
        status = os.fstat(fd)
        if not (lock_file(fd) and os.path.samestat(status, os.stat(path))):
            return False
        if OPEN_FILES_STAY and _is_recent(status):
            return False
        if OPEN_FILES_STAY:
            os.close(fd)
            fd = -1
        os.unlink(path)
    except OSError as error:
        return isinstance(error, FileNotFoundError)
    finally:
        if fd >= 0:
            os.close(fd)
    return True


def _is_recent(status: os.stat_result) -> bool:
    return time.time() - status.st_mtime < _UNLOCKED


def _put(source: str, target: str, durable: bool) -> str | None:
    """Let a file replace another one. If Windows refuses, because that is open, copy the contents to it.

    Return the reason of the system if Windows refuses that too, because the file is mapped; otherwise None.
    """
    try:
        replace(source, target)
        return None
    except OSError as error:
        if not is_in_use(error):
            raise
    import shutil  # it imports the libraries of three compressors

    try:
        with open(source, "rb") as contents, open(target, "r+b", buffering=0) as file:
            file.truncate(0)  # Windows does not change the size of a mapped file
            shutil.copyfileobj(contents, file, _BUFFER)
            if durable:
                sync(file.fileno())
    except OSError as error:
        if is_in_use(error) or error.errno == errno.EINVAL:
            return str(error.strerror)
        raise
    with contextlib.suppress(OSError):  # the next writer in the folder removes it
        remove(source)
    return None
