"""Programs whose results depend on environment variables; the tests run this script with several sets of variables."""

from __future__ import annotations

import multiprocessing
import os
from typing import Any

import numpy as np

from harness import PARALLEL, PROCESSES, Parallel, delayed, here, lib, main, program, relation

VARIABLES = (
    *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"),
    *("NUMBA_NUM_THREADS", "NUMEXPR_NUM_THREADS", "ENABLE_IPC", "KMP_INIT_AT_FORK"),
)


def variables() -> dict[str, str | None]:
    return {name: os.environ.get(name) for name in VARIABLES}


def inside(backend: str, n_jobs: int = 2) -> Any:
    return Parallel(n_jobs=n_jobs, backend=backend)(delayed(variables)() for _ in range(2))


def inside_limited(inner: int) -> Any:
    with lib.parallel_config("loky", n_jobs=2, inner_max_num_threads=inner):
        return Parallel()(delayed(variables)() for _ in range(2))


def process_type() -> str:
    return type(multiprocessing.current_process()).__name__


def start_method() -> Any:
    return Parallel(n_jobs=2, backend="multiprocessing")(delayed(process_type)() for _ in range(2))


def default_backend(**arguments: Any) -> Any:
    parallel = Parallel(n_jobs=2, **arguments)
    place = parallel([delayed(here)(), delayed(here)()])[0]
    return type(parallel._backend).__name__, relation(place), lib.effective_n_jobs(-1), lib.effective_n_jobs(3)


def by_config(backend: str) -> Any:
    with lib.parallel_config(backend, n_jobs=2):
        return default_backend()


def lies_in(array: Any, folder: str | None) -> bool:
    return folder is not None and str(getattr(array, "filename", "")).startswith(folder)


def temp_folder(backend: str) -> Any:
    folder = os.environ.get("JOBLIB_TEMP_FOLDER")
    array = np.zeros(200_000)
    return Parallel(n_jobs=2, backend=backend)([delayed(lies_in)(array, folder)] * 2)


def nested(depth: int) -> Any:
    inner = [delayed(abs)(1)] * 2 if depth == 1 else [delayed(nested)(depth - 1)] * 2
    return Parallel(n_jobs=2, backend="loky")(inner)


def of_the_script() -> Any:
    return Parallel(n_jobs=2, backend="loky")(delayed(lambda x: x + 1)(i) for i in range(2))


program(variables)
program(start_method)
program(lib.cpu_count)
program(of_the_script)
program(inside_limited, 3)
for backend in PARALLEL:
    program(inside, backend)
for backend in PROCESSES:
    program(temp_folder, backend)
for backend in PARALLEL:
    program(default_backend, backend=backend)
    program(by_config, backend)
for hint in ({}, {"prefer": "threads"}, {"prefer": "processes"}, {"require": "sharedmem"}):
    program(default_backend, **hint)
program(nested, 2)

if __name__ == "__main__":
    main()
