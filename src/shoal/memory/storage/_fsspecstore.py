"""A store on any file system that fsspec supports, in the same layout as on disk. It needs the extra ``fsspec``.

Every file is written under a name of its own, and then replaces the old file: by a rename on a file system, by a copy
on an object store, where a copy is atomic too. An entry exists when its value exists, so the value is written last.
"""

from __future__ import annotations

import io
import itertools
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, BinaryIO

from shoal._tracebacks import warn
from shoal.errors import CorruptFile
from shoal.memory.formats import PICKLE
from shoal.memory.storage._leases import Leases
from shoal.memory.storage._paths import METADATA as _METADATA
from shoal.memory.storage._paths import OUTPUT as _OUTPUT
from shoal.memory.storage._paths import OWN as _OWN
from shoal.memory.storage._paths import SOURCE as _SOURCE
from shoal.memory.storage._paths import is_key, is_value, refuse_links, value_among
from shoal.memory.storage._values import ValueFile, decoded, encoded
from shoal.memory.storage._warnings import warn_too_large, warn_unreadable
from shoal.memory.store import Entry, Key, Limits, Meta, Store, excess_of
from shoal.persistence._dump import compression_of, write
from shoal.persistence._load import load
from shoal.persistence.reading._small import OTHER, rebuilt

_ATTEMPTS = 5


class _Contents(io.BytesIO):
    """The content of a file, with its path."""

    name: str


class FsspecStore(Store):
    """A store on a file system of fsspec.

    Parameters
    ----------
    location : str
        The folder, with its protocol: ``"s3://bucket/cache"``. Without a protocol it is a folder of this machine.
    compress : bool, int, str or tuple, default False
        How values are compressed, as for :func:`shoal.dump`.
    mmap_mode : None
        This store maps no arrays. Another value causes a warning.
    limits : Limits, optional
        The largest size of the store. Each write lists all entries, so limits suit a small number of large entries.
    verbose : int, default 0
        Not used: ``Memory`` prints.
    **storage_options
        Options of the file system, such as credentials.

    Notes
    -----
    Thread-safe, and safe between processes. Of several threads, one computes a result and the others wait. Several
    processes each compute it, because fsspec has no locks. Loads are recorded in this object only, so other processes
    know an entry's time of writing, and not when it was last used.
    """

    formats = True

    def __init__(
        self,
        location: str,
        *,
        compress: bool | int | str | tuple[str, int | None] = False,
        mmap_mode: str | None = None,
        limits: Limits | None = None,
        verbose: int = 0,
        **storage_options: Any,
    ) -> None:
        from fsspec.core import url_to_fs  # an extra, which may not be installed
        from fsspec.implementations.local import LocalFileSystem

        if mmap_mode is not None:
            warn("Items cannot be memmapped in an fsspec store: they are read.", UserWarning)
        self._arguments = {"location": location, "compress": compress, "limits": limits, **storage_options}
        self._compression = compression_of(compress, "")
        self._limits = limits
        self._fs, root = url_to_fs(os.fspath(location), **storage_options)
        # A cached listing would be wrong: other processes write too.
        self._fs.use_listings_cache = False
        # If a local folder was just removed, so that a file cannot be renamed into it, fsspec copies the file instead,
        # and readers see half of it. So local files are renamed by os.replace.
        self._is_local = isinstance(self._fs, LocalFileSystem)
        self._move: Any = os.replace if self._is_local else self._fs.mv
        self._prefix = root.rstrip("/") + "/"
        self.location = os.fspath(location)
        self._leases = Leases(None)
        self._uses: dict[Key, float] = {}
        self._counter = itertools.count()
        self._token = secrets.token_hex(8)

    def __reduce__(self) -> Any:
        return _restored, (self._arguments,)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.location!r})"

    def _path(self, key: Key, name: str) -> str:
        return f"{self._prefix}{key.function}/{key.call}/{name}"

    def _refuse_links(self, path: str) -> None:
        """Raise NotADirectoryError if a local folder that leads to a path is a symbolic link."""
        if self._is_local:
            refuse_links(self._prefix[:-1], path[len(self._prefix) :].rpartition("/")[0])

    def _write(self, path: str, data: bytes) -> None:
        """Write a file, or replace it, in one step for its readers."""
        staged = f"{self._prefix}{_OWN}/aside/{self._token}-{os.getpid()}-{next(self._counter)}"
        for written in (path, staged):
            self._refuse_links(written)
        for attempt in range(_ATTEMPTS):
            try:
                for folder in (path, staged):
                    self._fs.makedirs(folder.rpartition("/")[0], exist_ok=True)
                self._fs.pipe_file(staged, data)
                self._move(staged, path)
                return
            except BaseException as error:
                self._remove(staged)
                # Both errors occur when another process removes a folder meanwhile.
                if not isinstance(error, (FileNotFoundError, FileExistsError)) or attempt == _ATTEMPTS - 1:
                    raise

    def _read(self, path: str) -> bytes | None:
        """Return the content of a file, or None if there is none."""
        try:
            data: bytes = self._fs.cat_file(path)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        return data

    def _remove(self, path: str) -> None:
        """Remove a file, or a folder and its content. Of a link, remove the link and not its target."""
        try:
            self._refuse_links(path)
        except NotADirectoryError:
            return
        if self._is_local and os.path.islink(path):
            os.unlink(path)
            return
        for _ in range(_ATTEMPTS):
            try:
                self._fs.rm(path, recursive=True)
                return
            except FileNotFoundError:
                return
            except OSError:  # another process has written into the folder meanwhile
                continue

    def load(self, key: Key, mmap_mode: str | None = None) -> Any:
        path, data = self._value(key)
        if not path.endswith(_OUTPUT):
            return self._load_formatted(key, path, data)
        try:
            value = rebuilt(data)
            if value is OTHER:
                value = load(io.BytesIO(data))
        except Exception as error:
            if self._read(path) != data:  # another process has replaced the value
                return self.load(key)
            self.discard(key)
            warn_unreadable(path, error)
            raise KeyError(key) from None
        self._uses[key] = time.time()
        return value

    def _load_formatted(self, key: Key, path: str, data: bytes) -> Any:
        try:
            value = decoded(path, data)
        except CorruptFile as error:
            self._remove(path)
            warn_unreadable(path, error)
            raise KeyError(key) from None
        self._uses[key] = time.time()
        return value

    def _value(self, key: Key) -> tuple[str, bytes]:
        """Return the path and the content of the file of a value. Raise KeyError if there is none."""
        path = self._path(key, _OUTPUT)
        data = self._read(path)
        if data is None:
            path = self._path(key, value_among(self._names(key)) or _OUTPUT)
            data = self._read(path)
            if data is None:
                raise KeyError(key)
        return path, data

    def _names(self, key: Key) -> list[str]:
        """Return the names of the files of an entry."""
        try:
            return [path.rpartition("/")[2] for path in self._fs.ls(self._path(key, ""), detail=False)]
        except (FileNotFoundError, NotADirectoryError):
            return []

    def save(self, key: Key, value: Any, meta: Meta) -> None:
        name, data = self._encoded(value, meta.format)
        metadata = meta.as_json()
        limits = self._limits
        if limits is not None:
            nbytes = len(metadata) + len(data)
            if limits.exclude(nbytes):
                warn_too_large(key.function, nbytes)
                return
        self._write(self._path(key, _METADATA), metadata)
        self._write(self._path(key, name), data)
        for other in self._names(key):
            if is_value(other) and other != name:
                self._remove(self._path(key, other))
        self._uses[key] = time.time()
        if limits is not None:
            self.reduce(limits)

    def _encoded(self, value: Any, format: str) -> tuple[str, bytes]:
        """Return the name and the content of the file of a value."""
        if format != PICKLE:
            return encoded(value, format)
        file = io.BytesIO()
        if type(value) is ValueFile:
            value.copy_to(file)
        else:
            write(value, file, self._compression)
        return _OUTPUT, file.getvalue()

    def save_file(self, key: Key, file: BinaryIO, meta: Meta) -> None:
        self.save(key, ValueFile(file), meta)

    def contains(self, key: Key) -> bool:
        return bool(self._fs.exists(self._path(key, _OUTPUT))) or value_among(self._names(key)) is not None

    def meta(self, key: Key) -> Meta:
        try:
            return Meta.from_json(self._read(self._path(key, _METADATA)) or b"")
        except (ValueError, TypeError, KeyError):
            raise KeyError(key) from None

    def open_value(self, key: Key) -> BinaryIO:
        path, data = self._value(key)
        file = _Contents(data)
        file.name = path
        return file

    def discard(self, key: Key) -> None:
        if is_key(key):
            self._remove(f"{self._prefix}{key.function}/{key.call}")

    def clear(self, function: str | None = None) -> None:
        if function is not None:
            self._remove(self._prefix + function)
            return
        try:
            found = self._fs.ls(self._prefix, detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return
        for path in found:
            if not path.rstrip("/").rpartition("/")[2].startswith("."):
                self._remove(path)

    def reduce(self, limits: Limits) -> None:
        for entry in excess_of(self.entries(), limits):
            self.discard(entry.key)

    def entries(self) -> Iterator[Entry]:
        try:
            found = self._fs.find(self._prefix, detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return
        sizes: dict[Key, int] = {}
        written: dict[Key, float] = {}
        for path, about in found.items():
            function, _, call = path[len(self._prefix) - len(path) :].rpartition("/")[0].rpartition("/")
            key, name = Key(function, call), path.rpartition("/")[2]
            if function and not function.startswith(_OWN) and name != _SOURCE:
                sizes[key] = sizes.get(key, 0) + int(about.get("size") or 0)
                if is_value(name):
                    written[key] = _time_of_writing(about)
        for key, when in written.items():
            if is_key(key):
                yield Entry(key, sizes[key], max(when, self._uses.get(key, 0.0)))

    def source(self, function: str) -> str | None:
        data = self._read(f"{self._prefix}{function}/{_SOURCE}")
        return None if data is None else data.decode("utf-8", "replace")

    def keep_source(self, function: str, source: str) -> None:
        self._write(f"{self._prefix}{function}/{_SOURCE}", source.encode())

    def lease(self, key: Key) -> AbstractContextManager[bool]:
        return self._leases.lease(key)


def _restored(arguments: dict[str, Any]) -> FsspecStore:
    return FsspecStore(**arguments)


def _time_of_writing(about: dict[str, Any]) -> float:
    """Return when a file was written, in seconds since the epoch; 0.0 if its file system does not tell."""
    for name in ("mtime", "LastModified", "last_modified", "updated", "created"):
        when = about.get(name)
        if hasattr(when, "timestamp"):
            return float(when.timestamp())  # type: ignore[union-attr]
        if isinstance(when, (int, float)):
            return float(when)
    return 0.0
