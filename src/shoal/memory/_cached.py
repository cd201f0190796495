"""A function whose results are kept: look up, compute, record.

::

    call ──key──> load ──> the value
                   └─> absent: under the key that joblib would have, if joblib was here ──> the value
                   └─> absent: lease ─┬─> ours: compute, save
                                      └─> another's: it computes, we wait, and load

The way of a hit is a bind, a hash and a load.
"""

from __future__ import annotations

import pickle
import time
import traceback
import types
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from shoal._tracebacks import warn
from shoal.errors import CacheWarning
from shoal.hashing import register_hasher
from shoal.memory import _said
from shoal.memory._arguments import described
from shoal.memory._bound import BoundMemorizedFunc
from shoal.memory._changes import Sources
from shoal.memory._identity import Identity, Uncacheable
from shoal.memory._info import Counts
from shoal.memory._results import MemorizedResult, NotMemorizedResult, metadata_of
from shoal.memory._source import Source, names_of
from shoal.memory.store import Key, Meta, Store, create, location_of
from shoal.observe._logger import Logger

ABSENT: Any = object()


class _NotKept(Exception):
    """A result was computed, and could not be kept."""


class _Docstring:
    """The docstring of a class of cached functions; of one of those that have none of their own, what is made up."""

    def __init__(self, text: str | None) -> None:
        self.text = text

    def __get__(self, cached: Any, owner: type) -> str | None:
        return self.text if cached is None else _said.documented(cached.__dict__.get("func"))


class MemorizedFunc(Logger):
    """A function whose results are kept: :meth:`Memory.cache` makes it.

    Parameters
    ----------
    func : callable
        The function.
    location : str, os.PathLike or Store
        Where results are kept.
    backend : str
        The kind of store.
    ignore : list of str, optional
        Parameters that do not count; "*" and "**" for further positional and keyword arguments.
    mmap_mode : {None, "r+", "r", "w+", "c"}
        How arrays in results are mapped; the first call returns mapped ones too.
    compress : bool, int or (str, int)
        How results are compressed.
    verbose : int
        What is printed.
    timestamp : float, optional
        When the Memory was made.
    cache_validation_callback : callable, optional
        Given what is kept with a result (a dict of "duration", "input_args", "time"); false: it is computed again.
    hash_name, compute_once, keep_arguments
        As :class:`Memory` has them.
    version, depends
        As :meth:`Memory.cache` has them.

    Attributes
    ----------
    func : callable
        The function.
    func_id : str
        The path of its results in the store.
    store_backend : Store
        The store.

    Notes
    -----
    Safe to call from several threads.
    """

    #: Whether the docstring of a function that has one says that it is cached.
    _says_so: ClassVar[bool] = False
    #: What refers to a result.
    _reference_kind: ClassVar[type[MemorizedResult]] = MemorizedResult

    def __init__(
        self,
        func: Callable[..., Any],
        location: Any,
        backend: str = "local",
        ignore: list[str] | None = None,
        mmap_mode: str | None = None,
        compress: Any = False,
        verbose: int = 1,
        timestamp: float | None = None,
        cache_validation_callback: Callable[[dict[str, Any]], Any] | None = None,
        *,
        hash_name: str = "xxh3_128",
        compute_once: bool = True,
        keep_arguments: bool = True,
        version: Any = None,
        depends: Iterable[Any] = (),
        counts: Counts | None = None,
    ) -> None:
        store = create(backend, location, compress=compress)
        if store is None:
            raise TypeError(f"{location!r} is no place to keep results in")
        plain = func.__func__ if isinstance(func, staticmethod) else func
        #: Whether an instance goes before the arguments, as for any function of a class.
        self._binds = isinstance(func, types.FunctionType)
        if self._binds:
            own = {name: value for name, value in plain.__dict__.items() if not hasattr(type(self), name)}
            self.__dict__.update(own)
        if not self._says_so and getattr(plain, "__doc__", None) is not None:
            self.__doc__ = plain.__doc__
        for name in ("__module__", "__name__", "__qualname__", "__annotations__"):
            try:
                setattr(self, name, getattr(plain, name))
            except (AttributeError, NameError):  # annotations are evaluated when they are read
                pass
        super().__init__()
        self.__wrapped__ = self.func = plain
        self._identity = Identity(plain, ignore, hash_name, mmap_mode is not None, version, depends)
        self.func_id, self.ignore = self._identity.path, self._identity.ignore
        self.mmap_mode, self.compress, self.backend = mmap_mode, compress, backend
        self._verbose = verbose
        self.store_backend: Store = store
        self.timestamp: float | None = timestamp if timestamp is not None else time.time()
        self.cache_validation_callback = cache_validation_callback
        self._compute_once, self._keep_arguments = compute_once, keep_arguments
        self._counts = counts or Counts()
        self._sources = Sources.of(store)
        self._watched = verbose > 1 or cache_validation_callback is not None

    def __init_subclass__(cls, **further: Any) -> None:
        super().__init_subclass__(**further)
        cls.__doc__ = _Docstring(cls.__doc__)  # type: ignore[assignment]

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Return the result of a call: the one that is kept, or else a new one, which is then kept."""
        key = self._key(args, kwargs)
        if key is None:
            return self.func(*args, **kwargs)
        value = self._load(key, args, kwargs)
        if value is not ABSENT:
            return value
        return self._missed(key, args, kwargs, self._load, self._value)

    def call_and_shelve(self, /, *args: Any, **kwargs: Any) -> Any:
        """Make sure that the result of a call is kept, and return a reference to it.

        Returns
        -------
        MemorizedResult or NotMemorizedResult
            What reads it when it is asked to; or, if it cannot be kept, the result itself.
        """
        key = self._key(args, kwargs)
        if key is None:
            return NotMemorizedResult(self.func(*args, **kwargs))
        result = self._shelf(key, args, kwargs)
        if result is not ABSENT:
            return result
        return self._missed(key, args, kwargs, self._shelf, self._reference)

    def check_call_in_cache(self, /, *args: Any, **kwargs: Any) -> bool:
        """Tell whether the result of a call is kept and valid; nothing is computed, and no result is read."""
        key = self._key(args, kwargs)
        return key is not None and self._find(key, args, kwargs) is not None

    def call(self, /, *args: Any, **kwargs: Any) -> Any:
        """Compute the result of a call, whether or not it is known, and keep it.

        Returns
        -------
        (object, dict)
            The result, and what is kept with it.
        """
        key = self._key(args, kwargs)
        if key is None:
            return self.func(*args, **kwargs), {}
        computed = self._compute(key, args, kwargs)
        return self._value(computed), metadata_of(computed[1])

    def clear(self, warn: bool = True) -> None:
        """Remove all results of the function.

        Parameters
        ----------
        warn
            Whether it is logged, where `verbose` is not 0.
        """
        if self._verbose > 0 and warn:
            self.warn(f"Clearing function cache identified by {self.func_id}")
        self.store_backend.clear(self.func_id)
        self._sources.keep(self._identity)

    @property
    def func_code_info(self) -> Source:
        """The source of the function, its file and the number of its first line."""
        return self._identity.source

    # Looking up.

    def _key(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Key | None:
        """Return the key of a call, having made sure that what is kept is of this function; None: keep nothing."""
        identity = self._identity
        try:
            key = identity.key(args, kwargs)
        except Uncacheable as reason:
            self._say_once(self.func_id, f"Results of {self.func_id} are not cached: {reason}")
            return None
        if identity.tag not in self._sources.checked.get(identity.path, ()):
            self._sources.check(self)
        return key

    def _load(self, key: Key, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return the value that is kept, or ABSENT."""
        if self._watched:
            return self._load_watched(key, args, kwargs)
        value = self._read(key)
        if value is ABSENT and self._identity.may_be_joblibs:
            former = self._find_joblibs(args, kwargs)
            if former is not None:
                value = self._read(former)
        if value is not ABSENT:
            self._counts.hit()
        return value

    def _read(self, key: Key) -> Any:
        try:
            return self.store_backend.load(key, self.mmap_mode)
        except KeyError:
            pass
        except MemoryError:
            raise
        except OSError as error:
            self._say_once(
                (type(error), error.errno), f"Unable to read from the cache: {error}. Results are computed anew."
            )
        except Exception:
            self.warn(f"Exception while loading results for {key.function} ({key.call})\n {traceback.format_exc()}")
        return ABSENT

    def _load_watched(self, key: Key, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Load where a callback is to be asked, or lines are to be printed."""
        verbose = self._verbose
        self._say_query(key, args, kwargs)
        found = self._find(key, args, kwargs)
        if found is None:
            return ABSENT
        started = time.perf_counter()
        if verbose > 1:
            where = f"{location_of(self.store_backend)}/{found.function}/{found.call}"
            print(_said.loading(found.function, where, self.timestamp, None, verbose))  # noqa: T201
        value = self._read(found)
        if value is not ABSENT:
            self._counts.hit()
            if verbose > 4:
                took = time.perf_counter() - started
                print(_said.took(self._identity.function, took, "cache loaded "))  # noqa: T201
        return value

    def _shelf(self, key: Key, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return a reference to what is kept, or ABSENT."""
        self._say_query(key, args, kwargs)
        found = self._find(key, args, kwargs)
        if found is None:
            return ABSENT
        self._counts.hit()
        return self._referring(found, None)

    def _find(self, key: Key, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Key | None:
        """Return the key under which a valid value is kept."""
        found: Key | None = key
        if not self._contains(key):
            found = self._find_joblibs(args, kwargs) if self._identity.may_be_joblibs else None
        if found is not None and self.cache_validation_callback is not None:
            try:
                metadata = metadata_of(self.store_backend.meta(found))
            except KeyError:
                metadata = {}
            if not self.cache_validation_callback(metadata):
                self.store_backend.discard(found)
                return None
        return found

    def _find_joblibs(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Key | None:
        if not self._sources.beside_joblib(self._identity):
            return None
        key = self._identity.joblib_key(args, kwargs)
        return key if self._contains(key) and self._sources.is_current(self._identity) else None

    def _contains(self, key: Key) -> bool:
        try:
            return self.store_backend.contains(key)
        except OSError:
            return False

    # Computing.

    def _missed(self, key: Key, args: Any, kwargs: Any, look: Callable[..., Any], finish: Callable[..., Any]) -> Any:
        """Compute a result, unless another does: then wait for that."""
        if not self._compute_once:
            return finish(self._compute(key, args, kwargs))
        while True:
            try:
                with self.store_backend.lease(key) as ours:
                    if ours:
                        found = look(key, args, kwargs) if self._contains(key) else ABSENT
                        if found is ABSENT:
                            computed = self._compute(key, args, kwargs)
                            if computed[2] is None:
                                raise _NotKept  # so that nobody goes on waiting for it
                            return finish(computed)
                    else:
                        found = look(key, args, kwargs)
            except _NotKept:
                return finish(computed)
            if found is not ABSENT:
                return found

    def _compute(self, key: Key, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Meta, Key | None]:
        """Return the result of a call, what is kept with it, and the key if it could be kept."""
        arguments, started = self._begun(key, args, kwargs)
        value = self.func(*args, **kwargs)
        return self._done(key, value, arguments, started)

    def _begun(self, key: Key, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[dict[str, str], float]:
        self._counts.miss()
        if self._verbose > 10:
            where = f"{location_of(self.store_backend)}/{key.function}"
            name = names_of(self._identity.function)[1]
            self.warn(f"Computing func {name}, argument hash {key.call} in location {where}")
        if self._verbose > 0:
            print(_said.calling(self._identity.function, args, kwargs))  # noqa: T201
        # Before the call, which may change them.
        arguments = described(self._identity.words(args, kwargs)) if self._keep_arguments else {}
        return arguments, time.perf_counter()

    def _put(self, key: Key, value: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Keep a result that was computed elsewhere."""
        arguments = described(self._identity.words(args, kwargs)) if self._keep_arguments else {}
        self._counts.miss()
        self._keep(key, value, Meta(0.0, time.time(), arguments))

    def _done(self, key: Key, value: Any, arguments: dict[str, str], started: float) -> tuple[Any, Meta, Key | None]:
        meta = Meta(time.perf_counter() - started, time.time(), arguments)
        if self._verbose > 10:
            print(f"Persisting in {location_of(self.store_backend)}/{key.function}/{key.call}")  # noqa: T201
        kept = self._keep(key, value, meta)
        if self._verbose > 0:
            print(_said.took(self._identity.function, time.perf_counter() - started))  # noqa: T201
        return value, meta, key if kept else None

    def _keep(self, key: Key, value: Any, meta: Meta) -> bool:
        try:
            self.store_backend.save(key, value, meta)
        except OSError as error:
            self._say_once(
                (type(error), error.errno), f"Unable to cache to disk: {error}. Results are computed at each call."
            )
        except MemoryError:
            raise
        except Exception as error:
            path, reason = _unpicklable(value, error)
            warn(
                f"Unable to cache to disk: failed to pickle the result of {self.func_id}: {path} cannot be pickled "
                f"({reason}). It is computed at each call. Return something else, or do not cache the function.",
                CacheWarning,
            )
        else:
            return True
        return False

    def _value(self, computed: tuple[Any, Meta, Key | None]) -> Any:
        """Return a result as later calls will: mapped, if that was asked for."""
        value, _, key = computed
        if key is not None and self.mmap_mode is not None:
            mapped = self._read(key)
            return value if mapped is ABSENT else mapped
        return value

    def _reference(self, computed: tuple[Any, Meta, Key | None]) -> Any:
        value, meta, key = computed
        return NotMemorizedResult(value) if key is None else self._referring(key, metadata_of(meta))

    def _referring(self, key: Key, metadata: dict[str, Any] | None) -> MemorizedResult:
        return self._reference_kind(
            self.store_backend,
            key,
            mmap_mode=self.mmap_mode,
            verbose=self._verbose - 1,
            timestamp=self.timestamp,
            metadata=metadata,
        )

    # Saying.

    def _say_query(self, key: Key, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._verbose >= 20:
            function = self._identity.function
            where = f"{location_of(self.store_backend)}/{key.function}"
            _, call = _said.signature(function, args, kwargs)
            self.info(_said.querying(names_of(function)[1], call, key.call, where))

    def _say_once(self, what: Any, message: str) -> None:
        if what not in self._sources.said:
            self._sources.said.add(what)
            warn(message, CacheWarning)

    # As an object.

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None or not self._binds else BoundMemorizedFunc(self, instance)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(func={self.func}, location={location_of(self.store_backend)})"

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is of this process, and of this run, so that the hash of what refers to it does not change."""
        state = {**self.__dict__, "timestamp": None}
        del state["_counts"], state["_sources"], state["__wrapped__"], state["func"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.__wrapped__ = self.func = self._identity.func
        self._counts, self._sources = Counts(), Sources.of(self.store_backend)


MemorizedFunc.__doc__ = _Docstring(MemorizedFunc.__doc__)  # type: ignore[assignment]


def _unpicklable(value: Any, error: Exception) -> tuple[str, str]:
    """Find which part of a result cannot be pickled, and why."""
    from shoal._pickling import culprit

    path, reason = culprit(value, "result", dump=lambda part: pickle.dumps(part, pickle.DEFAULT_PROTOCOL))
    return path, reason or f"{type(error).__name__}: {error}"


def _stands_for(memorized: MemorizedFunc) -> Any:
    return "cached", memorized.func, memorized.ignore


register_hasher(MemorizedFunc, _stands_for)
