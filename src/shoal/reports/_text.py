"""A report as a page of text, 80 columns wide."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence

from shoal.errors import printable
from shoal.reports._figures import counted, cut, seconds
from shoal.reports._summary import about, facts, findings, headlines, title
from shoal.reports._tables import Column, Report, Table, histogram, short_tables

_WIDTH = 80
_MOST_ROWS, _LONGEST = 10, 160
_LONGEST_SENTENCE, _BAR = 1_000, 40


def text_page(report: Report) -> str:
    """Return a report as text: findings first, then figures and tables. Lines have at most 80 columns.

    Parameters
    ----------
    report : dict
        What ``report.to_dict()`` returns. docs/report-schema.md describes it.

    Notes
    -----
    Control characters are escaped. Apart from names that come from the program, all characters are in Latin-1.
    """
    lines = [*_head(report), "", *_findings(report), "", *_figures(report)]
    for table in short_tables(report):
        lines += ["", *_table(table)]
        if table.title == "Durations of calls":
            lines += ["", *_histogram(report)]
    return "\n".join(lines) + "\n"


def _head(report: Report) -> Iterator[str]:
    for text in (title(report), facts(report)):
        yield from wrapped(printable(cut(text, _LONGEST)))


def _findings(report: Report) -> Iterator[str]:
    yield "What to mend"
    found = findings(report)
    if not found:
        yield "  Nothing that shoal knows of."
    for number, finding in enumerate(found, 1):
        of = about(finding, report)
        sentence = f"{number}. {finding.title}: {finding.sentence} {of}".rstrip()
        for index, line in enumerate(wrapped(printable(cut(sentence, _LONGEST_SENTENCE)), _WIDTH - 5)):
            yield f"{'  ' if not index else '     '}{line}"


def _figures(report: Report) -> Iterator[str]:
    for headline in headlines(report):
        note = f"   {headline.note}" if headline.note else ""
        yield fitted(f"{headline.name.ljust(16)} {headline.value.rjust(12)}{printable(note)}")
    if report["omitted"]:
        yield f"{counted(report['omitted'], 'further run')} had no room in this report."


def _histogram(report: Report) -> Iterator[str]:
    """Yield a line for each bin of the durations; the longest bar is the bin with the most calls."""
    bins = histogram(report["runs"])
    most = max((calls for _, _, calls in bins), default=0)
    for low, high, calls in bins:
        bar = "#" * -(-calls * _BAR // most)
        yield f"  {seconds(low).rjust(8)} to {seconds(high).rjust(8)}  {bar.ljust(_BAR)} {calls:,}".rstrip()


def _table(table: Table) -> Iterator[str]:
    """Yield the lines of a table: the title, the names of the columns, and the first rows."""
    yield table.title
    whole = [[column.name for column in table.columns]]
    halved = [*zip(*(_halves(column.name) for column in table.columns), strict=True)]
    rows = [[printable(cut(cell, _LONGEST)) for cell in row] for row in table.rows[:_MOST_ROWS]]
    # The first way that fits; the last one if none does.
    for names, space, narrowest in ((whole, 2, 20), (halved, 2, 14), (halved, 1, 8)):
        widths = _widths(table.columns, [*names, *rows], space, narrowest)
        if _width(widths, space) <= _WIDTH:
            break
    for row in (*filter(any, names), *rows):
        cells = map(_aligned, row, widths, table.columns)
        yield fitted(f"  {(' ' * space).join(cells)}".rstrip())
    if len(table.rows) > _MOST_ROWS:
        yield f"  ... and {counted(len(table.rows) - _MOST_ROWS, 'further row')}"


def _halves(name: str) -> tuple[str, str]:
    """Return the two lines of the name of a column."""
    first, _, last = name.rpartition(" ")
    return first, last


def _aligned(cell: str, width: int, column: Column) -> str:
    cell = fitted(cell, width)
    space = " " * (width - columns_of(cell))
    return space + cell if column.number else cell + space


def _width(widths: list[int], space: int) -> int:
    return sum(widths) + space * (len(widths) - 1) + 2


def _widths(columns: list[Column], rows: list[Sequence[str]], space: int, narrowest: int) -> list[int]:
    """Return the widths of columns; those of names from the program are narrowed until a row fits, if they can be."""
    widths = [max(map(columns_of, cells)) for cells in zip(*rows, strict=True)]
    names = [index for index, column in enumerate(columns) if column.code]
    while names and (excess := _width(widths, space) - _WIDTH) > 0:
        widest = max(names, key=widths.__getitem__)
        if widths[widest] <= narrowest:
            break
        widths[widest] = max(widths[widest] - excess, narrowest)
    return widths


def columns_of(text: str) -> int:
    """Return how many columns of a terminal a text takes: wide characters take two, combining ones none."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )


def fitted(text: str, width: int = _WIDTH) -> str:
    """Return a text that takes at most `width` columns; three dots stand for a missing end."""
    if columns_of(text) <= width:
        return text
    while text and columns_of(text) > width - 3:
        text = text[:-1]
    return f"{text}..."


def wrapped(text: str, width: int = _WIDTH) -> list[str]:
    """Return the lines of a text, broken between words, and within words that are longer than a line."""
    lines = [""]
    for word in text.split():
        if columns_of(f"{lines[-1]} {word}") <= width:
            lines[-1] = f"{lines[-1]} {word}".lstrip()
            continue
        if lines[-1]:
            lines.append("")
        for char in word:
            if columns_of(lines[-1] + char) > width:
                lines.append("")
            lines[-1] += char
    return lines
