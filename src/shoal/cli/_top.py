"""``shoal top``: the runs of this user's programs, and what each worker does.

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

from shoal._sizes import format_duration, format_size
from shoal.cli._programs import Program, Usage, cpu_of_thread, programs, reason_against, usage_of
from shoal.cli._text import DONE, FAILED, complain, count, say, say_json, table_lines
from shoal.errors import printable
from shoal.parallel.transport._published import PublishedRun, PublishedWorker

#: The seconds between the two samples of the CPU time, if only one table is shown.
_SAMPLE_SECONDS = 0.1
#: Clears a terminal.
_CLEAR = "\x1b[H\x1b[2J"

#: The CPU time of each worker, and when it was read, by the id of its process or thread.
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
    samples: Samples = {}
    for program in found:
        for run in program.runs:
            for worker in run.workers:
                number, cpu = _number(program, run, worker), _cpu(program, run, worker)
                if number is not None and cpu is not None:
                    samples[number] = cpu, time.perf_counter()
    return samples


def _number(program: Program, run: PublishedRun, worker: PublishedWorker) -> int | None:
    """Return the id of a worker's process or thread; None if it is not there. No process has the id of a thread."""
    return (program.threads if run.kind == "threads" else program.pids).get(worker.pid)


def _cpu(program: Program, run: PublishedRun, worker: PublishedWorker) -> float | None:
    """Return the CPU time of a worker, in seconds; None if it is not there."""
    number = _number(program, run, worker)
    if number is None:
        return None
    if run.kind == "threads":
        return cpu_of_thread(program.pid, number)
    usage = usage_of(number)
    return None if usage is None else usage.cpu


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
    usage = usage_of(program.pid)
    return {
        "pid": program.pid,
        "argv": program.argv,
        "rss_bytes": None if usage is None else usage.rss,
        "backend": run.backend,
        "n_workers": run.n_workers,
        "done": run.done,
        "total": run.total,
        "left": left,
        "calls_per_second": rate,
        "seconds_left": left / rate if left is not None and rate else None,
        "seconds": seconds,
        "began": time.time() - seconds,
        "kind": run.kind,
        "workers": [_worker(program, run, worker, now, samples) for worker in run.workers],
    }


def _worker(
    program: Program, run: PublishedRun, worker: PublishedWorker, now: float, samples: Samples
) -> dict[str, Any]:
    number, threads = _number(program, run, worker), run.kind == "threads"
    usage: Usage | None = None if threads or number is None else usage_of(number)
    cpu = None if number is None else _cpu(program, run, worker)
    before = None if number is None else samples.get(number)
    if cpu is not None:
        cpu = None if before is None else max(cpu - before[0], 0.0) / max(time.perf_counter() - before[1], 1e-9)
    return {
        "pid": program.pid if threads else number,
        "thread": number if threads else None,
        "call": worker.call,
        "batch": worker.batch,
        "n_calls": worker.n_calls,
        "function": worker.function,
        "several_functions": worker.several,
        "seconds": None if worker.call is worker.batch is None else max(now - worker.since, 0.0),
        "rss_bytes": None if usage is None else usage.rss,
        "private_bytes": None if usage is None else usage.private,
        "cpu": cpu,
    }


def _calls(task: dict[str, Any]) -> str:
    """Return the words for the calls of a task."""
    if task["call"] is not None:
        return doing(task)
    return f"calls {task['batch']} to {task['batch'] + task['n_calls'] - 1}"


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
        return [f"process {pid} has no run on several workers" if pid is not None else "no runs on several workers"]
    lines: list[str] = []
    program = None
    for run in runs:
        if run["pid"] != program:
            program = run["pid"]
            lines += [""] if lines else []
            lines.append(printable(f"{program}  {' '.join(run['argv'])}"))
        lines.append(f"  {_summary(run)}")
        if run["workers"]:
            lines += [f"    {line}" for line in _table(run)]
    return lines


def _table(run: dict[str, Any]) -> list[str]:
    if run["kind"] == "tasks":
        tasks = sorted(run["workers"], key=lambda task: -task["seconds"])
        shown = [(_calls(task), named(task), format_duration(task["seconds"])) for task in tasks]
        return table_lines(("TASK", "FUNCTION", "FOR"), shown, numbers=(2,))
    kind = "thread" if run["kind"] == "threads" else "pid"
    rows = [_row(worker, kind) for worker in sorted(run["workers"], key=lambda worker: worker[kind] or 0)]
    if kind == "thread":  # their memory is that of the program
        rows = [(*row[:4], row[6]) for row in rows]
        return table_lines(("THREAD", "DOES", "FUNCTION", "FOR", "CPU"), rows, numbers=(0, 3, 4))
    return table_lines(("PID", "DOES", "FUNCTION", "FOR", "RSS", "PRIVATE", "CPU"), rows, numbers=(0, 3, 4, 5, 6))


def _summary(run: dict[str, Any]) -> str:
    of = "" if run["total"] is None else f" of {run['total']:,}"
    parts = [
        printable(run["backend"]),
        count(run["n_workers"], "worker"),
        f"{run['done']:,}{of} calls done in {format_duration(run['seconds'])}",
        f"{run['calls_per_second']:,.3g} per second",
    ]
    if run["seconds_left"] is not None:
        parts.append(f"{format_duration(run['seconds_left'])} left")
    if run["kind"] == "threads" and run["rss_bytes"] is not None:
        parts.append(f"{format_size(run['rss_bytes'])} resident")
    return ", ".join(parts)


def _row(worker: dict[str, Any], kind: str) -> tuple[str, ...]:
    sizes = ["" if worker[name] is None else format_size(worker[name]) for name in ("rss_bytes", "private_bytes")]
    return (
        "" if worker[kind] is None else str(worker[kind]),
        doing(worker),
        named(worker),
        "" if worker["seconds"] is None else format_duration(worker["seconds"]),
        *sizes,
        "" if worker["cpu"] is None else f"{worker['cpu']:.0%}",
    )


def workers_by_pid(pid: int) -> dict[int, dict[str, Any]]:
    """Return what the worker processes of a program do, by their process ids."""
    workers = [worker for run in _runs(pid, {}) for worker in run["workers"] if worker["thread"] is None]
    return {worker["pid"]: worker for worker in workers if worker["pid"] is not None}
