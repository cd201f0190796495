"""What every test may ask for, and what none may be touched by."""

from __future__ import annotations

import os
import signal
import sys
import textwrap
from pathlib import Path
from typing import Protocol

import pytest
from hypothesis import settings

import _selection
from _children import run_program, with_assertions
from _python import GIL

# Helpers assert too. What pytest rewrites says what differs, and is checked under `python -O` as well.
_helpers = {path.stem for path in Path(__file__).parent.rglob("_*.py")}
pytest.register_assert_rewrite("shoal.testing", *_helpers - sys.modules.keys())

# A developer's shell must not decide what the suite sees; workers inherit this environment. But `make test-all` chooses
# how workers are started.
for _name in os.environ.keys() - {"SHOAL_START_METHOD"}:
    if _name.startswith(("JOBLIB_", "LOKY_", "SHOAL_", "SLURM_")) or _name.endswith("_NUM_THREADS"):
        del os.environ[_name]

# With it, the processes of pytest-xdist divide the CPUs, so what tests find would depend on their number.
os.environ.pop("PYTEST_XDIST_WORKER_COUNT", None)

# Without a global lock threads are the default; a test that does not name a backend is about loky all the same.
if not GIL:
    os.environ["JOBLIB_TESTS_DEFAULT_PARALLEL_BACKEND"] = "loky"

# A shell starts what it runs in the background with interrupts ignored, nohup ignores hang-ups, and the programs that
# tests start inherit that.
for _name in ("SIGINT", "SIGHUP", "SIGQUIT", "SIGTERM"):
    _number = getattr(signal, _name, None)
    if _number is not None and signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, signal.default_int_handler if _number == signal.SIGINT else signal.SIG_DFL)


_environment = dict(os.environ)


@pytest.fixture(scope="module", autouse=True)
def _environment_of_session() -> None:
    """Restore the environment before each module. Clusters set variables, sometimes after their tests have ended."""
    for name in os.environ.keys() - _environment.keys() - {"PYTEST_CURRENT_TEST"}:
        del os.environ[name]
    os.environ.update(_environment)


def pytest_configure(config: pytest.Config) -> None:
    """Choose how many random examples there are, before a module of tests asks for its own number."""
    _selection.thorough = "not thorough" not in config.option.markexpr
    # Hypothesis fails an example that takes longer than 200 ms; a busy machine is no failure.
    # The examples of `make test` are the same each time: it fails after a change, or not at all.
    number, same = _selection.examples(100), not _selection.thorough or "CI" in os.environ
    settings.register_profile("shoal", deadline=None, derandomize=same, max_examples=number)
    settings.load_profile("shoal")


#: Test files that `make test-fast` leaves out, by reason and without "test_". A single slow test has the marker itself.
SLOW = {
    "starts a cluster": "dask ray",
    "starts a kernel": "notebook",
    "starts an object store": "object_store",
    "kills processes, or looks for what they leave": """
        async_leases broken_world channel ends faults fork_server forks leaks leases message_faults replacement
        shutdown_workers signals soak survival threads
    """,
    "stress": "persistence_fuzz persistence_threads presets store_stress thread_safety",
    "runs the same with joblib": """
        beside_joblib differential hashing_joblib install joblib_downstream joblib_memory memory_joblib without_joblib
    """,
    "starts many programs": """
        budget cli_run cli_top cli_top_tasks cli_top_threads docs_code findings main_guard persistence_memory
        report_folder stale_sources terminal tracebacks trust_hashes typed_programs worker_probe
    """,
    "has hundreds of cases": """
        arrays async async_input back_pressure backends cache_folder compression deflate executor executors persistence
        persistence_arguments persistence_faults persistence_libraries persistence_streams seed several_dumps slots
        stop_iteration stores trust
    """,
}
_slow_files = {f"test_{name}.py" for names in SLOW.values() for name in names.split()}


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not even import slow files for `make test-fast`: some import whole clusters."""
    return True if "not slow" in config.option.markexpr and collection_path.name in _slow_files else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    products: dict[tuple[Path, str], list[pytest.Item]] = {}
    for item in items:
        if item.path.name in _slow_files:
            item.add_marker(pytest.mark.slow)
        if len(_selection.values_of(item)) > 1 and item.get_closest_marker("thorough") is None:
            products.setdefault((item.path, item.nodeid.partition("[")[0]), []).append(item)
    for product in products.values():
        chosen = _selection.part_of(product)
        for item in product:
            if item not in chosen:
                item.add_marker(pytest.mark.thorough)


class FreshPython(Protocol):
    def __call__(self, source: str, *options: str) -> str: ...


@pytest.fixture
def fresh_python() -> FreshPython:
    """Run `source` in an interpreter of its own, where warnings are errors; gives what it printed to stdout.

    The test fails if the interpreter does, or if it says anything on stderr.
    """

    def run(source: str, *options: str) -> str:
        command = [sys.executable, "-W", "error", *options, "-c", textwrap.dedent(source)]
        done = run_program(command, 100, env=with_assertions(os.environ))
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    return run
