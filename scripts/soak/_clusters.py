"""Actions on dask and ray. Each engine starts once, and lasts as long as the soak."""

from __future__ import annotations

import importlib.util
import random
from functools import cache
from typing import Any

from shoal import Parallel, delayed

from ._actions import action, check
from ._calls import fail_at, square


@cache
def client() -> Any:
    """Start a dask cluster of this machine."""
    from distributed import Client

    return Client(n_workers=2, threads_per_worker=1, dashboard_address=None)


def run_on(backend: str, rng: random.Random) -> None:
    n = rng.choice([1, 50, 1000])
    check(Parallel(n_jobs=2, backend=backend)(delayed(square)(i) for i in range(n)), [i * i for i in range(n)])
    bad = rng.randrange(20)
    found = Parallel(n_jobs=2, backend=backend, on_error="return")(delayed(fail_at)(i, bad) for i in range(20))
    check([type(value) is ZeroDivisionError for value in found], [i == bad for i in range(20)])


if importlib.util.find_spec("distributed"):

    @action
    def on_dask(rng: random.Random) -> None:
        client()
        run_on("dask", rng)


if importlib.util.find_spec("ray"):

    @action
    def on_ray(rng: random.Random) -> None:
        run_on("ray", rng)
