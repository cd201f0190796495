"""The page of text: 80 columns, findings first, no control characters."""

from __future__ import annotations

from typing import Any

import pytest

from _synthetic import extremes, finding, report_of, run_of, sample
from shoal.reports import _figures
from shoal.reports._text import columns_of, fitted, text_page, wrapped

REPORTS = {"the sample": sample(), **extremes()}


@pytest.mark.parametrize("report", [pytest.param(report, id=name) for name, report in REPORTS.items()])
def test_lines_fit_and_print(report: dict[str, Any]) -> None:
    lines = text_page(report).split("\n")
    assert max(map(columns_of, lines)) <= 80
    assert all(line.isprintable() for line in lines)
    assert len(lines) < 150


@pytest.mark.parametrize("name", [name for name in REPORTS if name not in ("hostile", "wide")])
def test_characters_are_those_that_most_terminals_have(name: str) -> None:
    assert text_page(REPORTS[name]).encode("latin-1")


def test_findings_come_first() -> None:
    text = text_page(sample())
    assert text.index("What to mend") < text.index("too short for their way") < text.index("serial estimate")
    assert "  1. Short calls: The calls are too short for their way" in text
    assert "Nothing that shoal knows of." in text_page(report_of(run_of(3)))


def test_a_finding_names_its_run_only_if_there_are_several() -> None:
    one, other = run_of(3, number=1), run_of(3, number=2)
    found = finding("straggler", one["id"], "Call 2 took long.")
    assert "Run 4321-1" not in text_page(report_of(one, findings=[found]))
    assert "Call 2 took long. Run 4321-1." in text_page(report_of(one, other, findings=[found]))


def test_tables_show_what_was_measured() -> None:
    lines = [line.split() for line in text_page(sample()).split("\n")]
    assert ["4321-1", "19", "480", "ms", "466", "ms", "1", "model.fit", "array(300000,", "float64),", "a..."] in lines
    assert ["4321-1", "backend", "loky", "context"] in lines
    assert not any("batch_size" in line for line in lines)  # it has its default


def test_a_histogram_has_a_bar_for_each_bin() -> None:
    bars = [line for line in text_page(sample()).split("\n") if " to " in line and line.strip()[-1].isdigit()]
    assert [line.split()[-1] for line in bars] == ["1", "2", "0", "3", "8", "9", "0", "1"]
    assert max(line.count("#") for line in bars) == 40


def test_texts_are_cut_and_wrapped_by_columns() -> None:
    assert columns_of("魚e\u0301") == 3
    assert fitted("魚" * 10, 11) == "魚魚魚魚..."
    assert wrapped("one two  three", 7) == ["one two", "three"]
    assert wrapped("魚" * 5, 4) == ["魚魚", "魚魚", "魚"]
    assert wrapped("") == [""]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0, "0 s"),
        (1e-12, "0 s"),
        (4e-9, "4 ns"),
        (1.2345e-6, "1.23 µs"),
        (0.9996, "1 s"),
        (12.345, "12.3 s"),
        (119.4, "119 s"),
        (119.6, "2 min 0 s"),
        (7300, "2 h 1 min"),
        (200_000, "2 d 7 h"),
        (-0.5, "-500 ms"),
    ],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert _figures.seconds(seconds) == text


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [(None, "-"), (0, "0 B"), (999, "999 B"), (999.6, "1 kB"), (2_400_000, "2.4 MB"), (5e15, "5,000 TB")],
)
def test_sizes(nbytes: float | None, text: str) -> None:
    assert _figures.size(nbytes) == text


def test_other_figures() -> None:
    assert _figures.factor(1.4797) == "1.48×"
    assert _figures.factor(None) == "-"
    assert _figures.number(1_000_000) == "1,000,000"
    assert _figures.counted(1, "batch", "batches") == "1 batch"
    assert _figures.counted(2, "batch", "batches") == "2 batches"
    assert _figures.cut("abcdef", 5) == "ab..."
