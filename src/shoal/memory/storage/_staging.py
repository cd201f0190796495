"""The staging folder: entries are written here before they are published, and moved here before they are deleted.

The name of everything in it begins with the token of the process that made it. When that process is dead, the next
process that uses the folder deletes its leftovers.

Windows renames no folder while a file in it is open. Then the files are moved here one by one, which it allows if they
were opened by :func:`shoal._platform.files.open_shared`. It may refuse to delete them until they are closed. So what
could not be deleted is tried again with the next deletions.
"""

from __future__ import annotations

import collections
import itertools
import os
import re
import time
from collections.abc import Callable
from typing import Any

from shoal._files import delete
from shoal._output import write_new
from shoal._platform.files import IMPATIENCE, OPEN_FILES_STAY, is_in_use, rename, replace
from shoal.errors import FileInUse
from shoal.memory.storage._locks import LockFile
from shoal.memory.storage._paths import METADATA, SOURCE, is_shared, is_value, make_own_folder, share
from shoal.memory.storage._values import is_sound, value_in

#: Leftovers older than this, in seconds, are deleted even if no lock shows whether their process is alive.
_OLD = 24 * 3600.0
_ATTEMPTS = 5
_is_ours = re.compile("[0-9a-f]{1,16}-[0-9a-f]+-[0-9a-f]+").fullmatch


class _Staged(str):
    """The path of something in the folder. While it is referred to, this process counts as alive."""

    __slots__ = ("__dict__",)
    alive: Any


class Staging:
    """A staging folder. Thread-safe, and safe between processes.

    The folder is made on first use. It must be on the same file system as the entries. `locks` shows which processes
    are alive.
    """

    def __init__(self, folder: str, locks: LockFile) -> None:
        self._folder = folder
        self._locks = locks
        self._counter = itertools.count()
        self._swept = False
        self._shared = False
        self._later: collections.deque[str] = collections.deque()

    def _make(self, make: Callable[[str], Any]) -> str:
        """Call ``make`` with a new path in the folder; return the path."""
        alive = self._locks.mark_alive()
        for attempt in range(_ATTEMPTS):
            if not self._swept:
                make_own_folder(self._folder)
                self._shared = is_shared(self._folder)
                self._swept = True
                self.sweep()
            path = _Staged(f"{self._folder}/{self._locks.token:x}-{next(self._counter):x}-{id(self):x}")
            path.alive = alive
            try:
                make(path)
                break
            except FileNotFoundError:  # the staging folder was removed
                self._swept = False
                if attempt == _ATTEMPTS - 1:
                    raise
        return path

    def make_folder(self) -> str:
        """Make a new folder; return its path."""
        path = self._make(os.mkdir)
        if self._shared:
            share(path)
        return path

    def make_file(self, data: bytes) -> str:
        """Write a new file; return its path."""
        return self._make(lambda path: write_new(path, data))

    def move_in(self, path: str) -> str | None:
        """Move a file or folder here, in one step if the system can. Return its new path, or None if it was not there.

        Raises
        ------
        FileInUse
            If Windows does not move a file. The file stays, with what belongs to it.
        """

        def move(staged: str) -> None:
            try:
                stays.append(_move(path, staged))
            except (FileNotFoundError, NotADirectoryError):
                if os.path.lexists(path):
                    raise
                missing.append(path)

        missing: list[str] = []
        stays: list[tuple[str, str] | None] = []
        if not os.path.lexists(path):
            return None
        staged = self._make(move)
        if missing:
            return None
        if stays[-1] is not None:
            self.delete(staged)
            raise FileInUse(*stays[-1])
        return staged

    def remove(self, path: str) -> None:
        """Move a file or folder here and delete it. Do nothing if it is not there. Errors are those of `move_in`."""
        staged = self.move_in(path)
        if staged is not None:
            self.delete(staged)

    def delete(self, staged: str) -> None:
        """Delete something in the folder. If Windows refuses, because it is mapped, try again with later deletions."""
        delete(staged)
        if OPEN_FILES_STAY:
            if os.path.lexists(staged):
                self._later.append(str(staged))  # without the lock of this process: another one may delete it too
            for _ in range(min(2, len(self._later))):
                try:
                    staged = self._later.popleft()
                except IndexError:  # another thread took it
                    return
                delete(staged)
                if os.path.lexists(staged):
                    self._later.append(staged)

    def sweep(self) -> None:
        """Delete the leftovers of dead processes."""
        try:
            names = [] if os.path.islink(self._folder) else os.listdir(self._folder)
        except OSError:
            return
        alive: dict[int, bool | None] = {}
        for name in filter(_is_ours, names):
            path = os.path.join(self._folder, name)
            try:
                token = int(name.partition("-")[0], 16)
                if token not in alive:
                    alive[token] = self._locks.is_alive(token)
                dead = not alive[token]
                if alive[token] is None:
                    dead = time.time() - os.lstat(path).st_mtime > _OLD
            except OSError:
                continue
            if dead:
                delete(path)


def _move(path: str, staged: str) -> tuple[str, str] | None:
    """Rename a file or folder. If Windows refuses, because a file in it is open, move its files one by one.

    Return a file that stays, because it cannot be moved either, and the system's reason; otherwise None. The files
    beside something that stays do so too: the metadata of a value, and the source of a function.
    """
    try:
        rename(path, staged, IMPATIENCE)
        return None
    except OSError as error:
        if not is_in_use(error):
            raise
        if not os.path.isdir(path):
            return path, str(error.strerror)
    os.mkdir(staged)
    stays: tuple[str, str] | None = None
    for name in sorted(os.listdir(path), key=lambda name: (not is_value(name), name == SOURCE)):
        inner = f"{path}/{name}"
        if stays is None or os.path.isdir(inner):
            stays = _move(inner, f"{staged}/{name}") or stays
    if stays is None:
        os.rmdir(path)
    return stays


def put_back(staged: str, folder: str) -> bool:
    """Publish a staged entry again if its value can be read; return whether it can."""
    if not is_sound(staged):
        return False
    try:
        rename(staged, folder)
    except OSError:  # a newer entry is there already, or the parent folder was removed
        delete(staged)
    return True


def replace_entry(folder: str, staged: str) -> bool:
    """Replace the files of an entry by those of a staged one; return False if the entry no longer exists.

    The old value may stay in the staged folder. If it has another name, both are there for a moment.
    """
    new = value_in(staged)
    try:
        old = [name for name in os.listdir(folder) if is_value(name) and name != new]
        _replace(f"{staged}/{new}", f"{folder}/{new}")
    except (FileNotFoundError, NotADirectoryError):
        return False
    for name in old:
        try:
            rename(f"{folder}/{name}", f"{staged}/{name}", IMPATIENCE)
        except (FileNotFoundError, NotADirectoryError):
            pass
    try:
        replace(f"{staged}/{METADATA}", f"{folder}/{METADATA}")
    except (FileNotFoundError, NotADirectoryError):
        pass  # the whole entry was removed after its value was replaced
    return True


def _replace(source: str, target: str) -> None:
    """Replace a file, also one that is open: Windows does not replace it, but may rename it."""
    try:
        replace(source, target, IMPATIENCE)
    except OSError as error:
        if not is_in_use(error):
            raise
        rename(target, f"{source}.old", IMPATIENCE)
        replace(source, target)
