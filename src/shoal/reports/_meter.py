"""Measures one run, in the process that made it.

::

    the thread of the run ── reading, encoded, received, lost, ... ──┐
    its listener ── CallFailed, InputExhausted, RunFinished ─────────┼──> Meter ── to_dict ──> a run of the schema
    threads that run calls ── ran ───────────────────────────────────┘
"""

from __future__ import annotations

import heapq
import itertools
import os
import socket
import threading
import time
from array import array
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from shoal.reports._arguments import Arguments
from shoal.reports._batch_meter import FLOAT_BYTES, Measured
from shoal.reports._calls import SLOWEST, SlowCall, name_of
from shoal.reports._collector import Collector
from shoal.reports._durations import Durations
from shoal.reports._system import ThreadUse, out_of_memory, swapped_in
from shoal.reports._tally import Tally
from shoal.reports._workers import WorkerKey, Workers

#: So many batches, or calls, are received before their times are sorted into lines and bins, which takes some 3 us per
#: call. Most runs have fewer, and are sorted when somebody looks at the report.
_MOST_PENDING = 512
_MOST_PENDING_CALLS = 8192

_numbers = itertools.count(1)


class About(NamedTuple):
    """What is known of a run before it begins.

    Attributes
    ----------
    backend, in_process, n_workers
        As in docs/report-schema.md.
    settings
        The name, the value as text, and the origin of each argument.
    parent
        The run in whose call it is made; None if there is none, or if it is in another process.
    total
        The number of calls, if it is known.
    """

    backend: str
    in_process: bool
    n_workers: int
    settings: list[tuple[str, str, str]]
    parent: str | None
    total: int | None


class Meter:
    """Measures one run.

    Parameters
    ----------
    about
        The run.
    collectors
        Those that receive what was measured.

    Attributes
    ----------
    id
        Identifies the run.
    slow_above
        The duration, in seconds, of the shortest of the slowest calls so far.

    Notes
    -----
    Thread-safe.
    """

    def __init__(self, about: About, collectors: tuple[Collector, ...]) -> None:
        self.about: About = about
        self.collectors: tuple[Collector, ...] = collectors
        self.id: str = f"{os.getpid()}-{next(_numbers)}"
        self.slow_above: float = 0.0
        self.tally: Tally = Tally(about.total)
        self._lock = threading.Lock()
        self._workers = Workers(about.n_workers, self.tally.start, max(collector.rows for collector in collectors))
        self._durations = Durations()
        # A heap by seconds. The number prevents comparing calls that took equally long.
        self._slowest: list[tuple[float, int, SlowCall, WorkerKey]] = []
        self._slow_calls = itertools.count()
        self._arguments: Arguments | None = None
        self._argument_rows: list[dict[str, Any]] = []
        self._pending: list[tuple[WorkerKey, Measured, float, dict[str, float], int]] = []
        self._pending_calls = 0
        self._process = (time.process_time(), swapped_in(), out_of_memory())
        self._host = socket.gethostname()  # platform.node() asks WMI on Windows, which is slow and may hang

    def begin(self) -> None:
        """Tell the collectors that the run begins."""
        for collector in self.collectors:
            collector.began(self)

    def reading(self, calls: Iterable[Any]) -> Iterable[Any]:
        """Return the caller's calls, and measure how long its iterator takes."""
        return calls if isinstance(calls, (list, tuple)) else self._reading(calls)

    def _reading(self, calls: Iterable[Any]) -> Iterator[Any]:
        clock, seconds = time.perf_counter, self.tally.seconds
        began = clock()
        for call in calls:
            seconds["input"] += clock() - began
            yield call
            began = clock()
        seconds["input"] += clock() - began

    def named(self, function: Any) -> None:
        """Take the name of the function of the first call."""
        if self.tally.function is None:
            self.tally.function = name_of(function)

    def sample(self, arguments: Arguments) -> None:
        """Have `arguments` sample the calls that travel."""
        self._arguments = arguments

    def encoded(
        self, functions: Any, args: list[tuple[Any, ...]], kwargs: list[dict[str, Any]] | None, seconds: float
    ) -> None:
        """Add the time for which a batch was pickled; in the thread of the run.

        Parameters
        ----------
        functions, args, kwargs
            Those of :class:`~shoal.parallel._batch.Batch`.
        seconds
            How long that took.
        """
        self.tally.seconds["sending"] += seconds
        if self._arguments is not None and args:
            self._arguments.see(functions, args, kwargs)

    def listened(self, seconds: float) -> None:
        """Add the time that functions of the user took which listen to the run; in the thread of the run."""
        self.tally.seconds["listeners"] += seconds

    def received(self, slot: int | None, found: Measured, travel: dict[str, float], known: int) -> None:
        """Add a batch.

        Parameters
        ----------
        slot
            The index of its slot; None if the slot has several workers.
        found
            What the worker has measured.
        travel
            The columns ``sent``, ``returned``, ``pickle`` and ``unpickle`` of ``batches``.
        known
            The number of calls whose results ``memory=`` had.
        """
        shift, key = self._shift(found), (slot, found.host, found.pid, found.thread)
        with self._lock:
            for fields in found.slow:
                call = SlowCall(*fields)
                self._add_slow(call._replace(start=call.start + shift), key)
            self._pending.append((key, found._replace(slow=(), nested=()), shift, travel, known))
            self._pending_calls += len(found.durations) // FLOAT_BYTES
            if len(self._pending) >= _MOST_PENDING or self._pending_calls >= _MOST_PENDING_CALLS:
                self._fold()
        if found.nested or found.omitted:
            runs = [moved(run, shift) for run in found.nested]
            for run in runs:
                run["parent"] = run["parent"] or self.id
            for collector in self.collectors:
                collector.add(runs, found.omitted)

    def _fold(self) -> None:
        """Add up the batches that were received."""
        pending, self._pending, self._pending_calls = self._pending, [], 0
        for key, found, shift, travel, known in pending:
            durations = array("f", found.durations)
            line = self._workers.of_reply(key, found, shift)
            self.tally.batch(len(durations), found.cpu, travel)
            self.tally.counts["cache_hits"] += known
            line.measured(found, shift, durations, travel)
            self._durations.add(durations)

    def _shift(self, found: Measured) -> float:
        """Return the seconds to add to the times of a worker: 0 on this machine, since they share a clock."""
        return 0.0 if found.host == self._host else found.clock - (time.time() - time.perf_counter())

    def ran(self, worker: int, index: int, began: float, ended: float, slow: SlowCall | None, known: bool) -> None:
        """Add a call that ran in this process.

        Parameters
        ----------
        worker, index
            The indices of the worker and of the call.
        began, ended
            By ``perf_counter``.
        slow
            Its description, if it took longer than :attr:`slow_above`.
        known
            Whether ``memory=`` had its result.
        """
        with self._lock:
            line = self._workers.of_thread(worker, os.getpid(), self._host)
            line.ran(began, ended, index)
            counts = self.tally.counts
            counts["done"] += 1
            if known:
                counts["cache_hits"] += 1
            self._durations.add_one(ended - began)
            if slow is not None:
                self._add_slow(slow, (worker,))

    def thread_ended(self, worker: int, used: ThreadUse) -> None:
        """Add the resources that a thread has used, which ran calls; in any thread."""
        with self._lock:
            line = self._workers.of_thread(worker, os.getpid(), self._host)
            line.add_up({"cpu": used.cpu, "queued": used.queued, "switches": used.switches, "waits": used.waits})
            self.tally.system["cpu"] = (self.tally.system["cpu"] or 0.0) + used.cpu

    def lost(self, slot: int | None, kind: str, text: str, memory: bool = False, busy: float = 0.0) -> None:
        """Take note that a worker process is gone.

        Parameters
        ----------
        slot, kind, text
            The index of its slot, None if the slot has several workers; the kind of the event, ``"death"`` or
            ``"replaced"``; and its text. The kind is empty if the event belongs to a call.
        memory
            Whether the limit was one of memory.
        busy
            How long it had been busy with its last call, in seconds.
        """
        with self._lock:
            self._fold()  # the next batch of this slot comes from another process
            self.tally.counts["memory"] += memory
            if kind:
                self.tally.event(kind, None, None if slot is None else self._workers.present(slot), text)
            if slot is not None:
                self._workers.lose(slot, time.perf_counter(), busy)

    def full(self, full: bool) -> None:
        """Take note whether workers wait until results are consumed."""
        with self._lock:
            self.tally.full(full)

    def failed(self, index: int, error: BaseException, retried: bool) -> None:
        """Take note of a call that failed."""
        with self._lock:
            self.tally.failed(index, error, retried)

    def finish(self, error: BaseException | None, stopped: bool) -> None:
        """End the run, and tell the collectors."""
        with self._lock:
            tally = self.tally
            tally.finish(error, stopped)
            cpu, swapped, killed = self._process
            if self.about.in_process and tally.system["cpu"] is None:
                tally.system["cpu"] = time.process_time() - cpu
            tally.system["swapped_in"] = _grown(swapped, swapped_in())
            tally.system["limit_events"] = _grown(killed, out_of_memory())
            if self._arguments is not None:
                self._argument_rows = self._arguments.to_list()
                self._arguments = None  # it refers to the plan of the run, and so to its objects
        for collector in self.collectors:
            collector.ended(self)

    @property
    def ended(self) -> bool:
        """Whether the run has ended."""
        return self.tally.end is not None

    def _add_slow(self, call: SlowCall, worker: WorkerKey) -> None:
        entry = (call.seconds, next(self._slow_calls), call, worker)
        if len(self._slowest) < SLOWEST:
            heapq.heappush(self._slowest, entry)
        else:
            heapq.heappushpop(self._slowest, entry)
            self.slow_above = self._slowest[0][0]

    def to_dict(self) -> dict[str, Any]:
        """Return the run as docs/report-schema.md describes it, but for its times, which are by ``perf_counter``."""
        with self._lock:
            self._fold()
            about, tally = self.about, self.tally
            end = tally.end if tally.end is not None else time.perf_counter()
            tables = self._workers.tables(end)
            rows = self._workers.order()
            calls = self._durations.summary()
            return {
                "id": self.id,
                "parent": about.parent,
                "pid": os.getpid(),
                "host": self._host,
                "function": tally.function or "?",
                "backend": about.backend,
                "in_process": about.in_process,
                "n_workers": about.n_workers,
                **tally.to_dict(end, rows),
                "settings": [dict(zip(("name", "value", "origin"), row, strict=True)) for row in about.settings],
                "calls": {
                    "total": tally.total,
                    "done": tally.counts["done"],
                    "cpu": tally.system["cpu"],
                    **calls,
                },
                "speedup": tally.speedup(about.n_workers, end, calls),
                "histogram": self._durations.histogram(),
                **tables,
                "arguments": self._argument_rows if self._arguments is None else self._arguments.to_list(),
                "slowest": [
                    {
                        "call": call.call,
                        "function": call.function,
                        "arguments": call.arguments,
                        "worker": rows[self._workers.lines[worker]],
                        "start": call.start,
                        "seconds": call.seconds,
                        "cpu": call.cpu,
                    }
                    for _, _, call, worker in sorted(self._slowest, reverse=True)
                ],
            }


def moved(run: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Return a run whose times are later by `seconds`."""

    def later(rows: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
        return [{**row, name: row[name] + seconds} for row in rows]

    def columns(table: dict[str, list[Any]]) -> dict[str, list[Any]]:
        times = {name: [time + seconds for time in table[name]] for name in ("start", "end")}
        return {**table, **times}

    return {
        **run,
        "start": run["start"] + seconds,
        "end": run["end"] + seconds,
        "batches": columns(run["batches"]),
        "slices": columns(run["slices"]),
        "slowest": later(run["slowest"], "start"),
        "events": later(run["events"], "time"),
    }


def _grown(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None else max(after - before, 0)
