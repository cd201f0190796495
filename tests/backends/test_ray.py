"""The ray backend, on a cluster of this machine alone."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Future
from pathlib import Path
from typing import Any

import numpy
import psutil
import pytest

from _capabilities import KILL, needs_memfd, needs_signals
from _children import path_of_tests
from _live_util import LiveTests
from _ray_util import ray_cluster
from shoal import CallPicklingError, CallUnpicklingError, Parallel, WorkerDied, delayed, parallel_config, shared
from shoal.backends import create
from shoal.cli._programs import programs
from shoal.testing import PATIENCE, BackendTests

ray = pytest.importorskip("ray", reason="ray is not installed; for free-threaded Pythons there are no wheels of it")


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    with ray_cluster():
        yield


@pytest.fixture
def puts(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Give the list of objects that are put into ray's store."""
    seen: list[Any] = []
    put = ray.put

    def noted(value: Any) -> Any:
        seen.append(value)
        return put(value)

    monkeypatch.setattr(ray, "put", noted)
    return seen


def eventually(condition: Callable[[], bool]) -> bool:
    """Return whether a condition becomes true in time."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def sleep_in(folder: Path) -> None:
    """Write the id of this process into a folder, and sleep."""
    folder.joinpath(str(os.getpid())).touch()
    time.sleep(1000)


def all_have_ended(folder: Path) -> bool:
    """Return whether the processes that have slept in a folder end in time."""
    return eventually(lambda: not any(psutil.pid_exists(int(path.name)) for path in folder.iterdir()))


def die_once(marker: Path, number: int) -> int:
    """End the worker if this is the first attempt; return the negative."""
    if number == 7 and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), KILL)
    return -number


def die_at(number: int, last: int) -> int:
    if number == last:
        os.kill(os.getpid(), KILL)
    return -number


def where(array: Any, table: dict[str, int], *_: Any) -> tuple[int, int, int, bool]:
    """Return the worker, the id of `table`, a value, and whether `array` is writable."""
    array[0] += 1
    return os.getpid(), id(table), table["b"], bool(array[0] == 1)


class Unreadable:
    def __reduce__(self) -> Any:
        return int, ("no number",)


def nested_on_ray(n_calls: int) -> list[int]:
    return Parallel(n_jobs=2, backend="ray")(delayed(abs)(-number) for number in range(n_calls))


class TestContract(BackendTests):
    backend = "ray"


class TestWhileCallsRun(LiveTests):
    backend = "ray"


# Stored objects


def test_large_and_shared_arguments_are_stored_once(puts: list[Any]) -> None:
    array = numpy.zeros(200_000)
    table = shared({"a": 1, "b": 2})
    shown = Parallel(n_jobs=2, backend="ray", batch_size=3)(delayed(where)(array, table, n) for n in range(40))
    assert len(puts) == 2
    assert len({(worker, table) for worker, table, _, _ in shown}) == len({worker for worker, _, _, _ in shown})
    assert {(value, own) for _, _, value, own in shown} == {(2, True)} or {own for *_, own in shown} == {True, False}
    assert array[0] == 0


def test_a_function_by_value_is_stored_once(puts: list[Any]) -> None:
    factor = numpy.full(1000, 3)

    def scaled(number: int) -> int:
        return int(factor[0]) * number

    run = Parallel(n_jobs=2, backend="ray", batch_size=5)
    assert run(delayed(scaled)(number) for number in range(100)) == [3 * number for number in range(100)]
    assert len(puts) == 1
    factor[0] = 4  # the next run gets the current state
    assert run(delayed(scaled)(number) for number in range(100)) == [4 * number for number in range(100)]


def test_a_function_for_each_call(puts: list[Any]) -> None:
    functions = [lambda shift, number=number: number + shift for number in range(200)]
    results = Parallel(n_jobs=2, backend="ray")(delayed(function)(1) for function in functions)
    assert results == list(range(1, 201))
    assert len(puts) <= 64


def test_data_frames_are_stored_once_and_are_writable(puts: list[Any]) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"x": numpy.zeros(200_000), "y": numpy.ones(200_000)})

    results = Parallel(n_jobs=2, backend="ray", batch_size=1)(
        delayed(lambda frame, number: frame.mul(number).pipe(written).sum().sum())(frame, number) for number in range(6)
    )
    assert results == [200_000 * number + 1000 for number in range(6)]
    assert sum(type(value) is not bytes and sum(len(b.raw()) for b in value.buffers) > 10**6 for value in puts) == 1
    assert frame["x"].sum() == 0


def written(frame: Any) -> Any:
    frame.iloc[0, 0] = 1000
    return frame


# Failures


def test_a_worker_that_dies_is_retried_as_ray_does(tmp_path: Path) -> None:
    run = Parallel(n_jobs=2, backend="ray", batch_size=2)
    assert run(delayed(die_once)(tmp_path / "died", number) for number in range(10)) == [-n for n in range(10)]


def test_a_worker_that_dies_again_and_again() -> None:
    run = Parallel(n_jobs=2, backend="ray", batch_size=1, ray_remote_args={"max_retries": 1})
    with pytest.raises(WorkerDied, match=r"call 2, test_ray.die_at\(2, 2\)") as caught:
        run(delayed(die_at)(number, 2) for number in range(4))
    assert isinstance(caught.value.__cause__, BrokenExecutor)
    assert isinstance(caught.value.__cause__.__cause__, ray.exceptions.WorkerCrashedError)
    results = run(delayed(die_at)(number, -1) for number in range(4))
    assert results == [0, -1, -2, -3]


def test_worker_deaths_as_results() -> None:
    run = Parallel(n_jobs=2, backend="ray", batch_size=1, on_error="return", ray_remote_args={"max_retries": 0})
    results = run(delayed(die_at)(number, 1) for number in range(3))
    assert isinstance(results[1], WorkerDied)
    assert results[::2] == [0, -2]


def test_objects_that_cannot_be_pickled() -> None:
    run = Parallel(n_jobs=2, backend="ray", batch_size=2)
    with pytest.raises(CallPicklingError, match=r"call 3, .*args\[0\]"):
        run(delayed(id)(threading.Lock() if number == 3 else number) for number in range(5))
    with pytest.raises(CallPicklingError, match=r"results\[1\] .*lock"):
        run(delayed(threading.Lock if number == 3 else float)() for number in range(5))
    with pytest.raises(CallUnpicklingError, match="no number"):
        run(delayed(id)(Unreadable()) for _ in range(5))
    unreadable = Unreadable()
    with pytest.raises(CallUnpicklingError, match=r"a function or .*no number"):
        run(delayed(lambda: unreadable)() for _ in range(5))
    assert run(delayed(abs)(-number) for number in range(3)) == [0, 1, 2]


# Aborted runs


def test_an_aborted_run_ends_its_calls(tmp_path: Path) -> None:
    run = Parallel(n_jobs=2, backend="ray", return_as="generator", batch_size=1)
    results = run(delayed(sleep_in)(tmp_path) for _ in range(3))
    assert eventually(lambda: len(list(tmp_path.iterdir())) == 2)
    with pytest.warns(match="cancelled"):
        results.close()
    assert all_have_ended(tmp_path)


def test_tasks_are_cancelled_by_the_thread_that_handles_replies(monkeypatch: pytest.MonkeyPatch) -> None:
    """By another thread, in the moment of a reply, a cancellation makes ray end this process."""
    by: list[int] = []
    of_replies: list[int] = []
    cancel = ray.cancel

    def noted(*args: Any, **options: Any) -> None:
        by.append(threading.get_ident())
        cancel(*args, **options)

    monkeypatch.setattr(ray, "cancel", noted)
    reply = ray.remote(lambda: time.sleep(0.2)).remote().future()  # later than the next line
    reply.add_done_callback(lambda _: of_replies.append(threading.get_ident()))
    reply.result(PATIENCE)
    with pytest.raises(TimeoutError):
        Parallel(n_jobs=2, backend="ray", batch_size=1, timeout=0.1)(delayed(time.sleep)(1000) for _ in range(2))
    assert eventually(lambda: len(by) == 2)
    assert set(by) == set(of_replies) != {threading.get_ident()}


def test_an_object_that_is_ready_at_once_does_not_make_the_caller_cancel(monkeypatch: pytest.MonkeyPatch) -> None:
    by: list[int] = []
    made: list[Any] = []
    put = ray.put

    class Ready:
        """An object whose future has its result when it is returned, the first two times."""

        def __init__(self, value: Any) -> None:
            self.reference = put(value)

        def future(self) -> Any:
            future = self.reference.future()
            made.append(future)
            if len(made) <= 2:
                future.result(PATIENCE)
            return future

    monkeypatch.setattr(ray, "cancel", lambda *_, **__: by.append(threading.get_ident()))
    monkeypatch.setattr(ray, "put", Ready)
    from shoal.backends._ray import RayExecutor  # it needs ray

    executor = RayExecutor({})
    executor._running[Future()] = None
    executor.cancel()
    assert eventually(lambda: len(by) == 1)
    assert len(made) >= 3
    assert by != [threading.get_ident()]


def test_a_timeout_ends_the_calls(tmp_path: Path) -> None:
    with pytest.raises(TimeoutError):
        Parallel(n_jobs=2, backend="ray", timeout=1)(delayed(sleep_in)(tmp_path) for _ in range(3))
    assert all_have_ended(tmp_path)


@needs_signals
def test_an_interrupt_ends_the_calls(tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from _ray_util import ray_cluster
        from shoal import Parallel, delayed
        from test_ray import all_have_ended, sleep_in

        folder = Path(sys.argv[1])
        with ray_cluster():
            run = Parallel(n_jobs=2, backend="ray")
            try:
                run(delayed(sleep_in)(folder) for _ in range(4))
            except KeyboardInterrupt:
                assert all_have_ended(folder)
                assert run(delayed(abs)(-n) for n in range(4)) == [0, 1, 2, 3]
                print("interrupted")
        """
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    family: list[psutil.Process] = []
    environment = {**os.environ, "PYTHONPATH": path_of_tests()}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
    ) as program:
        try:
            assert eventually(lambda: len(list(tmp_path.iterdir())) == 2)
            family = psutil.Process(program.pid).children(recursive=True)
            os.killpg(program.pid, signal.SIGINT)  # like a terminal
            printed, _ = program.communicate(timeout=PATIENCE)
            assert printed == "interrupted\n"
            assert eventually(lambda: not any(process.is_running() for process in family))
        finally:
            program.kill()
            for process in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()


# Nested runs, and resources of the cluster


def test_nested_runs_on_ray_do_not_wait_for_each_other() -> None:
    run = Parallel(n_jobs=2, backend="ray", batch_size=1)
    assert run(delayed(nested_on_ray)(3) for _ in range(4)) == [[0, 1, 2]] * 4


def test_n_jobs_is_what_the_cluster_can_run_at_a_time() -> None:
    assert create("ray").workers(-1) == create("ray").workers(None) == 2
    assert create("ray", ray_remote_args={"num_cpus": 2}).workers(-1) == 1
    assert create("ray", ray_remote_args={"num_cpus": 0.5}).workers(-1) == 4
    assert create("ray", ray_remote_args={"num_gpus": 1}).workers(-1) == 1


def test_a_program_without_a_cluster_uses_that_of_ray_address() -> None:
    address = ray.get_runtime_context().gcs_address
    script = """
        import ray
        from shoal import Parallel, delayed

        results = Parallel(n_jobs=2, backend="ray")(delayed(abs)(-n) for n in range(4))
        print(results, ray.get_runtime_context().gcs_address)
        """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    environment = {**os.environ, "RAY_ADDRESS": address}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.stdout.strip().endswith(f"[0, 1, 2, 3] {address}"), done.stderr


def test_options_of_the_context() -> None:
    options = {"runtime_env": {"env_vars": {"SHOAL_TEST_OF_RAY": "yes"}}}
    with parallel_config("ray", n_jobs=2, ray_remote_args=options):
        assert Parallel()(delayed(os.getenv)("SHOAL_TEST_OF_RAY") for _ in range(3)) == ["yes"] * 3
    with pytest.raises(TypeError, match="ray_remote_arg"):
        Parallel(n_jobs=2, backend="ray", ray_remote_arg={})


@needs_memfd
def test_shoal_top_shows_how_far_a_run_is() -> None:
    seen: list[tuple[str, int | None, int]] = []
    tasks: list[tuple[int | None, str | None]] = []

    def look(_done: int, _total: int | None) -> None:
        (program,) = programs(os.getpid())
        seen.extend((run.backend, run.total, run.done) for run in program.runs)
        tasks.extend((task.call, task.function) for run in program.runs for task in run.workers)

    Parallel(backend="ray", batch_size=1, progress=look)([delayed(abs)(number) for number in range(4)])
    assert {(backend, total) for backend, total, _ in seen} == {("ray", 4)}
    assert max(done for _, _, done in seen) >= 3
    assert set(tasks) >= {(3, "abs")}
    assert programs(os.getpid()) == []
