"""joblib's contexts, stored where shoal stores its own, so that each applies to both.

joblib's context is a dictionary of the arguments that were given. It is an attribute of a subclass of shoal's
``Settings``. So if a worker or ``shoal.parallel_config`` replaces the settings, the new ones apply to joblib as well.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from shoal import backends
from shoal._tracebacks import warn
from shoal.backends import Backend, has_processes
from shoal.errors import FallbackWarning
from shoal.parallel.options._settings import Settings, _current, current

from ._delegating import _ShoalBackend
from ._parallel_backends import (
    LokyBackend,
    MultiprocessingBackend,
    ParallelBackendBase,
    SequentialBackend,
    ThreadingBackend,
)
from ._utils import _Sentinel

VALID_BACKEND_HINTS = ("processes", "threads", None)
VALID_BACKEND_CONSTRAINTS = ("sharedmem", None)

#: The backends by name. Programs may change it.
BACKENDS: dict[str, Any] = {"threading": ThreadingBackend, "sequential": SequentialBackend}
MAYBE_AVAILABLE_BACKENDS = {"multiprocessing", "loky"}
DEFAULT_THREAD_BACKEND = DEFAULT_PROCESS_BACKEND = "threading"
if has_processes():
    BACKENDS.update(multiprocessing=MultiprocessingBackend, loky=LokyBackend)
    DEFAULT_PROCESS_BACKEND = "loky"


def _register_dask() -> None:
    """Register the backend "dask"; raises ValueError, as joblib does, if distributed is not installed."""
    try:
        import distributed  # noqa: F401

        from ._dask import DaskDistributedBackend
    except ImportError as error:
        raise ValueError(
            "The backend 'dask' is asked for, but dask is not installed. Please install dask and distributed: "
            "pip install 'shoal[dask]'"
        ) from error
    BACKENDS["dask"] = DaskDistributedBackend


#: Functions that register a backend when it is first needed, by its name.
EXTERNAL_BACKENDS: dict[str, Any] = {"dask": _register_dask}

#: The defaults of the arguments.
default_parallel_config: dict[str, Any] = {
    "backend": _Sentinel(default_value=None),
    "n_jobs": _Sentinel(default_value=None),
    "verbose": _Sentinel(default_value=0),
    "temp_folder": _Sentinel(default_value=None),
    "max_nbytes": _Sentinel(default_value="1M"),
    "mmap_mode": _Sentinel(default_value="r"),
    "prefer": _Sentinel(default_value=None),
    "require": _Sentinel(default_value=None),
}

_NO_CONTEXT = Settings()


class _Context(Settings):
    """Settings that joblib's ``parallel_config`` made."""

    config: dict[str, Any]


class _Backend:
    """joblib's thread-local state; here it belongs to a ``contextvars`` context."""

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that the active contexts were given."""
        return _active_config()

    @config.setter
    def config(self, config: dict[str, Any]) -> None:
        _enter(current(), config)


_backend = _Backend()


def _enter(before: Settings, config: dict[str, Any]) -> None:
    """Make `config` joblib's active context, and change shoal's settings accordingly."""
    given = {name: value for name, value in config.items() if not isinstance(value, _Sentinel)}
    context = _Context(*before._replace(**given))
    context.config = config
    _current.set(context)


def _active_config() -> dict[str, Any]:
    settings = current()
    if settings is _NO_CONTEXT or settings == _NO_CONTEXT:
        return default_parallel_config
    config: dict[str, Any] | None = getattr(settings, "config", None)
    if config is None:  # a worker or shoal.parallel_config made the settings
        config = {
            name: default if getattr(settings, name) == getattr(_NO_CONTEXT, name) else getattr(settings, name)
            for name, default in default_parallel_config.items()
        }
        if settings.backend is not None:
            config["backend"] = _as_joblib_backend(settings.backend, settings.depth)
    return config


def _as_joblib_backend(backend: Backend | str, level: int | None) -> ParallelBackendBase:
    """Return a backend of joblib's contract for one of shoal's contract, or for a name."""
    if isinstance(backend, ParallelBackendBase):
        return backend
    if isinstance(backend, str):
        made: ParallelBackendBase
        if backend in EXTERNAL_BACKENDS and backend not in BACKENDS:
            EXTERNAL_BACKENDS[backend]()
        if backend in BACKENDS:
            made = BACKENDS[backend](nesting_level=level)
        else:
            made = _ShoalBackend(backends.create(backend), nesting_level=level)
        return made
    factory = BACKENDS.get(backend.name)
    if (
        factory is None
        or not issubclass(factory, ParallelBackendBase)
        or type(backend).__module__.startswith(__package__)
    ):
        return _ShoalBackend(backend, nesting_level=level)
    made = factory(nesting_level=level, **backend.given_options)
    made.inner_max_num_threads = backend.inner_max_num_threads
    return made


def _default_name() -> str:
    """Return the current value of ``joblib.parallel.DEFAULT_BACKEND``."""
    return str(sys.modules[f"{__package__}.parallel"].DEFAULT_BACKEND)


def _get_config_param(param: Any, context_config: dict[str, Any], key: str) -> Any:
    """Return an argument if it was given, else the context's value, else the default."""
    if param is not default_parallel_config[key]:
        return param
    value = context_config[key]
    return value.default_value if isinstance(value, _Sentinel) else value


def get_active_backend(
    prefer: Any = default_parallel_config["prefer"],
    require: Any = default_parallel_config["require"],
    verbose: Any = default_parallel_config["verbose"],
) -> tuple[ParallelBackendBase, int | None]:
    """Return the backend that ``Parallel`` would use here, and the `n_jobs` of the context."""
    backend, config = _get_active_backend(prefer, require, verbose)
    return backend, _get_config_param(default_parallel_config["n_jobs"], config, "n_jobs")


def _get_active_backend(
    prefer: Any = default_parallel_config["prefer"],
    require: Any = default_parallel_config["require"],
    verbose: Any = default_parallel_config["verbose"],
) -> tuple[ParallelBackendBase, dict[str, Any]]:
    """Return the backend that ``Parallel`` would use here, and the context with which it would use it."""
    config = _active_config()
    active = _get_config_param(default_parallel_config["backend"], config, "backend")
    prefer = _get_config_param(prefer, config, "prefer")
    require = _get_config_param(require, config, "require")
    if prefer not in VALID_BACKEND_HINTS:
        raise ValueError(f"prefer={prefer} is not a valid backend hint, expected one of {VALID_BACKEND_HINTS}")
    if require not in VALID_BACKEND_CONSTRAINTS:
        raise ValueError(
            f"require={require} is not a valid backend constraint, expected one of {VALID_BACKEND_CONSTRAINTS}"
        )
    if prefer == "processes" and require == "sharedmem":
        raise ValueError("prefer == 'processes' and require == 'sharedmem' are inconsistent settings")
    backend = BACKENDS[_default_name()](nesting_level=0) if active is None else active
    threads = getattr(backend, "uses_threads", False)
    shares = require != "sharedmem" or getattr(backend, "supports_sharedmem", False)
    if shares and (active is not None or prefer is None or (prefer == "threads") == threads):
        return backend, config
    if shares and prefer == "processes":
        return BACKENDS[DEFAULT_PROCESS_BACKEND](nesting_level=backend.nesting_level), config
    instead = BACKENDS[DEFAULT_THREAD_BACKEND](nesting_level=backend.nesting_level)
    if active is not None and _get_config_param(verbose, config, "verbose") >= 10:
        print(  # noqa: T201 as joblib does
            f"Using {type(instead).__name__} as joblib backend instead of {type(backend).__name__} as the latter does "
            "not provide shared memory semantics."
        )
    return instead, {**config, "n_jobs": 1}  # the context's number was meant for another kind of worker


def factory_of(backend: str) -> Any:
    """Return the factory of the backend with this name; raises ValueError if there is none."""
    if backend not in BACKENDS:
        if backend in EXTERNAL_BACKENDS:
            EXTERNAL_BACKENDS[backend]()
        elif backend in MAYBE_AVAILABLE_BACKENDS:
            default = _default_name()
            warn(
                f"joblib backend '{backend}' is not available on your system, falling back to {default}.",
                FallbackWarning,
            )
            BACKENDS[backend] = BACKENDS[default]
        elif backend in backends.names():
            return lambda **given: _ShoalBackend(
                backends.create(backend, **{name: value for name, value in given.items() if name != "nesting_level"}),
                nesting_level=given.get("nesting_level"),
            )
    try:
        return BACKENDS[backend]
    except (KeyError, TypeError):
        raise ValueError(f"Invalid backend: {backend}, expected one of {sorted(BACKENDS)}") from None


class parallel_config:
    """Set defaults for the arguments of ``Parallel``, as :class:`shoal.parallel_config` does.

    Parameters
    ----------
    backend
        The name of a backend, or an instance of one.
    n_jobs, verbose, temp_folder, max_nbytes, mmap_mode, prefer, require
        As for :class:`Parallel`.
    inner_max_num_threads
        The number of threads that BLAS and OpenMP may use in each worker.
    **backend_params
        The options of the backend.
    """

    def __init__(
        self,
        backend: Any = default_parallel_config["backend"],
        *,
        n_jobs: Any = default_parallel_config["n_jobs"],
        verbose: Any = default_parallel_config["verbose"],
        temp_folder: Any = default_parallel_config["temp_folder"],
        max_nbytes: Any = default_parallel_config["max_nbytes"],
        mmap_mode: Any = default_parallel_config["mmap_mode"],
        prefer: Any = default_parallel_config["prefer"],
        require: Any = default_parallel_config["require"],
        inner_max_num_threads: int | None = None,
        **backend_params: Any,
    ) -> None:
        self._before = current()
        self.old_parallel_config: dict[str, Any] = _active_config()
        backend = self._check_backend(backend, inner_max_num_threads, **backend_params)
        new = {
            "backend": backend,
            "n_jobs": n_jobs,
            "verbose": verbose,
            "temp_folder": temp_folder,
            "max_nbytes": max_nbytes,
            "mmap_mode": mmap_mode,
            "prefer": prefer,
            "require": require,
        }
        self.parallel_config: dict[str, Any] = {
            **self.old_parallel_config,
            **{name: value for name, value in new.items() if not isinstance(value, _Sentinel)},
        }
        _enter(self._before, self.parallel_config)

    def _check_backend(self, backend: Any, inner_max_num_threads: int | None, **backend_params: Any) -> Any:
        if isinstance(backend, _Sentinel) or backend is None:
            if inner_max_num_threads is not None or backend_params:
                raise ValueError(
                    "inner_max_num_threads and other constructor parameters backend_params are only supported when "
                    "backend is not None."
                )
            return default_parallel_config["backend"] if isinstance(backend, _Sentinel) else None
        if isinstance(backend, str):
            backend = factory_of(backend)(**backend_params)
        elif backend_params:
            raise ValueError("Constructor parameters backend_params are only supported when backend is a string.")
        elif isinstance(backend, Backend):
            backend = _as_joblib_backend(backend, None)
        if inner_max_num_threads is not None:
            if not backend.supports_inner_max_num_threads:
                raise AssertionError(
                    f"{type(backend).__name__} does not accept setting the inner_max_num_threads argument."
                )
            backend.inner_max_num_threads = inner_max_num_threads
        if backend.nesting_level is None:
            outer = self.old_parallel_config["backend"]
            backend.nesting_level = getattr(outer, "nesting_level", None) or 0
        return backend

    def __enter__(self) -> Any:
        return self.parallel_config

    def __exit__(self, type: object, value: object, traceback: object) -> None:
        self.unregister()

    def unregister(self) -> None:
        """Restore the previous defaults."""
        _current.set(self._before)


class parallel_backend(parallel_config):
    """The older form of :class:`parallel_config`, with -1 as the default of `n_jobs`.

    Parameters
    ----------
    backend
        The name of a backend, or an instance of one.
    n_jobs
        The number of workers.
    inner_max_num_threads, **backend_params
        As for :class:`parallel_config`.
    """

    def __init__(
        self, backend: Any, n_jobs: Any = -1, inner_max_num_threads: int | None = None, **backend_params: Any
    ) -> None:
        super().__init__(backend=backend, n_jobs=n_jobs, inner_max_num_threads=inner_max_num_threads, **backend_params)
        old, new = self.old_parallel_config, self.parallel_config
        self.old_backend_and_jobs: tuple[Any, Any] = old["backend"], old["n_jobs"]
        self.new_backend_and_jobs: tuple[Any, Any] = new["backend"], new["n_jobs"]

    def __enter__(self) -> Any:
        return self.new_backend_and_jobs


def start_context() -> Any:
    """Return the multiprocessing context that ``JOBLIB_START_METHOD`` names, or None."""
    method = os.environ.get("JOBLIB_START_METHOD", "").strip()
    if not (method and has_processes()):
        return None
    import multiprocessing

    return multiprocessing.get_context(method)


DEFAULT_MP_CONTEXT = start_context()
