"""Workers have an index, on which their variables and CPUs depend."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from _capabilities import KILL, SLOWNESS, needs_affinity
from _faults_util import alive, until, wait_for
from shoal import FallbackWarning, Parallel, delayed, executor, parallel_config, worker_index
from shoal.backends._placement import _shares

PROCESSES = ["loky", "multiprocessing"]
BACKENDS = [*PROCESSES, "threading"]


def together(folder: Path, n: int, function: Callable[..., Any], *args: Any) -> Any:
    """Wait until `n` calls run at the same time."""
    (folder / f"{os.getpid()}-{threading.get_ident()}").touch()
    assert until(lambda: len(os.listdir(folder)) >= n, 60)
    return function(*args)


def in_each_worker(folder: Path, n: int, function: Callable[..., Any], *args: Any, **options: Any) -> list[Any]:
    """Return the result of `function(*args)` in each of `n` workers."""
    folder.mkdir()
    return Parallel(n_jobs=n, batch_size=1, **options)(delayed(together)(folder, n, function, *args) for _ in range(n))


def index_and(name: str) -> tuple[int | None, str | None]:
    return worker_index(), os.environ.get(name)


def index_and_pid() -> tuple[int | None, int]:
    return worker_index(), os.getpid()


# The index


@pytest.mark.parametrize("backend", BACKENDS)
def test_workers_of_a_run_count_from_0(tmp_path: Path, backend: str) -> None:
    for again in range(2):
        assert sorted(in_each_worker(tmp_path / str(again), 3, worker_index, backend=backend)) == [0, 1, 2]
    assert worker_index() is None


def test_an_executor_has_its_own_indices(tmp_path: Path) -> None:
    from shoal.backends._pool import pool

    assert sorted(in_each_worker(tmp_path / "before", 3, worker_index)) == [0, 1, 2]
    with executor(2, "loky") as own:
        (tmp_path / "own").mkdir()
        futures = [own.submit(together, tmp_path / "own", 2, worker_index) for _ in range(2)]
        assert sorted(future.result() for future in futures) == [0, 1]
        assert sorted(in_each_worker(tmp_path / "beside", 3, worker_index)) == [0, 1, 2]
    assert sorted(in_each_worker(tmp_path / "after", 3, worker_index)) == [0, 1, 2]
    assert sorted(worker.index for worker in pool()._workers[pool()._latest]) == [0, 1, 2]


@pytest.mark.parametrize("options", [{}, {"return_as": "generator"}, {"on_error": "return"}])
def test_a_plain_loop_is_worker_0(options: dict[str, Any]) -> None:
    seen = []
    for index in Parallel(n_jobs=1, **options)(delayed(worker_index)() for _ in range(3)):
        seen.append((index, worker_index()))
    assert seen == [(0, None)] * 3


@pytest.mark.parametrize("options", [{}, {"return_as": "generator"}])
def test_a_failed_plain_loop_resets_the_index(options: dict[str, Any]) -> None:
    with pytest.raises(ZeroDivisionError):
        list(Parallel(n_jobs=1, **options)([delayed(divmod)(1, 0)]))
    assert worker_index() is None


def nested(backend: str | None, n_jobs: int) -> tuple[int | None, set[int | None], int | None]:
    before = worker_index()
    run = Parallel(n_jobs=n_jobs, backend=backend) if backend else Parallel(n_jobs=n_jobs)
    return before, set(run([delayed(worker_index)()] * 8)), worker_index()


@pytest.mark.parametrize("backend", BACKENDS)
def test_nested_runs_have_the_index_of_the_innermost_worker(tmp_path: Path, backend: str) -> None:
    for outer, inner, after in in_each_worker(tmp_path / "threads", 3, nested, "threading", 2, backend=backend):
        assert inner <= {0, 1}
        assert outer == after
    for outer, inner, after in in_each_worker(tmp_path / "loop", 3, nested, None, 1, backend=backend):
        assert inner == {outer} == {after}  # a plain loop in a call has the index of the call


def in_a_thread() -> tuple[int | None, Any]:
    indices: list[Any] = []
    thread = threading.Thread(target=lambda: indices.append(worker_index()))
    thread.start()
    thread.join()
    return worker_index(), indices[0]


def test_threads_of_a_call_have_the_index_in_worker_processes(tmp_path: Path) -> None:
    assert sorted(in_each_worker(tmp_path / "calls", 2, in_a_thread)) == [(0, 0), (1, 1)]


def die_first(folder: Path, victim: int) -> tuple[int | None, int]:
    """Wait until 3 calls run at the same time; kill the worker of one of them."""
    marks = folder / "first"
    index = worker_index()
    if index == victim and not (folder / "dead").exists():
        (marks / f"{index}").touch()
        until(lambda: len(os.listdir(marks)) >= 3, 60)
        (folder / "dead").touch()
        os.kill(os.getpid(), KILL)
    (marks / f"{index}").touch()
    wait_for(folder / "dead")
    return together(folder / "second", 3, index_and_pid)


@pytest.mark.parametrize("victim", [0, 1, 2])
@pytest.mark.parametrize("backend", PROCESSES)
def test_the_worker_after_a_killed_one_has_its_index(tmp_path: Path, backend: str, victim: int) -> None:
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    before = dict(in_each_worker(tmp_path / "before", 3, index_and_pid, backend=backend))
    run = Parallel(n_jobs=3, backend=backend, batch_size=1, retries=1)
    found = dict(run(delayed(die_first)(tmp_path, victim) for _ in range(3)))
    assert sorted(found) == [0, 1, 2]
    if backend == "loky":  # the workers of multiprocessing are new in each run
        assert {index for index in range(3) if found[index] != before[index]} == {victim}


def test_a_worker_that_died_while_idle(tmp_path: Path) -> None:
    before = dict(in_each_worker(tmp_path / "before", 3, index_and_pid))
    os.kill(before[1], KILL)
    assert until(lambda: not alive(before[1]))
    after = dict(in_each_worker(tmp_path / "after", 3, index_and_pid))
    assert sorted(after) == [0, 1, 2]
    assert [index for index in range(3) if after[index] != before[index]] == [1]


def stay(seconds: float) -> tuple[int | None, int]:
    time.sleep(seconds)
    return worker_index(), threading.get_ident()


def test_the_thread_after_a_stuck_one_has_its_index() -> None:
    run = Parallel(n_jobs=2, backend="threading", task_timeout=0.2, on_error="return")
    with pytest.warns(FallbackWarning, match="left to end by itself"):
        results = run(delayed(stay)(2 if number < 2 else 0.01) for number in range(8))
    finished = [result for result in results if not isinstance(result, Exception)]
    assert len(finished) == 6
    assert {index for index, _ in finished} <= {0, 1}


def test_gaps_that_idle_workers_leave_are_filled(tmp_path: Path) -> None:
    from shoal.backends._pool import pool

    in_each_worker(tmp_path / "before", 3, worker_index)
    workers = pool()._workers[pool()._latest]
    gone = workers.pop(1)
    gone.end()
    assert [worker.index for worker in workers] == [0, 2]
    assert sorted(in_each_worker(tmp_path / "after", 2, worker_index)) == [0, 1]
    assert sorted(worker.index for worker in workers) == [0, 1, 2]


# The environment


@pytest.mark.parametrize("backend", PROCESSES)
def test_variables_depend_on_the_index(tmp_path: Path, backend: str) -> None:
    gpus = lambda index: {"CUDA_VISIBLE_DEVICES": f"gpu {index}"}  # noqa: E731 not a function that imports find
    for again in range(2):
        found = in_each_worker(
            tmp_path / str(again), 3, index_and, "CUDA_VISIBLE_DEVICES", backend=backend, environment=gpus
        )
        assert sorted(found) == [(index, f"gpu {index}") for index in range(3)]
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


EARLY = """
import os
import sys

SEEN = os.environ.get("SHOAL_EARLY"), os.environ.get("SHOAL_AWAY"), os.environ.get("OMP_NUM_THREADS")

def seen():
    return SEEN

def seen_by_main():
    return sys.modules["__main__"].SEEN

if __name__ == "__main__":
    from shoal import Parallel, delayed, parallel_config
    import multiprocessing
    os.environ["SHOAL_AWAY"] = "there"
    variables = {"SHOAL_EARLY": "set", "SHOAL_AWAY": None, "OMP_NUM_THREADS": "5"}
    how = sys.argv[1]
    import early  # as workers find it: by name
    backend = how if how == "loky" else multiprocessing.get_context(how)
    with parallel_config(backend):
        run = Parallel(n_jobs=2, environment=lambda index: variables, initializer=early.seen)
        print(set(run([delayed(early.seen_by_main if how == "spawn" else early.seen)()] * 4)))
    print(os.environ.get("SHOAL_EARLY"), os.environ["SHOAL_AWAY"], os.environ.get("OMP_NUM_THREADS"))
"""


@pytest.mark.parametrize("how", ["loky", "spawn"])
def test_variables_are_set_before_imports(tmp_path: Path, how: str) -> None:
    (tmp_path / "early.py").write_text(EARLY)
    program = [sys.executable, "-W", "error", str(tmp_path / "early.py"), how]
    ended = subprocess.run(program, capture_output=True, text=True, timeout=100 * SLOWNESS, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == "{('set', None, '5')}\nNone there None\n"


@pytest.mark.parametrize("backend", PROCESSES)
def test_environment_overrides_thread_limits(tmp_path: Path, backend: str) -> None:
    options: dict[str, Any] = {"backend": backend, "environment": {"OMP_NUM_THREADS": "7"}}
    assert in_each_worker(tmp_path / "omp", 2, os.getenv, "OMP_NUM_THREADS", **options) == ["7", "7"]
    assert "7" not in in_each_worker(tmp_path / "mkl", 2, os.getenv, "MKL_NUM_THREADS", **options)


def test_workers_are_kept_for_equal_environments(tmp_path: Path) -> None:
    def pids(name: str, environment: Any) -> set[int]:
        return set(in_each_worker(tmp_path / name, 2, os.getpid, environment=environment))

    def by_index(index: int) -> dict[str, str]:
        return {"SHOAL_PLACE": str(index)}

    mapped = pids("a", {"SHOAL_PLACE": "x"})
    assert pids("b", {"SHOAL_PLACE": "x"}) == mapped
    called = pids("c", by_index)
    assert not called & mapped
    assert pids("d", by_index) == called


def test_a_context_sets_the_environment(tmp_path: Path) -> None:
    with parallel_config("loky", environment={"SHOAL_PLACE": "context"}):
        assert in_each_worker(tmp_path / "context", 2, os.getenv, "SHOAL_PLACE") == ["context"] * 2
        assert in_each_worker(tmp_path / "own", 2, os.getenv, "SHOAL_PLACE", environment={}) == [None] * 2


def test_environment_is_called_once_per_process(tmp_path: Path) -> None:
    asked: list[int] = []

    def environment(index: int) -> dict[str, str]:
        asked.append(index)
        return {}

    for again in range(2):
        in_each_worker(tmp_path / str(again), 2, worker_index, environment=environment)
    assert sorted(asked) == [0, 1]


# The CPUs


def affinity() -> tuple[int | None, set[int]]:
    return worker_index(), os.sched_getaffinity(0)


@needs_affinity
@pytest.mark.parametrize("backend", PROCESSES)
def test_cpus_are_divided_among_workers(tmp_path: Path, backend: str) -> None:
    usable = sorted(os.sched_getaffinity(0))
    n = len(usable) + 1
    found = dict(in_each_worker(tmp_path / "all", n, affinity, backend=backend, affinity=True))
    assert found == {index: {usable[index % len(usable)]} for index in range(n)}
    assert os.sched_getaffinity(0) == set(usable)


@needs_affinity
def test_a_worker_has_as_many_cpus_as_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {2, 3, 5, 7, 11})
    assert _shares(2, 0) == [(2, 3), (5, 7)]
    assert _shares(2, 1) == [(2, 3, 5), (7, 11)]
    assert _shares(1, 0) == [(2,), (3,), (5,), (7,), (11,)]
    assert _shares(1, 2) == [(2, 3), (5, 7), (11,)]
    assert _shares(5, 0) == _shares(8, 0) == [(2, 3, 5, 7, 11)]


@needs_affinity
@pytest.mark.parametrize("form", [lambda last: [last], lambda last: [{last}], lambda last: lambda _: (last,)])
def test_cpus_by_number(tmp_path: Path, form: Callable[[int], Any]) -> None:
    last = max(os.sched_getaffinity(0))
    assert sorted(in_each_worker(tmp_path / "pinned", 2, affinity, affinity=form(last))) == [(0, {last}), (1, {last})]


def test_a_system_without_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_setaffinity", raising=False)
    with pytest.warns(FallbackWarning, match="affinity is ignored") as warned:
        assert Parallel(n_jobs=2, affinity=True)(delayed(abs)(-i) for i in range(9)) == list(range(9))
    assert len(warned) == 1
    assert warned[0].filename == __file__


# Invalid options


@pytest.mark.parametrize("backend", PROCESSES)
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"environment": "CUDA_VISIBLE_DEVICES=1"}, TypeError, "must map names of variables"),
        ({"environment": {"CUDA_VISIBLE_DEVICES": 1}}, TypeError, "'CUDA_VISIBLE_DEVICES': 1"),
        ({"environment": {3: "1"}}, TypeError, "3: '1'"),
        ({"environment": {"A=B": "1"}}, ValueError, "'A=B'"),
        ({"environment": {"": "1"}}, ValueError, "does not allow"),
        ({"environment": {"A": "1\0"}}, ValueError, "does not allow"),
        ({"environment": lambda index: None}, TypeError, "got: None"),
        ({"environment": lambda index: {"GPU": index}}, TypeError, "'GPU': "),
        ({"environment": lambda index: {"GPU": [][index]}}, IndexError, "out of range"),
        pytest.param({"affinity": "01"}, TypeError, "'01'", marks=needs_affinity),
        pytest.param({"affinity": {0}}, TypeError, "a sequence", marks=needs_affinity),
        pytest.param({"affinity": []}, TypeError, r"\[\]", marks=needs_affinity),
        pytest.param({"affinity": [[]]}, ValueError, r"\[\]", marks=needs_affinity),
        pytest.param({"affinity": [0.5]}, TypeError, "0.5", marks=needs_affinity),
        pytest.param({"affinity": [{100_000}]}, ValueError, "100000", marks=needs_affinity),
        pytest.param({"affinity": lambda index: None}, TypeError, "None", marks=needs_affinity),
        pytest.param({"affinity": lambda index: [-1]}, ValueError, "-1", marks=needs_affinity),
    ],
)
def test_invalid_values_are_refused(backend: str, options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Parallel(n_jobs=2, backend=backend, **options)([delayed(abs)(-1)] * 2)
    assert Parallel(n_jobs=2, backend=backend)([delayed(abs)(-1)] * 2) == [1, 1]


@pytest.mark.parametrize("option", [{"environment": {}}, {"affinity": True}])
@pytest.mark.parametrize("backend", ["threading", "sequential"])
def test_threads_refuse_placement_options(backend: str, option: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=f"the backend '{backend}' has none"):
        Parallel(n_jobs=2, backend=backend, **option)
    with parallel_config(backend), pytest.raises(TypeError, match="is for worker processes"):
        Parallel(n_jobs=2, **option)
    with pytest.raises(TypeError, match="is for worker processes"):
        parallel_config(backend, **option)


@pytest.mark.parametrize("option", [{"environment": {}}, {"affinity": True}])
def test_one_worker_ignores_placement_options(option: dict[str, Any]) -> None:
    with pytest.warns(FallbackWarning, match="is ignored") as warned:
        assert Parallel(n_jobs=1, backend="loky", **option)([delayed(abs)(-1)]) == [1]
    assert warned[0].filename == __file__
