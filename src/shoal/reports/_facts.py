"""What the faults of a run are looked for in, and what is found."""

from __future__ import annotations

from typing import Any, NamedTuple

#: The part of the workers' time that a fault must have cost.
LEAST = 0.15


class Finding(NamedTuple):
    """A fault of a run.

    Attributes
    ----------
    cause, remedy
        Sentences.
    cost
        About how many seconds of workers it has cost.
    figures
        The figures of the sentences.
    """

    cause: str
    remedy: str
    cost: float
    figures: dict[str, Any]


class Facts:
    """The figures of one run on which several faults depend.

    Attributes
    ----------
    run
        The run.
    cpus, gil
        The number of CPUs, and whether the interpreter of the caller has a global lock.
    n, elapsed, busy, done
        The number of workers, the seconds of the run and of its calls, and the number of calls that ran.
    total
        The seconds of all workers together.
    tail
        How long workers had nothing left to run at the end, together.
    """

    def __init__(self, run: dict[str, Any], cpus: int, gil: bool) -> None:
        self.run, self.cpus, self.gil = run, cpus, gil
        self.n: int = run["n_workers"]
        self.elapsed: float = run["speedup"]["elapsed"]
        self.busy: float = run["calls"]["seconds"]
        self.done: int = run["calls"]["done"]
        self.total = self.n * self.elapsed
        ends: dict[int, float] = {}
        for row, end in zip(run["slices"]["worker"], run["slices"]["end"], strict=True):
            worker = run["workers"][row]["worker"]
            ends[worker] = max(ends.get(worker, 0.0), end)
        last = max(ends.values(), default=run["end"])
        self.tail = sum(last - end for end in ends.values()) + (self.n - min(len(ends), self.n)) * self.elapsed

    def sum_of(self, name: str) -> float:
        """Return the sum of a field of the workers."""
        return float(sum(worker[name] or 0.0 for worker in self.run["workers"]))

    @property
    def listening(self) -> float:
        """How long the run waited for its listeners; 0 in reports of earlier versions, which did not measure it."""
        return float(self.run.get("listeners", {"seconds": 0.0})["seconds"])

    @property
    def restarting(self) -> float:
        """How long workers started that took the places of others."""
        seen: set[int] = set()
        spent = 0.0
        for worker in self.run["workers"]:  # those with the same index follow each other
            spent += (worker["starting"] or 0.0) if worker["worker"] in seen else 0.0
            seen.add(worker["worker"])
        return spent

    @property
    def imports(self) -> float:
        """How long workers imported modules."""
        return float(sum(worker["imports"]["seconds"] for worker in self.run["workers"]))
