"""The functions of a cache as a table in HTML, for notebooks."""

from __future__ import annotations

import time
from collections.abc import Mapping
from html import escape
from itertools import islice

from shoal._sizes import format_duration, format_size
from shoal.memory._results import Counts
from shoal.memory.key._source import shown
from shoal.memory.storage._paths import dotted
from shoal.memory.store import Entry, Store, location_of

#: The largest number of results that are counted, and of functions that are shown: a page must appear soon.
_MOST_ENTRIES, _MOST_FUNCTIONS = 100_000, 50
_COLUMNS = ("function", "results", "size", "last used", "hits", "misses")


def page_of(store: Store | None, counts: Mapping[str, Counts]) -> str:
    """Return the table: results and sizes from the store, hits and misses of this process."""
    if store is None:
        return "<p>A Memory without a location: no result is saved.</p>"
    entries = list(islice(store.entries(), _MOST_ENTRIES))
    by_function: dict[str, list[Entry]] = {}
    for entry in entries:
        by_function.setdefault(entry.key.function, []).append(entry)
    nbytes = sum(entry.nbytes for entry in entries)
    more = "at least " if len(entries) == _MOST_ENTRIES else ""
    largest = sorted(by_function.items(), key=lambda item: -sum(entry.nbytes for entry in item[1]))
    rows = "".join(_row(function, found, counts) for function, found in largest[:_MOST_FUNCTIONS])
    hidden = len(largest) - _MOST_FUNCTIONS
    caption = f"{more}{len(entries):,} results, {format_size(nbytes)}, in {location_of(store)}"
    note = f"<p>and {hidden:,} smaller functions</p>" if hidden > 0 else ""
    header = "".join(f"<th>{name}</th>" for name in _COLUMNS)
    return f"<table><caption>{escape(caption)}</caption><tr>{header}</tr>{rows}</table>{note}"


def _row(function: str, entries: list[Entry], counts: Mapping[str, Counts]) -> str:
    count = counts.get(shown(function), Counts())
    cells = (
        dotted(function),
        f"{len(entries):,}",
        format_size(sum(entry.nbytes for entry in entries)),
        f"{format_duration(time.time() - max(entry.used for entry in entries))} ago",
        f"{count.hits:,}",
        f"{count.misses:,}",
    )
    return f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
