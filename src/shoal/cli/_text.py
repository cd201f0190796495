"""What the commands print: lines, tables, JSON and errors; and their exit codes."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from shoal.errors import printable

#: The exit codes: all is done, something is wrong with what was looked at, the arguments are wrong.
DONE, FAILED, WRONG_USAGE = 0, 1, 2


def prepare_output() -> None:
    """Let the output escape characters that its encoding does not have."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def say(text: str = "") -> None:
    """Print a line."""
    print(text)  # noqa: T201


def complain(message: str) -> None:
    """Print an error."""
    print(f"shoal: {printable(message)}", file=sys.stderr)  # noqa: T201


def say_json(value: Any) -> None:
    """Print a value as JSON. Named tuples become arrays, and what JSON does not have becomes text."""
    say(json.dumps(value, indent=2, default=str))


def say_table(header: Sequence[str], rows: Iterable[Sequence[Any]], numbers: Iterable[int] = ()) -> None:
    """Print rows in aligned columns; the arguments are those of :func:`table_lines`."""
    for line in table_lines(header, rows, numbers):
        say(line)


def table_lines(header: Sequence[str], rows: Iterable[Sequence[Any]], numbers: Iterable[int] = ()) -> list[str]:
    """Return the lines of a table with aligned columns.

    Parameters
    ----------
    header
        The names of the columns.
    rows
        The cells.
    numbers
        The indices of the columns that are aligned to the right.
    """
    table = [list(header), *([printable(str(cell)) for cell in row] for row in rows)]
    right = set(numbers)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for row in table:
        cells = [
            cell.rjust(width) if index in right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def count(number: int, noun: str) -> str:
    """Return a number and a noun: ``"1 entry"``, ``"2 entries"``."""
    if number != 1:
        noun = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{number:,} {noun}"
