"""Which entries go when a store holds too much. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from shoal.memory.store import Entry, Limits


def excess(oldest_first: Iterable[Entry], nbytes: int, items: int, limits: Limits, now: float) -> Iterator[Entry]:
    """Yield the entries that have to go, so that what is left keeps the limits.

    Parameters
    ----------
    oldest_first
        What there is, least recently used first; as much of it is looked at as has to go, and one more.
    nbytes, items
        What all of it takes, and the number of entries.
    limits
        What may be kept.
    now
        The time, in seconds since the epoch.
    """
    most_bytes = nbytes if limits.nbytes is None else limits.nbytes
    most_items = items if limits.items is None else limits.items
    oldest = float("-inf") if limits.age is None else now - limits.age
    for entry in oldest_first:
        if nbytes <= most_bytes and items <= most_items and entry.used >= oldest:
            return
        yield entry
        nbytes -= entry.nbytes
        items -= 1
