"""dask clusters that change: `make test-executors` runs this file.

A cluster that adapts, a scheduler that restarts, workers with another Python, and fifty workers.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy
import pytest

import shoal
from _children import path_of_tests, run_program
from _docs import blocks_by
from shoal import CallUnpicklingError, Parallel, delayed, parallel_config

distributed = pytest.importorskip("distributed", reason="there is no distribution of dask for this Python")

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(600)]

#: Python 3.10 in the environment that the makefile makes for it. It cannot run the code of later versions.
PYTHON_3_10 = [path for path in Path(sys.prefix).parent.glob("3.10.*/bin/python") if path.with_name("dask").exists()]


class Cluster:
    """A scheduler and its workers, each a process that can be ended and started again."""

    def __init__(self, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.port = server.getsockname()[1]
        self._folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []
        self.scheduler = self.start_scheduler()

    @property
    def address(self) -> str:
        return f"tcp://127.0.0.1:{self.port}"

    def _start(self, *command: Any) -> subprocess.Popen[bytes]:
        with self._folder.joinpath("log").open("ab") as log:
            self._processes.append(subprocess.Popen([*map(str, command)], stdout=log, stderr=log, cwd=self._folder))
        return self._processes[-1]

    def start_scheduler(self) -> subprocess.Popen[bytes]:
        where = "--host", "127.0.0.1", "--port", self.port
        return self._start(sys.executable, "-m", "distributed.cli.dask_scheduler", *where, "--no-dashboard")

    def start_worker(self, python: Any = sys.executable) -> subprocess.Popen[bytes]:
        options = "--no-nanny", "--no-dashboard", "--nthreads", "2", "--local-directory", self._folder
        return self._start(python, "-m", "distributed.cli.dask_worker", self.address, *options)

    def end(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(shoal.__file__).parents[1]), path_of_tests()]))
    made = Cluster(tmp_path)
    try:
        yield made
    finally:
        made.end()


def length_after(seconds: float, table: Any) -> int:
    time.sleep(seconds)
    return len(table)


def test_a_cluster_that_adapts() -> None:
    """It grows to three workers, shrinks, and grows again. What was stored in workers that left is stored again."""
    plain = {"dashboard_address": ":0", "worker_dashboard_address": None, "scheduler_kwargs": {"dashboard": False}}
    table = numpy.arange(100_000)
    with distributed.LocalCluster(n_workers=0, threads_per_worker=1, host="127.0.0.1", **plain) as cluster:
        cluster.adapt(minimum=0, maximum=3, interval="100ms", wait_count=2)
        with (
            distributed.Client(cluster) as client,
            parallel_config("dask", client=client, wait_for_workers_timeout=100),
        ):
            for _ in range(2):
                run = Parallel(n_jobs=6, batch_size=1)
                assert run(delayed(length_after)(0.1, table) for _ in range(60)) == [len(table)] * 60
                deadline = time.monotonic() + 200
                while client.nthreads():
                    assert time.monotonic() < deadline
                    time.sleep(0.1)


def test_a_scheduler_that_restarts(cluster: Cluster) -> None:
    cluster.start_worker()
    table = numpy.arange(100_000)
    with distributed.Client(cluster.address, timeout=60) as client, parallel_config("dask", client=client):
        client.wait_for_workers(1, timeout=60)

        def restart() -> None:
            cluster.scheduler.kill()
            cluster.scheduler.wait()
            cluster.start_scheduler()
            cluster.start_worker()

        timer = threading.Timer(1, restart)
        timer.start()
        try:
            run = Parallel(n_jobs=20, batch_size=1)
            assert run(delayed(length_after)(0.05, table) for _ in range(100)) == [len(table)] * 100
        finally:
            timer.join()  # after which the fixture knows all processes
        assert run(delayed(abs)(-number) for number in range(20)) == list(range(20))


@pytest.mark.skipif(sys.version_info < (3, 11) or not PYTHON_3_10, reason="needs an environment of Python 3.10")
def test_workers_with_another_python(cluster: Cluster) -> None:
    cluster.start_worker(PYTHON_3_10[0])
    with distributed.Client(cluster.address, timeout=60) as client, parallel_config("dask", client=client):
        client.wait_for_workers(1, timeout=60)
        run = Parallel(n_jobs=2, batch_size=1)
        assert run(delayed(abs)(-number) for number in range(4)) == list(range(4))
        one = 1
        with pytest.raises(CallUnpicklingError, match=r"in a dask worker with Python 3\.10"):
            run(delayed(lambda number: number + one)(number) for number in range(4))


def test_fifty_workers() -> None:
    """200 tasks are in flight. The rates are printed; `pytest -s` shows them."""
    import dask

    quiet = {
        "distributed.admin.tick.interval": "60s",
        "distributed.admin.system-monitor.interval": "60s",
        "distributed.worker.profile.enabled": False,
    }
    plain = {"dashboard_address": ":0", "worker_dashboard_address": None, "scheduler_kwargs": {"dashboard": False}}
    for n_workers in (2, 50):
        with contextlib.ExitStack() as opened:
            opened.enter_context(dask.config.set(quiet))
            workers = {"n_workers": n_workers, "threads_per_worker": 1, "processes": False, "memory_limit": 0}
            made = opened.enter_context(distributed.LocalCluster(**workers, **plain))
            client = opened.enter_context(distributed.Client(made))
            opened.enter_context(parallel_config("dask", client=client))
            run = Parallel(n_jobs=100, batch_size=1)
            run(delayed(abs)(number) for number in range(100))
            began = time.perf_counter()
            assert run(delayed(abs)(number) for number in range(2000)) == list(range(2000))
            print(f"{n_workers} workers: {2000 / (time.perf_counter() - began):.0f} batches of one call per second")


def test_the_programs_of_the_page(cluster: Cluster, tmp_path: Path) -> None:
    """The page's names stand for what a reader has: a cluster's address, a function, a table."""
    cluster.start_worker()
    on_dask, on_ray = blocks_by("docs/clusters.md", __file__)
    before = f"address = {cluster.address!r}\ntable = [1]\ndef work(table, number):\n    return table[0] + number\n"
    after = "assert results == [*range(1, 10_001)]\n"
    programs = [on_dask]
    if find_spec("ray"):
        programs.append(on_ray)
    for program in programs:
        (tmp_path / "program.py").write_text(before + program + after)
        done = run_program([sys.executable, "program.py"], 200, cwd=tmp_path, env=dict(os.environ))
        assert done.returncode == 0, done.stdout + done.stderr
