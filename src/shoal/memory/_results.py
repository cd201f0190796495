"""References to results, their metadata and validity, and statistics: the objects that a cache gives to users."""

from __future__ import annotations

import datetime
import heapq
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from threading import get_ident
from typing import Any

from shoal._typing import Generic, R_co
from shoal.memory import _texts
from shoal.memory.key._source import shown
from shoal.memory.store import Entry, Key, Meta, Store, create, location_of
from shoal.observe._logger import Logger, pformat

#: How many results of a function are read for the mean duration of its calls: those that were used last.
_MOST_READ = 100


def metadata_of(meta: Meta) -> dict[str, Any]:
    """Return the metadata of a result as the dictionary that joblib shows."""
    return {"duration": meta.duration, "input_args": meta.arguments, "time": meta.created}


def expires_after(
    days: float = 0,
    seconds: float = 0,
    microseconds: float = 0,
    milliseconds: float = 0,
    minutes: float = 0,
    hours: float = 0,
    weeks: float = 0,
) -> Callable[[dict[str, Any]], bool]:
    """Return a ``cache_validation_callback`` that makes results invalid after some time.

    Parameters
    ----------
    days, seconds, microseconds, milliseconds, minutes, hours, weeks : float
        How long a result is valid after it was saved; they are added up as for ``datetime.timedelta``.

    Returns
    -------
    callable
        A function of a result's metadata that returns whether the result is valid. Thread-safe.

    Examples
    --------
    >>> from shoal import Memory, expires_after
    >>> @Memory(None).cache(cache_validation_callback=expires_after(days=7))
    ... def prices(date):
    ...     return {}
    """
    return _Expiry(datetime.timedelta(days, seconds, microseconds, milliseconds, minutes, hours, weeks).total_seconds())


class _Expiry:
    # Whether a result is younger than `limit` seconds. A function in expires_after could not be pickled.

    def __init__(self, limit: float) -> None:
        self.limit = limit

    def __call__(self, metadata: dict[str, Any]) -> bool:
        return time.time() - float(metadata.get("time", 0)) < self.limit


class MemorizedResult(Logger, Generic[R_co]):
    """A reference to a result on disk. It is small and can be pickled; :meth:`get` reads the result.

    Parameters
    ----------
    location : str, os.PathLike or Store
        The folder that contains the folders of functions, or the store itself.
    call_id : (str, str), optional
        The path of the function and the digest of the arguments. Alternatively, pass `func` and `args_id`.
    backend : str
        The kind of store.
    mmap_mode : {None, "r+", "r", "w+", "c"}
        How arrays are mapped.
    verbose : int
        How much :meth:`get` prints: a line above 1, and also the location of the result from 10 on.
    timestamp : float, optional
        When the Memory was made, in seconds since the epoch. The printed line shows the time since then.
    metadata : dict, optional
        The metadata of the result. They are read if they are not passed.

    Attributes
    ----------
    func_id, args_id : str
        The path of the function and the digest of the arguments. `func` is the same as `func_id`.
    metadata : dict
        "duration" in seconds, "input_args" (texts by name) and "time" in seconds since the epoch. It is empty if the
        metadata are lost.
    duration : float or None
        How long the call took, in seconds.
    nbytes : int or None
        The size of the entry in bytes; set by :meth:`Memory.entries`.
    used : float or None
        When the result was last saved or loaded, in seconds since the epoch; set by :meth:`Memory.entries`.

    Raises
    ------
    TypeError
        If neither `call_id` nor `func` and `args_id` are passed, or if there is no store at `location`.

    Notes
    -----
    Safe to use from several threads.
    """

    def __init__(
        self,
        location: Any = None,
        call_id: tuple[str, str] | None = None,
        backend: str = "local",
        mmap_mode: str | None = None,
        verbose: int = 0,
        timestamp: float | None = None,
        metadata: dict[str, Any] | None = None,
        *,
        func: str | None = None,
        args_id: str | None = None,
        nbytes: int | None = None,
        used: float | None = None,
    ) -> None:
        super().__init__()
        if call_id is None:
            if func is None or args_id is None:
                raise TypeError("give call_id, or func and args_id: without them the result is not known")
            call_id = func, args_id
        function, call = call_id
        store = create(backend, location)
        if store is None:
            raise TypeError(f"there is no store at {location!r}: pass a path or a store as the location")
        self._call_id = Key(function.replace(os.sep, "/"), call)
        self.store_backend: Store = store
        self.mmap_mode: str | None = mmap_mode
        self.verbose: int = verbose
        self.timestamp: float | None = timestamp
        self.metadata: dict[str, Any] = metadata if metadata is not None else self._metadata()
        self.duration: float | None = self.metadata.get("duration")
        self.nbytes: int | None = nbytes
        self.used: float | None = used

    def _metadata(self) -> dict[str, Any]:
        try:
            return metadata_of(self.store_backend.meta(self._call_id))
        except (KeyError, OSError):
            return {}

    @property
    def func_id(self) -> str:
        """The path of the function."""
        return shown(self._call_id.function)

    @property
    def func(self) -> str:
        """The path of the function."""
        return shown(self._call_id.function)

    @property
    def args_id(self) -> str:
        """The digest of the arguments."""
        return self._call_id.call

    @property
    def arguments(self) -> dict[str, str]:
        """The arguments as texts, by name."""
        arguments: dict[str, str] = self.metadata.get("input_args", {})
        return arguments

    @property
    def age(self) -> float | None:
        """The time since the result was saved, in seconds."""
        created = self.metadata.get("time")
        return None if created is None else time.time() - created

    def get(self) -> R_co:
        """Read the result.

        Raises
        ------
        KeyError
            If the result was removed, or cannot be read.
        """
        if self.verbose > 1:
            where = _texts.place(self.store_backend, self.func_id, self.args_id)
            arguments = self.metadata.get("input_args")
            print(_texts.loading(self.func_id, where, self.timestamp, arguments, self.verbose))  # noqa: T201
        try:
            return self.store_backend.load(self._call_id, self.mmap_mode)  # type: ignore[no-any-return]
        except KeyError:
            raise KeyError(
                f"Non-existing item (may have been cleared).\nThere is no result {self.args_id} of {self.func_id} "
                f"in {location_of(self.store_backend)}"
            ) from None

    def clear(self) -> None:
        """Remove the result from the store."""
        self.store_backend.discard(self._call_id)

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(location="{_escaped(location_of(self.store_backend))}", '
            f'func="{_escaped(self.func_id)}", args_id="{self.args_id}")'
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "timestamp": None}


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\")


class NotMemorizedResult(Generic[R_co]):
    """A result that is in no store, with the methods of a :class:`MemorizedResult`.

    Parameters
    ----------
    value : object
        The result.

    Attributes
    ----------
    value : object
        The result, or None after :meth:`clear`.
    valid : bool
        Whether the result is still here.
    """

    __slots__ = ("valid", "value")

    valid: bool
    value: R_co | None

    def __init__(self, value: R_co) -> None:
        self.value, self.valid = value, True

    def get(self) -> R_co:
        """Return the result.

        Raises
        ------
        KeyError
            If it was cleared.
        """
        if not self.valid:
            raise KeyError("No value stored.")
        return self.value  # type: ignore[return-value]

    def clear(self) -> None:
        """Forget the result."""
        self.value, self.valid = None, False

    def __repr__(self) -> str:
        if self.valid:
            return f"{type(self).__name__}({pformat(self.value)})"
        return f"{type(self).__name__} with no value"

    def __getstate__(self) -> dict[str, Any]:
        return {"valid": self.valid, "value": self.value}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.valid, self.value = state["valid"], state["value"]


class Counts:
    """How often this process found a function's results, and how often it did not. Thread-safe."""

    __slots__ = ("_of_threads",)

    def __init__(self) -> None:
        # Each thread changes only its own numbers, so there is no lock that a fork could copy while it is locked.
        self._of_threads: dict[int, list[int]] = {}

    def hit(self) -> None:
        """Count a result that was found."""
        self._of_threads.setdefault(get_ident(), [0, 0])[0] += 1

    def miss(self) -> None:
        """Count a result that was not found."""
        self._of_threads.setdefault(get_ident(), [0, 0])[1] += 1

    @property
    def hits(self) -> int:
        """How often a result was found."""
        return sum(counts[0] for counts in list(self._of_threads.values()))

    @property
    def misses(self) -> int:
        """How often a result was computed."""
        return sum(counts[1] for counts in list(self._of_threads.values()))


@dataclass
class FunctionInfo:
    """Statistics of one function.

    Attributes
    ----------
    entries, nbytes : int
        The number of its results in the store, and their size in bytes.
    hits, misses : int
        How often this process has found a result, and how often it has computed one.
    saved : float
        The time that the hits of this process have saved, in seconds. It is an estimate: each hit counts as the mean
        duration of the calls whose results are stored.
    """

    entries: int = 0
    nbytes: int = 0
    hits: int = 0
    misses: int = 0
    saved: float = 0.0


@dataclass
class MemoryInfo(FunctionInfo):
    """Statistics of a whole cache, and of each function.

    Attributes
    ----------
    functions : dict
        A :class:`FunctionInfo` for each function, by its path.
    """

    functions: dict[str, FunctionInfo] = field(default_factory=dict)

    @classmethod
    def of(
        cls, entries: Iterable[Entry], counts: Mapping[str, Counts], duration_of: Callable[[Iterable[Key]], float]
    ) -> MemoryInfo:
        """Add up entries, and the counts of functions by their paths; `duration_of` says how long some calls took."""
        info = cls()
        newest: dict[str, list[tuple[float, Key]]] = {path: [] for path, count in list(counts.items()) if count.hits}
        stored, path = None, ""
        for key, nbytes, used in entries:
            if key.function != stored:  # the entries of a function mostly follow each other
                stored, path = key.function, shown(key.function)
                function = info.functions.setdefault(path, FunctionInfo())
                youngest = newest.get(path)
            function.entries += 1
            function.nbytes += nbytes
            if youngest is not None:
                if len(youngest) < _MOST_READ:
                    heapq.heappush(youngest, (used, key))
                elif used > youngest[0][0]:
                    heapq.heapreplace(youngest, (used, key))
        for path, count in list(counts.items()):
            function = info.functions.setdefault(path, FunctionInfo())
            function.hits, function.misses = count.hits, count.misses
            if path in newest:
                function.saved = count.hits * duration_of(key for _, key in newest[path])
        for function in info.functions.values():
            info.entries += function.entries
            info.nbytes += function.nbytes
            info.hits += function.hits
            info.misses += function.misses
            info.saved += function.saved
        return info
