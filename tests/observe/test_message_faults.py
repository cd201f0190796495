"""Messages and floods of them, while workers die, calls time out, runs are stopped, interrupted or fork."""

from __future__ import annotations

import mmap
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from _capabilities import KILL, needs_fork, needs_signals
from _faults_util import Child, alive, until
from shoal import (
    Parallel,
    RunTimeout,
    TaskTimeout,
    UnusedResultsWarning,
    WorkerDied,
    delayed,
    send,
    shutdown_workers,
)
from shoal._platform.processes import tcp_pair
from shoal.backends import _process
from shoal.backends._notes import MOST_WEIGHT

BESIDE_THE_CALLER = pytest.mark.parametrize("backend", ["loky", "threading"])
#: More messages of `TEXT` than can wait anywhere. Some sockets count only their bytes.
MANY, TEXT = 5000, "-" * 100


class Count:
    """A number that a call, in any process, counts up."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_bytes(bytes(8))

    def __reduce__(self) -> Any:
        return _opened, (self.path,)

    @property
    def memory(self) -> memoryview:
        if not hasattr(self, "_memory"):
            with open(self.path, "r+b") as file:
                self._memory = memoryview(mmap.mmap(file.fileno(), 8)).cast("q")
        return self._memory

    @property
    def value(self) -> int:
        return self.memory[0]

    def add(self) -> None:
        self.memory[0] += 1


def _opened(path: Path) -> Count:
    count = Count.__new__(Count)
    count.path = path
    return count


@pytest.fixture
def count(tmp_path: Path) -> Count:
    return Count(tmp_path / "count")


def flood(count: Count, number: int, text: str = TEXT) -> int:
    """Send numbers from 0 on, and count them."""
    for i in range(number):
        send((i, os.getpid(), text))
        count.add()
    return number


def stuck(count: Count, least: int = 1) -> int:
    """Wait until the sender of a flood waits, or has ended; return how much it has sent."""

    def still() -> bool:
        before = count.value
        time.sleep(0.1)
        return count.value == before >= least

    assert until(still)
    return count.value


class Slow:
    """An ``on_message`` that waits, at the first message, until the sender is stuck, and then does something once."""

    def __init__(self, count: Count, then: Callable[[int], object] = id) -> None:
        self.received: list[int] = []
        self.pid = 0
        self.sent = 0
        self._count, self._then = count, then

    def __call__(self, index: int, message: Any) -> None:
        number, self.pid, _ = message
        self.received.append(number)
        if not self.sent:
            self.sent = stuck(self._count)
            self._then(self.pid)


@BESIDE_THE_CALLER
@pytest.mark.parametrize("text", ["", "x" * 1000, "x" * 100_000])
def test_a_flood_waits_for_a_slow_handler_and_loses_nothing(backend: str, text: str, count: Count) -> None:
    slow = Slow(count)
    number = 200 if len(text) > 10_000 else MANY if text else 2 * MANY
    assert Parallel(n_jobs=2, backend=backend, on_message=slow)([delayed(flood)(count, number, text)]) == [number]
    assert slow.received == list(range(number))
    if len(text) > 10_000:
        assert slow.sent < (10 if backend == "loky" else 70)
    else:
        assert slow.sent < (1000 if text else MANY)


@pytest.fixture(params=["sockets of this system", "TCP"])
def _sockets(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Connect workers as this system does, and as Windows does."""
    if request.param == "TCP":
        shutdown_workers()
        monkeypatch.setattr(_process, "socket_pair", tcp_pair)
    yield
    if request.param == "TCP":
        shutdown_workers()


@pytest.mark.usefixtures("_sockets")
def test_a_worker_that_waits_is_killed(count: Count) -> None:
    slow = Slow(count, lambda pid: os.kill(pid, KILL))
    with pytest.raises(WorkerDied):
        Parallel(n_jobs=2, on_message=slow)([delayed(flood)(count, MANY)])
    assert slow.received == list(range(len(slow.received)))
    assert len(slow.received) >= slow.sent  # what it had sent is not lost
    assert Parallel(n_jobs=2)([delayed(abs)(-1), delayed(abs)(-2)]) == [1, 2]


@pytest.mark.usefixtures("_sockets")
def test_messages_of_a_worker_that_died_are_received_before_its_calls_run_again(count: Count) -> None:
    slow = Slow(count, lambda pid: os.kill(pid, KILL))
    assert Parallel(n_jobs=2, on_message=slow, retries=1)([delayed(flood)(count, MANY)]) == [MANY]
    first = slow.received.index(0, 1)
    assert slow.received == [*range(first), *range(MANY)]


def flood_for_ever(count: Count) -> None:
    while True:
        flood(count, MANY)


@BESIDE_THE_CALLER
def test_stop_ends_a_flood(backend: str, count: Count) -> None:
    parallel: Any = None
    slow = Slow(count, lambda _: parallel.stop())
    parallel = Parallel(n_jobs=2, backend=backend, on_message=slow)
    assert parallel([delayed(abs)(-1), delayed(flood_for_ever)(count)]) == [1]
    assert backend == "threading" or until(lambda: not alive(slow.pid))
    assert until(lambda: not [thread for thread in threading.enumerate() if thread.name == "shoal-worker"])
    ended = stuck(count)
    assert parallel(delayed(flood)(count, 10) for _ in range(3)) == [10] * 3
    assert count.value == ended + 30


@BESIDE_THE_CALLER
def test_stop_from_another_thread(backend: str, count: Count) -> None:
    parallel = Parallel(n_jobs=2, backend=backend, on_message=lambda *_: None)
    stopper = threading.Thread(target=lambda: (until(lambda: count.value > 1000), parallel.stop()))
    stopper.start()
    assert parallel([delayed(flood_for_ever)(count), delayed(flood_for_ever)(count)]) == []
    stopper.join()


@BESIDE_THE_CALLER
@pytest.mark.parametrize("error", [KeyboardInterrupt, LookupError])
def test_an_exception_in_a_flood(backend: str, error: type[BaseException], count: Count) -> None:
    def fail(_pid: int) -> None:
        raise error

    with pytest.raises(error):
        Parallel(n_jobs=2, backend=backend, on_message=Slow(count, fail))([delayed(flood_for_ever)(count)] * 2)
    stuck(count)
    assert Parallel(n_jobs=2, backend=backend)([delayed(abs)(-1), delayed(abs)(-2)]) == [1, 2]


@BESIDE_THE_CALLER
@pytest.mark.filterwarnings("ignore:.* ran for longer than task_timeout:shoal.FallbackWarning")
def test_a_flood_does_not_delay_task_timeout(backend: str, count: Count) -> None:
    parallel = Parallel(n_jobs=2, backend=backend, on_message=lambda *_: None, task_timeout=0.5, on_error="return")
    first, second = parallel([delayed(flood_for_ever)(count), delayed(abs)(-1)])
    assert (type(first), second) == (TaskTimeout, 1)
    stuck(count, 0)


@BESIDE_THE_CALLER
@pytest.mark.filterwarnings("ignore:.* ran for longer than task_timeout:shoal.FallbackWarning")
def test_the_wait_for_a_slow_handler_counts_for_task_timeout(backend: str, count: Count) -> None:
    slow = Slow(count, lambda _: time.sleep(0.6))
    parallel = Parallel(n_jobs=2, backend=backend, on_message=slow, task_timeout=0.5, on_error="return")
    (error,) = parallel([delayed(flood_for_ever)(count)])
    assert isinstance(error, TaskTimeout)


@BESIDE_THE_CALLER
def test_a_flood_does_not_delay_timeout(backend: str, count: Count) -> None:
    with pytest.raises(RunTimeout):
        Parallel(n_jobs=2, backend=backend, on_message=lambda *_: None, timeout=0.5)([delayed(flood_for_ever)(count)])
    stuck(count, 0)


def flood_then_fail(count: Count, path: Path) -> int:
    flood(count, 50)
    if not path.exists():
        path.touch()
        raise LookupError
    return 50


@BESIDE_THE_CALLER
def test_a_flood_does_not_delay_retries(backend: str, count: Count, tmp_path: Path) -> None:
    parallel: Any = Parallel(n_jobs=2, backend=backend, on_message=lambda *_: None, retries=1, retry_wait=0.01)
    results = parallel([delayed(flood_then_fail)(count, tmp_path / "first"), delayed(flood)(count, MANY)])
    assert results == [50, MANY]


def test_a_dropped_generator_ends_a_flood(count: Count) -> None:
    slow = Slow(count)
    results = Parallel(n_jobs=2, return_as="generator", on_message=slow)([delayed(flood_for_ever)(count)])
    assert until(lambda: slow.sent)
    with pytest.warns(UnusedResultsWarning):
        results.close()
    assert until(lambda: not alive(slow.pid))


@pytest.mark.parametrize("backend", ["loky", "multiprocessing", "threading"])
def test_workers_that_a_with_block_keeps(backend: str, count: Count) -> None:
    received: list[Any] = []
    stopping = False

    def on_message(index: int, message: Any) -> None:
        received.append(index)
        if stopping:
            parallel.stop()

    with Parallel(n_jobs=2, backend=backend, on_message=on_message) as parallel:
        for _ in range(3):
            assert parallel([delayed(flood)(count, 300)] * 3) == [300] * 3
        stopping = True
        assert len(parallel([delayed(flood)(count, MANY)] * 3)) < 3
        stopping = False
        received.clear()
        assert parallel([delayed(flood)(count, 300)] * 3) == [300] * 3
    assert sorted(received) == [number for number in range(3) for _ in range(300)]


def test_each_call_in_a_process_of_its_own(count: Count) -> None:
    received: list[Any] = []
    parallel = Parallel(n_jobs=2, max_tasks_per_worker=1, on_message=lambda index, _: received.append(index))
    assert parallel([delayed(flood)(count, 500)] * 4) == [500] * 4
    assert sorted(received) == [number for number in range(4) for _ in range(500)]


def test_on_message_makes_runs_of_its_own(count: Count) -> None:
    """The workers of the outer run wait for it."""
    results: list[Any] = []
    calls = [delayed(abs)(-1), delayed(abs)(-2)]
    with Parallel(n_jobs=2) as kept:
        kept(calls)

        def run(_pid: int) -> None:
            results.extend([Parallel(n_jobs=2)(calls), kept(calls)])

        assert Parallel(n_jobs=2, on_message=Slow(count, run))([delayed(flood)(count, MANY)] * 2) == [MANY] * 2
        assert kept(calls) == [1, 2]
    assert results == [[1, 2], [1, 2]]


def flood_in_threads(count: Count) -> int:
    threads = [threading.Thread(target=flood, args=(count, 500)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return os.getpid()


def test_threads_of_a_call_that_wait(count: Count) -> None:
    slow = Slow(count)
    assert Parallel(n_jobs=2, on_message=slow)([delayed(flood_in_threads)(count)]) == [slow.pid]
    assert sorted(slow.received) == [number for number in range(500) for _ in range(4)]


def test_large_arguments_reach_a_worker_that_waits(count: Count) -> None:
    """They do not fit into its socket, and it reads them only when its flood has ended."""
    slow = Slow(count)
    parallel = Parallel(n_jobs=2, batch_size=1, pre_dispatch="all", on_message=slow)
    texts = [str(number) * 1_000_000 for number in range(6)]
    assert parallel([delayed(flood)(count, MANY), *(delayed(len)(text) for text in texts)])[1:] == [1_000_000] * 6
    assert slow.received == list(range(MANY))


def flood_and_interrupt(count: Count, path: Path) -> str:
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    try:
        flood(count, 10 * MANY)
    except KeyboardInterrupt:
        path.touch()
        return "interrupted"
    return "not interrupted"


@needs_signals
def test_an_interrupt_of_the_worker_alone(count: Count, tmp_path: Path) -> None:
    path = tmp_path / "interrupted"
    received: list[int] = []

    def on_message(index: int, message: Any) -> None:
        received.append(message[0])
        if len(received) == 1:
            assert until(path.exists)

    calls = [delayed(flood_and_interrupt)(count, path), delayed(abs)(-1)]
    assert Parallel(n_jobs=2, on_message=on_message)(calls) == ["interrupted", 1]
    assert received == list(range(len(received)))
    assert MOST_WEIGHT // 1024 <= len(received) < 10 * MANY


@needs_fork
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")  # from Python 3.12 on
def test_on_message_forks(count: Count) -> None:
    pids: list[int] = []

    def fork(_pid: int) -> None:
        pid = os.fork()
        if not pid:
            os._exit(0)
        pids.append(pid)

    assert Parallel(n_jobs=2, on_message=Slow(count, fork))([delayed(flood)(count, MANY)]) == [MANY]
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [0]


PROGRAM = """
import os, signal, sys, time
from pathlib import Path
from shoal import Parallel, delayed
from test_message_faults import Count, flood_for_ever, stuck

folder = Path(sys.argv[1])
count = Count(folder / "count")

def on_message(index, message):
    if not (folder / "pid").exists():
        stuck(count)
        (folder / "new").write_text(str(message[1]))
        (folder / "new").rename(folder / "pid")
        time.sleep(60)

Parallel(n_jobs=2, on_message=on_message)([delayed(flood_for_ever)(count)] * 2)
"""


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Child]:
    with Child(PROGRAM, tmp_path) as child:
        assert until((tmp_path / "pid").exists)
        yield child


@pytest.mark.parametrize("number", [KILL, pytest.param(signal.SIGINT, marks=needs_signals), signal.SIGTERM])
def test_workers_that_wait_end_with_their_caller(program: Child, number: signal.Signals, tmp_path: Path) -> None:
    worker = int((tmp_path / "pid").read_text())
    assert alive(worker)
    os.kill(program.process.pid, number)
    code, _, error = program.wait()
    assert code in (-number, number, 1, 130)  # Windows ends a process with the number as its exit code
    assert ("KeyboardInterrupt" in error) == (number == signal.SIGINT)
    assert program.leaves_nothing() == []
    assert until(lambda: not alive(worker))  # it may be about to end, without an environment by now
