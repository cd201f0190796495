"""How many CPUs there are to use, and how many threads BLAS and OpenMP may start on them.

::

    cpu_count()                          what the system, its quotas and the user let this process have
        │ cpu_budget()                   that, or a call's share of it, whichever is less
        ├──> n_jobs=-1                   as many workers
        └──> cpu_share(n) = budget // n  what each worker gets: BLAS threads, and the budget of its calls' own runs

So threads times processes times BLAS threads stay within what the outermost run found: docs/cpu-budget.md.
"""

# `from shoal import Parallel` comes by here, and pathlib is slow to import.

from __future__ import annotations

import functools
import os
import sys
from contextvars import ContextVar

TYPE_CHECKING = False  # typing's own costs an import; type checkers know this name too
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from typing import Any

# WaitForMultipleObjects waits for 64 handles at most, of which an executor keeps some: python/cpython#71090.
_MOST_ON_WINDOWS = 61

#: Stands for a limit where there is none.
NO_LIMIT = sys.maxsize

#: The CPUs that were given to the call that runs here; set around calls by the run that they belong to.
budget_of_call: ContextVar[int | None] = ContextVar("shoal CPU budget", default=None)

_CORE_COMMANDS = {
    "darwin": ("sysctl", "-n", "hw.physicalcpu"),
    "freebsd": ("sysctl", "-n", "kern.smp.cores"),
    "win32": (
        *("powershell.exe", "-NoProfile", "-NonInteractive", "-Command"),
        "(Get-CimInstance -ClassName Win32_Processor).NumberOfCores",
    ),
}

#: Each caps the threads of a BLAS, of OpenMP, or of what is built on them.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMBA_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


def is_serial() -> bool:
    """Tell whether the environment asks for no parallelism at all: ``JOBLIB_MULTIPROCESSING=0``."""
    return os.environ.get("JOBLIB_MULTIPROCESSING", "1").strip() == "0"


def cpu_count(only_physical_cores: bool = False) -> int:
    """Count the CPUs that this process may use.

    The smallest of: the CPUs of the machine, those in the affinity mask of the process, the CPU
    quota of its control groups (rounded up), and the environment variable ``LOKY_MAX_CPU_COUNT``.
    The affinity mask and the variable are read at each call, the rest once per process. With
    ``JOBLIB_MULTIPROCESSING=0`` it is 1.

    Parameters
    ----------
    only_physical_cores : bool, default False
        Count a core that runs several hardware threads once. A quota or ``LOKY_MAX_CPU_COUNT``
        below the CPUs of the machine is still taken as it is. Where cores cannot be told apart,
        a UserWarning says so once, unless ``LOKY_MAX_CPU_COUNT`` is set, and CPUs are counted.

    Returns
    -------
    int
        At least 1; on Windows at most 61.

    Raises
    ------
    ValueError
        If ``LOKY_MAX_CPU_COUNT`` is not an integer.
    """
    if is_serial():
        return 1
    machine = _machine_cpus()
    if sys.platform == "win32":
        machine = min(machine, _MOST_ON_WINDOWS)
    usable = _affinity()
    available = machine if usable is None else min(machine, len(usable))
    allowed = min(_cgroup_limit(), _user_limit())
    if only_physical_cores and allowed >= machine:
        if cores := _physical_cores(usable):
            allowed = cores
        elif "LOKY_MAX_CPU_COUNT" not in os.environ:
            _warn_cores_unknown()
    return max(min(available, allowed), 1)


def cpu_budget() -> int:
    """Return the CPUs for a run that starts here: those of the process; inside a call, no more than its share."""
    share = budget_of_call.get()
    return cpu_count() if share is None else min(share, cpu_count())


def cpu_share(n_workers: int) -> int:
    """Return the CPUs for each of `n_workers` workers of a run that starts here; at least 1."""
    return max(cpu_budget() // n_workers, 1)


@functools.cache  # the system reads it from a file
def _machine_cpus() -> int:
    return os.cpu_count() or 1


def _affinity() -> Collection[int] | None:
    """The CPUs that this process may run on; None where the system has no such mask."""
    mask: Collection[int] | None = None
    if hasattr(os, "sched_getaffinity"):
        mask = os.sched_getaffinity(0)
    elif hasattr(process := _psutil_process(), "cpu_affinity"):
        mask = process.cpu_affinity()
    return mask


@functools.cache  # a failed import is not cheap
def _psutil_process() -> Any:
    try:
        import psutil
    except ImportError:
        return None
    return psutil.Process()


def _user_limit() -> int:
    text = os.environ.get("LOKY_MAX_CPU_COUNT")
    if text is None:
        return NO_LIMIT
    try:
        return int(text)
    except ValueError:
        message = f"the environment variable LOKY_MAX_CPU_COUNT must be an integer, not {text!r}"
        raise ValueError(message) from None


@functools.cache
def _cgroup_limit(root: str = "") -> int:
    """The tightest CPU quota on the way from this process's control groups up to their roots."""
    unified = legacy = "/"
    for line in _read(f"{root}/proc/self/cgroup").splitlines():
        controllers, _, path = line.partition(":")[2].partition(":")
        # A group outside of our cgroup namespace shows as /../..: only the mount itself can be seen then.
        if path.startswith("/.."):
            continue
        if not controllers:
            unified = path
        elif "cpu" in controllers.split(","):
            legacy = path

    quotas = [_read(f"{folder}/cpu.max") for folder in _upwards(f"{root}/sys/fs/cgroup", unified)]
    quotas += [
        _read(f"{folder}/cpu.cfs_quota_us") + " " + _read(f"{folder}/cpu.cfs_period_us")
        for folder in _upwards(f"{root}/sys/fs/cgroup/cpu", legacy)
    ]
    limit = NO_LIMIT
    for quota in quotas:
        match quota.split():
            case [share, period] if share.isdigit() and period.isdigit():  # neither "max" nor -1
                if int(share) and int(period):
                    limit = min(limit, -(-int(share) // int(period)))
    return limit


def _upwards(mount: str, path: str) -> Iterator[str]:
    while path.strip("/"):
        yield mount + path
        path = os.path.dirname(path)
    yield mount


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""


def _physical_cores(usable: Collection[int] | None) -> int:
    """The cores that the CPUs in `usable` belong to; 0 if the system does not tell."""
    if sys.platform == "linux":
        cores = _linux_cores()
        count = len({cores[cpu] for cpu in cores if usable is None or cpu in usable})
    else:
        count = _cores_told_by_a_command()
    return count


@functools.cache
def _linux_cores(root: str = "") -> dict[int, str]:
    """For each CPU, a string that names its core; empty if the system does not tell."""
    cores = {}
    folder = f"{root}/sys/devices/system/cpu"
    for name in os.listdir(folder) if os.path.isdir(folder) else ():
        siblings = _read(f"{folder}/{name}/topology/thread_siblings_list")
        if siblings and name[3:].isdigit():
            cores[int(name[3:])] = siblings
    if cores:
        return cores
    # Sandboxes such as gVisor have no topology in /sys.
    for section in _read(f"{root}/proc/cpuinfo").split("\n\n"):
        rows = (line.partition(":") for line in section.splitlines())
        fields = {key.strip(): value.strip() for key, _, value in rows}
        if "core id" in fields and fields.get("processor", "").isdigit():
            cores[int(fields["processor"])] = f"{fields.get('physical id')}/{fields['core id']}"
    return cores


@functools.cache  # a command that fails is slow too
def _cores_told_by_a_command() -> int:
    import subprocess

    try:
        command = next(c for platform, c in _CORE_COMMANDS.items() if sys.platform.startswith(platform))
        no_window = getattr(subprocess, "CREATE_NO_WINDOW", 0)
        told = subprocess.run(command, capture_output=True, text=True, check=True, creationflags=no_window)
        return sum(map(int, told.stdout.split()))  # Windows has one line a socket
    except (StopIteration, OSError, subprocess.SubprocessError, ValueError):
        return 0


@functools.cache
def _warn_cores_unknown() -> None:
    import warnings

    warnings.warn(
        "this system does not tell its physical cores, so its CPUs are counted instead; "
        "set the environment variable LOKY_MAX_CPU_COUNT to the number to use, and this is not said",
        UserWarning,
        stacklevel=3,
    )


def thread_limits(n_threads: int | None, n_workers: int) -> dict[str, str]:
    """Environment variables that cap the BLAS and OpenMP threads of each of `n_workers` processes.

    Parameters
    ----------
    n_threads : int or None
        Threads for each worker. None shares the CPUs out evenly, at least one each, and keeps the
        variables that this process has been given itself; inside a call only those that are lower.
    n_workers : int
        Processes that run side by side.
    """
    share = cpu_share(n_workers)
    if n_threads is not None:
        limits = dict.fromkeys(THREAD_VARIABLES, str(n_threads))
    elif budget_of_call.get() is None:
        limits = {name: os.environ.get(name, str(share)) for name in THREAD_VARIABLES}
    else:  # this worker was given its own limits by the same variables
        limits = {name: str(min(threads_allowed(name), share)) for name in THREAD_VARIABLES}
    if "ENABLE_IPC" not in os.environ:
        limits["ENABLE_IPC"] = "1"  # schedulers of TBB in several processes then share the CPUs
    return limits


def threads_allowed(name: str) -> int:
    """Return the number of threads that an environment variable says; without one, more than there ever are."""
    value = os.environ.get(name, "")
    return int(value) if value.isdecimal() else NO_LIMIT
