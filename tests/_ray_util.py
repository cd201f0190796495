"""A ray cluster of this machine alone, for tests: it hears nothing but loopback, and leaves nothing behind."""

from __future__ import annotations

import os
import secrets
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from _children import TESTS, path_of_tests

#: Read when ray is imported, which this module therefore has to come before.
VARIABLES = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # else ray takes the address of this machine instead of loopback
    "RAY_AUTH_TOKEN": secrets.token_hex(32),  # else ray writes one to the home of whoever runs the tests
    "RAY_USAGE_STATS_ENABLED": "0",
}
os.environ.update(VARIABLES)


@contextmanager
def ray_cluster(n_cpus: int = 2) -> Iterator[None]:
    """Have a cluster within the block."""
    os.environ.update(VARIABLES)  # each module of tests begins with the environment of the session
    before = os.environ.get("PYTHONPATH")
    # Workers inherit it, and import what the tests define.
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [path_of_tests(), str(TESTS.parent / "src"), *([before] if before else [])]
    )
    try:
        import ray

        # A short path, since the names of sockets that are made there must be short.
        short = "/tmp" if sys.platform != "win32" else None
        with tempfile.TemporaryDirectory(prefix="ray-", dir=short, ignore_cleanup_errors=True) as folder:
            ray.init(
                address="local",
                num_cpus=n_cpus,
                include_dashboard=False,
                log_to_driver=False,
                configure_logging=False,
                object_store_memory=100 * 2**20,
                _node_ip_address="127.0.0.1",
                _temp_dir=folder,
            )
            try:
                yield
            finally:
                ray.shutdown()
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
