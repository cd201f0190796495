"""Work stealing: each worker gets an even share; one that has nothing left steals half of what another has left.

The thief asks the worker that seems to have the most calls left, by the mean time of a call, which is more than a real
thief knows. It asks the caller for nothing, so it shows what is lost because the caller hands out all calls. It cannot
begin before all calls are made.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np

from ._world import BYTES_PER_SECOND, ENCODE, MAKE, PICKLE, RECEIVE, SEND, UNPICKLE, Case, Machine, World


def by_stealing(case: Case, durations: Sequence[float]) -> float | None:
    """Simulate a case; return the virtual seconds until the last result. None where workers die or leave."""
    if case.deaths or case.absent:
        return None
    n, workers = case.calls, case.workers
    slowness = np.array(Machine(World(), case).slowness)
    before = np.concatenate(([0.0], np.cumsum(durations)))  # the seconds of the calls before each
    low = np.arange(workers) * n // workers
    high = np.arange(1, workers + 1) * n // workers
    # Each worker begins its share when the caller has sent it: a clock at which it would have begun call `low`.
    made = n * (MAKE + case.gap)
    sending = ENCODE + SEND + (high - low) * (PICKLE + case.nbytes / BYTES_PER_SECOND)
    begun = made + np.cumsum(sending) + case.latency
    ends = begun + (before[high] - before[low]) * slowness
    thieves = [(end, worker) for worker, end in enumerate(ends)]
    heapq.heapify(thieves)
    empty = np.zeros(workers, bool)
    while thieves:
        now, thief = heapq.heappop(thieves)
        if now < ends[thief]:  # it has stolen meanwhile: another entry counts
            continue
        arrives = now + 2 * case.latency
        empty[thief] = True
        left = high - low - (arrives - begun) / (case.mean * slowness)
        left[empty] = -np.inf
        victim = int(left.argmax())
        if empty[victim]:
            break
        # The calls that the victim has not begun when it is asked.
        done = before[low[victim]] + (arrives - begun[victim]) / slowness[victim]
        first = min(max(int(np.searchsorted(before, done, side="left")), int(low[victim])), int(high[victim]))
        cut = first + (int(high[victim]) - first) // 2
        if cut == high[victim]:
            empty[victim] = True
            heapq.heappush(thieves, (arrives, thief))
            continue
        low[thief], high[thief], begun[thief] = cut, high[victim], arrives
        high[victim] = cut
        ends[thief] = arrives + (before[high[thief]] - before[cut]) * slowness[thief]
        ends[victim] = begun[victim] + (before[cut] - before[low[victim]]) * slowness[victim]
        heapq.heappush(thieves, (ends[thief], thief))
        heapq.heappush(thieves, (ends[victim], victim))
        empty[thief] = False
    return float(ends.max()) + case.latency + RECEIVE + UNPICKLE * n / workers
