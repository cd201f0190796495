"""A store on anything that fsspec reaches, in the same layout. Needs the extra ``fsspec``.

What is written goes to a name of its own and then takes the place of the old one: on a file system by a rename, on an
object store by a copy, which is as good. An entry is there when its value is, which comes last.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import secrets
import time
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

from shoal._tracebacks import warn
from shoal.errors import CacheWarning
from shoal.memory._eviction import excess
from shoal.memory._leases import Leases
from shoal.memory._places import METADATA as _METADATA
from shoal.memory._places import OUTPUT as _OUTPUT
from shoal.memory._places import OWN as _OWN
from shoal.memory._places import SOURCE as _SOURCE
from shoal.memory._places import is_key, refuse_links
from shoal.memory.store import Entry, Key, Limits, Meta, Store
from shoal.persistence._dump import compression_of, write
from shoal.persistence._load import load
from shoal.persistence.reading._small import OTHER, rebuilt

_ATTEMPTS = 5


class FsspecStore(Store):
    """Keeps results where fsspec can write to.

    Parameters
    ----------
    location : str
        The folder, with its protocol: ``"s3://bucket/cache"``. Without one it is a folder of this machine.
    compress : bool, int, str or tuple, default False
        How values are compressed, as for :func:`shoal.dump`.
    mmap_mode : None
        Nothing is mapped here; there is a warning if that is wanted.
    limits : Limits, optional
        What it may hold. Each write lists all entries then: for a small number of large ones.
    verbose : int, default 0
        Not used.
    **storage_options
        What the file system takes, such as credentials.

    Notes
    -----
    Thread-safe. Threads compute a result once, processes each for itself: such places have no locks. When an entry was
    used is known for this process and this store alone.
    """

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
        from fsspec.core import url_to_fs
        from fsspec.implementations.local import LocalFileSystem

        if mmap_mode is not None:
            warnings.warn("Items cannot be memmapped in an fsspec store: they are read.", UserWarning, stacklevel=2)
        self._arguments = {"location": location, "compress": compress, "limits": limits, **storage_options}
        self._compression = compression_of(compress, "")
        self._limits = limits
        self._fs, root = url_to_fs(os.fspath(location), **storage_options)
        # Listings are not remembered: others write too.
        self._fs.use_listings_cache = False
        # Where a local file cannot be renamed, its folder having just been removed, fsspec would copy it, in full view.
        self._has_links = isinstance(self._fs, LocalFileSystem)
        self._move: Any = os.replace if self._has_links else self._fs.mv
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

    # Files

    def _put(self, path: str, data: bytes) -> None:
        """Write a file that takes the place of the one that is there, as a whole."""
        part = f"{self._prefix}{_OWN}/aside/{self._token}-{os.getpid()}-{next(self._counter)}"
        if self._has_links:
            for written in (path, part):
                refuse_links(self._prefix[:-1], written[len(self._prefix) :].rpartition("/")[0])
        for attempt in range(_ATTEMPTS):
            try:
                for folder in (path, part):
                    self._fs.makedirs(folder.rpartition("/")[0], exist_ok=True)
                self._fs.pipe_file(part, data)
                self._move(part, path)
                return
            except BaseException as error:
                self._remove(part)
                # Both come of folders that others remove meanwhile.
                if not isinstance(error, (FileNotFoundError, FileExistsError)) or attempt == _ATTEMPTS - 1:
                    raise

    def _get(self, path: str) -> bytes | None:
        try:
            data: bytes = self._fs.cat_file(path)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        return data

    def _remove(self, path: str) -> None:
        """Remove a file, or a folder with what is in it; nothing that a link leads to."""
        if self._has_links:
            try:
                refuse_links(self._prefix[:-1], path[len(self._prefix) :].rpartition("/")[0])
            except NotADirectoryError:
                return
            if os.path.islink(path):
                os.unlink(path)
                return
        for _ in range(_ATTEMPTS):
            try:
                self._fs.rm(path, recursive=True)
                return
            except FileNotFoundError:
                return
            except OSError:  # something has come into the folder meanwhile
                continue

    # Values

    def load(self, key: Key, mmap_mode: str | None = None) -> Any:
        path = self._path(key, _OUTPUT)
        data = self._get(path)
        if data is None:
            raise KeyError(key)
        try:
            value = rebuilt(data)
            if value is OTHER:
                value = load(io.BytesIO(data))
        except Exception as error:
            if self._get(path) != data:  # another has taken its place
                return self.load(key)
            self.discard(key)
            warn(
                f"{path} cannot be read ({type(error).__name__}: {error}): it is discarded, and computed again",
                CacheWarning,
            )
            raise KeyError(key) from None
        self._uses[key] = time.time()
        return value

    def save(self, key: Key, value: Any, meta: Meta) -> None:
        file = io.BytesIO()
        write(value, file, self._compression)
        fields = {"duration": meta.duration, "input_args": meta.arguments, "time": meta.created}
        text = json.dumps(fields).encode()
        limits = self._limits
        if limits is not None:
            nbytes = len(text) + file.tell()
            if (limits.nbytes is not None and nbytes > limits.nbytes) or limits.items == 0:
                warn(
                    f"a result of {key.function} is not kept: its {nbytes} bytes are more than the limit of the cache "
                    "allows",
                    CacheWarning,
                )
                return
        self._put(self._path(key, _METADATA), text)
        self._put(self._path(key, _OUTPUT), file.getvalue())
        self._uses[key] = time.time()
        if limits is not None:
            self.reduce(limits)

    def contains(self, key: Key) -> bool:
        return bool(self._fs.exists(self._path(key, _OUTPUT)))

    def meta(self, key: Key) -> Meta:
        try:
            fields = json.loads(self._get(self._path(key, _METADATA)) or b"")
            return Meta(float(fields["duration"]), float(fields["time"]), dict(fields["input_args"]))
        except (ValueError, TypeError, KeyError):
            raise KeyError(key) from None

    # What goes, and what there is

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
        entries = sorted(self.entries(), key=lambda entry: entry.used)
        nbytes = sum(entry.nbytes for entry in entries)
        for entry in excess(entries, nbytes, len(entries), limits, time.time()):
            self.discard(entry.key)

    def entries(self) -> Iterator[Entry]:
        try:
            found = self._fs.find(self._prefix, detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return
        sizes: dict[Key, int] = {}
        written: dict[Key, float] = {}
        for path, about in found.items():
            function, _, rest = path[len(self._prefix) - len(path) :].rpartition("/")[0].rpartition("/")
            key, name = Key(function, rest), path.rpartition("/")[2]
            if function and not function.startswith(_OWN) and name != _SOURCE:
                sizes[key] = sizes.get(key, 0) + int(about.get("size") or 0)
                if name == _OUTPUT:
                    written[key] = _time_of(about)
        for key, when in written.items():
            if is_key(key):
                yield Entry(key, sizes[key], max(when, self._uses.get(key, 0.0)))

    # Sources

    def source(self, function: str) -> str | None:
        data = self._get(f"{self._prefix}{function}/{_SOURCE}")
        return None if data is None else data.decode("utf-8", "replace")

    def keep_source(self, function: str, source: str) -> None:
        self._put(f"{self._prefix}{function}/{_SOURCE}", source.encode())

    # Who computes

    def lease(self, key: Key) -> AbstractContextManager[bool]:
        return self._leases.lease(key)


def _restored(arguments: dict[str, Any]) -> FsspecStore:
    return FsspecStore(**arguments)


def _time_of(about: dict[str, Any]) -> float:
    """Return when a file was written, in seconds since the epoch, as far as its file system tells."""
    for name in ("mtime", "LastModified", "last_modified", "updated", "created"):
        when = about.get(name)
        if hasattr(when, "timestamp"):
            return float(when.timestamp())  # type: ignore[union-attr]
        if isinstance(when, (int, float)):
            return float(when)
    return 0.0
