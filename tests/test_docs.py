"""The documentation: links lead somewhere, each page is in one table of contents, each name once in the reference."""

from __future__ import annotations

import inspect
import re
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import shoal
import shoal.testing
from _docs import DOCS, PAGES, ROOT, anchors_of, blocks_by, blocks_of, links_of, name_of, program_of
from shoal.backends.base import Backend

SITE = [page for page in PAGES if page.is_relative_to(DOCS)]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    dead = []
    for link in links_of(page):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors_of(target)):
            dead.append(link)
    assert dead == []


@pytest.mark.parametrize("page", [page for page in PAGES if page != ROOT / "README.md"], ids=name_of)
def test_links_lead_to_pages_of_the_site(page: Path) -> None:
    targets = [(page.parent / link.partition("#")[0]).resolve() for link in links_of(page) if link[0] != "#"]
    pages = [target / "index.md" if target.is_dir() else target for target in targets if target.suffix in ("", ".md")]
    gallery = ROOT / "examples" / "gallery" / "index.md"  # sphinx-gallery makes it
    assert [name_of(target) for target in pages if target not in [*PAGES, gallery]] == []


def test_each_page_is_in_one_table_of_contents() -> None:
    listed: Counter[Path] = Counter()
    for page in SITE:
        text = page.read_text(encoding="utf-8")
        for block in re.findall(r"^```\{toctree\}\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            entries = [line for line in block.splitlines() if re.match(r"[\w.]", line)]
            listed.update((page.parent / f"{entry}.md").resolve() for entry in entries)
    del listed[DOCS / "gallery" / "index.md"]  # sphinx-gallery makes it
    assert listed == Counter(page for page in SITE if page != DOCS / "index.md")


def test_each_public_name_is_once_in_the_reference() -> None:
    listed: Counter[str] = Counter()
    for page in (DOCS / "reference").glob("*.md"):
        module = ""
        for line in page.read_text(encoding="utf-8").splitlines():
            if found := re.match(r"\.\. (currentmodule|automodule|autoclass):: ([\w.]+)", line):
                if found[1] == "automodule":  # all of its names
                    assert found[2] == "shoal.errors"
                    listed.update(f"shoal.{name}" for name in shoal.errors.__all__)
                elif found[1] == "autoclass":
                    listed[f"{module}.{found[2]}"] += 1
                else:
                    module = found[2]
            elif found := re.match(r"   (\w+)$", line):
                listed[f"{module}.{found[1]}"] += 1
    public = {f"shoal.{name}" for name in shoal.__all__} | {f"shoal.testing.{name}" for name in shoal.testing.__all__}
    others = [name for name in listed if name not in public]
    assert listed - Counter(others) == Counter(public)
    assert [name for name in others if not name.startswith(("shoal.memory.store.", "shoal.memory.formats."))] == []
    assert set(listed.values()) == {1}


def test_how_to_pages_have_programs() -> None:
    pages = [page for folder in ("how-to", "start") for page in (DOCS / folder).glob("*.md") if page.stem != "index"]
    missing = [name_of(page) for page in pages if not program_of(page)]
    assert missing == ([] if find_spec("distributed") else ["docs/how-to/cluster.md"])


def test_an_unknown_comment_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("_docs.ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text("<!-- test: skipp, a typo -->\n```python\n1 / 0\n```\n")
    with pytest.raises(ValueError, match="unknown comment"):
        program_of(page)


def test_what_a_comment_says_is_done(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- test: before\nx = 1\n-->\n```python\ny = x\n```\n"
        f"<!-- test: by {name_of(Path(__file__))} -->\n```python\nby = 1\n```\n\n"
        "<!-- test: needs a_module_that_is_not_there -->\n```python\nz\n```\n```sh\nls\n```\n"
        "<!-- test: needs sys -->\n```python\nz = y\n```\n"
    )
    assert program_of(page).split() == ["x", "=", "1", "y", "=", "x", "z", "=", "y"]
    assert program_of(page).splitlines()[4] == "y = x"
    assert blocks_by(str(page), __file__) == ["by = 1\n"]


def test_blocks_that_other_files_test_are_named_there() -> None:
    unnamed = []
    for page in PAGES:
        for file in {block.about for block in blocks_of(page) if block.test == "by"}:
            if name_of(page) not in (ROOT / file).read_text(encoding="utf-8"):
                unnamed.append((name_of(page), file))
    assert unnamed == []


def test_the_outline_of_a_backend_is_true() -> None:
    outline: dict[str, Any] = {}
    exec(compile(program_of(DOCS / "design" / "processes.md"), "outline", "exec"), outline)
    members = {name: value for name, value in vars(outline["Backend"]).items() if inspect.isfunction(value)}
    assert {*members} >= Backend.__abstractmethods__
    for name, member in members.items():
        assert inspect.signature(member) == inspect.signature(getattr(Backend, name))
