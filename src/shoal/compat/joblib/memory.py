"""joblib's ``Memory``: shoal's, with joblib's stores, keys (md5) and warnings."""

from __future__ import annotations

import contextlib
import os
import pathlib
import weakref
from collections.abc import Callable
from typing import Any

from shoal._tracebacks import warn
from shoal.errors import CollisionWarning as JobLibCollisionWarning
from shoal.memory import _async, _cached, _memory, _results
from shoal.memory._cached import AsyncNotMemorizedFunc, NotMemorizedFunc
from shoal.memory._changes import Sources
from shoal.memory._results import NotMemorizedResult, expires_after
from shoal.memory.key._source import parse_stored, path_of, shown
from shoal.memory.store import location_of

from ._store_backends import CacheWarning, FileSystemStoreBackend, StoreBackendBase
from .func_inspect import filter_args, format_call, format_signature, get_func_code, get_func_name
from .logger import Logger, format_time, pformat

__all__ = [
    "AsyncMemorizedFunc",
    "AsyncNotMemorizedFunc",
    "CacheWarning",
    "FileSystemStoreBackend",
    "JobLibCollisionWarning",
    "Logger",
    "MemorizedFunc",
    "MemorizedResult",
    "Memory",
    "NotMemorizedFunc",
    "NotMemorizedResult",
    "StoreBackendBase",
    "expires_after",
    "extract_first_line",
    "filter_args",
    "format_call",
    "format_signature",
    "format_time",
    "get_func_code",
    "get_func_name",
    "pformat",
    "register_store_backend",
]

FIRST_LINE_TEXT = "# first line:"

#: The kinds of stores, by name.
_STORE_BACKENDS: dict[str, Any] = {"local": FileSystemStoreBackend}


def register_store_backend(backend_name: str, backend: Any) -> None:
    """Register a kind of stores.

    Parameters
    ----------
    backend_name
        Its name for ``Memory(backend=...)``.
    backend
        A subclass of :class:`StoreBackendBase`.

    Raises
    ------
    ValueError
        If an argument has another type.
    """
    if not isinstance(backend_name, str):
        raise ValueError(f"Store backend name should be a string, '{backend_name}' given.")
    if not (isinstance(backend, type) and issubclass(backend, StoreBackendBase)):
        raise ValueError(f"Store backend should inherit StoreBackendBase, '{backend}' given.")
    _STORE_BACKENDS[backend_name] = backend


def _store_backend_factory(
    backend: str, location: Any, verbose: int = 0, backend_options: dict[str, Any] | None = None
) -> Any:
    """Return a store at a location; None, with a warning, if the type of `location` is wrong."""
    if isinstance(location, pathlib.Path):
        location = str(location)
    if location is None or isinstance(location, StoreBackendBase):
        return location
    if not isinstance(location, str):
        warn(
            f"Instantiating a backend using a {type(location).__name__} as a location is not supported by joblib. "
            "Returning None instead.",
            UserWarning,
        )
        return None
    location = os.path.expanduser(location)
    if backend not in _STORE_BACKENDS:
        raise TypeError(f"Unknown location {location} or backend {backend}")
    store = _STORE_BACKENDS[backend]()
    store.configure(location, verbose=verbose, backend_options=backend_options or {})
    return store


def extract_first_line(func_code: str) -> tuple[str, int]:
    """Split a stored source into its text and the number of its first line."""
    return parse_stored(func_code)


def _build_func_identifier(func: Any) -> str:
    """Return the path of the results of a function, in a store."""
    return shown(path_of(func))


class _FunctionHashes(weakref.WeakKeyDictionary[Any, Any]):
    """The functions whose sources this process has compared with the stores'."""

    def clear(self) -> None:
        """Forget them, so that their sources are compared again."""
        super().clear()
        for sources in list(Sources._of_store.values()):
            sources.reset()


_FUNCTION_HASHES = _FunctionHashes()


class MemorizedResult(_results.MemorizedResult):
    """A reference to a stored result, as :class:`shoal.MemorizedResult`."""

    def __init__(
        self,
        location: Any = None,
        call_id: tuple[str, str] | None = None,
        backend: str = "local",
        mmap_mode: str | None = None,
        verbose: int = 0,
        timestamp: float | None = None,
        metadata: dict[str, Any] | None = None,
        **further: Any,
    ) -> None:
        store = _store_backend_factory(backend, location, verbose, {"mmap_mode": mmap_mode})
        super().__init__(store, call_id, backend, mmap_mode, verbose, timestamp, metadata, **further)
        self._name = "joblib"

    def __repr__(self) -> str:
        where = location_of(self.store_backend)
        return f'{type(self).__name__}(location="{where}", func="{self.func_id}", args_id="{self.args_id}")'

    def get(self) -> Any:
        """Load the result.

        Raises
        ------
        KeyError
            If it was removed, or cannot be read.
        """
        try:
            return super().get()
        except ValueError as error:
            raise KeyError(f"The result is corrupted: {error}") from error


class MemorizedFunc(_cached.MemorizedFunc):
    """A function whose results are stored, as :class:`shoal.MemorizedFunc`."""

    # Slots keep these out of vars(), which joblib's users compare and copy.
    __slots__ = ("_counts", "_identity", "_sources")

    _says_so = True
    _reference_kind = MemorizedResult

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
        **further: Any,
    ) -> None:
        options = {"compress": compress, "mmap_mode": mmap_mode}
        store = _store_backend_factory(backend, location, verbose, options)
        further.setdefault("hash_name", "md5")
        super().__init__(
            func,
            store,
            backend,
            ignore,
            mmap_mode,
            compress,
            verbose,
            timestamp,
            cache_validation_callback,
            **further,
        )
        self._name = "joblib"
        with contextlib.suppress(NotADirectoryError):  # a link; saving a result will report it
            self.store_backend.store_cached_func_code([self.func_id])  # type: ignore[attr-defined]

    def clear(self, warn: bool = True) -> None:
        """Remove all results of the function."""
        if self._verbose > 0 and warn:
            self.warn(f"Clearing function cache identified by {self.func_id}")
        self.store_backend.clear_path([self.func_id])  # type: ignore[attr-defined]
        self._sources.save(self._identity)

    def _get_args_id(self, *args: Any, **kwargs: Any) -> str:
        """Return the digest of the arguments."""
        return self._identity.key(args, kwargs).call

    def _check_previous_func_code(self, stacklevel: int = 2) -> bool:
        """Tell whether the stored source is the function's; if not, replace it and remove the results."""
        current = self._sources.is_current(self._identity)
        if not current:
            self._check_source()
        return current

    def __getstate__(self) -> dict[str, Any]:
        state = {**self.__dict__, "timestamp": None, "_identity": self._identity}
        del state["__wrapped__"], state["func"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "_identity" not in state:  # joblib has pickled it
            options = {name: state[name] for name in ("ignore", "mmap_mode", "compress", "cache_validation_callback")}
            func, store = state["func"], state["store_backend"]
            super().__init__(func, store, verbose=state["_verbose"], hash_name="md5", **options)
            self._name = "joblib"
            return
        state = dict(state)
        self._identity = state.pop("_identity")
        super().__setstate__(state)


class AsyncMemorizedFunc(MemorizedFunc, _async.AsyncMemorizedFunc):
    """A coroutine function whose results are stored."""

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        state.pop("_pending", None)
        return state


class Memory(_memory.Memory):
    """Stores the results of functions, as :class:`shoal.Memory` does, under joblib's keys and in joblib's stores."""

    __slots__ = ("_run_calls",)  # not in vars(), as above

    def __init__(
        self,
        location: Any = None,
        backend: str = "local",
        mmap_mode: str | None = None,
        compress: Any = False,
        verbose: int = 1,
        backend_options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(location, backend, mmap_mode, compress, verbose, backend_options, hash_name="md5")
        self._name = "joblib"

    @staticmethod
    def _checked_mmap_mode(mmap_mode: Any) -> str | None:
        return mmap_mode  # type: ignore[no-any-return]  # joblib checks it when it maps an array

    def _make_store(self) -> Any:
        if "store_backend" in self.__dict__:  # this object was unpickled
            return self.store_backend
        location = os.path.join(self.location, "joblib") if isinstance(self.location, str) else self.location
        options = {"compress": self.compress, "mmap_mode": self.mmap_mode, **self.backend_options}
        return _store_backend_factory(self.backend, location, self._verbose, options)

    @staticmethod
    def _kind(is_async: bool) -> type[MemorizedFunc]:
        return AsyncMemorizedFunc if is_async else MemorizedFunc

    def __getstate__(self) -> dict[str, Any]:
        state = {**super().__getstate__(), "store_backend": self.store_backend}
        for name in ("hash_name", "compute_once", "keep_arguments", "limits"):  # nobody sets them under joblib's name
            del state[name]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({**vars(Memory()), **state})
