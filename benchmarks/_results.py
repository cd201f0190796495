"""The file of figures: of each row, it has the figures of the newest run, and the facts of that run.

::

    {"runs": {date: facts of the machine}, "rows": {name: figures, and the date of their run}, "missing": {name: title}}
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ._report import Figures
from .rests import RESTS
from .rows import GROUPS


def read(path: Path) -> dict[str, Any]:
    """Return the content of a file; of no rows if there is no file, or one of an older form."""
    content: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    return content if "runs" in content else {"runs": {}, "rows": {}, "missing": {}}


def add(path: Path, figures: Figures, facts: Mapping[str, Any]) -> None:
    """Write the figures of a row to a file."""
    content = read(path)
    content["runs"][facts["date"]] = facts
    content["rows"][figures.row.name] = figures.as_json() | {"run": facts["date"]}
    write(path, content)


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file with the rows that there are now, in their order. The file is complete at any moment."""
    rows = {
        row.name: content["rows"][row.name]
        | {"group": group, "floors": list(row.floors), "rest": RESTS.get(row.name, "")}
        for group, members in GROUPS.items()
        for row in members
        if row.name in content["rows"]
    }
    used = {row["run"] for row in rows.values()}
    missing = {row.name: row.title for members in GROUPS.values() for row in members if row.name not in rows}
    runs = {date: content["runs"][date] for date in sorted(used)}
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(json.dumps({"runs": runs, "rows": rows, "missing": missing}, indent=1) + "\n", "utf-8")
    os.replace(new, path)
