"""The schedule by itself: no call is lost or run twice, bounds are kept, and workers finish together."""

from __future__ import annotations

import gc
import heapq
import itertools
import random
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from shoal.parallel._batch import Batch
from shoal.parallel._delayed import Call
from shoal.parallel.running._policies import CUT_SECONDS, auto_batch_size
from shoal.parallel.running._schedule import Schedule

#: Seconds from the parent to a worker and back.
ROUND_TRIP = 0.0004


@pytest.fixture(autouse=True)
def nothing_collected() -> Iterator[None]:
    """While the collector has something said of others' garbage, CPython 3.11 cannot parse what hypothesis does."""
    gc.disable()
    yield
    gc.enable()


class Refused(Exception):
    pass


def call(number: int) -> Call:
    """Return a call like no other; runs of them have one function, and some have keywords."""
    return (pow, divmod)[number // 5 % 2], (number,), {"mod": number} if number % 11 == 10 else {}


class Calls:
    """The calls of the numbers below `n`; the iterator raises instead of giving the one at `bad`."""

    def __init__(self, n: int, bad: int | None = None) -> None:
        self.n, self.bad = n, bad
        self.given = 0
        self.raised = False

    def __iter__(self) -> Iterator[Any]:
        for number in range(self.n):
            if number == self.bad:
                self.raised = True
                raise Refused
            self.given += 1
            yield call(number)


def numbers(batch: Batch) -> list[int]:
    """Return the numbers of the calls in a batch, which must be as they were given."""
    calls = list(batch)
    found = [args[0] for _, args, _ in calls]
    assert calls == [call(number) for number in found]
    return found


def flat(due: Sequence[Sequence[Any]]) -> list[Any]:
    return [value for values in due for value in values]


class Interleavings(RuleBasedStateMachine):
    """Any order of asking for batches, completing them, failures and deaths, for any schedule."""

    @initialize(
        n=st.integers(0, 60),
        slots=st.integers(1, 4),
        size=st.one_of(st.integers(1, 9), st.just(auto_batch_size)),
        pre_dispatch=st.one_of(st.none(), st.integers(1, 9)),
        known=st.booleans(),
        ordered=st.booleans(),
        bad=st.one_of(st.none(), st.integers(0, 60)),
        max_pending=st.one_of(st.none(), st.integers(1, 12), st.just(lambda _pace, size: 2 * size)),
    )
    def begin(
        self,
        n: int,
        slots: int,
        size: Any,
        pre_dispatch: int | None,
        known: bool,
        ordered: bool,
        bad: int | None,
        max_pending: Any,
    ) -> None:
        if bad is not None and (bad >= n or pre_dispatch is None):  # a constructor that raises gives nothing
            bad = None
        self.calls = Calls(n, bad)
        self.schedule = Schedule(
            self.calls,
            slots=slots,
            size=size,
            pre_dispatch=pre_dispatch,
            total=n if known else None,
            ordered=ordered,
            max_pending=max_pending,
        )
        self.max_pending = max_pending
        self.available = n if bad is None else bad
        self.slots, self.pre_dispatch, self.ordered, self.fixed = slots, pre_dispatch, ordered, isinstance(size, int)
        self.largest = self.schedule.sizing.size
        self.in_flight: list[Batch] = []
        self.given_back: list[int] = []
        self.resting: list[Batch] = []
        self.dispatched: list[Any] = []
        self.results: list[Any] = []
        self.measured = False

    def ask(self, busy: bool) -> Batch | None:
        raised = self.calls.raised
        try:
            batch = self.schedule.next_batch(busy, self.schedule.room)
        except Refused:
            assert not raised, "the iterator is asked again after it has raised"
            return self.ask(busy)
        if batch is not None:
            assert len(batch) == len(numbers(batch)) > 0
            assert not self.fixed or len(batch) <= self.schedule.sizing.size
            if batch.start < len(self.dispatched):
                for number in numbers(batch):
                    self.given_back.remove(number)
            else:
                assert batch.start == len(self.dispatched)
                assert not self.given_back, "what was given back goes first"
                self.dispatched += numbers(batch)
                if isinstance(self.max_pending, int):
                    behind = sum(map(len, self.schedule.results.buffered.values()))
                    assert len(self.dispatched) - self.schedule.results.consumed - behind <= self.max_pending
            self.in_flight.append(batch)
        return batch

    def answer(self, batch: Batch, seconds: float, nbytes: int, begun: int | None = None) -> None:
        self.in_flight.remove(batch)
        values = [-number for number in numbers(batch)[:begun]]
        self.given_back += numbers(batch)[len(values) :]
        due = self.schedule.completed(batch, values, seconds, nbytes)
        assert self.ordered or flat(due) == values
        self.results += flat(due)
        self.measured = True
        self.largest = max(self.largest, self.schedule.sizing.size)

    @rule(busy=st.booleans())
    def next_batch(self, busy: bool) -> None:
        batch = self.ask(busy)
        room = self.pre_dispatch is None or len(self.in_flight) < self.pre_dispatch
        room = room and (self.schedule.room > 0 or self.schedule.queue.requeued)
        if batch is None and not busy and room:
            assert len(self.dispatched) == self.available, "a slot that could run a batch was given none"
            assert not self.given_back
        assert not (busy and batch and not self.measured), "a batch was queued before any time was known"

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data(), seconds=st.floats(0, 10), nbytes=st.integers(0, 2**30))
    def complete(self, data: st.DataObject, seconds: float, nbytes: int) -> None:
        self.answer(data.draw(st.sampled_from(self.in_flight)), seconds, nbytes)

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data(), seconds=st.floats(0, 10))
    def cut_short(self, data: st.DataObject, seconds: float) -> None:
        """A worker has begun some of the calls of a batch, and gives the others back."""
        batch = data.draw(st.sampled_from(self.in_flight))
        self.answer(batch, seconds, 0, data.draw(st.integers(1, len(batch))))

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data(), seconds=st.floats(0, 10))
    def fail(self, data: st.DataObject, seconds: float) -> None:
        """A call of a batch has raised: the results before it arrive, the calls after it were not begun."""
        batch = data.draw(st.sampled_from(self.in_flight))
        self.in_flight.remove(batch)
        done = batch.split(data.draw(st.integers(0, len(batch) - 1)))
        values = [-number for number in numbers(done)]
        left = numbers(batch)
        self.results += flat(self.schedule.completed(done, values, seconds, 0))
        self.measured = self.measured or bool(values)
        self.largest = max(self.largest, self.schedule.sizing.size)
        call = self.schedule.isolate(batch, 0)
        assert call is not None
        self.given_back += left[1:]
        self.judge(call, data)

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        """A worker has died while it ran one of the calls, another batch, or nobody knows what."""
        batch = data.draw(st.sampled_from(self.in_flight))
        self.in_flight.remove(batch)
        held = numbers(batch)
        at = data.draw(st.one_of(st.none(), st.integers(-1, len(held) - 1)))
        call = self.schedule.lost(batch, at)
        if at == -1 or (at is None and len(held) > 1):
            assert call is None
            self.given_back += held
            return
        assert call is not None
        assert numbers(call) == [held[at or 0]]
        self.given_back += [number for number in held if number != held[at or 0]]
        self.judge(call, data)

    def judge(self, call: Batch, data: st.DataObject) -> None:
        (number,) = numbers(call)
        fate = data.draw(st.sampled_from(["again", "later", "stands"]))
        if fate == "again":
            self.given_back.append(number)
            self.schedule.queue.requeue(call)
        elif fate == "later":
            self.schedule.awaiting_retry += 1
            self.resting.append(call)
        else:
            self.results += flat(self.schedule.results.add(call.start, [-number]))

    @precondition(lambda self: self.schedule.results.consumed < len(self.results))
    @rule(data=st.data())
    def take_results(self, data: st.DataObject) -> None:
        """The consumer takes some of the results that are due."""
        self.schedule.results.consumed += data.draw(st.integers(1, len(self.results) - self.schedule.results.consumed))

    @precondition(lambda self: self.resting)
    @rule()
    def wake(self) -> None:
        """A call that waited for another attempt may run again."""
        call = self.resting.pop()
        self.given_back += numbers(call)
        self.schedule.awaiting_retry -= 1
        self.schedule.queue.requeue(call)

    @invariant()
    def bounds_are_kept(self) -> None:
        schedule = self.schedule
        assert schedule.in_flight == len(self.in_flight) <= (self.pre_dispatch or self.calls.n)
        assert schedule.queue.dispatched == len(self.dispatched)
        assert schedule.results.completed == (
            len(self.dispatched) - sum(map(len, self.in_flight)) - len(self.given_back) - len(self.resting)
        )
        assert not (self.resting and schedule.finished)
        if schedule.results.consumed == len(self.results) and not (self.in_flight or self.resting or self.given_back):
            assert schedule.room > 0, "nothing would ever make room"
        assert schedule.queue.read == self.calls.given or self.pre_dispatch is None
        ahead = self.calls.given - len(self.dispatched)
        if self.pre_dispatch is not None:
            assert ahead <= self.largest * (1 if self.fixed else 2 * self.slots)
            assert self.measured or not ahead, "calls are read ahead before a first result is there"

    @invariant()
    def results_are_as_the_calls(self) -> None:
        assert self.dispatched == list(range(len(self.dispatched)))
        if self.ordered:
            assert self.results == [-number for number in range(len(self.results))]
            assert self.schedule.results.delivered == len(self.results)
        assert len(set(self.results)) == len(self.results)

    def teardown(self) -> None:
        if not hasattr(self, "schedule"):
            return
        while self.resting:
            self.wake()
        while True:
            self.schedule.results.consumed = len(self.results)
            if not (self.in_flight or self.ask(busy=False)):
                break
            self.answer(self.in_flight[-1], 0.001, 0)
        assert sorted(self.results, reverse=True) == [-number for number in range(self.available)]
        assert self.schedule.finished


TestInterleavings = Interleavings.TestCase


def test_all_calls_are_read_at_once_without_a_bound() -> None:
    calls = Calls(100)
    schedule = Schedule(calls, slots=2, pre_dispatch=None)
    assert calls.given == 100
    assert not schedule.finished


@given(n=st.integers(1, 30), data=st.data())
def test_calls_before_the_one_that_fails_are_given(n: int, data: st.DataObject) -> None:
    bad = data.draw(st.integers(0, n - 1))
    schedule = Schedule(Calls(n, bad), slots=2, size=data.draw(st.integers(1, 9)), pre_dispatch=100)
    given: list[Any] = []
    with pytest.raises(Refused):  # noqa: PT012 some batches may be given before it
        while True:
            batch = schedule.next_batch()
            assert batch is not None
            given += numbers(batch)
    assert schedule.queue.read == bad
    while batch := schedule.next_batch():
        given += numbers(batch)
    assert given == list(range(bad))


@given(n=st.integers(0, 30), ordered=st.booleans(), pre_dispatch=st.sampled_from([None, 4]), data=st.data())
def test_calls_that_are_taken_one_by_one(n: int, ordered: bool, pre_dispatch: int | None, data: st.DataObject) -> None:
    calls = Calls(n)
    schedule = Schedule(calls, slots=2, pre_dispatch=pre_dispatch, ordered=ordered)
    taken: list[int] = []
    results: list[int] = []
    for index in range(n):
        assert schedule.queue.next_call() == (index, call(index))
        assert pre_dispatch is None or calls.given == index + 1
        taken.append(index)
        while taken and data.draw(st.booleans()):
            settled = taken.pop(data.draw(st.integers(0, len(taken) - 1)))
            results += flat(schedule.results.add(settled, [-settled]))
            assert ordered or results[-1] == -settled
    assert schedule.queue.next_call() is None
    assert schedule.queue.exhausted
    while taken:
        settled = taken.pop()
        results += flat(schedule.results.add(settled, [-settled]))
    assert (results if ordered else sorted(results, reverse=True)) == [-number for number in range(n)]
    assert schedule.results.completed == n


class Simulation:
    """Workers that take `seconds` for each call, fed as a run feeds its slots; the clock is a number.

    A worker runs its batches one after the other; to it and back, a batch takes half a round trip each.
    """

    def __init__(self, seconds: Sequence[float], slots: int, known: bool = True, **options: Any) -> None:
        self.schedule = Schedule(
            ((abs, (duration,), {}) for duration in seconds),
            slots=slots,
            total=len(seconds) if known else None,
            **{"size": auto_batch_size, "pre_dispatch": 2 * slots, **options},
        )
        self.slots = slots
        self.sizes: list[int] = []
        self.now = 0.0
        self._free = [0.0] * slots  # when each worker has run what it was sent
        self._queues: list[deque[Batch]] = [deque() for _ in range(slots)]
        self._arrivals: list[tuple[float, int, float, int]] = []

    def run(self) -> float:
        """Return the time at which the last result is there."""
        for slot in range(self.slots):
            self._feed(slot, at_most=1)
        while self._arrivals:
            self.now, slot, elapsed, begun = heapq.heappop(self._arrivals)
            batch = self._queues[slot].popleft()
            self.schedule.completed(batch, [None] * begun, elapsed)
            self._feed(slot, at_most=2)
            for other in range(self.slots):
                self._feed(other, at_most=1)
        assert self.schedule.finished
        return self.now

    def _feed(self, slot: int, at_most: int) -> None:
        queue = self._queues[slot]
        while len(queue) < at_most:
            batch = self.schedule.next_batch(busy=bool(queue))
            if batch is None:
                return
            queue.append(batch)
            self.sizes.append(len(batch))
            elapsed, begun = 0.0, 0
            for _, (seconds,), _ in batch:
                elapsed, begun = elapsed + seconds, begun + 1
                if elapsed > CUT_SECONDS:
                    break
            self._free[slot] = max(self._free[slot], self.now + ROUND_TRIP / 2) + elapsed
            heapq.heappush(self._arrivals, (self._free[slot] + ROUND_TRIP / 2, slot, elapsed, begun))


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("seed", range(12))
def test_workers_finish_together(seed: int, known: bool) -> None:
    seconds = [0.0005, 0.001, 0.002, 0.02] * 100
    random.Random(seed).shuffle(seconds)
    assert Simulation(seconds, slots=2, known=known).run() <= 1.03 * sum(seconds) / 2


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("slots", [2, 4, 16])
def test_equal_calls_cost_little_more_than_themselves(slots: int, known: bool) -> None:
    seconds = [0.004] * 250 * slots
    assert Simulation(seconds, slots, known).run() <= 1.03 * 1.0


@pytest.mark.parametrize(
    ("seconds", "slots"), [([0.001] * 100, 2), ([0.0002] * 1000, 4), ([0.005] * 41, 4)], ids=["100", "1000", "41"]
)
def test_last_batches_shrink(seconds: list[float], slots: int) -> None:
    # One more batch of full size at the end would be 15 to 30 %.
    for known in (True, False):
        assert Simulation(seconds, slots, known).run() <= 1.12 * sum(seconds) / slots


def test_tiny_calls_reach_large_batches_in_few_rounds() -> None:
    simulation = Simulation([1e-6] * 100_000, slots=2)
    simulation.run()
    assert max(simulation.sizes) >= 10_000
    before = list(itertools.takewhile(lambda size: size < 1000, simulation.sizes))
    assert len(before) <= 2 * 4  # two rounds of leaps, and what was queued meanwhile
    assert len(simulation.sizes) <= 40


def test_a_few_tiny_calls_are_no_round_trip_each() -> None:
    simulation = Simulation([1e-6] * 1000, slots=2)
    assert simulation.run() <= 10 * ROUND_TRIP


def test_slow_calls_travel_alone() -> None:
    simulation = Simulation([0.5] * 40, slots=2)
    assert simulation.run() <= 10 * 1.01
    assert set(simulation.sizes) == {1}


def test_a_long_call_at_first_holds_nothing_up() -> None:
    simulation = Simulation([1.0] + [0.001] * 900, slots=2)
    assert simulation.run() <= 1.03


def test_every_worker_gets_something_at_the_end() -> None:
    for slots, calls in [(2, 2), (4, 5), (8, 8), (8, 20)]:
        assert Simulation([0.1] * calls, slots).run() <= 0.1 * -(-calls // slots) + 5 * ROUND_TRIP


def test_calls_unlike_those_before_hold_nothing_up() -> None:
    for times in ([1e-6] * 4 + [0.02] * 100, [number * 1e-4 for number in range(150)], [1e-4] * 500 + [0.1] * 20):
        for known in (True, False):
            simulation = Simulation(times, slots=2, known=known)
            assert simulation.run() <= max(sum(times) / 2 * 1.03, sum(times) / 2 + 0.06)


def test_workers_do_not_wait_until_all_calls_are_read() -> None:
    schedule = Schedule(((abs, (i,), {}) for i in range(10_000)), slots=2, size=auto_batch_size, pre_dispatch=4)
    schedule.queue.clock = lambda: 0.0  # on a busy machine, reading may take long
    first = schedule.next_batch()
    assert first is not None
    schedule.completed(first, [0], elapsed=30e-6)
    assert schedule.sizing.size == 512
    second = schedule.next_batch()
    assert second is not None
    assert schedule.queue.read <= 1 + 500
    assert len(second) >= 50  # more work than its way takes


def test_calls_that_were_given_back_travel_together_also_while_more_are_to_be_read() -> None:
    schedule = Schedule(((abs, (i,), {}) for i in range(10_000)), slots=2, size=auto_batch_size, pre_dispatch=4)
    schedule.queue.clock = lambda: 0.0  # on a busy machine, reading may take long
    first = schedule.next_batch()
    assert first is not None
    schedule.completed(first, [0], elapsed=2e-3)
    assert schedule.sizing.size == 8
    batch = schedule.next_batch()
    assert batch is not None
    schedule.completed(batch, [])
    again = schedule.next_batch()
    assert again is not None
    assert [args for _, args, _ in again] == [(number,) for number in range(1, 9)]


def test_an_input_that_takes_time_is_read_ahead_for_a_short_time_only() -> None:
    now = 0.0

    def slow() -> Iterator[Any]:
        nonlocal now
        for number in range(1000):
            now += 0.002
            yield abs, (number,), {}

    schedule = Schedule(slow(), slots=16, size=auto_batch_size, pre_dispatch=32)
    schedule.queue.clock = lambda: now
    first = schedule.next_batch()
    assert first is not None
    schedule.completed(first, [0], elapsed=0.002)
    for _ in range(10):
        before = now
        assert schedule.next_batch() is not None
        assert now - before < 0.01


def test_an_input_that_takes_time_is_read_while_nothing_else_is_to_be_done() -> None:
    now = 0.0

    def slow() -> Iterator[Any]:
        nonlocal now
        for number in range(1000):
            now += 0.01
            yield abs, (number,), {}

    schedule = Schedule(slow(), slots=4, size=auto_batch_size, pre_dispatch=8)
    schedule.queue.clock = lambda: now
    assert not schedule.read_on()  # nobody knows yet how long calls take
    batches = [schedule.next_batch() for _ in range(4)]
    assert None not in batches
    schedule.completed(batches[0], [0], elapsed=0.1)  # type: ignore[arg-type]
    read = schedule.queue.read
    while schedule.read_on():
        read += 1
        assert schedule.queue.read == read
    assert len(schedule.queue.ahead) == 2 * 4  # two rounds
    assert schedule.worth_queueing(1)  # the worker's next call would wait until the caller has read one


def test_a_slow_input_is_not_read_on_where_calls_wait_for_the_consumer() -> None:
    calls = ((abs, (number,), {}) for number in range(1000))
    schedule = Schedule(calls, slots=4, size=auto_batch_size, pre_dispatch=8, max_pending=1)
    first = schedule.next_batch(room=schedule.room)
    assert first is not None
    schedule.completed(first, [0], elapsed=0.1)
    assert not schedule.read_on()
    schedule.results.consumed += 1
    assert schedule.read_on()
