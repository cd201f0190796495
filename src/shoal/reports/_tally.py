"""The sums of one run, and its events."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from shoal.errors import TaskTimeout
from shoal.reports._shown import shown_error
from shoal.reports._workers import WorkerLine

#: The number of events that are kept.
MOST_EVENTS = 200

#: The kinds of events, and where they are counted.
_COUNTED = {"retry": "retries", "failure": "failures", "death": "deaths", "timeout": "timeouts", "replaced": "replaced"}


class Tally:
    """The sums of one run.

    Parameters
    ----------
    total
        The number of calls, if it is known.

    Attributes
    ----------
    start, end
        When the run began and ended, by ``perf_counter``; None before the end.
    counts
        ``done``, ``batches`` and the other numbers of ``counts`` in docs/report-schema.md.
    seconds
        How long the run read its ``input``, waited for its ``consumer``, was ``sending``, took ``results``, and called
        its ``listeners``.
    nbytes
        The bytes that were ``sent`` and that ``returned``.
    system
        ``cpu``, the CPU time of the calls; ``swapped_in`` and ``limit_events``.

    Notes
    -----
    Not thread-safe: the meter holds its lock. Only the seconds of the input, of sending and of the listeners belong to
    the threads that read the input and that own the run.
    """

    def __init__(self, total: int | None) -> None:
        self.total = total
        self.start: float = time.perf_counter()
        self.end: float | None = None
        self.function: str | None = None
        self.counts: Counter[str] = Counter()
        self.seconds: dict[str, float] = dict.fromkeys(("input", "consumer", "sending", "results", "listeners"), 0.0)
        self.nbytes: dict[str, int] = {"sent": 0, "returned": 0}
        self.system: dict[str, Any] = dict.fromkeys(("cpu", "swapped_in", "limit_events"))
        self._outcome: tuple[str, str | None] = ("running", None)
        self._events: list[tuple[float, str, int | None, WorkerLine | None, str]] = []
        self._full_since: float | None = None

    def batch(self, calls: int, cpu: float, travel: dict[str, float]) -> None:
        """Add a batch that has returned."""
        self.counts["batches"] += 1
        self.counts["done"] += calls
        self.system["cpu"] = (self.system["cpu"] or 0.0) + cpu
        self.seconds["results"] += travel["unpickle"]
        self.nbytes["sent"] += int(travel["sent"])
        self.nbytes["returned"] += int(travel["returned"])

    def full(self, full: bool) -> None:
        """Take note whether workers wait until results are consumed."""
        if full and self._full_since is None:
            self._full_since = time.perf_counter()
        elif not full and self._full_since is not None:
            self.seconds["consumer"] += time.perf_counter() - self._full_since
            self._full_since = None

    def event(self, kind: str, call: int | None, line: WorkerLine | None, text: str) -> None:
        """Count an event, and keep the first ones."""
        self.counts[_COUNTED[kind]] += 1
        if len(self._events) < MOST_EVENTS:
            self._events.append((time.perf_counter(), kind, call, line, text))

    def failed(self, index: int, error: BaseException, retried: bool) -> None:
        """Count a call that failed."""
        self.event("failure", index, None, shown_error(error))
        if isinstance(error, TaskTimeout):
            self.event("timeout", index, None, shown_error(error))
        if retried:
            self.event("retry", index, None, shown_error(error))

    def finish(self, error: BaseException | None, stopped: bool) -> None:
        """End the run."""
        self.full(False)
        self.end = time.perf_counter()
        if error is not None and not isinstance(error, GeneratorExit):
            self._outcome = "failed", shown_error(error)
        else:
            self._outcome = "stopped" if stopped or error is not None else "done", None

    def speedup(self, n_workers: int, end: float, calls: dict[str, Any]) -> dict[str, Any]:
        """Return the object ``speedup`` of docs/report-schema.md."""
        serial, elapsed, number = calls["seconds"], end - self.start, self.counts["done"]
        sending = self.seconds["sending"] + self.seconds["results"]
        return {
            "serial": serial,
            "elapsed": elapsed,
            "speedup": serial / elapsed if elapsed > 0 else 0.0,
            "ceilings": {
                "workers": n_workers,
                "calls": number / -(-number // n_workers) if number else None,
                "longest_call": serial / calls["longest"] if calls["longest"] else None,
                "input": serial / self.seconds["input"] if self.seconds["input"] > 0 else None,
                "sending": serial / sending if sending > 0 else None,
            },
        }

    def to_dict(self, end: float, rows: dict[WorkerLine, int]) -> dict[str, Any]:
        """Return fields of a run, as docs/report-schema.md describes them.

        Parameters
        ----------
        end
            The end of the run, or the present time.
        rows
            The row of each worker.
        """
        counted = ("batches", *_COUNTED.values(), "cache_hits")
        sent, returned = self.nbytes["sent"] or None, self.nbytes["returned"] or None
        return {
            "start": self.start,
            "end": end,
            "outcome": self._outcome[0],
            "error": self._outcome[1],
            "counts": {name: self.counts[name] for name in counted},
            "sending": {"bytes": sent, "seconds": self.seconds["sending"]},
            "results": {"bytes": returned, "seconds": self.seconds["results"]},
            "input": {"seconds": self.seconds["input"]},
            "consumer": {"seconds": self.seconds["consumer"]},
            "listeners": {"seconds": self.seconds["listeners"]},
            "events": [
                {"time": time, "kind": kind, "call": call, "worker": None if line is None else rows[line], "text": text}
                for time, kind, call, line, text in self._events
            ],
            "memory": {
                "replaced": self.counts["memory"],
                **{name: self.system[name] for name in ("swapped_in", "limit_events")},
            },
        }
