"""The floors of docs/architecture.md, proved from the source; and what importing shoal costs and offers."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

import shoal

FLOORS = (
    "cli testing",
    "__init__",
    "compat",
    "parallel memory",
    "backends persistence hashing observe",
    "_pickling",
    "_arrays _files _output _cpus",
    "_tracebacks",
    "errors _forks",
)
# `python -m shoal` stands above the command line.
HEIGHT = {room: -depth for depth, floor in enumerate(("__main__", *FLOORS)) for room in floor.split()}

COSTLY = {"asyncio", "cloudpickle", "dask", "joblib", "loky", "multiprocessing", "numpy", "ray", "tqdm"}


class Import(NamedTuple):
    source: str
    target: str
    line: int
    lazy: bool  # inside a function


class _Imports(ast.NodeVisitor):
    """Collects (module, names, level, line, lazy) for what a file imports, but for type checking."""

    def __init__(self) -> None:
        self.found: list[tuple[str, list[str], int, int, bool]] = []
        self._depth = 0

    def visit_If(self, node: ast.If) -> None:
        if ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for statement in node.orelse:
                self.visit(statement)
        else:
            self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._depth += 1
        self.generic_visit(node)
        self._depth -= 1

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self.visit_FunctionDef(node)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self.found.append((alias.name, [], 0, node.lineno, self._depth > 0))

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        names = [alias.name for alias in node.names]
        self.found.append((node.module or "", names, node.level, node.lineno, self._depth > 0))


def imports_of(root: Path) -> list[Import]:
    """Every import of one module of the package at `root` by another."""
    files: dict[str, Path] = {}
    for path in root.rglob("*.py"):
        parts = (root.name, *path.relative_to(root).with_suffix("").parts)
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path

    def targets(module: str, path: Path, base: str, names: list[str], level: int) -> Iterator[str]:
        if level:
            package = module.split(".")[: None if path.name == "__init__.py" else -1]
            base = ".".join(package[: len(package) - level + 1] + ([base] if base else []))
        for name in names or [""]:
            target = f"{base}.{name}"
            yield target if target in files else base

    found = []
    for module, path in sorted(files.items()):
        visitor = _Imports()
        visitor.visit(ast.parse(path.read_text(encoding="utf-8"), str(path)))
        for base, names, level, line, lazy in visitor.found:
            found += [
                Import(module, target, line, lazy)
                for target in targets(module, path, base, names, level)
                if target.split(".")[0] == root.name and target != module
            ]
    return found


def room_of(module: str) -> str:
    return [*module.split("."), "__init__"][1]


def climbs(imports: list[Import]) -> list[str]:
    """Imports that run up or sideways between rooms. A room that stands on no floor is a KeyError."""
    return [
        f"{source}:{line} imports {target}"
        for source, target, line, _ in imports
        if room_of(source) != room_of(target) and HEIGHT[room_of(source)] <= HEIGHT[room_of(target)]
    ]


def circle(imports: list[Import]) -> list[str]:
    """The modules of one import circle, or none. Backends may load their siblings when they are asked for."""
    graph: dict[str, set[str]] = {}
    for source, target, _, lazy in imports:
        if not (lazy and room_of(source) == room_of(target) == "backends"):
            graph.setdefault(source, set()).add(target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def package(root: Path, **files: str) -> Path:
    """A package named shoal made of these files; `__` in a keyword is a slash."""
    for name, source in files.items():
        path = root / "shoal" / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return root / "shoal"


def test_imports_run_downwards() -> None:
    imports = imports_of(Path(shoal.__file__).parent)
    assert imports, "no import found: this test looks at nothing"
    assert climbs(imports) == []


def test_imports_run_in_no_circle() -> None:
    assert circle(imports_of(Path(shoal.__file__).parent)) == []


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"errors": "import shoal._files", "_files": ""}, ["shoal.errors:1 imports shoal._files"]),
        ({"errors": "from shoal import Parallel"}, ["shoal.errors:1 imports shoal"]),
        ({"errors": "def f():\n  from . import cli", "cli": ""}, ["shoal.errors:2 imports shoal.cli"]),
        (
            {"hashing": "from .observe import events", "observe__events": ""},
            ["shoal.hashing:1 imports shoal.observe.events"],
        ),
        ({"parallel__run": "from ..errors import E", "errors": ""}, []),
        ({"parallel__run": "from . import loop", "parallel__loop": ""}, []),
        ({"errors": "if TYPE_CHECKING:\n  import shoal.cli", "cli": ""}, []),
        (
            {"errors": "if TYPE_CHECKING:\n  pass\nelse:\n  import shoal.cli", "cli": ""},
            ["shoal.errors:4 imports shoal.cli"],
        ),
    ],
)
def test_climbs_are_seen(tmp_path: Path, files: dict[str, str], said: list[str]) -> None:
    assert climbs(imports_of(package(tmp_path, **files))) == said


def test_a_room_must_stand_on_a_floor(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="attic"):
        climbs(imports_of(package(tmp_path, attic="import shoal.errors", errors="")))


@pytest.mark.parametrize(
    ("files", "modules"),
    [
        ({"parallel__a": "from .b import f", "parallel__b": "def f():\n    from . import a"}, {"a", "b"}),
        ({"parallel__a": "from .b import f", "parallel__b": "import shoal.parallel.a"}, {"a", "b"}),
        ({"parallel__a": "from .b import f", "parallel__b": ""}, set()),
        ({"backends__a": "from .b import f", "backends__b": "def f():\n    from . import a"}, set()),
    ],
)
def test_circles_are_seen(tmp_path: Path, files: dict[str, str], modules: set[str]) -> None:
    found = circle(imports_of(package(tmp_path, **files)))
    assert {module.rpartition(".")[2] for module in found} == modules


def test_importing_shoal_is_cheap(fresh_python) -> None:
    printed = fresh_python(
        """
        import sys
        before = set(sys.modules)
        from shoal import Parallel, delayed
        print(*(set(sys.modules) - before))
        """
    )
    loaded = {name.split(".")[0] for name in printed.split()}
    assert "shoal" in loaded
    assert loaded & COSTLY == set()


def test_public_names_resolve_and_say_what_they_are() -> None:
    assert sorted(set(shoal.__all__)) == sorted(shoal.__all__)
    public = {name: getattr(shoal, name) for name in shoal.__all__}
    assert [name for name, thing in public.items() if callable(thing) and not thing.__doc__] == []
