"""The functions that ``Memory.cache`` returns.

::

    MemorizedFunc        the public methods; its base classes are OpenCalls (_open) and CachedCalls (_calls)
    BoundMemorizedFunc   a MemorizedFunc that is a method: it passes the instance as the first argument
    NotMemorizedFunc     the same methods without a store, if Memory has no location
    AsyncMemorizedFunc   a MemorizedFunc of a coroutine function; it is in _async, which imports asyncio
"""

from __future__ import annotations

import time
import types
from collections.abc import Callable, Coroutine, Iterable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Concatenate, overload

from shoal._typing import Generic, P, Q, R_co, S, T
from shoal.hashing import register_hasher
from shoal.memory import _texts
from shoal.memory._calls import ABSENT, Saving
from shoal.memory._changes import Sources
from shoal.memory._explain import Explanation
from shoal.memory._open import OpenCalls
from shoal.memory._results import Counts, MemorizedResult, NotMemorizedResult, metadata_of
from shoal.memory.formats import PICKLE, checked_format
from shoal.memory.key._identity import Identity
from shoal.memory.key._source import Source
from shoal.memory.store import create, location_of

if TYPE_CHECKING:
    from typing_extensions import Self

    Reference = MemorizedResult[R_co] | NotMemorizedResult[R_co]


class _Docstring:
    """The docstring of a class of cached functions; for an instance without its own docstring, one in joblib's form."""

    def __init__(self, text: str | None) -> None:
        self.text = text

    def __get__(self, cached: Any, owner: type) -> str | None:
        return self.text if cached is None else _texts.docstring(cached.__dict__.get("func"))


class MemorizedFunc(OpenCalls[P, R_co]):
    """A cached function. :meth:`Memory.cache` makes it.

    Parameters
    ----------
    func : callable
        The function.
    location : str, os.PathLike or Store
        The location of the results.
    backend : str
        The kind of store.
    ignore : list of str, optional
        The names of parameters that do not count; "*" and "**" for further positional and keyword arguments.
    mmap_mode : {None, "r+", "r", "w+", "c"}
        How arrays in results are mapped. The call that computes a result returns it mapped, too.
    compress : bool, int or (str, int)
        How results are compressed.
    verbose : int
        How much is printed, as for :class:`Memory`.
    timestamp : float, optional
        When the Memory was made, in seconds since the epoch.
    cache_validation_callback : callable, optional
        A function of a result's metadata (a dict of "duration", "input_args", "time"). If it returns a false value, the
        result is computed again.
    hash_name, compute_once, keep_arguments
        As for :class:`Memory`.
    version, depends, format
        As for :meth:`Memory.cache`.
    counts : Counts, optional
        Counts the hits and misses.

    Attributes
    ----------
    func : callable
        The function.
    func_id : str
        The path of its results in the store.
    store_backend : Store
        The store.

    Raises
    ------
    TypeError
        If there is no store at `location`, if `func` is not callable, or another argument has a wrong type.
    ValueError
        If `ignore` contains a name that is not a parameter, or `format` is unknown.

    Notes
    -----
    Safe to call from several threads.
    """

    #: Whether even a function that has a docstring gets joblib's docstring.
    _says_so: ClassVar[bool] = False

    def __init__(
        self,
        func: Callable[P, R_co],
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
        format: str = PICKLE,
        counts: Counts | None = None,
    ) -> None:
        store = create(backend, location, compress=compress)
        if store is None:
            raise TypeError(f"there is no store at {location!r}: pass a path or a store as the location")
        saving = Saving(keep_arguments, checked_format(format, mmap_mode, store.formats))
        plain = func.__func__ if isinstance(func, staticmethod) else func
        #: Whether it becomes a method in a class, like every plain function.
        self._binds = isinstance(func, types.FunctionType)
        self._look_like(plain)
        super().__init__(
            Identity(plain, ignore, hash_name, mmap_mode is not None, version, depends),
            store,
            mmap_mode,
            verbose,
            timestamp if timestamp is not None else time.time(),
            cache_validation_callback,
            compute_once,
            saving,
            counts or Counts(),
        )
        self.__wrapped__: Callable[P, R_co] = plain
        self.compress: Any = compress
        self.backend: str = backend

    def _look_like(self, function: Any) -> None:
        """Copy the name, the docstring and the attributes of the function."""
        if self._binds:
            own = {name: value for name, value in function.__dict__.items() if not hasattr(type(self), name)}
            self.__dict__.update(own)
        if not self._says_so and getattr(function, "__doc__", None) is not None:
            self.__doc__ = function.__doc__
        for name in ("__module__", "__name__", "__qualname__", "__annotations__"):
            try:
                setattr(self, name, getattr(function, name))
            except (AttributeError, NameError):  # NameError: annotations are evaluated when they are read
                pass

    def __init_subclass__(cls, **further: Any) -> None:
        super().__init_subclass__(**further)
        cls.__doc__ = _Docstring(cls.__doc__)  # type: ignore[assignment]

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Return the result of a call, loaded from the store or computed and saved."""
        key = self._key(args, kwargs)
        if key is None:
            return self.func(*args, **kwargs)
        found: R_co = self._load(key, args, kwargs)
        if found is ABSENT:
            found, computed = self._compute_or_wait(key, args, kwargs, self._load)
            if computed is not None:
                found = computed.value if self.mmap_mode is None else self._mapped(key, computed)
        return found

    @overload
    def call_and_shelve(  # type: ignore[overload-overlap]
        self: MemorizedFunc[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, Reference[T]]: ...
    @overload
    def call_and_shelve(self, /, *args: P.args, **kwargs: P.kwargs) -> Reference[R_co]: ...
    def call_and_shelve(self, /, *args: Any, **kwargs: Any) -> Any:
        """Return a reference to the result of a call, which is computed and saved if it is not in the store.

        Returns
        -------
        MemorizedResult or NotMemorizedResult
            An object whose method ``get`` returns the result. It is a NotMemorizedResult, which holds the result
            itself, if the result could not be saved.
        """
        key = self._key(args, kwargs)
        if key is None:
            return NotMemorizedResult(self.func(*args, **kwargs))
        found = self._refer(key, args, kwargs)
        if found is ABSENT:
            found, computed = self._compute_or_wait(key, args, kwargs, self._refer)
            if computed is not None:
                return self._reference(key, computed)
        return found

    def check_call_in_cache(self, /, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Return whether there is a valid result of a call. Nothing is computed, and no result is read."""
        key = self._key(args, kwargs)
        return key is not None and self._find(key, args, kwargs) is not None

    @overload
    def call(  # type: ignore[overload-overlap]
        self: MemorizedFunc[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, tuple[T, dict[str, Any]]]: ...
    @overload
    def call(self, /, *args: P.args, **kwargs: P.kwargs) -> tuple[R_co, dict[str, Any]]: ...
    def call(self, /, *args: Any, **kwargs: Any) -> Any:
        """Compute the result of a call, even if it is in the store already, and save it.

        Returns
        -------
        (object, dict)
            The result, and its metadata.
        """
        key = self._key(args, kwargs)
        if key is None:
            return self.func(*args, **kwargs), {}
        computed = self._compute(key, args, kwargs)
        value = computed.value if self.mmap_mode is None else self._mapped(key, computed)
        return value, metadata_of(computed.meta)

    @property
    def func_code_info(self) -> Source:
        """The source of the function, its file and the number of its first line."""
        return self._identity.source

    # A function whose first argument is a class is a class method.
    @overload
    def __get__(  # type: ignore[misc]
        self: Callable[Concatenate[type[T], Q], S], instance: None, owner: type[T]
    ) -> BoundMemorizedFunc[Q, S]: ...
    @overload
    def __get__(self, instance: None, owner: type | None = None) -> Self: ...
    @overload
    def __get__(
        self: MemorizedFunc[Concatenate[Any, Q], R_co], instance: object, owner: type | None = None
    ) -> BoundMemorizedFunc[Q, R_co]: ...
    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None or not self._binds else BoundMemorizedFunc(self, instance)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(func={self.func}, location={location_of(self.store_backend)})"

    def __getstate__(self) -> dict[str, Any]:
        # Without the state of this process, and without the time: objects that refer to it must keep their hash.
        state = {**self.__dict__, "timestamp": None}
        del state["_counts"], state["_sources"], state["__wrapped__"], state["func"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.func: Callable[P, R_co] = self._identity.func
        self.__wrapped__ = self.func
        self._counts, self._sources = Counts(), Sources.of(self.store_backend)


MemorizedFunc.__doc__ = _Docstring(MemorizedFunc.__doc__)  # type: ignore[assignment]


class BoundMemorizedFunc(Generic[P, R_co]):
    # A cached function that is a method. It passes the instance as the first argument.

    __slots__ = ("__func__", "__self__")

    @property
    def __doc__(self) -> str | None:  # type: ignore[override]
        return self.__func__.__doc__

    def __init__(self, function: MemorizedFunc[..., R_co] | NotMemorizedFunc[..., R_co], instance: Any) -> None:
        self.__func__: MemorizedFunc[..., R_co] | NotMemorizedFunc[..., R_co] = function
        self.__self__: Any = instance

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Call the function: :meth:`MemorizedFunc.__call__`."""
        return self.__func__(self.__self__, *args, **kwargs)

    @overload
    def call_and_shelve(  # type: ignore[overload-overlap]
        self: BoundMemorizedFunc[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, Reference[T]]: ...
    @overload
    def call_and_shelve(self, /, *args: P.args, **kwargs: P.kwargs) -> Reference[R_co]: ...
    def call_and_shelve(self, /, *args: Any, **kwargs: Any) -> Any:
        """Return a reference to the result of a call: :meth:`MemorizedFunc.call_and_shelve`."""
        return self.__func__.call_and_shelve(self.__self__, *args, **kwargs)

    def check_call_in_cache(self, /, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Return whether there is a valid result of a call: :meth:`MemorizedFunc.check_call_in_cache`."""
        return self.__func__.check_call_in_cache(self.__self__, *args, **kwargs)

    def explain(self, /, *args: P.args, **kwargs: P.kwargs) -> Explanation:
        """Explain whether the result of a call is stored: :meth:`MemorizedFunc.explain`."""
        return self.__func__.explain(self.__self__, *args, **kwargs)

    @overload
    def call(  # type: ignore[overload-overlap]
        self: BoundMemorizedFunc[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, tuple[T, dict[str, Any]]]: ...
    @overload
    def call(self, /, *args: P.args, **kwargs: P.kwargs) -> tuple[R_co, dict[str, Any]]: ...
    def call(self, /, *args: Any, **kwargs: Any) -> Any:
        """Compute the result of a call and save it: :meth:`MemorizedFunc.call`."""
        return self.__func__.call(self.__self__, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name in ("__func__", "__self__"):  # unpickling asks before they are set
            raise AttributeError(name)
        return getattr(self.__func__, name)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, BoundMemorizedFunc)
            and self.__func__ is other.__func__
            and self.__self__ is other.__self__
        )

    def __hash__(self) -> int:
        return hash((id(self.__func__), id(self.__self__)))

    def __repr__(self) -> str:
        return f"<bound {self.__func__!r} of {self.__self__!r}>"

    def __reduce__(self) -> Any:
        return BoundMemorizedFunc, (self.__func__, self.__self__)


class NotMemorizedFunc(Generic[P, R_co]):
    """A function without a cache, with the methods of a :class:`MemorizedFunc`. ``Memory(None).cache`` makes it.

    Parameters
    ----------
    func : callable
        The function.
    """

    def __init__(self, func: Callable[P, R_co]) -> None:
        self.func: Callable[P, R_co] = func

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Call the function."""
        return self.func(*args, **kwargs)

    def call_and_shelve(self, /, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Call the function; return its result in a :class:`NotMemorizedResult`."""
        return NotMemorizedResult(self.func(*args, **kwargs))

    def call(self, /, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Call the function; return its result, and an empty dictionary in place of metadata."""
        return self.func(*args, **kwargs), {}

    def check_call_in_cache(self, /, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Return False: no result is saved."""
        return False

    def explain(self, /, *args: P.args, **kwargs: P.kwargs) -> Explanation:
        """Say that no result is saved."""
        return Explanation(False, "no store", "the Memory has no location, so no result is saved")

    def entries(self) -> Iterator[MemorizedResult[R_co]]:
        """Yield nothing: no result is saved."""
        return iter(())

    def depends_on(self) -> list[Any]:
        """Return nothing: no result is saved."""
        return []

    def clear(self, warn: bool = True) -> None:
        """Do nothing."""

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        binds = instance is not None and isinstance(self.func, types.FunctionType)
        return BoundMemorizedFunc(self, instance) if binds else self

    def __repr__(self) -> str:
        return f"{type(self).__name__}(func={self.func})"


class AsyncNotMemorizedFunc(NotMemorizedFunc):
    """A coroutine function without a cache, with the methods of an AsyncMemorizedFunc."""

    async def call_and_shelve(self, /, *args: Any, **kwargs: Any) -> Any:
        """Await the function; return its result in a :class:`NotMemorizedResult`."""
        return NotMemorizedResult(await self.func(*args, **kwargs))

    async def call(self, /, *args: Any, **kwargs: Any) -> Any:
        """Await the function; return its result, and an empty dictionary in place of metadata."""
        return await self.func(*args, **kwargs), {}


def _hashed_as(memorized: MemorizedFunc) -> Any:
    return "cached", memorized.func, memorized.ignore


register_hasher(MemorizedFunc, _hashed_as)
