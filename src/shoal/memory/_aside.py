"""A folder beside the results, where entries are made before they are published, and brought before they are removed.

What lies in it has the token of its owner in its name. When the owner is dead, the next one who comes by removes it.
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
from shoal.memory._locks import LockFile
from shoal.memory._places import is_shared, make_own_folder, share

#: Where nobody can tell who lives, what is older than so many seconds is removed.
_OLD = 24 * 3600.0
_ATTEMPTS = 5
_is_ours = re.compile("[0-9a-f]{1,16}-[0-9a-f]+-[0-9a-f]+").fullmatch


class Aside:
    """Such a folder.

    Parameters
    ----------
    folder
        Where it is; made when it is first needed.
    locks
        Tell which process lives.
    """

    def __init__(self, folder: str, locks: LockFile) -> None:
        self._folder = folder
        self._locks = locks
        self._counter = itertools.count()
        self._swept = False
        self._shared = False

    def _new(self, make: Callable[[str], Any]) -> str:
        """Make something new in the folder; return its path."""
        self._locks.live()
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
            except FileNotFoundError:  # somebody has removed all of it
                self._swept = False
                if attempt == _ATTEMPTS - 1:
                    raise
        return path

    def folder(self) -> str:
        """Make a folder in it; return its path."""
        path = self._new(os.mkdir)
        if self._shared:
            share(path)
        return path

    def file(self, data: bytes) -> str:
        """Make a file in it; return its path."""
        return self._new(lambda path: write_new(path, data))

    def bring(self, path: str) -> str | None:
        """Take a file or folder away, in one step; return where it is now, None if it was not there."""

        def rename(aside: str) -> None:
            try:
                os.rename(path, aside)
            except (FileNotFoundError, NotADirectoryError):
                if os.path.lexists(path):
                    raise
                gone.append(path)

        gone: list[str] = []
        if not os.path.lexists(path):
            return None
        aside = self._new(rename)
        return None if gone else aside

    def remove(self, path: str) -> bool:
        """Take a file or folder away and delete it; return whether it was there."""
        aside = self.bring(path)
        if aside is not None:
            delete(aside)
        return aside is not None

    def sweep(self) -> None:
        """Delete what dead processes have left."""
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
