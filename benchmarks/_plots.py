"""The pictures of the page of figures: one of each group, in docs/figures.

Their colours follow the system's, light or dark, and each has a background of its own: a page of the other kind shows
them well, too. matplotlib draws them in placeholders of colours, which a style sheet in the file replaces.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from . import _page

#: Contenders, and how their values are drawn. The colours are far enough from both backgrounds.
STYLES = {
    "shoal": ("o", "#2f86d6"),
    "joblib": ("s", "#d2691e"),
    "multiprocessing": ("^", "#2e9a4b"),
    "futures": ("v", "#9b6bd3"),
    "mpire": ("D", "#d0509a"),
    "dask": ("P", "#a8862a"),
    "ray": ("X", "#1f9ba6"),
}
OTHER = ("*", "#808a94")
FLOOR = ("|", "#808a94")
INK, PAPER, LINE = "#010203", "#040506", "#070809"
#: How matplotlib draws all pictures.
SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "shoal",
    "font.family": ["sans-serif"],
    "font.size": 9,
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "axes.edgecolor"), INK),
    **dict.fromkeys(("figure.facecolor", "axes.facecolor"), PAPER),
    "grid.color": LINE,
}
COLOURS = """<style>
svg { --ink: #222832; --paper: #ffffff; --line: #d1d5da }
@media (prefers-color-scheme: dark) { svg { --ink: #ced6dd; --paper: #14181e; --line: #48566b } }
</style>"""


def draw(content: Mapping[str, Any], folder: Path) -> None:
    """Write the pictures into a folder, and remove those of groups that have no rows any more."""
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.svg"):
        old.unlink()
    for group, rows in _page.groups(content).items():
        if shown := _page.drawn(rows):
            path = folder / f"{_page.slug(group)}.svg"
            _write(path, shown)
            path.write_text(coloured(path.read_text("utf-8"), _page.digest(shown)), "utf-8")


def _write(path: Path, rows: list[_page.Row]) -> None:
    """Draw a line for each row: the values of each contender, divided by the median of shoal's."""
    import matplotlib as mpl

    with mpl.rc_context(SETTINGS):
        from matplotlib.figure import Figure

        height = 0.45 * len(rows) + 1.3  # inches
        figure = Figure(figsize=(5, height))
        axes = figure.add_axes((0.03, 0.75 / height, 0.94, 0.45 * len(rows) / height))
        axes.set(xscale="log", ylim=(len(rows) - 0.35, -0.65), yticks=[], xlabel="shoal = 1; less is better")
        axes.spines[["left", "right", "top"]].set_visible(False)
        axes.grid(axis="x", linewidth=0.6)
        axes.axvline(1, color=STYLES["shoal"][1], linewidth=0.8)
        seen = {}
        for height_of, row in enumerate(rows):
            place = {"transform": axes.get_yaxis_transform(), "va": "bottom", "bbox": {"color": PAPER, "pad": 0.5}}
            axes.text(0, height_of - 0.25, row["title"], **place)
            unit = median(row["values"]["shoal"])
            for name, values in row["values"].items():
                marker, colour = FLOOR if name in row["floors"] else STYLES.get(name, OTHER)
                label = "lower bound" if name in row["floors"] else name
                middle = median(values) / unit
                if middle > 0:
                    errors = [[middle - min(values) / unit], [max(values) / unit - middle]]
                    seen[label] = axes.errorbar(
                        middle, height_of, xerr=errors, fmt=marker, color=colour, markersize=6, linewidth=1.2
                    )
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.minorticks_off()
        figure.legend(seen.values(), seen, loc="upper left", ncols=4, frameon=False, fontsize=8, handletextpad=0.1)
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


def coloured(svg: str, digest: str) -> str:
    """Replace the placeholders by colours that follow the system's. Note what the picture is made of."""
    svg = re.sub(r"font-family: [^;\"]*", "font-family: sans-serif", svg)
    for placeholder, name in ((INK, "ink"), (PAPER, "paper"), (LINE, "line")):
        svg = svg.replace(placeholder, f"var(--{name})")
    return svg.replace(" <defs>", f"<!-- values {digest} -->\n{COLOURS}\n <defs>", 1)
