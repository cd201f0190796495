"""The ray backend, on a cluster of this machine alone."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator

import pytest

from shoal.testing import BackendTests

# Loopback only; no token in the home of whoever runs the tests, and nothing is told to ray's makers.
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

ray = pytest.importorskip("ray", reason="ray is not installed: there are no wheels of it for this Python")


@pytest.fixture(scope="module", autouse=True)
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
        object_store_memory=100 * 2**20,
        _node_ip_address="127.0.0.1",
        _temp_dir="/tmp/w/ray_x/t",
    )
    yield
    ray.shutdown()


class TestContract(BackendTests):
    backend = "ray"
