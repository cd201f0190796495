"""Memory: where results are kept, and how."""

from __future__ import annotations

import collections
import datetime
import functools
import inspect
import os
import time
import types
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from shoal._tracebacks import warn
from shoal.errors import ArgumentError
from shoal.hashing import register_hasher
from shoal.memory._bound import BoundMemorizedFunc
from shoal.memory._cached import ABSENT, MemorizedFunc
from shoal.memory._changes import Sources
from shoal.memory._checks import checked_depends, checked_mmap_mode, checked_options, checked_verbose, limits_of
from shoal.memory._identity import HASH_NAMES
from shoal.memory._info import Counts, MemoryInfo
from shoal.memory._results import MemorizedResult
from shoal.memory._uncached import AsyncNotMemorizedFunc, NotMemorizedFunc
from shoal.memory.store import Key, Limits, Store, create, location_of
from shoal.observe._logger import Logger

#: Keys of calls that `Memory.get` was asked for and whose results are awaited.
_AWAITED = 100_000
#: Functions whose cached forms a run remembers while it reads its calls; they may hold large arguments.
_FUNCTIONS = 16


class Memory(Logger):
    """Keeps the results of functions on disk, so that no call is computed twice.

    Parameters
    ----------
    location : str, os.PathLike, Store or None
        Where. In the folder that a string names, a folder "joblib" is made, since joblib looks there; a
        ``pathlib.Path`` is taken as it is. With None nothing is kept.
    backend : str
        The kind of store: "local", or what :func:`register_store_backend` has registered.
    mmap_mode : {None, "r+", "r", "w+", "c"}
        How arrays in results are mapped.
    compress : bool, int or (str, int)
        How results are compressed, as for :func:`shoal.dump`.
    verbose : int
        What is printed: 0 nothing, 1 each call that is computed, above 4 those that are not, above 10 where.
    backend_options : dict, optional
        For the store.
    hash_name : {"xxh3_128", "md5"}
        What keys are made by. "md5" makes joblib's, so that joblib and shoal find each other's results in the same
        folder; it is slower, and says nothing of a function's closure.
    compute_once : bool
        Whether, of several threads and processes that miss a result at a time, one computes it and the others wait.
    bytes_limit : int or str, optional
        The bytes that all results may take: a number, or ``"10G"``. What was used least recently goes first, as results
        are written.
    items_limit : int, optional
        How many there may be.
    age_limit : datetime.timedelta, optional
        How long one may lie unused.
    keep_arguments : bool
        Whether the arguments are kept, as short texts, with each result.

    Attributes
    ----------
    location
        As it was given.
    store_backend : Store or None
        The store.

    Notes
    -----
    Safe to use from several threads. It can be pickled, and opens the same place where it is unpickled.

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
            raise ValueError(f"hash_name={hash_name!r} makes no keys: choose one of {', '.join(HASH_NAMES)}")
        if compress and mmap_mode is not None:
            warn("Compressed results cannot be memmapped", UserWarning)
        self._verbose, self.compress = checked_verbose(verbose), compress
        self.mmap_mode = self._mmap_mode(mmap_mode)
        self.timestamp: float | None = time.time()
        self.location, self.backend, self.backend_options = location, backend, checked_options(backend_options)
        self.hash_name, self.compute_once, self.keep_arguments = hash_name, compute_once, keep_arguments
        self.limits = limits_of(bytes_limit, items_limit, age_limit)
        self._open()

    def _open(self) -> None:
        self.store_backend: Store | None = self._make_store()
        self._counts: dict[str, Counts] = {}
        # Cached forms of functions, as long as somebody has them: by identity, since equal ones may do other things.
        self._functions: weakref.WeakValueDictionary[int, MemorizedFunc] = weakref.WeakValueDictionary()
        self._awaited: dict[tuple[int, int, int], Key | None] = {}

    @staticmethod
    def _mmap_mode(mmap_mode: Any) -> str | None:
        return checked_mmap_mode(mmap_mode)

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

    @staticmethod
    def _kind(is_async: bool) -> type[MemorizedFunc]:
        """Return the class of cached functions."""
        if is_async:
            from shoal.memory._async import AsyncMemorizedFunc

            return AsyncMemorizedFunc
        return MemorizedFunc

    def cache(
        self,
        func: Any = None,
        ignore: list[str] | None = None,
        verbose: int | None = None,
        mmap_mode: Any = False,
        cache_validation_callback: Callable[[dict[str, Any]], Any] | None = None,
        *,
        version: Any = None,
        depends: Iterable[Any] = (),
    ) -> Any:
        """Make a function one whose results are kept.

        Parameters
        ----------
        func : callable, optional
            The function; without it, a decorator is returned. It may be one of a class, a ``staticmethod`` or a
            ``classmethod``, a ``functools.partial``, something compiled, or an object that can be called.
        ignore : list of str, optional
            Parameters that do not count; "*" and "**" for further positional and keyword arguments.
        verbose : int, optional
            In place of this Memory's.
        mmap_mode : {None, "r+", "r", "w+", "c"}, optional
            In place of this Memory's.
        cache_validation_callback : callable, optional
            Given what is kept with a result (a dict of "duration", "input_args", "time"); when it returns what is
            false, the result is computed again. See :func:`expires_after`.
        version : object, optional
            What results depend on in place of the function's source: changes of the source do not count, and those
            of another version stay.
        depends : iterable
            Functions, classes and modules; when the source of one changes, results are computed again. Of a
            cached function, what it depends on counts too.

        Returns
        -------
        MemorizedFunc
            Or a :class:`NotMemorizedFunc`, where there is no location; of coroutine functions their async kinds.

        Raises
        ------
        TypeError
            If `func` is not callable, or another argument of a wrong type.
        ValueError
            If `ignore` names what is no parameter, `mmap_mode` is none, or the callback cannot be called.
        """
        if cache_validation_callback is not None and not callable(cache_validation_callback):
            raise ValueError(f"cache_validation_callback needs to be callable. Got {cache_validation_callback}.")
        options: dict[str, Any] = {
            "ignore": ignore,
            "verbose": None if verbose is None else checked_verbose(verbose),
            "mmap_mode": mmap_mode if mmap_mode is False else self._mmap_mode(mmap_mode),
            "cache_validation_callback": cache_validation_callback,
            "version": version,
            "depends": checked_depends(depends),
        }
        if func is None:
            return functools.partial(self.cache, **options)
        if isinstance(func, classmethod):
            return classmethod(self.cache(func.__func__, **options))
        if isinstance(func, BoundMemorizedFunc):
            func = types.MethodType(func.__func__.func, func.__self__)
        elif isinstance(func, (MemorizedFunc, NotMemorizedFunc)):
            func = func.func
        plain = func.__func__ if isinstance(func, staticmethod) else func
        is_async = inspect.iscoroutinefunction(plain)
        if self.store_backend is None:
            return (AsyncNotMemorizedFunc if is_async else NotMemorizedFunc)(plain)
        options["verbose"] = self._verbose if verbose is None else verbose
        options["mmap_mode"] = self.mmap_mode if mmap_mode is False else mmap_mode
        made = self._kind(is_async)(
            func,
            self.store_backend,
            backend=self.backend,
            compress=self.compress,
            timestamp=self.timestamp,
            hash_name=self.hash_name,
            compute_once=self.compute_once,
            keep_arguments=self.keep_arguments,
            **options,
        )
        made._counts = self._counts.setdefault(made.func_id, made._counts)
        return made

    def eval(self, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Return ``func(*args, **kwargs)``, from what is kept if it is there."""
        return func(*args, **kwargs) if self.store_backend is None else self.cache(func)(*args, **kwargs)

    def clear(self, warn: bool = True) -> None:
        """Remove all results.

        Parameters
        ----------
        warn
            Whether it is logged.
        """
        if warn:
            self.warn("Flushing completely the cache")
        if self.store_backend is not None:
            self.store_backend.clear()
            Sources.of(self.store_backend).forget()

    def reduce_size(
        self,
        bytes_limit: int | str | None = None,
        items_limit: int | None = None,
        age_limit: datetime.timedelta | None = None,
    ) -> None:
        """Remove results until what is left is within limits, those first that were used least recently.

        Parameters
        ----------
        bytes_limit : int or str, optional
            The bytes that all may take: a number, or ``"10G"``.
        items_limit : int, optional
            How many there may be.
        age_limit : datetime.timedelta, optional
            How long one may lie unused.

        Raises
        ------
        ValueError
            If a limit is negative.
        """
        limits = limits_of(bytes_limit, items_limit, age_limit)
        if self.store_backend is not None and limits != Limits():
            self.store_backend.reduce(limits)

    def entries(self) -> Iterator[MemorizedResult]:
        """Yield what is kept, in any order.

        Each has ``func``, ``arguments`` (texts by name), ``nbytes``, ``used`` (when it was last saved or read, in
        seconds since the epoch), ``age`` and ``duration`` (seconds), ``get()`` and ``clear()``, which removes it.
        """
        store = self.store_backend
        for entry in () if store is None else store.entries():
            yield MemorizedResult(
                store, entry.key, self.backend, self.mmap_mode, 0, nbytes=entry.nbytes, used=entry.used
            )

    def info(self, msg: str | None = None) -> MemoryInfo | None:  # type: ignore[override]
        """Count what is kept, and what this process has found and missed; given a message, log that, as joblib does."""
        if msg is not None:
            return super().info(msg)
        entries = () if self.store_backend is None else self.store_backend.entries()
        return MemoryInfo.of(entries, self._counts)

    # What Parallel(memory=) asks for.

    def get(self, call: tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]], default: Any = None) -> Any:
        """Return the result of a call ``(function, args, kwargs)`` that is kept, or `default`."""
        function, args, kwargs = call
        memorized = self._memorized(function)
        if memorized is None:
            return default
        try:
            key = memorized._key(args, kwargs)
        except ArgumentError:  # the call itself will fail
            return default
        value = ABSENT if key is None else memorized._load(key, args, kwargs)
        if value is not ABSENT:
            return value
        while len(self._awaited) >= _AWAITED:
            self._awaited.pop(next(iter(self._awaited)), None)
        self._awaited[_place_of(call)] = key
        return default

    def put(self, call: tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]], value: Any) -> None:
        """Keep the result of a call that :meth:`get` was asked for; it is that of the arguments as they were then."""
        function, args, kwargs = call
        memorized = self._memorized(function)
        key = self._awaited.pop(_place_of(call), None)
        if memorized is not None and key is not None:
            memorized._put(key, value, args, kwargs)

    def reader(self) -> Callable[[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any], Any]:
        """Return a :meth:`get` for one run: it remembers the functions that it meets, and is dropped with the run."""
        recent: collections.deque[MemorizedFunc | None] = collections.deque(maxlen=_FUNCTIONS)

        def get(call: tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]], default: Any = None) -> Any:
            memorized = self._memorized(call[0])
            if memorized not in recent:
                recent.append(memorized)
            return self.get(call, default)

        return get

    def _memorized(self, function: Any) -> MemorizedFunc | None:
        """Return the cached form of a function that calls are made of; None if nothing is to be kept here."""
        if self.store_backend is None or isinstance(function, (MemorizedFunc, BoundMemorizedFunc, NotMemorizedFunc)):
            return None
        known = self._functions.get(id(function))  # which has the function: no other can have its id
        if known is None:
            known = self._functions[id(function)] = self._made(function)
        return known

    def _made(self, function: Any) -> MemorizedFunc:
        made: MemorizedFunc = self.cache(function, verbose=0)
        return made

    def __repr__(self) -> str:
        location = None if self.store_backend is None else location_of(self.store_backend)
        return f"{type(self).__name__}(location={location})"

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is open, and the time, so that the hash of what refers to it does not change."""
        state = {**self.__dict__, "timestamp": None}
        for name in ("store_backend", "_counts", "_functions", "_awaited"):
            del state[name]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()


def _place_of(call: tuple[Any, Any, Any]) -> tuple[int, int, int]:
    # Nothing else has these places as long as a call is under way, and get() comes before put(). Of empty arguments, a
    # run may make others.
    function, args, kwargs = call
    return id(function), id(args), id(kwargs) if kwargs else 0


def expires_after(
    days: float = 0,
    seconds: float = 0,
    microseconds: float = 0,
    milliseconds: float = 0,
    minutes: float = 0,
    hours: float = 0,
    weeks: float = 0,
) -> Callable[[dict[str, Any]], bool]:
    """Return a ``cache_validation_callback`` that lets results be computed again when they are older than that.

    Parameters
    ----------
    days, seconds, microseconds, milliseconds, minutes, hours, weeks
        The age, as for ``datetime.timedelta``.

    Examples
    --------
    >>> from shoal import Memory, expires_after
    >>> @Memory(None).cache(cache_validation_callback=expires_after(days=7))
    ... def prices(date):
    ...     return {}
    """
    limit = datetime.timedelta(days, seconds, microseconds, milliseconds, minutes, hours, weeks).total_seconds()

    def is_fresh(metadata: dict[str, Any]) -> bool:
        return time.time() - float(metadata.get("time", 0)) < limit

    return is_fresh


def _stands_for(memory: Memory) -> Any:
    return str(memory.location), memory.backend


register_hasher(Memory, _stands_for)
