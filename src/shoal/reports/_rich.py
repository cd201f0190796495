"""A report for rich: what ``rich.print(report)`` shows. It has the findings, figures and tables of the page of text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from shoal.errors import printable
from shoal.reports._figures import counted, cut
from shoal.reports._summary import about, facts, findings, headlines, title
from shoal.reports._tables import Report, short_tables

if TYPE_CHECKING:
    from rich.console import RenderableType

_MOST_ROWS, _LONGEST, _LONGEST_SENTENCE = 20, 160, 1_000


def rich_page(report: Report) -> Iterator[RenderableType]:
    """Yield the parts of a report, for ``__rich_console__``. They are as wide as the console.

    Parameters
    ----------
    report : dict
        What ``report.to_dict()`` returns. docs/report-schema.md describes it.

    Raises
    ------
    ImportError
        If rich is not installed.
    """
    from rich.cells import cell_len
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    # Texts, not strings: rich would take what is in brackets for markup.
    yield Text(_shown(title(report)), style="bold")
    yield Text(_shown(facts(report)), style="dim")
    yield Text("\nWhat to mend", style="bold")
    found = findings(report)
    if not found:
        yield Text("Nothing that shoal knows of.")
    for finding in found:
        sentence = Text(f"{_shown(finding.title)}: ", style="bold yellow")
        sentence.append(_shown(finding.sentence, _LONGEST_SENTENCE), style="not bold default")
        sentence.append(f" {_shown(about(finding, report))}".rstrip(), style="not bold dim")
        yield Padding(sentence, (0, 0, 0, 2))
    figures = Table(box=None, show_header=False)
    figures.add_column()
    figures.add_column(justify="right")
    for headline in headlines(report):
        figures.add_row(headline.name, Text(headline.value, style="bold"), Text(_shown(headline.note), style="dim"))
    yield Padding(figures, (1, 0))
    if report["omitted"]:
        yield Text(f"{counted(report['omitted'], 'further run')} had no room in this report.")
    for table in short_tables(report):
        yield Text(f"\n{table.title}", style="bold")
        grid = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
        rows = [[_shown(cell) for cell in row] for row in table.rows[:_MOST_ROWS]]
        for column, cells in zip(table.columns, zip(*rows, strict=True), strict=True):
            # Names from the program are folded where room is scarce, and the names of columns; figures are not.
            least = 8 if column.code else max(map(cell_len, (*cells, *column.name.split())))
            grid.add_column(column.name, justify="right" if column.number else "left", overflow="fold", min_width=least)
        for row in rows:
            grid.add_row(*map(Text, row))
        yield grid
        if len(table.rows) > _MOST_ROWS:
            yield Text(f"... and {counted(len(table.rows) - _MOST_ROWS, 'further row')}", style="dim")


def _shown(text: str, most: int = _LONGEST) -> str:
    return printable(cut(text, most))
