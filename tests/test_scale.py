"""The simulation of many workers (benchmarks/scale): shoal's loop runs in it, and a bad rule is seen as worse."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("resource", reason="the benchmarks do not run on Windows")

from benchmarks.scale import _page
from benchmarks.scale._cases import durations, least
from benchmarks.scale._rules import RULES, Even, OneByOne, by_rule
from benchmarks.scale._shoal import by_shoal
from benchmarks.scale._stealing import by_stealing
from benchmarks.scale._world import Case

from _docs import DOCS, ROOT

CASES = [
    Case("uniform", 8, 800, "uniform", 0.02),
    Case("pareto", 8, 800, "pareto", 0.02),
    Case("large arguments", 4, 100, "lognormal", 0.1, nbytes=10**7),
    Case("a generator", 8, 2000, "uniform", 0.001, known=False, generates=True),
    Case("slow input", 4, 200, "uniform", 0.02, gap=0.01, known=False),
    Case("deaths", 8, 800, "uniform", 0.02, deaths=0.2),
    Case("slow workers", 10, 500, "uniform", 0.02, slow=0.2),
    Case("an engine", 8, 800, "uniform", 0.02, latency=0.002, engine=True),
    Case("come and go", 8, 800, "uniform", 0.02, latency=0.002, present=1.0, absent=0.5, engine=True),
]


def efficiency(case: Case) -> float:
    return least(case) / by_shoal(case, durations(case)).makespan


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_each_case_runs_by_each_rule(case: Case) -> None:
    drawn = list(durations(case))
    assert len(drawn) == case.calls
    found: dict[str, Any] = {name: by_rule(case, drawn, rule) for name, rule in RULES.items()}
    found["stealing"] = by_stealing(case, drawn)
    found["shoal"] = by_shoal(case, drawn).makespan
    bound = 0.5 * least(case) if case.absent else least(case)
    assert all(taken is None or taken >= bound for taken in found.values()), found
    assert (found["stealing"] is None) == bool(case.deaths or case.absent)


def test_a_simulation_gives_the_same_each_time() -> None:
    for case in (CASES[0], CASES[5], CASES[8]):
        assert by_shoal(case, durations(case)).makespan == by_shoal(case, durations(case)).makespan


def test_a_bad_rule_is_seen() -> None:
    tiny, uneven = Case("tiny", 16, 20_000, "uniform", 0.0005), Case("uneven", 16, 320, "lognormal", 1.0)
    assert by_rule(tiny, list(durations(tiny)), OneByOne) > 1.5 * by_shoal(tiny, durations(tiny)).makespan
    assert by_rule(uneven, list(durations(uneven)), Even) > 1.2 * by_shoal(uneven, durations(uneven)).makespan


def test_the_caller_feeds_a_thousand_workers() -> None:
    # One call per batch would take the caller 0.2 ms each, 8 s in all, for work of 4 s.
    case = Case("constant", 1000, 40_000, "constant", 0.1)
    found = by_shoal(case, durations(case))
    assert found.makespan < 1.15 * least(case)
    assert found.batches < case.calls / 3


def test_the_first_replies_tell_the_size_of_later_batches_before_all_workers_have_one() -> None:
    # It takes 0.2 s to give 1,000 workers a batch each; meanwhile the first ones have replied.
    case = Case("constant", 1000, 20_000, "constant", 0.01)
    assert by_shoal(case, durations(case)).batches < case.calls / 5


def test_a_slow_input_does_not_keep_workers_waiting() -> None:
    # 64 calls read at once would take 0.64 s, in which the workers have nothing to do.
    assert efficiency(Case("slow input", 16, 480, "uniform", 0.1, gap=0.01, known=False)) > 0.85


def test_a_run_holds_what_is_in_flight() -> None:
    few, many = (
        by_shoal(case, durations(case)) for case in (CASES[3]._replace(calls=20_000), CASES[3]._replace(calls=100_000))
    )
    assert many.held <= 1.2 * few.held
    assert many.held <= 5 * many.in_flight


def test_the_page_is_that_of_the_file() -> None:
    content = json.loads((ROOT / "benchmarks" / "results" / "scale.json").read_text(encoding="utf-8"))
    assert (DOCS / "scale.md").read_text(encoding="utf-8") == _page.page(content)
    assert all((DOCS / "scale" / f"{name}.svg").exists() for name in ("efficiency", "limit", "cpu"))
