"""How many CPUs a run may use, and how many threads BLAS and OpenMP may start on them.

::

    cpu_count()                          the CPUs that the system, its quotas and the user allow this process
        │ cpu_budget()                   the same, or the share of the call that runs here, whichever is less
        ├──> n_jobs=-1                   as many workers
        │ divided by the processes of pytest-xdist, if this is one of them
        └──> cpu_share(n) = budget // n  for each worker: its BLAS threads, and the budget of runs inside its calls
             cpu_shares(n)               with what is left over: as many workers get one more

So threads times processes times BLAS threads stay within the CPUs that the outermost run found: docs/cpu-budget.md.
"""

# Every `from shoal import Parallel` imports this module, so it does not import pathlib, which is slow.

from __future__ import annotations

import functools
import os
import sys
from contextvars import ContextVar

from shoal._environment import variable
from shoal._platform.cpus import physical_cores, usable_cpus
from shoal._typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

# WaitForMultipleObjects waits for at most 64 handles, and an executor needs some of them: python/cpython#71090.
_MOST_ON_WINDOWS = 61

#: The value of a limit that does not exist.
NO_LIMIT = sys.maxsize

#: The CPUs that the call that runs here may use. The run that the call belongs to sets it around the call.
budget_of_call: ContextVar[int | None] = ContextVar("shoal CPU budget", default=None)

_CORE_COMMANDS = {
    "darwin": ("sysctl", "-n", "hw.physicalcpu"),
    "freebsd": ("sysctl", "-n", "kern.smp.cores"),
}

#: Environment variables that limit the threads of a BLAS, of OpenMP, or of libraries that use them.
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
    """Return whether the environment forbids all parallelism: ``JOBLIB_MULTIPROCESSING=0``."""
    return variable("JOBLIB_MULTIPROCESSING", "1").strip() == "0"


def cpu_count(only_physical_cores: bool = False) -> int:
    """Count the CPUs that this process may use.

    The result is the smallest of: the CPUs of the machine, the CPUs in the affinity mask of the process, the CPU quota
    of its control groups (rounded up), the CPUs that Slurm has given to its task or job on this machine, and the
    environment variable ``LOKY_MAX_CPU_COUNT``. The affinity mask and that variable are read at each call, the rest
    once per process. With ``JOBLIB_MULTIPROCESSING=0`` the result is 1.

    Thread-safe.

    Parameters
    ----------
    only_physical_cores : bool, default False
        Whether to count a core with several hardware threads once. A quota, Slurm's limit or ``LOKY_MAX_CPU_COUNT``
        that is below the number of CPUs of the machine applies unchanged. If the system does not report its cores,
        CPUs are counted, and a UserWarning says so once, unless ``LOKY_MAX_CPU_COUNT`` is set.

    Returns
    -------
    int
        The number of CPUs: at least 1, and at most 61 on Windows.

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
    usable = usable_cpus()
    available = machine if usable is None else min(machine, len(usable))
    allowed = min(_cgroup_limit(), _slurm_limit(), _user_limit())
    if only_physical_cores and allowed >= machine:
        if cores := _physical_cores(usable):
            allowed = cores
        elif "LOKY_MAX_CPU_COUNT" not in os.environ:
            _warn_cores_unknown()
    return max(min(available, allowed), 1)


class CpuLimits(NamedTuple):
    """What limits the number of CPUs. None stands for no limit.

    Attributes
    ----------
    machine
        The CPUs of the machine.
    affinity
        The CPUs in the affinity mask of this process.
    cgroup
        The CPU quota of the control groups, rounded up.
    slurm
        The CPUs that Slurm has given to the task or job on this machine.
    variable
        The value of ``LOKY_MAX_CPU_COUNT``.
    """

    machine: int
    affinity: int | None
    cgroup: int | None
    slurm: int | None
    variable: str | None


def cpu_limits() -> CpuLimits:
    """Return the numbers of which :func:`cpu_count` takes the smallest."""
    usable, quota, slurm = usable_cpus(), _cgroup_limit(), _slurm_limit()
    return CpuLimits(
        _machine_cpus(),
        None if usable is None else len(usable),
        None if quota == NO_LIMIT else quota,
        None if slurm == NO_LIMIT else slurm,
        os.environ.get("LOKY_MAX_CPU_COUNT"),
    )


def cpu_budget() -> int:
    """Return the number of CPUs for a run that starts here: those of the process; inside a call, at most its share."""
    share = budget_of_call.get()
    return cpu_count() if share is None else min(share, cpu_count())


def cpu_share(n_workers: int) -> int:
    """Return the number of CPUs for each of `n_workers` workers of a run that starts here: at least 1."""
    return cpu_shares(n_workers)[0]


def cpu_shares(n_workers: int) -> tuple[int, int]:
    """Return the :func:`cpu_share` of each of `n_workers` workers, and the number of CPUs that are left over then."""
    budget = cpu_budget()
    if budget_of_call.get() is None:  # the share of a call is a part of what pytest-xdist's processes divide
        budget //= _number("PYTEST_XDIST_WORKER_COUNT") or 1
    return divmod(budget, n_workers) if budget >= n_workers else (1, 0)


@functools.cache  # os.cpu_count() reads a file
def _machine_cpus() -> int:
    return os.cpu_count() or 1


def _user_limit() -> int:
    text = variable("LOKY_MAX_CPU_COUNT")
    if text is None:
        return NO_LIMIT
    try:
        return int(text)
    except ValueError:
        message = f"the environment variable LOKY_MAX_CPU_COUNT must be an integer, not {text!r}"
        raise ValueError(message) from None


@functools.cache
def _slurm_limit() -> int:
    """Return the number of CPUs that Slurm has given to this process on this machine.

    A task that ``srun`` has started has what ``--cpus-per-task`` says. A batch script has that for each of its tasks,
    because it may be all of them. Neither has more than the job has on this machine.
    """
    per_task = _number("SLURM_CPUS_PER_TASK")
    tasks = 1 if variable("SLURM_STEP_ID") else _number("SLURM_NTASKS") or 1
    return min(_number("SLURM_CPUS_ON_NODE") or NO_LIMIT, per_task * tasks or NO_LIMIT)


def _number(name: str) -> int:
    """Return the number that another program has put into an environment variable; 0 if there is none."""
    text = variable(name, "")
    return int(text) if text.isdecimal() else 0


@functools.cache
def _cgroup_limit(root: str = "") -> int:
    """Return the smallest CPU quota of this process's control groups and of all groups above them."""
    unified, legacy = cgroup_folders("cpu", root)
    quotas = [_read(f"{folder}/cpu.max") for folder in unified]
    quotas += [_read(f"{folder}/cpu.cfs_quota_us") + " " + _read(f"{folder}/cpu.cfs_period_us") for folder in legacy]
    limit = NO_LIMIT
    for quota in quotas:
        match quota.split():
            case [share, period] if share.isdigit() and period.isdigit():  # neither "max" nor -1
                if int(share) and int(period):
                    limit = min(limit, -(-int(share) // int(period)))
    return limit


def cgroup_folders(controller: str, root: str = "") -> tuple[list[str], list[str]]:
    """Return the folders of this process's control groups and of all groups above them, innermost first.

    Parameters
    ----------
    controller
        The name of a controller: "cpu", "memory".
    root
        The path of the root folder.

    Returns
    -------
    The folders of version 2 of cgroups, and those of version 1. They need not exist.
    """
    unified = legacy = "/"
    for line in _read(f"{root}/proc/self/cgroup").splitlines():
        controllers, _, path = line.partition(":")[2].partition(":")
        # A group outside of our cgroup namespace is shown as /../.. Then only the mount itself is visible.
        if path.startswith("/.."):
            continue
        if not controllers:
            unified = path
        elif controller in controllers.split(","):
            legacy = path
    mount = f"{root}/sys/fs/cgroup"
    return [*_upwards(mount, unified)], [*_upwards(f"{mount}/{controller}", legacy)]


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
    """Return the number of cores of the CPUs in `usable`; 0 if the system does not report its cores."""
    if sys.platform == "linux":
        cores = _linux_cores()
        count = len({cores[cpu] for cpu in cores if usable is None or cpu in usable})
    elif sys.platform == "win32":
        count = physical_cores()
    else:
        count = _cores_from_command()
    return count


@functools.cache
def _linux_cores(root: str = "") -> dict[int, str]:
    """Return a string that identifies the core of each CPU; empty if the system does not report its cores."""
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


@functools.cache  # a command is slow, also if it fails
def _cores_from_command() -> int:
    import subprocess

    try:
        command = next(c for platform, c in _CORE_COMMANDS.items() if sys.platform.startswith(platform))
        output = subprocess.run(command, capture_output=True, text=True, check=True)
        return int(output.stdout)
    except (StopIteration, OSError, subprocess.SubprocessError, ValueError):
        return 0


@functools.cache
def _warn_cores_unknown() -> None:
    from shoal._tracebacks import warn

    warn(
        "this system does not report its physical cores, so CPUs are counted instead. Set the environment variable "
        "LOKY_MAX_CPU_COUNT to the number of cores to use; then this warning does not appear",
        UserWarning,
    )


def thread_limits(n_threads: int | None, share: int) -> dict[str, str]:
    """Return environment variables that limit the BLAS and OpenMP threads of a worker process.

    If `n_threads` is None, the limit is the worker's `share` of the CPUs. Variables in the environment of this process
    keep their values; inside a call, they do so only if the value is below the share.
    """
    if n_threads is not None:
        limits = dict.fromkeys(THREAD_VARIABLES, str(n_threads))
    elif budget_of_call.get() is None:
        limits = {name: variable(name, str(share)) for name in THREAD_VARIABLES}
    else:  # the run of this call set the same variables to limit this worker
        limits = {name: str(min(threads_allowed(name), share)) for name in THREAD_VARIABLES}
    if variable("ENABLE_IPC") is None:
        limits["ENABLE_IPC"] = "1"  # lets TBB share the CPUs among several processes
    return limits


def threads_allowed(name: str) -> int:
    """Return the number of threads that an environment variable allows; :data:`NO_LIMIT` if it is not set."""
    value = variable(name, "")
    return int(value) if value.isdecimal() else NO_LIMIT
