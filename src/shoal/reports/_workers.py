"""The workers of one run, as its caller knows them from their replies."""

from __future__ import annotations

from array import array
from typing import Any

from shoal.reports._batch_meter import Measured
from shoal.reports._timeline import BATCH_COLUMNS, SLICE_COLUMNS, Timeline

#: The number of worker processes that have a row of their own, beside the first of each worker.
MOST_ROWS = 200

#: Tells the workers of a run apart: slot, host, process and thread; for threads of the caller, the index alone.
WorkerKey = tuple[Any, ...]


class WorkerLine:
    """One worker of a run: its sums, and what it did when.

    Attributes
    ----------
    worker
        Its index.
    line
        What it did when.
    values
        The fields of ``workers`` in docs/report-schema.md. ``waiting`` is not known before the end.
    since, until
        The time from which it could run calls, and when it had ended its last batch.
    """

    def __init__(self, worker: int, pid: int, host: str, since: float, rows: int) -> None:
        self.worker = worker
        self.line: Timeline = Timeline(rows)
        self.since: float = since
        self.until: float = since
        self.gone = False
        self.values: dict[str, Any] = {
            "worker": worker,
            "pid": pid,
            "host": host,
            "calls": 0,
            "batches": 0,
            "starting": None,
            "waiting": 0.0,
            "decoding": 0.0,
            "running": 0.0,
            "encoding": 0.0,
            "cpu": None,
            "queued": None,
            "peak_memory": None,
            "switches": None,
            "waits": None,
            "threads": None,
            "imports": {"modules": 0, "seconds": 0.0},
        }

    def add_up(self, sums: dict[str, float | None]) -> None:
        """Add to fields; None is no value."""
        for name, value in sums.items():
            if value is not None:
                self.values[name] = (self.values[name] or 0) + value

    def ran(self, began: float, ended: float, index: int) -> None:
        """Add a call that did not travel."""
        self.values["calls"] += 1
        self.values["running"] += ended - began
        self.until = ended
        self.line.add_call(began, ended, index)

    def measured(self, found: Measured, shift: float, durations: array[float], travel: dict[str, float]) -> None:
        """Add a batch.

        Parameters
        ----------
        found, durations
            What the worker has measured, and the durations of the calls.
        shift
            The seconds to add to its times.
        travel
            The columns of the batch that the caller has measured.
        """
        received = max(found.received + shift, self.until)
        began, ended = max(found.began + shift, received), max(found.ended + shift, received)
        called = min(max(found.called + shift, began), ended)
        values, decode, run, encode = self.values, began - received, called - began, ended - called
        sums = {"calls": len(durations), "batches": 1, "decoding": decode, "running": run, "encoding": encode}
        self.add_up({**sums, "cpu": found.cpu, "switches": found.switches})
        for name, most in (("peak_memory", found.memory), ("threads", found.threads)):
            if most is not None:
                values[name] = max(values[name] or 0, most)
        values["imports"]["modules"] += found.modules
        values["imports"]["seconds"] += found.import_seconds
        row = {"start": received, "end": ended, "batches": 1, "first": found.start}
        row |= {"calls": len(durations), "decode": decode, "run": run, "encode": encode, **travel}
        self.until = ended
        self.line.add_batch(row, began, durations)


class Workers:
    """The workers of a run.

    Parameters
    ----------
    n_workers
        The number of workers.
    start
        When the run began.
    rows
        The number of rows that all timelines together may have.
    """

    def __init__(self, n_workers: int, start: float, rows: int) -> None:
        self._n_workers, self._start, self._rows = n_workers, start, rows
        self.lines: dict[WorkerKey, WorkerLine] = {}
        self._latest: dict[int, WorkerLine] = {}
        self._lost: dict[int, float] = {}  # when the process of a worker was lost

    def of_reply(self, key: WorkerKey, found: Measured, shift: float) -> WorkerLine:
        """Return the worker that has measured a batch.

        Parameters
        ----------
        key
            The worker. Its slot is None if a slot has several workers.
        """
        line = self.lines.get(key)
        if line is None:
            slot = key[0]
            index = len(self._latest) if slot is None else slot
            received = found.received + shift
            since = self._lost.pop(index, self._start)
            fresh = found.before == 0 and received > since
            line = self._new(key, index, found.pid, found.host, received if fresh else since)
            if fresh:
                line.add_up({"starting": received - since})  # the line may have the processes before it as well
        return line

    def of_thread(self, index: int, pid: int, host: str) -> WorkerLine:
        """Return the worker that is a thread of the caller."""
        line = self.lines.get((index,))
        return self._new((index,), index, pid, host, self._start) if line is None else line

    def lose(self, slot: int, now: float, busy: float) -> None:
        """Take note that the process of a worker is gone.

        Parameters
        ----------
        slot, now
            The index of the worker, and the present time.
        busy
            How long the process had been busy with its last call, in seconds.
        """
        if slot in self._lost:  # no batch of this process has returned, so its start counts as that of the next one
            self._lost[slot] = min(self._lost[slot] + busy, now)
        else:
            self._lost[slot] = now
        if slot in self._latest:
            self._latest[slot].gone = True

    def present(self, slot: int) -> WorkerLine | None:
        """Return the present process of a worker; None if no batch of it has returned."""
        line = self._latest.get(slot)
        return None if line is None or line.gone else line

    def _new(self, key: WorkerKey, index: int, pid: int, host: str, since: float) -> WorkerLine:
        if index in self._latest and len(self.lines) >= self._n_workers + MOST_ROWS:
            line = self.lines[key] = self._latest[index]
            line.gone = False
            return line
        rows = max(4, self._rows // max(self._n_workers, len(self.lines) + 1))
        line = self.lines[key] = self._latest[index] = WorkerLine(index, pid, host, since, rows)
        return line

    def tables(self, end: float) -> dict[str, Any]:
        """Return ``workers``, ``batches`` and ``slices``.

        Parameters
        ----------
        end
            The end of the run, until which workers wait.
        """
        lines = self._sorted()
        batches: dict[str, list[Any]] = {name: [] for name in ("worker", *BATCH_COLUMNS)}
        slices: dict[str, list[Any]] = {name: [] for name in ("worker", "batch", *SLICE_COLUMNS)}
        rows = []
        most = max(4, self._rows // max(len(lines), 1))
        for number, line in enumerate(lines):
            line.line.limit(most)
            values = dict(line.values, imports=dict(line.values["imports"]))
            busy = values["decoding"] + values["running"] + values["encoding"]
            values["waiting"] = max((line.until if line.gone else end) - line.since - busy, 0.0)
            rows.append(values)
            own, parts = line.line.rows()
            before = len(batches["worker"])
            for row in own:
                batches["worker"].append(number)
                for name in BATCH_COLUMNS:
                    batches[name].append(row[name])
            for part in parts:
                slices["worker"].append(number)
                slices["batch"].append(-1 if part["batch"] < 0 else before + part["batch"])
                for name in SLICE_COLUMNS:
                    slices[name].append(part[name])
        return {"workers": rows, "batches": batches, "slices": slices}

    def order(self) -> dict[WorkerLine, int]:
        """Return the row of each worker in ``workers``."""
        return {line: number for number, line in enumerate(self._sorted())}

    def _sorted(self) -> list[WorkerLine]:
        return sorted(dict.fromkeys(self.lines.values()), key=lambda line: (line.worker, line.since))
