"""Finding the cache in a folder, and the names of what is in it."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import unquote

from shoal.errors import MissingExtra
from shoal.memory.storage._filestore import FileStore
from shoal.memory.storage._paths import OUTPUT, OWN, SOURCE
from shoal.memory.store import Entry, Store, create


def open_cache(folder: str) -> Store:
    """Return the store at the location of a ``Memory``. Nothing is made if there is none.

    Raises
    ------
    FileNotFoundError
        If there is no cache.
    OSError, ValueError
        If the location cannot be reached.
    MissingExtra
        If the location is a URL, and fsspec is not installed.
    """
    if "://" in folder:
        return _open_url(folder)
    folder = os.path.abspath(os.path.expanduser(folder))
    inner = os.path.join(folder, "joblib")  # where a Memory with a location of type str keeps its results
    for location in (inner, folder):
        around = os.path.dirname(location)
        own = None
        if os.path.basename(location) == "joblib" and _has_own(around) and not _has_own(location):
            if any(_is_cache(sibling) for sibling in _siblings(location)):
                location = around  # which is a cache, with results of functions of a module named joblib
            else:
                own = os.path.join(around, OWN)  # where shoal's own files are under the name joblib
        if _is_cache(location):
            return FileStore(location, own=own, make_location=False)
    raise _missing(folder)


def _open_url(url: str) -> Store:
    try:
        for location in (f"{url.rstrip('/')}/joblib", url):
            store = create("fsspec", location)
            if store is not None and any(True for _ in store.entries()):
                return store
    except ImportError as error:
        raise MissingExtra("a cache at a URL", str(error.name), "fsspec") from None
    raise _missing(url)


def _missing(location: str) -> FileNotFoundError:
    return FileNotFoundError(f"there is no cache in {location}: name the location of a Memory")


def _is_cache(location: str) -> bool:
    """Tell whether a folder is a cache: whether it has the folder of shoal's own files, or anything of a function."""
    if _has_own(location):
        return True
    for _, folders, names in os.walk(location):
        if SOURCE in names or OUTPUT in names:
            return True
        folders[:] = [name for name in folders if not name.startswith(".")]
    return False


def _has_own(location: str) -> bool:
    return os.path.isdir(os.path.join(location, OWN))


def _siblings(location: str) -> list[str]:
    with os.scandir(os.path.dirname(location)) as found:
        folders = [item.path for item in found if item.is_dir(follow_symlinks=False) and not item.name.startswith(".")]
    return [path for path in folders if path != location]


def name_of(function: str) -> str:
    """Return the path of a function in a store as a dotted name."""
    return ".".join(unquote(part) for part in function.split("/"))


def fields_of(entry: Entry) -> dict[str, Any]:
    """Return what is shown of an entry, for JSON."""
    return {
        "function": name_of(entry.key.function),
        "call": entry.key.call,
        "nbytes": entry.nbytes,
        "used": entry.used,
    }
