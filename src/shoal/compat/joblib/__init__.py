"""The package that shoal serves under the name joblib: the names of joblib 1.6, in the same modules.

Each module is loaded when it is first used, as an attribute or by an import.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

__version__ = "1.6.0"

os.environ.setdefault("KMP_INIT_AT_FORK", "FALSE")

_HOME = {
    "Logger": "logger",
    "MemorizedResult": "memory",
    "Memory": "memory",
    "Parallel": "parallel",
    "ParallelBackendBase": "_parallel_backends",
    "PrintTime": "logger",
    "StoreBackendBase": "_store_backends",
    "cpu_count": "parallel",
    "delayed": "parallel",
    "dump": "numpy_pickle",
    "effective_n_jobs": "parallel",
    "expires_after": "memory",
    "hash": "hashing",
    "load": "numpy_pickle",
    "parallel_backend": "parallel",
    "parallel_config": "parallel",
    "register_compressor": "compressor",
    "register_parallel_backend": "parallel",
    "register_store_backend": "memory",
    "wrap_non_picklable_objects": "_cloudpickle_wrapper",
}
_SUBMODULES = frozenset(
    {
        "_cloudpickle_wrapper",
        "_dask",
        "_memmapping_reducer",
        "_multiprocessing_helpers",
        "_parallel_backends",
        "_store_backends",
        "_utils",
        "backports",
        "compressor",
        "disk",
        "executor",
        "externals",
        "func_inspect",
        "hashing",
        "logger",
        "memory",
        "numpy_pickle",
        "numpy_pickle_compat",
        "numpy_pickle_utils",
        "parallel",
        "pool",
    }
)

__all__ = [  # noqa: RUF022 joblib's order
    "Memory",
    "MemorizedResult",
    "expires_after",
    "Parallel",
    "delayed",
    "cpu_count",
    "effective_n_jobs",
    "wrap_non_picklable_objects",
    "parallel_config",
    "parallel_backend",
    "ParallelBackendBase",
    "StoreBackendBase",
    "register_compressor",
    "register_parallel_backend",
    "register_store_backend",
    "PrintTime",
    "Logger",
    "hash",
    "dump",
    "load",
]


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_SUBMODULES})


def _register_start_method() -> None:
    """Register the start method "loky" of multiprocessing; loky is imported when the method is used."""
    from multiprocessing import context, util  # noqa: F401 joblib's users expect multiprocessing.util to be imported

    contexts: Any = context._concrete_contexts  # type: ignore[attr-defined]

    class Lazy:
        _name = "loky"

        def __getattr__(self, name: str) -> Any:
            from loky.backend.context import LokyContext

            contexts["loky"] = LokyContext()
            return getattr(contexts["loky"], name)

    contexts.setdefault("loky", Lazy())


_register_start_method()
