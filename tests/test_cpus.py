from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from _capabilities import needs_affinity, needs_proc
from shoal import _cpus
from shoal._cpus import cpu_count, cpu_share, cpu_shares, thread_limits
from shoal._platform import cpus as platform_cpus

NO_LIMIT = sys.maxsize


@pytest.fixture(autouse=True)
def no_thread_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOKY_MAX_CPU_COUNT", "ENABLE_IPC", *_cpus.THREAD_VARIABLES):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def fake_machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Simulate a machine in this process. Without threads_per_core, the system does not report its cores."""

    def fake(cpus: int, mask: int | None = None, quota: int = NO_LIMIT, threads_per_core: int | None = 1) -> None:
        cores = {cpu: str(cpu // threads_per_core) for cpu in range(cpus)} if threads_per_core else {}
        monkeypatch.setattr(sys, "platform", "linux")
        monkeypatch.setattr(_cpus, "_machine_cpus", lambda: cpus)
        usable = None if mask is None else set(range(mask))
        monkeypatch.setattr(_cpus, "usable_cpus", lambda: usable)
        monkeypatch.setattr(_cpus, "_cgroup_limit", lambda: quota)
        monkeypatch.setattr(_cpus, "_linux_cores", lambda: cores)

    _cpus._warn_cores_unknown.cache_clear()
    yield fake
    _cpus._warn_cores_unknown.cache_clear()


@given(
    st.integers(1, 300),
    st.integers(1, 300) | st.none(),
    st.integers(1, 300),
    st.integers(-2, 300) | st.none(),
)
def test_cpu_count_is_the_smallest_limit(cpus: int, mask: int | None, quota: int, variable: int | None) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "platform", "linux")  # Windows has one more limit
        patch.setattr(_cpus, "_machine_cpus", lambda: cpus)
        patch.setattr(_cpus, "usable_cpus", lambda: mask and range(mask))
        patch.setattr(_cpus, "_cgroup_limit", lambda: quota)
        if variable is not None:
            patch.setenv("LOKY_MAX_CPU_COUNT", str(variable))
        limits = [limit for limit in (cpus, mask, quota, variable) if limit is not None]
        assert cpu_count() == max(min(limits), 1)


def test_an_unknown_number_of_cpus_counts_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    monkeypatch.setattr(_cpus, "_machine_cpus", _cpus._machine_cpus.__wrapped__)
    assert cpu_count() == cpu_count(only_physical_cores=True) == 1


def test_the_variable_is_read_at_each_call(monkeypatch: pytest.MonkeyPatch, fake_machine: Callable[..., None]) -> None:
    fake_machine(8)
    counts = [cpu_count()]
    for text in ("3", " 2 ", "0", "100"):
        monkeypatch.setenv("LOKY_MAX_CPU_COUNT", text)
        counts.append(cpu_count())
    assert counts == [8, 3, 2, 1, 8]


@pytest.mark.parametrize("text", ["", "two", "1.5", "1,5"])
def test_a_variable_that_is_no_integer_raises_an_error_that_names_it(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", text)
    with pytest.raises(ValueError, match=f"LOKY_MAX_CPU_COUNT must be an integer, not {text!r}"):
        cpu_count()


def test_cpu_count_is_at_most_61_on_windows(monkeypatch: pytest.MonkeyPatch, fake_machine: Callable[..., None]) -> None:
    fake_machine(128)
    assert cpu_count() == 128
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(_cpus, "physical_cores", lambda: 96)
    assert cpu_count() == cpu_count(only_physical_cores=True) == 61


def test_the_affinity_comes_from_psutil_if_os_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    class Process:
        def cpu_affinity(self) -> list[int]:
            return [0, 1, 2]

    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(sys, "platform", "freebsd14")
    for process, mask in ((Process(), [0, 1, 2]), (object(), None), (None, None)):
        monkeypatch.setattr(platform_cpus, "_psutil_process", lambda process=process: process)
        assert platform_cpus.usable_cpus() == mask


# Physical cores


def test_the_hardware_threads_of_a_core_count_once(fake_machine: Callable[..., None]) -> None:
    fake_machine(8, threads_per_core=2)
    assert (cpu_count(), cpu_count(only_physical_cores=True)) == (8, 4)
    fake_machine(8, mask=3, threads_per_core=2)
    assert (cpu_count(), cpu_count(only_physical_cores=True)) == (3, 2)


def test_a_limit_of_the_user_is_not_reduced_to_cores(
    monkeypatch: pytest.MonkeyPatch, fake_machine: Callable[..., None]
) -> None:
    fake_machine(8, quota=6, threads_per_core=2)
    assert cpu_count(only_physical_cores=True) == 6
    fake_machine(8, threads_per_core=2)
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "5")
    assert cpu_count(only_physical_cores=True) == 5
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "8")
    assert cpu_count(only_physical_cores=True) == 4


@pytest.mark.filterwarnings("always::UserWarning")
def test_unknown_cores_cause_one_warning(fake_machine: Callable[..., None], recwarn: pytest.WarningsRecorder) -> None:
    fake_machine(8, mask=7, threads_per_core=None)
    assert [cpu_count(only_physical_cores=True) for _ in range(3)] == [7, 7, 7]
    warning = recwarn.pop(UserWarning)
    assert "LOKY_MAX_CPU_COUNT" in str(warning.message)
    assert warning.filename == __file__
    assert not recwarn.list


def test_the_variable_silences_the_warning(monkeypatch: pytest.MonkeyPatch, fake_machine: Callable[..., None]) -> None:
    fake_machine(8, threads_per_core=None)
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "8")
    assert cpu_count(only_physical_cores=True) == 8


def plant(root: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(root)


@pytest.fixture
def topology(tmp_path: Path) -> Callable[[dict[str, str]], dict[int, str]]:
    return lambda files: _cpus._linux_cores(plant(tmp_path, files))


def test_cores_from_sysfs(topology: Callable[[dict[str, str]], dict[int, str]]) -> None:
    cpu = "sys/devices/system/cpu"
    siblings = {0: "0,4", 1: "1,5", 4: "0,4", 5: "1,5"}
    files = {f"{cpu}/cpu{n}/topology/thread_siblings_list": f"{text}\n" for n, text in siblings.items()}
    cores = topology({**files, f"{cpu}/cpufreq/x": "", f"{cpu}/cpu9/online": "0", f"{cpu}/online": "0-5"})
    assert cores.keys() == siblings.keys()
    assert cores[0] == cores[4] != cores[1] == cores[5]


def test_cores_from_cpuinfo(topology: Callable[[dict[str, str]], dict[int, str]]) -> None:
    section = "processor\t: {}\nmodel name\t: x: y\nphysical id\t: {}\ncore id\t\t: {}\n"
    places = [(0, 0), (0, 1), (1, 0), (1, 1), (0, 0), (0, 1)]
    text = "\n".join(section.format(n, *place) for n, place in enumerate(places))
    cores = topology({"proc/cpuinfo": text})
    assert len(cores) == 6
    assert len(set(cores.values())) == 4
    assert cores[0] == cores[4]


@pytest.mark.parametrize("cpuinfo", [{}, {"proc/cpuinfo": "processor\t: 0\nBogoMIPS\t: 50\n\nHardware\t: x\n"}])
def test_unknown_cores_are_an_empty_dict(
    topology: Callable[[dict[str, str]], dict[int, str]], cpuinfo: dict[str, str]
) -> None:
    assert topology(cpuinfo) == {}


@pytest.mark.parametrize(
    ("platform", "program", "output", "cores"),
    [
        ("darwin", "sysctl", "8\n", 8),
        ("freebsd14", "sysctl", "4\n", 4),
        ("darwin", "sysctl", "", 0),
        ("darwin", "sysctl", "unknown oid", 0),
        ("sunos5", "sysctl", "8\n", 0),
    ],
)
def test_cores_from_a_command(
    monkeypatch: pytest.MonkeyPatch, platform: str, program: str, output: str, cores: int
) -> None:
    def run(command: tuple[str, ...], **options: Any) -> subprocess.CompletedProcess[str]:
        assert command[0] == program
        return subprocess.CompletedProcess(command, 0, stdout=output)

    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(subprocess, "run", run)
    assert _cpus._cores_from_command.__wrapped__() == cores


def test_cores_if_the_command_is_missing_or_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(_cpus, "_CORE_COMMANDS", {"darwin": ("/nonexistent/sysctl",)})
    assert _cpus._cores_from_command.__wrapped__() == 0
    monkeypatch.setattr(_cpus, "_CORE_COMMANDS", {"darwin": (sys.executable, "-c", "exit('no')")})
    assert _cpus._cores_from_command.__wrapped__() == 0


# Control groups


@pytest.fixture
def limit(tmp_path: Path) -> Callable[[dict[str, str]], int]:
    return lambda files: _cpus._cgroup_limit(plant(tmp_path, files))


@given(st.integers(1, 10**7), st.integers(1, 10**6))
def test_the_quota_is_rounded_up(share: int, period: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_cpus, "_read", lambda path: f"{share} {period}\n" if path.endswith("cpu.max") else "")
        assert _cpus._cgroup_limit.__wrapped__("anywhere") == math.ceil(share / period)


V2 = "sys/fs/cgroup"
V1 = "sys/fs/cgroup/cpu"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, NO_LIMIT),
        ({f"{V2}/cpu.max": "max 100000\n"}, NO_LIMIT),
        ({f"{V2}/cpu.max": "50000 100000\n"}, 1),
        ({f"{V2}/cpu.max": "250000 100000\n"}, 3),
        ({f"{V2}/cpu.max": "garbage"}, NO_LIMIT),
        ({f"{V2}/cpu.max": "100000 0"}, NO_LIMIT),
        ({f"{V1}/cpu.cfs_quota_us": "-1\n", f"{V1}/cpu.cfs_period_us": "100000\n"}, NO_LIMIT),
        ({f"{V1}/cpu.cfs_quota_us": "150000\n", f"{V1}/cpu.cfs_period_us": "100000\n"}, 2),
        ({f"{V1}/cpu.cfs_quota_us": "150000\n"}, NO_LIMIT),
    ],
)
def test_quota_of_the_root_group(limit: Callable[[dict[str, str]], int], files: dict[str, str], expected: int) -> None:
    assert limit(files) == expected


@pytest.mark.parametrize("tightest", ["", "/a.slice", "/a.slice/b.service", "/a.slice/b.service/c:d"])
def test_the_smallest_quota_of_all_ancestors_counts(limit: Callable[[dict[str, str]], int], tightest: str) -> None:
    files = {f"{V2}{group}/cpu.max": "900000 100000" for group in ("/a.slice", "/a.slice/b.service")}
    files |= {f"{V2}{tightest}/cpu.max": "200000 100000", f"{V2}/z.slice/cpu.max": "100000 100000"}
    files["proc/self/cgroup"] = "0::/a.slice/b.service/c:d\n"
    assert limit(files) == 2


@pytest.mark.parametrize("text", ["", "0::", "0", "::", "0::x\n\n"])
def test_a_malformed_list_of_groups_gives_no_limit(limit: Callable[[dict[str, str]], int], text: str) -> None:
    assert limit({"proc/self/cgroup": text, f"{V2}/cpu.max": "400000 100000"}) == 4


def test_a_nested_group_of_version_1(limit: Callable[[dict[str, str]], int]) -> None:
    group = f"{V1}/docker/0123"
    files = {"proc/self/cgroup": "5:cpuset:/other\n4:cpu,cpuacct:/docker/0123\n1:name=systemd:/x\n0::/\n"}
    files |= {f"{group}/cpu.cfs_quota_us": "300000", f"{group}/cpu.cfs_period_us": "100000"}
    files |= {f"{V1}/cpu.cfs_quota_us": "-1", f"{V1}/cpu.cfs_period_us": "100000"}
    assert limit(files) == 3


@pytest.mark.parametrize("path", ["/docker/0123", "/../../init.scope", "/"])
def test_a_group_that_is_mounted_as_the_root(limit: Callable[[dict[str, str]], int], path: str) -> None:
    files = {f"{V2}/cpu.max": "400000 100000", "sys/init.scope/cpu.max": "100000 100000"}
    assert limit({"proc/self/cgroup": f"0::{path}\n", **files}) == 4


# Slurm


@pytest.mark.parametrize(
    ("variables", "cpus"),
    [
        ({}, NO_LIMIT),
        ({"CPUS_ON_NODE": "6"}, 6),
        ({"CPUS_ON_NODE": "64", "CPUS_PER_TASK": "4"}, 4),  # whole nodes are allocated
        ({"CPUS_ON_NODE": "8", "CPUS_PER_TASK": "1", "NTASKS": "8"}, 8),  # the script itself, and not by srun
        ({"CPUS_ON_NODE": "8", "CPUS_PER_TASK": "2", "NTASKS": "4", "STEP_ID": "0"}, 2),
        ({"CPUS_ON_NODE": "2", "CPUS_PER_TASK": "2", "NTASKS": "9"}, 2),  # on other nodes as well
        ({"CPUS_PER_TASK": "3"}, 3),
        ({"CPUS_PER_TASK": "", "CPUS_ON_NODE": "many"}, NO_LIMIT),
    ],
)
def test_what_slurm_has_allocated(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], cpus: int) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setattr(_cpus, "_slurm_limit", _cpus._slurm_limit.__wrapped__)
    assert _cpus.cpu_limits().slurm == (None if cpus == NO_LIMIT else cpus)
    monkeypatch.setattr(_cpus, "_machine_cpus", lambda: 64)
    monkeypatch.setattr(_cpus, "usable_cpus", lambda: None)
    assert cpu_count() == min(cpus, 61 if sys.platform == "win32" else 64)


# In processes of their own

PROGRAM = """
import json, os, sys
if sys.argv[1] == "shoal":
    from shoal._cpus import cpu_count, cpu_share
    from shoal._cpus import thread_limits as limits_of_share
    def thread_limits(n_threads, n_workers):
        return limits_of_share(n_threads, cpu_share(n_workers))
else:
    from joblib import cpu_count
    from joblib._parallel_backends import LokyBackend
    def thread_limits(n_threads, n_workers):
        return LokyBackend(inner_max_num_threads=n_threads)._prepare_worker_env(n_workers)
if sys.argv[2]:
    os.sched_setaffinity(0, {int(sys.argv[2])})
counts = [cpu_count(), cpu_count(only_physical_cores=True)]
if sys.argv[1] == "joblib":  # where os.cpu_count() follows the affinity (musl), it counts more cores than CPUs
    counts[1] = min(counts)
print(json.dumps([counts, [thread_limits(n, m) for n in (None, 1, 3) for m in (1, 2, 100)]]))
"""


def run_program(library: str, one_cpu: bool, environment: dict[str, str]) -> Any:
    cpu = str(min(os.sched_getaffinity(0))) if one_cpu else ""
    told = subprocess.run(
        [sys.executable, "-c", PROGRAM, library, cpu],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(told.stdout)


@needs_proc
@needs_affinity
@pytest.mark.parametrize("one_cpu", [False, True])
@pytest.mark.parametrize(
    "environment",
    [{}, {"LOKY_MAX_CPU_COUNT": "1"}, {"OMP_NUM_THREADS": "7", "MKL_NUM_THREADS": "", "ENABLE_IPC": "0"}],
)
def test_joblib_counts_the_same(one_cpu: bool, environment: dict[str, str]) -> None:
    ours = run_program("shoal", one_cpu, environment)
    assert ours == run_program("joblib", one_cpu, environment)
    if one_cpu or "LOKY_MAX_CPU_COUNT" in environment:
        assert ours[0] == [1, 1]


def test_importing_it_imports_no_costly_module() -> None:
    code = "import sys; start = set(sys.modules); import shoal._cpus; print(*set(sys.modules) - start)"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    heavy = {
        "ctypes",
        "subprocess",
        "multiprocessing",
        "numpy",
        "threadpoolctl",
        "psutil",
    }
    assert not heavy & set(printed.split())
    assert "shoal._cpus" in printed


# Threads in workers


def test_variables_of_the_parent_are_kept(monkeypatch: pytest.MonkeyPatch, fake_machine: Callable[..., None]) -> None:
    fake_machine(8)
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    monkeypatch.setenv("ENABLE_IPC", "0")
    limits = thread_limits(None, cpu_share(2))
    assert limits.pop("OMP_NUM_THREADS") == "5"
    assert set(limits.values()) == {"4"}
    assert set(thread_limits(3, 4).values()) == {"3"}
    assert "ENABLE_IPC" not in limits


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 20))
def test_nothing_is_left_over(cpus: int, workers: int, processes: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_cpus, "cpu_count", lambda: cpus)
        patch.setenv("PYTEST_XDIST_WORKER_COUNT", str(processes))
        share, left_over = cpu_shares(workers)
        assert cpu_share(workers) == share >= 1
        assert share * workers + left_over == max(cpus // (processes or 1), workers)
        assert 0 <= left_over < workers


def test_each_worker_has_at_least_one_thread(fake_machine: Callable[..., None]) -> None:
    fake_machine(2)
    limits = thread_limits(None, cpu_share(5))
    assert limits.keys() == {*_cpus.THREAD_VARIABLES, "ENABLE_IPC"}
    assert set(limits.values()) == {"1"}
