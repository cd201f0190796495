"""Where calls run: the registry of backends by name. Their modules are imported on first use."""

from __future__ import annotations

import sys

from shoal._cpus import is_serial
from shoal._environment import variable
from shoal._platform import capabilities
from shoal._typing import TYPE_CHECKING, NamedTuple
from shoal.backends.base import Backend, Factory, Slot, WorkerSpec, worker_index

if TYPE_CHECKING:
    from typing import Any

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


class _BuiltIn(NamedTuple):
    """A backend that comes with shoal."""

    module: str
    name: str
    extra: str | None = None  # the extra that installs its dependencies


_factories: dict[str, Factory | _BuiltIn] = {
    "dask": _BuiltIn("shoal.backends._dask", "DaskBackend", extra="dask"),
    "executor": _BuiltIn("shoal.backends._executors", "backend_over"),
    "loky": _BuiltIn("shoal.backends._processes", "LokyBackend"),
    "multiprocessing": _BuiltIn("shoal.backends._multiprocessing", "MultiprocessingBackend"),
    "ray": _BuiltIn("shoal.backends._ray", "RayBackend", extra="ray"),
    "sequential": _BuiltIn("shoal.backends._threads", "SequentialBackend"),
    "threading": _BuiltIn("shoal.backends._threads", "ThreadingBackend"),
}
_NEED_PROCESSES = ("loky", "multiprocessing")
_registered_default: str | None = None


def has_processes() -> bool:
    """Return whether worker processes can be used here. ``JOBLIB_MULTIPROCESSING=0`` forbids them."""
    return not is_serial() and capabilities.has_processes()


def default_name() -> str:
    """Return the name of the default backend.

    It is "threading" if the interpreter runs without a global lock or processes are not available, else "loky".
    """
    if _registered_default is not None:
        return _registered_default
    if name := variable("JOBLIB_TESTS_DEFAULT_PARALLEL_BACKEND"):
        return name
    gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    return "loky" if gil and has_processes() else "threading"


def names() -> list[str]:
    """Return the names of all registered backends, sorted."""
    return sorted(_factories)


def create(name: str, **options: Any) -> Backend:
    """Return a new backend, made by the factory that is registered under `name`.

    Raises
    ------
    ValueError
        If no backend has that name.
    MissingExtra
        If a package that the backend needs is not installed.
    """
    if name in _NEED_PROCESSES and not has_processes():
        if capabilities.has_threads():  # else the backend of threads says what is used instead
            from shoal._tracebacks import warn
            from shoal.errors import FallbackWarning

            warn(
                f"the backend {name!r} needs worker processes, which are not available here; threads are used instead",
                FallbackWarning,
            )
        name, options = "threading", {}
    try:
        factory = _factories[name]
    except (KeyError, TypeError):
        from shoal._hints import hint

        raise ValueError(f"Invalid backend: {name}, expected one of {names()}{hint(name, names())}") from None
    if isinstance(factory, _BuiltIn):
        import importlib

        try:
            module = importlib.import_module(factory.module)
        except ModuleNotFoundError as error:
            if factory.extra is None or (error.name or "shoal").startswith("shoal"):
                raise
            from shoal.errors import MissingExtra

            raise MissingExtra(f"the backend {factory.extra!r}", str(error.name), factory.extra) from None
        factory = _factories[name] = getattr(module, factory.name)  # the next time, nothing is imported
    return factory(**options)


def register_parallel_backend(name: str, factory: Factory, make_default: bool = False) -> None:
    """Register a backend under a name.

    Parameters
    ----------
    name
        The name for ``Parallel(backend=...)`` and ``parallel_config``.
    factory
        A subclass of :class:`~shoal.Backend`, or a function that returns an instance. It is called with the
        keywords given to ``parallel_config``, each time the backend is chosen by its name.
    make_default
        Whether the backend becomes the default.
    """
    global _registered_default
    _factories[name] = factory
    if make_default:
        _registered_default = name
