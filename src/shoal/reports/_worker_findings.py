"""Faults of the workers themselves: they die, reach limits, import, or start slowly. See _findings."""

from __future__ import annotations

from shoal.reports._facts import LEAST, Facts, Finding
from shoal.reports._figures import counted, seconds, size


def worker_deaths(facts: Facts) -> Finding | None:
    """Tell of workers that died."""
    deaths = facts.run["counts"]["deaths"]
    if not deaths:
        return None
    first = next((event for event in facts.run["events"] if event["kind"] == "death"), None)
    text = "" if first is None else f" ({first['text']})"
    failures, retries = facts.run["counts"]["failures"], facts.run["counts"]["retries"]
    return Finding(
        f"{counted(deaths, 'worker')} died{text}. The run had {counted(failures, 'failure')} of calls, and "
        f"{counted(retries, 'retry', 'retries')}.",
        "See docs/failures.md for what kills workers: native code that crashes, and too little memory are the usual "
        "causes.",
        facts.sum_of("starting"),
        {"deaths": deaths, "failures": failures, "retries": retries},
    )


def memory(facts: Facts) -> Finding | None:
    """Tell of a want of memory."""
    memory = facts.run["memory"]
    swapped, killed, replaced = memory["swapped_in"] or 0, memory["limit_events"] or 0, memory["replaced"]
    causes = []
    if replaced:
        causes.append(f"{counted(replaced, 'worker')} exceeded max_worker_memory and had to be replaced")
    if swapped >= 2**24:
        causes.append(f"the system read {size(swapped)} back from swap")
    if killed:
        causes.append(f"the system killed {counted(killed, 'process', 'processes')} because memory had run out")
    if not causes:
        return None
    peak = max((worker["peak_memory"] or 0 for worker in facts.run["workers"]), default=0)
    return Finding(
        f"Memory is short: {'; '.join(causes)}. The largest worker used {size(peak)}.",
        "Use fewer workers, give each call less data, or raise the limit.",
        facts.sum_of("starting") if replaced else facts.elapsed,
        {"replaced": replaced, "swapped_in": swapped, "killed": killed, "peak_memory": peak},
    )


def imports(facts: Facts) -> Finding | None:
    """Tell of workers that import for a long time."""
    spent = facts.imports
    modules = sum(worker["imports"]["modules"] for worker in facts.run["workers"])
    if spent < LEAST * facts.total or spent < 0.02:
        return None
    return Finding(
        f"The workers spend their time on imports: {seconds(spent)} in all, for {counted(modules, 'module')}.",
        "Import what the calls need at the top of their module; and keep the workers, as loky does between runs: only "
        "the first run of a worker imports.",
        spent,
        {"seconds": spent, "modules": modules},
    )


def slow_start(facts: Facts) -> Finding | None:
    """Tell of new workers that take long to start."""
    starting = [worker["starting"] for worker in facts.run["workers"] if worker["starting"] is not None]
    spent = sum(starting)
    if not starting or spent < 0.4 * facts.total or spent < 0.5 * len(starting):
        return None
    if any(facts.run["counts"][kind] for kind in ("deaths", "replaced", "timeouts")):  # then that is the fault
        return None
    return Finding(
        f"The workers start slowly: {counted(len(starting), 'worker')} took {seconds(spent / len(starting))} each "
        f"until the first call, of {seconds(facts.elapsed)} in all.",
        "Later runs of the program use the same workers. Import less in the modules of the calls, do less in an "
        "initializer, or use fewer workers.",
        spent,
        {"workers": len(starting), "seconds": spent, "elapsed": facts.elapsed},
    )


def replaced_workers(facts: Facts) -> Finding | None:
    """Tell of workers that serve so few calls that to start their successors takes long."""
    counts = facts.run["counts"]
    replaced = counts["replaced"] - facts.run["memory"]["replaced"]  # the finding about memory tells of the others
    if replaced <= 0:
        return None
    spent = facts.restarting * replaced / counts["replaced"]
    if spent < LEAST * facts.total:
        return None
    return Finding(
        f"Workers are replaced too often: {counted(replaced, 'worker')} reached max_tasks_per_worker, and to start "
        f"others in their places took {seconds(spent)} of the workers' time, while all calls took "
        f"{seconds(facts.busy)}.",
        "Raise max_tasks_per_worker, or leave it out. If calls leak memory, max_worker_memory replaces only the "
        "workers that have grown.",
        spent,
        {"replaced": replaced, "seconds": spent, "busy": facts.busy},
    )
