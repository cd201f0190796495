"""The page docs/scale.md, from the file of figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

RIVALS = ("joblib", "guided", "factoring", "stealing")
#: The targets: the share of the best rule's efficiency, and the caller's time relative to that with two workers.
OF_THE_BEST, CPU_TIMES = 0.97, 1.5

HEAD = """<!-- `make scale` writes this page: see benchmarks/scale. -->
# Many workers

How do runs behave with 1 to 10,000 workers? `make scale` simulates them. The loop of a run, its schedule and its
policies are the real ones; workers, network and clock are simulated. The caller's time is virtual too: 0.2 ms for each
batch and 0.6 µs for each call, as measured on [two cores](design/parallel.md#figures), and 0.5 ms for each MB of
arguments. `make scale ARGS=--full` takes ten times the calls, and 10^8 for the table on memory.

An efficiency of 1 is the least time that a case can take, whatever rule is used: its work divided among the workers,
its longest call, or the caller's time for making and sending the calls. Where workers come and go, the least time
is that of their mean number, so a value can be above 1.

- `joblib` is its rule of batch sizes: 0.2 to 2 s for each batch, from the caller's point of view.
- `guided` is guided self-scheduling: each batch is an even share of the calls that are left.
- `factoring` gives each worker the same share of half of the calls that are left, and then again.
- `stealing` divides all calls among the workers at first. A worker that has none left steals from another one. It needs
  all calls before the first can run.

All rules pay the same for batches and calls, and `guided`, `factoring` and `stealing` know the number of calls.
"""


def page(content: Mapping[str, Any]) -> str:
    """Return the page."""
    parts = [HEAD, "## What was found\n", "\n".join(summary(content)) + "\n", WHY]
    parts += ["## Efficiency\n", "![Efficiency by the number of workers](scale/efficiency.svg)\n"]
    names = ("shoal", *RIVALS)
    lines = [
        [
            row["case"],
            *_numbers(row, "workers", "calls"),
            *(_share(row[name]) for name in names),
            _share(of_the_best(row)),
        ]
        for row in content["efficiency"]
    ]
    parts.append(_table(("case", "workers", "calls", *names, "of the best"), lines))
    parts += ["## Where the caller is the bottleneck\n", LIMIT]
    parts.append("![Efficiency by the number of workers and the duration of calls](scale/limit.svg)\n")
    parts += ["## The caller's time\n", CPU, "![The caller's time by the number of workers](scale/cpu.svg)\n"]
    lines = [[row["case"], *_numbers(row, "workers", "call", "batch")] for row in content["cpu"]]
    parts.append(_table(("case", "workers", "µs per call", "µs per batch"), lines))
    parts += ["## Memory\n", MEMORY]
    lines = [_numbers(row, "calls", "held", "in_flight", "mb") for row in content["memory"]]
    parts.append(_table(("calls", "held", "in flight", "MB"), lines))
    parts += ["## One caller for 10,000 workers\n", LEVELS]
    facts = content["machine"]
    parts.append(f"Simulated on {facts['date']}, {facts['cpu']}, Python {facts['python'].split()[0]}.\n")
    return "\n".join(parts)


WHY = """What the simulation showed at first, and what was changed:
[Many workers](design/parallel.md#many-workers). What remains:

- 10,000 workers: see [One caller for 10,000 workers](#one-caller-for-10000-workers).
- Input slower than the workers, and arguments of 1 MB with 1,000 workers: the caller is busy all the time with calls
  and arguments, and handles replies late meanwhile. Workers wait for it. With 16 workers, a second batch waits at each
  worker, so that none waits for the caller.
- A tenth of the workers is slow: near the end, a slow worker gets as much as others. Stealing takes calls back from it;
  shoal takes back only calls of batches that are cut short.
- An engine with a latency of 50 ms: a backend tells its distance once, and dask's is that of a network of 2 to 5 ms.
- Pareto, 1,000 workers: calls that are behind a long call in a batch wait until it ends, because a batch is cut between
  two calls. Stealing takes them away meanwhile.
- Lognormal, 100 ms, 128 workers: the rules begin the longest call at different times, by chance. In the means of six
  draws, shoal has 0.900 and stealing 0.902.
- Lognormal, 1 ms, 128 workers: the run takes a second, and the sizes of batches grow from 1 to 8 to 64 in it. They do
  not grow faster, because the shortest calls come back first, and so calls seem shorter than they are at first.
- Where `stealing` is some per cent better with long calls: it does not wait for the caller between two batches.
"""
LEVELS = """Can a single caller feed 10,000 workers? A batch takes 0.2 ms of its time: 0.12 ms to send, 0.08 ms to
receive. So:

- A first batch for each worker takes 1.2 s. The workers wait 0.6 s for it in the mean. If each has work for `w`
  seconds, the efficiency is at most `w / (w + 0.6)`: 0.83 for the 3 s of these cases, and 0.97 from 20 s on. Stealing
  comes close to this bound, because it knows the number of calls, sends each worker one batch, and asks the caller for
  nothing afterwards.
- From then on, the caller handles 5,000 batches a second. So each batch has to hold at least 2 s of work. shoal's hold
  6 s, once it knows how long calls take; then the caller is busy for a third of the time.
- Until then, batches hold one call, and then eight. Near the end, they hold 2 s at least. So in these cases shoal sends
  2.2 batches to each worker, which takes the caller 4.5 s, where the work takes 3 s. With constant calls, the
  efficiency is 0.52 for work of 3 s, 0.70 for 10 s and 0.81 for 20 s.

A second level, of one caller for each thousand workers, would make the 0.6 s 0.06 s. It would also have to pass on
retries, deaths, messages, shared memory and the order of results, in processes that can die themselves. That is not
simple, and the longer a run is, the less it saves. So shoal has none.
"""
LIMIT = """Calls with durations from a uniform distribution; 300 for each worker (of 1 s: 30), a million at most.
So runs with short calls last less than a second, in which the first batches, of a single call each, show. From 58
workers on, batches hold more work, so that the caller spends a third of its time on them. What remains is its time for
each call: 0.6 µs, so calls of 1 ms keep no more than 1,700 workers busy. Pass larger calls then.
"""
CPU = """The real time of the thread that runs the loop, without that of the transport, which is simulated: it is the
time that the schedule, the policies and the loop take.
"""
MEMORY = """100 workers, a generator of calls of 1 ms, whose results are taken one by one. A run holds the calls that it
has read and whose results it has not delivered. Memory is traced up to a million calls, since tracing takes long.
"""


def of_the_best(row: Mapping[str, Any]) -> float:
    """Return shoal's efficiency, divided by that of the best other rule."""
    return float(row["shoal"] / max(row[name] or 0.0 for name in RIVALS))


def summary(content: Mapping[str, Any]) -> list[str]:
    """Return what was found, line by line: the targets, and where they are missed."""
    rows = content["efficiency"]
    missed = [row for row in rows if of_the_best(row) < OF_THE_BEST]
    lines = [
        f"- Efficiency within 3 % of the best other rule: in {len(rows) - len(missed)} of {len(rows)} cases."
        + ("" if not missed else " Missed:")
    ]
    lines += [f"  - {row['case']}, {row['workers']:,} workers: {of_the_best(row):.3f} of the best" for row in missed]
    for name in dict.fromkeys(row["case"] for row in content["cpu"]):
        found = [row for row in content["cpu"] if row["case"] == name]
        most = max(found, key=lambda row: float(row["call"]))
        ratio = most["call"] / found[0]["call"]
        lines.append(
            f"- The caller's time per call, {name}: {found[0]['call']:g} µs with 2 workers, {most['call']:g} µs "
            f"with {most['workers']:,}: {ratio:.2f} times, wanted {CPU_TIMES:g} at most."
        )
    found = content["memory"]
    lines.append(
        f"- Memory: of {found[-1]['calls']:,} calls, a run holds {found[-1]['held']:,} at most, "
        f"{found[-1]['held'] / found[-1]['in_flight']:.1f} times those in flight."
    )
    return lines


def _numbers(row: Mapping[str, Any], *names: str) -> list[str]:
    return ["" if row[name] is None else f"{row[name]:,}" for name in names]


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _table(heads: tuple[str, ...], lines: list[list[str]]) -> str:
    aligned = ["---", *("---:" for _ in heads[1:])]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, aligned, *lines)) + "\n"
