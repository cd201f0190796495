"""A case by shoal: the real plan, schedule, policies and loop, on a simulated backend.

::

    make_run ──> Schedule, Sizing, Faults ──> BatchRun.results
                                                │ inbox.get: the next event of the World
                                                └ transport.encode, send, receive: the caller's time; send: a Machine
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor
from contextlib import contextmanager
from functools import partial
from queue import Empty
from typing import Any, NamedTuple

from shoal.backends import Backend, Slot, WorkerSpec
from shoal.parallel._batch import Batch
from shoal.parallel._delayed import Call
from shoal.parallel.options._plan import Plan
from shoal.parallel.options._settings import Settings
from shoal.parallel.running._batch_run import BatchRun
from shoal.parallel.running._launch import KINDS, make_run
from shoal.parallel.transport._contract import Received, Request, Transport, Unsendable
from shoal.parallel.transport._engines import ObjectTransport
from shoal.parallel.transport._status import WorkerStatus

from ._world import (
    BYTES_PER_SECOND,
    ENCODE,
    MAKE,
    PICKLE,
    RECEIVE,
    SEND,
    UNPICKLE,
    Case,
    Ended,
    Machine,
    World,
)


class Simulated(NamedTuple):
    """What a run of shoal took.

    Attributes
    ----------
    makespan
        Virtual seconds until the last result.
    cpu
        Real seconds of the thread that ran the loop, without those of the simulation.
    batches
        The number of batches.
    held, in_flight
        The most calls that were read and had no delivered result, and that workers had, at a time.
    """

    makespan: float
    cpu: float
    batches: int
    held: int
    in_flight: int


class SimulatedBackend(Backend):
    """Has a slot for each worker; or, for an engine, one slot."""

    name = "simulated"

    def __init__(self, case: Case) -> None:
        super().__init__()
        self._case = case
        self.ships_bytes = not case.engine  # type: ignore[misc]
        self.distance = 10.0 if case.engine else 1.0  # type: ignore[misc]

    def open(self, spec: WorkerSpec) -> list[Slot]:
        if self._case.engine:
            return [Slot(SimulatedExecutor(None), spec.n_workers)]
        return [Slot(SimulatedExecutor(worker)) for worker in range(spec.n_workers)]

    def close(self, slots: list[Slot]) -> None:
        pass

    def abort(self, slot: Slot) -> Slot:
        return slot


class SimulatedExecutor(Executor):
    """One worker, or all of them."""

    def __init__(self, worker: int | None) -> None:
        self.worker = worker
        self.status: WorkerStatus | None = None  # what it did when it died


class Reply:
    """The future of a reply. It belongs to one thread."""

    def __init__(self) -> None:
        self._value: Ended | BrokenExecutor | None = None
        self._done: Callable[[Any], object] = repr

    def settle(self, value: Ended | BrokenExecutor) -> None:
        self._value = value
        self._done(self)

    def add_done_callback(self, done: Callable[[Any], object]) -> None:
        self._done = done

    def cancelled(self) -> bool:
        return False

    def exception(self) -> BrokenExecutor | None:
        return self._value if isinstance(self._value, BrokenExecutor) else None

    def result(self) -> Any:
        if isinstance(self._value, BrokenExecutor):
            raise self._value
        return self._value


class CpuClock:
    """Counts the time of this thread, in seconds, except in blocks of :meth:`left_out`."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Count from now on."""
        self._began = time.thread_time()
        self._left_out = 0.0

    @property
    def seconds(self) -> float:
        return time.thread_time() - self._began - self._left_out

    @contextmanager
    def left_out(self) -> Iterator[None]:
        began = time.thread_time()
        try:
            yield
        finally:
            self._left_out += time.thread_time() - began


class Inbox:
    """An inbox that lets virtual time pass until a message has come."""

    def __init__(self, world: World, clock: CpuClock) -> None:
        self._world, self._clock = world, clock
        self._messages: deque[Any] = deque()
        self.put = self._messages.append

    def empty(self) -> bool:
        """Tell whether no message has come by now."""
        with self._clock.left_out():
            while self._world.step(waits=False):
                pass
        return not self._messages

    def get(self, timeout: float | None = None) -> Any:
        with self._clock.left_out():
            while self._world.step(waits=not self._messages and timeout != 0):
                pass
        if not self._messages:
            raise Empty
        return self._messages.popleft()


class SimulatedTransport(Transport[Request]):
    """Takes the caller's time for each batch, and has a machine run it.

    Parameters
    ----------
    world, machine, case, clock
        What is simulated.
    cut
        The seconds after which a worker begins no further call of a batch.
    """

    def __init__(self, world: World, machine: Machine, case: Case, clock: CpuClock, cut: float) -> None:
        self._world, self._machine, self._case, self._clock, self._cut = world, machine, case, clock, cut
        self._errors: tuple[int, BrokenExecutor] = 0, BrokenExecutor()
        self.sent: Callable[[], object] = int
        self.batches = 0

    def encode(self, batch: Batch) -> Request:
        request = Request(batch)
        request.nbytes = self._case.nbytes * len(batch)
        self._world.spend(ENCODE + PICKLE * len(batch) + request.nbytes / BYTES_PER_SECOND)
        return request

    def send(self, request: Request, executor: Executor) -> Any:
        with self._clock.left_out():
            assert isinstance(executor, SimulatedExecutor)
            reply = Reply()
            self._world.spend(SEND)
            self.batches += 1
            self.sent()
            durations = [seconds for (seconds,) in request.batch.args]
            done = partial(self._settle, reply, request.batch, executor)
            self._machine.submit(durations, done, executor.worker, self._cut)
        return reply

    def _settle(self, reply: Reply, batch: Batch, executor: SimulatedExecutor, ended: Ended) -> None:
        if ended.death is None:
            reply.settle(ended)
            return
        if self._errors[0] != ended.death:  # all batches that a death ends get the same error
            self._errors = ended.death, BrokenExecutor()
        if ended.position is not None:
            executor.status = WorkerStatus(batch.start + ended.position, batch.start, 0.0, 1)
        reply.settle(self._errors[1])

    def receive(self, request: Request, reply: Ended) -> Received:
        self._world.spend(RECEIVE + UNPICKLE * reply.begun)
        return Received([None] * reply.begun, None, reply.elapsed)

    def replaced(self, executor: Executor) -> WorkerStatus | None:
        assert isinstance(executor, SimulatedExecutor)
        return executor.status

    def explain(self, batch: Batch, error: Exception) -> Unsendable:
        return Unsendable(None, error)

    def forget(self, executor: Executor) -> None:
        pass

    def close(self) -> None:
        pass


def no_op(seconds: float) -> None:
    """Stand for the function of every call."""


def calls_of(durations: Iterable[float], world: World, gap: float) -> Iterator[Call]:
    """Yield a call for each duration. Each takes time of the caller."""
    each, none = MAKE + gap, {}  # type: ignore[var-annotated]
    for seconds in durations:
        world.now += each
        yield no_op, (seconds,), none


def plan_of(case: Case) -> Plan:
    """Return the plan of a case, with all defaults."""
    settings = Settings(n_jobs=case.workers, retries=10**6 if case.deaths else 0, forward=False)
    return Plan(SimulatedBackend(case), settings, return_as="generator" if case.generates else "list")


def by_shoal(case: Case, durations: Iterable[float]) -> Simulated:
    """Simulate a case as shoal runs it."""
    world, plan = World(), plan_of(case)
    machine = Machine(world, case)
    used: list[SimulatedTransport] = []
    kind: Any = BatchRun
    clock = CpuClock()

    def make(*parts: Any) -> Any:
        others, real, limits = parts[:-2], parts[-2], parts[-1]
        cut = real._options.seconds if isinstance(real, ObjectTransport) else real._seconds
        used.append(SimulatedTransport(world, machine, case, clock, cut))
        real.close()
        return kind(*others, used[0], limits)

    calls = calls_of(durations, world, case.gap)
    n, number, kinds = case.workers, case.calls if case.known else None, KINDS._replace(of_batches=make)
    shares = plan.cpu_shares(n)
    slots, end = plan.open(n, shares), plan.backend.close
    run = make_run(plan, calls, slots, end, n, shares, number, plan.bound(n), None, kinds=kinds)
    run.inbox = Inbox(world, clock)  # type: ignore[assignment]
    queue, results = run.schedule.queue, run.schedule.results
    queue.clock = lambda: world.now
    held = in_flight = number = 0

    def see() -> None:
        nonlocal held, in_flight
        held = max(held, queue.read - results.delivered)
        in_flight = max(in_flight, queue.dispatched - results.completed)

    used[0].sent = see
    clock.restart()
    for values in run.results():
        number += len(values)
        if case.generates:
            run.consumed(len(values))
    if number != case.calls:
        raise AssertionError(f"{case.name}: {number} results of {case.calls} calls")
    return Simulated(world.now, clock.seconds, used[0].batches, held, in_flight)
