"""joblib's contract of a store, adapted to shoal's contract, and joblib's store on a file system.

::

    shoal.memory ──> a StoreBackendBase: load, save, ... ──> ItemStore ──> its load_item, dump_item, ...
                                                         └─> FileStore     for FileSystemStoreBackend, not a subclass
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import re
import shutil
import threading
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pickle import PicklingError
from typing import Any, NamedTuple, NoReturn

from shoal._tracebacks import warn
from shoal.errors import CacheWarning
from shoal.memory import _texts
from shoal.memory.storage._filestore import FileStore
from shoal.memory.storage._paths import refuse_links
from shoal.memory.store import Entry, Key, Limits, Store, excess_of

from . import numpy_pickle
from ._item_store import ItemStore
from .backports import concurrency_safe_rename
from .disk import memstr_to_bytes, mkdirp, rm_subdirs

__all__ = [
    "CacheItemInfo",
    "CacheWarning",
    "FileSystemStoreBackend",
    "StoreBackendBase",
    "StoreBackendMixin",
    "concurrency_safe_write",
]

_OUTPUT, _METADATA, _SOURCE = "output.pkl", "metadata.json", "func_code.py"
_is_entry = re.compile("[a-f0-9]{32}").match


class CacheItemInfo(NamedTuple):
    """A stored result: its folder, its size in bytes, and the time when it was last read."""

    path: str
    size: int
    last_access: datetime.datetime


class CorruptItem(ValueError):
    """A result cannot be read."""


def concurrency_safe_write(object_to_write: Any, filename: str, write_func: Callable[[Any, str], Any]) -> str:
    """Write an object to a temporary file beside `filename`, to be renamed to it; return its name."""
    part = f"{filename}.{uuid.uuid4().hex}-{os.getpid()}-{threading.get_ident()}"
    write_func(object_to_write, part)
    return part


class StoreBackendBase(ABC):
    """The methods that every store defines. :class:`StoreBackendMixin` uses them for those that ``Memory`` calls."""

    __slots__ = ("_shoal_store",)

    location: Any = None

    @abstractmethod
    def _open_item(self, f: Any, mode: str) -> Any:
        """Return a file object for a path; `mode` is "rb" or "wb"."""

    @abstractmethod
    def _item_exists(self, location: Any) -> Any:
        """Tell whether a path exists."""

    @abstractmethod
    def _move_item(self, src: Any, dst: Any) -> Any:
        """Move an item from one path to another."""

    @abstractmethod
    def create_location(self, location: Any) -> Any:
        """Make a folder."""

    @abstractmethod
    def clear_location(self, location: Any) -> Any:
        """Remove everything at a path."""

    @abstractmethod
    def get_items(self) -> Any:
        """Return the list of stored results, each with ``path``, ``size`` and ``last_access``."""

    @abstractmethod
    def configure(self, location: Any, verbose: int = 0, backend_options: Any = None) -> Any:
        """Set the location and the options of the store."""

    def _store(self) -> Store:
        """Return the store of shoal's contract that does the work."""
        try:
            return self._shoal_store
        except AttributeError:
            self._shoal_store: Store = ItemStore(self)
            return self._shoal_store

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__.copy()


class _StoreMethod:
    """A method of shoal's contract of a store. An attribute of this name in a subclass hides it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, backend: Any, owner: type) -> Any:
        return self if backend is None else getattr(backend._store(), self.name)


Store.register(StoreBackendBase)  # type: ignore[type-abstract]
for _name in vars(Store):
    if not _name.startswith("_") and _name != "clear":  # joblib's contract has a clear() too
        setattr(StoreBackendBase, _name, _StoreMethod(_name))


class StoreBackendMixin:
    """The operations on results, built on the methods of :class:`StoreBackendBase`.

    A `call_id` is the path of a function and the digest of its arguments, or the path of the function alone.
    """

    location: Any
    compress: Any = False
    _open_item: Any
    _item_exists: Any
    _move_item: Any
    create_location: Any
    clear_location: Any
    get_items: Any

    def _path(self, call_id: Sequence[str], *names: str) -> str:
        parts = (part.replace("/", os.sep) for part in call_id)  # functions are named with "/" on all systems
        return os.path.join(self.location, *parts, *names)

    def load_item(
        self, call_id: Sequence[str], verbose: int = 1, timestamp: float | None = None, metadata: Any = None
    ) -> Any:
        """Return a stored value; raise KeyError if it is not stored."""
        if verbose > 1:
            arguments = None if metadata is None else metadata.get("input_args")
            print(_texts.loading(call_id[0], self._path(call_id), timestamp, arguments, verbose))  # noqa: T201
        path = self._path(call_id, _OUTPUT)
        if not self._item_exists(path):
            raise KeyError(f"Non-existing item (may have been cleared).\nFile {path} does not exist")
        mmap_mode = getattr(self, "mmap_mode", None)
        if mmap_mode is not None:
            return numpy_pickle.load(path, mmap_mode=mmap_mode)
        with self._open_item(path, "rb") as file:
            return numpy_pickle.load(file)

    def dump_item(self, call_id: Sequence[str], item: Any, verbose: int = 1) -> None:
        """Store a value.

        Warns
        -----
        FutureWarning
            If it cannot be pickled.
        CacheWarning
            If it cannot be stored for another reason.
        """
        try:
            if not self._item_exists(self._path(call_id)):
                self.create_location(self._path(call_id))
            if verbose > 10:
                print(f"Persisting in {self._path(call_id)}")  # noqa: T201

            def write(value: Any, path: str) -> None:
                with self._open_item(path, "wb") as file:
                    numpy_pickle.dump(value, file, compress=self.compress)

            self._concurrency_safe_write(item, self._path(call_id, _OUTPUT), write)
        except PicklingError as error:
            warn(f"Unable to cache to disk: failed to pickle output. Exception: {error}.", FutureWarning)
        except Exception as error:
            warn(f"Unable to cache to disk. Exception: {error}.", CacheWarning)

    def clear_item(self, call_id: Sequence[str]) -> None:
        """Remove a value."""
        self.clear_path(call_id)

    def contains_item(self, call_id: Sequence[str]) -> bool:
        """Tell whether a value is stored."""
        return bool(self._item_exists(self._path(call_id, _OUTPUT)))

    def get_item_info(self, call_id: Sequence[str]) -> dict[str, Any]:
        """Return the path of a value, as "location"."""
        return {"location": self._path(call_id)}

    def get_metadata(self, call_id: Sequence[str]) -> dict[str, Any]:
        """Return the metadata of a value; an empty dictionary if they cannot be read."""
        try:
            with self._open_item(self._path(call_id, _METADATA), "rb") as file:
                return dict(json.loads(file.read().decode()))
        except Exception:  # stores raise various exceptions
            return {}

    def store_metadata(self, call_id: Sequence[str], metadata: dict[str, Any]) -> None:
        """Store the metadata of a value; ignore errors."""
        with contextlib.suppress(Exception):
            self.create_location(self._path(call_id))
            self._concurrency_safe_write(json.dumps(metadata), self._path(call_id, _METADATA), self._write_text)

    def contains_path(self, call_id: Sequence[str]) -> bool:
        """Tell whether anything is stored for a function."""
        return bool(self._item_exists(self._path(call_id)))

    def clear_path(self, call_id: Sequence[str]) -> None:
        """Remove everything that is stored for a function."""
        if self._item_exists(self._path(call_id)):
            self.clear_location(self._path(call_id))

    def store_cached_func_code(self, call_id: Sequence[str], func_code: str | None = None) -> None:
        """Make the folder of a function, and store its source there."""
        if not self._item_exists(self._path(call_id)):
            self.create_location(self._path(call_id))
        if func_code is not None:
            self._concurrency_safe_write(func_code, self._path(call_id, _SOURCE), self._write_text)

    def _write_text(self, text: str, path: str) -> None:
        with self._open_item(path, "wb") as file:
            file.write(text.encode())

    def get_cached_func_code(self, call_id: Sequence[str]) -> str:
        """Return the stored source of a function."""
        with self._open_item(self._path(call_id, _SOURCE), "rb") as file:
            return str(file.read().decode())

    def get_cached_func_info(self, call_id: Sequence[str]) -> dict[str, Any]:
        """Return the path of the results of a function, as "location"."""
        return {"location": self._path(call_id)}

    def clear(self) -> None:
        """Remove all results."""
        self.clear_location(self.location)

    def enforce_store_limits(
        self, bytes_limit: Any, items_limit: int | None = None, age_limit: datetime.timedelta | None = None
    ) -> None:
        """Remove the least recently used results until the limits are met."""
        for item in self._get_items_to_delete(bytes_limit, items_limit, age_limit):
            if getattr(self, "verbose", 0) > 10:
                print(f"Deleting item {item}")  # noqa: T201
            with contextlib.suppress(OSError):  # another process may remove it at the same time
                self.clear_location(item.path)

    def _get_items_to_delete(
        self, bytes_limit: Any, items_limit: int | None = None, age_limit: datetime.timedelta | None = None
    ) -> list[Any]:
        if age_limit is not None and age_limit.total_seconds() < 0:
            raise ValueError("age_limit has to be a positive timedelta")
        limits = Limits(
            memstr_to_bytes(bytes_limit) if isinstance(bytes_limit, str) else bytes_limit,
            items_limit,
            None if age_limit is None else age_limit.total_seconds(),
        )
        items = {item.path: item for item in sorted(self.get_items(), key=lambda item: item.last_access)}
        entries = [Entry(Key(path, ""), item.size, item.last_access.timestamp()) for path, item in items.items()]
        return [items[entry.key.function] for entry in excess_of(entries, limits)]

    def _concurrency_safe_write(self, to_write: Any, filename: str, write_func: Callable[[Any, str], Any]) -> None:
        self._move_item(concurrency_safe_write(to_write, filename, write_func), filename)

    def __repr__(self) -> str:
        return f'{type(self).__name__}(location="{self.location}")'


class _JoblibFiles(FileStore):
    """shoal's store in files, which reports unreadable files as joblib does."""

    made_for: Any = None

    def _report_unreadable(self, key: Key, error: Exception) -> NoReturn:
        raise CorruptItem(f"{self.folder(key)} cannot be read ({type(error).__name__}: {error})") from error


class FileSystemStoreBackend(StoreBackendBase, StoreBackendMixin):
    """A store in files of a local or network file system.

    ``Memory`` uses shoal's own store for it. For a subclass it calls the methods of this class.
    """

    verbose: int = 1
    _open_item: Any = staticmethod(open)
    _item_exists: Any = staticmethod(os.path.exists)
    _move_item = staticmethod(concurrency_safe_rename)

    def configure(self, location: Any, verbose: int = 1, backend_options: Any = None) -> None:
        """Make the folder, and set the options "compress" and "mmap_mode"."""
        options = backend_options or {}
        self.location: Any = location
        self.verbose: int = verbose
        self.compress: Any = options.get("compress", False)
        self.mmap_mode: str | None = options.get("mmap_mode")
        mkdirp(location)
        folder, name = os.path.split(location)
        try:
            with open(os.path.join(folder if folder and name == "joblib" else location, ".gitignore"), "x") as file:
                file.write("# Created by joblib automatically.\n*\n")
        except FileExistsError:
            pass
        except OSError as error:
            warn(f"Unable to write .gitignore. Exception: {error}.", UserWarning)
        if self.compress and self.mmap_mode is not None:
            warn("Compressed items cannot be memmapped in a filesystem store. Option will be ignored.", UserWarning)

    def create_location(self, location: Any) -> None:
        """Make a folder."""
        self._refuse_links(location)
        mkdirp(location)

    def _refuse_links(self, location: Any) -> None:
        """Raise NotADirectoryError if a link is part of the path of a folder inside this store."""
        path = os.path.relpath(location, self.location)
        if not path.startswith(os.pardir):
            refuse_links(os.fspath(self.location), path.replace(os.sep, "/"))

    def clear_location(self, location: Any) -> None:
        """Remove a folder. Of the store's own folder, remove only the subfolders; of a link, only the link."""
        if location == self.location:
            rm_subdirs(location)
            return
        self._refuse_links(os.path.dirname(location))
        if os.path.islink(location):
            os.unlink(location)
        else:
            shutil.rmtree(location, ignore_errors=True)

    def _concurrency_safe_write(self, to_write: Any, filename: str, write_func: Callable[[Any, str], Any]) -> None:
        self._refuse_links(os.path.dirname(filename))
        super()._concurrency_safe_write(to_write, filename, write_func)

    def get_items(self) -> list[CacheItemInfo]:
        """Return the stored results."""
        items = []
        for folder, _, names in os.walk(self.location):
            if not _is_entry(os.path.basename(folder)):
                continue
            with contextlib.suppress(OSError):  # another process may just have removed it
                size = sum(os.path.getsize(os.path.join(folder, name)) for name in names)
                read = os.path.getatime(os.path.join(folder, _OUTPUT) if _OUTPUT in names else folder)
                items.append(CacheItemInfo(folder, size, datetime.datetime.fromtimestamp(read)))
        return items

    def clear(self) -> None:
        """Remove all results."""
        if type(self) is FileSystemStoreBackend:
            self._store().clear()
        else:
            super().clear()

    def clear_path(self, call_id: Sequence[str]) -> None:
        """Remove everything that is stored for a function."""
        if type(self) is FileSystemStoreBackend:
            self._store().clear(os.path.join(*call_id).replace(os.sep, "/"))
        else:
            super().clear_path(call_id)

    def _store(self) -> Store:
        if type(self) is not FileSystemStoreBackend:
            return super()._store()
        made_for = self.location, self.compress
        try:
            known = self._shoal_store
        except AttributeError:
            known = None
        if not isinstance(known, _JoblibFiles) or known.made_for != made_for:
            known = self._shoal_store = _JoblibFiles(
                self.location, compress=self.compress, own=_own_folder(self.location)
            )
            known.made_for = made_for
        return known


def _own_folder(location: str) -> str | None:
    """Return the folder for shoal's own files: beside "joblib", which programs expect to hold only results."""
    folder, name = os.path.split(os.path.abspath(location))
    inside, beside = os.path.join(location, ".shoal"), os.path.join(folder, ".shoal")
    if name != "joblib" or os.path.exists(inside) or not os.access(folder, os.W_OK):
        return None
    try:
        return beside if os.stat(folder).st_dev == os.stat(location).st_dev else None
    except OSError:  # the folder could not be made; saving will report it
        return None
