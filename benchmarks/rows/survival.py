"""Rows on faults and concurrency: workers that die, calls that are stuck, threads that each have runs of their own."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks import workloads
from benchmarks._registry import Measured, Target, row, timed
from benchmarks.contenders import WORKERS


def is_worker(process: Any) -> bool:
    """Tell whether a process is a worker, and not a fork server or resource tracker."""
    return process.ppid() != os.getpid() or b"popen_loky" in Path(f"/proc/{process.pid}/cmdline").read_bytes()


CALM = Target("shoal", "calm", maximum=1.4)


@row("1,000 calls of 5 ms, a kill every 0.5 s", ("shoal",), CALM, floors=("calm",), rounds=3)
def deaths(contender: str) -> Measured:
    """Time calls while a worker is killed by SIGKILL every 0.5 s. Each call that it was running runs again."""
    shoal = import_module("shoal")
    psutil = import_module("psutil")
    over = threading.Event()
    killed: list[int] = []

    def kill() -> None:
        while not over.wait(0.5):
            with contextlib.suppress(OSError, psutil.Error, ZeroDivisionError):  # there may be no workers at the moment
                workers = [child.pid for child in psutil.Process().children(recursive=True) if is_worker(child)]
                os.kill(workers[len(killed) % len(workers)], signal.SIGKILL)
                killed.append(workers[-1])

    def run() -> None:
        calls = (shoal.delayed(workloads.slept)(0.005, i) for i in range(1_000))
        assert shoal.Parallel(n_jobs=WORKERS, retries=3)(calls) == list(range(1_000))

    shoal.Parallel(n_jobs=WORKERS)(shoal.delayed(workloads.nothing)(i) for i in range(10))
    killer = threading.Thread(target=kill)
    if contender == "shoal":
        killer.start()
    try:
        return timed(run, 1, warm_up=False), f"{len(killed)} kills"
    finally:
        over.set()
        if contender == "shoal":
            killer.join()


@row("100 calls of 10 ms, one stuck, limit 1 s", ("shoal",), Target("shoal", maximum=1.6), unit="s", rounds=3)
def stuck(contender: str) -> Measured:
    """Time a run with ``task_timeout=1``, including the start of the workers."""
    shoal = import_module(contender)

    def run() -> None:
        calls = (shoal.delayed(workloads.slept)(3_600 if i == 50 else 0.01, i) for i in range(100))
        results = shoal.Parallel(n_jobs=WORKERS, task_timeout=1, on_error="return")(calls)
        assert [i for i, value in enumerate(results) if value != i] == [50]

    return timed(run, 1, warm_up=False)


@row("8 threads, 40 runs of 20 calls each", ("shoal",), Target("shoal", "serial", maximum=1), floors=("serial",))
def threads_8(contender: str) -> Measured:
    """Time runs of no-op calls in eight threads. `serial` makes the same 320 runs in one thread."""
    shoal = import_module("shoal")

    def runs(count: int) -> None:
        for _ in range(count):
            calls = (shoal.delayed(workloads.nothing)(i) for i in range(20))
            assert shoal.Parallel(n_jobs=WORKERS)(calls) == list(range(20))

    def run() -> None:
        if contender == "serial":
            runs(320)
            return
        errors: list[Any] = []

        def work() -> None:
            try:
                runs(40)
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors, errors

    return timed(run, 3)
