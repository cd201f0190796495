"""The dask backend, on a cluster of two worker processes on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from shoal.testing import BackendTests

distributed = pytest.importorskip("distributed")


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[Any]:
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, worker_dashboard_address=None
    ) as made:
        yield made


@pytest.fixture(scope="module", autouse=True)
def client(cluster: Any) -> Iterator[Any]:
    with distributed.Client(cluster) as made:
        yield made


class TestDask(BackendTests):
    backend = "dask"
