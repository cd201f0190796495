"""Checks of the site in build/docs/html: all of its files as they are, and its pages in a headless Chromium.

::

    build/docs/html/**/*.html ──> Page: titles, headings, pictures, links     ─┐
                              └─> Chromium: two widths, light and dark:        ├──> complaints
                                  console, width, contrast, names, the search ─┘

``make docs-check`` runs it after ``make docs``. It fails if there is a complaint. Pictures of the pages are in
``build/docs/pictures``. ``python -m scripts.docs_check index.html how-to/cache.html`` looks at some pages only.
"""

from __future__ import annotations

import argparse
import inspect
import json
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import shoal
from scripts._browser import Browser, View

ROOT = Path(__file__).parents[1]
SITE = ROOT / "build" / "docs" / "html"
PICTURES = ROOT / "build" / "docs" / "pictures"
WIDTHS = (400, 1400)
#: Pages that Sphinx makes, and which have no text of their own.
WITHOUT_TEXT = {"genindex.html", "py-modindex.html", "search.html"}
#: Begin of the lines that the theme writes to the console of each page, at level "log".
_OF_THEME = "[PST]"
#: Returns what a page shows badly: too little contrast (WCAG 2.1, level AA), links and buttons without a name.
_LOOK = """
(() => {
  const parse = text => {
    const parts = text.match(/[\\d.]+/g).map(Number);
    return parts.length < 4 ? [...parts, 1] : parts;
  };
  const over = (top, below) => [0, 1, 2].map(i => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
  const luminance = colour => {
    const [r, g, b] = colour.map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const background = element => {
    const layers = [];
    for (let e = element; e; e = e.parentElement) {
      const colour = parse(getComputedStyle(e).backgroundColor);
      if (colour[3] > 0) layers.push(colour);
      if (colour[3] === 1) break;
    }
    return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255, 1]);
  };
  const seen = element => element.checkVisibility({opacityProperty: true, visibilityProperty: true});
  const found = new Set();
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || !seen(element) || element.closest('script, style, :disabled')) continue;
    const style = getComputedStyle(element), below = background(element);
    const [one, other] = [luminance(over(parse(style.color), below)), luminance(below)].sort((a, b) => b - a);
    const ratio = (one + 0.05) / (other + 0.05), size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    if (ratio < (large ? 3 : 4.5))
      found.add(`contrast ${ratio.toFixed(2)}: ${style.color} on ${below.slice(0, 3).map(Math.round)},`
        + ` <${element.localName} class="${element.className}"> ${texts.currentNode.data.trim().slice(0, 40)}`);
  }
  for (const element of document.querySelectorAll('a[href], button, input:not([type=hidden])'))
    if (seen(element) && !element.innerText?.trim() && !element.ariaLabel && !element.title && !element.placeholder
        && !element.labels?.length && !element.querySelector('img[alt]:not([alt=""]), [aria-label]'))
      found.add(`no name: ${element.outerHTML.slice(0, 120)}`);
  for (const box of [document.documentElement, ...document.querySelectorAll('.bd-article-container')])
    if (box.scrollWidth > box.clientWidth) found.add(`${box.scrollWidth} pixels wide, in ${box.clientWidth}`);
  return [...found];
})()
"""
_SEARCH = """
new Promise(done => {
  const look = left => {
    const count = document.querySelectorAll('#search-results li').length;
    count || !left ? done(count) : setTimeout(look, 100, left - 1);
  };
  Search.performSearch('WorkerDied');
  look(100);
})
"""


class Page(HTMLParser):
    """What a file of HTML contains: titles, headings, pictures, links and ids."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file = file
        self.ids: set[str] = set()
        self.wrong: list[str] = []
        self.links: list[str] = []
        self._headings: list[int] = []
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if name := given.get("id"):
            if name in self.ids:
                self.wrong.append(f"two elements have the id {name}")
            self.ids.add(name)
        if tag == "html" and not given.get("lang"):
            self.wrong.append("no language")
        # The pictures of the gallery's table of contents stand beside their titles.
        if tag == "img" and not given.get("alt") and not (given.get("src") or "").endswith("_thumb.png"):
            self.wrong.append(f"no text for the picture {given.get('src')}")
        if tag[0] == "h" and tag[1:].isdigit():
            self._headings.append(int(tag[1:]))
        loaded = given.get("src") or (given.get("href") if tag == "link" else None) or ""
        if loaded.startswith(("http:", "https:", "//")):
            self.wrong.append(f"loads {loaded} from the network")
        if tag == "a" and (link := given.get("href")) and ":" not in link.partition("/")[0]:
            self.links.append(link)

    def complaints(self) -> Iterator[str]:
        """Yield what is wrong with the page, apart from its links."""
        yield from self.wrong
        if self.file.name not in WITHOUT_TEXT and self._headings.count(1) != 1:
            yield f"{self._headings.count(1)} headings of the first level"
        for before, after in zip([1, *self._headings], self._headings, strict=False):
            if after > before + 1:
                yield f"a heading of level {after} follows one of level {before}"


def checked_files() -> Iterator[str]:
    """Yield what is wrong with the files of the site."""
    pages = {file: Page(file) for file in sorted(SITE.rglob("*.html")) if "_static" not in file.parts}
    for file, page in pages.items():
        name = file.relative_to(SITE).as_posix()
        yield from (f"{name}: {complaint}" for complaint in page.complaints())
        for link in page.links:
            path, anchor = urldefrag(link)
            target = (file.parent / unquote(path)).resolve() if path else file
            if not target.exists():
                yield f"{name}: dead link {link}"
            elif anchor and target in pages and unquote(anchor) not in pages[target].ids:
                yield f"{name}: dead link {link}, there is no such heading"


def checked_reference() -> Iterator[str]:
    """Yield the methods of public classes that have a docstring, in the class or a base in shoal, and no entry."""
    ids = {name for file in (SITE / "reference").rglob("*.html") for name in Page(file).ids}
    for name in shoal.__all__:
        owner = getattr(shoal, name)
        for base in owner.__mro__ if inspect.isclass(owner) else ():
            if base.__module__.startswith("shoal.") and base.__name__ != "Logger":  # which joblib's users subclass
                methods = [word for word, value in vars(base).items() if inspect.isfunction(value) and value.__doc__]
                wanted = {f"shoal.{name}.{word}" for word in methods if not word.startswith("_")}
                yield from (f"reference: {entry} is missing" for entry in sorted(wanted - ids))


def checked_page(browser: Browser, name: str) -> Iterator[str]:
    """Yield what is wrong with a page as Chromium shows it, and take its pictures."""
    for width in WIDTHS:
        for dark in (False, True):
            view = f"{width}-{'dark' if dark else 'light'}"
            browser.show(SITE / name, View(width, dark))
            browser.picture(PICTURES / f"{name.replace('/', '-').removesuffix('.html')}-{view}.png")
            yield from (f"{name} ({view}): {complaint}" for complaint in browser.value(_LOOK))
    for complaint in browser.complaints:
        message = json.loads(complaint.partition(": ")[2])
        said = message.get("args", [{}])[0].get("value", "")
        if message.get("type") != "log" or not said.startswith(_OF_THEME):
            yield f"{name}: {complaint}"
    browser.complaints.clear()


def complaints(names: list[str]) -> Iterator[str]:
    """Yield what is wrong with the files of the site, with pages as Chromium shows them, and with the search.

    Raises
    ------
    FileNotFoundError
        If no Chromium is installed.
    """
    yield from checked_files()
    yield from checked_reference()
    with Browser() as browser:
        for name in names:
            yield from checked_page(browser, name)
        browser.show(SITE / "search.html", View(1400))
        if not browser.value(_SEARCH):
            yield "search.html: the search finds nothing"


def main() -> int:
    parser = argparse.ArgumentParser(description="Check the site in build/docs/html.")
    parser.add_argument("pages", nargs="*", help="the pages to look at, as paths within the site; by default all")
    given = parser.parse_args()
    if not SITE.exists():
        print("there is no site in build/docs/html: run make docs", file=sys.stderr)
        return 1
    PICTURES.mkdir(exist_ok=True)
    names = given.pages or [
        name
        for file in sorted(SITE.rglob("*.html"))
        if (name := file.relative_to(SITE).as_posix()) not in WITHOUT_TEXT and not name.startswith("_")
    ]
    count = 0
    try:
        for count, complaint in enumerate(complaints(names), 1):  # noqa: B007
            print(complaint, flush=True)
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{len(names)} pages, {count} complaints; pictures are in {PICTURES.relative_to(ROOT)}")
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())
