"""Where results are kept: the contract of a store, and the stores that are known by a name.

::

    Memory ──> Key ──> Store.load ──> the value             KeyError: not there, or not readable
                  └──> Store.lease ─> one computes ──> Store.save (all or nothing) ──> the others load
"""

from __future__ import annotations

import importlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, ClassVar, NamedTuple

from shoal._tracebacks import warn
from shoal.errors import CacheWarning


class Key(NamedTuple):
    """What a result is kept under.

    Attributes
    ----------
    function
        Where the results of its function are: parts of a path with "/" between them, as joblib makes them of the
        module and the name.
    call
        A digest of the arguments: 32 hexadecimal digits where it is joblib's, and an "x" behind them where it is not.
    """

    function: str
    call: str


class Meta(NamedTuple):
    """What is kept with a result.

    Attributes
    ----------
    duration
        The seconds that the call took.
    created
        When the result was saved, in seconds since the epoch.
    arguments
        The arguments, by name, as text of bounded length.
    """

    duration: float
    created: float
    arguments: dict[str, str]


class Entry(NamedTuple):
    """A result that is there.

    Attributes
    ----------
    key
        Its key.
    nbytes
        What it takes.
    used
        When it was last saved or loaded, in seconds since the epoch.
    """

    key: Key
    nbytes: int
    used: float


class Limits(NamedTuple):
    """What a store may hold; None for no limit.

    Attributes
    ----------
    nbytes
        Bytes of all entries.
    items
        Their number.
    age
        The seconds since an entry was last used.
    """

    nbytes: int | None = None
    items: int | None = None
    age: float | None = None


class Store(ABC):
    """Keeps results.

    Notes
    -----
    Thread-safe, and safe between processes: what :meth:`load` returns is always a whole value that was saved under that
    key, whatever else goes on.
    """

    #: Whether other processes see what is saved.
    shared: ClassVar[bool] = True

    @abstractmethod
    def load(self, key: Key, mmap_mode: str | None = None) -> Any:
        """Return a value.

        Raises
        ------
        KeyError
            If there is none, or none that can be read: that is then discarded, with a warning.
        """

    @abstractmethod
    def save(self, key: Key, value: Any, meta: Meta) -> None:
        """Keep a value, all of it or nothing.

        Raises
        ------
        Exception
            Whatever pickle raises for a value that cannot be pickled; nothing is kept then.
        OSError
            If there is no room, or no permission; nothing is kept then.
        """

    @abstractmethod
    def contains(self, key: Key) -> bool:
        """Tell whether there is a value, without reading it."""

    @abstractmethod
    def meta(self, key: Key) -> Meta:
        """Return what was kept with a value.

        Raises
        ------
        KeyError
            If there is none.
        """

    @abstractmethod
    def discard(self, key: Key) -> None:
        """Remove a value, if there is one."""

    @abstractmethod
    def entries(self) -> Iterator[Entry]:
        """Yield what is there, in any order; what comes and goes meanwhile may be left out."""

    @abstractmethod
    def clear(self, function: str | None = None) -> None:
        """Remove all values, those of one function if that is given, and what is kept of its source."""

    @abstractmethod
    def source(self, function: str) -> str | None:
        """Return the source that was kept of a function; None if there is none."""

    @abstractmethod
    def keep_source(self, function: str, source: str) -> None:
        """Keep the source of a function."""

    def foreign(self, function: str) -> bool:
        """Tell whether there may be results of a function that joblib has kept, under the keys that it makes."""
        return False

    @abstractmethod
    def lease(self, key: Key) -> AbstractContextManager[bool]:
        """Be the one who computes a value, as long as the block runs.

        It gives True at once if nobody else has the lease, nobody can tell, or to wait would be to wait for oneself.
        Else it waits until the other has given it back, or has died, and gives False: the value may be there now, and
        who finds none asks again. If the block of the other has raised, it gives True to all who have waited.
        """

    @abstractmethod
    def reduce(self, limits: Limits) -> None:
        """Discard what goes beyond limits, least recently used first."""


class _Lazy:
    """The factory of a store of ours, imported when it is first called."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name

    def __call__(self, location: Any, **options: Any) -> Store:
        factory: Callable[..., Store] = getattr(importlib.import_module(self.module), self.name)
        return factory(location, **options)


_stores: dict[str, Callable[..., Store]] = {
    "local": _Lazy("shoal.memory._filestore", "FileStore"),
    "fsspec": _Lazy("shoal.memory._fsspecstore", "FsspecStore"),
}


def register_store_backend(backend_name: str, backend: Callable[..., Store]) -> None:
    """Make a store known by a name.

    Parameters
    ----------
    backend_name : str
        What ``Memory(backend=...)`` will take.
    backend : callable
        Called with the location, a string, and by keyword `compress`, `mmap_mode`, `limits`, `verbose` and
        what ``Memory(backend_options=...)`` was given, as far as they say something; returns a
        :class:`~shoal.memory.store.Store`. A class of stores is one.

    Raises
    ------
    ValueError
        If the name is no string, or the other cannot be called.
    """
    if not isinstance(backend_name, str):
        raise ValueError(f"Store backend name should be a string, '{backend_name}' given.")
    if not callable(backend):
        raise ValueError(f"Store backend should be a class of stores, or a function that makes one, '{backend}' given.")
    _stores[backend_name] = backend


def create(backend: str, location: Any, **options: Any) -> Store | None:
    """Return a store at a location; a store is one already.

    Parameters
    ----------
    backend
        The name of the store.
    location
        A string or a path, as the store takes it.
    **options
        Other arguments that it takes. Those that are None, and `compress` if it is False, are left out.

    Returns
    -------
    The store; None if `location` is None, or, with a warning, if it is something else.

    Raises
    ------
    TypeError
        If no store has that name, or it does not take an option.
    """
    if isinstance(location, Store):
        return location
    if location is None:
        return None
    if not isinstance(location, (str, os.PathLike)):
        warn(
            f"a {type(location).__name__} cannot be the location of a store: nothing is kept. Give a path",
            CacheWarning,
        )
        return None
    path = os.path.expanduser(os.fspath(location))
    name: Any = backend
    if not isinstance(name, str) or name not in _stores:
        raise TypeError(f"Unknown location {path} or backend {backend}: there are {sorted(_stores)}")
    given = {name: value for name, value in options.items() if value is not None}
    if not given.get("compress", True):
        del given["compress"]
    try:
        return _stores[backend](path, **given)
    except TypeError as error:
        unknown = [option for option in given if f"unexpected keyword argument {option!r}" in str(error)]
        if not unknown:
            raise
        raise TypeError(
            f"the store {backend!r} takes no option {unknown[0]!r}: leave it out of backend_options"
        ) from None


def location_of(store: Store) -> str:
    """Return where a store is, as text."""
    return str(getattr(store, "location", store))
