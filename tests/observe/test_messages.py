"""What calls send arrives in the caller, while they run; and how far they are, in the progress bar."""

from __future__ import annotations

import asyncio
import contextvars
import math
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from _capabilities import needs_fork
from _faults_util import PATIENCE, until, wait_for
from shoal import CallPicklingError, CallUnpicklingError, Parallel, delayed, executor, report, send, step
from shoal.observe import _messages
from shoal.observe._messages import Channel, Told
from shoal.observe._progress import progress_listener
from shoal.observe.events import CallStepped

EVERYWHERE = pytest.mark.parametrize(("backend", "n_jobs"), [("loky", 2), ("threading", 2), ("loky", 1)])
BESIDE_THE_CALLER = pytest.mark.parametrize("backend", ["loky", "threading"])


class Received:
    """An ``on_message`` that keeps what it gets."""

    def __init__(self) -> None:
        self.all: list[tuple[int, Any]] = []
        self.threads: set[threading.Thread] = set()

    def __call__(self, index: int, message: Any) -> None:
        self.all.append((index, message))
        self.threads.add(threading.current_thread())

    def of(self, index: int) -> list[Any]:
        return [message for number, message in self.all if number == index]


def send_all(messages: list[Any]) -> list[bool]:
    return [send(message) for message in messages]


@EVERYWHERE
def test_messages_come_in_order_with_the_index_of_their_call(backend: str, n_jobs: int) -> None:
    received = Received()
    parallel = Parallel(n_jobs=n_jobs, backend=backend, on_message=received)
    taken = parallel(delayed(send_all)([(number, i) for i in range(number)]) for number in range(20))
    assert taken == [[True] * number for number in range(20)]
    for number in range(20):
        assert received.of(number) == [(number, i) for i in range(number)]
    assert received.threads == {threading.current_thread()}


def send_and_wait(gate: Path) -> str:
    send("running")
    wait_for(gate)
    return "done"


@EVERYWHERE
@pytest.mark.parametrize("return_as", ["list", "generator", "generator_unordered"])
def test_messages_come_while_the_call_runs(backend: str, n_jobs: int, return_as: str, tmp_path: Path) -> None:
    gate = tmp_path / "gate"

    def on_message(index: int, message: str) -> None:
        assert message == "running"
        gate.touch()

    parallel = Parallel(n_jobs=n_jobs, backend=backend, return_as=return_as, on_message=on_message)
    assert list(parallel(delayed(send_and_wait)(gate) for _ in range(3))) == ["done"] * 3


@BESIDE_THE_CALLER
def test_acall(backend: str, tmp_path: Path) -> None:
    gate = tmp_path / "gate"

    async def main() -> Any:
        parallel = Parallel(n_jobs=2, backend=backend, on_message=lambda *_: gate.touch())
        return await parallel.acall(delayed(send_and_wait)(gate) for _ in range(3))

    assert asyncio.run(main()) == ["done"] * 3


def test_messages_do_not_wait_for_the_consumer_of_a_generator(tmp_path: Path) -> None:
    received = Received()
    results = Parallel(n_jobs=2, return_as="generator", on_message=received)(
        delayed(send_all)([number]) for number in range(6)
    )
    assert until(lambda: len(received.all) == 6)
    assert list(results) == [[True]] * 6


@EVERYWHERE
def test_nobody_takes_a_message(backend: str, n_jobs: int) -> None:
    assert send("outside of any call") is False
    step(1, 2)
    parallel = Parallel(n_jobs=n_jobs, backend=backend)
    assert parallel(delayed(send_all)(["one"]) for _ in range(3)) == [[False]] * 3
    assert send("after a run") is False


@BESIDE_THE_CALLER
def test_executors_take_no_message(backend: str) -> None:
    with executor(max_workers=2, backend=backend) as workers:
        assert workers.submit(send_all, ["one"]).result(PATIENCE) == [False]


def fail_after_sending(path: Path) -> str:
    send(f"attempt {len(list(path.iterdir()))}")
    (path / os.urandom(8).hex()).touch()
    if len(list(path.iterdir())) < 3:
        raise LookupError
    return "done"


@EVERYWHERE
def test_messages_of_failed_attempts_were_received(backend: str, n_jobs: int, tmp_path: Path) -> None:
    received = Received()
    parallel = Parallel(n_jobs=n_jobs, backend=backend, on_message=received, retries=2)
    assert parallel([delayed(fail_after_sending)(tmp_path)]) == ["done"]
    assert received.all == [(0, "attempt 0"), (0, "attempt 1"), (0, "attempt 2")]


class Stop(Exception):
    pass


def swallow() -> None:
    try:
        send("one")
    except Stop:
        pass


@EVERYWHERE
@pytest.mark.parametrize("function", [swallow, lambda: send("one")])
def test_an_exception_of_on_message_ends_the_run(backend: str, n_jobs: int, function: Callable[[], Any]) -> None:
    def on_message(index: int, message: Any) -> None:
        raise Stop(index)

    parallel = Parallel(n_jobs=n_jobs, backend=backend, on_message=on_message, on_error="return", retries=3)
    with pytest.raises(Stop) as raised:
        parallel([delayed(int)(), delayed(function)(), delayed(int)()])
    assert raised.value.args == (1,)
    assert set(raised.value.results) <= {0, 2}  # type: ignore[attr-defined]


@EVERYWHERE
def test_on_message_may_stop_the_run(backend: str, n_jobs: int) -> None:
    parallel = Parallel(n_jobs=n_jobs, backend=backend, batch_size=1, on_message=lambda *_: parallel.stop())
    results = parallel(delayed(send_all)([number]) for number in range(1000))
    assert len(results) < 1000
    assert all(result == [True] for result in results)


def send_pid(number: int) -> int:
    send(number)
    return os.getpid()


def test_each_call_in_a_process_of_its_own() -> None:
    received = Received()
    pids = Parallel(n_jobs=2, max_tasks_per_worker=1, on_message=received)(delayed(send_pid)(i) for i in range(6))
    assert len(set(pids)) == 6
    assert sorted(received.all) == [(number, number) for number in range(6)]


@EVERYWHERE
def test_messages_in_a_run_of_which_a_report_is_made(backend: str, n_jobs: int) -> None:
    received = Received()
    parallel = Parallel(n_jobs=n_jobs, backend=backend, on_message=received)
    with report() as made:
        assert parallel(delayed(send_all)([number]) for number in range(20)) == [[True]] * 20
    assert sorted(received.all) == [(number, number) for number in range(20)]
    assert len(made.to_dict()["runs"]) == 1


# Nested runs


def run_nested(backend: str, n_jobs: int, listen: bool) -> list[Any]:
    own: list[Any] = []
    on_message = (lambda index, message: own.append((index, message))) if listen else None
    parallel = Parallel(n_jobs=n_jobs, backend=backend, on_message=on_message)
    parallel(delayed(send_all)([f"inner {number}"]) for number in range(2))
    send("outer")
    return sorted(own)


@EVERYWHERE
@pytest.mark.filterwarnings("ignore::shoal.FallbackWarning")  # no processes below threads
@pytest.mark.parametrize(("inner", "inner_jobs"), [("loky", 2), ("threading", 2), ("loky", 1)])
@pytest.mark.parametrize("listen", [False, True])
def test_a_nested_run_passes_on_what_it_does_not_take(
    backend: str, n_jobs: int, inner: str, inner_jobs: int, listen: bool
) -> None:
    received = Received()
    parallel = Parallel(n_jobs=n_jobs, backend=backend, on_message=received)
    own = parallel(delayed(run_nested)(inner, inner_jobs, listen) for _ in range(2))
    assert own == [[(0, "inner 0"), (1, "inner 1")] if listen else []] * 2
    for number in range(2):
        assert sorted(received.of(number)) == [*([] if listen else ["inner 0", "inner 1"]), "outer"]


def pass_on(n_jobs: int) -> None:
    Parallel(n_jobs=n_jobs, backend="threading", on_message=lambda *it: send(it))([delayed(send_all)(["in"])] * 2)


@EVERYWHERE
@pytest.mark.parametrize("inner_jobs", [1, 2])
def test_a_nested_on_message_may_pass_on(backend: str, n_jobs: int, inner_jobs: int) -> None:
    received = Received()
    Parallel(n_jobs=n_jobs, backend=backend, on_message=received)([delayed(pass_on)(inner_jobs)])
    assert sorted(received.all) == [(0, (0, "in")), (0, (1, "in"))]


# Threads and forks of calls


def send_in_threads(context: bool) -> None:
    targets = [contextvars.copy_context().run if context else _call for _ in range(4)]
    threads = [threading.Thread(target=target, args=(send_all, [(i, 0), (i, 1)])) for i, target in enumerate(targets)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _call(function: Any, *args: Any) -> Any:
    return function(*args)


@EVERYWHERE
def test_threads_of_a_call_send_too(backend: str, n_jobs: int) -> None:
    received = Received()
    parallel = Parallel(n_jobs=n_jobs, backend=backend, on_message=received)
    parallel([delayed(send_in_threads)(backend != "loky" or n_jobs == 1)] * 3)
    for number in range(3):
        messages = received.of(number)
        assert sorted(messages) == [(i, j) for i in range(4) for j in range(2)]
        assert [[j for k, j in messages if k == i] for i in range(4)] == [[0, 1]] * 4


def leave_a_thread(gate: Path, sent: Path) -> threading.Thread:
    def run() -> None:
        wait_for(gate)
        try:
            sent.write_text(str(send("late")))
        except RuntimeError as error:
            sent.write_text(type(error).__name__)

    thread = threading.Thread(target=contextvars.copy_context().run, args=(run,))
    thread.start()


@EVERYWHERE
def test_a_thread_that_outlives_its_call_sends_to_nobody(backend: str, n_jobs: int, tmp_path: Path) -> None:
    received = Received()
    gate, sent = tmp_path / "gate", tmp_path / "sent"
    Parallel(n_jobs=n_jobs, backend=backend, on_message=received)([delayed(leave_a_thread)(gate, sent)])
    gate.touch()
    assert until(lambda: sent.exists() and sent.read_text())
    assert sent.read_text() == ("False" if (backend, n_jobs) == ("loky", 2) else "RunEnded")
    assert received.all == []


def send_in_a_fork() -> int:
    pid = os.fork()
    if not pid:
        os._exit(40 + send("of a fork"))
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@needs_fork
def test_a_fork_of_a_call_sends_to_nobody() -> None:
    received = Received()
    assert Parallel(n_jobs=2, on_message=received)([delayed(send_in_a_fork)()] * 2) == [40, 40]
    assert received.all == []


# Objects


class Point:
    def __init__(self, x: Any) -> None:
        self.x = x


class Hostile:
    """It cannot be unpickled."""

    def __reduce__(self) -> Any:
        return int, ("no number",)


def test_any_picklable_object_is_a_message() -> None:
    class Local:
        x = 1

    received = Received()
    messages = [None, b"x" * 3_000_000, Point(7), Local(), lambda: 3, [Local]]
    Parallel(n_jobs=2, on_message=received)([delayed(send_all)(messages)] * 2)
    first = received.of(0)
    assert first[:2] == messages[:2]
    assert (first[2].x, first[3].x, first[4]()) == (7, 1, 3)
    assert type(first[3]) is first[5][0]


def test_a_message_that_cannot_be_pickled_fails_its_call() -> None:
    received = Received()
    calls = [delayed(send_all)([1]), delayed(send_all)([2, Point(threading.Lock)]), delayed(send_lock)()]
    parallel = Parallel(n_jobs=2, on_message=received, on_error="return")
    *_, error = parallel(calls)
    assert isinstance(error, CallPicklingError)
    assert str(error).startswith("a message of call 2 cannot be sent between processes: message.x cannot be pickled (")
    assert [received.of(0), received.of(1)[0], received.of(2)] == [[1], 2, ["after"]]


def send_lock() -> None:
    try:
        send(Point(threading.Lock()))
    finally:
        send("after")


def send_hostile() -> None:
    send(Hostile())


def test_a_message_that_cannot_be_unpickled_ends_the_run() -> None:
    with pytest.raises(CallUnpicklingError, match=r"a message of a call .*ValueError"):
        Parallel(n_jobs=2, on_message=print)([delayed(send_hostile)()])


def send_own(kept: list[Any]) -> None:
    kept.append(object())
    send(kept[-1])


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_on_threads_the_message_is_the_object_itself(n_jobs: int) -> None:
    kept: list[Any] = []
    received = Received()
    Parallel(n_jobs=n_jobs, backend="threading", on_message=received)([delayed(send_own)(kept)])
    assert received.all == [(0, kept[0])]


# Steps


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(_messages, "time", self)

    def monotonic(self) -> float:
        return self.now


def test_a_worker_sends_ten_steps_a_second_and_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    sent: list[Told] = []
    channel = Channel(sent.append, False, True)
    channel.index = lambda: 3
    for done in range(1, 101):
        channel.step(done, 100)
        clock.now += 0.015625
    assert sent == [(3, done, 100) for done in [*range(1, 100, 7), 100]]
    channel.step(100, 100)
    assert len(sent) == 16


def test_a_short_call_sends_no_last_step(monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch)
    sent: list[Told] = []
    channel = Channel(sent.append, False, True)
    for call in range(50):
        channel.index = lambda call=call: call  # type: ignore[misc]
        channel.step(1, 2)
        channel.step(2, 2)
    assert sent == [(0, 1, 2), (0, 2, 2)]


@pytest.mark.parametrize(("done", "total"), [("half", 1), (None, None), ([1], 2), (1, "all")])
def test_a_step_that_is_no_number_is_refused_in_the_call(done: Any, total: Any) -> None:
    sent: list[Any] = []
    with pytest.raises(TypeError, match="step takes numbers, got: "):
        Channel(sent.append, False, True).step(done, total)
    assert sent == []


@pytest.mark.parametrize(("done", "total"), [(math.nan, 1), (1, math.inf), (10**400, None)])
def test_steps_that_no_bar_could_show_are_left_out(done: Any, total: Any) -> None:
    sent: list[Any] = []
    Channel(sent.append, False, True).step(done, total)
    assert sent == []


def step_once(number: int) -> None:
    step(number, 10)


@EVERYWHERE
def test_steps_are_events(backend: str, n_jobs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[Any] = []
    monkeypatch.setattr("shoal.observe._teller.progress_listener", lambda *_: events.append)
    parallel = Parallel(n_jobs=n_jobs, backend=backend, progress=True)
    parallel([delayed(step_once)(number) for number in range(3)])
    steps = [event for event in events if isinstance(event, CallStepped)]
    assert steps
    assert all(event == CallStepped(event.index, event.index, 10) for event in steps)


def steps_are_taken() -> bool:
    channel = _messages.channel_here()
    return channel is not None and channel.steps


@EVERYWHERE
def test_only_a_bar_takes_steps(backend: str, n_jobs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = [delayed(steps_are_taken)()] * 2
    for arguments in ({}, {"progress": lambda *_: None}, {"on_message": print}):
        assert Parallel(n_jobs=n_jobs, backend=backend, **arguments)(calls) == [False] * 2  # type: ignore[arg-type]
    monkeypatch.setattr("shoal.observe._progress._bar_class", lambda: Bar)
    assert Parallel(n_jobs=n_jobs, backend=backend, progress=True)(calls) == [True] * 2


class Bar:
    """A bar like tqdm's, which writes down what it shows."""

    disable = True

    def __init__(self, total: int | None, **_: Any) -> None:
        self.total = total
        self.shown: list[str] = []
        bars.append(self)

    def set_postfix_str(self, text: str, refresh: bool = True) -> None:
        self.shown.append(text)

    def update(self, size: int) -> None:
        self.shown.append(f"+{size}")

    def close(self) -> None:
        pass


bars: list[Bar] = []


def step_twice() -> None:
    step(1, 4)
    step(4, 4)
    step(0.5)


def test_the_bar_shows_the_latest_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shoal.observe._progress._bar_class", lambda: Bar)
    assert progress_listener(True, "label") is not None
    Parallel(n_jobs=1, progress=True)([delayed(step_twice)(), delayed(int)()])
    assert bars.pop().shown == ["call 0: 1/4", "call 0: 4/4", "", "+1", "+1"]
