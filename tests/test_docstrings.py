"""The examples in docstrings of public names, which the reference shows, give what they say."""

from __future__ import annotations

import doctest
import inspect
import tempfile
from pathlib import Path
from typing import Any

import pytest

import shoal
import shoal.testing

PUBLIC: dict[str, Any] = {"shoal": shoal, **{name: getattr(shoal, name) for name in shoal.__all__}}


def examples() -> list[doctest.DocTest]:
    """Return the docstrings with examples: of public names, and of the methods of public classes."""
    finder = doctest.DocTestFinder(exclude_empty=True, recurse=False)
    found: list[doctest.DocTest] = []
    for name, value in PUBLIC.items():
        members = {f"{name}.{key}": member for key, member in vars(value).items()} if inspect.isclass(value) else {}
        for one, member in {name: value, **members}.items():
            if callable(member) or inspect.ismodule(member):
                found += [test for test in finder.find(member, one, globs={}) if test.examples]
    return found


@pytest.mark.parametrize("example", examples(), ids=lambda example: example.name)
def test_the_example_gives_what_it_says(
    example: doctest.DocTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    said: list[str] = []
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example, out=said.append)
    assert result.attempted
    assert not result.failed, "".join(said)


def test_functions_that_people_call_have_examples() -> None:
    shown = {example.name for example in examples()}
    assert {"Parallel", "delayed", "Memory", "dump", "executor", "parallel_config", "shared", "report"} <= shown
