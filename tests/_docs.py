"""The pages of the documentation, their links, and the programs on them.

A comment before a block of code says how it is tested, and is shown neither on code hosts nor on the site::

    <!-- test: skip, REASON -->      the block cannot run
    <!-- test: needs MODULE -->      the block runs where MODULE is installed
    <!-- test: before
    CODE
    -->                              CODE runs before the block: it makes what the block takes for granted
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
#: Folders of docs/ that Sphinx makes.
_MADE = {"gallery", "generated"}
#: The pages of docs/, and those beside it that the site or code hosts show.
PAGES = [
    *(path for path in sorted(DOCS.rglob("*.md")) if not _MADE & set(path.parts)),
    *(ROOT / f"{name}.md" for name in ("README", "CHANGELOG", "CONTRIBUTING", "RELEASING", "SECURITY")),
    *(ROOT / folder / "README.md" for folder in ("benchmarks", "tests")),
]

_BLOCK = re.compile(
    r"(?:^<!-- test: (?P<test>(?:(?!-->).)*?)\s?-->\n+)?^```(?P<language>[a-z{}-]*)\n(?P<code>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)


def name_of(page: Path) -> str:
    """Return the path of a page from the root of the project."""
    return page.relative_to(ROOT).as_posix()


def prose_of(page: Path) -> str:
    """Return the text of a page without its blocks of code."""
    return _BLOCK.sub("", page.read_text(encoding="utf-8"))


def program_of(page: Path) -> str:
    """Return the program that the blocks of Python on a page make together, each in its line; "" if there are none.

    Raises
    ------
    ValueError
        If a comment asks for something unknown.
    """
    text = page.read_text(encoding="utf-8")
    lines = [""] * text.count("\n")
    for block in _BLOCK.finditer(text):
        if block["language"] != "python":
            continue
        word, rest = re.match(r"(\S*)\s?(.*)", block["test"] or "", re.DOTALL).groups()
        if word == "skip," or (word == "needs" and find_spec(rest) is None):
            continue
        if word not in ("", "needs", "before"):
            raise ValueError(f"{name_of(page)}: unknown comment <!-- test: {block['test']} -->")
        if word == "before":
            _place(lines, rest, text.count("\n", 0, block.start("test")) + 1)
        _place(lines, block["code"], text.count("\n", 0, block.start("code")))
    return "\n".join(lines).rstrip()


def _place(lines: list[str], code: str, line: int) -> None:
    """Write `code` into `lines`, from a line (counted from 0) on."""
    for number, one in enumerate(code.splitlines(), line):
        lines[number] = one


def anchors_of(page: Path) -> set[str]:
    """Return the anchors of the headings of a page, as code hosts and MyST make them."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.*)$", prose_of(page), re.MULTILINE):
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        anchor = base = re.sub(r"[^\w\- ]", "", text).strip().replace(" ", "-")
        count = 0
        while anchor in found:
            count += 1
            anchor = f"{base}-{count}"
        found.add(anchor)
    return found


def links_of(page: Path) -> list[str]:
    """Return the targets of the links and pictures of a page that lead to files and headings of the project."""
    return [link for link in re.findall(r"\]\(([^()\s]+)\)", prose_of(page)) if not re.match(r"https?:|mailto:", link)]
