"""``shoal top``: the runs of this user's programs, and what each worker process does.

::

    programs ──> runs, workers ──> two samples of the CPU time ──> lines, or JSON
       ^                                                            │
       └──────────── every interval, on a terminal ─────────────────┘
"""

from __future__ import annotations

import shutil
import sys
import time
from argparse import Namespace
from typing import Any

from shoal._files import format_size
from shoal.cli._programs import Program, Usage, programs, reason_against, usage_of
from shoal.cli._text import DONE, FAILED, complain, count, duration, say, say_json, table_lines
from shoal.errors import printable
from shoal.parallel.transport._published import PublishedRun, PublishedWorker

#: The seconds between the two samples of the CPU time, if only one table is shown.
_SAMPLE_SECONDS = 0.1
#: Clears a terminal.
_CLEAR = "\x1b[H\x1b[2J"

#: The CPU time of each worker, and when it was read.
Samples = dict[int, tuple[float, float]]


def main(given: Namespace) -> int:
    """Show the runs, once or until Ctrl-C."""
    if reason := reason_against(given.pid):
        complain(reason)
        return FAILED
    samples = _samples(programs(given.pid))
    time.sleep(_SAMPLE_SECONDS)
    if given.json or given.once or not sys.stdout.isatty():
        runs = _runs(given.pid, samples)
        if given.json:
            say_json(runs)
        else:
            say("\n".join(_lines(runs, given.pid)))
        return DONE
    while not reason_against(given.pid):  # the program may end
        width, height = shutil.get_terminal_size()
        lines = [line[:width] for line in _lines(_runs(given.pid, samples), given.pid)]
        say(_CLEAR + "\n".join(lines[: max(height - 1, 1)]))
        sys.stdout.flush()
        time.sleep(given.interval)
    return DONE


def _samples(found: list[Program]) -> Samples:
    now = time.perf_counter()
    pids = [program.pids.get(worker.pid) for program in found for run in program.runs for worker in run.workers]
    usages = [(pid, usage_of(pid)) for pid in pids if pid is not None]
    return {pid: (usage.cpu, now) for pid, usage in usages if usage is not None}


def _runs(pid: int | None, samples: Samples) -> list[dict[str, Any]]:
    """Return the runs as they are shown as JSON. Replace the samples by those of now."""
    found = programs(pid)
    now = time.perf_counter()
    runs = [_run(program, run, now, samples) for program in found for run in program.runs]
    new = _samples(found)
    samples.clear()
    samples.update(new)
    return runs


def _run(program: Program, run: PublishedRun, now: float, samples: Samples) -> dict[str, Any]:
    seconds = max(now - run.began, 1e-9)
    rate = run.done / seconds
    left = None if run.total is None else max(run.total - run.done, 0)
    return {
        "pid": program.pid,
        "argv": program.argv,
        "backend": run.backend,
        "n_workers": run.n_workers,
        "done": run.done,
        "total": run.total,
        "left": left,
        "calls_per_second": rate,
        "seconds_left": left / rate if left is not None and rate else None,
        "seconds": seconds,
        "began": time.time() - seconds,
        "workers": [_worker(program, worker, now, samples) for worker in run.workers],
    }


def _worker(program: Program, worker: PublishedWorker, now: float, samples: Samples) -> dict[str, Any]:
    pid = program.pids.get(worker.pid)
    usage: Usage | None = None if pid is None else usage_of(pid)
    before = None if pid is None else samples.get(pid)
    cpu = None
    if usage is not None and before is not None:
        cpu = max(usage.cpu - before[0], 0.0) / max(time.perf_counter() - before[1], 1e-9)
    return {
        "pid": pid,
        "call": worker.call,
        "batch": worker.batch,
        "function": worker.function,
        "several_functions": worker.several,
        "seconds": None if worker.call is worker.batch is None else max(now - worker.since, 0.0),
        "rss_bytes": None if usage is None else usage.rss,
        "private_bytes": None if usage is None else usage.private,
        "cpu": cpu,
    }


def doing(worker: dict[str, Any]) -> str:
    """Return the words for what a worker does."""
    if worker["call"] is not None:
        return f"call {worker['call']}"
    return "starts" if worker["batch"] is None else "between calls"


def named(worker: dict[str, Any]) -> str:
    """Return the name of the function that a worker runs. Where a batch has several, it is the first of the batch."""
    if worker["function"] is None:
        return ""
    return f"{worker['function']}, ..." if worker["several_functions"] else str(worker["function"])


def _lines(runs: list[dict[str, Any]], pid: int | None) -> list[str]:
    if not runs:
        return [f"process {pid} has no run on worker processes" if pid is not None else "no runs on worker processes"]
    lines: list[str] = []
    program = None
    for run in runs:
        if run["pid"] != program:
            program = run["pid"]
            lines += [""] if lines else []
            lines.append(printable(f"{program}  {' '.join(run['argv'])}"))
        lines.append(f"  {_summary(run)}")
        rows = [_row(worker) for worker in sorted(run["workers"], key=lambda worker: worker["pid"] or 0)]
        header = ("PID", "DOES", "FUNCTION", "FOR", "RSS", "PRIVATE", "CPU")
        lines += [f"    {line}" for line in table_lines(header, rows, numbers=(0, 3, 4, 5, 6))]
    return lines


def _summary(run: dict[str, Any]) -> str:
    of = "" if run["total"] is None else f" of {run['total']:,}"
    parts = [
        printable(run["backend"]),
        count(run["n_workers"], "worker"),
        f"{run['done']:,}{of} calls done in {duration(run['seconds'])}",
        f"{run['calls_per_second']:,.3g} per second",
    ]
    if run["seconds_left"] is not None:
        parts.append(f"{duration(run['seconds_left'])} left")
    return ", ".join(parts)


def _row(worker: dict[str, Any]) -> tuple[str, ...]:
    sizes = ["" if worker[name] is None else format_size(worker[name]) for name in ("rss_bytes", "private_bytes")]
    return (
        "" if worker["pid"] is None else str(worker["pid"]),
        doing(worker),
        named(worker),
        "" if worker["seconds"] is None else duration(worker["seconds"]),
        *sizes,
        "" if worker["cpu"] is None else f"{worker['cpu']:.0%}",
    )


def workers_by_pid(pid: int) -> dict[int, dict[str, Any]]:
    """Return what the workers of a program do, by their process ids."""
    return {worker["pid"]: worker for run in _runs(pid, {}) for worker in run["workers"] if worker["pid"] is not None}
