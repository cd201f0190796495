"""Adapts a store of joblib's contract to shoal's contract."""

from __future__ import annotations

import contextlib
import datetime
import os
import weakref
from collections.abc import Iterator
from typing import Any

from shoal.memory.storage._leases import Leases
from shoal.memory.store import Entry, Key, Limits, Meta, Store

#: The leases of this process: its threads wait for each other, other processes do not.
_leases = Leases(None)


class ItemStore(Store):
    """A store of shoal's contract that uses one of joblib's contract."""

    def __init__(self, backend: Any) -> None:
        # The backend refers to this object; a weak reference avoids a cycle.
        self._backend = weakref.proxy(backend)

    def load(self, key: Key, mmap_mode: str | None = None) -> Any:
        """Return a value."""
        if not self._backend.contains_item(key):
            raise KeyError(key)
        return self._backend.load_item(key, verbose=0)

    def save(self, key: Key, value: Any, meta: Meta) -> None:
        """Save a value."""
        self._backend.dump_item(key, value, verbose=0)
        fields = {"duration": meta.duration, "input_args": meta.arguments, "time": meta.created}
        self._backend.store_metadata(key, fields)

    def contains(self, key: Key) -> bool:
        """Tell whether there is a value."""
        return bool(self._backend.contains_item(key))

    def meta(self, key: Key) -> Meta:
        """Return the metadata of a value."""
        fields = self._backend.get_metadata(key)
        try:
            return Meta(float(fields["duration"]), float(fields["time"]), dict(fields["input_args"]))
        except (KeyError, TypeError, ValueError):
            raise KeyError(key) from None

    def discard(self, key: Key) -> None:
        """Remove a value."""
        self._backend.clear_item(key)

    def entries(self) -> Iterator[Entry]:
        """Yield all entries."""
        for item in self._backend.get_items():
            function, call = os.path.split(os.path.relpath(item.path, self._backend.location))
            yield Entry(Key(function, call), item.size, item.last_access.timestamp())

    def clear(self, function: str | None = None) -> None:
        """Remove all values, or those of a function."""
        if function is None:
            self._backend.clear()
        else:
            self._backend.clear_path([function])

    def source(self, function: str) -> str | None:
        """Return the stored source of a function."""
        try:
            return str(self._backend.get_cached_func_code([function]))
        except Exception:  # stores raise various exceptions if there is no source
            return None

    def keep_source(self, function: str, source: str) -> None:
        """Store the source of a function."""
        self._backend.store_cached_func_code([function], source)

    def lease(self, key: Key) -> contextlib.AbstractContextManager[bool]:
        """Lease a key: only one thread of this process computes it."""
        return _leases.lease(key)

    def reduce(self, limits: Limits) -> None:
        """Remove entries that exceed the limits."""
        age = None if limits.age is None else datetime.timedelta(seconds=limits.age)
        self._backend.enforce_store_limits(limits.nbytes, limits.items, age)
