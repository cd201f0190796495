"""A walk through the folders of a cache that finds its entries."""

from __future__ import annotations

import os
from collections.abc import Iterator

from shoal.memory.storage import _paths
from shoal.memory.store import Entry, Key


def entries_in(location: str, function: str = "") -> Iterator[Entry]:
    """Yield the entries, all or those below a function, with the times of use that the file system records."""
    folders = [(f"{location}/{function}" if function else location, function)]
    while folders:
        path, name = folders.pop()
        try:
            with os.scandir(path) as found:
                items = list(found)
            if name and any(_paths.is_value(item.name) for item in items):
                key = Key(*name.rpartition("/")[::2])
                if _paths.is_key(key):
                    yield entry_of(key, items)
                continue
            inside = [item for item in items if item.is_dir(follow_symlinks=False)]
        except OSError:  # removed in the meantime
            continue
        folders += [
            (item.path, f"{name}/{item.name}" if name else item.name) for item in inside if item.name != _paths.OWN
        ]


def entry_of(key: Key, items: list[os.DirEntry[str]]) -> Entry:
    """Return the entry whose folder contains these items."""
    statuses = {item.name: item.stat(follow_symlinks=False) for item in items}
    output = statuses.get(_paths.value_among(statuses) or "")
    # Where the file system does not record reads, the time of writing is the later one.
    used = 0.0 if output is None else max(output.st_atime, output.st_mtime)
    return Entry(key, sum(status.st_size for status in statuses.values()), used)
