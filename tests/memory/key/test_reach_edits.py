"""Edits of a small project that a function with ``depends=`` must notice; states that are the same in each process."""

from __future__ import annotations

import functools
import importlib
import os
import subprocess
import sys
import textwrap
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from _memory_util import make_project
from shoal import CacheWarning, Memory
from shoal.memory.key import _constants

Project = Callable[..., Any]
modules = pytest.fixture(make_project)


@pytest.fixture
def project(modules: Project) -> Project:
    """Give a function that writes modules and imports the main one, in which `helpers` is a module with `text`."""

    def written(text: str, body: str, deep: str = "") -> Any:
        return modules(
            "edited_main",
            **{
                "edited_main": f"import functools, edited_helpers as helpers\n{textwrap.dedent(body)}",
                "edited_helpers": text,
                "edited_deep": deep,
                "edited_package.__init__": "",
                "edited_package.inner": deep,
            },
        )

    return written


@pytest.fixture
def memory(tmp_path: Path) -> Memory:
    return Memory(tmp_path / "cache", verbose=0)


def is_found(memory: Memory, main: Any, depends: Any = "auto") -> bool:
    """Return whether the call f(5) was in the cache, and make it."""
    cached = memory.cache(main.f, depends=depends)
    found = cached.check_call_in_cache(5)
    assert cached(5) == main.f(5)
    return found


WRAPS = """
    import functools
    def logged(f):
        @functools.wraps(f)
        def wrapper(*args):
            return f(*args)
        return wrapper
    @logged
    def scale(x):
        return x * 2
    @logged
    def shift(x):
        return x + 2
    """
LAMBDAS = """
    inc = lambda x: x + 1
    dec = lambda x: x - 1
    TABLE = {"inc": inc, "dec": dec}
    """
CLOSURES = """
    def make(k):
        def scale(x):
            return x * k
        return scale
    double, triple = make(2), make(3)
    by_list = [make([4]), make([5])]
    """
CLASSES = """
    import dataclasses
    class C:
        table = {"a": lambda x: x + 10}
        @property
        def v(self):
            return self._v
        @v.setter
        def v(self, x):
            self._v = x * 2
    @dataclasses.dataclass
    class D:
        items: list = dataclasses.field(default_factory=lambda: [1])
        kind: object = dataclasses.field(default_factory=list)
        other: object = dataclasses.field(default_factory=lambda: [3])
    def make(k):
        class Made:
            def run(self, x):
                return x * k
        return Made
    Two, Three = make(2), make(3)
    """
TABLES = """
    from collections import namedtuple
    import dataclasses
    @dataclasses.dataclass
    class Holder:
        run: object
    def named(x):
        return x + 3
    DEEP = {"a": {"b": [lambda x: x + 1, (lambda x: x + 2,)]}}
    HELD = [Holder(named)]
    SET = {lambda x: x + 4, lambda x: x + 5}
    DEEP["itself"] = DEEP
    """
DEFAULTS = """
    def pick(x):
        return x + 1
    def keep(x):
        return x + 2
    def with_default(x, by=pick, *, then=(keep,)):
        return then[0](by(x))
    """
CONSTANTS = """
    import enum, math
    from decimal import Decimal
    from fractions import Fraction
    class Color(enum.Enum):
        RED = 1
        BLUE = 2
    A, B, C = Color.RED, Color.RED, Color.BLUE
    PRICE, PART = Decimal("1.50"), Fraction(1, 3)
    def strip(x):
        return x
    def scrub(x):
        return x + 1
    use = strip
    one, other = strip, scrub
    biggest = max
    """


@pytest.mark.parametrize(
    ("text", "used", "old", "new"),
    [
        pytest.param(WRAPS, "helpers.scale(x)", "x * 2", "x * 3", id="wraps"),
        pytest.param(WRAPS, "helpers.scale(x), helpers.shift(x)", "x + 2", "x + 3", id="second wraps"),
        pytest.param(LAMBDAS, "helpers.inc(x), helpers.dec(x)", "x + 1", "x + 2", id="first lambda"),
        pytest.param(LAMBDAS, "helpers.inc(x), helpers.dec(x)", "x - 1", "x - 2", id="second lambda"),
        pytest.param(LAMBDAS, "helpers.inc(x), helpers.dec(x)", "inc = lambda x: x + 1\n    dec = lambda x: x - 1",
                     "inc = lambda x: x - 1\n    dec = lambda x: x + 1", id="swapped lambdas"),
        pytest.param(LAMBDAS, "[helpers.inc(x), helpers.dec(x), helpers.TABLE['inc'](x)]", '"inc": inc, "dec": dec',
                     '"inc": dec, "dec": inc', id="swapped in a table"),
        pytest.param(CLOSURES, "helpers.double(x), helpers.triple(x)", "make(3)", "make(7)", id="second closure"),
        pytest.param(CLOSURES, "helpers.double(x), helpers.triple(x)", "make(2), make(3)", "make(3), make(2)",
                     id="swapped closures"),
        pytest.param(CLOSURES, "[by(x) for by in helpers.by_list]", "make([4])", "make([7])", id="lists in closures"),
        pytest.param(CLASSES, "setattr(c := helpers.C(), 'v', x) or c.v", "x * 2", "x * 3", id="setter"),
        pytest.param(CLASSES, "helpers.C.table['a'](x)", "x + 10", "x + 11", id="table in a class"),
        pytest.param(CLASSES, "helpers.Two().run(x), helpers.Three().run(x)", "make(3)", "make(7)", id="second class"),
        pytest.param(CLASSES, "repr(helpers.D())", "[1]", "[2]", id="default_factory"),
        pytest.param(CLASSES, "repr(helpers.D())", "[3]", "[4]", id="second default_factory"),
        pytest.param(CLASSES, "repr(helpers.D())", "=list", "=dict", id="builtin default_factory"),
        pytest.param(TABLES, "helpers.DEEP['a']['b'][0](x)", "x + 1", "x + 7", id="nested table"),
        pytest.param(TABLES, "helpers.DEEP['a']['b'][1][0](x)", "x + 2", "x + 7", id="deeper table"),
        pytest.param(TABLES, "helpers.HELD[0].run(x)", "x + 3", "x + 7", id="function in a dataclass"),
        pytest.param(TABLES, "sum(each(x) for each in helpers.SET)", "x + 5", "x + 7", id="functions in a set"),
        pytest.param(DEFAULTS, "helpers.with_default(x)", "x + 1", "x + 7", id="function as a default"),
        pytest.param(DEFAULTS, "helpers.with_default(x)", "x + 2", "x + 7", id="function in a default"),
        pytest.param(CONSTANTS, "helpers.A, helpers.C, helpers.B == helpers.A", "A, B, C = Color.RED, Color.RED",
                     "A, B, C = Color.RED, Color.BLUE", id="enum under two names"),
        pytest.param(CONSTANTS, "str(helpers.PRICE)", "1.50", "1.5", id="Decimal"),
        pytest.param(CONSTANTS, "str(helpers.PART)", "(1, 3)", "(2, 3)", id="Fraction"),
        pytest.param(CONSTANTS, "helpers.use(x), helpers.strip(x), helpers.scrub(x)", "use = strip", "use = scrub",
                     id="another name for a function"),
        pytest.param(CONSTANTS, "helpers.one(x), helpers.other(x)", "one, other = strip, scrub",
                     "one, other = scrub, strip", id="swapped names"),
        pytest.param(CONSTANTS, "helpers.biggest(x, 7)", "biggest = max", "biggest = min", id="builtin function"),
    ],
)  # fmt: skip
def test_an_edit_of_a_helper(project: Project, memory: Memory, text: str, used: str, old: str, new: str) -> None:
    body = f"def f(x):\n    return {used}\n"
    assert not is_found(memory, project(text, body))
    assert is_found(memory, project(text, body))
    assert old in text
    assert not is_found(memory, project(text.replace(old, new), body))


def test_an_edit_of_a_function_that_is_a_default_of_the_cached_one(project: Project, memory: Memory) -> None:
    body = "def f(x, by=helpers.pick):\n    return by(x)\n"
    assert not is_found(memory, project(DEFAULTS, body))
    assert is_found(memory, project(DEFAULTS, body))
    assert not is_found(memory, project(DEFAULTS.replace("x + 1", "x + 7"), body))


@pytest.mark.parametrize(
    "body",
    [
        "import edited_helpers as h; return h.strip(x)",
        "import edited_helpers\n    return edited_helpers.strip(x)",
        "from edited_helpers import strip\n    return strip(x)",
        "import edited_helpers as h\n    return [h.strip(y) for y in (x,)]",
        "import edited_helpers as h\n    return (lambda y: h.strip(y))(x)",
        "if x:\n        import edited_helpers as h\n    else:\n        import edited_deep as h\n    return h.strip(x)",
        "import edited_package.inner\n    return edited_package.inner.go(x)",
        "import edited_package.inner as i\n    return i.go(x)",
        "from edited_package import inner as i\n    return i.go(x)",
        "from edited_package.inner import go\n    return go(x)",
    ],
)
def test_what_an_import_inside_a_function_leads_to(project: Project, memory: Memory, body: str) -> None:
    body = f"def f(x):\n    {body}\n"
    helpers = "import edited_deep\ndef strip(x):\n    return edited_deep.go(x)\ndef unused(x):\n    return x\n"
    deep = "def strip(x):\n    return go(x)\nSTEP = 1\ndef go(x):\n    return x + STEP\ndef unused(x):\n    return x\n"
    assert not is_found(memory, project(helpers, body, deep))
    assert is_found(memory, project(helpers, body, deep.replace("return x\n", "return 2 * x\n")))
    assert is_found(memory, project(helpers.replace("return x\n", "return 2 * x\n"), body, deep))
    assert not is_found(memory, project(helpers, body, deep.replace("STEP = 1", "STEP = 2")))


def test_an_import_whose_name_is_not_used_counts_as_a_whole(project: Project, memory: Memory) -> None:
    body = "def f(x):\n    import edited_deep\n    return x\n"
    assert not is_found(memory, project("", body, "A = 1"))
    assert not is_found(memory, project("", body, "A = 2"))


def test_lists_and_dicts_of_a_class_count_at_each_call(project: Project, memory: Memory) -> None:
    helpers = "class Config:\n    widths = [1, 2]\n    names = {}\n"
    main = project(helpers, "def f(x):\n    return list(helpers.Config.widths), dict(helpers.Config.names)\n")
    cached = memory.cache(main.f, depends="auto")
    assert cached(1) == ([1, 2], {})
    assert cached.check_call_in_cache(1)
    main.helpers.Config.widths.append(3)
    assert cached(1) == ([1, 2, 3], {})
    main.helpers.Config.names["a"] = 1
    assert cached(1) == ([1, 2, 3], {"a": 1})
    assert cached.check_call_in_cache(1)
    assert [item.text for item in cached.depends_on() if item.kind == "constant"] == ["counted at each call"] * 2


def test_each_of_them_is_named(project: Project, memory: Memory) -> None:
    main = project(LAMBDAS, "def f(x):\n    return helpers.inc(x), helpers.dec(x)\n")
    names = [item.name for item in memory.cache(main.f, depends="auto").depends_on()]
    assert names == ["edited_helpers.<lambda>", "edited_helpers.<lambda> (edited_helpers.dec)"]
    memory.cache(main.f, depends="auto")(5)
    changed = project(LAMBDAS.replace("x - 1", "x - 2"), "def f(x):\n    return helpers.inc(x), helpers.dec(x)\n")
    found = memory.cache(changed.f, depends="auto").explain(5)
    assert [each.path for each in found.differences] == [f"depends {names[1]}"]


def test_states_are_equal_in_each_process(project: Project, tmp_path: Path) -> None:
    sets = "def make(k):\n    return lambda x: x + k[0]\nCLOSURES = {make([1]), make([2]), make([3])}\n"
    text = textwrap.dedent(TABLES) + textwrap.dedent(CLASSES) + sets
    project(
        text,
        "def f(x):\n    return helpers.DEEP, helpers.SET, helpers.CLOSURES, helpers.D, helpers.Two, helpers.Three\n",
    )
    program = """
        import sys
        sys.path.insert(0, "project")
        padding = [object() for _ in range(int(sys.argv[1]))]
        import edited_main
        from shoal import Memory
        cached = Memory("cache", verbose=0).cache(edited_main.f, depends="auto")
        print(cached._identity.key((5,), {}).call, cached.depends_on())
        """
    found = set()
    for seed in range(4):
        found.add(
            subprocess.run(
                [sys.executable, "-c", textwrap.dedent(program), str(seed * 1000)],
                cwd=tmp_path,
                env={**os.environ, "PYTHONHASHSEED": str(seed)},
                capture_output=True,
                text=True,
                timeout=100,
                check=True,
            ).stdout
        )
    assert len(found) == 1


def test_a_list_that_contains_itself_does_not_count() -> None:
    itself: list[Any] = []
    itself.append(itself)
    assert _constants.counted(itself) is None


# depends=[...]


@pytest.mark.parametrize(
    ("text", "depends", "old", "new"),
    [
        pytest.param(WRAPS, "helpers.scale", "x * 2", "x * 3", id="wraps"),
        pytest.param(WRAPS, "helpers.scale", "return f(*args)", "return -f(*args)", id="decorator"),
        pytest.param(CLOSURES, "helpers.double", "make(2)", "make(7)", id="closure"),
        pytest.param(CLOSURES, "helpers.by_list[0]", "make([4])", "make([7])", id="list in a closure"),
        pytest.param("import functools\ndef h(k, x):\n    return x * k\nby = functools.partial(h, 11)", "helpers.by",
                     "11", "12", id="partial"),
    ],
)  # fmt: skip
def test_an_edit_of_what_depends_names(
    project: Project, memory: Memory, text: str, depends: str, old: str, new: str
) -> None:
    body = f"used = {depends}\ndef f(x):\n    return used(x)\n"
    first, again = project(text, body), project(text, body)
    assert not is_found(memory, first, [first.used])
    assert is_found(memory, again, [again.used])
    changed = project(text.replace(old, new), body)
    assert not is_found(memory, changed, [changed.used])


RELOADED = """
    import functools
    def scale(x):
        return x * 2
    def logged(f):
        @functools.wraps(f)
        def wrapper(x):
            return f(x)
        return wrapper
    @logged
    def shift(x):
        return x + 2
    class C:
        def run(self, x):
            return x - 2
    """


@pytest.mark.parametrize("how", ["reload", "autoreload"])
@pytest.mark.parametrize(
    ("depends", "used"),
    [("helpers.scale", "helpers.scale(x)"), ("helpers.shift", "helpers.shift(x)"),
     ("helpers", "helpers.scale(x)"), ("helpers.C", "helpers.C().run(x)")],
)  # fmt: skip
@pytest.mark.parametrize("called", [True, False])
def test_a_reload_of_what_depends_names(
    project: Project, memory: Memory, depends: str, used: str, how: str, called: bool
) -> None:
    """Without decorating the function again. An autoreloader exchanges the code of the functions that are there."""
    main = project(RELOADED, f"def f(x):\n    return {used}\ndef depends():\n    return {depends}\n")
    cached = memory.cache(main.f, depends=[main.depends()])
    if called:
        assert cached(5) == main.f(5)
    old = dict(vars(main.helpers))
    Path(main.helpers.__file__).write_text(textwrap.dedent(RELOADED.replace("2", "3")))
    importlib.reload(main.helpers)
    if how == "autoreload" and isinstance(main.depends(), types.FunctionType):
        pairs = [(old[name], getattr(main.helpers, name)) for name in ("scale", "shift")]
        for kept, new in (*pairs, (old["shift"].__wrapped__, main.helpers.shift.__wrapped__)):
            kept.__code__ = new.__code__
        vars(main.helpers).update(scale=old["scale"], shift=old["shift"])
    assert cached(5) == main.f(5)
    assert memory.cache(main.f, depends=[main.depends()]).check_call_in_cache(5)


def test_a_reload_of_what_a_named_cached_function_depends_on(project: Project, memory: Memory, tmp_path: Path) -> None:
    text = f"""
        from shoal import Memory
        def step():
            return 2
        @Memory({str(tmp_path / "b")!r}, verbose=0).cache(depends=[step])
        def stepped(x):
            return x + step()
        """
    main = project(text, "def f(x):\n    return helpers.stepped(x)\n")
    cached = memory.cache(main.f, depends=[main.helpers.stepped])
    assert cached(5) == 7
    Path(main.helpers.__file__).write_text(textwrap.dedent(text.replace("2", "3")))
    importlib.reload(main.helpers)
    assert cached(5) == 8
    other = types.FunctionType((lambda: 4).__code__, vars(main.helpers), "step")
    main.helpers.step, other.__module__ = other, "edited_helpers"
    assert main.helpers.stepped(5) == 9
    assert cached(5) == 9


LIMITS = [1]


def limited(x: int) -> int:
    return x + LIMITS[0]


def closure(value: Any) -> Callable[[int], Any]:
    def inner(x: int) -> Any:
        return x + value[0]

    return inner


@pytest.mark.parametrize("hash_name", ["xxh3_128", "md5"])
@pytest.mark.parametrize("through", [False, True])
def test_the_values_of_a_cached_function_count_at_each_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hash_name: str, through: bool
) -> None:
    memory = Memory(tmp_path / "cache", verbose=0, hash_name=hash_name)
    variable, limits = [1], [1]
    monkeypatch.setattr(sys.modules[__name__], "LIMITS", limits)
    by_auto, by_closure = (
        memory.cache(limited, depends="auto"),
        Memory(tmp_path / "b", verbose=0).cache(closure(variable)),
    )
    names: list[Any] = [by_auto, by_closure]

    def between(x: int) -> Any:
        return by_auto(x)

    if through:
        names = [memory.cache(between, depends=names)]
    runs: list[int] = []
    outer = memory.cache(_Report(runs, by_auto, by_closure).run, ignore=["self"], depends=names)
    assert [outer(1), outer(1), len(runs)] == [4, 4, 1]
    limits[0] = 5
    assert [outer(1), outer(1), len(runs)] == [8, 8, 2]
    variable[0] = 10
    assert [outer(1), outer(1), len(runs)] == [17, 17, 3]
    monkeypatch.setattr(sys.modules[__name__], "LIMITS", [7])
    assert [outer(1), outer(1), len(runs)] == [19, 19, 4]


class _Report:
    def __init__(self, runs: list[int], *functions: Any) -> None:
        self.runs, self.functions = runs, functions

    def run(self, x: int) -> Any:
        self.runs.append(x)
        return sum(function(x) for function in self.functions)


def test_the_arguments_of_a_cached_partial_count(project: Project, memory: Memory) -> None:
    for k in (2, 3):
        main = project(f"def h(k, x):\n    return k * x\nk = {k}", "def f(x):\n    return held(x)\n")
        main.held = memory.cache(functools.partial(main.helpers.h, k))
        assert not is_found(memory, main, [main.held])


def test_a_value_that_cannot_be_hashed(memory: Memory) -> None:
    held = memory.cache(closure([1, (each for each in ())]))
    outer = memory.cache(limited, depends=[held])
    with pytest.warns(CacheWarning, match=r"what .*closure.<locals>.inner in depends= holds counts as an argument"):
        outer(1)
    assert memory.cache(limited, depends=[closure([1, (each for each in ())])])(1) == 1 + LIMITS[0]
