"""``shoal demo``: the same calls with one worker and with several, and what the report says of the latter."""

from __future__ import annotations

import time
from argparse import Namespace

import shoal
from shoal import Parallel, cpu_count, delayed, report
from shoal._sizes import format_duration
from shoal.cli._text import DONE, FAILED, complain, count, say

#: The calls count the primes in so many ranges of so many numbers: half a second of work for one worker.
_CALLS, _NUMBERS = 40, 1_500
#: A small run needs no more workers, however many CPUs there are.
_MOST_WORKERS = 8
#: The lines of a report that are shown.
_LINES = 12


def primes(start: int, stop: int) -> int:
    """Return how many primes there are from `start` to `stop`, by a slow way: the demo needs work, not primes."""
    return sum(all(number % divisor for divisor in range(2, int(number**0.5) + 1)) for number in range(start, stop))


def main(given: Namespace) -> int:
    """Run ``shoal demo``."""
    cpus = cpu_count()
    n_jobs = given.n_jobs or min(max(cpus, 2), _MOST_WORKERS)
    workers = shoal.effective_n_jobs(n_jobs)
    say(f"shoal {shoal.__version__} counts primes in {count(_CALLS, 'call')}, with 1 worker, and twice with {workers}.")
    say()
    alone, seconds = _counted(1)
    with report() as found:
        together, of_new = _counted(n_jobs)
        _, of_kept = _counted(n_jobs)
    say()
    of_several = count(workers, "worker")
    say(f"  {'1 worker':25}{format_duration(seconds):>8}")
    say(f"  {f'{of_several}, started anew':25}{format_duration(of_new):>8}   {seconds / of_new:.1f} times as fast")
    say(f"  {f'{of_several}, kept':25}{format_duration(of_kept):>8}   {seconds / of_kept:.1f} times as fast")
    say()
    say(f"The report of both runs with {of_several} begins:")
    say()
    lines = str(found).splitlines()
    for line in lines[:_LINES]:
        say(f"  {line}".rstrip())
    say(f"  ... and {count(len(lines) - _LINES, 'further line')}")
    say()
    if workers > cpus:
        say(f"This program may use {count(cpus, 'CPU')} here, so {workers} workers can hardly be faster than {cpus}.")
    if given.report is None:
        say("The whole report, as a page: shoal demo --report demo.html")
    else:
        found.save(given.report)
        say(f"The whole report is in {given.report}.")
    if alone != together:
        complain("the results of the two runs differ, which is a fault of shoal. Report it, with what 'shoal env' says")
        return FAILED
    return DONE


def _counted(n_jobs: int) -> tuple[list[int], float]:
    """Return the results of all calls, and the seconds that they and the start of missing workers took."""
    began = time.perf_counter()
    calls = [delayed(primes)(start * _NUMBERS, (start + 1) * _NUMBERS) for start in range(2, _CALLS + 2)]
    return Parallel(n_jobs=n_jobs, progress=True)(calls), time.perf_counter() - began
