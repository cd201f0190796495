"""What rich shows of a report: the tables of the page of text, as wide as the console, without markup from programs."""

from __future__ import annotations

import io
from typing import Any

import pytest

import shoal
from _synthetic import extremes, report_of, run_of, sample

rich_console = pytest.importorskip("rich.console")

from shoal.reports._rich import rich_page  # noqa: E402

REPORTS = {"the sample": sample(), **extremes()}


def shown(report: dict[str, Any], width: int) -> str:
    stream = io.StringIO()
    console = rich_console.Console(file=stream, width=width, color_system=None, legacy_windows=False)
    console.print(*rich_page(report), sep="\n")
    return stream.getvalue()


@pytest.mark.parametrize("report", [pytest.param(report, id=name) for name, report in REPORTS.items()])
def test_rich_shows_any_report(report: dict[str, Any]) -> None:
    lines = shown(report, 100).split("\n")
    assert all(line.isprintable() for line in lines)
    assert max(map(len, lines)) <= 100
    assert "What to mend" in lines


def test_findings_come_first_and_tables_follow() -> None:
    text = shown(sample(), 120)
    assert (
        text.index("Short calls: The calls are too short") < text.index("serial estimate") < text.index("Slowest calls")
    )
    assert "batch_size" not in text


def test_figures_are_whole_at_80_columns() -> None:
    lines = shown(sample(), 80).split("\n")
    (worker,) = [line for line in lines if line.split()[:3] == ["4321-1", "1", "10"]]
    assert worker.split()[-6:] == ["79", "ms", "1.33", "s", "220", "MB"]


def test_rich_shows_a_report_itself() -> None:
    with shoal.report() as report:
        shoal.Parallel(n_jobs=1)(shoal.delayed(abs)(x) for x in range(3))
    stream = io.StringIO()
    rich_console.Console(file=stream, width=80).print(report)
    assert "What to mend" in stream.getvalue()


def test_brackets_in_names_are_no_markup() -> None:
    assert "model.fit[red]x[/red]" in shown(report_of(run_of(3, text="[red]x[/red]")), 200)
