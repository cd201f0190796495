"""Pictures of what users see: the page of a report in a headless Chromium, and commands in a terminal of 80 columns.

::

    reports ──> html_page ──> Chromium: two widths, light and dark ──> build/pictures/*.png, *.pdf
    commands ──> tmux ──> a page that looks like a terminal ──────────────────^

``make pictures`` runs it. It fails if a page says anything in the browser's console, is wider than the window, or does
not react to its buttons. ``make pictures ARGS=--docs`` also writes the pictures in docs/pictures.
"""

from __future__ import annotations

import argparse
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
from shoal.reports._page import html_page  # noqa: E402

BUILD, DOCS = ROOT / "build" / "pictures", ROOT / "docs" / "pictures"
WIDTHS = (400, 1400)
#: A program whose calls take long enough to be looked at.
PROGRAM = """
import time
from shoal import Parallel, delayed

def fit_model(seconds):
    time.sleep(seconds)

Parallel(n_jobs=4, total=100)(delayed(fit_model)(1 + n / 10) for n in range(100))
"""
#: Shows the sample of a report as text.
TEXT = f"""
import json
from shoal.reports._text import text_page
print(text_page(json.load(open({str(ROOT / "tests/fixtures/report/sample.json")!r}))))
"""


def reports() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the reports of which pictures are made, by name."""
    yield "20-calls", sample()
    others = extremes()
    for name in ("a million calls", "512 workers", "500 runs", "nested", "hostile", "no runs", "no calls"):
        yield name.replace(" ", "-"), others[name]


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
    browser.printed(BUILD / f"{name}.pdf")
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


def picture_terminal(browser: Browser, name: str, shown: str) -> None:
    """Write a picture of what a terminal shows."""
    page = BUILD / f"{name}.html"
    as_page(shown, page)
    browser.show(page, View(800))
    browser.picture(BUILD / f"{name}.png", browser.box("pre"))


def terminals(browser: Browser) -> None:
    """Write the pictures of terminals."""
    with Terminal([sys.executable, "-c", TEXT], height=140) as terminal:
        picture_terminal(browser, "text", terminal.text("Settings"))
    file = BUILD / "train.py"
    file.write_text(PROGRAM, encoding="utf-8")
    folder = os.path.dirname(sys.executable)
    variables = {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    program = subprocess.Popen(["python", file.name], cwd=BUILD, env=variables)
    try:
        with Terminal([sys.executable, "-m", "shoal", "top", str(program.pid)]) as terminal:
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
                browser.show(BUILD / "20-calls.html", View(1000))
                browser.picture(DOCS / "report.png", (0, 0, 1000, 900))
                (DOCS / "top.png").write_bytes((BUILD / "top.png").read_bytes())
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{len([*BUILD.glob('*.png')])} pictures are in {BUILD.relative_to(ROOT)}")
    print(*wrong, sep="\n", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
