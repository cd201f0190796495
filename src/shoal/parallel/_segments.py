"""Memory that processes share: written once, mapped by others, gone with the last that maps it.

::

    parent: Segment ── a memfd, which has no name and so cannot be left behind (else a file in a folder)
              │ path: /proc/PID/fd/N, as long as the parent keeps the descriptor
    worker:   attach(path)  ──> a private mapping: it may be written, and nobody else sees it
              open(path)    ──> results are written into a segment that the parent has made for them
    parent: mapped(segment) ──> the results' memory; the mapping keeps no descriptor and ends with the last array

Every segment is made and closed by the parent, so that a worker may die at any time.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import mmap
import os
import sys
from collections.abc import Sequence
from typing import Any

from shoal._forks import CALLERS, after_fork_in_child
from shoal.errors import NoSpaceError, import_loky

ALIGNMENT = mmap.ALLOCATIONGRANULARITY

_CLOEXEC = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)  # the one is not on Windows, the other only there

_NO_ROOM = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.ENOMEM,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOENT,
    errno.ENOSYS,
    errno.EPERM,
}
#: A write of less than this is made without a look at how much memory is free.
_SMALL = 64 * 2**20

#: No system writes 2 GB or more at once.
_MOST_AT_ONCE = 2**30

_numbers = itertools.count()


class Folder:
    """A folder of this process for segments that have to be files; made when it is first needed.

    Parameters
    ----------
    parent
        Where; None for the system's temporary folder.
    """

    def __init__(self, parent: str | None) -> None:
        self.parent = "the system's temporary folder" if parent is None else os.path.abspath(os.path.expanduser(parent))
        self._parent = parent
        self._path: str | None = None

    def path(self) -> str:
        """Return its path. Should this process be killed, loky's resource tracker removes the folder."""
        if self._path is None:
            self._path = self._make()
            _tracker().register(self._path, "folder")
        return self._path

    def _make(self) -> str:
        """Make the folder; return its path."""
        import tempfile

        if self._parent is not None:
            os.makedirs(self.parent, exist_ok=True)
        parent = tempfile.gettempdir() if self._parent is None else self.parent
        return tempfile.mkdtemp(prefix=f"shoal-{os.getpid()}-", dir=parent)

    def remove(self) -> None:
        """Remove the folder and what is in it; processes that have mapped a file keep it."""
        if self._path is not None:
            import shutil

            shutil.rmtree(self._path, ignore_errors=True)
            _tracker().unregister(self._path, "folder")
            self._path = None


def _tracker() -> Any:
    import_loky()
    from loky.backend import resource_tracker

    return resource_tracker


def _no_stream(fd: int) -> int:
    """Return `fd`, or another for it where it took the place of a standard stream that was closed.

    What a library writes to its stderr would go into it, and a worker that starts then would have no such stream.
    """
    if fd > 2 or sys.platform == "win32":
        return fd
    import fcntl

    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    finally:
        os.close(fd)


class Segment:
    """A piece of shared memory, held by the process that made it until it is closed.

    Attributes
    ----------
    path
        Where other processes of this machine can open it.
    fd
        Its descriptor here.
    """

    __slots__ = ("_name", "fd", "path")

    def __init__(self, folder: Folder | None, name: str = "shoal") -> None:
        self._name: str | None = None
        if folder is None:
            self.fd = _no_stream(os.memfd_create(name, os.MFD_CLOEXEC))
            self.path = f"/proc/{os.getpid()}/fd/{self.fd}"
        else:
            self.path = self._name = f"{folder.path()}/segment-{next(_numbers)}"
            self.fd = _no_stream(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _CLOEXEC, 0o600))

    def close(self) -> None:
        """Give it up: its memory is freed once nobody maps it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
            if self._name is not None:
                with contextlib.suppress(
                    OSError
                ):  # Windows keeps a file as long as it is mapped; its folder goes later
                    os.unlink(self._name)


#: Whether there is memory without a name, and a way for another process to open it.
HAS_MEMFD = hasattr(os, "memfd_create") and os.path.isdir("/proc/self/fd")

#: Empty segments that any run may use; appending and popping are atomic.
_spare: list[Segment] = []
SPARE = 8


def _after_fork() -> None:
    while _spare:  # they are the parent's, and it would write into the same memory
        with contextlib.suppress(OSError):  # whoever forks may close descriptors before this
            _spare.pop().close()


after_fork_in_child(_after_fork, CALLERS)


class Places:
    """Where the segments of one run go: memory without a name first, else files in a folder.

    Parameters
    ----------
    temp_folder
        Where the segments are to be files; None for shared memory, with the system's temporary folder behind it. A
        :class:`Folder` outlives the run: it is its maker's to remove.
    """

    def __init__(self, temp_folder: str | Folder | None) -> None:
        memory: list[Folder | None] = [None] if HAS_MEMFD else []
        own = [Folder(None)]
        first = memory
        if isinstance(temp_folder, Folder):
            first = [temp_folder]
        elif temp_folder is not None:
            own = [Folder(temp_folder), *own]
            first = []
        self._own = own
        self._places: list[Folder | None] = [*first, *own]

    def empty(self) -> Segment:
        """Return a segment with nothing in it: memory, wherever `temp_folder` is, since it is read at once."""
        if not HAS_MEMFD:
            return Segment(self._places[0])
        try:
            return _spare.pop()
        except IndexError:
            return Segment(None)

    def take_back(self, segment: Segment) -> None:
        """Take back a segment into which nobody has written: making one costs more than a small batch."""
        if HAS_MEMFD and len(_spare) < SPARE:
            _spare.append(segment)
        else:
            segment.close()

    def store(self, views: Sequence[memoryview]) -> tuple[Segment, list[int]]:
        """Write flat views of bytes into one new segment; return it, and the offset of each.

        Raises
        ------
        NoSpaceError
            If there is room nowhere.
        """
        offsets, total = layout(views)
        refused: list[str] = []
        for place in self._places:
            segment = None
            try:
                if place is None and total > _SMALL and total > _free_memory():
                    raise OSError(errno.ENOMEM, "not enough memory is free")
                segment = Segment(place)
                for view, offset in zip(views, offsets, strict=True):
                    write(segment.fd, view, offset)
                return segment, offsets
            except OSError as error:
                if segment is not None:
                    segment.close()
                if error.errno not in _NO_ROOM:
                    raise
                refused.append("shared memory" if place is None else place.parent)
                reason = error
        raise NoSpaceError(total, tuple(refused), str(reason)) from reason

    def close(self) -> None:
        """Remove the folders."""
        for place in self._own:
            place.remove()


def layout(views: Sequence[memoryview], start: int = 0) -> tuple[list[int], int]:
    """Return an aligned offset for each view, from `start` on, and where the last ends."""
    offsets, end = [], start
    for view in views:
        begin = -(-end // ALIGNMENT) * ALIGNMENT
        offsets.append(begin)
        end = begin + view.nbytes
    return offsets, end


def write(fd: int, view: memoryview, offset: int) -> None:
    """Write all of `view`. A write into full shared memory is an error; a store into its mapping would be a signal."""
    done = 0
    os.lseek(fd, offset, os.SEEK_SET)
    while done < view.nbytes:
        done += os.write(fd, view[done : done + _MOST_AT_ONCE])


def attach(path: str) -> memoryview:
    """Map the segment at `path` privately: it may be written to, unseen by all others."""
    fd = os.open(path, os.O_RDONLY | _CLOEXEC)
    try:
        return memoryview(mmap.mmap(fd, 0, access=mmap.ACCESS_COPY))
    finally:
        os.close(fd)


def mapped(fd: int, offset: int, nbytes: int) -> memoryview:
    """Map a part of a segment privately, without keeping a descriptor; it is unmapped with its last user.

    Before Python 3.13 an ``mmap.mmap`` keeps a duplicate of its descriptor, so that a thousand results would use up
    what a process may have. Where no more mappings are to be had, the part is copied.
    """
    if sys.platform == "linux":
        try:
            return _Mapping(fd, offset, nbytes).view()
        except OSError:
            pass
    with open(fd, "rb", buffering=0, closefd=False) as file:
        file.seek(offset)
        copy = memoryview(bytearray(nbytes))
        filled = 0
        while filled < nbytes:
            got = file.readinto(copy[filled:])
            if not got:
                raise EOFError(f"a shared segment ends {nbytes - filled} bytes early")
            filled += got
    return copy


class _Mapping:
    """Pages mapped by the C library, owned by this object."""

    __slots__ = ("__array_interface__", "_address", "_nbytes")
    _libc: Any = None

    def __init__(self, fd: int, offset: int, nbytes: int) -> None:
        libc = _Mapping._libc or _Mapping._load()
        address = libc.mmap(None, nbytes, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE, fd, offset)
        if address is None or address == 2**64 - 1:
            raise OSError(errno.ENOMEM, "mmap failed")
        self._address, self._nbytes = address, nbytes
        self.__array_interface__ = {"data": (address, False), "shape": (nbytes,), "typestr": "|u1", "version": 3}

    def view(self) -> memoryview:
        """Return its bytes; the view, and all that is made of it, keeps the mapping."""
        import numpy

        bytes_: Any = numpy.asarray(self)
        return memoryview(bytes_)

    def __del__(self) -> None:
        if getattr(self, "_address", None) is not None:
            self._libc.munmap(
                self._address, self._nbytes
            )  # the class by way of the object: at exit its name may be gone

    @classmethod
    def _load(cls) -> Any:
        import ctypes

        libc = ctypes.CDLL(None)
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
        libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        cls._libc = libc
        return libc


def _free_memory() -> int:
    try:
        with open("/proc/meminfo", "rb") as file:
            for line in file:
                if line.startswith(b"MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return sys.maxsize
