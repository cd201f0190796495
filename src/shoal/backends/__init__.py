"""Where calls run: the names of backends, and what stands behind them, loaded on first use."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any, NamedTuple

from shoal._cpus import is_serial
from shoal._tracebacks import warn
from shoal.backends.base import Backend, Factory, Slot, WorkerSpec, worker_index
from shoal.errors import FallbackWarning, MissingExtra

__all__ = [
    "Backend",
    "Slot",
    "WorkerSpec",
    "create",
    "default_name",
    "names",
    "register_parallel_backend",
    "worker_index",
]


class _Ours(NamedTuple):
    """A backend of shoal's, which is imported when it is first asked for."""

    module: str
    name: str
    extra: str | None = None  # the extra that installs what it needs


_factories: dict[str, Factory | _Ours] = {
    "dask": _Ours("shoal.backends._dask", "DaskBackend", extra="dask"),
    "loky": _Ours("shoal.backends._processes", "LokyBackend"),
    "multiprocessing": _Ours("shoal.backends._multiprocessing", "MultiprocessingBackend"),
    "ray": _Ours("shoal.backends._ray", "RayBackend", extra="ray"),
    "sequential": _Ours("shoal.backends._threads", "SequentialBackend"),
    "threading": _Ours("shoal.backends._threads", "ThreadingBackend"),
}
_NEED_PROCESSES = ("loky", "multiprocessing")
_registered_default: str | None = None


def has_processes() -> bool:
    """Tell whether worker processes can be used here: not if ``JOBLIB_MULTIPROCESSING=0`` forbids them."""
    return not is_serial() and sys.platform not in ("emscripten", "wasi")


def default_name() -> str:
    """Return the name of the backend that is used where none is asked for.

    Threads where the interpreter runs without a global lock or where there can be no processes, else loky.
    """
    if _registered_default is not None:
        return _registered_default
    asked = os.environ.get("JOBLIB_TESTS_DEFAULT_PARALLEL_BACKEND")
    if asked:
        return asked
    gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    return "loky" if gil and has_processes() else "threading"


def names() -> list[str]:
    """Return the names of all registered backends, sorted."""
    return sorted(_factories)


def create(name: str, **options: Any) -> Backend:
    """Return a new backend of that name.

    Raises
    ------
    ValueError
        If no backend has that name.
    MissingExtra
        If what it needs is not installed.
    """
    if name in _NEED_PROCESSES and not has_processes():
        warn(
            f"the backend {name!r} needs worker processes, which are not available here; threads are used instead",
            FallbackWarning,
        )
        name, options = "threading", {}
    try:
        factory = _factories[name]
    except (KeyError, TypeError):
        import difflib

        near = difflib.get_close_matches(str(name).lower(), names(), 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"Invalid backend: {name}, expected one of {names()}{hint}") from None
    if isinstance(factory, _Ours):
        try:
            module = importlib.import_module(factory.module)
        except ModuleNotFoundError as error:
            if factory.extra is None or (error.name or "shoal").startswith("shoal"):
                raise
            raise MissingExtra(f"the backend {factory.extra!r}", str(error.name), factory.extra) from None
        factory = getattr(module, factory.name)
    return factory(**options)


def register_parallel_backend(name: str, factory: Factory, make_default: bool = False) -> None:
    """Make a backend known by a name.

    Parameters
    ----------
    name
        What ``Parallel(backend=...)`` and ``parallel_config`` will take.
    factory
        Called with the keywords given to ``parallel_config`` whenever the backend is asked for; returns a
        :class:`~shoal.backends.Backend`. A class of backends is one.
    make_default
        Whether it is used from now on where no backend is asked for.
    """
    global _registered_default
    _factories[name] = factory
    if make_default:
        _registered_default = name
