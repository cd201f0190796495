"""Every warning points at the line of the user's code that called into shoal. Those lines end with "# here" below."""

from __future__ import annotations

import contextlib
import io
import linecache
import os
import sys
import time
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest

import shoal
from shoal import Memory, Parallel, _cpus, delayed, parallel_config
from shoal._tracebacks import warn
from shoal.persistence import compression

JOBLIB_FILES = Path(joblib.__file__).parent / "test" / "data"
Case = Callable[[Path, pytest.MonkeyPatch], object]
CASES: dict[str, tuple[str, Case]] = {}


def case(text: str) -> Callable[[Case], Case]:
    """Register a function that causes one warning, whose message contains `text`."""

    def register(function: Case) -> Case:
        CASES[function.__name__] = (text, function)
        return function

    return register


@case("less than 0.10")
def load_of_an_old_file(_folder: Path, _monkeypatch: pytest.MonkeyPatch) -> None:
    shoal.load(JOBLIB_FILES / "joblib_0.9.2_pickle_py35_np19.pkl")  # here


@case("not aligned")
def load_of_a_mapped_array_that_is_not_aligned(_folder: Path, _monkeypatch: pytest.MonkeyPatch) -> None:
    name = "joblib_0.10.0_pickle_py35_np19.pkl"
    shoal.load(JOBLIB_FILES / name, mmap_mode="r")  # here


@case("was written with")
def load_with_another_version(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = types.ModuleType("a_library")
    module.__version__ = "1.2.0"
    module.Thing = type("Thing", (), {"__module__": "a_library"})
    monkeypatch.setitem(sys.modules, "a_library", module)
    shoal.dump(module.Thing(), folder / "file")
    module.__version__ = "1.3.0"
    shoal.load(folder / "file")  # here


@case("not compatible with compressed file")
def load_of_a_compressed_file_with_mmap_mode(folder: Path, _monkeypatch: pytest.MonkeyPatch) -> None:
    shoal.dump(np.arange(9), folder / "file", compress=3)
    shoal.load(folder / "file", mmap_mode="r")  # here


@case("was not closed")
def compressor_that_is_not_closed(_folder: Path, _monkeypatch: pytest.MonkeyPatch) -> None:
    file: Any = compression.COMPRESSORS["zlib"].compressor_file(io.BytesIO())
    file.write(b"x" * 100)
    del file  # here


@case("not used")
def generator_that_is_closed(_folder: Path, _monkeypatch: pytest.MonkeyPatch) -> None:
    results: Any = Parallel(n_jobs=2, backend="threading", return_as="generator")([delayed(abs)(-1)] * 8)
    next(results)
    results.close()  # here


@case("needs worker processes")
def backend_of_processes_without_processes(_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBLIB_MULTIPROCESSING", "0")
    parallel_config("loky", n_jobs=2).unregister()  # here


@case("physical cores")
def cpu_count_without_known_cores(_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOKY_MAX_CPU_COUNT", raising=False)
    monkeypatch.setattr(_cpus, "_physical_cores", lambda _usable: 0)
    monkeypatch.setattr(_cpus, "_cgroup_limit", lambda: _cpus.NO_LIMIT)
    _cpus._warn_cores_unknown.cache_clear()
    shoal.cpu_count(only_physical_cores=True)  # here


@case("cannot be memmapped")
def memory_that_compresses_and_maps(folder: Path, _monkeypatch: pytest.MonkeyPatch) -> None:
    Memory(folder, compress=True, mmap_mode="r")  # here


@case("cannot be memmapped")
def fsspec_store_that_maps(folder: Path, _monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fsspec")
    Memory(f"{folder}/store", backend="fsspec", mmap_mode="r")  # here


@case("ignore list will not work")
def ignore_for_a_function_without_a_signature(folder: Path, _monkeypatch: pytest.MonkeyPatch) -> None:
    Memory(folder).cache(max, ignore=["x"])(1, 2)  # here


@case("cannot be the location of a store")
def memory_without_a_path(_folder: Path, _monkeypatch: pytest.MonkeyPatch) -> None:
    Memory(3)  # here


@case("failed to pickle the result")
def result_that_cannot_be_pickled(folder: Path, _monkeypatch: pytest.MonkeyPatch) -> None:
    cached = Memory(folder, verbose=0).cache(_unpicklable)
    cached()  # here


def _unpicklable() -> Any:
    return (item for item in ())


@case("with one worker")
def timeout_with_one_worker(_folder: Path, _monkeypatch: pytest.MonkeyPatch) -> None:
    Parallel(n_jobs=1, timeout=9)([delayed(abs)(-1)])  # here


@case("max_worker_memory='2G' is ignored")
def memory_limit_on_threads(_folder: Path, _monkeypatch: pytest.MonkeyPatch) -> None:
    Parallel(n_jobs=2, backend="threading", max_worker_memory="2G")([delayed(abs)(-1)] * 2)  # here


@case("A thread cannot be stopped")
def task_timeout_on_threads(_folder: Path, _monkeypatch: pytest.MonkeyPatch) -> None:
    calls = [delayed(time.sleep)(0.5), delayed(abs)(-1)]
    with contextlib.suppress(shoal.TaskTimeout):
        Parallel(n_jobs=2, backend="threading", task_timeout=0.05)(calls)  # here


@case("affinity is ignored")
def affinity_without_support(_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_setaffinity", raising=False)
    Parallel(n_jobs=2, affinity=[0])([delayed(abs)(-1)] * 2)  # here


@case("inside a context manager")
def warning_inside_a_context_manager(_folder: Path, _monkeypatch: pytest.MonkeyPatch) -> None:
    manager = contextlib.contextmanager(_as_if_in_shoal(_manager))
    with manager():  # here
        pass


def _manager() -> Iterator[None]:
    warn("inside a context manager")
    yield


def _as_if_in_shoal(function: Any) -> Any:
    """Return the function with a code object that claims to come from a file of shoal."""
    code = function.__code__.replace(co_filename=os.path.join(os.path.dirname(shoal.__file__), "memory", "_x.py"))
    return types.FunctionType(code, function.__globals__, function.__name__)


@pytest.mark.parametrize("name", CASES)
def test_the_warning_points_at_the_line_of_the_user(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text, function = CASES[name]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        function(tmp_path, monkeypatch)
    places = {
        (warning.filename, linecache.getline(warning.filename, warning.lineno).rstrip().endswith("# here"))
        for warning in caught
        if text in str(warning.message)
    }
    assert places == {(__file__, True)}, [str(warning) for warning in caught]


def test_no_module_counts_the_stack_level_itself() -> None:
    source = Path(shoal.__file__).parent
    counted = [
        path.relative_to(source).as_posix() for path in source.rglob("*.py") if "stacklevel=" in path.read_text("utf-8")
    ]
    assert counted == ["_tracebacks.py"]
