"""How Sphinx builds the site.

::

    docs/**/*.md ──────────────┐
    CHANGELOG.md and others ───┼─ MyST ──────────┐
    examples/gallery/*.py ─────┼─ sphinx-gallery ┼──> build/docs/html
    docstrings of src/shoal ───┴─ numpydoc ──────┘

The pages in docs/ are read on code hosts too, so links between them are paths of files. `_links` translates the few
that lead out of docs/. Nothing is read from the network, while building or while reading.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import shoal
import shoal.errors

HERE = Path(__file__).parent
ROOT = HERE.parent

project = "shoal"
author = "the shoal developers"
copyright = author
version = release = shoal.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_templates"]
templates_path = ["_templates"]
root_doc = "index"
nitpicky = True
# Types in docstrings are those of Python and of other libraries: without the network, nothing can resolve them.
nitpick_ignore_regex = [(r"py:.*", r"(?!shoal\.).*")]
nitpick_ignore = [("py:mod", "shoal.compat.joblib")]  # joblib's names, which joblib documents

myst_heading_anchors = 4
autosummary_generate = True
autodoc_member_order = "bysource"
autodoc_typehints = "none"
numpydoc_show_class_members = False

sphinx_gallery_conf = {
    "examples_dirs": "../examples/gallery",
    "gallery_dirs": "gallery",
    "filename_pattern": r"\.py$",  # run all of them
    "within_subsection_order": "ExampleTitleSortKey",
    "download_all_examples": False,
    "show_signature": False,
    "write_computation_times": False,
    "min_reported_time": 10**6,
}

html_title = "shoal"
html_theme = "pydata_sphinx_theme"
html_static_path = ["_static"]
html_css_files = ["shoal.css"]
html_copy_source = False
html_show_sourcelink = False
html_context = {"default_mode": "auto"}  # light or dark, as the system says
html_theme_options: dict[str, Any] = {
    "logo": {"text": "shoal"},
    "navbar_align": "left",
    "navbar_end": ["theme-switcher"],
    "header_links_before_dropdown": 6,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "show_prev_next": True,
    "navigation_with_keys": False,
}

#: Pages of the site whose text is a file outside of docs/. On code hosts, the file in docs/ links to it.
OUTSIDE = {
    "benchmarks": "benchmarks/README.md",
    "changelog": "CHANGELOG.md",
    "contributing": "CONTRIBUTING.md",
    "releasing": "RELEASING.md",
    "security": "SECURITY.md",
    "tests": "tests/README.md",
}
_PAGES = {ROOT / path: HERE / f"{name}.md" for name, path in OUTSIDE.items()}
_PAGES[ROOT / "README.md"] = HERE / "index.md"
_GALLERY = ROOT / "examples" / "gallery"
_PAGES |= {path: HERE / "gallery" / f"{path.stem}.rst" for path in _GALLERY.glob("*.py")}
_PAGES[_GALLERY] = HERE / "gallery" / "index.rst"


def _read(app: Any, name: str, source: list[str]) -> None:
    """Take the text of a page from outside of docs/, if it is there; translate links, and leave out comments."""
    page = HERE / f"{name}.md"
    if not page.exists():  # a page that sphinx-gallery or autosummary has made
        return
    origin = page
    if name in OUTSIDE:
        origin = ROOT / OUTSIDE[name]
        app.env.note_dependency(str(origin))
        source[0] = origin.read_text(encoding="utf-8")
    without_comments = re.sub(r"^<!-- .*?-->\n", "", source[0], flags=re.DOTALL | re.MULTILINE)
    source[0] = _links(without_comments, origin.parent, page.parent)


def _links(text: str, written_in: Path, shown_in: Path) -> str:
    """Return a text of Markdown whose links to files lead to pages of the site, where there are any.

    Parameters
    ----------
    text
        The text.
    written_in
        The folder in which the text is, from which its links lead.
    shown_in
        The folder of the page that shows the text.
    """

    def translated(link: re.Match[str]) -> str:
        path, mark, anchor = link[1].partition("#")
        target = Path(os.path.normpath(written_in / path))
        if not path or not target.exists():
            return link[0]
        target = _PAGES.get(target, target / "index.md" if target.is_dir() else target)
        return f"]({Path(os.path.relpath(target, shown_in)).as_posix()}{mark}{anchor})"

    return re.sub(r"\]\(([^()\s:]+)\)", translated, text)


def setup(app: Any) -> None:
    """Called by Sphinx."""
    for name in shoal.errors.__all__:
        getattr(shoal.errors, name)  # some are made when they are first used, and autodoc lists what is there
    app.connect("source-read", _read)
