"""``depends="auto"``: what a cached function reaches in the user's project counts, and nothing else does."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import shoal
from _memory_util import make_project
from shoal import CacheWarning, MemorizedFunc, Memory
from shoal.memory.key import _constants, _reach

HELPERS = '''
import math
import numpy as np
from reached_deep import FACTOR, deeper

SCALE = 2
TABLE = {"a": 1, "b": [1, 2]}
CALLS = 0

def helper(x):
    """Scale."""
    # a comment
    return SCALE * deeper(x) + len(TABLE)

def unused(x):
    return x

def by_name(x):
    return x

HANDLERS = {"n": by_name}

def counts(x):
    global CALLS
    CALLS += 1
    return x

class Model:
    rate = 3

    def __init__(self, x):
        self.x = x

    def fit(self):
        return self.inner() * math.sqrt(4)

    def inner(self):
        return self.x * self.rate

    @property
    def shown(self):
        return str(self.x)
'''
DEEP = """
import numpy as np

FACTOR = 10

def deeper(x):
    return x * FACTOR
"""
MAIN = """
import reached_helpers
import reached_helpers as alias
from reached_helpers import Model

def direct(x):
    return reached_helpers.helper(x)

def by_table(x):
    return alias.HANDLERS["n"](x)

def of_class(x):
    return Model(x).fit()

def inside(x):
    return [reached_helpers.helper(i) for i in range(x)]

def late(x):
    from reached_helpers import helper
    return helper(x)

def with_counter(x):
    return reached_helpers.counts(x)

def with_array(x):
    return reached_helpers.np.sin(x)

def with_module(x):
    return getattr(reached_helpers, "helper")(x)

def outer():
    from_outside = reached_helpers.helper
    def closed(x):
        return from_outside(x)
    return closed
"""
MODULES = {"reached_helpers": HELPERS, "reached_deep": DEEP, "reached_main": MAIN}


modules = pytest.fixture(make_project)


@pytest.fixture
def project(modules: Callable[..., Any]) -> Callable[..., Any]:
    """Give a function that writes and imports the modules above, one text replaced, and returns the main one."""

    def written(old: str = "", new: str = "") -> Any:
        replaced = {name: text.replace(old, new) if old else text for name, text in MODULES.items()}
        return modules("reached_main", **replaced)

    return written


@pytest.fixture
def memory(tmp_path: Path) -> Memory:
    return Memory(tmp_path / "cache", verbose=0)


def cached(memory: Memory, function: Any) -> MemorizedFunc:
    return memory.cache(function, depends="auto")


def names(function: MemorizedFunc, *kinds: str) -> set[str]:
    return {item.name for item in function.depends_on() if item.kind in (kinds or ("function", "class", "constant"))}


class Color(Enum):
    RED = 1
    BLUE = 2


class Point(NamedTuple):
    x: int


@dataclass
class Config:
    scale: int


FUNCTIONS = ("direct", "inside", "late", "with_module")


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("return SCALE * deeper(x)", "return SCALE + deeper(x)"),
        ("SCALE = 2", "SCALE = 3"),
    ],
)
def test_a_change_of_what_it_reaches_counts(
    project: Callable[..., Any], memory: Memory, name: str, old: str, new: str
) -> None:
    cached(memory, getattr(project(), name))(1)
    assert cached(memory, getattr(project(), name)).check_call_in_cache(1)
    changed = cached(memory, getattr(project(old, new), name))
    assert not changed.check_call_in_cache(1)
    if name != "with_module":
        assert changed.explain(1).cause == "depends"
        assert any(each.path.startswith("depends reached_helpers.") for each in changed.explain(1).differences)
    assert memory.cache(getattr(project(), name)).check_call_in_cache(1) is False  # without auto, another key


@pytest.mark.parametrize("name", ["direct", "inside", "late"])
@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("FACTOR = 10", "FACTOR = 11", False),
        ("return x * FACTOR", "return x + FACTOR", False),
        ('"b": [1, 2]', '"b": [1, 3]', False),
        ("# a comment", "# another one", True),
        ('"""Scale."""', '"""Scale a number."""', True),
        ("SCALE * deeper(x) + len(TABLE)", "SCALE*deeper( x )+len(TABLE)", True),
        ("def unused(x):\n    return x", "def unused(x):\n    return 2 * x", True),
        ("import math\n", "import math\n\n\n\n", True),
    ],
)
def test_what_counts_and_what_does_not(
    project: Callable[..., Any], memory: Memory, name: str, old: str, new: str, same: bool
) -> None:
    cached(memory, getattr(project(), name))(1)
    assert cached(memory, getattr(project(old, new), name)).check_call_in_cache(1) is same


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("self.x * self.rate", "self.x + self.rate", False),
        ("rate = 3", "rate = 4", False),
        ("return str(self.x)", "return repr(self.x)", False),
        ("    def inner(self):", "    # what it does\n    def inner(self):", True),
    ],
)
def test_classes(project: Callable[..., Any], memory: Memory, old: str, new: str, same: bool) -> None:
    cached(memory, project().of_class)(1)
    assert cached(memory, project(old, new).of_class).check_call_in_cache(1) is same


def test_tables_of_functions_closures_and_cached_functions(project: Callable[..., Any], memory: Memory) -> None:
    main = project()
    assert "reached_helpers.by_name" in names(cached(memory, main.by_table))
    assert "reached_deep.deeper" in names(cached(memory, main.outer()))
    main.reached_helpers.helper = memory.cache(main.reached_helpers.helper)
    assert {"reached_helpers.helper", "reached_deep.FACTOR"} <= names(cached(memory, main.direct))


def test_what_it_says(project: Callable[..., Any], memory: Memory) -> None:
    found = {item.name: item for item in cached(memory, project().direct).depends_on()}
    assert set(found) == {
        "reached_helpers.helper",
        "reached_helpers.SCALE",
        "reached_helpers.TABLE",
        "reached_deep.deeper",
        "reached_deep.FACTOR",
    }
    assert found["reached_helpers.SCALE"][1:] == ("constant", "2")
    assert found["reached_helpers.TABLE"].text == "counted at each call"
    assert memory.cache(project().direct).depends_on() == []
    assert Memory(None).cache(project().direct, depends="auto").depends_on() == []
    listed = memory.cache(project().direct, depends=["auto", test_classes])
    assert {item.kind for item in listed.depends_on()} == {"named", "function", "constant"}


def test_installed_packages_count_by_their_version(
    project: Callable[..., Any], memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    numpy = pytest.importorskip("numpy")
    function = cached(memory, project().with_array)
    assert [item for item in function.depends_on() if item.kind == "package"] == [
        ("numpy", "package", numpy.__version__)
    ]
    assert names(function) == set()


def test_names_that_are_bound_again(project: Callable[..., Any], memory: Memory) -> None:
    main = project()
    function = cached(memory, main.direct)
    function(1)
    assert function.check_call_in_cache(1)
    main.reached_helpers.SCALE = 5  # as a cell of a notebook does
    assert not function.check_call_in_cache(1)
    main.reached_helpers.SCALE = 2
    assert function.check_call_in_cache(1)
    main.reached_helpers.TABLE["b"].append(3)
    assert not function.check_call_in_cache(1)
    assert [each.path for each in function.explain(1).differences] == [
        "global reached_helpers.TABLE['b']",
        "global reached_helpers.TABLE['b'][2]",
    ]
    main.reached_helpers.TABLE["b"].pop()
    assert function.check_call_in_cache(1)
    main.reached_helpers.helper.__code__ = (lambda x: x).__code__
    assert not function.check_call_in_cache(1)


def test_joblibs_keys_contain_what_it_reaches(project: Callable[..., Any], tmp_path: Path) -> None:
    memory = Memory(tmp_path / "md5", verbose=0, hash_name="md5")
    main = project()
    function = cached(memory, main.direct)
    function(1)
    assert function.check_call_in_cache(1)
    main.reached_helpers.TABLE["c"] = 3
    assert not function.check_call_in_cache(1)
    del main.reached_helpers.TABLE["c"]
    main.reached_helpers.SCALE = 3
    assert not function.check_call_in_cache(1)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({("a", 1): 2}, {("a", 2): 2}, False),
        ({("a", 1), ("b", 2)}, {("b", 2), ("a", 1)}, True),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
        ([1, [2, {"x": (3,)}]], [1, [2, {"x": (4,)}]], False),
        ([1], (1,), False),
        (Color.RED, Color.BLUE, False),
        ({Color.RED: 1}, {Color.BLUE: 1}, False),
        (Config(1), Config(1), True),
        (Config(1), Config(2), False),
        (np.arange(3), np.arange(3), True),
        (np.arange(3), np.arange(4), False),
        ([len], [max], False),
        (re.compile("a"), re.compile("a"), True),
        (re.compile("a"), re.compile("a", re.IGNORECASE), False),
        (Point(1), Point(2), False),
    ],
)
def test_values_of_constants(one: Any, other: Any, same: bool) -> None:
    assert (shoal.hash(_constants.counted(one)) == shoal.hash(_constants.counted(other))) is same


def test_what_is_too_large_does_not_count() -> None:
    assert _constants.counted(list(range(10_000))) is None
    assert _constants.counted(np.zeros(100_000)) is None
    assert _constants.counted(threading.Lock()) is None


def test_globals_that_functions_assign_do_not_count(project: Callable[..., Any], memory: Memory) -> None:
    function = cached(memory, project().with_counter)
    function(1)
    assert function.check_call_in_cache(1)
    function(2)
    assert function.check_call_in_cache(1)
    assert ("reached_helpers.CALLS", "not counted", "a function assigns it") in function.depends_on()


def test_a_method_counts_its_class(project: Callable[..., Any], memory: Memory) -> None:
    main = project()
    function = cached(memory, main.Model.fit)
    assert "reached_helpers.Model.inner" in names(function)


def test_it_is_bounded(project: Callable[..., Any], memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_reach, "MOST_REACHED", 1)
    with pytest.warns(CacheWarning, match="has looked at 1 objects"):
        cached(memory, project().direct).depends_on()


def test_recursion_and_odd_objects(memory: Memory) -> None:
    assert cached(memory, recursive)(3) == 0
    found = {item.name: item.kind for item in cached(memory, recursive).depends_on()}
    assert found[f"{__name__}.other"] == "function"
    assert found[f"{__name__}.ODD"] == "not counted"


class _Odd:
    def __getattribute__(self, name: str) -> Any:
        raise AssertionError(f"{name} was asked")


ODD = _Odd()


def recursive(n: int) -> int:
    return other(n) if ODD is not None else 0


def other(n: int) -> int:
    return recursive(n - 1) if n else 0


@pytest.mark.parametrize("wrong", ["automatic", 3])
def test_other_values_are_refused(memory: Memory, wrong: Any) -> None:
    with pytest.raises(TypeError, match='or "auto"'):
        memory.cache(recursive, depends=wrong)


def test_the_same_key_in_a_script_and_in_its_workers(tmp_path: Path) -> None:
    program = """
        import sys
        from shoal import Memory, Parallel, delayed

        SCALE = 2
        NAMES = ["a", "b"]

        class Base:
            def run(self, x):
                return x

        class Model(Base):
            def run(self, x):
                return super().run(x) * SCALE

        def helper(x):
            return Model().run(x) + len(NAMES)

        def f(x):
            print("computing", x)
            return helper(x)

        memory = Memory(sys.argv[1], verbose=0)
        cached = memory.cache(f, depends="auto")
        if __name__ == "__main__":
            cached(1)
            print(Parallel(n_jobs=2)(delayed(cached)(i) for i in (1, 1)))
            print(sorted(item.name for item in cached.depends_on()))
    """
    script = tmp_path / "program.py"
    script.write_text(textwrap.dedent(program))
    for times in (1, 0):
        done = subprocess.run(
            [sys.executable, str(script), str(tmp_path / "cache")],
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("computing") == times
        assert "[4, 4]" in done.stdout
        assert "'__main__.Base'" in done.stdout
