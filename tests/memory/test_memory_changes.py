"""An edited function is computed again, and an unedited one is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from _memory_util import RUNS, cell, make_memory, make_module
from shoal import (
    Memory,
)

memory = pytest.fixture(make_memory)
module = pytest.fixture(make_module)


@pytest.fixture(autouse=True)
def _no_runs() -> None:
    RUNS.clear()


def test_an_edit_counts_after_a_reload(memory: Memory, module: Any) -> None:
    for text, result in (("x + 1", 2), ("x + 2", 3), ("x + 1", 2)):
        made = module(f"def f(x):\n    return {text}\n\ndef g(x):\n    return -x\n")
        assert [memory.cache(made.f)(1), memory.cache(made.g)(1)] == [result, -1]
        assert memory.cache(made.f).check_call_in_cache(1)
        assert len(list(memory.entries())) == 2, "results of the old source are removed"
    assert memory.info().misses == 4


def test_a_file_that_was_edited_after_its_import_is_not_the_source(memory: Memory, module: Any) -> None:
    old = module("def f(x):\n    return 1\n").f
    module("def f(x):\n    return 2\n", again=False)
    assert memory.cache(old)(0) == 1
    new = module("def f(x):\n    return 2\n").f
    assert memory.cache(new)(0) == 2
    assert memory.cache(old)(0) == 1


def test_exchanged_code_and_defaults_count(memory: Memory) -> None:
    def f(x: int, y: int = 1) -> Any:
        return x, y

    def g(x: int, y: int = 1) -> Any:
        return y, x

    cached = memory.cache(f)
    assert cached(5) == (5, 1)
    f.__defaults__ = (2,)
    assert cached(5) == (5, 2)
    f.__code__ = g.__code__
    assert cached(5) == (2, 5)


def test_an_edited_cell_of_a_notebook_counts(memory: Memory) -> None:
    assert memory.cache(cell(1, "def f(x):\n    return 1\n"))(0) == 1
    assert memory.cache(cell(2, "def f(x):\n    return 1\n"))(0) == 1
    assert memory.info().misses == 1, "another kernel's process"
    assert memory.cache(cell(2, "def f(x):\n    return 2\n"))(0) == 2


def test_functions_made_by_exec_are_cached(fresh_python: Any, tmp_path: Path) -> None:
    """Functions made by exec() claim to come from the same file as the program of `python -c`."""
    source = f"""
        from shoal import Memory
        memory = Memory({str(tmp_path)!r}, verbose=0)

        def f(x):
            return 0

        def of(text):
            names = {{}}
            exec(text, names)
            return memory.cache(names["f"])(1)

        print(memory.cache(f)(1), of("def f(x):\\n    return 1"), of("def f(x):\\n    return 2"), memory.cache(f)(1))
        """
    assert fresh_python(source).split() == ["0", "1", "2", "0"]
    assert fresh_python(source).split() == ["0", "1", "2", "0"]


HELPER = "def helper(x):\n    return {}\n\ndef f(x):\n    return helper(x)\n"


def test_an_edit_of_a_dependency_counts(memory: Memory, module: Any) -> None:
    def cached(made: Any, *depends: Any) -> Any:
        return memory.cache(made.f, depends=depends)

    first = module(HELPER.format(1))
    assert cached(first, first.helper)(0) == cached(first)(0) == cached(first, first)(0) == 1
    second = module(HELPER.format(2))
    assert cached(second)(0) == 1, "what a function calls does not count by itself"
    assert cached(second, second.helper)(0) == cached(second, second)(0) == 2
    assert cached(second, memory.cache(second.helper))(0) == 2
    with pytest.raises(TypeError, match="name functions, classes or modules"):
        cached(second, "helper")


def test_a_version_replaces_the_source(memory: Memory, module: Any) -> None:
    made = module("def f(x):\n    return 1\n")
    assert memory.cache(made.f, version=1)(0) == 1
    made = module("def f(x):\n    return 2\n")
    assert memory.cache(made.f, version=1)(0) == 1, "with a version, the source does not count"
    assert memory.cache(made.f, version=2)(0) == 2
    assert memory.cache(made.f, version=1)(0) == 1, "results of other versions stay"
    assert len(list(memory.entries())) == 2
    assert memory.store_backend.source(memory.cache(made.f).func_id) is None
