"""Which results are removed from a store, by size, number, age, use and function; and their removal.

::

    entries ── of one function ──> older than, unused for ──> gone
                                └─> the rest ── limits ─────> gone, least recently used first
"""

from __future__ import annotations

import datetime
import time
from contextlib import suppress
from typing import NamedTuple

from shoal.errors import FileInUse
from shoal.memory.store import Entry, Limits, Store, excess_of


class Wanted(NamedTuple):
    """What is removed.

    Attributes
    ----------
    limits
        The largest size and number of the results, and how long they may stay unused.
    age
        How long ago results may have been saved, in seconds, or None.
    function
        The path of the only function whose results count, or None for all.
    """

    limits: Limits
    age: float | None = None
    function: str | None = None


def seconds_of(name: str, value: object) -> float | None:
    """Return a ``timedelta`` in seconds; raise TypeError or ValueError if it is not one, or negative."""
    if value is None:
        return None
    if not isinstance(value, datetime.timedelta):
        raise TypeError(f"{name}={value!r} is not a datetime.timedelta: write timedelta(days=...)")
    if value < datetime.timedelta(0):
        raise ValueError(f"{name}={value!r} is negative: write how long ago, as in timedelta(days=30)")
    return value.total_seconds()


def removed_by(store: Store, wanted: Wanted) -> list[Entry]:
    """Return the entries that would be removed, those that were used least recently first."""
    entries = list(store.entries() if wanted.function is None else store.entries_of(wanted.function))
    if wanted.age is None and wanted.limits == Limits():  # all results of one function
        gone = set(entries) if wanted.function is not None else set()
    else:
        gone = set()
        if wanted.age is not None:
            before = time.time() - wanted.age
            gone = {entry for entry in entries if _created(store, entry) < before}
        gone.update(excess_of([entry for entry in entries if entry not in gone], wanted.limits))
    return sorted(gone, key=lambda entry: entry.used)


def prune(store: Store, wanted: Wanted) -> list[Entry]:
    """Remove entries; return those that were removed, those that were used least recently first."""
    if wanted.age is None and wanted.function is None:
        before = list(store.entries())
        store.reduce(wanted.limits)
        left = {entry.key for entry in store.entries()}
        return sorted((entry for entry in before if entry.key not in left), key=lambda entry: entry.used)
    gone = []
    for entry in removed_by(store, wanted):
        with suppress(FileInUse):
            store.discard(entry.key)
            gone.append(entry)
    return gone


def _created(store: Store, entry: Entry) -> float:
    try:
        return store.meta(entry.key).created
    except (KeyError, OSError):  # the metadata are lost; the value was saved before it was used
        return entry.used
