"""shoal runs calls in parallel and stores their results: a drop-in replacement for joblib.

>>> from shoal import Parallel, delayed
>>> Parallel(n_jobs=1)(delayed(pow)(x, 2) for x in range(4))
[0, 1, 4, 9]

A public name is loaded when it is first used. Importing shoal imports nothing else.
"""

from __future__ import annotations

import os

from shoal._typing import TYPE_CHECKING

__version__ = "0.1.0"

# Intel's OpenMP must not start its threads in a forked child. joblib sets the same variable.
os.environ.setdefault("KMP_INIT_AT_FORK", "FALSE")

if TYPE_CHECKING:
    from typing import Any

    from shoal._cpus import cpu_count
    from shoal.backends import Backend, Slot, WorkerSpec, register_parallel_backend, worker_index
    from shoal.backends._pool import shutdown_workers
    from shoal.compat import install_as_joblib
    from shoal.errors import (
        ArgumentError,
        CacheWarning,
        CallPicklingError,
        CallStopped,
        CallUnpicklingError,
        CollisionWarning,
        CorruptFile,
        DamagedFile,
        DumpPicklingError,
        EmptyFile,
        FailedCall,
        FallbackWarning,
        FileInUse,
        FileLimitError,
        ForeignFile,
        HashingError,
        MissingExtra,
        MissingMainGuard,
        NoSpaceError,
        RemoteTraceback,
        RunEnded,
        RunTimeout,
        TaskTimeout,
        TruncatedFile,
        UntrustedFile,
        UnusedResultsWarning,
        VersionWarning,
        WorkerDied,
        WorkerStartError,
    )
    from shoal.hashing import hash, register_hasher
    from shoal.memory._cached import MemorizedFunc, NotMemorizedFunc
    from shoal.memory._memory import Memory
    from shoal.memory._results import MemorizedResult, NotMemorizedResult, expires_after
    from shoal.memory.formats import register_format
    from shoal.memory.store import register_store_backend
    from shoal.observe._messages import send, step
    from shoal.parallel._by_value import wrap_non_picklable_objects
    from shoal.parallel._delayed import delayed
    from shoal.parallel._executor import executor
    from shoal.parallel._parallel import Parallel
    from shoal.parallel.options._contexts import parallel_backend, parallel_config
    from shoal.parallel.options._settings import effective_n_jobs
    from shoal.parallel.running._resume import ResultCache
    from shoal.parallel.transport._shared import shared
    from shoal.persistence._dump import dump
    from shoal.persistence._inspect import FileInfo, inspect
    from shoal.persistence._load import load
    from shoal.persistence.compression import CompressorWrapper, register_compressor
    from shoal.reports._report import Report, report

_HOMES = {
    "shoal._cpus": ("cpu_count",),
    "shoal.backends": ("Backend", "Slot", "WorkerSpec", "register_parallel_backend", "worker_index"),
    "shoal.backends._pool": ("shutdown_workers",),
    "shoal.compat": ("install_as_joblib",),
    "shoal.errors": (
        "ArgumentError",
        "CacheWarning",
        "CallPicklingError",
        "CallStopped",
        "CallUnpicklingError",
        "CollisionWarning",
        "CorruptFile",
        "DamagedFile",
        "DumpPicklingError",
        "EmptyFile",
        "FailedCall",
        "FallbackWarning",
        "FileInUse",
        "FileLimitError",
        "ForeignFile",
        "HashingError",
        "MissingExtra",
        "MissingMainGuard",
        "NoSpaceError",
        "RemoteTraceback",
        "RunEnded",
        "RunTimeout",
        "TaskTimeout",
        "TruncatedFile",
        "UntrustedFile",
        "UnusedResultsWarning",
        "VersionWarning",
        "WorkerDied",
        "WorkerStartError",
    ),
    "shoal.hashing": ("hash", "register_hasher"),
    "shoal.memory._cached": ("MemorizedFunc", "NotMemorizedFunc"),
    "shoal.memory._memory": ("Memory",),
    "shoal.memory._results": ("MemorizedResult", "NotMemorizedResult", "expires_after"),
    "shoal.memory.formats": ("register_format",),
    "shoal.memory.store": ("register_store_backend",),
    "shoal.observe._messages": ("send", "step"),
    "shoal.parallel._by_value": ("wrap_non_picklable_objects",),
    "shoal.parallel._delayed": ("delayed",),
    "shoal.parallel._executor": ("executor",),
    "shoal.parallel._parallel": ("Parallel",),
    "shoal.parallel.running._resume": ("ResultCache",),
    "shoal.parallel.options._contexts": ("parallel_backend", "parallel_config"),
    "shoal.parallel.options._settings": ("effective_n_jobs",),
    "shoal.parallel.transport._shared": ("shared",),
    "shoal.persistence._dump": ("dump",),
    "shoal.persistence._inspect": ("FileInfo", "inspect"),
    "shoal.persistence._load": ("load",),
    "shoal.persistence.compression": ("CompressorWrapper", "register_compressor"),
    "shoal.reports._report": ("Report", "report"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "ArgumentError",
    "Backend",
    "CacheWarning",
    "CallPicklingError",
    "CallStopped",
    "CallUnpicklingError",
    "CollisionWarning",
    "CompressorWrapper",
    "CorruptFile",
    "DamagedFile",
    "DumpPicklingError",
    "EmptyFile",
    "FailedCall",
    "FallbackWarning",
    "FileInUse",
    "FileInfo",
    "FileLimitError",
    "ForeignFile",
    "HashingError",
    "MemorizedFunc",
    "MemorizedResult",
    "Memory",
    "MissingExtra",
    "MissingMainGuard",
    "NoSpaceError",
    "NotMemorizedFunc",
    "NotMemorizedResult",
    "Parallel",
    "RemoteTraceback",
    "Report",
    "ResultCache",
    "RunEnded",
    "RunTimeout",
    "Slot",
    "TaskTimeout",
    "TruncatedFile",
    "UntrustedFile",
    "UnusedResultsWarning",
    "VersionWarning",
    "WorkerDied",
    "WorkerSpec",
    "WorkerStartError",
    "cpu_count",
    "delayed",
    "dump",
    "effective_n_jobs",
    "executor",
    "expires_after",
    "hash",
    "inspect",
    "install_as_joblib",
    "load",
    "parallel_backend",
    "parallel_config",
    "register_compressor",
    "register_format",
    "register_hasher",
    "register_parallel_backend",
    "register_store_backend",
    "report",
    "send",
    "shared",
    "shutdown_workers",
    "step",
    "worker_index",
    "wrap_non_picklable_objects",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(__import__(_HOME[name], fromlist=(name,)), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if os.environ.get("SHOAL_REPORT"):
    from shoal.reports._folder import report_into as _report_into

    _report_into(os.environ["SHOAL_REPORT"])

if os.environ.get("SHOAL_AS_JOBLIB") == "1":
    from shoal.compat import install_as_joblib as _install

    _install()
