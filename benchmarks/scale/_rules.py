"""Other rules of how many calls a batch has. Each is simulated by a small caller of its own, at the same costs.

joblib's rule is written from its description: it aims at 0.2 to 2 s per batch, from the caller's point of view, and at
most doubles the size. Guided self-scheduling is by Polychronopoulos and Kuck (1987), factoring by Hummel, Schonberg and
Flynn (1992).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import partial
from itertools import islice
from typing import Any

from ._world import BYTES_PER_SECOND, ENCODE, MAKE, PICKLE, RECEIVE, SEND, UNPICKLE, Case, Ended, Machine, World


class Rule:
    """Says how many calls the next batch has. This one says 1.

    Parameters
    ----------
    workers, calls
        Their numbers.

    Attributes
    ----------
    depth
        How many batches each worker may have.
    """

    depth = 1

    def __init__(self, workers: int, calls: int) -> None:
        self.workers, self.left = workers, calls

    def size(self) -> int:
        """Return the number of calls of the next batch, of those that are left."""
        return 1

    def measured(self, calls: int, seconds: float) -> None:
        """Take what a batch took, from the caller's point of view."""


class OneByOne(Rule):
    """Self-scheduling: each batch is a call."""


class Even(Rule):
    """Static scheduling: each worker gets one batch, all of the same size."""

    def __init__(self, workers: int, calls: int) -> None:
        super().__init__(workers, calls)
        self._size = -(-calls // workers)

    def size(self) -> int:
        return self._size


class Guided(Rule):
    """Guided self-scheduling: a batch is an even share of what is left."""

    def size(self) -> int:
        return -(-self.left // self.workers)


class Factoring(Rule):
    """Factoring: each worker gets the same share of half of what is left, then of half of the rest, and so on."""

    _rest = _share = 0

    def size(self) -> int:
        if not self._rest:
            self._rest, self._share = self.workers, -(-self.left // (2 * self.workers))
        self._rest -= 1
        return self._share


class Joblib(Rule):
    """joblib's ``batch_size="auto"``."""

    depth = 2
    _LEAST, _MOST = 0.2, 2.0  # seconds of a batch

    def __init__(self, workers: int, calls: int) -> None:
        super().__init__(workers, calls)
        self._wanted, self._smoothed = 1, 0.0
        self._cut = deque[int]()

    def size(self) -> int:
        if not self._cut:  # it reads a batch per worker at once, and divides what it has read
            if 0 < self._smoothed < self._LEAST:
                wanted = min(2 * self._wanted, max(int(2 * self._wanted * self._LEAST / self._smoothed), 1))
                self._change(wanted)
            elif self._smoothed > self._MOST and self._wanted > 1:
                self._change(max(int(2 * self._wanted * self._LEAST / self._smoothed), 1))
            read = min(self._wanted * self.workers, self.left)
            whole = read == self._wanted * self.workers
            share = max(read // self.workers if whole else read // (10 * self.workers), 1)
            self._cut.extend(min(share, read - start) for start in range(0, read, share))
        return self._cut.popleft()

    def _change(self, wanted: int) -> None:
        self._wanted, self._smoothed = wanted, 0.0

    def measured(self, calls: int, seconds: float) -> None:
        if calls == self._wanted:
            self._smoothed = 0.8 * self._smoothed + 0.2 * seconds if self._smoothed else seconds


RULES = {"joblib": Joblib, "guided": Guided, "factoring": Factoring}


class Caller:
    """Sends batches by a rule, and receives them.

    Parameters
    ----------
    case, durations, rule
        What is simulated, the seconds of each call, and the rule.
    """

    def __init__(self, case: Case, durations: Sequence[float], rule: Rule) -> None:
        self._case, self._rule = case, rule
        self._calls = iter(durations)
        self._world = World()
        self._machine = Machine(self._world, case)
        self._lost: list[list[float]] = []
        self._replies = deque[tuple[list[float], float, Ended]]()
        self._in_flight = 0

    def run(self) -> float:
        """Return the virtual seconds until the last result."""
        world, rule = self._world, self._rule
        while True:
            while self._in_flight < rule.depth * rule.workers and (self._lost or rule.left):
                self._send()
            if not self._in_flight:
                return world.now
            while not self._replies:
                world.step(waits=True)
            self._receive(*self._replies.popleft())

    def _send(self) -> None:
        world, rule, case = self._world, self._rule, self._case
        if self._lost:
            batch = self._lost.pop()
        else:
            batch = list(islice(self._calls, rule.size()))
            rule.left -= len(batch)
            world.spend((MAKE + case.gap) * len(batch))
        world.spend(ENCODE + SEND + (PICKLE + case.nbytes / BYTES_PER_SECOND) * len(batch))
        self._in_flight += 1
        self._machine.submit(batch, partial(self._arrived, batch, world.now))

    def _arrived(self, batch: list[float], sent: float, ended: Ended) -> None:
        self._replies.append((batch, sent, ended))

    def _receive(self, batch: list[float], sent: float, ended: Ended) -> None:
        world = self._world
        self._in_flight -= 1
        world.spend(RECEIVE + UNPICKLE * ended.begun)
        if ended.death is not None:
            self._lost.append(batch)
        else:
            self._rule.measured(len(batch), world.now - sent)


def by_rule(case: Case, durations: Sequence[float], make: Any) -> float:
    """Simulate a case by a rule; return the virtual seconds until the last result."""
    return Caller(case, durations, make(case.workers, case.calls)).run()
