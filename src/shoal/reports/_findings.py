"""Why runs were slow: pure functions over the runs of a report, as docs/report-schema.md describes them.

::

    a run ──> Facts ──> each function of _FAULTS ──> a Finding or None ──> the most costly first

A run of one worker has no findings, but for memory: nothing could wait there. Each fault has a share of the workers'
time from which on it is named, so that a report says nothing about a run that is as fast as it can be.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from shoal.reports._arguments import FUNCTION
from shoal.reports._facts import LEAST, Facts, Finding
from shoal.reports._figures import counted, number, seconds, size
from shoal.reports._worker_findings import imports, memory, replaced_workers, slow_start, worker_deaths

#: Faults are looked for in runs of at least so many seconds.
SHORTEST_RUN = 0.02
#: Calls that take longer than this, in seconds, are not too short.
SHORT_CALL = 2e-3
#: Arguments and results of fewer bytes than this are not large.
LARGE = 100_000
#: An iterator that takes less than this for a call, in seconds, is not slow: then the calls are short.
SLOW_ITEM = 5e-5


def _short_calls(facts: Facts) -> Finding | None:
    run, done = facts.run, facts.done
    mean = facts.busy / max(done, 1)
    known = facts.imports + facts.sum_of("starting")
    known += facts.n * (run["consumer"]["seconds"] + facts.listening)
    way = max(facts.total - facts.busy - known, 0.0)
    if done < 20 or mean > SHORT_CALL or way < facts.busy or way < LEAST * facts.total:
        return None
    if _per_call(run["sending"], done) > LARGE or _per_call(run["results"], done) > LARGE:
        return None
    if run["input"]["seconds"] > SLOW_ITEM * done:
        return None
    figures = {"calls": done, "call": mean, "way": way / done}
    return Finding(
        f"The calls are too short for their way: {number(done)} calls take {seconds(mean)} each, and to hand one to a "
        f"worker and to take its result costs {seconds(way / done)} of the workers' time.",
        "Do more work in each call, for example a slice of the input instead of one item; or run them with n_jobs=1.",
        way,
        figures,
    )


def _large_arguments(facts: Facts) -> Finding | None:
    run = facts.run
    moving = facts.sum_of("decoding") - min(facts.imports, facts.sum_of("decoding"))
    cost = run["sending"]["seconds"] * facts.n + moving
    largest = max(
        (one for one in run["arguments"] if one["way"] == "batch" or (not one["repeated"] and one["way"] == "mapped")),
        key=lambda one: one["bytes"],
        default=None,
    )
    if largest is None or largest["bytes"] < LARGE or cost < LEAST * facts.total:
        return None
    nbytes = run["sending"]["bytes"]
    batches = run["counts"]["batches"]
    sent = f"{size(nbytes)} in {counted(batches, 'batch', 'batches')}, " if nbytes else ""
    cause = f"Argument {largest['name']} ({largest['type']}) is large"
    if largest["name"] == FUNCTION:
        cause = f"The object whose method is called ({largest['type']}) is large"
    if largest["repeated"] and largest["name"] == FUNCTION:
        remedy = (
            "Calls need the same object: call a function of a module that takes it as an argument, and pass "
            "shoal.shared(object). A worker gets it once."
        )
    elif largest["repeated"]:
        remedy = f"Calls get the same object: pass shoal.shared(value) as {largest['name']}. A worker gets it once."
        if "ndarray" in largest["type"]:
            remedy += " Or set max_nbytes below its size, so that the workers map it."
    else:
        remedy = (
            "Each call gets another object: pass a path, a range or a seed, and load or make the value in the call."
        )
    figures = {
        "argument": largest["name"],
        "type": largest["type"],
        "bytes": largest["bytes"],
        "seconds": cost / facts.n,
    }
    return Finding(
        f"{cause}, {size(largest['bytes'])}, and sent with each "
        f"{'batch' if largest['repeated'] else 'call'}: {sent}{seconds(run['sending']['seconds'])} to pickle and "
        f"{seconds(moving)} to rebuild.",
        remedy,
        cost,
        {**figures, "sent": nbytes, "batches": batches},
    )


def _large_results(facts: Facts) -> Finding | None:
    run, done = facts.run, facts.done
    cost = run["results"]["seconds"] * facts.n + facts.sum_of("encoding")
    each = _per_call(run["results"], done)
    if each < LARGE or cost < LEAST * facts.total:
        return None
    return Finding(
        f"The results are large: {size(each)} for each call, {size(run['results']['bytes'])} in all. To pickle them "
        f"took {seconds(facts.sum_of('encoding'))}, and to rebuild them {seconds(run['results']['seconds'])}.",
        "Return less, such as a sum, a path or a numpy array in place of Python objects; or write the result to a file "
        "in the call.",
        cost,
        {"bytes": each, "returned": run["results"]["bytes"], "seconds": cost / facts.n},
    )


def _straggler(facts: Facts) -> Finding | None:
    run = facts.run
    slowest = run["slowest"][0] if run["slowest"] else None
    median = run["calls"]["median"]
    if slowest is None or facts.done <= facts.n:
        return None
    waiting = min(facts.tail, (facts.n - 1) * slowest["seconds"])  # the rest of the tail has another cause
    if waiting < LEAST * facts.total:
        return None
    end = max(run["slices"]["end"], default=run["end"])
    last = slowest["start"] + slowest["seconds"]
    if slowest["seconds"] < 3 * median or last < end - 0.1 * facts.elapsed:
        return None
    return Finding(
        f"At the end, workers wait for one call: call {slowest['call']}, {slowest['function']}"
        f"({slowest['arguments']}), takes {seconds(slowest['seconds'])}, while half of the calls take at most "
        f"{seconds(median)}. The other workers wait for {seconds(waiting)} in all.",
        "Put the longest calls first, or split this one into several.",
        waiting,
        {"call": slowest["call"], "seconds": slowest["seconds"], "median": median, "waiting": waiting},
    )


def _gil(facts: Facts) -> Finding | None:
    run = facts.run
    cpu = run["calls"]["cpu"]
    if not (run["in_process"] and facts.gil) or cpu is None or facts.busy < 1.5 * facts.elapsed:
        return None
    if cpu > 1.25 * facts.elapsed or not (
        _waits_for_lock(facts) if _knows_queues(facts) else cpu > 0.8 * facts.elapsed
    ):
        return None
    cost = facts.busy - cpu
    return Finding(
        f"The threads hold Python's global lock: {facts.n} threads ran calls for {seconds(facts.busy)} in all, but had "
        f"a CPU for only {seconds(cpu)} in {seconds(facts.elapsed)}, as one thread would.",
        'Use worker processes: backend="loky". Or use functions that release the lock, or a free-threaded Python.',
        cost,
        {"threads": facts.n, "busy": facts.busy, "cpu": cpu},
    )


def _knows_queues(facts: Facts) -> bool:
    return all(worker["queued"] is not None for worker in facts.run["workers"])


def _waits_for_lock(facts: Facts) -> bool:
    """Tell whether threads wait for the lock, and not for CPUs of a busy machine, for files or for other machines.

    A thread that waits for the lock wakes up every 5 ms, so it waits 200 times a second and more. Threads that compute
    without the lock hardly ever wait. Threads that sleep, or wait for others, need little CPU time for many waits.
    """
    cpu, waits = facts.sum_of("cpu"), facts.sum_of("waits")
    blocked = facts.busy - cpu - facts.sum_of("queued")
    return blocked > 0.05 * facts.busy and waits > 100 * blocked and 100 * cpu < waits < 1250 * facts.n * cpu


def _oversubscription(facts: Facts) -> Finding | None:
    present = {worker["worker"]: worker["threads"] or 0 for worker in facts.run["workers"]}
    most, threads = max(present.values(), default=0), sum(present.values())
    if threads <= facts.cpus or most < 2:
        return None
    return Finding(
        f"There are more threads than CPUs: a worker ran up to {most} threads at the same time, and all workers "
        f"{threads}, on {counted(facts.cpus, 'CPU')}.",
        "Limit the threads of BLAS and OpenMP: leave OMP_NUM_THREADS and the like to shoal, set "
        "inner_max_num_threads=1, or use fewer workers.",
        facts.busy * (1 - facts.cpus / threads),
        {"threads": threads, "of_one_worker": most, "cpus": facts.cpus, "workers": facts.n},
    )


def _slow_input(facts: Facts) -> Finding | None:
    spent, done = facts.run["input"]["seconds"], facts.done
    waiting = facts.sum_of("waiting")
    if spent < 0.4 * facts.elapsed or spent < SLOW_ITEM * done or waiting < LEAST * facts.total:
        return None
    if facts.busy > 0.85 * facts.total:
        return None
    return Finding(
        f"The workers wait for the input: the iterator of the calls took {seconds(spent)} of {seconds(facts.elapsed)}, "
        f"{seconds(spent / max(done, 1))} for each call.",
        "Do that work in the calls, so that workers share it; or make the calls faster, for example as a list before.",
        min(spent * facts.n, waiting),
        {"seconds": spent, "per_call": spent / max(done, 1), "waiting": waiting},
    )


def _few_calls(facts: Facts) -> Finding | None:
    run, done = facts.run, facts.done
    ceiling = run["speedup"]["ceilings"]["calls"]
    if not done or ceiling is None or run["outcome"] != "done" or ceiling >= 0.8 * facts.n:
        return None
    longest, shortest = run["calls"]["longest"], run["calls"]["shortest"]
    if done > facts.n and longest > 3 * shortest:  # then their lengths decide, not their number
        return None
    idle = facts.total - facts.busy
    if idle < LEAST * facts.total or facts.busy < 0.3 * facts.elapsed:
        return None
    return Finding(
        f"There are too few calls for the workers: {counted(done, 'call')} on {facts.n} workers can be at most "
        f"{ceiling:.2g} times as fast as on one.",
        f"Split the work into more calls, at least {4 * facts.n}; or use fewer workers.",
        idle,
        {"calls": done, "workers": facts.n, "ceiling": ceiling},
    )


def _slow_consumer(facts: Facts) -> Finding | None:
    spent = facts.run["consumer"]["seconds"]
    if spent < 0.2 * facts.elapsed:
        return None
    return Finding(
        f"The workers wait for the consumer of the results: for {seconds(spent)} of {seconds(facts.elapsed)}, no call "
        "could begin, because the generator's results had not been taken.",
        "Do less between two results, do that work in the calls, or raise max_pending.",
        spent * facts.n,
        {"seconds": spent, "elapsed": facts.elapsed},
    )


def _slow_listeners(facts: Facts) -> Finding | None:
    spent, waiting = facts.listening, facts.sum_of("waiting")
    cost = min(spent * facts.n, waiting)
    if cost < LEAST * facts.total:
        return None
    return Finding(
        f"The workers wait for functions that listen to the run: progress, on_message and verbose took "
        f"{seconds(spent)} of {seconds(facts.elapsed)}, in which no results were taken and no calls were sent.",
        "Do less in them: have progress return at once most of the time, send fewer messages, or put them into a queue "
        "that a thread of yours reads.",
        cost,
        {"seconds": spent, "elapsed": facts.elapsed, "waiting": waiting},
    )


_FAULTS: dict[str, Callable[[Facts], Finding | None]] = {
    "short_calls": _short_calls,
    "large_arguments": _large_arguments,
    "large_results": _large_results,
    "straggler": _straggler,
    "gil": _gil,
    "oversubscription": _oversubscription,
    "slow_input": _slow_input,
    "few_calls": _few_calls,
    "slow_consumer": _slow_consumer,
    "slow_listeners": _slow_listeners,
    "worker_deaths": worker_deaths,
    "memory": memory,
    "imports": imports,
    "slow_start": slow_start,
    "replaced_workers": replaced_workers,
}


def diagnosed(runs: list[dict[str, Any]], cpus: int, gil: bool) -> list[dict[str, Any]]:
    """Return the list ``findings`` of a report, the most costly first.

    If several runs of the same function have the same fault, the most costly stands for all of them.

    Parameters
    ----------
    runs
        The runs of the report.
    cpus
        The number of CPUs that the program may use.
    gil
        Whether its interpreter has a global lock.
    """
    alike: dict[tuple[str, str], list[tuple[Finding, str]]] = {}
    for run in runs:
        facts = Facts(run, cpus, gil)
        for fault, look in _FAULTS.items():
            if fault != "memory" and (facts.n < 2 or facts.elapsed < SHORTEST_RUN):
                continue
            found = look(facts)
            if found is not None:
                alike.setdefault((fault, run["function"]), []).append((found, run["id"]))
    findings = []
    for (fault, function), several in alike.items():
        worst, run_id = max(several, key=lambda entry: entry[0].cost)
        cost = sum(found.cost for found, _ in several)
        sentence, figures = f"{worst.cause} {worst.remedy}", worst.figures
        if len(several) > 1:
            sentence += f" The same holds for {counted(len(several) - 1, 'other run')} of {function}."
            figures = {**figures, "runs": len(several)}
        findings.append({"fault": fault, "run": run_id, "sentence": sentence, "cost": cost, "figures": figures})
    return sorted(findings, key=lambda finding: -finding["cost"])


def _per_call(column: dict[str, Any], done: int) -> float:
    return (column["bytes"] or 0) / max(done, 1)
