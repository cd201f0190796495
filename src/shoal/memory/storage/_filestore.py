"""A store on a file system, in joblib's layout.

::

    location/
    ├── module/function/
    │   ├── func_code.py            the source of the function
    │   └── 0f2b8227db95.../        an entry: output.pkl (the value, or a file in another format), metadata.json
    └── .shoal/
        ├── aside/                  the staging folder: entries that are being written or deleted
        ├── locks, waiting/         leases: the processes that compute values, and those that wait
        └── index.sqlite            sizes and times of use, if there are limits

    save     aside/x/ is written ── rename ──> module/function/0f2b.../
    remove   module/function/0f2b.../ ── rename ──> aside/y/ is deleted

So an entry exists completely or not at all. If the entry exists already, its two files are replaced one after the
other, the value first. A reader that has opened the old value continues with it.
"""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

from shoal._files import delete
from shoal._output import write_new
from shoal._platform.files import Unnoticed, rename, replace
from shoal._tracebacks import warn
from shoal.errors import CorruptFile, FileInUse
from shoal.memory.storage import _paths
from shoal.memory.storage._leases import leases_in
from shoal.memory.storage._staging import Staging, put_back, replace_entry
from shoal.memory.storage._values import ValueFile, load_in, value_in, write_value
from shoal.memory.storage._walk import entries_in, measured
from shoal.memory.storage._warnings import warn_too_large, warn_unreadable
from shoal.memory.store import Entry, Key, Limits, Meta, Store, excess_of
from shoal.persistence._dump import compression_of
from shoal.persistence._load import load
from shoal.persistence.reading._small import OTHER, SMALL, read_small, rebuilt

if TYPE_CHECKING:
    from shoal.memory.storage._index import Index

#: Another process may remove a folder just after it was made. After this many attempts the error has another cause.
_ATTEMPTS = 5
# The name of an entry that joblib has saved. shoal's own keys end in an "x".
_is_joblib_key = re.compile("[0-9a-f]{32}").fullmatch


class FileStore(Store):
    """A store on a file system.

    Parameters
    ----------
    location : str or os.PathLike
        The folder. It is made if it is missing, with a file ".gitignore": in the folder, or beside it if the folder is
        called "joblib".
    compress : bool, int, str or tuple, default False
        How values are compressed, as for :func:`shoal.dump`. Compressed values are not mapped.
    mmap_mode : {None, "r", "r+", "w+", "c"}
        The mode that :meth:`load` will be called with. It only serves to warn if `compress` rules it out.
    limits : Limits, optional
        The largest size of the store. Entries are removed, least recently used first, before a new one would exceed
        it. A value that is larger than the limit is not saved, with a :class:`~shoal.CacheWarning`.
    verbose : int, default 0
        Not used: ``Memory`` prints.
    own : str, optional
        The folder for shoal's own files, ".shoal" in `location` by default. It must be on the same file system as
        `location`, and the same for all processes that use the location.
    make_location : bool, default True
        Whether to make the folder and ".gitignore" now. Saving makes the folder in any case.

    Attributes
    ----------
    location : str
        The folder, as an absolute path.

    Notes
    -----
    Thread-safe, and safe between processes. A pickled store becomes a store of the same folder.
    """

    formats = True

    def __init__(
        self,
        location: str | os.PathLike[str],
        *,
        compress: bool | int | str | tuple[str, int | None] = False,
        mmap_mode: str | None = None,
        limits: Limits | None = None,
        verbose: int = 0,
        own: str | None = None,
        make_location: bool = True,
    ) -> None:
        self._arguments = location, compress, limits, own
        self._compression = compression_of(compress, "")
        self.location = os.path.abspath(os.path.expanduser(os.fspath(location)))
        self._prefix = self.location + os.sep
        if self._compression is not None and mmap_mode is not None:
            warn("Compressed items cannot be memmapped in a filesystem store. Option will be ignored.", UserWarning)
        self._limits = Limits() if limits is None else limits
        own = os.path.join(self.location, _paths.OWN) if own is None else own
        self._leases = leases_in(own)
        assert self._leases.locks is not None
        self._staging = Staging(os.path.join(own, "aside"), self._leases.locks)
        self._index: Index | None = None
        index = os.path.join(own, "index.sqlite")
        if self._limits != Limits() or os.path.lexists(index):  # if there is an index, stores with limits rely on it
            from shoal.memory.storage._index import Index  # imports sqlite3, which most stores never need

            self._index = Index(index, self._leases.locks, self._walk_of_index, self._measure, self._remove)
        if make_location:
            with suppress(OSError):  # saving will report the error
                _paths.make_ignored_location(self.location)

    def __reduce__(self) -> Any:
        return _restored, self._arguments

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._arguments[0]!r})"

    def folder(self, key: Key) -> str:
        """Return the path of an entry, whether or not it exists."""
        return f"{self._prefix}{key.function}/{key.call}"

    def load(self, key: Key, mmap_mode: str | None = None) -> Any:
        path = f"{self._prefix}{key[0]}/{key[1]}/output.pkl"
        try:
            value = OTHER
            if mmap_mode is None:
                data = read_small(path)
                if len(data) < SMALL:
                    value = rebuilt(data)
            if value is OTHER:
                value = load(path, None if self._compression else mmap_mode)
        except (FileNotFoundError, NotADirectoryError):
            return self._load_formatted(key)
        except Warning:  # a warning about versions, where warnings are errors
            raise
        except Exception as error:
            return self._recover(key, mmap_mode, error)
        if self._index is not None:
            self._index.used(key)
        return value

    def _load_formatted(self, key: Key) -> Any:
        """Return the value of a key that is in a file of another format than "pickle"."""
        folder = self.folder(key)
        if not os.access(folder, os.F_OK):  # as on every miss; an exception would take longer
            raise KeyError(key) from None
        try:
            value = load_in(folder)
        except (FileNotFoundError, NotADirectoryError) as error:
            if str(error.filename).startswith(folder):
                raise KeyError(key) from None
            return self._recover(key, None, error)  # an object in the value misses a file of its own
        except CorruptFile as error:
            return self._recover(key, None, error)
        if self._index is not None:
            self._index.used(key)
        return value

    def _recover(self, key: Key, mmap_mode: str | None, error: Exception) -> Any:
        """Remove an unreadable entry. Return the value if another process has replaced the entry meanwhile."""
        folder = self.folder(key)
        if not isinstance(error, (OSError, MemoryError)) and self._is_ours(key):
            try:
                staged = self._staging.move_in(folder)
            except OSError:
                pass
            else:
                if staged is None:
                    raise KeyError(key) from None
                if put_back(staged, folder):
                    return self._load_again(key, mmap_mode)
                self._staging.delete(staged)
                if self._index is not None:
                    self._index.delete_row_if_missing(key)
        return self._report_unreadable(key, error)

    def _report_unreadable(self, key: Key, error: Exception) -> NoReturn:
        warn_unreadable(self.folder(key), error)
        raise KeyError(key) from None

    def _load_again(self, key: Key, mmap_mode: str | None) -> Any:
        try:
            return load_in(self.folder(key), mmap_mode)
        except (FileNotFoundError, NotADirectoryError):
            raise KeyError(key) from None

    def save(self, key: Key, value: Any, meta: Meta) -> None:
        _paths.refuse_links(self.location, key.function)
        for attempt in range(_ATTEMPTS):
            staged = self._staging.make_folder()
            try:
                nbytes = self._write(staged, value, meta)
                if self._index is None or self._index.admit(Entry(key, nbytes, time.time()), self._limits):
                    self._publish(staged, key)
                else:
                    warn_too_large(key.function, nbytes)
                    delete(staged)
                return
            except FileNotFoundError:  # another process has removed a folder meanwhile
                delete(staged)
                if attempt == _ATTEMPTS - 1:
                    raise
            except BaseException:
                delete(staged)
                raise

    def save_file(self, key: Key, file: BinaryIO, meta: Meta) -> None:
        self.save(key, ValueFile(file), meta)

    def _write(self, staged: str, value: Any, meta: Meta) -> int:
        """Write the files of an entry; return their size in bytes."""
        nbytes = write_value(staged, value, meta.format, self._compression)
        return nbytes + write_new(f"{staged}/{_paths.METADATA}", meta.as_json())

    def _publish(self, staged: str, key: Key) -> None:
        """Rename a staged entry to its final path, or replace the files of the entry that is there."""
        folder = self.folder(key)
        for _ in range(_ATTEMPTS):
            try:
                rename(staged, folder)
                break
            except FileNotFoundError:
                _paths.make_folder_below(self.location, key.function)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                if replace_entry(folder, staged):
                    self._staging.delete(staged)
                    break
        else:
            raise FileNotFoundError(errno.ENOENT, "the folder is removed again and again", folder)
        if self._index is not None:
            self._index.confirm(key)

    def contains(self, key: Key) -> bool:
        # Faster than exists(), which handles exceptions. On a miss there is no folder.
        folder = self.folder(key)
        return os.access(folder, os.F_OK) and (
            os.access(f"{folder}/{_paths.OUTPUT}", os.F_OK) or value_in(folder) is not None
        )

    def meta(self, key: Key) -> Meta:
        try:
            with open(f"{self.folder(key)}/{_paths.METADATA}", "rb", 0) as file:
                return Meta.from_json(file.read())
        except (OSError, ValueError, TypeError, KeyError):
            raise KeyError(key) from None

    def open_value(self, key: Key) -> BinaryIO:
        try:
            return Unnoticed(f"{self.folder(key)}/{value_in(self.folder(key)) or _paths.OUTPUT}")
        except (FileNotFoundError, NotADirectoryError):
            raise KeyError(key) from None

    def discard(self, key: Key) -> None:
        if self._index is not None:
            self._index.discard(key)
        else:
            self._remove(key)

    def _remove(self, key: Key) -> None:
        if self._is_ours(key):
            self._staging.remove(self.folder(key))

    def _is_ours(self, key: Key) -> bool:
        """Return whether a key leads to an entry of this store and not elsewhere: a damaged index can hold any key."""
        try:
            if _paths.is_key(key):
                _paths.refuse_links(self.location, key.function)
                return True
        except OSError:
            pass
        return False

    def clear(self, function: str | None = None) -> None:
        staged: list[str | None] = []
        refused: list[FileInUse] = []
        if function is not None:  # if the last part is a link, the link is removed
            _paths.refuse_links(self.location, function.rpartition("/")[0])

        def move() -> None:
            for path in self._folders() if function is None else [self._prefix + function]:
                try:
                    staged.append(self._staging.move_in(path))
                except FileInUse as error:
                    refused.append(error)

        if self._index is not None:
            self._index.clear(function, move)
        else:
            move()
        for path in filter(None, staged):
            self._staging.delete(path)
        self._sweep()
        if refused:
            raise refused[0]

    def _folders(self) -> list[str]:
        try:
            with os.scandir(self.location) as found:
                return [item.path for item in found if not item.name.startswith(".") and item.is_dir()]
        except OSError:
            return []

    def reduce(self, limits: Limits) -> None:
        if self._index is not None:
            self._index.reduce(limits)
        else:
            for entry in excess_of(self.entries(), limits):
                with suppress(FileInUse):
                    self._remove(entry.key)
        self._sweep()

    def _sweep(self) -> None:
        """Remove the leftovers of killed processes."""
        self._staging.sweep()
        self._leases.sweep()

    def entries(self) -> Iterator[Entry]:
        return self._walk()

    def entries_of(self, function: str) -> Iterator[Entry]:
        return (entry for entry in self._walk(function) if entry.key.function == function)

    def _walk(self, function: str = "", trust: bool = True) -> Iterator[Entry]:
        if self._index is None:
            return entries_in(self.location, function)
        self._index.flush()
        return entries_in(self.location, function, self._index.known, trust)

    def _walk_of_index(self, trust: bool) -> Iterator[Entry]:
        return self._walk("", trust)

    def _measure(self, key: Key) -> Entry | None:
        """Return the entry of a key, or None if it does not exist."""
        return measured(self.folder(key), key) if self._is_ours(key) else None

    def source(self, function: str) -> str | None:
        try:
            with open(f"{self._prefix}{function}/{_paths.SOURCE}", encoding="utf-8", newline="") as file:
                return file.read()
        except (OSError, UnicodeDecodeError):
            return None

    def keep_source(self, function: str, source: str) -> None:
        path = f"{self._prefix}{function}/{_paths.SOURCE}"
        _paths.refuse_links(self.location, function)
        for attempt in range(_ATTEMPTS):
            staged = self._staging.make_file(source.encode())
            try:
                _paths.make_folder_below(self.location, function)
                replace(staged, path)
                return
            except FileNotFoundError:  # another process has removed a folder meanwhile
                delete(staged)
                if attempt == _ATTEMPTS - 1:
                    raise
            except BaseException:
                delete(staged)
                raise

    def foreign(self, function: str) -> bool:
        try:
            return any(_is_joblib_key(name) for name in os.listdir(self._prefix + function))
        except OSError:
            return False

    def close(self) -> None:
        if self._index is not None:
            self._index.close()

    def lease(self, key: Key) -> AbstractContextManager[bool]:
        return self._leases.lease(key)


def _restored(location: Any, compress: Any, limits: Limits | None, own: str | None) -> FileStore:
    return FileStore(location, compress=compress, limits=limits, own=own)
