"""The pictures of docs/scale.md."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import _plots

COLOURS = ("#2f86d6", "#d2691e", "#2e9a4b", "#9b6bd3", "#808a94")
Lines = dict[str, tuple[list[int], list[float]]]


def draw(content: Mapping[str, Any], folder: Path) -> None:
    """Write the pictures into a folder."""
    folder.mkdir(exist_ok=True)
    chosen = [row for row in content["efficiency"] if row["case"] == "uniform, 100 ms"]
    rules = ("shoal", "joblib", "guided", "factoring", "stealing")
    efficiency = {name: ([row["workers"] for row in chosen], [row[name] for row in chosen]) for name in rules}
    _picture(folder / "efficiency.svg", efficiency, "efficiency, uniform 100 ms", False)
    _picture(folder / "limit.svg", _by_case(content["limit"], "shoal"), "efficiency", False)
    _picture(folder / "cpu.svg", _by_case(content["cpu"], "call"), "µs per call", True)


def _by_case(rows: list[dict[str, Any]], key: str) -> Lines:
    lines: Lines = {}
    for row in rows:
        xs, ys = lines.setdefault(row["case"], ([], []))
        xs.append(row["workers"])
        ys.append(row[key])
    return lines


def _picture(path: Path, lines: Lines, label: str, log: bool) -> None:
    """Draw lines over the number of workers."""
    import matplotlib as mpl

    with mpl.rc_context(_plots.SETTINGS):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6, 3.2), layout="constrained")
        axes = figure.add_subplot()
        for colour, marker, (name, (xs, ys)) in zip(COLOURS, "osDv^", lines.items(), strict=False):
            axes.plot(xs, ys, marker=marker, color=colour, markersize=4, linewidth=1.2, label=name)
        axes.set(xscale="log", xlabel="workers", ylabel=label)
        axes.set_yscale("log") if log else axes.set_ylim(0, 1.05)
        axes.spines[["right", "top"]].set_visible(False)
        axes.grid(linewidth=0.6)
        axes.legend(frameon=False, fontsize=8)
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
    path.write_text(_plots.coloured(path.read_text("utf-8"), label), "utf-8")
