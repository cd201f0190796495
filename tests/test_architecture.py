"""The floors of docs/architecture.md, checked in the source; and what importing shoal costs and offers.

An import under TYPE_CHECKING or inside a function is an import like any other: it must not run up, nor in a circle.
The two tables below are the only exceptions. Remove an entry when its import is gone; add one only with a reason.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Collection, Iterator
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
    "backends persistence hashing observe reports",
    "_pickling",
    "_arrays _files _cpus _context",
    "_tracebacks",
    "errors _environment _forks _hints _output _platform _sizes",
    "_typing",
)
# `python -m shoal` stands above the command line.
HEIGHT = {room: -depth for depth, floor in enumerate(("__main__", *FLOORS)) for room in floor.split()}

COSTLY = {"asyncio", "cloudpickle", "dask", "joblib", "loky", "multiprocessing", "numpy", "ray", "rich", "tqdm"}


#: Imports of shoal's modules inside functions, as (importing module, imported module) without "shoal.".
LATE = {
    ("cli._run", "parallel.options._contexts"): "a program that is run without options need not run calls",
    ("cli._run", "parallel.options._settings"): "a program that is run without options need not run calls",
    ("cli._run", "reports._folder"): "only --report needs it",
    ("hashing", "hashing._joblib"): "few programs ask for md5 or sha1",
    ("hashing._writers", "hashing._arrow"): "only objects that give their data to pyarrow need it",
    ("memory.storage._filestore", "memory.storage._index"): "it imports sqlite3, which only caches with limits need",
    ("memory._caching", "memory._async"): "only cached coroutine functions need it",
    (
        "parallel.options._names",
        "backends._multiprocessing",
    ): "it imports multiprocessing; only checks of some options need it",
    ("parallel.options._names", "backends._processes"): "only the checks of some options need it",
    ("_cpus", "_tracebacks"): "only a warning needs it",
    ("backends", "_hints"): "only an error needs it",
    ("backends", "_tracebacks"): "only a warning needs it",
    ("backends", "errors"): "only errors and warnings need it",
    ("backends.base", "errors"): "only a thread that the system refuses needs it",
    ("backends._processes", "_tracebacks"): "only a warning needs it",
    ("backends._processes", "errors"): "only a warning needs it",
    ("backends._processes", "backends._loky"): "a Parallel that runs nothing on workers needs no pool of them",
    ("backends._processes", "backends._pool"): "as _loky",
    ("parallel.options._checks", "errors"): "only an error needs it",
    ("parallel.options._plan", "parallel.options._expressions"): "a run with one worker has no pre_dispatch",
    ("parallel.options._plan", "parallel.options._names"): "most runs have no options of a backend",
    ("parallel.options._plan", "reports._active"): "a Parallel needs it when it runs, and not to be made",
    ("parallel.options._settings", "backends._blas"): "only threads need it",
    ("parallel._runs", "parallel.running._serial"): "only a run with one worker needs it",
    ("parallel.running._runner", "parallel.running._serial"): "only a run with one worker needs it",
    ("parallel.running._runner", "errors"): "a plain loop needs it only if a call fails",
    ("parallel._runs", "parallel._async"): "it imports asyncio, which only acall() needs",
    ("parallel.options._plan", "observe._teller"): "a run without listeners needs no events",
    ("parallel.options._plan", "parallel.running._resume"): "only memory= needs it",
    ("parallel.options._plan", "parallel.running._seeds"): "only seed= needs it; it imports numpy",
    ("parallel.options._plan", "parallel.options._origins"): "only a run of which a report is made needs it",
    ("parallel.options._settings", "reports._report"): "only report= needs it",
    ("parallel.running._runner", "parallel.running._measured"): "only a run of which a report is made needs it",
    ("parallel.transport._folders", "_platform.locks"): "only arrays in files need it",
    ("parallel.transport._engines", "reports._batch_meter"): "only a run of which a report is made needs it",
    ("parallel.transport._scope", "reports._batch_meter"): "only a run of which a report is made needs it",
    ("reports._report", "reports._page"): "only a report that is shown needs it",
    ("reports._report", "reports._rich"): "only rich needs it",
    ("reports._report", "reports._text"): "only a report that is shown needs it",
    ("reports._report", "reports._trace"): "only a report that is shown needs it",
    ("parallel.running._runner", "parallel.running._log_attributes"): "only programs that import logging need it",
    ("parallel.running._runner", "_pickling"): "runs in this process pickle nothing",
    ("parallel.running._runner", "observe._saying"): "it imports the pickler, which runs in this process do not need",
    (
        "parallel.running._runner",
        "parallel.running._launch",
    ): "it is imported while new workers start",
    ("parallel.running._launch", "parallel.transport._engines"): "only runs on dask and ray need it",
    ("parallel.running._serial", "parallel.running._faults"): "a plain loop needs it only if a call fails",
    ("parallel.running._serial", "observe._receiving"): "only on_message= and listeners need it",
    ("parallel.running._serial", "parallel.running._resume"): "a plain loop needs it only with memory=",
    ("backends._worker_process", "backends._blas"): "a forked worker needs it only if the program has numpy",
    ("backends._worker_process", "errors"): "it imports loky, which only a program that uses loky's contexts needs",
    ("backends._loky", "backends._forkserver"): "it imports fcntl, which Windows does not have",
    ("backends._loky", "backends._inheritance"): "it imports resource, which Windows does not have",
    ("backends._loky", "backends._start"): "it imports multiprocessing; only workers without a server need it",
    ("backends._start", "backends._inheritance"): "it imports resource, which Windows does not have",
    ("compat.joblib._config", "compat.joblib._dask"): "it imports distributed, which may not be installed",
    (
        "compat.joblib._parallel_backends",
        "compat.joblib.executor",
    ): "it imports loky, which only a backend that is used by itself needs",
    (
        "compat.joblib._parallel_backends",
        "compat.joblib.pool",
    ): "it imports multiprocessing, which only a backend that is used by itself needs",
    ("compat.joblib._running", "compat.joblib._folders"): "only arrays in files need temporary folders",
    ("compat.joblib._delegating", "parallel._executor"): "only executors of joblib's names need it",
    ("compat.joblib.externals.loky", "_cpus"): "the function has the same name as what it calls",
    ("compat.joblib.externals.loky", "backends._pool"): "only a program that shuts workers down needs it",
    ("compat.joblib.externals.loky", "parallel._by_value"): "the function has the same name as what it calls",
    ("compat.joblib.parallel", "compat.joblib._multiprocessing_helpers"): "the attribute mp, which few programs read",
    ("compat.joblib.parallel", "compat.joblib._tracking"): "a run without listeners needs no events",
}

#: Imports that close a circle, and why they are still there. None of them runs when a module is imported.
CIRCLES: dict[tuple[str, str], str] = {}


class Import(NamedTuple):
    source: str
    target: str
    line: int
    late: bool  # inside a function


class _Imports(ast.NodeVisitor):
    """Collects (module, names, level, line, late) for every import in a file."""

    def __init__(self) -> None:
        self.found: list[tuple[str, list[str], int, int, bool]] = []
        self._depth = 0

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
    """Return every import of one module of the package at `root` by another."""
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
        for base, names, level, line, late in visitor.found:
            found += [
                Import(module, target, line, late)
                for target in targets(module, path, base, names, level)
                if target.split(".")[0] == root.name and target != module
            ]
    return found


def room_of(module: str) -> str:
    return [*module.split("."), "__init__"][1]


def climbs(imports: list[Import]) -> list[str]:
    """Return the imports that run up or sideways between rooms. A room that is on no floor is a KeyError."""
    return [
        f"{source}:{line} imports {target}"
        for source, target, line, _ in imports
        if room_of(source) != room_of(target) and HEIGHT[room_of(source)] <= HEIGHT[room_of(target)]
    ]


def names_of(found: Import) -> tuple[str, str]:
    return found.source.removeprefix("shoal."), found.target.removeprefix("shoal.")


def circle(imports: list[Import], allowed: Collection[tuple[str, str]] = ()) -> list[str]:
    """Return the modules of one import circle, or none."""
    graph: dict[str, set[str]] = {}
    for found in imports:
        if names_of(found) not in allowed:
            graph.setdefault(found.source, set()).add(found.target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def package(root: Path, **files: str) -> Path:
    """Create a package named shoal from these files; `__` in a keyword is a slash."""
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
    imports = imports_of(Path(shoal.__file__).parent)
    assert circle(imports, CIRCLES) == []
    # Only those that are needed are listed.
    assert [edge for edge in CIRCLES if not circle(imports, {*CIRCLES} - {edge})] == []


def test_imports_inside_functions_are_those_of_the_table() -> None:
    late = {names_of(found) for found in imports_of(Path(shoal.__file__).parent) if found.late}
    assert sorted(late - {*LATE}) == [], "give each a reason in LATE, or import the module at the top of the file"
    assert sorted({*LATE} - late) == [], "remove these from LATE: the imports are gone"


@pytest.mark.parametrize(
    ("files", "found"),
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
        ({"errors": "if TYPE_CHECKING:\n  import shoal.cli", "cli": ""}, ["shoal.errors:2 imports shoal.cli"]),
        (
            {"errors": "if TYPE_CHECKING:\n  pass\nelse:\n  import shoal.cli", "cli": ""},
            ["shoal.errors:4 imports shoal.cli"],
        ),
    ],
)
def test_imports_that_run_up_are_found(tmp_path: Path, files: dict[str, str], found: list[str]) -> None:
    assert climbs(imports_of(package(tmp_path, **files))) == found


def test_a_room_must_be_on_a_floor(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="attic"):
        climbs(imports_of(package(tmp_path, attic="import shoal.errors", errors="")))


@pytest.mark.parametrize(
    ("files", "modules"),
    [
        ({"parallel__a": "from .b import f", "parallel__b": "def f():\n    from . import a"}, {"a", "b"}),
        ({"parallel__a": "from .b import f", "parallel__b": "import shoal.parallel.a"}, {"a", "b"}),
        ({"parallel__a": "from .b import f", "parallel__b": ""}, set()),
        ({"backends__a": "from .b import f", "backends__b": "def f():\n    from . import a"}, {"a", "b"}),
        ({"memory__a": "from .b import f", "memory__b": "if TYPE_CHECKING:\n    from .a import A"}, {"a", "b"}),
    ],
)
def test_circles_are_found(tmp_path: Path, files: dict[str, str], modules: set[str]) -> None:
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


def test_the_import_of_parallel_loads_what_each_program_needs(fresh_python) -> None:
    """Not what only runs on workers need, nor what takes long itself."""
    loaded = fresh_python("import sys\nfrom shoal import Parallel, delayed\nprint(*sys.modules)").split()
    unwanted = {"logging", "queue", "selectors", "socket", "mmap", "tempfile", "shoal._platform.processes"}
    unwanted |= {"contextlib", "enum", "importlib", "pickle", "re", "typing"}  # as slow as much of shoal
    unwanted |= {"shoal.errors", "shoal._tracebacks", "shoal.parallel.running._serial", "shoal.reports"}
    assert unwanted & set(loaded) == set()


def test_a_parallel_that_is_made_loads_no_pool_of_workers(fresh_python) -> None:
    """A program may make many, and run each of them on one worker."""
    loaded = fresh_python("import sys\nfrom shoal import Parallel\nParallel(n_jobs=1)([])\nprint(*sys.modules)").split()
    unwanted = {"logging", "socket", "typing", "shoal._pickling", "shoal.backends._loky", "shoal.backends._pool"}
    assert unwanted & set(loaded) == set()


@pytest.mark.parametrize("method", [None, "loky"])
def test_a_first_call_imports_nothing_for_files(fresh_python, method: str | None) -> None:
    """Neither the caller nor its workers: they import in a row, so each millisecond counts twice."""
    printed = fresh_python(
        f"""
        import sys
        from shoal import Parallel, delayed

        def modules(_):
            import sys
            return list(sys.modules)

        [worker] = Parallel(n_jobs=2, start_method={method!r})([delayed(modules)(0)])
        print(*sys.modules)
        print(*worker)
        """
    )
    for loaded in printed.splitlines():
        names = set(loaded.split())
        assert names >= {"shoal._sizes", "shoal.parallel.transport._worker"}
        of_files = {"shoal._platform.locks", "tempfile", "shutil"}
        if hasattr(os, "memfd_create"):  # else shared memory is in files, or in sections that are found by a file
            assert names & of_files == set()
        assert "shoal._files" not in names


def test_public_names_exist_and_have_docstrings() -> None:
    assert sorted(set(shoal.__all__)) == sorted(shoal.__all__)
    public = {name: getattr(shoal, name) for name in shoal.__all__}
    assert [name for name, thing in public.items() if callable(thing) and not thing.__doc__] == []
