"""The contract of a store of results, and the names under which users choose a store.

::

    Memory ──> Key ──> Store.load ──> the value            KeyError: there is no readable value under this key
                  └──> Store.lease ─> one caller computes ──> Store.save (all or nothing) ──> the others load

:func:`excess` selects the entries that a limit removes. Every store uses it.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from json.encoder import encode_basestring_ascii as encoded
from typing import Any, BinaryIO, ClassVar, NamedTuple

from shoal._hints import hint
from shoal._tracebacks import warn
from shoal.errors import CacheWarning
from shoal.memory._checks import checked_limits
from shoal.memory.formats import PICKLE


class Key(NamedTuple):
    """The key of one call.

    Attributes
    ----------
    function
        The path of the function's entries: parts with "/" between them, which joblib derives from the module and the
        name of the function.
    call
        A digest of the arguments. It is joblib's if it has 32 hexadecimal digits, and shoal's if "x" follows them.
    """

    function: str
    call: str


class Meta(NamedTuple):
    """The metadata of a value.

    Attributes
    ----------
    duration
        How long the call took, in seconds.
    created
        When the value was saved, in seconds since the epoch.
    arguments
        The arguments as texts of bounded length, by name.
    details
        What :meth:`~shoal.MemorizedFunc.explain` compares: the parts of the arguments, and digests of the sources, as
        JSON of a few kB at most. It may be empty.
    format
        The format in which the value is saved: "pickle", or one of ``shoal.memory.formats``.
    """

    duration: float
    created: float
    arguments: dict[str, str]
    details: str = ""
    format: str = PICKLE

    def as_json(self) -> bytes:
        """Return the content of the file metadata.json, as joblib lays it out."""
        arguments = ", ".join([f"{encoded(name)}: {encoded(text)}" for name, text in self.arguments.items()])
        details = f', "details": {self.details}' if self.details else ""
        if self.format != PICKLE:
            details += f', "format": {encoded(self.format)}'
        return (
            f'{{"duration": {self.duration}, "input_args": {{{arguments}}}, "time": {self.created}{details}}}'
        ).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Meta:
        """Read the content of the file metadata.json.

        Raises
        ------
        ValueError, TypeError, KeyError
            If it is damaged.
        """
        fields = json.loads(data)
        details = json.dumps(fields["details"]) if "details" in fields else ""
        duration, created, format = float(fields["duration"]), float(fields["time"]), fields.get("format", PICKLE)
        return cls(duration, created, dict(fields["input_args"]), details, str(format))


class Entry(NamedTuple):
    """A value in a store, without the value itself.

    Attributes
    ----------
    key
        Its key.
    nbytes
        Its size in bytes.
    used
        When it was last saved or loaded, in seconds since the epoch.
    """

    key: Key
    nbytes: int
    used: float


class Limits(NamedTuple):
    """The largest size of a store. None stands for no limit.

    Attributes
    ----------
    nbytes
        The largest size of all entries together, in bytes.
    items
        The largest number of entries.
    age
        How long an entry may stay unused, in seconds.
    """

    nbytes: int | None = None
    items: int | None = None
    age: float | None = None

    @classmethod
    def checked(cls, bytes_limit: Any, items_limit: Any, age_limit: Any) -> Limits:
        """Return the limits that a user passes; `bytes_limit` is a number of bytes or a text such as ``"10G"``.

        Raises
        ------
        ValueError
            If a limit is negative, or if `bytes_limit` is not a size.
        TypeError
            If `age_limit` is not a timedelta, or `items_limit` is not an int.
        """
        return cls(*checked_limits(bytes_limit, items_limit, age_limit))

    def exclude(self, nbytes: int) -> bool:
        """Return whether an entry of `nbytes` breaks the limits even if it is the only one."""
        return (self.nbytes is not None and nbytes > self.nbytes) or self.items == 0


def excess(oldest_first: Iterable[Entry], nbytes: int, items: int, limits: Limits, now: float) -> Iterator[Entry]:
    """Yield the entries that must be removed so that the rest is within limits. It is a pure function.

    Parameters
    ----------
    oldest_first
        All entries, least recently used first. Only the entries that must be removed are read, and one more.
    nbytes
        The size of all entries together, in bytes.
    items
        The number of all entries.
    limits
        The limits.
    now
        The current time, in seconds since the epoch.
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


def excess_of(entries: Iterable[Entry], limits: Limits) -> Iterator[Entry]:
    """Yield the entries that must be removed now so that the rest is within limits, least recently used first."""
    oldest_first = sorted(entries, key=lambda entry: entry.used)
    nbytes = sum(entry.nbytes for entry in oldest_first)
    return excess(oldest_first, nbytes, len(oldest_first), limits, time.time())


class Store(ABC):
    """The contract of a store. Subclass it, and :class:`shoal.testing.StoreTests`, to add a store of your own.

    Notes
    -----
    Every method must be safe to call from several threads and, if `shared` is true, from several processes: whatever
    runs at the same time, :meth:`load` returns a complete value that was saved under that key.
    """

    #: Whether other processes see the entries that this process saves.
    shared: ClassVar[bool] = True
    #: Whether :meth:`save` saves a value in the format that its metadata name. Otherwise all values are pickles.
    formats: ClassVar[bool] = False

    @abstractmethod
    def load(self, key: Key, mmap_mode: str | None = None) -> Any:
        """Return the value of a key, with its arrays mapped as `mmap_mode` says.

        Raises
        ------
        KeyError
            If there is no value, or if it cannot be read. An unreadable value is removed, with a warning.
        """

    @abstractmethod
    def save(self, key: Key, value: Any, meta: Meta) -> None:
        """Save a value and its metadata, completely or not at all.

        Raises
        ------
        Exception
            The error of pickle, or of the format that `meta` names, if it cannot hold the value. Nothing is saved then.
        OSError
            If there is no space or no permission. Nothing is saved then.
        """

    def save_file(self, key: Key, file: BinaryIO, meta: Meta) -> None:
        """Save a value as another store has saved it: as the file that its :meth:`open_value` returns.

        `meta` names the format of the file.

        Raises
        ------
        OSError
            As for :meth:`save`.
        NotImplementedError
            If values are not in files.
        """
        raise NotImplementedError(f"{type(self).__name__} does not take files of values")

    @abstractmethod
    def contains(self, key: Key) -> bool:
        """Return whether there is a value, without reading it."""

    @abstractmethod
    def meta(self, key: Key) -> Meta:
        """Return the metadata of a value.

        Raises
        ------
        KeyError
            If there are none.
        """

    def open_value(self, key: Key) -> BinaryIO:
        """Return the file of a value, open for reading, so that it can be checked without being rebuilt.

        This does not count as a use of the value. The caller closes the file. Its attribute ``name`` is the path, which
        tells the format. Without the attribute, the format is "pickle".

        Raises
        ------
        KeyError
            If there is no value.
        OSError
            If the file cannot be read.
        NotImplementedError
            If values are not in files.
        """
        raise NotImplementedError(f"{type(self).__name__} does not give access to the files of values")

    @abstractmethod
    def discard(self, key: Key) -> None:
        """Remove a value. Do nothing if there is none."""

    @abstractmethod
    def entries(self) -> Iterator[Entry]:
        """Yield all entries, in any order. Entries that are added or removed meanwhile may be missing."""

    def entries_of(self, function: str) -> Iterator[Entry]:
        """Yield the entries of one function, in any order."""
        return (entry for entry in self.entries() if entry.key.function == function)

    @abstractmethod
    def clear(self, function: str | None = None) -> None:
        """Remove all values and stored sources, or only those of one function."""

    @abstractmethod
    def source(self, function: str) -> str | None:
        """Return the stored source of a function, or None."""

    @abstractmethod
    def keep_source(self, function: str, source: str) -> None:
        """Store the source of a function."""

    def foreign(self, function: str) -> bool:
        """Return whether joblib may have saved results of a function here, under its own keys."""
        return False

    @abstractmethod
    def lease(self, key: Key) -> AbstractContextManager[bool]:
        """Return a context manager that lets one caller compute a value while the others wait for it.

        Entering returns True at once if no other caller has the lease, if the store cannot determine that, or if
        waiting would be a deadlock. The caller then computes and saves the value inside the block. Otherwise entering
        waits until the owner has released the lease or has died, and returns False. The caller then looks the value up
        again, and enters a new lease if there is none. If the owner's block raised, entering returns True to all
        waiting callers. If ``async with`` can enter it too, without blocking the event loop, coroutine functions do so.
        """

    @abstractmethod
    def reduce(self, limits: Limits) -> None:
        """Remove entries until the rest is within limits, least recently used first."""

    def close(self) -> None:  # noqa: B027
        """Close the files and connections that are open between calls. They are opened again when they are needed."""


def _make_builtin(module: str, name: str, location: Any, **options: Any) -> Store:
    """Return a store of shoal. Its module is imported here, because it imports this one."""
    factory: Callable[..., Store] = getattr(importlib.import_module(f"shoal.memory.storage.{module}"), name)
    return factory(location, **options)


_stores: dict[str, Callable[..., Store]] = {
    "local": functools.partial(_make_builtin, "_filestore", "FileStore"),
    "fsspec": functools.partial(_make_builtin, "_fsspecstore", "FsspecStore"),
}


def register_store_backend(backend_name: str, backend: Callable[..., Store]) -> None:
    """Register a store under a name, for ``Memory(backend=name)``.

    Parameters
    ----------
    backend_name : str
        The name.
    backend : callable
        A subclass of :class:`~shoal.memory.store.Store`, or a function that returns a store. It is called with the
        location, a string, and with the keywords `compress`, `mmap_mode`, `limits` and `verbose` as far as they are
        set, and with the options of ``Memory(backend_options=...)``.

    Raises
    ------
    ValueError
        If the name is not a string, or if `backend` is not callable.
    """
    if not isinstance(backend_name, str):
        raise ValueError(f"Store backend name should be a string, '{backend_name}' given.")
    if not callable(backend):
        raise ValueError(f"Store backend should be a class of stores, or a function that makes one, '{backend}' given.")
    _stores[backend_name] = backend


def create(backend: str, location: Any, **options: Any) -> Store | None:
    """Return the store at a location.

    Parameters
    ----------
    backend
        The name of the kind of store.
    location
        A string or a path; or a store, which is returned unchanged.
    **options
        Further arguments of the store. Options that are None, and ``compress=False``, are not passed on.

    Returns
    -------
    Store or None
        None if `location` is None, or if it is of another type, with a :class:`~shoal.CacheWarning`.

    Raises
    ------
    TypeError
        If no store has that name, or if the store does not accept an option.
    """
    if isinstance(location, Store):
        return location
    if location is None:
        return None
    if not isinstance(location, (str, os.PathLike)):
        warn(
            f"a {type(location).__name__} cannot be the location of a store, so no result will be saved. "
            "Pass a path as the location",
            CacheWarning,
        )
        return None
    path = os.path.expanduser(os.fspath(location))
    name: Any = backend
    if not isinstance(name, str) or name not in _stores:
        known = f"the known backends are {sorted(_stores)}{hint(backend, _stores)}"
        raise TypeError(f"Unknown location {path} or backend {backend}: {known}")
    given = {name: value for name, value in options.items() if value is not None and (value or name != "compress")}
    try:
        return _stores[backend](path, **given)
    except TypeError as error:
        unknown = [option for option in given if f"unexpected keyword argument {option!r}" in str(error)]
        if not unknown:
            raise
        message = f"the store {backend!r} does not accept the option {unknown[0]!r}: remove it from backend_options"
        raise TypeError(message) from None


def location_of(store: Store) -> str:
    """Return the location of a store as text."""
    return str(getattr(store, "location", store))
