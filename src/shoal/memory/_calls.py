"""Find, compute and save the results of one function.

::

    a call ──> key ──> load ──> the value                                                       a hit
                        └─> absent: load under joblib's key, if joblib saved results ──> ...    a hit
                        └─> absent: lease ─┬─> ours: compute, save                              a miss
                                           └─> another caller's: wait for it, then load         a hit

A hit is a bind, a hash and a load. docs/memory.md lists the functions of a hit and of a miss.
"""

from __future__ import annotations

import pickle
import time
import traceback
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

from shoal._pickling import culprit
from shoal._tracebacks import warn
from shoal._typing import Generic, P, R_co
from shoal.errors import CacheWarning
from shoal.memory import _texts
from shoal.memory._changes import Sources
from shoal.memory._explain import Explainer, Explanation, refusal
from shoal.memory._parts import Description, describe
from shoal.memory._results import Counts, MemorizedResult, NotMemorizedResult, metadata_of
from shoal.memory.formats import PICKLE
from shoal.memory.key._identity import Identity, Uncacheable
from shoal.memory.key._source import names_of, shown
from shoal.memory.store import Key, Meta, Store
from shoal.observe._logger import Logger

#: A marker for a result that is not in the store.
ABSENT: Any = object()


class Computed(NamedTuple):
    """A result that was just computed."""

    value: Any
    meta: Meta
    saved: bool  # whether it is in the store


class Saving(NamedTuple):
    """How results are saved: whether with their arguments, and in which format."""

    keep_arguments: bool
    format: str


class Unsaved(Exception):
    """Leaves the block of a lease when a result could not be saved.

    A block that raises tells the callers that wait for it to compute the result themselves. Otherwise each of them
    would find nothing, and they would compute one after the other.
    """


class CachedCalls(Logger, Generic[P, R_co]):
    """Finds, computes and saves the results of one function. Thread-safe.

    Parameters
    ----------
    identity
        The function, and the options that distinguish its calls.
    store
        The store of its results.
    mmap_mode, verbose, timestamp, cache_validation_callback, compute_once
        As :class:`~shoal.MemorizedFunc` takes them.
    saving
        How results are saved.
    counts
        Counts the hits and misses.
    """

    #: The class of references to results.
    _reference_kind: ClassVar[type[MemorizedResult]] = MemorizedResult

    def __init__(
        self,
        identity: Identity,
        store: Store,
        mmap_mode: str | None,
        verbose: int,
        timestamp: float,
        cache_validation_callback: Callable[[dict[str, Any]], Any] | None,
        compute_once: bool,
        saving: Saving,
        counts: Counts,
    ) -> None:
        super().__init__()
        self._identity = identity
        self.func: Callable[P, R_co] = identity.func
        self.func_id: str = shown(identity.path)
        self.ignore: list[str] = identity.ignore
        self.store_backend: Store = store
        self.mmap_mode: str | None = mmap_mode
        self._verbose = verbose
        self.timestamp: float | None = timestamp
        self.cache_validation_callback: Callable[[dict[str, Any]], Any] | None = cache_validation_callback
        self._compute_once, self._saving = compute_once, saving
        self._counts, self._sources = counts, Sources.of(store)
        #: Whether a lookup prints lines or calls the callback.
        self._watched = verbose > 1 or cache_validation_callback is not None

    def clear(self, warn: bool = True) -> None:
        """Remove all results of the function.

        Parameters
        ----------
        warn
            Whether to log it; nothing is logged if `verbose` is 0.
        """
        if self._verbose > 0 and warn:
            self.warn(f"Clearing function cache identified by {self.func_id}")
        self.store_backend.clear(self._identity.path)
        self._sources.save(self._identity)

    def _explained(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Explanation:
        """Explain why the result of a call is stored, or is not."""
        is_valid, keep = self.cache_validation_callback, self._saving.keep_arguments
        return Explainer(self._identity, self.store_backend, self._sources, is_valid, keep).explain(args, kwargs)

    def _key(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Key | None:
        """Return the key of a call, or None if results cannot be cached. Remove results of another source first."""
        identity = self._identity
        try:
            key = identity.key(args, kwargs)
        except Uncacheable as reason:
            self._sources.warn_once(self.func_id, f"Results of {self.func_id} are not cached: {reason}")
            return None
        if identity.snapshot.tag not in self._sources.checked.get(identity.path, ()) and not self._check_source():
            return None
        return key

    def _check_source(self) -> bool:
        """Compare the source with the stored one, and remove the results of another source.

        Return False if the stored results may be those of another source, and md5 keys would find them.
        """
        identity = self._identity
        try:
            if not self._sources.has_changed(identity):
                return True
        except OSError as error:
            self._warn_of_store(error, "read from the cache", "The result is computed, and not saved.")
            return False
        if self._verbose > 10:
            name = names_of(identity.function)[1]
            self.warn(f"Function {name} (identified by {identity.path}) has changed.")
        try:
            self.clear(warn=True)
        except OSError:
            if identity.hash_name == "md5":  # its keys would find the old results again
                raise
        return True

    def _load(self, key: Key, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return the stored value of a call, or ABSENT."""
        if self._watched:
            return self._load_watched(key, args, kwargs)
        value = self._read(key)
        if value is ABSENT and self._sources.saved_by_joblib.get(self._identity.snapshot.tag, False) is not False:
            joblib_key = self._find_joblib_key(args, kwargs)
            if joblib_key is not None:
                value = self._read(joblib_key)
        if value is not ABSENT:
            self._counts.hit()
        return value

    def _read(self, key: Key) -> Any:
        """Return the value of a key, or ABSENT, also if the store fails: then with a warning."""
        try:
            return self.store_backend.load(key, self.mmap_mode)
        except KeyError:
            pass
        except MemoryError:
            raise
        except OSError as error:
            self._warn_of_store(error, "read from the cache", "The results will be computed again.")
        except Exception:
            self.warn(f"Exception while loading results for {key.function} ({key.call})\n {traceback.format_exc()}")
        return ABSENT

    def _load_watched(self, key: Key, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return the stored value of a call, or ABSENT; print lines, and ask the callback whether it is valid."""
        verbose = self._verbose
        found = self._find_watched(key, args, kwargs)
        if found is None:
            return ABSENT
        started = time.perf_counter()
        if verbose > 1:
            where = _texts.place(self.store_backend, found.function, found.call)
            print(_texts.loading(found.function, where, self.timestamp, None, verbose))  # noqa: T201
        value = self._read(found)
        if value is not ABSENT:
            self._counts.hit()
            if verbose > 4:
                seconds = time.perf_counter() - started
                print(_texts.took(self._identity.function, seconds, "cache loaded "))  # noqa: T201
        return value

    def _refer(self, key: Key, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return a reference to the stored value of a call, or ABSENT."""
        found = self._find_watched(key, args, kwargs)
        if found is None:
            return ABSENT
        self._counts.hit()
        return self._reference_to(found, None)

    def _find_watched(self, key: Key, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Key | None:
        """Find the key of a valid value, and log the lookup."""
        if self._verbose >= 20:
            function = self._identity.function
            where = _texts.place(self.store_backend, key.function)
            _, call = _texts.signature(function, args, kwargs)
            self.info(_texts.querying(names_of(function)[1], call, key.call, where))
        return self._find(key, args, kwargs)

    def _find(self, key: Key, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Key | None:
        """Return the key of a valid value: this key, or joblib's, or None. An invalid value is removed."""
        found: Key | None = key
        if not self._contains(key):
            found = self._find_joblib_key(args, kwargs)
        if found is not None and self.cache_validation_callback is not None:
            again = "The results will be computed again."
            try:
                metadata = metadata_of(self.store_backend.meta(found))
            except KeyError:
                metadata = {}
            except OSError as error:
                self._warn_of_store(error, "read from the cache", again)
                return None
            if not self.cache_validation_callback(metadata):
                created = metadata.get("time")
                self._sources.note_removed(key, *refusal(self.cache_validation_callback, created))
                try:
                    self.store_backend.discard(found)
                except OSError as error:
                    self._warn_of_store(error, "remove from the cache", again)
                return None
        return found

    def _find_joblib_key(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Key | None:
        """Return joblib's key of a call if joblib saved its result, and from the same source; otherwise None."""
        identity = self._identity
        if not (identity.snapshot.may_use_joblib_key and self._sources.joblib_may_have_saved(identity)):
            return None
        key = identity.joblib_key(args, kwargs)
        return key if self._contains(key) and self._sources.is_current(identity) else None

    def _contains(self, key: Key) -> bool:
        try:
            return self.store_backend.contains(key)
        except OSError:
            return False

    def _compute_or_wait(
        self, key: Key, args: tuple[Any, ...], kwargs: dict[str, Any], lookup: Callable[..., Any]
    ) -> tuple[Any, Computed | None]:
        """Compute and save the result of a call, or wait while another caller does.

        `lookup`, which is :meth:`_load` or :meth:`_refer`, looks the result up again. Return its result and None; or
        ABSENT and the computed result.
        """
        if not self._compute_once:
            return ABSENT, self._compute(key, args, kwargs)
        while True:
            try:
                with self.store_backend.lease(key) as ours:
                    # Another caller may have saved the result between the lookup and the lease.
                    found = ABSENT if ours and not self._contains(key) else lookup(key, args, kwargs)
                    if found is not ABSENT:
                        return found, None
                    if ours:
                        computed = self._compute(key, args, kwargs)
                        if computed.saved:
                            return ABSENT, computed
                        raise Unsaved
            except Unsaved:
                return ABSENT, computed

    def _compute(self, key: Key, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Computed:
        """Call the function, and save the result."""
        self._counts.miss()
        if self._verbose > 0:
            self._print_call(key, args, kwargs)
        # Before the call, which may change its arguments.
        description = describe(self._identity, args, kwargs, self._saving.keep_arguments)
        started = time.perf_counter()
        return self._save(key, self.func(*args, **kwargs), description, started)

    def _save_foreign(self, key: Key, value: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Save a result that a run has computed."""
        self._counts.miss()
        self._save(key, value, describe(self._identity, args, kwargs, self._saving.keep_arguments), None)

    def _print_call(self, key: Key, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._verbose > 10:
            where = _texts.place(self.store_backend, key.function)
            name = names_of(self._identity.function)[1]
            self.warn(f"Computing func {name}, argument hash {key.call} in location {where}")
            self.warn(str(self._explained(args, kwargs)))
        print(_texts.calling(self._identity.function, args, kwargs))  # noqa: T201

    def _save(self, key: Key, value: Any, description: Description, started: float | None) -> Computed:
        """Save a result. If that fails, warn, and return the result nevertheless.

        `started` is when the call started, by ``time.perf_counter``. It is None if the call ran elsewhere: then its
        duration is unknown, and recorded as 0.
        """
        duration = 0.0 if started is None else time.perf_counter() - started
        meta = Meta(duration, time.time(), *description, self._saving.format)
        if self._verbose > 10:
            print(f"Persisting in {_texts.place(self.store_backend, key.function, key.call)}")  # noqa: T201
        saved = False
        try:
            self.store_backend.save(key, value, meta)
            saved = True
        except OSError as error:
            self._warn_of_store(error, "cache to disk", "The results will be computed at each call.")
        except MemoryError:
            raise
        except Exception as error:
            self._warn_unsaved(value, error)
        if self._verbose > 0 and started is not None:
            print(_texts.took(self._identity.function, time.perf_counter() - started))  # noqa: T201
        return Computed(value, meta, saved)

    def _warn_of_store(self, error: OSError, failed: str, then: str) -> None:
        """Warn that the store fails, once for each kind of error."""
        self._sources.warn_once((type(error), error.errno), f"Unable to {failed}: {error}. {then}")

    def _warn_unsaved(self, value: Any, error: Exception) -> None:
        """Warn that a result cannot be saved in its format. Of one that cannot be pickled, name the part at fault."""
        format, always = self._saving.format, "The result will be computed at each call"
        if format == PICKLE:
            path, reason = culprit(value, "result", dump=lambda part: pickle.dumps(part, pickle.DEFAULT_PROTOCOL))
            reason = reason or f"{type(error).__name__}: {error}"
            text = (
                f"failed to pickle the result of {self.func_id}: {path} cannot be pickled ({reason}). {always}. Return "
                "something else, or do not cache the function."
            )
        else:
            reason = str(error) if type(error) is TypeError else f"{type(error).__name__}: {error}"
            text = f"the result of {self.func_id} cannot be saved with {format=}: {reason}. {always}."
        warn(f"Unable to cache to disk: {text}", CacheWarning)

    def _mapped(self, key: Key, computed: Computed) -> Any:
        """Return a computed result with its arrays mapped, as later calls will load it."""
        mapped = self._read(key) if computed.saved else ABSENT
        return computed.value if mapped is ABSENT else mapped

    def _reference(self, key: Key, computed: Computed) -> Any:
        """Return a reference to a computed result."""
        if computed.saved:
            return self._reference_to(key, metadata_of(computed.meta))
        return NotMemorizedResult(computed.value)

    def _reference_to(self, key: Key, metadata: dict[str, Any] | None) -> MemorizedResult:
        return self._reference_kind(
            self.store_backend,
            key,
            mmap_mode=self.mmap_mode,
            verbose=self._verbose - 1,
            timestamp=self.timestamp,
            metadata=metadata,
        )
