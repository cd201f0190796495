"""``Memory``: the location of results, and the options for saving them.

::

    Memory ── cache(f) ──> MemorizedFunc, which finds, computes and saves the results of f
           ── get, put ──> the same for the calls of a run, Parallel(memory=)
           ── clear, reduce_size; info, entries, prune, verify ... (_contents) ──> the whole store
"""

from __future__ import annotations

import collections
import datetime
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from shoal._hints import hint
from shoal._tracebacks import warn
from shoal.errors import ArgumentError
from shoal.hashing import register_hasher
from shoal.memory._cached import BoundMemorizedFunc, MemorizedFunc, NotMemorizedFunc
from shoal.memory._calls import ABSENT
from shoal.memory._changes import Sources
from shoal.memory._checks import checked_options, checked_verbose
from shoal.memory._contents import Contents
from shoal.memory._results import Counts
from shoal.memory._runs import Call, RunCalls
from shoal.memory.key._identity import HASH_NAMES
from shoal.memory.store import Limits, Store, create, location_of

if TYPE_CHECKING:
    from typing_extensions import Self

#: How many functions a run keeps while it reads its calls; they may hold large arguments.
_MOST_FUNCTIONS = 16


class Memory(Contents):
    """Saves the results of functions on disk, so that no call is computed twice.

    Parameters
    ----------
    location : str, os.PathLike, Store or None
        The location of the results. If it is a string, they are in its folder "joblib", where joblib looks for them. If
        it is a ``pathlib.Path``, they are in the folder itself. With None, nothing is saved.
    backend : str
        The kind of store: "local", "fsspec", or a name registered by :func:`register_store_backend`.
    mmap_mode : {None, "r+", "r", "w+", "c"}
        How arrays in results are mapped.
    compress : bool, int or (str, int)
        How results are compressed, as for :func:`shoal.dump`.
    verbose : int
        How much is printed: nothing at 0, each computed call from 1 on, also each loaded call above 4, and also the
        location of results and why each was computed above 10.
    backend_options : dict, optional
        Further options of the store.
    hash_name : {"xxh3_128", "md5"}
        The algorithm of keys. "md5" makes joblib's keys, so that joblib and shoal find each other's results in the same
        folder. It is slower, and its keys do not cover the closure of a function.
    compute_once : bool
        Whether, of several threads and processes that miss the same result, one computes it and the others wait.
    bytes_limit : int or str, optional
        The largest size of all results, in bytes or as text such as ``"10G"``. When a result is saved, the results that
        were used least recently are removed.
    items_limit : int, optional
        The largest number of results.
    age_limit : datetime.timedelta, optional
        How long a result may stay unused.
    keep_arguments : bool
        Whether arguments are saved with each result, as short texts.

    Attributes
    ----------
    location
        The location as it was passed.
    store_backend : Store or None
        The store.

    Raises
    ------
    ValueError
        If `hash_name` or `mmap_mode` is unknown, or a limit is negative.
    TypeError
        If `backend` is unknown, or an argument has a wrong type.

    Notes
    -----
    Safe to use from several threads. A pickled Memory opens the same location where it is unpickled.

    A Memory with limits keeps a file open, and Windows does not remove its folder meanwhile. ``with Memory(...)``
    closes the file at the end of the block, like :meth:`close`.

    Examples
    --------
    >>> import tempfile
    >>> from shoal import Memory
    >>> memory = Memory(tempfile.mkdtemp(), verbose=0)
    >>> @memory.cache
    ... def double(x):
    ...     print("computing")
    ...     return 2 * x
    >>> double(3), double(3)
    computing
    (6, 6)
    """

    def __init__(
        self,
        location: Any = None,
        backend: str = "local",
        mmap_mode: str | None = None,
        compress: Any = False,
        verbose: int = 1,
        backend_options: dict[str, Any] | None = None,
        *,
        hash_name: str = "xxh3_128",
        compute_once: bool = True,
        bytes_limit: int | str | None = None,
        items_limit: int | None = None,
        age_limit: datetime.timedelta | None = None,
        keep_arguments: bool = True,
    ) -> None:
        super().__init__()
        if hash_name not in HASH_NAMES:
            known = f"use {' or '.join(HASH_NAMES)}{hint(hash_name, HASH_NAMES)}"
            raise ValueError(f"hash_name={hash_name!r} is not an algorithm of keys: {known}")
        if compress and mmap_mode is not None:
            warn("Compressed results cannot be memmapped", UserWarning)
        self._verbose: int = checked_verbose(verbose)
        self.compress: Any = compress
        self.mmap_mode: str | None = self._checked_mmap_mode(mmap_mode)
        self.timestamp: float | None = time.time()
        self.location: Any = location
        self.backend: str = backend
        self.backend_options: dict[str, Any] = checked_options(backend_options)
        self.hash_name: str = hash_name
        self.compute_once: bool = compute_once
        self.keep_arguments: bool = keep_arguments
        self.limits: Limits = Limits.checked(bytes_limit, items_limit, age_limit)
        self._open()

    def _open(self) -> None:
        self.store_backend: Store | None = self._make_store()
        self._counts: dict[str, Counts] = {}
        self._run_calls = RunCalls()

    def _make_store(self) -> Store | None:
        location = os.path.join(self.location, "joblib") if isinstance(self.location, str) else self.location
        return create(
            self.backend,
            location,
            compress=self.compress,
            mmap_mode=self.mmap_mode,
            verbose=self._verbose or None,
            limits=None if self.limits == Limits() else self.limits,
            **self.backend_options,
        )

    def clear(self, warn: bool = True) -> None:
        """Remove all results.

        Parameters
        ----------
        warn
            Whether to log it.
        """
        if warn:
            self.warn("Flushing completely the cache")
        if self.store_backend is not None:
            self.store_backend.clear()
            Sources.of(self.store_backend).reset()

    def reduce_size(
        self,
        bytes_limit: int | str | None = None,
        items_limit: int | None = None,
        age_limit: datetime.timedelta | None = None,
    ) -> None:
        """Remove results until the rest is within limits, least recently used first.

        Parameters
        ----------
        bytes_limit : int or str, optional
            The largest size of all results, in bytes or as text such as ``"10G"``.
        items_limit : int, optional
            The largest number of results.
        age_limit : datetime.timedelta, optional
            How long a result may stay unused.

        Raises
        ------
        ValueError
            If a limit is negative.
        """
        limits = Limits.checked(bytes_limit, items_limit, age_limit)
        if self.store_backend is not None and limits != Limits():
            self.store_backend.reduce(limits)

    def close(self) -> None:
        """Close the files that are open between calls, so that Windows lets the folder be removed.

        This Memory and its functions can be used again: they open the files when they need them.
        """
        if self.store_backend is not None:
            self.store_backend.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def get(self, call: Call, default: Any = None) -> Any:
        """Return the saved result of a call ``(function, args, kwargs)``, or `default`, for ``Parallel(memory=)``."""
        function, args, kwargs = call
        memorized = self._memorized(function)
        if memorized is None:
            return default
        try:
            key = memorized._key(args, kwargs)
        except ArgumentError:  # the call itself will raise it
            return default
        value = ABSENT if key is None else memorized._load(key, args, kwargs)
        if value is not ABSENT:
            return value
        self._run_calls.expect(call, key)
        return default

    def put(self, call: Call, value: Any) -> None:
        """Save the result of a call, under the key that the call had when :meth:`get` was called with it."""
        function, args, kwargs = call
        memorized = self._memorized(function)
        key = self._run_calls.key_of(call)
        if memorized is not None and key is not None:
            memorized._save_foreign(key, value, args, kwargs)

    def reader(self) -> Callable[[Call, Any], Any]:
        """Return a :meth:`get` for one run. It keeps the functions of the run's calls until the run drops it."""
        recent: collections.deque[MemorizedFunc | None] = collections.deque(maxlen=_MOST_FUNCTIONS)

        def get(call: Call, default: Any = None) -> Any:
            memorized = self._memorized(call[0])
            if memorized not in recent:
                recent.append(memorized)
            return self.get(call, default)

        return get

    def _memorized(self, function: Any) -> MemorizedFunc | None:
        """Return the cached form of a run's function; None if its results are not saved, or it saves them itself."""
        if self.store_backend is None or isinstance(function, (MemorizedFunc, BoundMemorizedFunc, NotMemorizedFunc)):
            return None
        functions = self._run_calls.functions
        # The cached form refers to the function, so no other function has this id.
        known: MemorizedFunc | None = functions.get(id(function))
        if known is None:
            known = functions[id(function)] = self.cache(function, verbose=0)
        return known

    def __repr__(self) -> str:
        store = self.store_backend
        return f"{type(self).__name__}(location={None if store is None else location_of(store)})"

    def __getstate__(self) -> dict[str, Any]:
        # Without open files, and without the time: objects that refer to it must keep their hash.
        state = {**self.__dict__, "timestamp": None}
        for name in ("store_backend", "_counts", "_run_calls"):
            state.pop(name, None)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()


def _hashed_as(memory: Memory) -> Any:
    return str(memory.location), memory.backend


register_hasher(Memory, _hashed_as)
