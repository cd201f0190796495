"""``shoal.executor``: what every executor of concurrent.futures does, and what only this one does."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import math
import os
import threading
import time
import uuid
import warnings
import weakref
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, CancelledError, Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest

from _capabilities import KILL, KILLED, needs_fork, needs_signals
from _faults_util import Child, alive, until, wait_for, works
from _python import GIL
from shoal import CallPicklingError, RemoteTraceback, WorkerDied, cpu_count, executor, parallel_config, shared
from shoal._platform.processes import LONGEST_WAIT
from shoal.errors import FallbackWarning, TaskTimeout
from shoal.parallel.running._policies import auto_batch_size
from shoal.parallel.running._submitted import Submitted

PROCESSES = ["loky", "multiprocessing"]
BACKENDS = [*PROCESSES, "threading"]


class Thing:
    """Takes weak references."""


def square(x: int) -> int:
    return x * x


def fail(error: BaseException) -> None:
    raise error


def mark(path: Path) -> int:
    """Note that a call ran, by a file in a folder; return the process."""
    path.mkdir(exist_ok=True)
    (path / uuid.uuid4().hex).touch()  # Windows loses what several processes append to a file
    return os.getpid()


def ran(path: Path) -> int:
    return len(os.listdir(path)) if path.exists() else 0


def gated(gate: Path, value: Any = None) -> Any:
    """Tell that it runs, by a file of that name; return when `gate` is there."""
    mark(gate.with_suffix(".runs"))
    wait_for(gate)
    return value


def open_gate(gate: Path) -> None:
    gate.touch()


def runs(gate: Path, n: int = 1) -> bool:
    return bool(until(lambda: ran(gate.with_suffix(".runs")) >= n))


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    """A gate that is opened at the end in any case, so that a failing test does not wait."""
    path = tmp_path / "gate"
    yield path
    path.touch()


class Threads:
    """The threads of executors that were made since this was."""

    def __init__(self) -> None:
        self._before = set(threading.enumerate())

    def left(self) -> list[threading.Thread]:
        new = set(threading.enumerate()) - self._before
        return [thread for thread in new if thread.name in ("shoal-executor", "shoal-worker")]


# What every executor does


@pytest.mark.parametrize("n_jobs", [1, 2])
@pytest.mark.parametrize("backend", [*BACKENDS, "sequential"])
def test_submit_and_map(backend: str, n_jobs: int) -> None:
    with executor(n_jobs, backend=backend) as workers:
        assert isinstance(workers, concurrent.futures.Executor)
        assert workers.submit(square, 5).result() == 25
        assert workers.submit(square, x=5).result() == 25
        assert workers.submit(dict, self=1, fn=2).result() == {"self": 1, "fn": 2}
        assert workers.submit(os.getpid).result() != (os.getpid() if backend in PROCESSES else 0)
        assert list(workers.map(square, range(50))) == [x * x for x in range(50)]
        assert list(workers.map(pow, [2, 3], [3, 2], chunksize=7)) == [8, 9]
        with pytest.raises(ZeroDivisionError):
            list(workers.map(divmod, [1, 1], [1, 0]))
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        workers.submit(square, 1)
    workers.shutdown()


@pytest.mark.parametrize("backend", BACKENDS)
def test_map_gives_up_after_its_timeout(backend: str, gate: Path) -> None:
    with executor(2, backend=backend, batch_size=1) as workers:
        results = workers.map(gated, [gate, gate.with_name("other")], [1, 2], timeout=0.2)
        with pytest.raises(concurrent.futures.TimeoutError):
            list(results)
        gate.touch()
        gate.with_name("other").touch()


@pytest.mark.parametrize("backend", BACKENDS)
def test_wait_and_as_completed(backend: str, gate: Path) -> None:
    with executor(2, backend=backend) as workers:
        list(workers.map(square, range(100)))  # by now it knows that calls are short, and lets them travel together
        slow = workers.submit(gated, gate, 7)
        assert runs(gate)
        fast = [workers.submit(square, x) for x in range(10)]
        done, left = concurrent.futures.wait([slow, *fast], return_when=concurrent.futures.FIRST_COMPLETED)
        assert slow in left
        assert done <= set(fast)
        assert {future.result() for future in concurrent.futures.as_completed(fast, timeout=30)} == {
            x * x for x in range(10)
        }
        bad = workers.submit(fail, ZeroDivisionError())
        done, left = concurrent.futures.wait([slow, bad], return_when=concurrent.futures.FIRST_EXCEPTION)
        assert (done, left) == ({bad}, {slow})
        gate.touch()
        assert concurrent.futures.wait([slow]).done == {slow}
        assert slow.result() == 7


@pytest.mark.parametrize("backend", BACKENDS)
def test_calls_run_beside_each_other_and_may_wait_for_each_other(backend: str, tmp_path: Path) -> None:
    """Each way: the one that waits is sent first, and last; also where calls have been short so far."""
    with executor(2, backend=backend) as workers:
        list(workers.map(square, range(2000)))
        for number in range(10):
            gate = tmp_path / str(number)
            waiting = (gated, gate, number)
            opening = (open_gate, gate)
            futures = [workers.submit(*call) for call in ((waiting, opening) if number % 2 else (opening, waiting))]
            assert [future.result(30) for future in futures].count(number) == 1


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("error", [LookupError("no", 5), SystemExit(3), KeyboardInterrupt()])
def test_exceptions_are_their_futures_own(backend: str, error: BaseException) -> None:
    with executor(2, backend=backend) as workers:
        first, bad, last = workers.submit(square, 1), workers.submit(fail, error), workers.submit(square, 3)
        raised = bad.exception()
        assert type(raised) is type(error)
        assert raised.args == error.args
        assert raised.call.function == "test_executor.fail"  # type: ignore[union-attr]
        if backend in PROCESSES:
            assert isinstance(raised.__cause__, RemoteTraceback)
            assert "raise error" in raised.__cause__.text
        assert (first.result(), last.result()) == (1, 9)
        assert workers.submit(square, 4).result() == 16


@pytest.mark.parametrize("backend", BACKENDS)
def test_cancelled_calls_never_run(backend: str, gate: Path, tmp_path: Path) -> None:
    with executor(1, backend=backend) as workers:
        running = workers.submit(gated, gate, 1)
        assert runs(gate)
        waiting = [workers.submit(mark, tmp_path / str(number)) for number in range(20)]
        assert not running.cancel()
        assert running.running()
        assert all(future.cancel() for future in waiting[1::2])
        gate.touch()
        concurrent.futures.wait(waiting, timeout=30)
        assert [future.cancelled() for future in waiting] == [False, True] * 10
        assert [ran(tmp_path / str(number)) for number in range(20)] == [1, 0] * 10
        with pytest.raises(CancelledError):
            waiting[1].result()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("cancel", [False, True])
@pytest.mark.parametrize("wait", [False, True])
def test_shutdown(backend: str, gate: Path, wait: bool, cancel: bool) -> None:
    threads = Threads()
    workers = executor(1, backend=backend)
    running = workers.submit(gated, gate, 1)
    assert runs(gate)
    waiting = [workers.submit(square, x) for x in range(20)]
    opener = threading.Timer(0.1, gate.touch)
    opener.start()
    workers.shutdown(wait=wait, cancel_futures=cancel)
    if wait:
        assert gate.exists()
        assert all(future.done() for future in [running, *waiting])
    with pytest.raises(RuntimeError):
        workers.submit(square, 1)
    assert running.result(30) == 1
    for x, future in enumerate(waiting):
        if cancel:
            assert future.cancelled()
        else:
            assert future.result(30) == x * x
    assert until(lambda: not threads.left())
    opener.join()


@pytest.mark.parametrize("backend", BACKENDS)
def test_callbacks(backend: str, caplog: pytest.LogCaptureFixture) -> None:
    called: list[Any] = []
    with executor(2, backend=backend) as workers:
        future = workers.submit(square, 3)
        future.add_done_callback(lambda future: called.append(future.result()))
        future.add_done_callback(lambda future: fail(LookupError("in a callback")))
        future.add_done_callback(lambda future: called.append(future.result() + 1))
        future.result()
    assert called == [9, 10]  # the end of the executor has waited for them
    assert "in a callback" in caplog.text
    future.add_done_callback(called.append)
    assert called == [9, 10, future]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_callback_may_submit_and_wait_for_another_call(backend: str) -> None:
    answers: list[int] = []

    def ask(future: Future[int]) -> None:
        answers.append(workers.submit(square, future.result()).result(30) + other.result(30))

    with executor(2, backend=backend, batch_size=1) as workers:
        asked = workers.submit(square, 2)
        other = workers.submit(square, 10)
        asked.add_done_callback(ask)
        assert until(lambda: answers)
    assert answers == [16 + 100]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_callback_may_shut_down(backend: str) -> None:
    workers = executor(2, backend=backend)
    over = threading.Event()

    def shut_down(_: Future[int]) -> None:
        workers.shutdown(wait=True)
        over.set()

    workers.submit(square, 2).add_done_callback(shut_down)
    assert over.wait(30)


@pytest.mark.parametrize("backend", BACKENDS)
def test_threads_submit_at_once(backend: str) -> None:
    def client(number: int) -> list[int]:
        futures = [workers.submit(square, number * 1000 + x) for x in range(200)]
        inner = [workers.submit(square, future.result()) for future in futures[:20]]  # what comes of one is sent on
        return [future.result() for future in futures + inner]

    with executor(2, backend=backend) as workers, concurrent.futures.ThreadPoolExecutor(8) as clients:
        for number, results in enumerate(clients.map(client, range(8))):
            squares = [(number * 1000 + x) ** 2 for x in range(200)]
            assert results == squares + [x * x for x in squares[:20]]


@pytest.mark.parametrize("backend", BACKENDS)
def test_run_in_executor(backend: str) -> None:
    async def main() -> list[int]:
        loop = asyncio.get_running_loop()
        return await asyncio.gather(*(loop.run_in_executor(workers, square, x) for x in range(30)))

    with executor(2, backend=backend) as workers:
        assert asyncio.run(main()) == [x * x for x in range(30)]


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_was_submitted_is_not_kept(backend: str) -> None:
    with executor(2, backend=backend) as workers:
        result = weakref.ref(workers.submit(Thing).result())
        argument = Thing()
        seen = weakref.ref(argument)
        workers.submit(repr, argument).result()
        del argument
        # Without a global lock, an object is freed when the thread that made it runs again, or by the collector.
        assert until(lambda: (GIL or gc.collect() >= 0) and result() is None and seen() is None)


# Which calls travel together


class Input:
    """A schedule of two slots that knows calls as short as `pace` says, and the futures of what was submitted to it."""

    def __init__(self, pace: int = 1000) -> None:
        self.schedule = Submitted(2, auto_batch_size)
        self.wakes = 0
        self.schedule.queue.wake = self.woken
        if pace:
            self.schedule.sizing.measure(pace, 0.0001)
        self.futures: list[Future[Any]] = []

    def woken(self) -> None:
        self.wakes += 1

    def submit(self, *functions: Any) -> None:
        for function in functions:
            self.futures.append(Future())
            self.schedule.queue.add(self.futures[-1], (function, (len(self.futures) - 1,), {}))

    def batch(self, busy: bool = False) -> list[int] | None:
        """Return the numbers of the calls in the next batch."""
        batch = self.schedule.next_batch(busy)
        return None if batch is None else [args[0] for _, args, _ in batch]


def test_calls_travel_together_if_many_wait() -> None:
    calls = Input()
    calls.submit(*[square] * 16)
    batches = [calls.batch() for _ in range(8)]
    assert batches[:3] == [[0, 1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert batches[-1] == [15]
    assert calls.batch() is None
    calls.submit(*[square] * 4)
    assert [calls.batch() for _ in range(4)] == [[16], [17], [18], [19]]


def test_calls_of_other_functions_travel_apart() -> None:
    calls = Input()
    thing = Calls()
    calls.submit(*[square] * 3, *[thing.method for _ in range(3)], *[abs, square] * 10)
    assert [calls.batch() for _ in range(3)] == [[0, 1, 2], [3, 4, 5], [6]]


class Calls:
    def method(self, x: int) -> int:
        return x


def test_no_call_waits_behind_another_while_a_slot_may_get_free() -> None:
    calls = Input()
    calls.submit(*[square] * 50)
    assert calls.batch()
    assert calls.batch(busy=True) is None


def test_before_anything_is_known_calls_travel_alone() -> None:
    calls = Input(pace=0)
    calls.submit(*[square] * 50)
    assert [calls.batch(), calls.batch()] == [[0], [1]]


def test_cancelled_calls_are_left_out_of_batches() -> None:
    calls = Input()
    calls.submit(*[square] * 20)
    for number in (1, 2, 4, *range(10, 20)):
        assert calls.futures[number].cancel()
    assert calls.batch() == [0, 3, 5, 6, 7]
    assert not calls.futures[3].cancel()
    assert [calls.batch(), calls.batch(), calls.batch()] == [[8, 9], None, None]
    calls.schedule.close()
    assert not calls.schedule.finished  # some are under way
    assert calls.wakes == 1


def test_the_run_is_woken_once_when_it_has_looked() -> None:
    calls = Input()
    calls.submit(square, square)
    assert calls.wakes == 0  # it begins with a look
    while calls.batch():
        continue
    calls.submit(square, square, square)
    assert calls.wakes == 1
    assert calls.batch() == [2]
    calls.submit(square)
    assert calls.wakes == 2


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_idle_executor_sleeps(backend: str) -> None:
    with executor(2, backend=backend, task_timeout=0.05) as workers:
        assert workers.submit(square, 3).result() == 9
        time.sleep(0.2)
        run = workers._loop.owned_run
        assert run._seconds_to_wait(None) == (None if math.inf == LONGEST_WAIT else LONGEST_WAIT)


# What becomes of an executor that nobody shuts down


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_dropped_executor_does_what_it_has_and_ends(backend: str, gate: Path) -> None:
    threads = Threads()
    workers = executor(2, backend=backend)
    futures = [workers.submit(gated, gate, x) for x in range(5)]
    assert runs(gate)
    gone = weakref.ref(workers)
    del workers
    gc.collect()
    assert gone() is None
    gate.touch()
    assert [future.result(30) for future in futures] == list(range(5))
    assert until(lambda: not threads.left())


PROGRAM = """
import sys, time
from pathlib import Path
from shoal import Parallel, delayed, executor
from test_executor import gated, mark, square

folder = Path(sys.argv[1])
if __name__ == "__main__":
    workers = executor(2, backend={backend!r})
    {body}
"""


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("body", "marks"),
    [
        ("for x in range(20): workers.submit(mark, folder / 'marks')", 20),
        ("list(workers.map(square, range(9))); [workers.submit(mark, folder / 'marks') for x in range(50)]", 50),
        ("workers.submit(time.sleep, 0.5).add_done_callback(lambda _: mark(folder / 'marks'))", 1),
        (
            """
    for other in ["loky", "multiprocessing", "threading"]:  # which have things to do at exit, too
        Parallel(2, backend=other)(delayed(square)(x) for x in range(2))
    for x in range(8):
        workers.submit(time.sleep, 0.1)
        workers.submit(mark, folder / "marks")
""".strip(),
            8,
        ),
        ("workers.submit(square, 3).result()", 0),
        ("pass", 0),
    ],
    ids=["at once", "warm", "callback", "beside runs", "idle", "unused"],
)
def test_the_end_of_the_program_waits_for_what_was_submitted(
    tmp_path: Path, backend: str, body: str, marks: int
) -> None:
    with Child(PROGRAM.format(backend=backend, body=body), tmp_path) as child:
        assert child.wait() == (0, "", "")
        assert ran(tmp_path / "marks") == marks
        assert child.leaves_nothing() == []


@needs_fork
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_forked_child_has_no_executor(tmp_path: Path, backend: str) -> None:
    body = """
    import os, warnings
    warnings.simplefilter("ignore", DeprecationWarning)
    assert workers.submit(square, 3).result() == 9
    if not (child := os.fork()):
        try:
            workers.submit(square, 3)
        except RuntimeError as error:
            print(error, flush=True)
        workers.shutdown()
        with executor(2, backend="threading") as own:
            print(own.submit(square, 4).result(), flush=True)
        sys.exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert workers.submit(square, 5).result() == 25
    """
    with Child(PROGRAM.format(backend=backend, body=body.strip()), tmp_path) as child:
        code, out, err = child.wait()
        assert (code, err) == (0, "")
        assert out.splitlines()[0].startswith("this executor belongs to the process")
        assert out.splitlines()[1:] == ["16"]
        assert child.leaves_nothing() == []


# What only this one does


def flaky(folder: Path, index: int, failures: int, how: str = "raise") -> int:
    if ran(folder / str(index)) < failures:
        mark(folder / str(index))
        if how == "die":
            os.kill(os.getpid(), KILL)
        if how == "stick":
            time.sleep(1000)
        raise LookupError(index)
    return index


@pytest.mark.parametrize("backend", BACKENDS)
def test_retries(backend: str, tmp_path: Path) -> None:
    with executor(2, backend=backend, retries=2, retry_wait=0.01, retry_on=LookupError) as workers:
        good = [workers.submit(flaky, tmp_path, index, index % 3) for index in range(30)]
        bad = workers.submit(flaky, tmp_path, 99, 5)
        other = workers.submit(fail, ValueError())
        assert [future.result(30) for future in good] == list(range(30))
        assert isinstance(bad.exception(30), LookupError)
        assert isinstance(other.exception(30), ValueError)
        assert ran(tmp_path / "99") == 3


@pytest.mark.parametrize("backend", PROCESSES)
@pytest.mark.parametrize("retries", [0, 1])
def test_a_death_costs_the_call_that_ran(backend: str, tmp_path: Path, retries: int) -> None:
    with executor(2, backend=backend, retries=retries) as workers:
        list(workers.map(square, range(100)))
        futures = [workers.submit(flaky, tmp_path, index, index == 17, "die") for index in range(40)]
        for index, future in enumerate(futures):
            if index == 17 and not retries:
                died = future.exception(30)
                assert isinstance(died, WorkerDied)
                assert isinstance(died, BrokenProcessPool)
                assert died.exit_code == KILLED
            else:
                assert future.result(30) == index
        assert list(workers.map(square, range(9))) == [x * x for x in range(9)]


@pytest.mark.parametrize("backend", BACKENDS)
def test_task_timeout(backend: str, gate: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FallbackWarning)  # that the thread cannot be stopped
        with executor(2, backend=backend, task_timeout=0.5) as workers:
            time.sleep(0.6)  # it may be idle for longer than that
            stuck = [workers.submit(gated, gate) for _ in range(3)]
            others = [workers.submit(square, x) for x in range(9)]
            for future in stuck:
                error = future.exception(30)
                assert isinstance(error, TaskTimeout)
                assert error.call.function == "test_executor.gated"  # type: ignore[union-attr]
            assert [future.result(30) for future in others] == [x * x for x in range(9)]


@pytest.mark.parametrize("backend", PROCESSES)
def test_what_cannot_be_pickled_costs_its_call(backend: str) -> None:
    lock = threading.Lock()
    with executor(2, backend=backend) as workers:
        list(workers.map(square, range(100)))
        futures = [workers.submit(repr, lock if index % 10 == 5 else index) for index in range(40)]
        for index, future in enumerate(futures):
            if index % 10 == 5:
                error = future.exception(30)
                assert isinstance(error, CallPicklingError)
                assert error.path == "args[0]"
            else:
                assert future.result(30) == str(index)
        assert isinstance(workers.submit(threading.Lock).exception(30), CallPicklingError)
        assert isinstance(workers.submit(lambda: lock).exception(30), CallPicklingError)
        assert workers.submit(square, 3).result() == 9


@pytest.mark.parametrize("backend", BACKENDS)
def test_stop(backend: str, gate: Path) -> None:
    threads = Threads()
    workers = executor(2, backend=backend)
    futures = [workers.submit(gated, gate, x) for x in range(20)]
    assert runs(gate, 2)
    began = time.monotonic()
    workers.stop()
    assert time.monotonic() - began < 30
    assert all(future.done() for future in futures)
    for future in futures:
        with pytest.raises(CancelledError):
            future.result()
    with pytest.raises(RuntimeError):
        workers.submit(square, 1)
    gate.touch()
    assert until(lambda: not threads.left())


@pytest.mark.parametrize("backend", PROCESSES)
def test_an_initializer_that_fails_ends_the_executor(backend: str) -> None:
    with executor(2, backend=backend, initializer=fail, initargs=(LookupError("not so"),)) as workers:
        future = workers.submit(square, 3)
        error = future.exception(30)
        assert isinstance(error, BrokenExecutor)
        assert isinstance(error.__cause__, LookupError)
        with pytest.raises(BrokenExecutor, match="LookupError: not so"):
            workers.submit(square, 3)


def test_workers_are_its_own(gate: Path) -> None:
    """Neither a run nor another executor waits behind calls that take for ever."""
    with executor(2) as workers, executor(2) as others:
        stuck = [workers.submit(gated, gate, x) for x in range(2)]
        assert runs(gate, 2)
        assert works()
        others.submit(open_gate, gate).result(30)
        assert [future.result(30) for future in stuck] == [0, 1]
        pid = workers.submit(os.getpid).result()
    # The executor that ends last leaves the only worker of its index, which is kept warm for whoever comes next.
    assert alive(pid)


def test_many_small_calls_travel_together() -> None:
    with executor(2) as workers:
        futures = [workers.submit(square, x) for x in range(10_000)]
        assert [future.result(60) for future in futures] == [x * x for x in range(10_000)]
        assert workers._loop.submitted.sizing.pace.last > 20


@pytest.mark.parametrize("backend", PROCESSES)
def test_large_arrays_travel_in_shared_memory(backend: str) -> None:
    import numpy

    array = numpy.ones(1_000_000)
    with executor(2, backend=backend) as workers:
        futures = [workers.submit(numpy.add, array, x) for x in range(8)]
        for x, future in enumerate(futures):
            assert (future.result() == 1 + x).all()
        assert workers.submit(type, array).result() is numpy.memmap
        array[:] = 5  # nothing under way uses it any more
        assert workers.submit(numpy.sum, array).result() == 5e6


def test_functions_by_value_go_with_each_batch() -> None:
    cell = [1]

    def look() -> int:
        return cell[0]

    with executor(2) as workers:
        assert workers.submit(look).result() == 1
        cell[0] = 2
        assert workers.submit(look).result() == 2


class Loads:
    """Notes in a file how often it was rebuilt."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return _loaded, (self.path,)


def _loaded(path: Path) -> Loads:
    mark(path)
    return Loads(path)


def test_shared_objects_travel_once(tmp_path: Path) -> None:
    table = shared(Loads(tmp_path / "loads"))
    with executor(2) as workers:
        for _ in range(5):
            assert [future.result() for future in [workers.submit(type, table) for _ in range(4)]] == [Loads] * 4
    assert 1 <= ran(tmp_path / "loads") <= 2


def test_what_the_context_sets() -> None:
    with parallel_config(backend="threading", n_jobs=3, verbose=50), executor() as workers:
        assert "3 workers of ThreadingBackend" in repr(workers)
        assert workers.submit(os.getpid).result() == os.getpid()


def nested() -> list[int]:
    with executor(2, backend="loky") as workers:
        return list(workers.map(square, range(5)))


def test_an_executor_in_a_worker() -> None:
    with executor(2) as workers:
        assert workers.submit(nested).result(60) == [0, 1, 4, 9, 16]


@pytest.mark.filterwarnings("ignore::shoal.FallbackWarning")
def test_an_executor_where_no_children_are_allowed() -> None:
    with executor(1, backend="multiprocessing") as workers:
        assert workers.submit(nested).result(60) == [0, 1, 4, 9, 16]


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"verbose": 5}, TypeError, "executor.* takes no 'verbose'"),
        ({"n_jobs": 0}, ValueError, "n_jobs == 0"),
        ({"backend": "nowhere"}, ValueError, "Invalid backend"),
        ({"batch_size": 0}, ValueError, "batch_size must be"),
        ({"retries": -1}, ValueError, "retries must be"),
        ({"initialiser": print}, TypeError, "did you mean 'initializer'"),
    ],
)
def test_arguments_that_cannot_be(arguments: dict[str, Any], error: type[Exception], said: str) -> None:
    threads = Threads()
    with pytest.raises(error, match=said):
        executor(**arguments)
    assert not threads.left()


@pytest.mark.parametrize("given", [{}, {"n_jobs": None}, {"max_workers": None}], ids=str)
def test_an_executor_has_a_worker_for_each_cpu_unless_the_context_says_otherwise(given: dict[str, Any]) -> None:
    with executor(backend="threading", **given) as workers:
        assert repr(workers).startswith(f"<shoal.executor on {cpu_count()} workers")
    with parallel_config(n_jobs=3), executor(backend="threading", **given) as workers:
        assert repr(workers).startswith("<shoal.executor on 3 workers")


def test_max_workers_is_another_name_of_n_jobs() -> None:
    with executor(max_workers=2, backend="threading") as workers:
        assert repr(workers).startswith("<shoal.executor on 2 workers")
        assert workers.submit(abs, -1).result() == 1
    with pytest.raises(TypeError, match="either n_jobs or max_workers"):
        executor(2, max_workers=2)
    with pytest.raises(ValueError, match="max_workers could not be converted to int: 'two'"):
        executor(max_workers="two")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_workers must be a positive number, or -1 for all CPUs, got: 0"):
        executor(max_workers=0)


def test_a_misspelt_argument_of_an_executor_is_answered_with_the_nearest() -> None:
    with pytest.raises(TypeError, match=r"executor\(\) got an unexpected keyword argument 'retires'.*'retries'"):
        executor(2, retires=1)


@pytest.mark.parametrize("name", ["retry_on", "retry_wait"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_callable_that_fails_concerns_its_call_alone(backend: str, name: str) -> None:
    def fail(_: Any) -> Any:
        raise ZeroDivisionError(name)

    options: dict[str, Any] = {name: fail}
    with executor(2, backend=backend, retries=2, **options) as workers:
        failed = workers.submit(int, "x")
        error = failed.exception()
        assert isinstance(error, ZeroDivisionError)
        assert error.call.index == 0  # type: ignore[attr-defined]
        assert isinstance(error.__context__, ValueError)
        assert workers.submit(square, 3).result() == 9


@needs_signals
def test_ctrl_c_while_a_result_is_awaited_leaves_the_future_usable(tmp_path: Path) -> None:
    """However often it comes: the lock of the future is never left held, for which the executor would wait."""
    source = """
import concurrent.futures, random, signal, threading, time
from shoal import executor

armed = False


def interrupt(*_):
    global armed
    if armed:
        armed = False
        raise KeyboardInterrupt


def shoot():
    for _ in range(1000):
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        time.sleep(random.random() * 2e-4)
    over.set()


signal.signal(signal.SIGINT, interrupt)
gate, over = threading.Event(), threading.Event()
workers = executor(2, "threading")
future = workers.submit(gate.wait)
threading.Thread(target=shoot).start()
interrupts = 0
while not over.is_set():
    try:
        armed = True
        for _ in range(50):
            try:
                future.result(timeout=0)
            except concurrent.futures.TimeoutError:
                pass
        armed = False
    except KeyboardInterrupt:
        interrupts += 1
    except RuntimeError:  # of the lock, which a wait that was interrupted did not get back
        pass
assert interrupts
gate.set()
end = threading.Thread(target=workers.shutdown, daemon=True)
end.start()
end.join(30)
print(end.is_alive())
"""
    with Child(source, tmp_path) as child:
        assert child.wait() == (0, "False\n", "")
