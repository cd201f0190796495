"""``shoal env``: what a bug report needs to know about the environment. Only ``--blas`` imports anything large."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import sys
import sysconfig
import tempfile
from argparse import Namespace
from collections.abc import Iterable, Iterator
from typing import Any

import shoal
from shoal import backends
from shoal._cpus import THREAD_VARIABLES, cgroup_folders, cpu_count, cpu_limits
from shoal._platform.posix import posix
from shoal._sizes import format_size
from shoal.cli._text import DONE, FAILED, complain, say, say_json
from shoal.errors import printable

#: The packages whose versions are shown.
_PACKAGES = (
    *("numpy", "scipy", "scikit-learn", "joblib", "loky", "cloudpickle", "dask", "distributed", "ray", "threadpoolctl"),
    *("xxhash", "isal", "zlib-ng", "fsspec", "pyarrow", "lz4", "psutil", "tqdm"),
)
#: Environment variables that shoal, joblib, or a BLAS reads: these, and those that begin with a prefix.
_VARIABLES = (
    *(*THREAD_VARIABLES, "ENABLE_IPC", "PYTHON_GIL", "PYTHONFAULTHANDLER", "PYTHONUNBUFFERED", "TMPDIR"),
    *("PYTEST_XDIST_WORKER_COUNT", "SLURM_CPUS_ON_NODE", "SLURM_CPUS_PER_TASK", "SLURM_NTASKS", "SLURM_STEP_ID"),
)
_PREFIXES = ("SHOAL_", "JOBLIB_", "LOKY_", "OMP_", "OPENBLAS_", "GOTO_", "MKL_", "BLIS_", "KMP_", "VECLIB_", "GOMP_")
#: What is shown instead of None.
_NONE = {
    "affinity": "no limit",
    "cgroup": "no limit",
    "Slurm": "no limit",
    "cgroup limit bytes": "no limit",
    "LOKY_MAX_CPU_COUNT": "not set",
}
#: Control groups without a limit of memory show a number near 2**63.
_UNLIMITED = 2**60


def main(given: Namespace) -> int:
    """Show the environment, as text or as JSON."""
    sections: dict[str, dict[str, Any]] = {
        "shoal": _shoal(),
        "python": _python(),
        "cpus": _cpus(),
        "memory": _memory(),
        "limits": _limits(),
        "backends": _backends(),
        "variables": _variables(),
        "packages": dict(_versions(_PACKAGES)),
    }
    code = DONE
    if given.blas:
        try:
            sections["blas"] = _blas()
        except ImportError as error:
            complain(f"--blas: {error}")
            code = FAILED
    if given.json:
        say_json(sections)
        return code
    for title, values in sections.items():
        say(f"{title}:")
        width = max(map(len, values), default=0)
        for name, value in values.items():
            say(f"  {name.ljust(width)}  {printable(_as_text(name, value))}")
        if not values:
            say("  none")
    return code


def _as_text(name: str, value: Any) -> str:
    if value is None:
        return _NONE.get(name, "unknown")
    if type(value) is bool:
        return "yes" if value else "no"
    return format_size(value) if name.endswith("bytes") else str(value)


def _shoal() -> dict[str, Any]:
    return {
        "version": shoal.__version__,
        "folder": os.path.dirname(os.path.abspath(shoal.__file__)),
        "in joblib's place": os.environ.get("SHOAL_AS_JOBLIB") == "1",
    }


def _python() -> dict[str, Any]:
    return {
        "version": sys.version.replace("\n", " "),
        "implementation": platform.python_implementation(),
        "executable": sys.executable,
        "free-threaded": bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
        "GIL enabled": getattr(sys, "_is_gil_enabled", lambda: True)(),
        "platform": platform.platform(),
        "C library": " ".join(platform.libc_ver()).strip() or None,
    }


def _cpus() -> dict[str, Any]:
    limits = cpu_limits()
    try:
        usable: Any = cpu_count()
    except ValueError as error:
        usable = str(error)
    return {
        "usable": usable,
        "machine": limits.machine,
        "affinity": limits.affinity,
        "cgroup": limits.cgroup,
        "Slurm": limits.slurm,
        "LOKY_MAX_CPU_COUNT": limits.variable,
    }


def _memory() -> dict[str, Any]:
    values: dict[str, Any] = {"machine bytes": None, "cgroup limit bytes": _cgroup_memory()}
    try:
        values["machine bytes"] = posix.sysconf("SC_PHYS_PAGES") * posix.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # this system does not tell
        pass
    values["memfd"] = hasattr(os, "memfd_create")
    for name, folder in (("/dev/shm", "/dev/shm"), ("temporary folder", tempfile.gettempdir())):
        try:
            status = posix.statvfs(folder)
        except (AttributeError, OSError):
            continue
        values[f"{name} bytes"] = status.f_frsize * status.f_blocks
        values[f"{name} free bytes"] = status.f_frsize * status.f_bavail
    return values


def _cgroup_memory() -> int | None:
    unified, legacy = cgroup_folders("memory")
    files = [f"{folder}/memory.max" for folder in unified] + [f"{folder}/memory.limit_in_bytes" for folder in legacy]
    found = []
    for path in files:
        try:
            with open(path, encoding="ascii") as file:
                found.append(int(file.read()))
        except (OSError, ValueError):  # there is no such file, or no limit: "max"
            continue
    return min((limit for limit in found if limit < _UNLIMITED), default=None)


def _limits() -> dict[str, Any]:
    try:
        import resource
    except ImportError:  # Windows
        return {}
    limits: Any = resource
    values = {}
    for option, name in (("-n", "RLIMIT_NOFILE"), ("-u", "RLIMIT_NPROC"), ("-v", "RLIMIT_AS")):
        if hasattr(limits, name):
            soft, hard = (
                "unlimited" if limit == limits.RLIM_INFINITY else str(limit)
                for limit in limits.getrlimit(getattr(limits, name))
            )
            values[f"ulimit {option}"] = soft if soft == hard else f"{soft} (up to {hard})"
    return values


def _backends() -> dict[str, Any]:
    values: dict[str, Any] = {"default": backends.default_name(), "start method of workers": _start_method()}
    for name in backends.names():
        values[name] = _lack(name) or "available"
    return values


def _start_method() -> str:
    default = "fork server" if sys.platform == "linux" and sys.executable else "loky" if os.name == "posix" else "spawn"
    return os.environ.get("SHOAL_START_METHOD") or default


def _lack(name: str) -> str:
    """Return what a backend lacks; "" if it can be used."""
    package = {"dask": "distributed", "ray": "ray"}.get(name)
    if package is not None and importlib.util.find_spec(package) is None:
        return f"{package} is not installed: pip install 'shoal[{name}]'"
    if name in ("loky", "multiprocessing") and not backends.has_processes():
        return "there are no worker processes here: threads are used instead"
    return ""


def _variables() -> dict[str, str]:
    return {
        name: value for name, value in sorted(os.environ.items()) if name in _VARIABLES or name.startswith(_PREFIXES)
    }


def _versions(packages: Iterable[str]) -> Iterator[tuple[str, str]]:
    for package in packages:
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            version = "not installed"
        yield package, version


def _blas() -> dict[str, Any]:
    import numpy  # noqa: F401 it loads its BLAS
    import threadpoolctl

    names = ("num_threads", "version", "threading_layer", "architecture", "filepath")
    return {
        f"{pool['internal_api']} {number}": ", ".join(f"{name}={pool[name]}" for name in names if pool.get(name))
        for number, pool in enumerate(threadpoolctl.threadpool_info())
    }
