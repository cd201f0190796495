"""The tests themselves: README.md says where each file of src/ is tested, and each test asserts something."""

from __future__ import annotations

import ast
import itertools
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import shoal
from _selection import part_of, values_of
from conftest import SLOW

HERE = Path(__file__).parent
SOURCE = Path(shoal.__file__).parent
README = (HERE / "README.md").read_text(encoding="utf-8")
FILES = [path for path in HERE.rglob("*.py") if "fixtures" not in path.parts]
TESTS = [path for path in FILES if path.stem.startswith("test_")]

Function = (ast.FunctionDef, ast.AsyncFunctionDef)
TREES = {path.stem: ast.parse(path.read_text(encoding="utf-8")) for path in [*FILES, SOURCE / "testing.py"]}


def rows() -> list[tuple[str, list[str]]]:
    """Return the first cell of each row of README.md, and the files that the last cell names."""
    lines = [line for line in README.splitlines() if line.startswith("| `")]
    return [(line.split("`")[1], re.findall(r"`([^`]*)`", line.rpartition(" | ")[2])) for line in lines]


def with_functions() -> Iterator[str]:
    """Yield the files of src/shoal that have logic: a function or a method."""
    for path in sorted(SOURCE.rglob("*.py")):
        if any(isinstance(node, Function) for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))):
            yield path.relative_to(SOURCE).as_posix()


def asserts(function: ast.AST, helpers: set[str]) -> bool:
    """Return whether `function` has an assertion, or calls something that has."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assert):
            return True
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name in ("raises", "warns", "fail") or name.startswith("assert_"):
                return True
            # Of methods, only those of the test class and fixtures are known: `file.write` is not the helper `write`.
            owner = node.func.value if isinstance(node.func, ast.Attribute) else None
            own = (
                owner is None or (isinstance(owner, ast.Name) and owner.id == "self") or ast.unparse(owner) == "super()"
            )
            if own and name in helpers:
                return True
    return False


def helpers_of() -> dict[str, set[str]]:
    """Return, for each file, the names of the functions that assert: its own, inherited and imported ones."""
    found: dict[str, set[str]] = {name: {"fresh_python"} for name in TREES}
    before = -1
    while before != (before := sum(map(len, found.values()))):
        for name, tree in TREES.items():
            for node in ast.walk(tree):
                if isinstance(node, Function) and asserts(node, found[name]):
                    found[name].add(node.name)
                elif isinstance(node, ast.ImportFrom) and (module := (node.module or "").rpartition(".")[2]) in TREES:
                    found[name] |= (
                        found[module] if module == "testing" else found[module] & {n.name for n in node.names}
                    )
    return found


def test_each_file_with_logic_has_one_row() -> None:
    listed = [file for file, _ in rows() if not file.startswith("test_")]
    assert listed == list(with_functions()), "README.md needs one row for each, in this order"


def test_rows_name_files_that_exist() -> None:
    names = {path.name for path in FILES}
    assert [(file, tests) for file, tests in rows() if not file.startswith("test_") and not tests] == []
    assert [
        (file, test) for file, tests in rows() for test in tests if test.endswith(".py") and test not in names
    ] == []


def test_each_test_file_is_in_a_row() -> None:
    named = {file for file, _ in rows()} | {test for _, tests in rows() for test in tests}
    assert sorted({path.name for path in TESTS} - named) == []


def test_slow_files_exist() -> None:
    names = [f"test_{name}" for names in SLOW.values() for name in names.split()]
    assert sorted({*names} - {path.stem for path in TESTS}) == []
    assert len(names) == len({*names}), "a file is listed twice"


class Item:
    """A test with parameters, as :mod:`_selection` sees it."""

    def __init__(self, *values: str) -> None:
        self.callspec = SimpleNamespace(_idlist=values)


@pytest.mark.parametrize("sizes", [(3, 3), (2, 5), (3, 2, 4), (2, 2, 2, 2)])
def test_a_part_of_a_product_has_each_value(sizes: tuple[int, ...]) -> None:
    product: list[Any] = [Item(*map(str, values)) for values in itertools.product(*map(range, sizes))]
    part = part_of(product)
    assert {v for item in part for v in values_of(item)} == {v for item in product for v in values_of(item)}
    assert len(part) == max(sizes)
    assert part_of(part) == part


def test_a_test_without_parameters_is_no_product(request: pytest.FixtureRequest) -> None:
    assert values_of(request.node) == []


@pytest.mark.parametrize("second", ["3-4"])
@pytest.mark.parametrize("first", ["1-2"])
def test_the_values_of_a_product_are_found(request: pytest.FixtureRequest, first: str, second: str) -> None:
    assert values_of(request.node) == [(0, first), (1, second)]


def test_no_two_files_have_the_same_name() -> None:
    """Each is a module of its own on sys.path, and pytest imports them by their names."""
    counts = Counter(path.name for path in FILES if "programs" not in path.parts)
    assert [name for name, count in counts.items() if count > 1] == []


def test_each_test_asserts_something() -> None:
    helpers = helpers_of()
    without = [
        f"{path.name}:{node.lineno} {node.name}"
        for path in TESTS
        for node in ast.walk(TREES[path.stem])
        if isinstance(node, Function) and node.name.startswith("test_") and not asserts(node, helpers[path.stem])
    ]
    assert without == []


def test_a_test_without_an_assertion_is_found() -> None:
    silent = ast.parse("def test_silent():\n    file.write(1)\n    print(check)")
    assert not asserts(silent, {"check", "write"})
    assert asserts(ast.parse("def test_loud():\n    check(1)"), {"check"})
