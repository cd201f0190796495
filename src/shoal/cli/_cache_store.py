"""Finding the cache in a folder, and a function in it; export and import."""

from __future__ import annotations

import os
from argparse import Namespace
from typing import Any

from shoal.cli._text import DONE, FAILED, complain, count, say, say_json
from shoal.errors import MissingExtra, printable
from shoal.memory._transfer import export_entries, import_entries
from shoal.memory.storage._filestore import FileStore
from shoal.memory.storage._paths import OWN, SOURCE, dotted, functions_named, is_value
from shoal.memory.store import Entry, Store, create


def open_cache(folder: str, make: bool = False) -> Store:
    """Return the store at the location of a ``Memory``. If there is none, it is made only if `make` is true.

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
    if make:
        return FileStore(inner)
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
        if SOURCE in names or any(map(is_value, names)):
            return True
        folders[:] = [name for name in folders if not name.startswith(".")]
    return False


def _has_own(location: str) -> bool:
    return os.path.isdir(os.path.join(location, OWN))


def _siblings(location: str) -> list[str]:
    with os.scandir(os.path.dirname(location)) as found:
        folders = [item.path for item in found if item.is_dir(follow_symlinks=False) and not item.name.startswith(".")]
    return [path for path in folders if path != location]


def fields_of(entry: Entry) -> dict[str, Any]:
    """Return what is shown of an entry, for JSON."""
    return {
        "function": dotted(entry.key.function),
        "call": entry.key.call,
        "nbytes": entry.nbytes,
        "used": entry.used,
    }


def function_of(store: Store, given: Namespace) -> str | None:
    """Return the path of the function that a user names; or None, after a message that says what is wrong."""
    wanted = given.function
    found = functions_named(sorted({entry.key.function for entry in store.entries()}), wanted)
    if len(found) == 1:
        return found[0]
    names = ", ".join(map(dotted, found))
    complain(
        f"several functions end in {wanted}: {names}"
        if found
        else f"no result of {wanted} is stored. See: shoal cache ls {given.folder}"
    )
    return None


def export(given: Namespace, store: Store) -> int:
    """Write results to a tar."""
    function = function_of(store, given) if given.function else None
    if given.function and function is None:
        return FAILED
    number = export_entries(store, given.file, store.entries() if function is None else store.entries_of(function))
    if given.json:
        say_json({"file": given.file, "entries": number})
    else:
        say(f"{count(number, 'entry')} in {printable(given.file)}")
    return DONE


def import_(given: Namespace, store: Store) -> int:
    """Add the results of a tar."""
    found = import_entries(store, given.file)
    if given.json:
        say_json(found._asdict())
    else:
        say(f"added {count(found.added, 'entry')}; {found.known:,} known already, {found.damaged:,} damaged")
    return FAILED if found.damaged else DONE
