"""The staging folder: entries are written here before they are published, and moved here before they are deleted.

The name of everything in it begins with the token of the process that made it. When that process is dead, the next
process that uses the folder deletes its leftovers.
"""

from __future__ import annotations

import itertools
import os
import re
import time
from collections.abc import Callable
from typing import Any

from shoal._files import delete
from shoal._output import write_new
from shoal.memory.storage._locks import LockFile
from shoal.memory.storage._paths import METADATA, OUTPUT, is_shared, make_own_folder, share
from shoal.persistence._load import load

#: Leftovers older than this, in seconds, are deleted even if no lock shows whether their process is alive.
_OLD = 24 * 3600.0
_ATTEMPTS = 5
_is_ours = re.compile("[0-9a-f]{1,16}-[0-9a-f]+-[0-9a-f]+").fullmatch


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

    def _make(self, make: Callable[[str], Any]) -> str:
        """Call ``make`` with a new path in the folder; return the path."""
        self._locks.mark_alive()
        for attempt in range(_ATTEMPTS):
            if not self._swept:
                make_own_folder(self._folder)
                self._shared = is_shared(self._folder)
                self._swept = True
                self.sweep()
            path = f"{self._folder}/{self._locks.token:x}-{next(self._counter):x}-{id(self):x}"
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
        """Move a file or folder here, in one step. Return its new path, or None if it was not there."""

        def rename(staged: str) -> None:
            try:
                os.rename(path, staged)
            except (FileNotFoundError, NotADirectoryError):
                if os.path.lexists(path):
                    raise
                missing.append(path)

        missing: list[str] = []
        if not os.path.lexists(path):
            return None
        staged = self._make(rename)
        return None if missing else staged

    def remove(self, path: str) -> None:
        """Move a file or folder here and delete it. Do nothing if it is not there."""
        staged = self.move_in(path)
        if staged is not None:
            delete(staged)

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


def put_back(staged: str, folder: str) -> bool:
    """Publish a staged entry again if its value can be read; return whether it can."""
    try:
        load(os.path.join(staged, OUTPUT))
    except Exception:
        return False
    try:
        os.rename(staged, folder)
    except OSError:  # a newer entry is there already, or the parent folder was removed
        delete(staged)
    return True


def replace_entry(folder: str, staged: str) -> bool:
    """Replace the files of an entry by those of a staged one; return False if the entry no longer exists."""
    try:
        os.replace(f"{staged}/{OUTPUT}", f"{folder}/{OUTPUT}")
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        os.replace(f"{staged}/{METADATA}", f"{folder}/{METADATA}")
    except (FileNotFoundError, NotADirectoryError):
        pass  # the whole entry was removed after its value was replaced
    delete(staged)
    return True
