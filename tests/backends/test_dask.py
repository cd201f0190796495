"""The dask backend, on a cluster of two worker processes on this machine."""

from __future__ import annotations

import copyreg
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from itertools import count
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy
import pytest

from _capabilities import KILL, needs_memfd
from _live_util import LiveTests
from shoal import (
    CallPicklingError,
    FallbackWarning,
    Parallel,
    UnusedResultsWarning,
    WorkerDied,
    delayed,
    executor,
    parallel_config,
    shared,
    worker_index,
)
from shoal.backends import WorkerSpec, create
from shoal.backends._packing import room_left
from shoal.cli._programs import programs
from shoal.testing import PATIENCE, BackendTests, wait_for

# After its import, exceptions are pickled with their tracebacks. That must not affect the tests in other files.
_reducers = dict(copyreg.dispatch_table)
distributed = pytest.importorskip("distributed", reason="there is no distribution of dask for this Python")
from shoal.backends import _dask_executor, _dask_task  # noqa: E402 they import distributed
from shoal.backends._dask_task import EVENT_BYTES  # noqa: E402 it imports distributed

_reducers_of_dask = dict(copyreg.dispatch_table)

#: No dashboards, and free ports.
PLAIN: dict[str, Any] = {
    "dashboard_address": ":0",
    "scheduler_kwargs": {"dashboard": False},
    "worker_dashboard_address": None,
}


def _register(reducers: dict[Any, Any]) -> None:
    copyreg.dispatch_table.clear()
    copyreg.dispatch_table.update(reducers)


_register(_reducers)


@pytest.fixture(scope="module", autouse=True)
def _process() -> Iterator[None]:
    """Have dask's reducers only while the tests of this module run."""
    _register(_reducers_of_dask)
    yield
    _register(_reducers)


@pytest.fixture(scope="module", autouse=True)
def cluster(_process: None) -> Iterator[Any]:
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, host="127.0.0.1", **PLAIN) as made:
        yield made


@pytest.fixture(scope="module", autouse=True)
def client(cluster: Any) -> Iterator[Any]:
    with distributed.Client(cluster) as made:
        yield made


@pytest.fixture(autouse=True)
def _nothing_is_left(client: Any) -> Iterator[None]:
    """Check after each test that the cluster holds no objects and runs no tasks."""
    yield
    wait_until(lambda: not client.futures)
    wait_until(lambda: not tasks(client))


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def tasks(client: Any) -> list[str]:
    """Return the keys of all tasks that the scheduler knows."""
    keys: list[str] = client.run_on_scheduler(lambda dask_scheduler: list(dask_scheduler.tasks))
    return keys


class TestDask(BackendTests):
    backend = "dask"


class TestWhileCallsRun(LiveTests):
    backend = "dask"


# The functions of calls


class Heavy:
    """Counts how often it is pickled in this process. It claims a large size."""

    pickled = 0

    def __init__(self, name: str, nbytes: int = 10**6) -> None:
        self.name, self.nbytes = name, nbytes

    def __sizeof__(self) -> int:
        return self.nbytes

    def __reduce__(self) -> Any:
        type(self).pickled += 1
        return Heavy, (self.name, self.nbytes)


def name_of(heavy: Heavy, *_: Any, **__: Any) -> str:
    return heavy.name


def mark(folder: Path, number: int) -> int:
    folder.joinpath(str(number)).touch()
    return number


def mark_and_wait(folder: Path, number: int, gate: Path) -> int:
    mark(folder, number)
    wait_for(gate)
    return number


def die_once(folder: Path, number: int, *_: Any) -> int:
    """Kill the worker at the first call with this number."""
    path = folder / str(number)
    if not path.exists():
        path.touch()
        os.kill(os.getpid(), KILL)
    return number


def die() -> None:
    os.kill(os.getpid(), KILL)


def pids_below(levels: int) -> set[int]:
    if not levels:
        time.sleep(0.01)
        return {os.getpid()}
    return set().union(*Parallel()(delayed(pids_below)(levels - 1) for _ in range(3)))


def sum_below(return_as: str) -> int:
    results = Parallel(return_as=return_as)(delayed(abs)(-number) for number in range(5))
    return sum(Parallel()(delayed(abs)(number) for number in results))


def settings_below() -> tuple[str, int, int | None]:
    run = Parallel()
    return type(run._backend).__name__, run.n_jobs, worker_index()


def key_of_task() -> str:
    return str(distributed.get_worker().get_current_task())


def states_here(dask_worker: Any) -> tuple[str, ...]:
    return tuple(task.state for task in dask_worker.state.tasks.values())


# Arguments


@pytest.mark.parametrize("nbytes", [10**4, 10**6])
def test_large_arguments_are_scattered_once(nbytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Heavy, "pickled", 0)
    heavy = Heavy("one", nbytes)
    calls = [delayed(name_of)(heavy, heavy, number, more=heavy) for number in range(20)]
    for batch_size in ("auto", 1):
        assert Parallel(backend="dask", batch_size=batch_size)(calls) == ["one"] * 20
    once = 1 if nbytes > 10**5 else 2  # an argument that is not very large is sent with its first call
    assert Heavy.pickled == 2 * once


def test_small_and_unique_arguments_are_sent_with_their_calls(client: Any) -> None:
    scattered: list[Any] = []
    scatter = client.scatter
    client.scatter = lambda data, **options: scattered.append(data) or scatter(data, **options)
    try:
        arrays = [numpy.full(1000, number) for number in range(10)]
        assert Parallel(backend="dask")(delayed(numpy.sum)(array) for array in arrays) == [1000 * n for n in range(10)]
        small = numpy.ones(100)
        assert Parallel(backend="dask")(delayed(numpy.sum)(small) for _ in range(10)) == [100] * 10
        assert scattered == []
        large = bytes(10**7)  # each argument is small, but together they are too large for a task
        assert Parallel(backend="dask", n_jobs=2)([delayed(len)([large])]) == [1]
        assert [len(data) for (data,) in scattered] == [pytest.approx(10**7, rel=0.01)]
    finally:
        del client.scatter


def test_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Heavy, "pickled", 0)
    table = {"a": Heavy("a"), "b": [1, 2]}
    assert Parallel(backend="dask", batch_size=1)(delayed(len)(shared(table)) for _ in range(9)) == [2] * 9
    assert Heavy.pickled == 1


def test_shared_objects_inside_arguments_are_unwrapped() -> None:
    table = shared({"a": 1})
    assert Parallel(backend="dask")(delayed(list)([table]) for _ in range(3)) == [[{"a": 1}]] * 3


def test_scatter_and_futures(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Heavy, "pickled", 0)
    first, second = Heavy("first", 10), Heavy("second", 10)
    # A client of its own, which drops what it has scattered when it ends. The event loop of a client may keep cancelled
    # timers, and these keep the context in which they were made, with its settings and their backend.
    with distributed.Client(cluster) as client:
        with parallel_config("dask", scatter=[first, second]):
            before = Heavy.pickled
            names = Parallel(batch_size=1)(delayed(name_of)(heavy) for heavy in [first, second] * 4)
            assert names == ["first", "second"] * 4
            assert Heavy.pickled == before
        assert Parallel(backend="dask", scatter=[first])(delayed(name_of)(first) for _ in range(3)) == ["first"] * 3
        with pytest.raises(TypeError, match="scatter must be a list or tuple"):
            create("dask", scatter=1)
        future = client.submit(divmod, 17, 5)
        assert Parallel(backend="dask")(delayed(sum)(future) for _ in range(3)) == [5] * 3


def test_objects_that_cannot_be_pickled() -> None:
    for lock in (threading.Lock(), shared(threading.Lock())):
        with pytest.raises(CallPicklingError, match=r"call 1, .*args\[0\]"):
            Parallel(backend="dask")([delayed(id)(1), delayed(id)(lock)])
    with pytest.raises((TypeError, pickle.PicklingError)):
        Parallel(backend="dask")([delayed(abs)(1), delayed(threading.Lock)()])


def test_calls_are_not_assumed_to_be_pure() -> None:
    values = Parallel(backend="dask", batch_size=1)(delayed(uuid4)() for _ in range(4))
    assert len(set(values)) == 4
    lists: list[list[int]] = [[] for _ in range(4)]
    append = [delayed(lambda items: items.append(0) or len(items))(items) for items in lists]
    assert Parallel(backend="dask")(append) == [1] * 4


def test_tasks_are_named_after_functions() -> None:
    keys = Parallel(backend="dask", batch_size=2)(
        [delayed(key_of_task)()] * 2 + [delayed(key_of_task)(), delayed(abs)(1)]
    )
    assert [key.rpartition("-")[0][:27] for key in keys[:3]] == ["batch_of_key_of_task_2_call"] * 2 + [
        "mixed_batch_of_key_of_task_"
    ]


# Workers


def test_options_of_submit(cluster: Any) -> None:
    address = next(iter(cluster.workers.values())).worker_address
    with parallel_config("dask", workers=[address]):
        assert len(set(Parallel(batch_size=1)(delayed(os.getpid)() for _ in range(10)))) == 1
    assert len(set(Parallel(backend="dask", workers=[address])(delayed(os.getpid)() for _ in range(10)))) == 1
    with pytest.raises(TypeError, match=r"'dask' takes no \['worker'\]"):
        create("dask", worker=address)
    with pytest.raises(TypeError, match="environment is for worker processes"):
        Parallel(backend="dask", environment=dict)


def test_numbers_of_workers() -> None:
    run = Parallel(backend="dask")
    assert run.n_jobs == -1
    backend = create("dask")
    assert (backend.workers(None), backend.workers(-1), backend.workers(50)) == (2, 2, 50)
    assert Parallel(backend="dask", n_jobs=50)(delayed(abs)(-n) for n in range(200)) == list(range(200))
    with executor(2, backend="dask") as workers:
        assert list(workers.map(abs, range(-20, 0))) == list(range(20, 0, -1))


def test_ignored_options_cause_warnings() -> None:
    run = Parallel(backend="dask", task_timeout=3)
    with pytest.warns(FallbackWarning, match="task_timeout=3"):
        assert run([delayed(abs)(-1)] * 2) == [1, 1]
    run = Parallel(backend="dask", max_tasks_per_worker=3)
    with pytest.warns(FallbackWarning, match="max_tasks_per_worker=3"):
        assert run([delayed(abs)(-1)] * 2) == [1, 1]


def test_failures_are_retried_and_returned(tmp_path: Path) -> None:
    calls = [delayed(int)("1"), delayed(int)("a"), delayed(int)("3")]
    first, error, last = Parallel(backend="dask", on_error="return", retries=1)(calls)
    assert (first, type(error), last) == (1, ValueError, 3)
    assert (error.call.index, error.call.function) == (1, "int")


# Nested runs


@pytest.mark.parametrize("levels", [1, 3])
def test_nested_runs_are_on_the_same_cluster(client: Any, levels: int) -> None:
    workers = set(client.run(os.getpid).values())
    pids = Parallel(backend="dask")(delayed(pids_below)(levels) for _ in range(3))
    assert set().union(*pids) <= workers
    assert Parallel(backend="dask", n_jobs=2)([delayed(settings_below)()]) == [("DaskBackend", -1, None)]


@pytest.mark.parametrize("return_as", ["list", "generator", "generator_unordered"])
def test_a_nested_run_accepts_generators(return_as: str) -> None:
    assert Parallel(backend="dask", batch_size=1)(delayed(sum_below)(return_as) for _ in range(4)) == [10] * 4


def test_a_cluster_of_threads_of_this_process() -> None:
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=2, processes=False, **PLAIN) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
        parallel_config("dask", client=client),
    ):
        array = numpy.ones(10**5)
        assert Parallel()(delayed(sum_below)("list") for _ in range(4)) == [10] * 4
        assert Parallel()(delayed(array.__class__.fill)(array, 0) for _ in range(2)) == [None] * 2
        assert array.all()


# Results and messages of small runs


@pytest.mark.parametrize(("returned", "fetched"), [(b"x" * 100, 0), (b"x" * 100_000, 2)])
def test_small_results_are_not_fetched(
    client: Any, monkeypatch: pytest.MonkeyPatch, returned: bytes, fetched: int
) -> None:
    """They come with the news that their task has ended."""
    gather, asked = client.gather, []

    def gathered(*args: Any, **kwargs: Any) -> Any:
        asked.append(args)
        return gather(*args, **kwargs)

    monkeypatch.setattr(client, "gather", gathered)
    assert (
        Parallel(n_jobs=2, backend="dask", batch_size=1)(delayed(bytes)(returned) for _ in range(2)) == [returned] * 2
    )
    assert len(asked) == fetched


@pytest.mark.parametrize(("returned", "held"), [(b"x" * 100, 4), (b"x" * 100_000, 0)])
def test_tasks_with_small_results_are_released_together_after_a_while(
    client: Any, monkeypatch: pytest.MonkeyPatch, returned: bytes, held: int
) -> None:
    """Of a release, the scheduler tells the workers, which makes the tasks of the next run wait."""
    wait_until(lambda: not client.futures)
    monkeypatch.setattr(_dask_task, "RELEASE_SECONDS", 3600.0)
    for _ in range(2):
        Parallel(n_jobs=2, backend="dask", batch_size=1)(delayed(bytes)(returned) for _ in range(2))
    wait_until(lambda: len(client.futures) == held)
    client.loop.add_callback(_dask_executor._events[client].release)
    wait_until(lambda: not client.futures)
    wait_until(lambda: not tasks(client))


@pytest.mark.parametrize(
    ("value", "fits"),
    [
        ([1, 2.5, None, True, "text", b"bytes", (1, {2: "three"})], True),
        (numpy.float64(1.5), True),
        (numpy.arange(10), True),
        (numpy.array([object()]), False),
        (numpy.zeros(1000), False),
        (Heavy("small", 1), False),
        ([Heavy("small", 1)], False),
        ([0] * 5000, False),
        (dict.fromkeys(range(5000)), False),
        ("x" * 5000, False),
        (1 << 100_000, False),
    ],
    ids=count(),
)
def test_what_a_small_result_is(value: Any, fits: bool) -> None:
    assert (room_left(value, EVENT_BYTES) > 0) is fits
    assert not fits or len(pickle.dumps(value)) <= EVENT_BYTES


def test_what_is_submitted_after_a_cancellation_runs(client: Any, tmp_path: Path) -> None:
    """Also if the client's event loop gets to all of it only later."""
    slot = create("dask").open(WorkerSpec(2))[0]
    client.loop.add_callback(time.sleep, 0.2)
    first = slot.executor.submit(wait_for, tmp_path / "gate")
    slot.executor.cancel()  # type: ignore[attr-defined]
    second = slot.executor.submit(abs, -1)
    assert second.result(PATIENCE) == 1
    assert isinstance(first.exception(PATIENCE), CancelledError)
    (tmp_path / "gate").touch()
    slot.executor.shutdown()


def test_what_is_lost_at_once_counts_once(client: Any, tmp_path: Path) -> None:
    """More tasks than may be lost in a row, all cancelled from outside of shoal."""
    results: list[Any] = []
    run = Parallel(n_jobs=20, backend="dask", batch_size=1)
    calls = [delayed(wait_for)(tmp_path / "gate") for _ in range(20)]
    thread = threading.Thread(target=lambda: results.append(run(calls)))
    thread.start()
    wait_until(lambda: len(client.futures) >= 20)
    client.cancel([distributed.Future(key, client) for key in list(client.futures)], force=True)
    wait_until(lambda: len(client.futures) >= 20)
    (tmp_path / "gate").touch()
    thread.join(PATIENCE)
    assert results == [["opened"] * 20]


# Ends


def test_a_worker_that_dies_is_replaced_by_dask(tmp_path: Path) -> None:
    """Objects that were lost with the worker are stored in the cluster again."""
    table = numpy.arange(10**5)
    calls = [delayed(die_once)(tmp_path, number, table) for number in range(2)]
    calls += [delayed(numpy.sum)(table, initial=number) for number in range(2)]
    assert Parallel(backend="dask", batch_size=1)(calls) == [0, 1, table.sum(), table.sum() + 1]


def test_what_scatter_has_stored_is_stored_again_if_it_is_lost(cluster: Any) -> None:
    table = numpy.arange(10**5)
    with distributed.Client(cluster) as client, parallel_config("dask", scatter=[table]) as settings:
        ((_, future),) = settings.backend._scattered.values()
        client.cancel(future)  # as if all workers had died
        assert Parallel()(delayed(numpy.sum)(table) for _ in range(3)) == [table.sum()] * 3


def test_an_object_is_stored_again_if_its_worker_dies_meanwhile(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    scatter, failures = client.scatter, [OSError("the worker has died")] * 2

    def scattered(*args: Any, **kwargs: Any) -> Any:
        if failures:
            raise failures.pop()
        return scatter(*args, **kwargs)

    monkeypatch.setattr(client, "scatter", scattered)
    table = numpy.arange(10**5)
    run = Parallel(backend="dask", batch_size=1)
    assert run(delayed(numpy.sum)(table, initial=number) for number in range(2)) == [table.sum(), table.sum() + 1]
    assert failures == []


def test_a_call_that_kills_its_workers(client: Any) -> None:
    client.run_on_scheduler(lambda dask_scheduler: setattr(dask_scheduler, "allowed_failures", 0))
    try:
        with pytest.raises(WorkerDied, match=r"it ran call \d, .*die\(\)") as caught:
            Parallel(backend="dask", batch_size=1)([delayed(die)()] * 2)
        assert "all those workers died" in str(caught.value.__cause__)
        with pytest.raises(WorkerDied, match="it ran one of the calls 0 to 2"):
            Parallel(backend="dask", batch_size=3)([delayed(abs)(-1), delayed(die)(), delayed(abs)(-2)])
    finally:
        client.run_on_scheduler(lambda dask_scheduler: setattr(dask_scheduler, "allowed_failures", 3))
        client.wait_for_workers(2, timeout=PATIENCE)


def test_an_aborted_batch_stops_after_its_current_call(client: Any, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    calls = [delayed(mark_and_wait)(tmp_path, number, gate) for number in range(30)]
    with pytest.raises(TimeoutError):
        Parallel(backend="dask", batch_size=15, timeout=0.2)(calls)
    wait_until(lambda: set(client.run(states_here).values()) <= {(), ("cancelled",)})
    wait_until(lambda: len(list(tmp_path.iterdir())) > 0)
    gate.touch()
    wait_until(lambda: set(client.run(states_here).values()) == {()})
    assert len(list(tmp_path.iterdir())) <= 3  # the gate, and one call of each batch


@pytest.mark.parametrize("how", ["error", "timeout", "generator", "stop"])
def test_waiting_tasks_are_cancelled(tmp_path: Path, how: str) -> None:
    gate = tmp_path / "gate"
    folder = tmp_path / "begun"
    folder.mkdir()
    calls: list[Any] = [delayed(mark_and_wait)(folder, number, gate) for number in range(30)]
    options: dict[str, Any] = {"pre_dispatch": "all", "batch_size": 1}
    try:
        if how == "error":
            calls.insert(0, delayed(int)("a"))
            with pytest.raises(ValueError, match="invalid literal"):
                Parallel(backend="dask", **options)(calls)
        elif how == "timeout":
            with pytest.raises(TimeoutError):
                Parallel(backend="dask", timeout=0.2, **options)(calls)
        elif how == "generator":
            results = Parallel(backend="dask", return_as="generator", **options)(calls)
            wait_until(lambda: any(folder.iterdir()))
            with pytest.warns(UnusedResultsWarning):
                results.close()
        else:
            run = Parallel(backend="dask", **options)
            threading.Timer(0.2, run.stop).start()
            assert run(calls) == []
    finally:
        gate.touch()
    assert Parallel(backend="dask")([delayed(abs)(-1)] * 3) == [1] * 3
    assert len(list(folder.iterdir())) <= 6  # the calls that had started


def test_an_interrupt_cancels_running_tasks(client: Any, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    source = f"""
        from pathlib import Path
        import distributed
        from shoal import Parallel, delayed
        from test_dask import mark_and_wait
        with distributed.Client({client.scheduler.address!r}):
            try:
                folder, gate = Path({str(tmp_path)!r}), Path({str(gate)!r})
                Parallel(backend="dask", batch_size=1, pre_dispatch="all")(
                    delayed(mark_and_wait)(folder, number, gate) for number in range(30)
                )
            except KeyboardInterrupt:
                print("interrupted", flush=True)
                input()  # still connected
        """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    command = [sys.executable, "-c", textwrap.dedent(source)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            wait_until(lambda: len(list(tmp_path.iterdir())) >= 2)
            process.send_signal(signal.SIGINT)
            assert process.stdout.readline() == "interrupted\n"
            wait_until(lambda: len(tasks(client)) <= 2)  # running calls cannot be stopped
            gate.touch()
            wait_until(lambda: not tasks(client))
            process.stdin.write("\n")
            process.stdin.close()
            assert process.wait(PATIENCE) == 0
        finally:
            gate.touch()
            process.kill()
    assert len(list(tmp_path.iterdir())) <= 5


# Clients


def test_a_client_by_address(cluster: Any) -> None:
    with parallel_config("dask", scheduler_host=cluster.scheduler_address) as settings:
        assert settings.backend.client is not distributed.get_client()
        assert Parallel()(delayed(abs)(-n) for n in range(5)) == list(range(5))
        settings.backend.client.close()


def test_a_client_that_is_closed_or_none(cluster: Any) -> None:
    with distributed.Client(cluster, set_as_default=False) as client:
        backend = create("dask", client=client)
    with pytest.raises(RuntimeError, match="the client of the backend 'dask' is closed"):
        Parallel(backend=backend)(delayed(abs)(-n) for n in range(5))
    with pytest.raises(RuntimeError, match="is closed"):
        create("dask", client=client, scatter=[[1]])
    with pytest.raises(TypeError, match=r"must be a distributed.Client"):
        create("dask", client=cluster)


def test_no_workers() -> None:
    with (
        distributed.LocalCluster(n_workers=0, processes=False, **PLAIN) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        run = Parallel(backend=create("dask", client=client, wait_for_workers_timeout="100ms"))
        with pytest.raises(TimeoutError, match=r"no worker after 0\.1 seconds.*wait_for_workers_timeout=10"):
            run([delayed(abs)(1)])
        run = Parallel(3, create("dask", client=client, wait_for_workers_timeout=0))
        with pytest.raises(RuntimeError, match="no active worker"):
            run([delayed(abs)(1)])
        cluster.scale(1)
        run = Parallel(backend=create("dask", client=client, wait_for_workers_timeout=PATIENCE))
        assert run(delayed(abs)(-n) for n in range(5)) == list(range(5))


def test_no_client_and_no_dask(fresh_python: Callable[..., str]) -> None:
    printed = fresh_python(
        """
        import sys
        from shoal import Parallel
        sys.modules["distributed"] = None
        try:
            Parallel(backend="dask")
        except ImportError as error:
            print(error)
        del sys.modules["distributed"]
        try:
            Parallel(backend="dask")
        except ValueError as error:
            print(error)
        """
    )
    missing, absent = printed.splitlines()
    assert missing == "the backend 'dask' needs distributed, which is not installed. Run: pip install 'shoal[dask]'"
    assert "first create a dask client" in absent


@needs_memfd
def test_shoal_top_shows_how_far_a_run_is() -> None:
    seen: list[tuple[str, int | None, int]] = []
    tasks: list[tuple[int | None, str | None]] = []

    def look(_done: int, _total: int | None) -> None:
        (program,) = programs(os.getpid())
        seen.extend((run.backend, run.total, run.done) for run in program.runs)
        tasks.extend((task.call, task.function) for run in program.runs for task in run.workers)

    Parallel(backend="dask", batch_size=1, progress=look)([delayed(abs)(number) for number in range(4)])
    assert {(backend, total) for backend, total, _ in seen} == {("dask", 4)}
    assert max(done for _, _, done in seen) >= 3
    assert set(tasks) >= {(3, "abs")}
    assert programs(os.getpid()) == []
