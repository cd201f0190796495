"""A store on any file system that fsspec supports, in the same layout as on disk. It needs the extra ``fsspec``.

An entry exists when its value exists, so the value is written last. :mod:`._fsspecfiles` reads and writes the files.
"""

from __future__ import annotations

import errno
import io
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from typing import Any, BinaryIO, NoReturn

from shoal._tracebacks import warn
from shoal.errors import CorruptFile
from shoal.memory.formats import PICKLE
from shoal.memory.storage._fsspecfiles import FsspecFiles
from shoal.memory.storage._leases import Leases
from shoal.memory.storage._paths import METADATA, OUTPUT, OWN, SOURCE, is_key, is_value, value_among
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
        if mmap_mode is not None:
            warn("Items cannot be memmapped in an fsspec store: they are read.", UserWarning)
        self._arguments = {"location": location, "compress": compress, "limits": limits, **storage_options}
        self._compression = compression_of(compress, "")
        self._limits = limits
        self._files = FsspecFiles(os.fspath(location), storage_options)
        self.location = os.fspath(location)
        self._leases = Leases(None)
        self._uses: dict[Key, float] = {}

    def __reduce__(self) -> Any:
        return _restored, (self._arguments,)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.location!r})"

    def _path(self, key: Key, name: str = "") -> str:
        return f"{self._files.prefix}{key.function}/{key.call}/{name}"

    def _value_name(self, key: Key) -> str | None:
        return value_among(self._files.names(self._path(key)))

    def load(self, key: Key, mmap_mode: str | None = None) -> Any:
        for _ in range(_ATTEMPTS):
            path, data = self._value(key)
            try:
                value = _rebuilt(path, data)
            except (MemoryError, Warning):  # a warning about versions, where warnings are errors
                raise
            except Exception as error:
                if not (path.endswith(OUTPUT) or isinstance(error, CorruptFile)):
                    raise  # the file is sound, but its format cannot be read here
                if self._files.read(path) == data:
                    self._report_unreadable(key, path, error)
                # Otherwise another process has replaced the value, or it was damaged on its way.
            else:
                self._uses[key] = time.time()
                return value
        raise OSError(errno.EIO, f"it was read {_ATTEMPTS} times, each time damaged in another way", path)

    def _report_unreadable(self, key: Key, path: str, error: Exception) -> NoReturn:
        """Remove the file of a value that cannot be read."""
        with suppress(OSError):
            self._files.remove(path)
        warn_unreadable(path, error)
        raise KeyError(key) from None

    def _value(self, key: Key) -> tuple[str, bytes]:
        """Return the path and the content of the file of a value. Raise KeyError if there is none."""
        path = self._path(key, OUTPUT)
        data = self._files.read(path)
        if data is None:
            path = self._path(key, self._value_name(key) or OUTPUT)
            data = self._files.read(path)
            if data is None:
                raise KeyError(key)
        return path, data

    def save(self, key: Key, value: Any, meta: Meta) -> None:
        name, data = self._encoded(value, meta.format)
        metadata = meta.as_json()
        limits = self._limits
        if limits is not None:
            nbytes = len(metadata) + len(data)
            if limits.exclude(nbytes):
                warn_too_large(key.function, nbytes)
                return
        self._files.write(self._path(key, METADATA), metadata)
        self._files.write(self._path(key, name), data)
        for other in self._files.names(self._path(key)):
            if is_value(other) and other != name:
                self._files.remove(self._path(key, other))
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
        return OUTPUT, file.getvalue()

    def save_file(self, key: Key, file: BinaryIO, meta: Meta) -> None:
        self.save(key, ValueFile(file), meta)

    def contains(self, key: Key) -> bool:
        return self._value_name(key) is not None

    def meta(self, key: Key) -> Meta:
        try:
            return Meta.from_json(self._files.read(self._path(key, METADATA)) or b"")
        except (ValueError, TypeError, KeyError):
            raise KeyError(key) from None

    def open_value(self, key: Key) -> BinaryIO:
        path, data = self._value(key)
        file = _Contents(data)
        file.name = path
        return file

    def discard(self, key: Key) -> None:
        if is_key(key):
            self._files.remove(self._path(key)[:-1])

    def clear(self, function: str | None = None) -> None:
        if function is not None:
            self._files.remove(self._files.prefix + function)
            return
        for name in self._files.names(self._files.prefix):
            if not name.startswith("."):
                self._files.remove(self._files.prefix + name)

    def reduce(self, limits: Limits) -> None:
        for entry in excess_of(self.entries(), limits):
            self.discard(entry.key)

    def entries(self) -> Iterator[Entry]:
        sizes: dict[Key, int] = {}
        written: dict[Key, float] = {}
        for path, about in self._files.find().items():
            folder, _, name = path.rpartition("/")
            key = Key(*folder.rpartition("/")[::2])
            if key.function and not key.function.startswith(OWN) and name != SOURCE:
                sizes[key] = sizes.get(key, 0) + int(about.get("size") or 0)
                if is_value(name):
                    written[key] = _time_of_writing(about)
        for key, when in written.items():
            if is_key(key):
                yield Entry(key, sizes[key], max(when, self._uses.get(key, 0.0)))

    def source(self, function: str) -> str | None:
        data = self._files.read(f"{self._files.prefix}{function}/{SOURCE}")
        return None if data is None else data.decode("utf-8", "replace")

    def keep_source(self, function: str, source: str) -> None:
        self._files.write(f"{self._files.prefix}{function}/{SOURCE}", source.encode())

    def lease(self, key: Key) -> AbstractContextManager[bool]:
        return self._leases.lease(key)


def _rebuilt(path: str, data: bytes) -> Any:
    """Return the value in the file at a path."""
    if not path.endswith(OUTPUT):
        return decoded(path, data)
    value = rebuilt(data)
    return load(io.BytesIO(data)) if value is OTHER else value


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
