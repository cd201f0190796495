"""``Memory.cache``: makes cached functions, of the type of the function. The overloads are for type checkers."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal, overload

from shoal._typing import P, R
from shoal.memory._cached import AsyncNotMemorizedFunc, BoundMemorizedFunc, MemorizedFunc, NotMemorizedFunc
from shoal.memory._checks import checked_mmap_mode, checked_verbose
from shoal.memory._results import Counts
from shoal.memory.formats import PICKLE, checked_format
from shoal.memory.key._depends import checked_depends
from shoal.memory.store import Store
from shoal.observe._logger import Logger

if TYPE_CHECKING:
    MmapMode = Literal["r+", "r", "w+", "c"]


class Caches(Logger):
    # The methods of Memory that make cached functions. Memory sets the attributes.

    store_backend: Store | None
    mmap_mode: str | None
    compress: Any
    timestamp: float | None
    backend: str
    hash_name: str
    compute_once: bool
    keep_arguments: bool
    _verbose: int
    _counts: dict[str, Counts]

    _checked_mmap_mode = staticmethod(checked_mmap_mode)

    @staticmethod
    def _kind(is_async: bool) -> type[MemorizedFunc]:
        """Return the class of cached functions."""
        if is_async:
            from shoal.memory._async import AsyncMemorizedFunc  # which most programs do not need

            return AsyncMemorizedFunc
        return MemorizedFunc

    @overload
    def cache(
        self,
        func: None = None,
        ignore: list[str] | None = None,
        verbose: int | None = None,
        mmap_mode: MmapMode | Literal[False] | None = False,
        cache_validation_callback: Callable[[dict[str, Any]], Any] | None = None,
        *,
        version: Any = None,
        depends: Iterable[Any] = (),
        format: str = PICKLE,
    ) -> Callable[[Callable[P, R]], MemorizedFunc[P, R]]: ...
    @overload
    def cache(
        self,
        func: Callable[P, R],
        ignore: list[str] | None = None,
        verbose: int | None = None,
        mmap_mode: MmapMode | Literal[False] | None = False,
        cache_validation_callback: Callable[[dict[str, Any]], Any] | None = None,
        *,
        version: Any = None,
        depends: Iterable[Any] = (),
        format: str = PICKLE,
    ) -> MemorizedFunc[P, R]: ...
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
        format: str = PICKLE,
    ) -> Any:
        """Return a function that saves its results.

        Parameters
        ----------
        func : callable, optional
            The function. Without it, a decorator is returned. Methods in a class body, ``staticmethod``,
            ``classmethod``, ``functools.partial``, compiled functions and objects with ``__call__`` are allowed.
        ignore : list of str, optional
            The names of parameters that do not count; "*" and "**" for further positional and keyword arguments.
        verbose : int, optional
            Replaces the value of this Memory.
        mmap_mode : {None, "r+", "r", "w+", "c"}, optional
            Replaces the value of this Memory.
        cache_validation_callback : callable, optional
            A function of a result's metadata (a dict of "duration", "input_args", "time"). If it returns a false value,
            the result is computed again. See :func:`expires_after`.
        version : object, optional
            Replaces the source of the function: edits do not count, and the results of other versions are kept.
        depends : iterable
            Functions, classes and modules. When the source of one changes, results are computed again. If one is a
            cached function, its own dependencies count too. ``"auto"``, alone or in the list, stands for the functions,
            classes and constants of your own project that the function reaches; :meth:`MemorizedFunc.depends_on` says
            which.
        format : str
            How results are saved: "pickle", or as tables that other programs read: "parquet", or "arrow" (Feather).
            These are for DataFrames of pandas and polars, and for Tables and RecordBatches of pyarrow. A result that
            the format cannot hold is returned and not saved, with a warning. :func:`register_format` adds others.

        Returns
        -------
        MemorizedFunc
            Or a :class:`NotMemorizedFunc` if there is no location. For coroutine functions, their async variants.

        Raises
        ------
        TypeError
            If `func` is not callable, or another argument has a wrong type.
        ValueError
            If `ignore` contains a name that is not a parameter, if `mmap_mode` or `format` is unknown or they exclude
            each other, or if the callback is not callable.
        MissingExtra
            If `format` needs a package that is not installed.
        """
        if cache_validation_callback is not None and not callable(cache_validation_callback):
            raise ValueError(f"cache_validation_callback needs to be callable. Got {cache_validation_callback}.")
        options: dict[str, Any] = {
            "ignore": ignore,
            "verbose": None if verbose is None else checked_verbose(verbose),
            "mmap_mode": mmap_mode if mmap_mode is False else self._checked_mmap_mode(mmap_mode),
            "cache_validation_callback": cache_validation_callback,
            "version": version,
            "depends": checked_depends(depends),
            "format": checked_format(format),
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
        is_async = any(map(inspect.iscoroutinefunction, (plain, type(plain).__call__)))
        if self.store_backend is None:
            return (AsyncNotMemorizedFunc if is_async else NotMemorizedFunc)(plain)
        options["verbose"] = self._verbose if verbose is None else verbose
        options["mmap_mode"] = self.mmap_mode if mmap_mode is False else mmap_mode
        memorized = self._kind(is_async)(
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
        memorized._counts = self._counts.setdefault(memorized.func_id, memorized._counts)
        return memorized

    def eval(self, func: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Return ``func(*args, **kwargs)``, loaded from the store or computed and saved."""
        return func(*args, **kwargs) if self.store_backend is None else self.cache(func)(*args, **kwargs)
