"""The page of a report: well formed, complete without a network, within its size, and safe from what programs name."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from _synthetic import HOSTILE, extremes, finding, report_of, run_of, sample
from shoal.reports._charts import chart_data, lanes_of, tracks_of
from shoal.reports._page import MOST_BYTES, html_frame, html_page

REPORTS = {"the sample": sample(), **extremes()}
#: The elements that have no end.
VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """Reads a page, and checks that each element is closed within the one that contains it."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), f"an attribute is twice in {tag}"
        self.elements.append((tag, dict(attrs)))
        self.texts.setdefault(tag, []).append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        for tag in self.open[-1:]:
            self.texts[tag][-1] += data

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)

    def data(self) -> dict[str, Any]:
        """Return what the charts get."""
        (text,) = [
            text
            for text, attributes in zip(
                self.texts["script"], [found for tag, found in self.elements if tag == "script"], strict=True
            )
            if attributes.get("id") == "report-data"
        ]
        found: dict[str, Any] = json.loads(text, parse_constant=pytest.fail)
        return found


@pytest.fixture(params=[pytest.param(report, id=name) for name, report in REPORTS.items()])
def report(request: pytest.FixtureRequest) -> dict[str, Any]:
    found: dict[str, Any] = request.param
    return found


def test_a_page_is_well_formed_and_small(report: dict[str, Any]) -> None:
    text = html_page(report)
    page = Page(text)
    assert page.open == []
    assert text.startswith("<!DOCTYPE html>")
    assert len(text.encode()) <= MOST_BYTES
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len({*ids})
    labels = {attributes["aria-labelledby"] for _, attributes in page.elements if "aria-labelledby" in attributes}
    assert labels <= {*ids}


def test_a_page_loads_nothing_and_has_no_handlers(report: dict[str, Any]) -> None:
    page = Page(html_page(report))
    for _, attributes in page.elements:
        assert not {name for name in attributes if name.startswith("on") or name in ("src", "href", "style")}
    assert not {"img", "link", "iframe", "object", "base"} & {tag for tag, _ in page.elements}
    assert "@import" not in "".join(page.texts["style"])
    assert "url(" not in "".join(page.texts["style"])


def test_the_policy_of_a_page_allows_its_own_scripts_only(report: dict[str, Any]) -> None:
    page = Page(html_page(report))
    (policy,) = [found["content"] for tag, found in page.elements if found.get("http-equiv") and tag == "meta"]
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    scripts = [
        text
        for text, (_, attributes) in zip(
            page.texts["script"], [entry for entry in page.elements if entry[0] == "script"], strict=True
        )
        if "type" not in attributes
    ]
    for text in (*scripts, *page.texts["style"]):
        assert base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() in policy
    assert len(scripts) == 2


def test_findings_come_first() -> None:
    page = html_page(sample())
    body = page[page.index("<body>") :]
    places = [
        body.index(text) for text in ("too short for their way", "serial estimate", "of-timeline", "Slowest calls")
    ]
    assert places == sorted(places)
    assert "Nothing that shoal knows of." in html_page(report_of(run_of(3)))


def test_the_same_finding_of_several_runs_is_shown_once() -> None:
    runs = [run_of(3, number=number) for number in range(4)]
    page = html_page(report_of(*runs, findings=[finding("gil", run["id"], f"Of {run['id']}.") for run in runs]))
    assert page.count("<strong>GIL</strong>") == 1
    assert "Of 4321-0." in page
    assert "the same in 3 other runs" in page


def test_names_of_a_program_are_escaped() -> None:
    page = html_page(extremes()["hostile"])
    assert "<script>alert" not in page
    assert "\x1b" not in page
    assert "\x00" not in page
    assert Page(page).count("script") == 3
    title = Page(page).data()["lanes"][0]["titles"][0][2]
    assert "</script><script>alert(1)" in title
    assert title.isprintable()


def test_a_page_that_would_be_too_large_shows_less(monkeypatch: pytest.MonkeyPatch) -> None:
    report = report_of(run_of(100_000, 8, mean=1e-4, text=HOSTILE))
    whole = html_page(report)
    monkeypatch.setattr("shoal.reports._page.MOST_BYTES", 150_000)
    page = html_page(report)
    assert len(page.encode()) <= 150_000 < len(whole.encode())
    assert Page(page).count("table") == Page(whole).count("table")
    rows = Page(page).data()["lanes"][0]["rows"]
    assert sum(sum(row["calls"]) for row in rows) >= 100_000


def test_rows_of_a_long_table_are_cut_and_counted() -> None:
    page = html_page(report_of(run_of(1_000, 150)))
    assert "The first 100 of 150 rows." in page


def test_a_report_without_some_runs_says_so() -> None:
    assert "7 further runs had no room in this report." in html_page(report_of(run_of(1), omitted=7))


def test_each_call_is_in_the_timeline(report: dict[str, Any]) -> None:
    data = chart_data(report, 10**9)
    drawn = [row for lane in data["lanes"] for row in lane["rows"]]
    run = data["kinds"].index("run")
    if len(report["runs"]) < 100:
        calls = sum(
            number for row in drawn for kind, number in zip(row["kind"], row["calls"], strict=True) if kind == run
        )
        assert calls == sum(sum(run["slices"]["calls"]) for run in report["runs"])
    for row in drawn:
        assert min([*row["gap"], *row["length"], 0]) == 0
        assert sum(row["gap"]) + sum(row["length"]) <= 2**23 + 1
        assert len({len(row[name]) for name in ("gap", "length", "kind", "first", "calls")}) == 1


def test_slices_that_are_too_many_are_joined() -> None:
    report = report_of(run_of(1_000_000, 4, mean=1e-5))
    data = chart_data(report, 100)
    rows = data["lanes"][0]["rows"]
    assert sum(len(row["gap"]) for row in rows) <= 100
    assert sum(sum(row["calls"]) for row in rows) == 1_000_000
    assert all(60 <= share <= 100 for row in rows for share in row["share"])


def test_runs_that_follow_each_other_share_a_lane_and_nested_runs_are_below() -> None:
    first, second = run_of(4, number=1, start=0.0), run_of(4, number=2, start=10.0)
    beside = run_of(4, number=3, start=10.0)
    nested = [run_of(4, number=number, parent="4321-2", start=10.001) for number in (4, 5)]
    lanes = lanes_of(report_of(first, second, beside, *nested))
    assert [[run["id"] for run in lane.runs] for lane in lanes] == [["4321-1", "4321-2"], ["4321-3"]]
    assert [[run["id"] for run in lane.runs] for lane in lanes[0].below] == [["4321-4"], ["4321-5"]]


def test_a_worker_that_took_the_place_of_another_is_on_the_same_row() -> None:
    run = sample()["runs"][0]
    run["workers"][1]["worker"] = 0  # the process of the second row came after that of the first
    for name in ("start", "end"):
        run["batches"][name][5:] = [time + 10 for time in run["batches"][name][5:]]
        run["slices"][name][10:] = [time + 10 for time in run["slices"][name][10:]]
    tracks = tracks_of(run)
    assert [*tracks] == [0]
    starts = [piece.start for piece in tracks[0]]
    assert starts == sorted(starts)
    assert [piece.kind for piece in tracks[0]].count("run") == 20


def test_the_utilisation_is_the_time_that_calls_took(report: dict[str, Any]) -> None:
    shown = chart_data(report, 1_000)
    known = {run["id"] for run in report["runs"]}
    outer = [run for run in report["runs"] if run["parent"] not in known]
    stretch = shown["span"] / (len(shown["utilisation"]["times"]) - 1)
    assert sum(shown["utilisation"]["busy"]) * stretch == pytest.approx(
        sum(sum(run["slices"]["busy"]) for run in outer), rel=0.02
    )
    assert shown["utilisation"]["times"] == sorted(shown["utilisation"]["times"])


def test_histograms_of_runs_add_up() -> None:
    one, other = run_of(8, number=1), run_of(12, number=2)
    other["histogram"] = {name: [*values[18:]] for name, values in other["histogram"].items()}
    shown = chart_data(report_of(one, other), 100)["histogram"]
    assert sum(shown["calls"]) == 20
    assert len(shown["calls"]) == 4


def test_a_frame_holds_the_page() -> None:
    elements = Page(html_frame(sample())).elements
    assert [tag for tag, _ in elements] == ["iframe"]
    assert elements[0][1]["srcdoc"] == html_page(sample())
    assert elements[0][1]["sandbox"] == "allow-scripts"


def test_the_script_of_the_page_is_no_string_of_html() -> None:
    page = html_page(report_of())
    script = page[page.rindex("<script>") :]
    assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|eval\(", script)
