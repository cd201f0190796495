"""A walk through the folders of a cache that finds its entries.

::

    location/module/function/     one scandir() lists the calls of a function
             ├── 0f2b...x/        shoal's: in the index ──> its size and use are known, nothing is looked at
             │                    otherwise ─────────────> two lstat(), because its two files have fixed names
             └── 0f2b.../         joblib's: a scandir(), and an lstat() for each file
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping

from shoal.memory.storage import _paths
from shoal.memory.store import Entry, Key

#: The size of an entry in bytes, and when it was last used.
Known = tuple[int, float]


def _nothing(_function: str) -> Mapping[str, Known]:
    return {}


def entries_in(
    location: str, function: str = "", known: Callable[[str], Mapping[str, Known]] = _nothing, trust: bool = True
) -> Iterator[Entry]:
    """Yield the entries, all or those below a function.

    Parameters
    ----------
    location
        The folder of the cache.
    function
        The path of a function, or "" for all.
    known
        Returns what the index knows of the calls of a function. The times of use are those of the index; others are
        those that the file system records.
    trust
        Whether the sizes that the index knows are taken for those of the files. Only those of shoal's keys are: joblib
        replaces files under its own keys without changing the index. The folder must be there in any case.
    """
    functions = [function]
    while functions:
        name = functions.pop()
        path = f"{location}/{name}" if name else location
        try:
            with os.scandir(path) as found:
                inside = [item.name for item in found if item.is_dir(follow_symlinks=False)]
        except OSError:  # removed in the meantime
            continue
        has_keys = _paths.is_function(name)
        calls = known(name) if has_keys and any(map(_paths.is_call, inside)) else {}
        for call in inside:
            if has_keys and _paths.is_call(call):
                of_index = calls.get(call)
                if of_index is not None and trust and _paths.is_shoals(call):
                    yield Entry(Key(name, call), *of_index)
                    continue
                entry = measured(f"{path}/{call}", Key(name, call))
                if entry is not None:
                    yield entry if of_index is None else Entry(entry.key, entry.nbytes, of_index[1])
                    continue
            if call != _paths.OWN:
                functions.append(f"{name}/{call}" if name else call)


def measured(folder: str, key: Key) -> Entry | None:
    """Return the entry in a folder, with the time of use that the file system records; None if there is no value."""
    try:
        if _paths.is_shoals(key.call):
            try:
                value, rest = os.lstat(f"{folder}/{_paths.OUTPUT}"), os.lstat(f"{folder}/{_paths.METADATA}").st_size
            except FileNotFoundError:  # the value has another format, or a file is missing
                pass
            else:
                return Entry(key, value.st_size + rest, _used(value))
        with os.scandir(folder) as found:
            statuses = {item.name: item.stat(follow_symlinks=False) for item in found}
    except OSError:
        return None
    name = _paths.value_among(statuses)
    if name is None:
        return None
    return Entry(key, sum(status.st_size for status in statuses.values()), _used(statuses[name]))


def _used(value: os.stat_result) -> float:
    # Where the file system does not record reads, the time of writing is the later one.
    return max(value.st_atime, value.st_mtime)
