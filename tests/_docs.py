"""The pages of the documentation, their links, and the programs on them.

A comment before a block of code says how it is tested, and is shown neither on code hosts nor on the site::

    <!-- test: by FILE -->           a test in FILE runs the block by itself
    <!-- test: needs MODULE -->      the block runs where MODULE is installed
    <!-- test: before
    CODE
    -->                              CODE runs before the block: it makes what the block takes for granted

All other blocks of Python on a page run as one program, and those of commands run in a shell beside it. So no block is
left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

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


class Block(NamedTuple):
    """A block of code on a page, and the comment before it.

    Lines are counted from 0. `test` and `about` are the first word of the comment and the rest; both may be empty.
    """

    language: str
    code: str
    line: int
    test: str
    about: str
    comment_line: int


def blocks_of(page: Path) -> Iterator[Block]:
    """Yield the blocks of Python and of commands on a page.

    Raises
    ------
    ValueError
        If a comment asks for something unknown.
    """
    text = page.read_text(encoding="utf-8")
    for found in _BLOCK.finditer(text):
        if found["language"] not in ("python", "sh"):
            continue
        word, about = re.match(r"(\S*)\s?(.*)", found["test"] or "", re.DOTALL).groups()
        if word not in ("", "by", "needs", "before"):
            raise ValueError(f"{name_of(page)}: unknown comment <!-- test: {found['test']} -->")
        line, comment_line = (text.count("\n", 0, max(found.start(group), 0)) for group in ("code", "test"))
        yield Block(found["language"], found["code"], line, word, about, comment_line)


def blocks_by(page: str, file: str) -> list[str]:
    """Return the code of the blocks of a page that a file tests; the page's path begins at the root of the project."""
    name = name_of(Path(file).resolve())
    return [block.code for block in blocks_of(ROOT / page) if (block.test, block.about) == ("by", name)]


def program_of(page: Path) -> str:
    """Return the program that the blocks of Python on a page make together, each in its line; "" if there are none."""
    lines = [""] * page.read_text(encoding="utf-8").count("\n")
    for block in blocks_of(page):
        if block.language != "python" or block.test == "by":
            continue
        if block.test == "needs" and find_spec(block.about) is None:
            continue
        if block.test == "before":
            _place(lines, block.about, block.comment_line + 1)
        _place(lines, block.code, block.line)
    return "\n".join(lines).rstrip()


def commands_of(page: Path) -> str:
    """Return the commands on a page, without those that other tests run."""
    return "".join(block.code for block in blocks_of(page) if block.language == "sh" and block.test != "by")


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
