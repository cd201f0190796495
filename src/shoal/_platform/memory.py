"""What systems do in different ways with memory that processes share.

::

                     Linux       other POSIX                 Windows
    arrays, results  memfd       a file in a folder          a file in a folder
    workers' notes   memfd       a file in a folder          a named section: it ends with the last process that has it
    end of a file    closing     unlink, mapped or not       discard: at once, or when no process maps it any more
"""

from __future__ import annotations

import atexit
import contextlib
import mmap
import os
import sys
import time
from collections import deque
from typing import Any

from shoal._platform.files import OPEN_FILES_STAY

#: Whether the system has memfds, and a path by which other processes open them.
HAS_MEMFD = hasattr(os, "memfd_create") and os.path.isdir("/proc/self/fd")

#: Whether the system has memory with names that are no files: :func:`new_section`.
HAS_SECTIONS = sys.platform == "win32"

#: Files and folders that could not be removed, because a process has them open or mapped. Appending and popping are
#: atomic.
_left: deque[str] = deque()
#: The number of them that are tried again with each :func:`discard`.
_TRIED_AGAIN = 4
#: How long they are tried again at exit, in seconds. All workers have ended, and the system may not have noticed yet.
_EXIT_SECONDS = 2.0


def new_section(nbytes: int) -> tuple[str, mmap.mmap]:
    """Return a new section of Windows' memory, filled with zeros, and its name. It is never a file.

    Raises
    ------
    OSError
        If there is not enough memory.
    """
    name = f"Local\\shoal-{os.getpid()}-{os.urandom(8).hex()}"
    return name, open_section(name, nbytes)


def open_section(name: str, nbytes: int) -> mmap.mmap:
    """Map a section of :func:`new_section`, which was made with this size."""
    mapped: Any = mmap.mmap
    return mapped(-1, nbytes, tagname=name)  # type: ignore[no-any-return] # only Windows has tagname


def discard(path: str) -> None:
    """Remove a file, or a folder with its files. Thread-safe.

    Windows removes no file that a process has open or mapped, such as a worker that keeps an argument of an earlier
    call. Such a file is removed later: with further files, or when this process exits, after its workers.
    """
    for _ in range(min(len(_left), _TRIED_AGAIN)):
        with contextlib.suppress(IndexError):  # another thread has taken the last one
            earlier = _left.popleft()
            if not _removed(earlier):
                _left.append(earlier)
    if not _removed(path):
        _left.append(path)


def forget_discarded() -> None:
    """Leave to the parent what it has to remove; called in a forked child."""
    _left.clear()


def _removed(path: str) -> bool:
    """Remove a file or folder, as far as the system does; return whether it is gone."""
    if os.path.isdir(path):
        import shutil  # it imports the libraries of three compressors

        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            os.unlink(path)
    return not os.path.lexists(path) or not OPEN_FILES_STAY  # other systems refuse for reasons that last


@atexit.register
def _at_exit() -> None:
    deadline = time.monotonic() + _EXIT_SECONDS
    while _left:
        for _ in range(len(_left)):
            path = _left.popleft()
            if not _removed(path):
                _left.append(path)
        if time.monotonic() > deadline:
            break
        if _left:
            time.sleep(0.02)
