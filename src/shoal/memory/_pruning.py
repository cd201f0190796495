"""Which results are removed from a store, by size, number, age, use and function; and their removal.

::

    entries ── of one function ──> older than, unused for ──> gone
                                └─> the rest ── limits ─────> gone, least recently used first
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterable
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


def removed_by(store: Store, wanted: Wanted, entries: Iterable[Entry]) -> list[Entry]:
    """Return those of all entries that would be removed, those that were used least recently first."""
    entries = [entry for entry in entries if wanted.function in (None, entry.key.function)]
    if wanted.age is None:
        if wanted.limits != Limits():
            return list(excess_of(entries, wanted.limits))
        gone = set(entries) if wanted.function is not None else set()  # all results of one function
    else:
        before = time.time() - wanted.age
        gone = {entry for entry in entries if _created(store, entry) < before}
        gone.update(excess_of([entry for entry in entries if entry not in gone], wanted.limits))
    return sorted(gone, key=lambda entry: entry.used)


def prune(store: Store, entries: list[Entry]) -> list[Entry]:
    """Remove entries; return those that were removed."""
    gone = []
    for entry in entries:
        with suppress(FileInUse):
            store.discard(entry.key)
            gone.append(entry)
    return gone


def _created(store: Store, entry: Entry) -> float:
    try:
        return store.meta(entry.key).created
    except (KeyError, OSError):  # the metadata are lost; the value was saved before it was used
        return entry.used
