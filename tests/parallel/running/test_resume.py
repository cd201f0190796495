"""``memory=``: calls whose results are known are not run again."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import numpy
import pytest

from shoal import Parallel, ResultCache, WorkerDied, delayed, shared

BACKENDS = ["loky", "threading", "multiprocessing", "sequential"]


class Results(dict[Any, Any]):
    """Results in a dictionary, and which of them were put there."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[Any] = []

    @staticmethod
    def key(call: Any) -> Any:
        function, args, kwargs = call
        return function.__name__, args, tuple(kwargs.items())

    def get(self, call: Any, default: Any = None) -> Any:
        return super().get(self.key(call), default)

    def put(self, call: Any, value: Any) -> None:
        self.kept.append(call[1][-1])
        self[self.key(call)] = value


def tenfold(folder: Path, i: int) -> Any:
    with open(folder / str(i), "a") as file:
        file.write(".")
    return i * 10


def fails_at_seven(folder: Path, i: int) -> Any:
    if i == 7 and not (folder / "mended").exists():
        raise ValueError(i)
    return tenfold(folder, i)


def dies_at_seven(folder: Path, i: int) -> Any:
    if i == 7 and not (folder / "mended").exists():
        os._exit(1)
    return tenfold(folder, i)


def array_of(i: int) -> Any:
    return numpy.full(200_000, i)


def runs(folder: Path) -> dict[int, int]:
    """How often each call has run."""
    return {int(name): (folder / name).stat().st_size for name in os.listdir(folder) if name.isdigit()}


@pytest.mark.parametrize("batch_size", ["auto", 1, 7])
@pytest.mark.parametrize(
    ("backend", "mode"),
    [
        *(
            (backend, mode)
            for backend in BACKENDS
            for mode in ("list", "generator", "generator_unordered")
            if mode == "list" or backend != "multiprocessing"
        ),
    ],
)
def test_only_what_is_missing_runs(tmp_path: Path, backend: str, batch_size: Any, mode: str) -> None:
    memory: Any = Results()
    run = Parallel(n_jobs=2, backend=backend, batch_size=batch_size, return_as=mode, memory=memory)
    assert sorted(run(delayed(tenfold)(tmp_path, i) for i in range(0, 40, 3))) == list(range(0, 400, 30))
    results = list(run(delayed(tenfold)(tmp_path, i) for i in range(40)))
    assert (sorted(results) if mode == "generator_unordered" else results) == list(range(0, 400, 10))
    assert runs(tmp_path) == dict.fromkeys(range(40), 1)
    assert sorted(memory.kept) == list(range(40))
    again = list(run(delayed(tenfold)(tmp_path, i) for i in range(40)))
    assert sorted(again) == sorted(results)
    assert runs(tmp_path) == dict.fromkeys(range(40), 1)


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_was_done_before_a_failure_is_kept(tmp_path: Path, backend: str) -> None:
    memory: Any = Results()
    run = Parallel(n_jobs=2, backend=backend, batch_size=1, memory=memory)
    with pytest.raises(ValueError, match="7"):
        run(delayed(fails_at_seven)(tmp_path, i) for i in range(10))
    before = list(memory.kept)
    assert len(before) >= 3
    (tmp_path / "mended").touch()
    assert run(delayed(fails_at_seven)(tmp_path, i) for i in range(10)) == list(range(0, 100, 10))
    assert [i for i in before if runs(tmp_path)[i] > 1] == []


def test_a_worker_dies_among_known_calls(tmp_path: Path) -> None:
    memory: ResultCache = Results()
    run = Parallel(n_jobs=2, batch_size=4, memory=memory, retries=1, on_error="return")
    first = run(delayed(dies_at_seven)(tmp_path, i) for i in range(16))
    assert [isinstance(value, WorkerDied) for value in first] == [i == 7 for i in range(16)]
    (tmp_path / "mended").touch()
    assert run(delayed(dies_at_seven)(tmp_path, i) for i in range(16)) == list(range(0, 160, 10))
    assert runs(tmp_path)[7] == 1, "an exception is no result to be kept"


def test_a_known_result_is_the_object_that_was_kept() -> None:
    memory: ResultCache = Results()
    first = Parallel(n_jobs=2, memory=memory)(delayed(array_of)(i) for i in range(4))
    again = Parallel(n_jobs=2, memory=memory)(delayed(array_of)(i) for i in range(4))
    assert all(a is b for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
def test_results_that_no_worker_could_be_sent(backend: str) -> None:
    lock = threading.Lock()
    memory: Any = Results()
    memory[memory.key((abs, (-1,), {}))] = lock
    assert Parallel(n_jobs=2, backend=backend, memory=memory)(delayed(abs)(-i) for i in range(3)) == [0, lock, 2]


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_cache_sees_the_calls_as_they_were_made(backend: str) -> None:
    seen: list[Any] = []

    class Seen:
        def get(self, call: Any, default: Any) -> Any:
            seen.append(call)
            return default

        def put(self, call: Any, value: Any) -> None:
            seen.append((*call, value))

    table = shared({"a": 1})
    Parallel(n_jobs=2, backend=backend, memory=Seen())([delayed(dict.get)(table, "a"), delayed(int)("11", base=2)])
    calls = [(dict.get, (table, "a"), {}), (int, ("11",), {"base": 2})]
    assert [call for call in seen if len(call) == 3] == calls
    assert sorted((call for call in seen if len(call) == 4), key=str) == sorted(
        [(*calls[0], 1), (*calls[1], 3)], key=str
    )


@pytest.mark.parametrize("method", ["get", "put"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_an_error_of_the_cache_ends_the_run(backend: str, method: str) -> None:
    class Broken(Results):
        pass

    def broken(*_: Any) -> None:
        raise OSError("the disk is gone")

    setattr(Broken, method, broken)
    with pytest.raises(OSError, match="the disk is gone"):
        Parallel(n_jobs=2, backend=backend, memory=Broken(), retries=3)(delayed(abs)(i) for i in range(5))


def test_what_is_no_cache_is_refused() -> None:
    with pytest.raises(TypeError, match=r"memory must have the methods get\(call, default\) and put\(call, value\)"):
        Parallel(n_jobs=2, memory="cachedir")  # type: ignore[arg-type]
