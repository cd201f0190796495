"""File operations as on Windows, elsewhere: files that are open or mapped are neither replaced nor removed.

Where the system itself refuses that, nothing is changed: on Windows, and under `make test-narrow`, whose
sitecustomize.py refuses it to all processes. Elsewhere, /proc tells which files this process has open or mapped.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from shoal._platform import files

_MAPPED = re.compile(rb"^\S+ \S+ \S+ ([0-9a-f]+):([0-9a-f]+) (\d+)", re.M)
Inode = tuple[int, int]


def _open_files() -> Iterator[Inode]:
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            status = os.stat(f"/proc/self/fd/{name}")
            yield status.st_dev, status.st_ino


def _mapped_files() -> Iterator[Inode]:
    with open("/proc/self/maps", "rb") as maps:
        for major, minor, inode in _MAPPED.findall(maps.read()):
            yield os.makedev(int(major, 16), int(minor, 16)), int(inode)


def _inode(path: Any) -> Inode:
    status = os.lstat(path)
    return status.st_dev, status.st_ino


def _refusal(number: int, path: Any) -> PermissionError:
    error = PermissionError(errno.EACCES, "in use, as on Windows", os.fspath(path))
    error.winerror = number  # type: ignore[attr-defined,unused-ignore]
    return error


def as_on_windows(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Make this process refuse what Windows refuses. Return a list that gets the path of each refusal made here."""
    refused: list[str] = []
    if files.OPEN_FILES_STAY:
        return refused
    if not os.path.exists("/proc/self/maps"):
        pytest.skip("without /proc, it is unknown which files are open")
    shared: set[Inode] = set()

    def check(path: Any, number: int, blocking: set[Inode]) -> None:
        with contextlib.suppress(FileNotFoundError):
            inside = [path] + [os.path.join(top, name) for top, _, names in os.walk(path) for name in names]
            if any(_inode(each) in blocking for each in inside):
                refused.append(os.fspath(path))
                raise _refusal(number, path)

    def in_use() -> set[Inode]:
        return {*_open_files(), *_mapped_files()}

    def wrapped(operation: Callable[..., None], renames: bool) -> Callable[..., None]:
        def call(path: Any, target: Any = None, **options: Any) -> None:
            if not renames:
                folder = options.get("dir_fd")
                check(path if folder is None else f"/proc/self/fd/{folder}/{path}", 32, in_use())
                return operation(path, **options)
            # A file that was opened to be shared can be renamed, but not the folder that it is in.
            check(path, 32, in_use() if os.path.isdir(path) else in_use() - shared)
            if operation is rename and os.path.lexists(target):
                raise FileExistsError(errno.EEXIST, "as on Windows", os.fspath(target))
            check(target, 5, in_use())
            return operation(path, target, **options)

        return call

    def open_to_share(path: str, flags: int) -> int:
        fd = os.open(path, flags)
        status = os.fstat(fd)
        shared.add((status.st_dev, status.st_ino))
        return fd

    rename = os.rename
    for name, renames in (("replace", True), ("rename", True), ("unlink", False), ("remove", False)):
        monkeypatch.setattr(os, name, wrapped(getattr(os, name), renames))
    monkeypatch.setattr(files, "opener", open_to_share)
    for name, module in list(sys.modules.items()):
        if name.startswith("shoal") and hasattr(module, "OPEN_FILES_STAY"):
            monkeypatch.setattr(module, "OPEN_FILES_STAY", True)
    return refused
