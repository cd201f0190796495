"""Sizes and removal of folders on disk."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Callable
from typing import Any

from shoal._sizes import parse_size

__all__ = ["delete_folder", "disk_used", "memstr_to_bytes", "mkdirp", "rm_subdirs"]

RM_SUBDIRS_RETRY_TIME = 0.1
RM_SUBDIRS_N_RETRY = 10

_BLOCK = 512


def disk_used(path: str) -> int:
    """Return the disk space of a folder and the files in it, without those of subfolders, in KiB."""
    total = 0
    for name in (*os.listdir(path), "."):
        status = os.stat(os.path.join(path, name))
        blocks = getattr(status, "st_blocks", None)
        total += _BLOCK * (status.st_size // _BLOCK + 1 if blocks is None else blocks)
    return total // 1024


def memstr_to_bytes(text: str) -> int:
    """Convert a size with the unit K, M or G, such as "1M", to bytes.

    Raises
    ------
    ValueError
        If the text is no such size.
    """
    if str(text)[-1:] not in ("K", "M", "G"):
        raise ValueError(_no_size(text))
    try:
        return parse_size(text)
    except ValueError as error:
        raise ValueError(_no_size(text)) from error


def _no_size(text: Any) -> str:
    return f"Invalid literal for size give: {text} (type {type(text)}) should be alike '10G', '500M', '50K'."


def mkdirp(d: str) -> None:
    """Make a folder and its parents, unless it exists."""
    with contextlib.suppress(FileExistsError):
        os.makedirs(d)


def rm_subdirs(path: str, onerror: Callable[..., Any] | None = None) -> None:
    """Remove the subfolders of a folder, with their contents."""
    try:
        names = os.listdir(path)
    except OSError:
        if onerror is None:
            raise
        onerror(os.listdir, path, sys.exc_info())
        return
    for name in names:
        delete_folder(os.path.join(path, name), onerror=onerror)


def delete_folder(folder_path: str, onerror: Callable[..., Any] | None = None, allow_non_empty: bool = True) -> None:
    """Remove a folder; if it is a link, only the link. Do nothing if it is no folder.

    If the removal fails, as it may on Windows, it is tried again for a second.

    Raises
    ------
    OSError
        If the folder cannot be removed, or is not empty and `allow_non_empty` is False.
    """
    if not os.path.isdir(folder_path):
        return
    if os.path.islink(folder_path):  # rmtree() refuses links
        os.unlink(folder_path)
        return
    if onerror is not None:
        shutil.rmtree(folder_path, False, onerror)
        return
    for attempt in range(RM_SUBDIRS_N_RETRY + 1):
        try:
            names = os.listdir(folder_path)
            if names and not allow_non_empty:
                raise OSError(f"Expected empty folder {folder_path} but got {len(names)} files.")
            shutil.rmtree(folder_path)
            return
        except OSError:
            if attempt == RM_SUBDIRS_N_RETRY:
                raise
            time.sleep(RM_SUBDIRS_RETRY_TIME)
