"""Virtual time, and the workers that live in it.

::

    caller ──spend──> World.now ──submit──> Machine ──at──> World's events ──reply──> caller
                                              │ a worker runs its batches one after the other;
                                              └ it may be slow, die, or leave and come back

Everything that a worker does with a batch is known when the batch is sent, so each batch is a single event.
"""

from __future__ import annotations

import heapq
import math
import random
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import NamedTuple

#: The seconds of the caller's time that a batch costs (docs/design/parallel.md): to encode, to send, to receive.
ENCODE, SEND, RECEIVE = 60e-6, 60e-6, 80e-6
#: The seconds of the caller's time that each call costs: to make it, to pickle it, to unpickle its result.
MAKE, PICKLE, UNPICKLE = 0.2e-6, 0.2e-6, 0.2e-6
#: The bytes of arguments that the caller sends in a second.
BYTES_PER_SECOND = 2e9
#: The seconds after which a worker that has died is replaced.
RESTART = 0.005


class World:
    """The clock of the caller, and the events to come.

    Attributes
    ----------
    now
        The caller's time, in seconds. An event that was due while the caller was busy is seen later than it happened.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[float], object]]] = []
        self._number = 0

    def spend(self, seconds: float) -> None:
        """Let the caller work for some seconds."""
        self.now += seconds

    def at(self, time: float, event: Callable[[float], object]) -> None:
        """Call `event` with its time when that has come."""
        self._number += 1
        heapq.heappush(self._events, (time, self._number, event))

    def step(self, waits: bool) -> bool:
        """Let the next event happen; return whether there was one.

        Parameters
        ----------
        waits
            Whether the caller waits for it. If not, only an event that is due already happens.
        """
        if not self._events or (not waits and self._events[0][0] > self.now):
            return False
        time, _, event = heapq.heappop(self._events)
        self.now = max(self.now, time)
        event(time)
        return True


class Case(NamedTuple):
    """What is simulated.

    Attributes
    ----------
    name
        What the table calls it.
    workers, calls
        Their numbers.
    durations
        The distribution of the seconds of calls: "constant", "uniform", "lognormal" or "pareto".
    mean
        Its mean, in seconds.
    nbytes
        The bytes of the arguments of each call.
    gap
        The seconds in which the caller makes a call.
    latency
        The seconds from the caller to a worker, and back.
    deaths
        How many times a worker dies in a second.
    slow
        The share of workers that are ten times slower than others.
    present, absent
        The mean seconds after which a worker leaves, and comes back. An engine then runs its batch elsewhere.
    engine
        Whether one executor has all workers, as those of dask and ray.
    generates
        Whether results are taken one by one, as those of a generator.
    known
        Whether the run knows the number of calls, as that of a list. The other rules know it always.
    """

    name: str
    workers: int
    calls: int
    durations: str = "constant"
    mean: float = 0.01
    nbytes: int = 0
    gap: float = 0.0
    latency: float = 0.0001
    deaths: float = 0.0
    slow: float = 0.0
    present: float = math.inf
    absent: float = 0.0
    engine: bool = False
    generates: bool = False
    known: bool = True


class Ended(NamedTuple):
    """What has become of a batch.

    Attributes
    ----------
    begun
        The number of calls that were run.
    elapsed
        The seconds that they took.
    death
        The number of the death that ended the worker; None if the batch came back.
    position
        The position of the call that ran when the worker died; None if none did.
    """

    begun: int
    elapsed: float
    death: int | None = None
    position: int | None = None


class Machine:
    """The workers of a case.

    Parameters
    ----------
    world, case
        The clock, and what is simulated.
    seed
        Decides who is slow, and when workers die and leave.
    """

    def __init__(self, world: World, case: Case, seed: int = 0) -> None:
        self._world, self._case, self._random = world, case, random.Random(seed)
        n = case.workers
        self.slowness = [10.0 if worker < case.slow * n else 1.0 for worker in range(n)]
        self._random.shuffle(self.slowness)
        self._free_at = [0.0] * n  # when each worker has run what it was sent
        self._idle = [(0.0, worker) for worker in range(n)]  # a heap of the same; a worker's latest entry counts
        self._ends_at = [self._life(0.0) for _ in range(n)]  # when each worker dies or leaves
        self._killed_at = [-1.0] * n  # when it died or left at last
        self.deaths = 0

    def _life(self, since: float) -> float:
        case = self._case
        rate = case.deaths or (0.0 if math.isinf(case.present) else 1 / case.present)
        return since + self._random.expovariate(rate) if rate else math.inf

    def submit(
        self,
        durations: Sequence[float],
        done: Callable[[Ended], object],
        worker: int | None = None,
        cut: float = math.inf,
    ) -> None:
        """Send a batch; `done` is called when its outcome has reached the caller.

        Parameters
        ----------
        durations
            The seconds of its calls on a worker that is not slow.
        done
            Takes the outcome.
        worker
            Who runs it, after what it was sent before; None for the worker that is free first.
        cut
            The seconds after which the worker begins no further call.
        """
        self._send(self._world.now + self._case.latency, durations, done, worker, cut)

    def _send(
        self,
        arrives: float,
        durations: Sequence[float],
        done: Callable[[Ended], object],
        worker: int | None,
        cut: float,
    ) -> None:
        case, chosen = self._case, self._first_free() if worker is None else worker
        time, ended = self._run(chosen, arrives, durations, cut)
        if worker is None:
            heapq.heappush(self._idle, (self._free_at[chosen], chosen))
        if ended.death is not None and not case.deaths:  # an engine gives the batch to another worker by itself
            self._world.at(time, lambda now: self._send(now + case.latency, durations, done, None, cut))
        else:
            self._world.at(time + case.latency, lambda _: done(ended))

    def _first_free(self) -> int:
        while True:
            time, worker = heapq.heappop(self._idle)
            if time == self._free_at[worker]:
                return worker

    def _run(self, worker: int, arrives: float, durations: Sequence[float], cut: float) -> tuple[float, Ended]:
        """Return when a worker is done with a batch, and what has become of it."""
        slowness, away = self.slowness[worker], self._case.absent or RESTART
        while self._ends_at[worker] <= max(arrives, self._free_at[worker]):  # it ends while it has nothing to do
            back = self._ends_at[worker] + away
            self._free_at[worker], self._ends_at[worker] = max(back, self._free_at[worker]), self._life(back)
        if arrives <= self._killed_at[worker]:  # it waited behind the batch that ran then
            return self._killed_at[worker], Ended(0, 0.0, self.deaths)
        start = max(arrives, self._free_at[worker])
        elapsed, begun = sum(durations) * slowness, len(durations)
        if elapsed > cut or start + elapsed > self._ends_at[worker]:
            ends = list(accumulate(seconds * slowness for seconds in durations))
            begun = min(bisect_right(ends, cut) + 1, begun)
            elapsed = ends[begun - 1]
            if start + elapsed > self._ends_at[worker]:
                dead = self._killed_at[worker] = self._ends_at[worker]
                self._free_at[worker], self._ends_at[worker] = dead + away, self._life(dead + away)
                self.deaths += 1
                return dead, Ended(0, 0.0, self.deaths, bisect_right(ends, dead - start))
        self._free_at[worker] = start + elapsed
        return start + elapsed, Ended(begun, elapsed)
