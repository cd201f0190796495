"""What is common to everything that shoal keeps in files."""

from __future__ import annotations

import binascii
import contextlib
import math
import os
import stat
from collections.abc import Iterator
from typing import Any

_UNITS = {"": 1, "B": 1}
_UNITS |= {unit + end: 1024**n for n, unit in enumerate("KMGT", 1) for end in ("", "B", "IB")}

#: Small writes are gathered, in bytes.
_BUFFER = 2**17


def format_size(nbytes: int) -> str:
    """Write bytes as :func:`parse_size` reads them: ``'1.5G'``."""
    size, unit = float(nbytes), ""
    for larger in "KMGT":
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{size:.1f}".removesuffix(".0") + unit


def parse_size(text: int | float | str) -> int:
    """Turn a size such as ``'1.5G'`` into bytes.

    Parameters
    ----------
    text : int, float or str
        Bytes as a number, or a string: a number and a unit, K, M, G or T, which are powers of
        1024. The unit may be lower case, may be followed by B or iB, and may be absent.

    Raises
    ------
    ValueError
        If `text` is no size, or negative.
    """
    try:
        if isinstance(text, str):
            number = text.rstrip("KMGTIBkmgtib \t")
            size = float(number) * _UNITS[text[len(number) :].strip().upper()]
        else:
            size = text
        if not 0 <= size < math.inf:
            raise ValueError
        return int(size)
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{text!r} is no size: give a number of bytes, or a string like '500M'") from None


def make_folder(path: str) -> None:
    """Make a folder and those above it, unless they are there; others may remove them meanwhile."""
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
    """Delete a file or a folder, as far as that can be done."""
    try:
        if stat.S_ISDIR(os.lstat(path).st_mode):
            import shutil  # with the libraries of three compressors

            shutil.rmtree(path, ignore_errors=True)
        else:
            os.unlink(path)
    except OSError:
        pass


@contextlib.contextmanager
def replacement(path: str, durable: bool = False) -> Iterator[Any]:
    """Open a file for writing that takes the place of `path` when the block has ended well, and not before.

    It is as ``open(path, "wb")`` in everything else: permissions, the error where that would fail, a link is followed,
    and what is no regular file is written to. Where the folder takes no new file, the old one is written to as well.

    Parameters
    ----------
    path : str
        The file.
    durable : bool, default False
        Wait until the system has written it to the disk.
    """
    if not os.path.basename(path):  # which realpath() would take for another one
        open(path, "wb").close()
    path = os.path.realpath(path)
    try:
        before = os.stat(path)
    except FileNotFoundError:
        before = None
    aside = None
    if before is None or stat.S_ISREG(before.st_mode):
        if before is not None:
            os.close(os.open(path, os.O_WRONLY))  # may it be written to at all?
        try:
            aside = _Aside(os.path.dirname(path))
        except PermissionError:
            pass
    if aside is None:
        with open(path, "wb", _BUFFER) as file:
            yield file
        return
    try:
        with open(aside.fd, "wb", _BUFFER, closefd=False) as file:
            yield file
        if before is not None:
            aside.take_over(before)
        aside.publish(path, durable)
    finally:
        aside.close()


class _Aside:
    """A file in a folder that nobody sees, or nobody takes for something else, until it is published.

    Where the system has files without a name, it is one until it is published: whatever ends the process, nothing is
    left. Elsewhere it is locked while it is written, so that the next one in the folder removes it if its writer was
    killed.
    """

    _MARK = ".shoal-part"

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._name: str | None = None
        fd = self._nameless()
        self.fd: int = self._named() if fd is None else fd

    def _nameless(self) -> int | None:
        if not hasattr(os, "O_TMPFILE"):
            return None
        try:
            fd = os.open(self._folder, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o666)
        except PermissionError:
            raise
        except OSError:  # this file system has none
            return None
        if os.path.exists(f"/proc/self/fd/{fd}"):
            return fd
        os.close(fd)
        return None

    def _named(self) -> int:
        self._sweep()
        while True:
            name = self._other_name()
            fd = os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0), 0o666)
            if _locked(fd) and os.path.exists(name):  # else another has swept it away before it was locked
                self._name = name
                return fd
            os.close(fd)

    def _other_name(self) -> str:
        return os.path.join(self._folder, f".{os.urandom(8).hex()}{self._MARK}")

    def _sweep(self) -> None:
        """Remove what writers have left that are no more."""
        for entry in os.scandir(self._folder):
            if entry.name.endswith(self._MARK):
                _swept(entry.path)

    def take_over(self, before: os.stat_result) -> None:
        """Be as the file that is replaced, as far as the system allows."""
        if hasattr(os, "fchmod"):
            if (before.st_uid, before.st_gid) != (os.geteuid(), os.getegid()):
                with contextlib.suppress(PermissionError):
                    os.fchown(self.fd, before.st_uid, before.st_gid)
            os.fchmod(self.fd, stat.S_IMODE(before.st_mode))

    def publish(self, path: str, durable: bool) -> None:
        """Take the place of a path."""
        if durable:
            os.fsync(self.fd)
        if self._name is None:
            source = f"/proc/self/fd/{self.fd}"
            try:
                # With the descriptor of a folder, os.link() follows links, which this name is.
                os.link(source, path, src_dir_fd=self.fd)
            except FileExistsError:
                self._name = self._linked(source, path)
        if self._name is not None:
            if os.name == "nt":
                self._close_fd()
            os.replace(self._name, path)
            self._name = None
        if durable and os.name != "nt":
            folder = os.open(self._folder, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def _linked(self, source: str, path: str) -> str:
        """Give it a name for the moment until it takes the place of a path, for which the system has no single step.

        A writer that is killed in that moment leaves the name behind: the next one of the same path removes it.
        """
        _locked(self.fd)
        name = os.path.join(self._folder, f".{binascii.crc32(os.fsencode(path)):08x}{self._MARK}")
        while True:
            try:
                os.link(source, name, src_dir_fd=self.fd)
                return name
            except FileExistsError:
                if not _swept(name):
                    name = self._other_name()

    def close(self) -> None:
        """Give it up, if it was not published."""
        self._close_fd()
        if self._name is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._name)

    def _close_fd(self) -> None:
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            os.close(fd)


def _swept(path: str) -> bool:
    """Remove a file whose writer is no more; tell whether there is none now."""
    try:
        fd = os.open(path, os.O_WRONLY)
    except OSError as error:
        return isinstance(error, FileNotFoundError)
    try:
        # While it is locked nobody else removes it; before that, another may have, and a new one may have its name.
        if not (_locked(fd) and os.path.samestat(os.fstat(fd), os.stat(path))):
            return False
        if os.name == "nt":  # which removes no file that is open
            os.close(fd)
            fd = -1
        os.unlink(path)
    except OSError as error:
        return isinstance(error, FileNotFoundError)
    finally:
        if fd >= 0:
            os.close(fd)
    return True


def _locked(fd: int) -> bool:
    """Lock a file that is written, if nobody has; where there are no such locks, it counts as locked by us."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # no locks on this file system
        return True
    return True
