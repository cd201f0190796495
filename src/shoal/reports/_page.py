"""A report as one HTML file that needs nothing else.

::

    report ──┬──> findings, figures, tables: plain HTML, readable without scripts
             └──> _charts ──> JSON in the page <── assets/page.js draws it, with uPlot

Everything that comes from the program is escaped, and the page's own policy allows only the two scripts below.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from functools import cache
from html import escape
from importlib.resources import files
from typing import Any

from shoal.errors import printable
from shoal.reports._charts import KINDS, chart_data
from shoal.reports._figures import counted, cut
from shoal.reports._summary import about, facts, findings, headlines, title
from shoal.reports._tables import Column, Report, Table, tables

#: The size of a page, in bytes, that is not exceeded.
MOST_BYTES = 1_000_000
#: How many slices a timeline has, and how many rows a table has, at most; a page that is too large gets fewer.
_MOST_SLICES, _MOST_ROWS = 10_000, 100
_LONGEST, _LONGEST_SENTENCE = 160, 1_000

#: How many rows of a timeline fit on a sheet of paper.
_ROWS_ON_PAPER = 40

#: The class of cells that are aligned to the right; the length from which a name of the program gets more room.
_NUMBER, _SHORT_CODE = ' class="number"', 24

_SCRIPTS, _STYLES = ("uplot.js", "page.js"), ("uplot.css", "page.css")


def html_page(report: Report) -> str:
    """Return a report as an HTML page of at most a megabyte.

    Parameters
    ----------
    report : dict
        What ``report.to_dict()`` returns. docs/report-schema.md describes it.

    Returns
    -------
    str
        The page. It loads nothing, and its scripts send nothing.
    """
    most_slices, most_rows = _MOST_SLICES, _MOST_ROWS
    while True:
        page = _page(report, most_slices, most_rows)
        if most_rows == 1 or len(page.encode()) <= MOST_BYTES:
            return page
        most_slices, most_rows = most_slices // 2, most_rows // 2


def html_frame(report: Report) -> str:
    """Return a report as an HTML element for notebooks: a frame, whose styles and scripts do not touch the notebook.

    Parameters
    ----------
    report : dict
        What ``report.to_dict()`` returns.
    """
    return (
        f'<iframe title="A report of shoal" sandbox="allow-scripts" width="100%" height="640" frameborder="0" '
        f'srcdoc="{escape(html_page(report))}"></iframe>'
    )


def _page(report: Report, most_slices: int, most_rows: int) -> str:
    program = _text(title(report))
    data = chart_data(report, most_slices)
    policy = "default-src 'none'; " + "; ".join(
        f"{kind}-src {' '.join(_digest(_asset(name)) for name in names)}"
        for kind, names in (("script", _SCRIPTS), ("style", _STYLES))
    )
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{program}: report of shoal</title>",
        *(f"<style>{_asset(name)}</style>" for name in _STYLES),
        "</head>",
        "<body>",
        "<header>",
        f"<h1>{program}</h1>",
        f'<p class="faint">{_text(facts(report))}</p>',
        "</header>",
        "<main>",
        *_findings(report),
        *_figures(report),
        *_charts(report, data),
        *(part for table in tables(report) for part in _table(table, most_rows)),
        "</main>",
        *_licence(),
        f'<script type="application/json" id="report-data">{_json(data)}</script>',
        *(f"<script>{_asset(name)}</script>" for name in _SCRIPTS),
        "</body>",
        "</html>",
    ]
    return "\n".join(parts) + "\n"


def _findings(report: Report) -> Iterator[str]:
    yield '<section aria-labelledby="findings"><h2 id="findings">What to mend</h2>'
    found = findings(report)
    if not found:
        yield "<p>Nothing that shoal knows of.</p>"
    else:
        yield '<ul class="findings">'
        for finding in found:
            of = _text(about(finding, report))
            sentence = _text(finding.sentence, _LONGEST_SENTENCE)
            yield f'<li><strong>{_text(finding.title)}</strong> {sentence} <span class="faint">{of}</span></li>'
        yield "</ul>"
    yield "</section>"


def _figures(report: Report) -> Iterator[str]:
    yield '<dl class="figures">'
    for headline in headlines(report):
        note = f"<small>{_text(headline.note)}</small>" if headline.note else ""
        yield f"<div><dt>{_text(headline.name)}</dt><dd>{_text(headline.value)}{note}</dd></div>"
    yield "</dl>"
    if report["omitted"]:
        yield f"<p>{counted(report['omitted'], 'further run')} had no room in this report.</p>"


def _charts(report: Report, data: dict[str, Any]) -> Iterator[str]:
    if not data["lanes"]:
        return
    yield "<noscript><p>The charts need JavaScript. The tables below are complete without it.</p></noscript>"
    rows = sum(1 + len(lane["rows"]) for lane in data["lanes"])
    yield _opening("timeline", "Timeline of the workers", fits=rows <= _ROWS_ON_PAPER)
    yield from _bar()
    yield '<p class="faint on-screen">Drag over a stretch of time to enlarge it. A bar of less than full height stands '
    yield "for several calls: its height is the part of the time in which they ran.</p>"
    missing = len(report["runs"]) - sum(len(lane["titles"]) for lane in data["lanes"])
    if missing:
        yield f"<p>{counted(missing, 'run')} had no room in the timeline.</p>"
    yield _chart("timeline", "Timeline: a row for each worker. The table of workers has the figures.")
    yield _opening("utilisation", "Workers that run calls, over time")
    busy, there = sum(data["utilisation"]["busy"]), sum(data["utilisation"]["workers"])
    average = f"On average, {busy / there if there else 0:.0%} of the workers ran calls."
    nested = " Workers of nested runs do not count." if any(run["parent"] for run in report["runs"]) else ""
    yield f'<p class="faint">The dashed line is the number of workers.{nested} {average}</p>'
    yield _chart("utilisation", f"Number of workers that run calls, over time. {average}")
    if data["histogram"]["calls"]:
        yield _opening("histogram", "How long calls took")
        yield '<p class="faint">How many calls took how long. Both scales are logarithmic.</p>'
        yield _chart("histogram", "Histogram of the durations of calls. A table below has the same figures.")


def _bar() -> Iterator[str]:
    """Yield the buttons above the timeline, and what its colours and patterns mean."""
    yield '<div class="bar"><span class="zoom" role="group" aria-label="What the timeline shows">'
    actions = {"in": "zoom in", "out": "zoom out", "earlier": "earlier", "later": "later", "whole": "show all"}
    for action, name in actions.items():
        yield f'<button type="button" data-zoom="{action}">{name}</button>'
    yield "</span>"
    for kind, name in (*KINDS.items(), ("idle", "waits")):
        yield f'<span class="key"><i class="{kind}"></i>{name}</span>'
    yield '<span class="key"><b class="mark">▼</b>failure, retry, death</span></div>'


def _opening(name: str, title: str, fits: bool = True) -> str:
    """Return the beginning of a section with a chart, which is printed on one page if it fits there."""
    kind = ' class="drawn"' if fits else ""
    return f'<section{kind} aria-labelledby="of-{name}"><h2 id="of-{name}">{title}</h2>'


def _chart(name: str, label: str) -> str:
    return (
        f'<div class="chart" id="{name}" role="img" aria-label="{escape(label)}"></div>'
        f'<output class="says" id="{name}-says"></output></section>'
    )


def _table(table: Table, most_rows: int) -> Iterator[str]:
    name = "table-" + "-".join(word for word in table.title.lower().replace(",", "").split())
    yield f'<section aria-labelledby="{name}"><h2 id="{name}">{_text(table.title)}</h2>'
    if table.note:
        yield f'<p class="faint">{_text(table.note, _LONGEST_SENTENCE)}</p>'
    if len(table.rows) > most_rows:
        yield f"<p>The first {most_rows:,} of {len(table.rows):,} rows.</p>"
    yield f'<div class="table" role="region" tabindex="0" aria-labelledby="{name}"><table>'
    names = "".join(
        f'<th scope="col"{_NUMBER if column.number else ""}>{_text(column.name)}</th>' for column in table.columns
    )
    yield f"<thead><tr>{names}</tr></thead><tbody>"
    for row in table.rows[:most_rows]:
        yield "<tr>" + "".join(map(_cell, row, table.columns)) + "</tr>"
    yield "</tbody></table></div></section>"


def _cell(cell: str, column: Column) -> str:
    kind = _NUMBER if column.number else ""
    if column.code:
        kind = ' class="code long"' if len(cell) > _SHORT_CODE else ' class="code"'
    return f"<td{kind}>{_text(cell)}</td>"


def _licence() -> Iterator[str]:
    yield '<footer><details class="on-screen"><summary>uPlot draws the charts. Its licence</summary>'
    yield f"<pre>{escape(_asset('uplot.LICENSE'))}</pre></details></footer>"


def _text(text: str, most: int = _LONGEST) -> str:
    """Return a text for HTML: cut, with control characters and markup escaped."""
    return escape(printable(cut(text, most)))


def _json(data: dict[str, Any]) -> str:
    """Return data for a script element. ASCII without ``<``, so nothing in it can end the element."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


@cache
def _asset(name: str) -> str:
    return files("shoal.reports").joinpath("assets").joinpath(name).read_text(encoding="utf-8").strip()


def _digest(text: str) -> str:
    """Return the source expression that allows exactly this script or style in a content security policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
