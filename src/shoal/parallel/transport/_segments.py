"""Shared memory. One process writes a segment, and others map it; the system frees it when no process maps it any more.

::

    parent: Segment ── a memfd. It has no name, and so cannot be left behind. Else it is a file in a folder.
              │ path: /proc/PID/fd/N, as long as the parent keeps the descriptor
    worker:   attach(path)  ──> a private mapping: the worker may write to it, and no other process sees that
              open(path)    ──> the worker writes results into a segment that the parent has made for them
    parent: map_part(fd)    ──> the memory of the results; the mapping needs no descriptor and ends with the last array

The parent makes and closes every segment, so that a worker may die at any time.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import itertools
import mmap
import os
import sys
from collections.abc import Sequence
from typing import Any

from shoal._forks import CALLERS, after_fork_in_child
from shoal._platform.memory import HAS_MEMFD, discard, forget_discarded
from shoal._platform.posix import posix, posix_mmap
from shoal.errors import NoSpaceError
from shoal.parallel.transport._folders import Folder, above_standard_streams

ALIGNMENT = mmap.ALLOCATIONGRANULARITY

_CLOEXEC = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)  # Windows has only the second, others the first

#: The errors that say that a segment cannot be made here. It may still be possible elsewhere.
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
#: A write of fewer bytes is made without checking first how much memory is free.
_SMALL = 64 * 2**20

#: The most bytes for one call of ``os.write``: no system writes 2 GB or more at once.
_WRITE_BYTES = 2**30

#: Whether results are mapped, by the C library; otherwise they are copied.
MAPS_PARTS = sys.platform == "linux"

_numbers = itertools.count()


class Segment:
    """A piece of shared memory. The process that has made it keeps it until it closes the segment.

    Parameters
    ----------
    folder
        The folder of the file; None for a memfd.
    name
        The name that the system shows for a memfd.

    Attributes
    ----------
    path
        The path by which other processes of this machine open it.
    fd
        Its descriptor in this process; -1 once it is closed.
    """

    __slots__ = ("_file", "fd", "path")

    def __init__(self, folder: Folder | None, name: str = "shoal") -> None:
        self._file: str | None = None
        if folder is None:
            self.fd = above_standard_streams(posix.memfd_create(name, posix.MFD_CLOEXEC))
            self.path = f"/proc/{os.getpid()}/fd/{self.fd}"
        else:
            self.path = self._file = f"{folder.path()}/segment-{next(_numbers)}"
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | _CLOEXEC
            self.fd = above_standard_streams(os.open(self.path, flags, 0o600))
            _files.add(self)

    def close(self) -> None:
        """Close the segment. Its memory is freed once no process maps it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
            if self._file is not None:
                _files.discard(self)
                discard(self._file)


#: The folder of this process in the system's temporary folder, for systems without memfds. It is removed at exit.
temporary = Folder(None)
#: The segments of this process that are files and open. Adding and discarding are atomic.
_files: set[Segment] = set()
#: Empty segments that any run may use, and their number at most. Appending and popping are atomic.
_spare: list[Segment] = []
SPARE = 8


def _after_fork() -> None:
    while _spare:  # these belong to the parent, and both processes would write to the same memory
        with contextlib.suppress(OSError):  # the code that forks may already have closed descriptors
            os.close(_spare.pop().fd)  # without removing its file
    _files.clear()
    temporary.forget()
    forget_discarded()


def _at_exit() -> None:
    while _spare:
        _spare.pop().close()
    for segment in list(_files):  # those of runs in daemon threads: Windows removes no open file
        segment.close()
    temporary.remove()


after_fork_in_child(_after_fork, CALLERS)
atexit.register(_at_exit)  # before the function of _platform.memory, which was registered earlier


class SegmentAllocator:
    """Makes the segments of one run: in memory if it can, else as files in a folder.

    Parameters
    ----------
    temp_folder
        The folder for the segments; None for shared memory, and for the system's temporary folder if there is not
        enough memory. If it is a :class:`Folder`, it outlives the run: its maker removes it.
    """

    def __init__(self, temp_folder: str | Folder | None) -> None:
        first: list[Folder | None] = [None] if HAS_MEMFD else []
        self._own = [Folder(None)] if HAS_MEMFD else []
        if isinstance(temp_folder, Folder):
            first = [temp_folder]
        elif temp_folder is not None:
            self._own = [Folder(temp_folder), *self._own]
            first = []
        last = [] if HAS_MEMFD else [temporary]
        self._folders = [*first, *self._own, *last]  # in the order in which they are tried; None: memory
        chosen = self._folders[0]
        # Whether this run uses the empty segments that all runs share.
        self._reuses = HAS_MEMFD or chosen is None or chosen.is_temporary

    def empty(self) -> Segment:
        """Return an empty segment. Where memfds exist, it is one, whatever `temp_folder` is: it is read at once."""
        if not self._reuses:
            return Segment(self._folders[0])
        try:
            return _spare.pop()
        except IndexError:
            return Segment(None if HAS_MEMFD else temporary)

    def recycle(self, segment: Segment, written: bool = False) -> None:
        """Keep a segment of :meth:`empty` for another batch, since making one costs more than a small batch does.

        With `written`, its results were read. If this process has mapped them, they must stay, and it is closed.
        """
        if not self._reuses or len(_spare) >= SPARE or (written and (MAPS_PARTS or not _emptied(segment))):
            segment.close()
        else:
            _spare.append(segment)

    def store(self, views: Sequence[memoryview]) -> tuple[Segment, list[int]]:
        """Write flat views of bytes into one new segment; return the segment and the offset of each view.

        Raises
        ------
        NoSpaceError
            If there is not enough space, neither in memory nor in any folder.
        """
        offsets, total = layout(views)
        refused: list[str] = []
        for folder in self._folders:
            segment = None
            try:
                if folder is None and total > _SMALL and total > _free_memory():
                    raise OSError(errno.ENOMEM, "not enough memory is free")
                segment = Segment(folder)
                for view, offset in zip(views, offsets, strict=True):
                    write(segment.fd, view, offset)
                return segment, offsets
            except OSError as error:
                if segment is not None:
                    segment.close()
                if error.errno not in _NO_ROOM:
                    raise
                refused.append("shared memory" if folder is None else folder.parent)
                reason = error
        raise NoSpaceError(total, tuple(refused), str(reason)) from reason

    def close(self) -> None:
        """Remove the folders that belong to the run."""
        for folder in self._own:
            folder.remove()


def _emptied(segment: Segment) -> bool:
    """Remove the contents of a segment; return whether that was possible."""
    try:
        os.ftruncate(segment.fd, 0)
    except OSError:
        return False
    return True


def layout(views: Sequence[memoryview], start: int = 0) -> tuple[list[int], int]:
    """Return an aligned offset for each view, the first at `start` or after it, and the end of the last view."""
    offsets, end = [], start
    for view in views:
        begin = -(-end // ALIGNMENT) * ALIGNMENT
        offsets.append(begin)
        end = begin + view.nbytes
    return offsets, end


def write(fd: int, view: memoryview, offset: int) -> None:
    """Write all of `view` at `offset`.

    If shared memory is full, ``os.write`` raises an error. Storing into a mapping would end the process by a signal.
    """
    done = 0
    os.lseek(fd, offset, os.SEEK_SET)
    while done < view.nbytes:
        done += os.write(fd, view[done : done + _WRITE_BYTES])


def attach(path: str) -> memoryview:
    """Map the segment at `path` privately: this process may write to the mapping, and no other process sees that."""
    fd = os.open(path, os.O_RDONLY | _CLOEXEC)
    try:
        return memoryview(mmap.mmap(fd, 0, access=mmap.ACCESS_COPY))
    finally:
        os.close(fd)


def map_part(fd: int, offset: int, nbytes: int) -> memoryview:
    """Map a part of a segment privately, without keeping a descriptor. It is unmapped when its last user is gone.

    ``mmap.mmap`` does not do, since before Python 3.13 it keeps a duplicate of the descriptor: a thousand results would
    use up all descriptors that a process may have. If the system allows no more mappings, the part is copied.
    """
    if MAPS_PARTS:
        try:
            return _Mapping(fd, offset, nbytes).view()
        except OSError:
            pass
    with open(fd, "rb", buffering=0, closefd=False) as file:
        file.seek(offset)
        copy = memoryview(bytearray(nbytes))
        filled = 0
        while filled < nbytes:
            n_read = file.readinto(copy[filled:])
            if not n_read:
                raise EOFError(f"a shared segment ends {nbytes - filled} bytes early")
            filled += n_read
    return copy


class _Mapping:
    """Pages that the C library has mapped. They are unmapped when this object is deleted."""

    __slots__ = ("__array_interface__", "_address", "_nbytes")
    _libc: Any = None

    def __init__(self, fd: int, offset: int, nbytes: int) -> None:
        libc = _Mapping._libc or _Mapping._load()
        address = libc.mmap(
            None, nbytes, posix_mmap.PROT_READ | posix_mmap.PROT_WRITE, posix_mmap.MAP_PRIVATE, fd, offset
        )
        if address is None or address == 2**64 - 1:
            raise OSError(errno.ENOMEM, "mmap failed")
        self._address, self._nbytes = address, nbytes
        self.__array_interface__ = {"data": (address, False), "shape": (nbytes,), "typestr": "|u1", "version": 3}

    def view(self) -> memoryview:
        """Return the bytes of the mapping. It exists as long as this view or anything made of the view."""
        import numpy

        bytes_: Any = numpy.asarray(self)
        return memoryview(bytes_)

    def __del__(self) -> None:
        if getattr(self, "_address", None) is not None:
            # Not by the name of the class, which may be gone when the interpreter exits.
            self._libc.munmap(self._address, self._nbytes)

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
    """Return how many bytes of memory are available; ``sys.maxsize`` if the system does not tell."""
    try:
        with open("/proc/meminfo", "rb") as file:
            for line in file:
                if line.startswith(b"MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return sys.maxsize
