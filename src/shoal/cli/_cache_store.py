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
        if _is_cache(location):
            beside = os.path.join(os.path.dirname(location), OWN)
            under_joblibs_name = location.endswith(f"{os.sep}joblib") and not os.path.exists(f"{location}/{OWN}")
            own = beside if under_joblibs_name and os.path.isdir(beside) else None
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
    if os.path.isdir(os.path.join(location, OWN)):
        return True
    for _, folders, names in os.walk(location):
        if SOURCE in names or OUTPUT in names:
            return True
        folders[:] = [name for name in folders if not name.startswith(".")]
    return False


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
