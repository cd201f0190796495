"""What a Memory tells of its results, and what it does with many of them: prune, verify, export, import."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterable, Iterator
from typing import Any

from shoal.memory._caching import Caches
from shoal.memory._page import page_of
from shoal.memory._pruning import Wanted, prune, removed_by, seconds_of
from shoal.memory._results import MemorizedResult, MemoryInfo
from shoal.memory._transfer import Imported, export_entries, import_entries
from shoal.memory._verifying import Verification, checked_entries
from shoal.memory.storage._paths import functions_named
from shoal.memory.store import Entry, Key, Limits


class Contents(Caches):
    # The methods of Memory that look at many results. Memory sets the attributes.

    def entries(self, function: Any = None) -> Iterator[MemorizedResult]:
        """Yield a reference to each result, in any order.

        Each has ``func``, ``arguments`` (texts by name), ``nbytes``, ``used`` (when it was last saved or loaded, in
        seconds since the epoch), ``age`` and ``duration`` (in seconds). ``get()`` reads the result, ``clear()``
        removes it.

        Parameters
        ----------
        function : callable or str, optional
            Only the results of this function: a cached one, or the end of its dotted name.

        Raises
        ------
        ValueError
            If several functions have that name, or none.
        """
        for entry in () if self.store_backend is None else self._entries(function):
            yield self._reference(entry)

    def _entries(self, function: Any) -> Iterator[Entry]:
        store = self.store_backend
        assert store is not None
        return store.entries() if function is None else store.entries_of(self._path_of(function))

    def _path_of(self, function: Any) -> str:
        """Return the path of a function that a user names."""
        identity = getattr(function, "_identity", None)
        if identity is not None:
            path: str = identity.path
            return path
        if not isinstance(function, str):
            raise TypeError(f"function={function!r:.80} is neither a cached function nor a name: pass either")
        store = self.store_backend
        assert store is not None
        found = functions_named({entry.key.function for entry in store.entries()}, function)
        if len(found) != 1:
            names = f"several functions end in {function}: {', '.join(found)}"
            raise ValueError(names if found else f"no result of {function} is stored")
        return found[0]

    def info(self, msg: str | None = None) -> MemoryInfo | None:  # type: ignore[override]
        """Return statistics: the results in the store, and the hits and misses of this process.

        With a message, log the message instead, as joblib does.
        """
        if msg is not None:
            return super().info(msg)
        store = self.store_backend
        return MemoryInfo.of(() if store is None else store.entries(), self._counts, self._duration_of)

    def _duration_of(self, keys: Iterable[Key]) -> float:
        """Return the mean duration of some calls whose results are stored, in seconds."""
        results = (MemorizedResult(self.store_backend, key, self.backend) for key in keys)
        durations = [result.duration for result in results if result.duration is not None]
        return sum(durations) / len(durations) if durations else 0.0

    def prune(
        self,
        *,
        bytes_limit: int | str | None = None,
        items_limit: int | None = None,
        unused_for: datetime.timedelta | None = None,
        older_than: datetime.timedelta | None = None,
        function: Any = None,
        dry_run: bool = False,
    ) -> list[MemorizedResult]:
        """Remove results, and return references to them, those that were used least recently first.

        Parameters
        ----------
        bytes_limit, items_limit : optional
            The largest size and number of the results that stay, as for :class:`Memory`.
        unused_for : datetime.timedelta, optional
            Remove the results that were not used for so long.
        older_than : datetime.timedelta, optional
            Remove the results that were saved so long ago.
        function : callable or str, optional
            Only the results of this function count, and without another argument all of them are removed: a cached
            function, or the end of its dotted name.
        dry_run : bool
            Whether to remove nothing, and only return what would be removed.

        Raises
        ------
        ValueError
            If no argument says what to remove, a limit is negative, or the name fits several functions or none.
        TypeError
            If an argument has a wrong type.
        """
        limits = Limits.checked(bytes_limit, items_limit, None)._replace(age=seconds_of("unused_for", unused_for))
        age = seconds_of("older_than", older_than)
        if limits == Limits() and age is None and function is None:
            raise ValueError("prune() needs to know what to remove: pass a limit, unused_for, older_than or function")
        store = self.store_backend
        if store is None:
            return []
        path = None if function is None else self._path_of(function)
        entries = store.entries() if path is None else store.entries_of(path)
        gone = removed_by(store, Wanted(limits, age, path), entries)
        if not dry_run:
            gone = prune(store, gone)
        known: dict[str, Any] | None = None if dry_run else {}  # the metadata of removed results are gone
        return [self._reference(entry, known) for entry in gone]

    def _reference(self, entry: Entry, metadata: dict[str, Any] | None = None) -> MemorizedResult:
        return MemorizedResult(
            self.store_backend,
            entry.key,
            self.backend,
            self.mmap_mode,
            metadata=metadata,
            nbytes=entry.nbytes,
            used=entry.used,
        )

    def verify(self) -> Verification:
        """Read all results and compare them with their checksums. Nothing is unpickled or removed.

        Returns
        -------
        Verification
            The number of results by state, and those that are damaged. ``str()`` says it in words.

        Raises
        ------
        NotImplementedError
            If the store does not give access to the files of values.
        """
        found = Verification()
        for checked in () if self.store_backend is None else checked_entries(self.store_backend):
            found.add(checked)
        return found

    def export_entries(self, path: str | os.PathLike[str], function: Any = None) -> int:
        """Write results to a tar, for :meth:`import_entries` of another Memory; return their number.

        Parameters
        ----------
        path : str or os.PathLike
            The tar. It is compressed if its name ends in ".gz", ".bz2" or ".xz".
        function : callable or str, optional
            Only the results of this function: a cached one, or the end of its dotted name.

        Raises
        ------
        OSError
            If the tar cannot be written.
        ValueError
            If several functions have that name, or none.
        NotImplementedError
            If the store does not give access to the files of values.
        """
        store = self.store_backend
        return 0 if store is None else export_entries(store, path, self._entries(function))

    def import_entries(self, path: str | os.PathLike[str]) -> Imported:
        """Add the results of a tar that :meth:`export_entries` has written.

        Import only what comes from people whom you trust: results are pickles, which can run any code when a call
        loads them. Nothing is unpickled now, and nothing is written outside the location.

        Returns
        -------
        Imported
            How many results were ``added``, ``known`` already, and ``damaged``.

        Raises
        ------
        ValueError
            If the file is not a tar, or contains what no cache contains.
        OSError
            If the tar cannot be read, or the location not be written.
        NotImplementedError
            If the store does not take files of values.
        """
        return Imported(0, 0, 0) if self.store_backend is None else import_entries(self.store_backend, path)

    def _repr_html_(self) -> str:
        """Return a table of the functions, for notebooks."""
        return page_of(self.store_backend, self._counts)
