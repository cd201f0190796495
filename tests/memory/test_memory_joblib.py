"""Memory and joblib's Memory use the same folders, keys and printed lines, and each other's results."""

from __future__ import annotations

import collections
import contextlib
import inspect
import io
import linecache
import logging
import math
import os
import re
import subprocess
import sys
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib.func_inspect
import joblib.memory
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import shoal
from _capabilities import SLOWNESS
from _memory_util import make_project
from shoal.memory.key._identity import Identity
from shoal.memory.key._source import names_of, path_of, shown, source_of


def plain(a: Any, b: Any = 2) -> Any:
    return a, b


class Outer:
    class Inner:
        def method(self, x: Any) -> Any:
            return self, x

        @classmethod
        def of_class(cls, x: Any) -> Any:
            return cls, x

        @staticmethod
        def static(x: Any) -> Any:
            return x


def nested() -> Callable[..., Any]:
    def inner(x: Any) -> Any:
        return x

    return inner


def of_file(file: str, source: str, name: str = "f", module: str = "__main__") -> Any:
    """Make a function as a notebook or a doctest does: its source is where `linecache` has it, and nowhere else."""
    linecache.cache[file] = (len(source), None, source.splitlines(True), file)
    namespace = {"__name__": module}
    exec(compile(source, file, "exec"), namespace)
    return namespace[name]


TEXT = "def f(x):\n    return x\n"
FUNCTIONS: dict[str, Any] = {
    "plain": plain,
    "method of a class": Outer.Inner.method,
    "bound method": Outer.Inner().method,
    "class method": Outer.Inner.of_class,
    "static method": Outer.Inner.static,
    "nested": nested(),
    "lambda": lambda x: x,
    "nested lambda": (lambda: lambda x: x)(),
    "builtin": len,
    "of a compiled module": math.sqrt,
    "method of a string": "ab".join,
    "ufunc": np.sin,
    "class": collections.OrderedDict,
    "numpy": np.linalg.norm,
    "IPython": of_file("<ipython-input-3-0123abcd>", TEXT),
    "ipykernel": of_file("/tmp/ipykernel_1234/567890.py", TEXT),
    "doctest": of_file("<doctest manual.rst[3]>", TEXT),
    "doctest of a module": of_file("<doctest manual.f[3]>", TEXT),
    "without a source": eval(compile("lambda x: x + 1", "<nowhere>", "eval")),
    "of no module": types.FunctionType(plain.__code__, {"__name__": None}, "f"),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_paths_of_functions_are_joblibs(name: str) -> None:
    function = FUNCTIONS[name]
    assert shown(path_of(function)) == joblib.memory._build_func_identifier(function)
    assert (*names_of(function),) == joblib.func_inspect.get_func_name(function)


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name not in ("class", "method of a string", "numpy")])
def test_the_stored_sources_are_joblibs(name: str) -> None:
    function = FUNCTIONS[name]
    source = source_of(getattr(function, "__func__", function))
    assert (source.text, source.file, source.line) == joblib.func_inspect.get_func_code(function)


def test_addresses_are_not_part_of_a_source() -> None:
    assert source_of("ab".join).text == "<built-in method join of str object>"


# Arguments

NAMES = ["a", "b", "c", "tag", "tag_", "args", "kwargs", "self"]


@st.composite
def functions(draw: Any, positional_only: bool) -> Any:
    """A function of any signature that returns its arguments."""
    names = draw(st.permutations(NAMES))
    counts = [draw(st.integers(0, 2)) if positional_only else 0, draw(st.integers(0, 3)), draw(st.integers(0, 2))]
    varargs, varkw = draw(st.booleans()), draw(st.booleans())
    first, second, third = (sum(counts[:n]) for n in (1, 2, 3))
    defaults = draw(st.integers(0, second))
    words = [name if i < second - defaults else f"{name}={i}" for i, name in enumerate(names[:second])]
    written = words[:first] + ["/"] * bool(first) + words[first:]
    keywords = names[second:third]
    written += ["*rest"] if varargs else ["*"] * bool(keywords)
    written += [name if draw(st.booleans()) else f"{name}=None" for name in keywords]
    written += ["**others"] * varkw
    namespace: dict[str, Any] = {}
    exec(f"def f({', '.join(written)}): return locals()", namespace)
    ignored = draw(st.lists(st.sampled_from(names[:third] or ["*"]), unique=True, max_size=2)) if third else []
    return namespace["f"], [*ignored, *(["*"] if varargs and draw(st.booleans()) else [])]


ARGS = st.lists(st.integers(), max_size=5).map(tuple)
KWARGS = st.dictionaries(st.sampled_from([*NAMES, "x"]), st.integers(), max_size=4)


@given(functions(positional_only=True), ARGS, KWARGS)
def test_arguments_are_bound_as_python_does(made: Any, args: Any, kwargs: Any) -> None:
    function, ignored = made
    identity = Identity(function, ignored, "xxh3_128", False)
    try:
        given_ = function(*args, **kwargs)
    except TypeError:
        with pytest.raises(shoal.ArgumentError, match="was called"):
            identity.key(args, kwargs)
        return
    words = identity.words(args, kwargs)
    starred = {"rest": "*", "others": "**"}
    given_ = {starred.get(name, name): value for name, value in given_.items()}
    if "*" in given_:
        given_["*"] = list(given_["*"])
    assert words == {name: value for name, value in given_.items() if name not in ignored}
    try:
        by_name = inspect.signature(function).bind(*args, **kwargs)
    except TypeError:  # in older Pythons for the name of a positional parameter among **others
        return
    by_name.apply_defaults()
    assert identity.key(args, kwargs) == identity.key(by_name.args, by_name.kwargs)


@given(functions(positional_only=False), ARGS, KWARGS)
def test_md5_hashes_the_arguments_that_joblib_hashes(made: Any, args: Any, kwargs: Any) -> None:
    function, ignored = made
    identity = Identity(function, ignored, "md5", False)
    try:
        theirs = joblib.func_inspect.filter_args(function, ignored, args, dict(kwargs))
    except ValueError as error:
        with pytest.raises(ValueError, match=re.escape(str(error).split(" for ")[0])):
            identity.key(args, kwargs)
        return
    try:
        function(*args, **kwargs)
    except TypeError:  # joblib takes keyword arguments of the names of ignored parameters twice
        return
    assert identity.words(args, kwargs) == theirs
    assert identity.key(args, kwargs).call == joblib.hash(theirs)


@pytest.mark.parametrize("args", [(), (1, 2, 3)])
def test_wrong_arguments_raise_joblibs_message(args: Any) -> None:
    memory = shoal.Memory(None)
    with pytest.raises(ValueError, match="for ") as theirs:
        joblib.func_inspect.filter_args(plain, [], args, {})
    with pytest.raises(shoal.ArgumentError) as ours:
        Identity(plain, [], "xxh3_128", False).key(args, {})
    assert str(ours.value) == str(theirs.value)
    assert isinstance(ours.value, TypeError)
    with pytest.raises(TypeError):
        memory.cache(plain)(*args)


# One folder, in turns

CALLS = [0]


def counting(x: Any, y: Any = 1, *more: Any, scale: Any = 1, **others: Any) -> Any:
    CALLS[0] += 1
    return x, y, more, scale, others


class Scaled:
    def __init__(self, scale: int) -> None:
        self.scale = scale

    def counted(self, x: Any) -> Any:
        CALLS[0] += 1
        return self.scale * x


def memories(folder: Path, hash_name: str = "md5", **options: Any) -> tuple[Any, Any]:
    joblib.memory._FUNCTION_HASHES.clear()  # else it writes no source of a function that it knows from another folder
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = joblib.Memory(str(folder), verbose=0, **options)
    return theirs, shoal.Memory(str(folder), verbose=0, hash_name=hash_name, **options)


VALUES: list[Any] = [3, "three", None, [1, {"a": (2.5, b"x")}], np.arange(1000.0), {1, 2}, plain, np.int64(3)]


@pytest.mark.parametrize("options", [{}, {"compress": True}, {"mmap_mode": "r"}], ids=str)
@pytest.mark.parametrize("first", [0, 1], ids=["joblib first", "shoal first"])
def test_each_finds_the_results_of_the_other(tmp_path: Path, first: int, options: dict[str, Any]) -> None:
    order = memories(tmp_path, **options)
    one, other = (order[(first + turn) % 2].cache(counting) for turn in range(2))
    for value in VALUES:
        CALLS[0] = 0
        expected = one(value, scale=2)
        assert CALLS == [1]
        assert str(other(value, 1, scale=2)) == str(expected) == str(one(x=value, scale=2))
        assert other.check_call_in_cache(value, scale=2)
        assert str(other.call_and_shelve(value, scale=2).get()) == str(expected)
        assert CALLS == [1]
    assert len(list(tmp_path.rglob("output.pkl"))) == len(VALUES)


@pytest.mark.parametrize("first", [0, 1], ids=["joblib first", "shoal first"])
def test_joblib_and_shoal_share_the_results_of_methods(tmp_path: Path, first: int) -> None:
    order = memories(tmp_path)
    one, other = (order[(first + turn) % 2].cache(Scaled(3).counted) for turn in range(2))
    CALLS[0] = 0
    assert one(2) == other(2) == 6
    assert CALLS == [1]


@pytest.mark.parametrize("ignore", [["scale"], ["*"], ["**", "y"]], ids=str)
def test_joblib_and_shoal_share_results_with_ignored_arguments(tmp_path: Path, ignore: list[str]) -> None:
    one, other = (memory.cache(counting, ignore=ignore) for memory in memories(tmp_path))
    CALLS[0] = 0
    assert one(1, 1, scale=1) == other(1, 1, scale=1)
    assert one(1, *([1, 2] if "*" in ignore else [1]), scale=2 if "scale" in ignore else 1) == (1, 1, (), 1, {})
    assert CALLS == [1]


def test_the_fast_key_finds_results_of_joblib(tmp_path: Path) -> None:
    theirs, ours = memories(tmp_path, "xxh3_128")
    one, other = theirs.cache(counting), ours.cache(counting)
    CALLS[0] = 0
    results = [one(value) for value in VALUES]
    assert [str(other(value)) for value in VALUES] == list(map(str, results))
    assert other.call_and_shelve(3).get() == results[0]
    assert other.check_call_in_cache("three")
    assert [len(VALUES)] == CALLS
    assert ours.info().hits == len(VALUES) + 1
    assert other(4) == one(4)
    assert [len(VALUES) + 2] == CALLS, "joblib does not find what is kept under a fast key"
    assert shoal.Memory(str(tmp_path), verbose=0).cache(counting)(4)[0] == 4
    assert [len(VALUES) + 2] == CALLS


def factory(n: int) -> Callable[[int], int]:
    def times(x: int) -> int:
        CALLS[0] += 1
        return n * x

    return times


def test_results_of_joblib_for_a_closure_are_not_used(tmp_path: Path) -> None:
    theirs, ours = memories(tmp_path, "xxh3_128")
    assert theirs.cache(factory(2))(3) == 6
    assert theirs.cache(factory(5))(3) == 6, "joblib's own mistake"
    assert ours.cache(factory(5))(3) == 15
    assert ours.cache(factory(2))(3) == 6


# Lines and warnings

TOLD = re.compile(r"\d+\.\d+(s|min)")


def printed(run: Callable[[], Any]) -> list[str]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        run()
    return TOLD.sub("TIME", out.getvalue()).splitlines()


def speaks(x: Any, *rest: Any, **words: Any) -> Any:
    return x


def test_printed_lines_are_joblibs(tmp_path: Path) -> None:
    array = np.arange(10_000.0)
    for verbose in (0, 1, 2, 4, 5, 9, 10, 11, 50):
        lines = []
        for library, memory_type in (("joblib", joblib.Memory), ("shoal", shoal.Memory)):
            options = {} if library == "joblib" else {"hash_name": "md5"}
            memory = memory_type(str(tmp_path / f"{verbose}{library}"), verbose=verbose, **options)
            function = memory.cache(speaks)

            def run(function: Any = function, memory: Any = memory) -> None:
                for _ in range(2):
                    function(1, "text" * 30, array, a={"k": [1, 2]})
                    function(array)
                function.call(2)
                function.call_and_shelve(1, "more").get()
                function.call_and_shelve(1, "more").get()
                function.check_call_in_cache(7)
                memory.eval(speaks, "x" * 5000)
                memory.eval(speaks, "x" * 5000)

            lines.append([line.replace(f"{verbose}{library}", "FOLDER") for line in printed(run)])
        assert lines[1] == lines[0], verbose


def test_logged_lines_are_joblibs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logged = []
    for library, memory_type in (("joblib", joblib.Memory), ("shoal", shoal.Memory)):
        options = {} if library == "joblib" else {"hash_name": "md5"}
        caplog.clear()
        with caplog.at_level(logging.INFO):
            memory = memory_type(str(tmp_path / library), verbose=20, **options)
            function = memory.cache(speaks)
            with contextlib.redirect_stdout(io.StringIO()):
                function(1)
                function(1)
                function.clear()
                memory.clear()
        messages = [record.getMessage() for record in caplog.records]
        # Only shoal says why a result is computed.
        text = "\n".join(message for message in messages if "]: miss: " not in message)
        logged.append(text.replace(str(tmp_path / library), "FOLDER").splitlines())
    assert logged[1] == logged[0]


modules = pytest.fixture(make_project)


@pytest.fixture
def module(modules: Callable[..., Any]) -> Callable[[str], Any]:
    """Give a function that writes a module and imports it anew."""
    return lambda source: modules("shoal_edited", shoal_edited=source)


EDITS: dict[str, tuple[list[str], str]] = {
    "changed": (["def f(x):\n    return x + 1\n", "def f(x):\n    return x + 2\n"], "a"),
    "moved": (["def f(x):\n    return x + 1\n", "\n\n\ndef f(x):\n    return x + 1\n"], "a"),
    "changed and back": (["def f(x):\n    return x\n", "def f(x):\n    return -x\n", "def f(x):\n    return x\n"], "a"),
    "decorated": (["def f(x):\n    return x\n", "@abs.__class__.__call__\n#\ndef f(x):\n    return x\n"], "a"),
    "comment": (["def f(x):\n    return x\n", "def f(x):\n    # why\n    return x\n"], "a"),
    "default": (["def f(x, y=1):\n    return x, y\n", "def f(x, y=2):\n    return x, y\n"], "a"),
    "callee": (
        [
            "def g(x):\n    return 1\ndef f(x):\n    return g(x)\n",
            "def g(x):\n    return 2\ndef f(x):\n    return g(x)\n",
        ],
        "a",
    ),
}
del EDITS["decorated"]


@pytest.mark.parametrize("name", EDITS)
def test_the_same_edits_count_as_in_joblib(tmp_path: Path, module: Any, name: str) -> None:
    results = []
    for library in ("joblib", "shoal"):
        told: list[Any] = []
        for source in EDITS[name][0]:
            function = module(source).f
            memory = memories(tmp_path / library)[library == "shoal"]
            cached = memory.cache(function)
            # joblib reads the text of a function that it has seen once only.
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                known = cached.check_call_in_cache(1)
                told.append((known, cached(1), [str(warning.message)[:25] for warning in caught]))
        results.append(told)
    assert results[1] == results[0]


COLLISIONS = {
    "two of one name": "def f(x):\n    return 1\na = f\ndef f(x):\n    return 2\nb = f\n",
    "two lambdas": "a = lambda x: 1\nb = lambda x: 2\n",
    "two without a source": "a, b = (eval(compile(f'lambda x: {n}', '<nowhere>', 'eval')) for n in (1, 2))\n",
}


@pytest.mark.parametrize("name", COLLISIONS)
def test_collisions_warn_as_in_joblib(tmp_path: Path, module: Any, name: str) -> None:
    told = []
    for library in ("joblib", "shoal"):
        made = module(COLLISIONS[name])
        memory = memories(tmp_path / library)[library == "shoal"]
        a, b = memory.cache(made.a), memory.cache(made.b)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert (a(1), b(1), b(2)) == (1, 2, 2)  # after that, joblib answers a(1) by 2
        # On Windows, joblib quotes names as in paths.
        told.append([str(warning.message).replace("%3Clambda%3E", "<lambda>") for warning in caught])
    assert told[0]
    assert told[1] == told[0]


@pytest.mark.parametrize("name", COLLISIONS)
def test_functions_of_one_name_keep_their_results_under_the_fast_key(tmp_path: Path, module: Any, name: str) -> None:
    made = module(COLLISIONS[name])
    memory = shoal.Memory(tmp_path, verbose=0)
    a, b = memory.cache(made.a), memory.cache(made.b)
    assert [(a(1), b(1)) for _ in range(3)] == [(1, 2)] * 3
    assert memory.info().misses == 2
    again = shoal.Memory(tmp_path, verbose=0)
    assert (again.cache(made.b)(1), again.cache(made.a)(1)) == (2, 1)
    assert again.info().misses == 0


SCRIPT = """
import functools, sys
library = __import__(sys.argv[1])
memory = library.Memory(sys.argv[2], verbose=0, **({"hash_name": "md5"} if sys.argv[1] == "shoal" else {}))

@memory.cache
def f(x):
    return x

class C:
    def method(self, x):
        return x
    def __reduce__(self):
        return C, ()

f(1), memory.cache(C().method)(2), memory.cache(lambda x: x)(3)

def outer():
    @memory.cache
    def inner(x):
        return x
    return inner(4)
outer()
"""


def test_a_script_uses_the_same_folders_as_joblib(tmp_path: Path) -> None:
    script = tmp_path / "a-script.py"
    script.write_text(SCRIPT)
    found = []
    for library in ("joblib", "shoal"):
        folder = tmp_path / library
        subprocess.run([sys.executable, "-W", "error", script, library, folder], check=True, timeout=60 * SLOWNESS)
        files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.p*"))
        found.append([(name, (folder / name).read_text() if name.endswith("code.py") else "") for name in files])
    assert found[0]
    assert found[1] == found[0]


def test_another_process_finds_results_of_code_without_a_source(tmp_path: Path) -> None:
    source = "import sys; lib = __import__(sys.argv[1])\ndef f(x):\n print('computing'); return x\n"
    source += "lib.Memory(sys.argv[2], verbose=0, **eval(sys.argv[3])).cache(f)(1)"

    def run(library: str, options: str) -> str:
        command = [sys.executable, "-c", source, library, str(tmp_path), options]
        env = {**os.environ, "PYTHONWARNINGS": "ignore"}
        return subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=60 * SLOWNESS, env=env
        ).stdout

    assert run("joblib", "{}") == "computing\n"
    assert run("shoal", "{'hash_name': 'md5'}") == run("joblib", "{}") == run("shoal", "{}") == ""
