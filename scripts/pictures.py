"""Pictures of what users see: the page of a report in a headless Chromium, and commands in a terminal of 80 columns.

::

    reports ──> html_page ──> Chromium: two widths, light and dark ──> build/pictures/*.png, *.pdf
    commands ──> tmux ──> a page that looks like a terminal ──────────────────^

``make pictures`` runs it. It fails if a page says anything in the browser's console, is wider than the window, or does
not react to its buttons. ``make pictures ARGS=--docs`` also writes the pictures in docs/pictures.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "reports"))

from _synthetic import extremes, sample  # noqa: E402
from scripts._browser import Browser, View  # noqa: E402
from scripts._terminal import Terminal, as_page  # noqa: E402
from shoal.reports._page import html_frame, html_page  # noqa: E402

BUILD, DOCS = ROOT / "build" / "pictures", ROOT / "docs" / "pictures"
WIDTHS = (400, 1400)
MOST_BYTES = 100_000  # of a picture in docs/pictures
#: Programs, by name, that write the report of their runs to a file.
PROGRAMS = {
    "20-calls": """
import sys, time
import shoal
from shoal import Parallel, delayed

def fit_model(data, fold):
    end = time.perf_counter() + (1.2 if fold == 18 else 0.08 + 0.01 * (fold % 4))
    while time.perf_counter() < end:
        len(data)

data = list(range(500_000))
with shoal.report() as report:
    Parallel(n_jobs=2)(delayed(fit_model)(data, fold) for fold in range(20))
report.save(sys.argv.pop())
print(report)
""",
    "a-million-calls": """
import sys
import shoal
from shoal import Parallel, delayed

with shoal.report() as report:
    Parallel(n_jobs=2)(delayed(abs)(number) for number in range(1_000_000))
report.save(sys.argv.pop())
print(report)
""",
    "nested-runs": """
import sys, time
import shoal
from shoal import Parallel, delayed

def fit_tree(seconds):
    time.sleep(seconds)

def fit_forest(fold):
    Parallel(n_jobs=2, backend="threading")(delayed(fit_tree)(0.02 + number / 1000) for number in range(12))

with shoal.report() as report:
    for _ in range(2):
        Parallel(n_jobs=2)(delayed(fit_forest)(fold) for fold in range(6))
report.save(sys.argv.pop())
print(report)
""",
}
#: A program whose calls take long enough to be looked at.
SLOW_PROGRAM = """
import time
from shoal import Parallel, delayed

def fit_model(seconds):
    time.sleep(seconds)

Parallel(n_jobs=4, total=100)(delayed(fit_model)(1 + number / 10) for number in range(100))
"""


def variables() -> dict[str, str]:
    """Return an environment in which ``python`` is this interpreter, so that pictures show no folder of it."""
    return {**os.environ, "PATH": f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"}


def reports() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the reports of which pictures are made, by name: of programs that run now, and made-up ones."""
    for name, source in PROGRAMS.items():
        (BUILD / "train.py").write_text(source, encoding="utf-8")
        subprocess.run(
            ["python", "train.py", f"{name}.json"], cwd=BUILD, env=variables(), check=True, stdout=subprocess.DEVNULL
        )
        yield name, json.loads((BUILD / f"{name}.json").read_text(encoding="utf-8"))
    yield "sample", sample()
    others = extremes()
    for name in ("a million calls", "512 workers", "300 runs", "nested", "hostile", "no runs", "no calls"):
        yield f"made-up-{name.replace(' ', '-')}", others[name]


def picture_report(browser: Browser, name: str, report: dict[str, Any]) -> Iterator[str]:
    """Write the pictures of a report, and yield what is wrong with its page."""
    page = BUILD / f"{name}.html"
    page.write_text(html_page(report), encoding="utf-8")
    for width in WIDTHS:
        for dark in (False, True):
            browser.show(page, View(width, dark))
            browser.picture(BUILD / f"{name}-{width}-{'dark' if dark else 'light'}.png")
            if browser.value("document.documentElement.scrollWidth > innerWidth"):
                yield f"{name}: wider than {width} pixels"
    if report["runs"]:
        yield from used(browser, name)
    browser.show(page, View(900, grey=True))
    browser.picture(BUILD / f"{name}-grey.png")
    browser.printed(BUILD / f"{name}.pdf")
    cell = "<!DOCTYPE html><meta charset='utf-8'><title>a notebook</title><p>In [1]: report{}<p>In [2]:"
    page = BUILD / f"{name}-notebook.html"
    page.write_text(cell.format(html_frame(report)), encoding="utf-8")
    browser.show(page, View(900))
    browser.picture(BUILD / f"{name}-notebook.png")
    yield from (f"{name}: {complaint}" for complaint in browser.complaints)
    browser.complaints.clear()


def used(browser: Browser, name: str) -> Iterator[str]:
    """Press the buttons, drag over the timeline and point at it, and yield what does not react."""
    for action in ("in", "in", "later", "earlier", "out"):
        browser.value(f"document.querySelector('button[data-zoom={action}]').click()")
    browser.value("document.querySelector('#timeline').scrollIntoView()")
    left, top, width, height = browser.box("#timeline .u-over")
    middle = top + min(height / 2, 25)
    browser.drag((left + width * 0.2, middle), (left + width * 0.6, middle))
    browser.picture(BUILD / f"{name}-zoomed.png")
    if not browser.value("document.querySelector('#timeline-says').textContent"):
        yield f"{name}: the timeline does not say what is below the pointer"
    browser.value("document.querySelector('button[data-zoom=whole]').click()")
    # The window becomes narrower, and the system light.
    browser.look(View(700))
    if browser.box("#timeline .u-over")[2] > 700:
        yield f"{name}: the timeline stays wider than the window"
    browser.look(View(1400))


def picture_terminal(browser: Browser, name: str, shown: str) -> None:
    """Write a picture of what a terminal shows."""
    page = BUILD / f"{name}.html"
    as_page(shown, page)
    browser.show(page, View(800))
    browser.picture(BUILD / f"{name}.png", browser.box("pre"))


def terminals(browser: Browser) -> None:
    """Write the pictures of terminals."""
    (BUILD / "train.py").write_text(PROGRAMS["20-calls"], encoding="utf-8")
    with Terminal("python train.py text.json", BUILD, variables()["PATH"], height=80) as terminal:
        picture_terminal(browser, "text", terminal.text("Settings"))
    (BUILD / "train.py").write_text(SLOW_PROGRAM, encoding="utf-8")
    program = subprocess.Popen(["python", "train.py"], cwd=BUILD, env=variables())
    try:
        with Terminal(f"python -m shoal top {program.pid}", BUILD, variables()["PATH"]) as terminal:
            terminal.text("fit_model")
            time.sleep(4)  # until some calls have ended and their workers have used a CPU
            picture_terminal(browser, "top", terminal.text("fit_model"))
    finally:
        program.terminate()
        program.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description="Make the pictures of build/pictures.")
    parser.add_argument("--docs", action="store_true", help="write the pictures of docs/pictures too")
    given = parser.parse_args()
    BUILD.mkdir(parents=True, exist_ok=True)
    wrong = []
    try:
        with Browser() as browser:
            for name, report in reports():
                wrong += picture_report(browser, name, report)
            terminals(browser)
            if given.docs:
                DOCS.mkdir(exist_ok=True)
                browser.show(BUILD / "20-calls.html", View(900))
                _, top, _, height = browser.box("#timeline")
                browser.picture(DOCS / "report.png", (0, 0, 900, top + height))
                (DOCS / "top.png").write_bytes((BUILD / "top.png").read_bytes())
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 1
    wrong += [
        f"{file.relative_to(ROOT)} has {file.stat().st_size:,} bytes: too many for the repository"
        for file in DOCS.glob("*.png")
        if file.stat().st_size > MOST_BYTES
    ]
    print(f"{len([*BUILD.glob('*.png')])} pictures are in {BUILD.relative_to(ROOT)}")
    print(*wrong, sep="\n", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
