"""Which places on the disk are a cache's own: it writes and removes nothing elsewhere.

::

    location/                 the user's choice: it may be a link
    ├── module/function/      parts of names, quoted where they would lead elsewhere; no links
    │   └── 0f2b.../          a key, and nothing else
    └── .shoal/               no links

Whoever can write to the folder can still have its readers run code, since results are pickles. What is prevented is
that a link, a name or a damaged index has something removed or overwritten that is no part of the cache.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from typing import Any
from urllib.parse import quote

from shoal._files import make_folder
from shoal.memory.store import Key

OUTPUT, METADATA, SOURCE = "output.pkl", "metadata.json", "func_code.py"
OWN = ".shoal"

#: What names of folders cannot have, or what would end them: separators, NUL, halves of surrogate pairs.
_ELSEWHERE = re.compile(r"[/\\\0\ud800-\udfff]" if os.sep == "\\" else r"[/\0\ud800-\udfff]")
_is_call = re.compile(r"[0-9a-f]{32}x?").fullmatch


def quoted(part: str) -> str:
    """Return a part of a function's name as the name of a folder, which is below the one that it is in."""
    part = _ELSEWHERE.sub(lambda found: quote(found[0].encode("utf-8", "surrogatepass"), safe=""), part)
    if not part:
        return "%"
    if part.startswith(".") or part in (OUTPUT, METADATA, SOURCE):
        return part.replace(".", "%2E")
    return part


def is_key(key: Key) -> bool:
    """Tell whether a key is one that a cache makes, and so leads to an entry below its location."""
    function: Any = key.function
    call: Any = key.call
    if not (isinstance(function, str) and isinstance(call, str)):  # from a damaged index
        return False
    parts = function.split("/")
    return bool(_is_call(call)) and all(part == quoted(part) for part in parts)


def refuse_links(location: str, path: str) -> None:
    """Make sure that a path below a location leads to what is below it.

    Parameters
    ----------
    location
        A folder; it may be a link, or have links above it.
    path
        Parts with "/" between them.

    Raises
    ------
    NotADirectoryError
        If one of the parts is a link.
    """
    for part in path.split("/"):
        location = f"{location}/{part}"
        try:
            if stat.S_ISLNK(os.lstat(location).st_mode):
                raise NotADirectoryError(
                    errno.ENOTDIR, "it is a link, where a cache has folders and files of its own: remove it", location
                )
        except FileNotFoundError:
            return


def make_own_folder(path: str) -> None:
    """Make a folder of ours; it is named "...", in ".shoal", or is ".shoal" itself.

    Raises
    ------
    NotADirectoryError
        If it is a link, or ".shoal" is.
    """
    folder, name = os.path.split(path)
    if os.path.basename(folder) == OWN:
        folder, name = os.path.dirname(folder), f"{OWN}/{name}"
    refuse_links(folder, name)
    make_folder_below(folder, name)


def make_folder_below(location: str, path: str) -> None:
    """Make a folder and those above it, up to a location; whoever may write there may write in them."""
    for part in path.split("/"):
        location = f"{location}/{part}"
        if not os.path.isdir(location):
            make_folder(location)
            share(location)


def make_location(location: str) -> None:
    """Make the folder of a cache: where others may write in the folder that it is made in, they may write in it."""
    above = location
    while not os.path.isdir(above) and os.path.dirname(above) != above:
        above = os.path.dirname(above)
    if above != location:
        make_folder_below(above, os.path.relpath(location, above).replace(os.sep, "/"))


def is_shared(folder: str) -> bool:
    """Tell whether others than its owner may write in a folder."""
    return os.name == "posix" and bool(os.stat(folder).st_mode & (stat.S_IWGRP | stat.S_IWOTH))


def create_own_file(path: str) -> int | None:
    """Create a file of ours; return its descriptor, or None if there is one already.

    Raises
    ------
    OSError
        If it cannot be created.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o666)
    except FileExistsError:
        return None
    share(path)
    return fd


def share(path: str) -> None:
    """Let whoever may write in a folder write what we have made in it, whatever the umask: several users share it.

    Not so in a folder such as /tmp, in which nobody may replace what is another's (the sticky bit).
    """
    if os.name != "posix":
        return
    try:
        around, status = os.stat(os.path.dirname(path)), os.lstat(path)
        if around.st_mode & stat.S_ISVTX:
            return
        mode = stat.S_IMODE(status.st_mode)
        access = 0o7 if stat.S_ISDIR(status.st_mode) else 0o6
        if around.st_mode & stat.S_IWGRP:
            if status.st_gid != around.st_gid:
                os.chown(path, -1, around.st_gid, follow_symlinks=False)
            # With the last, what is made in a folder is of the folder's group.
            mode |= access << 3 | (stat.S_ISGID if access == 0o7 else 0)
        if around.st_mode & stat.S_IWOTH:
            mode |= access
        if mode != stat.S_IMODE(status.st_mode):
            os.chmod(path, mode)
    except OSError:  # not a member of the group: others will do without it
        pass
