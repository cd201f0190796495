"""Programs with a fault each. The module imports little, because new workers import it."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import shoal
from shoal import Parallel, delayed

Calls = Iterator[Any]

held: list[bytes] = []
counter = itertools.count()


def spin(seconds: float) -> int:
    end = time.perf_counter() + seconds
    number = 0
    while time.perf_counter() < end:
        number += 1
    return number


def multiply(size: int, seconds: float) -> float:
    import numpy as np

    matrix = np.ones((size, size))
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        matrix = matrix @ matrix / size
    return float(matrix[0, 0])


def numbers(count: int) -> list[int]:
    time.sleep(0.001)
    return list(range(count))


def look(value: Any) -> int:
    time.sleep(0.001)
    return len(value)


def die_once(marker: str) -> None:
    time.sleep(0.02)
    if not os.path.exists(marker):
        Path(marker).touch()
        os._exit(7)


def hold(nbytes: int) -> None:
    held.append(b"x" * nbytes)
    time.sleep(0.06)  # beside which it is little that each new worker imports this module


def import_it(name: str, number: int) -> None:
    exec(f"import {name}_{number}")


def slow_calls(count: int, seconds: float) -> Calls:
    for _ in range(count):
        time.sleep(seconds)
        yield delayed(time.sleep)(0.002)


def clean() -> None:
    Parallel(n_jobs=2)(delayed(time.sleep)(0.05) for _ in range(16))


def clean_threads() -> None:
    Parallel(n_jobs=2, backend="threading")(delayed(time.sleep)(0.05) for _ in range(16))


def clean_arrays_on_threads() -> None:
    Parallel(n_jobs=2, backend="threading")(delayed(multiply)(400, 0.1) for _ in range(12))


def clean_serial() -> None:
    Parallel(n_jobs=1)(delayed(time.sleep)(0.01) for _ in range(5))


class Table:
    def __init__(self) -> None:
        self.values = list(range(400_000))

    def look(self, number: int) -> int:
        time.sleep(0.001)
        return self.values[number]

    def __call__(self, number: int) -> int:
        return self.look(number)


def clean_methods() -> None:
    table = Table()
    table.values = [1, 2, 3]
    Parallel(n_jobs=2)(delayed(table.look)(number % 3) for number in range(600))


def clean_listeners() -> None:
    Parallel(n_jobs=2, progress=lambda done, total: None)(delayed(time.sleep)(0.05) for _ in range(16))


def clean_replacements() -> None:
    Parallel(n_jobs=2, max_tasks_per_worker=4, batch_size=1)(delayed(time.sleep)(0.3) for _ in range(8))


def short_calls() -> None:
    Parallel(n_jobs=2)(delayed(abs)(number) for number in range(200_000))


def large_arguments() -> None:
    value = list(range(400_000))
    Parallel(n_jobs=2, batch_size=1)(delayed(look)(value) for _ in range(16))


def large_arguments_of_each_call() -> None:
    Parallel(n_jobs=2, batch_size=1)([delayed(look)(list(range(400_000))) for _ in range(16)])


def large_object_of_a_method() -> None:
    table = Table()
    Parallel(n_jobs=2, batch_size=1)(delayed(table.look)(number) for number in range(16))


def large_callable_object() -> None:
    table = Table()
    Parallel(n_jobs=2, batch_size=1)(delayed(table)(number) for number in range(16))


def large_results() -> None:
    Parallel(n_jobs=2, batch_size=1)(delayed(numbers)(400_000) for _ in range(16))


def straggler() -> None:
    Parallel(n_jobs=2)(delayed(time.sleep)(0.02 if number < 11 else 0.6) for number in range(12))


def gil() -> None:
    Parallel(n_jobs=2, backend="threading")(delayed(spin)(0.05) for _ in range(12))


def oversubscription() -> None:
    threads = {"OPENBLAS_NUM_THREADS": "4", "OMP_NUM_THREADS": "4", "MKL_NUM_THREADS": "4"}
    Parallel(n_jobs=2, environment=threads)(delayed(multiply)(500, 0.2) for _ in range(8))


def slow_input() -> None:
    Parallel(n_jobs=2)(slow_calls(16, 0.02))


def few_calls() -> None:
    Parallel(n_jobs=2)(delayed(time.sleep)(0.15) for _ in range(3))


def slow_consumer() -> None:
    for _ in Parallel(n_jobs=2, return_as="generator", max_pending=2)(delayed(time.sleep)(0.005) for _ in range(14)):
        time.sleep(0.03)


def slow_progress() -> None:
    calls = [delayed(time.sleep)(0.005) for _ in range(15)]
    Parallel(n_jobs=2, batch_size=1, progress=lambda done, total: time.sleep(0.05))(calls)


def send_often(number: int) -> None:
    for _ in range(5):
        shoal.send(number)


def slow_on_message() -> None:
    calls = [delayed(send_often)(number) for number in range(10)]
    Parallel(n_jobs=2, batch_size=1, on_message=lambda index, message: time.sleep(0.02))(calls)


def worker_deaths(folder: Path) -> None:
    marker = str(folder / f"died {time.perf_counter()}")
    Parallel(n_jobs=2, retries=1)(delayed(die_once)(marker) for _ in range(20))


def memory() -> None:
    Parallel(n_jobs=2, batch_size=1, max_worker_memory="80M")(delayed(hold)(30_000_000) for _ in range(12))


def memory_with_both_limits() -> None:
    calls = [delayed(hold)(30_000_000) for _ in range(12)]
    Parallel(n_jobs=2, batch_size=1, max_worker_memory="80M", max_tasks_per_worker=50)(calls)


def imports(folder: Path) -> None:
    name = f"planted_{time.perf_counter_ns()}"
    for number in range(2):
        (folder / f"{name}_{number}.py").write_text("import time; time.sleep(0.3)")
    Parallel(n_jobs=2)(delayed(import_it)(name, number) for number in range(2))


def slow_start() -> None:
    seconds = 0.8 + next(counter) * 1e-6  # another value, so that there are no warm workers for it
    Parallel(n_jobs=2, initializer=time.sleep, initargs=(seconds,))(delayed(time.sleep)(0.05) for _ in range(4))


def replaced_workers() -> None:
    Parallel(n_jobs=2, max_tasks_per_worker=1)(delayed(time.sleep)(0.003) for _ in range(40))
