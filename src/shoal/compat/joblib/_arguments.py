"""Resolves the arguments of joblib's ``Parallel``: an argument overrides the context, and that the default."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from shoal.backends import Backend
from shoal.parallel.options._checks import check
from shoal.parallel.options._settings import Settings, current, origins_of

from ._config import _as_joblib_backend, _get_active_backend, _get_config_param, default_parallel_config, factory_of
from ._parallel_backends import (
    LokyBackend,
    MultiprocessingBackend,
    ParallelBackendBase,
    SequentialBackend,
    ThreadingBackend,
)
from .disk import memstr_to_bytes

_RETURNS_GENERATOR = ("generator", "generator_unordered")


class Resolved(NamedTuple):
    """The resolved arguments of a ``Parallel``."""

    backend: Any  # of joblib's contract
    settings: Settings
    backend_kwargs: dict[str, Any]  # for the backend's configure()
    origins: Callable[[], Mapping[str, str]]  # as those of a Plan


def resolve(
    mp_context: Callable[[], Any], return_as: str, backend_kwargs: dict[str, Any], **arguments: Any
) -> Resolved:
    """Resolve the arguments of a ``Parallel``; raises ValueError if they are wrong or contradict each other.

    `mp_context` returns the multiprocessing context that backends of other projects receive.
    """
    prefer, require, verbose = arguments["prefer"], arguments["require"], arguments["verbose"]
    active, context = _get_active_backend(prefer=prefer, require=require, verbose=verbose)
    given = {
        name: _get_config_param(arguments[name], context, name)
        for name in ("max_nbytes", "temp_folder", "mmap_mode", "prefer", "require", "verbose")
    }
    if isinstance(given["max_nbytes"], str):
        given["max_nbytes"] = memstr_to_bytes(given["max_nbytes"])
    backend, backend_kwargs = _choose_backend(arguments["backend"], active, {**backend_kwargs, **given})
    backend_kwargs["verbose"] = max(0, given["verbose"] - 50)
    if "context" not in backend_kwargs and type(backend) not in (LokyBackend, ThreadingBackend, SequentialBackend):
        multiprocessing = mp_context()
        if multiprocessing is not None:
            backend_kwargs["context"] = multiprocessing
    n_jobs = default_parallel_config["n_jobs"] if arguments["n_jobs"] is None else arguments["n_jobs"]
    n_jobs = _get_config_param(n_jobs, context, "n_jobs")
    try:
        n_jobs = int(backend.default_n_jobs if n_jobs is None else n_jobs)
    except (ValueError, TypeError, OverflowError):
        raise ValueError("n_jobs could not be converted to int") from None
    if require == "sharedmem" and not getattr(backend, "supports_sharedmem", False):
        raise ValueError(f"Backend {backend} does not support shared memory")
    if return_as in _RETURNS_GENERATOR and not (
        isinstance(backend, SequentialBackend) or backend.supports_return_generator
    ):
        raise ValueError(f"Backend {backend} does not support return_as={return_as}")
    settings = current()._replace(
        n_jobs=n_jobs,
        verbose=given["verbose"],
        temp_folder=None,
        max_nbytes=given["max_nbytes"],
        mmap_mode=given["mmap_mode"],
        prefer=None,
        require=None,
        depth=backend.nesting_level or 0,
    )
    check(settings._asdict())
    return Resolved(backend, settings, backend_kwargs, partial(origins_of, current(), arguments))


def _choose_backend(backend: Any, active: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return the requested backend, or else the active one, and the arguments of its ``configure``."""
    level = active.nesting_level
    if backend is None or backend is default_parallel_config["backend"]:
        return active, kwargs
    if isinstance(backend, ParallelBackendBase):
        if backend.nesting_level is None:
            backend.nesting_level = level
        return backend, kwargs
    if isinstance(backend, Backend):
        return _as_joblib_backend(backend, level), kwargs
    if hasattr(backend, "Pool") and hasattr(backend, "Lock"):
        return MultiprocessingBackend(nesting_level=level), {**kwargs, "context": backend}
    return factory_of(backend)(nesting_level=level), kwargs
