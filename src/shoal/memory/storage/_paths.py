"""Paths and permissions: a cache writes and removes only what lies inside its location.

::

    location/                 chosen by the user; it may be a symbolic link
    ├── module/function/      parts of names, quoted if they would lead elsewhere; never links
    │   └── 0f2b.../          a key, and nothing else
    └── .shoal/               never a link

The checks here ensure that no link, no name of a function and no damaged index makes a cache remove or overwrite files
outside its location. They do not make foreign results safe: results are pickles, so every user who can write to the
folder can make its readers run code.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import sys
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote, unquote

from shoal._files import make_folder
from shoal.memory.store import Key

#: The files of an entry, the file with the source of a function, and the folder of shoal's own files.
OUTPUT, METADATA, SOURCE = "output.pkl", "metadata.json", "func_code.py"
OWN = ".shoal"
#: The file of a value that is not a pickle: its checksum, and the extension of its format.
_is_formatted = re.compile(r"output-[0-9a-f]{16}\.[0-9A-Za-z]+").fullmatch

#: Characters that a folder's name cannot contain, or that would end it: separators, NUL, halves of surrogate pairs.
_UNSAFE = re.compile(r"[/\0\ud800-\udfff]")
_UNSAFE_ON_WINDOWS = re.compile(r'[\\<>:"|?*\x00-\x1f]|[. ]\Z')
#: Windows takes these for devices, whatever follows behind a dot.
_DEVICES = re.compile(r"(?:con|prn|aux|nul|conin\$|conout\$|(?:com|lpt)[0-9\xb9\xb2\xb3])(?: *\.|\Z)", re.IGNORECASE)
#: Whether a name is that of an entry. shoal's own keys end in an "x".
is_call = re.compile(r"[0-9a-f]{32}x?").fullmatch


def is_value(name: str) -> bool:
    """Return whether a file contains the value of an entry."""
    return name == OUTPUT or _is_formatted(name) is not None


def value_among(names: Iterable[str]) -> str | None:
    """Return the one of some names that is the file of a value, or None. A pickle comes first."""
    return min(filter(is_value, names), key=lambda name: (name != OUTPUT, name), default=None)


def quoted(part: str) -> str:
    """Return a part of a function's name as the name of a folder that lies below its parent."""
    part = _UNSAFE.sub(lambda found: quote(found[0].encode("utf-8", "surrogatepass"), safe=""), part)
    if os.name == "nt":
        part = quoted_for_windows(part)
    if not part:
        return "%"
    if part.startswith(".") or part in (METADATA, SOURCE) or is_value(part):
        return part.replace(".", "%2E")
    return part


def quoted_for_windows(part: str) -> str:
    """Return the name of a folder, without what Windows does not allow in names. joblib cannot store such functions."""
    if _DEVICES.match(part):
        part = f"%{ord(part[0]):02X}{part[1:]}"
    return _UNSAFE_ON_WINDOWS.sub(lambda found: f"%{ord(found[0]):02X}", part)


def dotted(function: str) -> str:
    """Return the path of a function in a store as a dotted name."""
    return ".".join(unquote(part) for part in function.split("/"))


def functions_named(functions: Iterable[str], wanted: str) -> list[str]:
    """Return the paths of functions that have a dotted name; or else of those whose names end in it."""
    wanted = wanted.replace(os.sep, "/").replace("/", ".")
    names = {function: dotted(function) for function in functions}
    found = [function for function, name in names.items() if name == wanted]
    return found or [function for function, name in names.items() if name.endswith(f".{wanted}")]


def is_key(key: Key) -> bool:
    """Return whether a cache could have made this key, so that it leads to an entry below the location."""
    function: Any = key.function
    call: Any = key.call
    if not (isinstance(function, str) and isinstance(call, str)):  # a damaged index can contain other types
        return False
    return bool(is_call(call)) and is_function(function)


def is_function(path: str) -> bool:
    """Return whether a cache could have made this path for a function."""
    return all(part == quoted(part) for part in path.split("/"))


def is_shoals(call: str) -> bool:
    """Return whether a call has a key of shoal's, and not one of joblib's."""
    return call.endswith("x")


def refuse_links(location: str, path: str) -> None:
    """Raise NotADirectoryError if a part of a path below a location is a symbolic link. The location may be one."""
    for part in path.split("/"):
        location = f"{location}/{part}"
        try:
            if stat.S_ISLNK(os.lstat(location).st_mode):
                raise NotADirectoryError(
                    errno.ENOTDIR,
                    "it is a link, but a cache expects a folder or file of its own: remove it",
                    location,
                )
        except FileNotFoundError:
            return


def make_own_folder(path: str) -> None:
    """Make ".shoal", or a folder in it. Raise NotADirectoryError if either is a link."""
    folder, name = os.path.split(path)
    if os.path.basename(folder) == OWN:
        folder, name = os.path.dirname(folder), f"{OWN}/{name}"
    refuse_links(folder, name)
    make_folder_below(folder, name)


def make_folder_below(location: str, path: str) -> None:
    """Make a folder and its missing parents below a location. Each gets the write permissions of its parent."""
    for part in path.split("/"):
        location = f"{location}/{part}"
        if not os.path.isdir(location):
            make_folder(location)
            share(location)


def make_location(location: str) -> None:
    """Make the folder of a cache, and its missing parents. Each gets the write permissions of its parent."""
    above = location
    while not os.path.isdir(above) and os.path.dirname(above) != above:
        above = os.path.dirname(above)
    if above != location:
        make_folder_below(above, os.path.relpath(location, above).replace(os.sep, "/"))


def make_ignored_location(location: str) -> None:
    """Make the folder of a cache, and a file ".gitignore": in the folder, or beside it if it is called "joblib"."""
    make_location(location)
    folder, name = os.path.split(location)
    with open(f"{folder if name == 'joblib' else location}/.gitignore", "x", encoding="ascii") as file:
        file.write("# Created by shoal automatically.\n*\n")


def is_shared(folder: str) -> bool:
    """Return whether users other than the owner may write to a folder."""
    return os.name == "posix" and bool(os.stat(folder).st_mode & (stat.S_IWGRP | stat.S_IWOTH))


def create_own_file(path: str) -> int | None:
    """Create a file in ".shoal"; return its descriptor, or None if it exists already."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    except FileExistsError:
        return None
    share(path)
    return fd


def share(path: str) -> None:
    """Give a new file or folder the write permissions of its parent, whatever the umask: several users share a cache.

    A folder such as /tmp is left out. It has the sticky bit, so that users cannot replace the files of others.
    """
    if sys.platform != "win32":
        try:
            around, status = os.stat(os.path.dirname(path)), os.lstat(path)
            if around.st_mode & stat.S_ISVTX:
                return
            mode = stat.S_IMODE(status.st_mode)
            access = 0o7 if stat.S_ISDIR(status.st_mode) else 0o6
            if around.st_mode & stat.S_IWGRP:
                if status.st_gid != around.st_gid:
                    os.chown(path, -1, around.st_gid, follow_symlinks=False)
                # S_ISGID on a folder gives the folder's group to everything that is made in it.
                mode |= access << 3 | (stat.S_ISGID if access == 0o7 else 0)
            if around.st_mode & stat.S_IWOTH:
                mode |= access
            if mode != stat.S_IMODE(status.st_mode):
                os.chmod(path, mode)
        except OSError:  # this user is not a member of the group, so the group cannot be given access
            pass
