"""Nested runs on a machine that seems to have 8 CPUs; what each innermost call finds there."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy  # noqa: F401 its BLAS is what is looked at
from threadpoolctl import ThreadpoolController

from shoal import Parallel, _cpus, delayed, effective_n_jobs, parallel_config
from shoal.errors import FallbackWarning

CPUS = 8
#: The backends, besides loky, whose workers do not inherit what :func:`believe` has set.
SPAWNED = () if hasattr(os, "fork") else ("multiprocessing",)


class Level(NamedTuple):
    """A run: its backend ("default": none is named), its n_jobs, and inner_max_num_threads."""

    backend: str
    n_jobs: int | None
    inner: int | None = None


def believe() -> None:
    """Make this process believe in 8 CPUs, and give its BLAS the threads that it would have there."""
    _cpus._machine_cpus = lambda: CPUS  # type: ignore[assignment]
    _cpus.usable_cpus = lambda: range(CPUS)
    _cpus._cgroup_limit = lambda: sys.maxsize  # type: ignore[assignment]
    for library in blas():
        told = os.environ.get(f"{library.internal_api.upper()}_NUM_THREADS")
        library.set_num_threads(CPUS if told is None else int(told))


def blas() -> list[Any]:
    return ThreadpoolController().select(user_api="blas").lib_controllers  # type: ignore[no-any-return]


def run(levels: list[Level], folder: Path) -> Any:
    """Run the first level and, in each of its calls, the others.

    Returns
    -------
    The numbers of workers, from the outside in, and of BLAS threads. A number that differs from call to call is a list
    of all, the largest first.
    """
    if not levels:
        return [max((library.num_threads for library in blas()), default=0)]
    level, *deeper = levels
    options: dict[str, Any] = {}
    if level.backend != "default":
        options["backend"] = level.backend
    if level.inner is not None:
        options["inner_max_num_threads"] = level.inner
    if level.backend in ("loky", *SPAWNED):
        options["initializer"] = believe
    with warnings.catch_warnings(), parallel_config(n_jobs=level.n_jobs, **options):
        warnings.simplefilter("ignore", FallbackWarning)
        n_workers = effective_n_jobs(None)
        found = Parallel(batch_size=1)(delayed(call)(deeper, folder, n_workers, place) for place in range(n_workers))
    columns = [sorted(column, reverse=True) for column in zip(*found, strict=True)]
    return [n_workers, *(column[0] if column[0] == column[-1] else column for column in columns)]


def call(levels: list[Level], folder: Path, n_workers: int, place: int) -> Any:
    """Be one of `n_workers` calls that run side by side, or of which none goes on."""
    (folder / f"{os.getpid()}-{threading.get_ident()}").touch()
    deadline = time.monotonic() + 90
    while len(list(folder.glob("*-*"))) < n_workers:
        assert time.monotonic() < deadline, f"there are not {n_workers} workers in {folder}"
        time.sleep(0.005)
    below = folder / str(place)
    below.mkdir()
    return run(levels, below)


if __name__ == "__main__":
    import _budget_util  # the one whose functions workers find by name

    believe()
    if not blas():
        print("null")
    else:
        print(json.dumps(_budget_util.run([Level(*level) for level in json.loads(sys.argv[1])], Path(sys.argv[2]))))
