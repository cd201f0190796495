"""The page of figures, docs/figures.md: it agrees with the file of figures, and hides nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from benchmarks import _page, _readme

from _docs import DOCS, ROOT

LATEST: dict[str, Any] = json.loads((ROOT / "benchmarks" / "results" / "latest.json").read_text(encoding="utf-8"))
FACTS = {
    "date": "2026-01-02 03:04:05 UTC",
    "implementation": "CPython",
    "python": "3.13.0 (main)",
    "platform": "Linux",
    "cpu": "a CPU",
    "cpus_usable": 2,
    "load_at_start": [0.25, 0, 0],
    "packages": {"shoal": "1.0", "ray": None},
}


def row(title: str, shoal: list[float], joblib: list[float], **more: Any) -> dict[str, Any]:
    values = {"shoal": shoal, "joblib": joblib}
    medians = {name: sorted(rounds)[len(rounds) // 2] for name, rounds in values.items()}
    given = {"title": title, "values": values, "medians": medians, "unit": "s", "group": "Calls", "run": FACTS["date"]}
    return given | {"floors": [], "rest": "", "notes": {}, "failures": {}, "asked": []} | more


def test_the_page_is_that_of_the_file() -> None:
    assert (DOCS / "figures.md").read_text(encoding="utf-8") == _page.page(LATEST)


def test_the_table_of_the_readme_is_that_of_the_file() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert _readme.written(text, LATEST) == text


def test_the_table_of_the_readme_has_the_rows_that_were_measured() -> None:
    medians = {"shoal": 0.5, "shared": 2e-6, "joblib": 2.0}
    text = f"before\n{_readme.BEGIN}old\n{_readme.END}after"
    found = _readme.written(text, {"rows": {"big_dict": {"medians": medians, "unit": "s"}}}).replace(_page.NBSP, " ")
    lines = [line for line in found.splitlines() if line.startswith("| ")][1:]
    assert lines == [
        "| a dict of 200,000 tuples into 200 calls | 2 s | 500 ms | 4 |",
        "| the same with `shared(d)` | 2 s | 2 µs | 1,000,000 |",
    ]
    assert (found.startswith("before\n"), found.endswith("after"), "old" in found) == (True, True, False)


def test_the_pictures_are_those_of_the_file() -> None:
    drawn = {_page.slug(group): _page.drawn(rows) for group, rows in _page.groups(LATEST).items()}
    expected = {f"{name}.svg": _page.digest(rows) for name, rows in drawn.items() if rows}
    assert {path.name for path in (DOCS / "figures").iterdir()} == set(expected)
    for name, digest in expected.items():
        assert f"<!-- values {digest} -->" in (DOCS / "figures" / name).read_text(encoding="utf-8")


def test_each_row_is_measured_or_listed_as_missing() -> None:
    pytest.importorskip("resource", reason="the benchmarks do not run on Windows")
    from benchmarks.rows import ROWS

    assert {*LATEST["rows"], *LATEST["missing"]} == set(ROWS), "make bench ARGS=--page lists the rows anew"


def test_what_is_slower_missed_failed_or_missing_is_on_the_page() -> None:
    asked = [
        {"of": "joblib/shoal", "is": 0.5, "wanted": ">= 2", "reached": False},
        {"of": "shoal", "is": 0.02, "wanted": "<= 0.025", "reached": True},
        {"of": "shoal/loop", "is": None, "wanted": "<= 4", "reached": None},
    ]
    slow = row("f of __main__", [0.02, 0.02, 0.04], [0.01, 0.008, 0.01], asked=asked, failures={"mpire": "an error"})
    fast = row("fast", [2e-5], [3.0], floors=["loop"], rest="Pipes.")
    fast["medians"]["loop"] = 1e-6
    text = _page.page({"runs": {FACTS["date"]: FACTS}, "rows": {"a": slow, "b": fast}, "missing": {"c": "one_more"}})
    text = text.replace(_page.NBSP, " ")
    title = r"f of \_\_main\_\_"
    assert f"Of 2 rows, shoal is slower or larger than joblib in 1:\n\n- {title}: 0.5 (0.2 to 0.5)\n" in text
    assert f"1 target is missed:\n\n- {title}: joblib/shoal is 0.5, the target ≥ 2\n" in text
    targets = "≥ 2: missed; shoal ≤ 25 ms; shoal/loop ≤ 4: not measured"
    cells = [title, "20 ms", "10 ms", "0.5 (0.2 to 0.5)", "mpire failed", "", "", targets, "1, 3 rounds"]
    assert f"| {' | '.join(cells)} |" in text
    assert "| fast | 20 µs | 3 s | 150,000 |  | loop 1 µs | 20 |  | 1, 1 round |" in text
    assert "1 multiples are above 1.5. What the rest is:\n\n- fast: 20. Pipes.\n" in text
    machine = "a CPU, 2 CPUs, Linux, load 0.2 at the start"
    assert f"| 1 | 2026-01-02 03:04:05 UTC | {machine} | CPython 3.13.0, shoal 1.0 |" in text
    assert text.endswith("Not measured yet: one\\_more.\n")


def test_a_run_of_one_row_keeps_the_others(tmp_path: Path) -> None:
    pytest.importorskip("resource", reason="the benchmarks do not run on Windows")
    from benchmarks._report import Figures
    from benchmarks._results import add, read
    from benchmarks.rows import ROWS

    path = tmp_path / "folder" / "figures.json"
    for date, name, value in [("1", "calls_1000", 1.0), ("1", "warm_two", 1.0), ("2", "calls_1000", 2.0)]:
        add(path, Figures(ROWS[name], {"shoal": [value]}), {"date": date})
    content = read(path)
    assert [*content["rows"]] == ["warm_two", "calls_1000"]  # the order of the table
    assert [content["rows"][name]["run"] for name in content["rows"]] == ["1", "2"]
    assert content["rows"]["calls_1000"]["medians"] == {"shoal": 2.0}
    assert set(content["missing"]) == set(ROWS) - {"warm_two", "calls_1000"}
    add(path, Figures(ROWS["warm_two"], {"shoal": [3.0]}), {"date": "3"})
    assert [*read(path)["runs"]] == ["2", "3"]
    assert [each.name for each in path.parent.iterdir()] == ["figures.json"]
