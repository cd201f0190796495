"""The loop by itself: a run on workers that do what hypothesis says, by a clock that is a number."""

from __future__ import annotations

import queue
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from typing import Any, ClassVar, NamedTuple
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from _selection import examples
from shoal.backends import Backend, Slot
from shoal.errors import RunTimeout, TaskTimeout, WorkerDied
from shoal.parallel._batch import Batch
from shoal.parallel.options._plan import Plan
from shoal.parallel.options._settings import Settings
from shoal.parallel.running._batch_run import BatchRun
from shoal.parallel.running._faults import Faults
from shoal.parallel.running._policies import auto_batch_size
from shoal.parallel.running._run import Cancelled
from shoal.parallel.running._schedule import Schedule
from shoal.parallel.transport._contract import Received, Request
from shoal.parallel.transport._status import WorkerStatus
from shoal.parallel.transport._worker import Missing


class Raised(Exception):
    """What a call raises."""


class Answer(NamedTuple):
    """What a worker sends back."""

    values: list[int]
    error: BaseException | None = None
    whole: bool = False
    elapsed: float = 0.0
    retiring: int | None = None


class Sent(Request):
    """A batch in flight."""

    def __init__(self, batch: Batch) -> None:
        super().__init__(batch)
        self.closed = False
        self.nbytes = self.returned = 8

    def close(self) -> None:
        self.closed = True


class Worker(Executor):
    """A worker that runs its batches one after the other, a call whenever it is told to."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.batches: deque[tuple[Future[Any], list[int]]] = deque()
        self.done: list[int] = []
        self.noted = WorkerStatus(None, None, 0.0, 0)

    def take(self, numbers: list[int]) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        self.batches.append((future, numbers))
        if len(self.batches) == 1:
            self.begin()
        return future

    def begin(self) -> None:
        """Note the call that comes next."""
        self.noted = WorkerStatus(None, None, self.world.now, 0)
        if self.batches and len(self.done) < len(self.batches[0][1]):
            self.noted = self.noted._replace(call=self.batches[0][1][len(self.done)])

    def end_call(self) -> None:
        self.done.append(self.batches[0][1][len(self.done)])
        if len(self.done) == len(self.batches[0][1]):
            self.answer()
        else:
            self.begin()

    def answer(self, error: BaseException | None = None, whole: bool = False) -> None:
        """Send back what was done of a batch; with `whole`, nobody knows which of its calls has failed."""
        future, _ = self.batches.popleft()
        values, self.done = ([] if whole else self.done), []
        self.begin()
        future.set_result(Answer([-number for number in values], error, whole, 0.001 * len(values)))

    def break_down(self, error: BaseException) -> None:
        """Die, with all that it holds."""
        batches = list(self.batches)
        self.batches.clear()
        self.done = []
        for future, _ in batches:
            future.set_exception(error)


class FakeBackend(Backend):
    """Gives a slot a new worker where the old one is aborted, whose messages may still come."""

    name: ClassVar[str] = "fake"

    def __init__(self, world: World) -> None:
        self.world = world

    def open(self, spec: Any) -> list[Slot]:
        raise NotImplementedError

    def close(self, slots: list[Slot]) -> None:
        raise NotImplementedError

    def abort(self, slot: Slot) -> Slot:
        assert isinstance(slot.executor, Worker)
        number, since = slot.executor.noted.call, slot.executor.noted.since
        if self.world.limit is not None and slot.executor.batches and number is not None:
            self.world.failures[number] += self.world.now >= since + self.world.limit
        self.world.late.append(slot.executor)
        self.world.workers.remove(slot.executor)
        self.world.workers.append(Worker(self.world))
        return Slot(self.world.workers[-1])


class World:
    """The workers, the clock, the consumer: also the transport and the inbox of the run."""

    def __init__(self, data: st.DataObject, n_workers: int, pre_dispatch: int, limit: float | None) -> None:
        self.record, self.row_kind = None, "processes"  # the run publishes nothing
        self.draw = data.draw
        self.now = 100.0
        self.pre_dispatch, self.limit = pre_dispatch, limit
        self.workers = [Worker(self) for _ in range(n_workers)]
        self.late: list[Worker] = []
        self.messages: deque[Any] = deque()
        self.requests: list[Sent] = []
        self.failures: Counter[int] = Counter()
        self.given: Counter[int] = Counter()
        self.results: list[Any] = []
        self.taken = 0
        self.closed = self.released = 0
        self.ended_by: str | None = None
        self.stepped = 0

    # the clock

    def monotonic(self) -> float:
        return self.now

    perf_counter = monotonic

    # the transport

    def encode(self, batch: Batch) -> Sent:
        numbers = [args[0] for _, args, _ in batch]
        assert numbers == list(range(batch.start, batch.start + len(batch)))
        self.requests.append(Sent(batch))
        return self.requests[-1]

    def send(self, request: Sent, executor: Worker) -> Future[Any]:
        numbers = [args[0] for _, args, _ in request.batch]
        self.given.update(numbers)
        return executor.take(numbers)

    def status(self, executor: Worker) -> WorkerStatus:
        return executor.noted

    def forget(self, executor: Worker) -> None:
        pass

    def replaced(self, executor: Worker) -> WorkerStatus:
        running, executor.noted = executor.noted, WorkerStatus(None, None, self.now, 0)
        return running

    def receive(self, request: Sent, reply: Answer) -> Received:
        assert not request.closed
        return Received(reply.values, reply.error, reply.elapsed, reply.whole, retiring=reply.retiring)

    def close(self) -> None:
        self.closed += 1

    # the inbox

    def put(self, message: Any) -> None:
        self.messages.append(message)

    def empty(self) -> bool:
        return not self.messages

    def get(self, timeout: float | None) -> Any:
        """Return the next message. Where there is none, something happens, or time goes by."""
        assert timeout is None or timeout >= 0
        self.check(timeout)
        while not self.messages:
            steps = list(self.steps())
            if timeout is not None:
                steps.append("time")
            assert steps, "the loop waits for what will never come"
            step = self.draw(st.sampled_from(steps))
            if step == "time":
                assert timeout is not None
                self.now += timeout
                raise queue.Empty
            if timeout is not None:  # some of the time that it would wait
                spent = timeout * self.draw(st.sampled_from([0.0, 0.5]))
                self.now += spent
                timeout -= spent
            self.stepped += 1
            step()
        return self.messages.popleft()

    def check(self, timeout: float | None) -> None:
        if self.limit is not None and not self.messages:
            for worker in self.workers:
                if worker.noted.call is not None and worker.batches:
                    assert timeout is not None, "nobody looks at a call that may run for too long"
                    # A read of a slow input may take the time past the limit; then the loop must not wait at all.
                    assert timeout == 0 or self.now + timeout <= worker.noted.since + self.limit + 1e-6
        schedule = self.run.schedule
        if not all(worker.batches for worker in self.workers) and not self.messages and self.ended_by is None:
            waiting = schedule.queue.requeued or (not schedule.queue.exhausted and schedule.room > 0)
            assert not waiting or schedule.in_flight >= self.pre_dispatch, "a worker is idle though calls wait"

    def steps(self) -> list[Callable[[], None]]:
        """Return what may happen next."""
        steps: list[Callable[[], None]] = []
        for worker in [*self.workers, *self.late]:
            if worker.batches:
                steps += [worker.end_call] * 4
                steps.append(lambda worker=worker: self.fail(worker))
                steps.append(lambda worker=worker: self.die(worker))
                if worker.done:
                    steps.append(worker.answer)  # its batch is cut short
        if self.taken < len(self.results):
            steps += [self.take_results] * 2
        if self.stepped > 30:
            steps += [self.stop, self.cancel]
        return steps

    def fail(self, worker: Worker) -> None:
        number = worker.batches[0][1][len(worker.done)]
        if self.draw(st.integers(0, 4)) == 0:  # it could not even rebuild the batch
            if worker not in self.late and len(worker.batches[0][1]) == 1:
                self.failures[number] += 1
            worker.answer(Raised(number), whole=True)
            return
        if worker not in self.late:
            self.failures[number] += 1
        worker.answer(Raised(number))

    def die(self, worker: Worker) -> None:
        if self.draw(st.integers(0, 4)) == 0:
            worker.break_down(Missing(1))
            return
        running = self.draw(st.booleans())
        _, numbers = worker.batches[0]
        if not running:  # it rebuilds the arguments of a batch, or encodes the results
            worker.noted = worker.noted._replace(call=None, batch=numbers[0])
        if worker not in self.late and (running or len(numbers) == 1):
            self.failures[worker.noted.call if running else numbers[0]] += 1
        worker.break_down(BrokenProcessPool("killed"))

    def take_results(self) -> None:
        number = self.draw(st.integers(1, len(self.results) - self.taken))
        self.taken += number
        self.run.consumed(number)

    def stop(self) -> None:
        self.ended_by = "stop"
        self.run.stop()

    def cancel(self) -> None:
        self.ended_by = "cancel"
        self.put(Cancelled())

    run: BatchRun[Any]


@settings(max_examples=examples(500))
@given(data=st.data())
def test_each_call_ends_once_whatever_happens(data: st.DataObject) -> None:
    n = data.draw(st.integers(0, 14), label="calls")
    n_workers = data.draw(st.integers(1, 3), label="workers")
    size = data.draw(st.sampled_from([1, 3, auto_batch_size]), label="batch size")
    ordered = data.draw(st.booleans(), label="ordered")
    max_pending = data.draw(st.sampled_from([None, 2, 5]), label="max_pending")
    pre_dispatch = data.draw(st.sampled_from([1, 2, 6, 100]), label="pre_dispatch")
    retries = data.draw(st.integers(0, 2), label="retries")
    on_error = data.draw(st.sampled_from(["raise", "return"]), label="on_error")
    limit = data.draw(st.sampled_from([None, 7.0]), label="task_timeout")
    timeout = data.draw(st.sampled_from([None, 50.0]), label="timeout")
    wait = data.draw(st.sampled_from([0.0, 3.0]), label="retry_wait")

    world = World(data, n_workers, pre_dispatch, limit)
    options = Settings(retries=retries, on_error=on_error, retry_wait=wait, task_timeout=limit)
    plan = Plan(FakeBackend(world), options, timeout=timeout)
    seconds_to_read = data.draw(st.sampled_from([0.0, 0.01]), label="seconds to read a call")

    def read() -> Iterator[Any]:
        for number in range(n):
            world.now += seconds_to_read
            yield abs, (number,), {}

    schedule = Schedule(
        read(),
        slots=n_workers,
        size=size,
        pre_dispatch=pre_dispatch,
        total=data.draw(st.sampled_from([None, n]), label="total"),
        ordered=ordered,
        max_pending=max_pending,
    )
    schedule.queue.clock = world.monotonic
    slots = [Slot(worker) for worker in world.workers]
    faults = Faults(options, None)
    release = mock.Mock()
    error: BaseException | None = None
    with ExitStack() as patched:
        for module in ("_run", "_batch_run", "_faults", "_patience"):
            patched.enter_context(mock.patch(f"shoal.parallel.running.{module}.time", world))
        transport: Any = world
        run = BatchRun(plan, slots, schedule, None, faults, release, transport, None)
        run.inbox = world
        world.run = run
        try:
            last_due = world.now
            for due in run.results():
                assert len(due)
                world.results += due
                last_due = world.now
                assert schedule.in_flight <= pre_dispatch
        except Exception as caught:
            error = caught
        except Cancelled as cancelled:
            error = cancelled

    assert not any(worker.batches for worker in world.workers), "a worker runs what nobody waits for"
    assert all(request.closed for request in world.requests)
    assert world.closed == 1
    release.assert_called_once_with()

    numbers = [value.call.index if isinstance(value, Exception) else -value for value in world.results]
    assert len(set(numbers)) == len(numbers)
    assert not ordered or numbers == sorted(numbers)
    for number, value in zip(numbers, world.results, strict=True):
        stands = isinstance(value, Exception)
        assert stands == (world.failures[number] == retries + 1)
        assert not stands or on_error == "return"
    if error is None:
        assert len(numbers) == n or world.ended_by == "stop"
    elif isinstance(error, Cancelled):
        assert world.ended_by == "cancel"
    elif isinstance(error, RunTimeout):
        assert timeout is not None
        assert world.now >= last_due + timeout
    else:
        assert isinstance(error, (Raised, WorkerDied, TaskTimeout))
        assert on_error == "raise"
        if hasattr(error, "call"):
            assert world.failures[error.call.index] == retries + 1
        else:  # a batch that no worker could rebuild, where nothing is run again
            assert not retries
