"""``shoal run``: a program runs as ``python script.py`` would run it, but with shoal in joblib's place."""

from __future__ import annotations

import os
import signal
import textwrap
import zipfile
from pathlib import Path

import pytest

from _capabilities import needs_installed, needs_links, needs_signals
from _children import without_guard
from _cli_util import PYTHON, SHOAL, run
from _python import GIL

SHOWS_ITSELF = """
import sys
print(sys.argv, sys.path[0], __name__, __file__, __package__, __spec__ and __spec__.name, __cached__, __doc__)
print(type(__builtins__), type(__loader__).__name__, sys.modules["__main__"].__dict__ is globals())
"""


AT_THE_END = """
import threading, time

def f():
    time.sleep(0.2)
    import __main__
    print(__main__.f is f)

threading.Thread(target=f).start()
"""


def script(folder: Path, source: str, name: str = "script.py") -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(source))
    return name


# ---- As Python runs it.


@pytest.mark.parametrize(
    "way", ["script", "folder", "zip", "module", "package", "inner", pytest.param("link", marks=needs_links)]
)
def test_a_program_sees_what_it_would_see_without_shoal(tmp_path: Path, way: str) -> None:
    script(tmp_path, SHOWS_ITSELF, "program/__main__.py")
    script(tmp_path, "", "program/__init__.py")
    script(tmp_path, SHOWS_ITSELF, "program/inner.py")
    script(tmp_path, SHOWS_ITSELF)
    with zipfile.ZipFile(tmp_path / "zipped.zip", "w") as file:
        file.write(tmp_path / "script.py", "__main__.py")
    if way == "link":
        os.symlink("program/inner.py", tmp_path / "link.py")
    program = {
        "script": ["script.py"],
        "folder": ["program"],
        "zip": ["zipped.zip"],
        "module": ["-m", "script"],
        "package": ["-m", "program"],
        "inner": ["-m", "program.inner"],
        "link": ["link.py"],
    }[way]
    arguments = ["a", "--progress", "-m", "--", "-h"]
    # The first run compiles modules, so that __cached__ and the loaders are those of later runs.
    run(PYTHON, *program, cwd=tmp_path)
    plain = run(PYTHON, *program, *arguments, cwd=tmp_path)
    assert plain[0] == 0
    assert run((*SHOAL, "run"), *program, *arguments, cwd=tmp_path) == plain


@pytest.mark.parametrize(
    "source",
    [
        "raise SystemExit",
        "import sys; sys.exit(3)",
        "import sys; sys.exit('a reason')",
        "def f():\n    raise ValueError('no')\nf()",
        "try:\n    1 / 0\nexcept ZeroDivisionError as error:\n    raise ValueError('no') from error",
        "x = (",
        "raise KeyboardInterrupt",
        "import sys\nsys.excepthook = lambda kind, error, trace: print('hook', kind, trace.tb_lineno)\n1 / 0",
        "import atexit\natexit.register(lambda: print(__name__, f))\ndef f(): pass\nf = 3\n1 / 0",
        AT_THE_END,
        "import os; os._exit(4)",
    ],
)
def test_a_program_ends_as_it_would_end_without_shoal(tmp_path: Path, source: str) -> None:
    name = script(tmp_path, source)
    assert run((*SHOAL, "run"), name, cwd=tmp_path) == run(PYTHON, name, cwd=tmp_path)


@pytest.mark.parametrize("source", ["1 / 0", "import nothing_has_this_name", "x = ("])
def test_errors_in_a_package_that_contains_the_module_are_shown(tmp_path: Path, source: str) -> None:
    script(tmp_path, source, "package/__init__.py")
    script(tmp_path, "", "package/inner.py")
    code, _, stderr = run((*SHOAL, "run"), "-m", "package.inner", cwd=tmp_path)
    assert code == 1
    assert "__init__.py" in stderr
    assert "shoal" not in stderr


def test_a_package_that_contains_the_module_may_end_the_program(tmp_path: Path) -> None:
    script(tmp_path, "import sys; sys.exit('early')", "package/__init__.py")
    script(tmp_path, "", "package/inner.py")
    assert run((*SHOAL, "run"), "-m", "package.inner", cwd=tmp_path) == (1, "", "early\n")


@needs_signals
def test_an_interrupt_ends_the_program_by_its_signal(tmp_path: Path) -> None:
    name = script(tmp_path, "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(50)")
    code, _, stderr = run((*SHOAL, "run"), name, cwd=tmp_path)
    assert code == -signal.SIGINT
    assert stderr.endswith("KeyboardInterrupt\n")
    assert "shoal" not in stderr


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--progress"],
        ["missing.py"],
        ["."],
        ["-m", "missing"],
        ["-m", "json.missing"],
        ["-m", "missing.inner"],
        ["-m", "a..b"],
        ["-m"],
        ["--n-jobs", "0", "script.py"],
        ["--n-jobs", "many", "script.py"],
        ["--backend", "cloud", "script.py"],
        ["--unknown", "script.py"],
    ],
)
def test_wrong_usage(tmp_path: Path, arguments: list[str]) -> None:
    script(tmp_path, "print('it ran')")
    code, stdout, stderr = run((*SHOAL, "run"), *arguments, cwd=tmp_path)
    assert (code, stdout) == (2, "")
    assert "shoal" in stderr
    assert "Traceback" not in stderr


# ---- With shoal in joblib's place.

CALLS = """
import joblib
from joblib import Parallel, delayed

def square(i):
    return i * i

def main():
    assert "shoal" in joblib.__file__
    print(Parallel(n_jobs=2, backend={backend!r})(delayed(square)(i) for i in range(4)))
    print(Parallel(n_jobs=2, backend={backend!r})(delayed(lambda i: square(i) + 1)(i) for i in range(4)))

"""


@pytest.mark.parametrize("guard", [True, pytest.param(False, marks=without_guard)], ids=["guarded", "unguarded"])
@pytest.mark.parametrize("how", ["script", "module"])
def test_functions_of_the_program_run_in_workers(tmp_path: Path, how: str, guard: bool) -> None:
    source = CALLS.format(backend="loky") + ("if __name__ == '__main__':\n    main()" if guard else "main()")
    name = script(tmp_path, source)
    program = [name] if how == "script" else ["-m", "script"]
    assert run((*SHOAL, "run"), *program, cwd=tmp_path) == (0, "[0, 1, 4, 9]\n[1, 2, 5, 10]\n", "")


@pytest.mark.parametrize("method", [pytest.param("spawn", marks=needs_installed), "loky"])
def test_other_ways_to_start_workers(tmp_path: Path, method: str) -> None:
    name = script(tmp_path, CALLS.format(backend="loky") + "if __name__ == '__main__':\n    main()")
    environment = {**os.environ, "SHOAL_START_METHOD": method}
    assert run((*SHOAL, "run"), name, cwd=tmp_path, env=environment) == (0, "[0, 1, 4, 9]\n[1, 2, 5, 10]\n", "")


@pytest.mark.parametrize("how", ["script", "module"])
def test_children_of_multiprocessing_import_the_program(tmp_path: Path, how: str) -> None:
    name = script(
        tmp_path,
        """
        import multiprocessing, sys

        def f(i):
            return i + 1, __name__

        if __name__ == "__main__":
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                print(pool.map(f, [1, 2]))
        """,
    )
    program = [name] if how == "script" else ["-m", "script"]
    expected = "[(2, '__mp_main__'), (3, '__mp_main__')]\n"
    assert run((*SHOAL, "run"), *program, cwd=tmp_path) == (0, expected, "")


# ---- The options.

DEFAULTS = """
import threading
from joblib import Parallel, delayed
import shoal

def show():
    for kind in (Parallel, shoal.Parallel):
        print(kind().n_jobs, kind(n_jobs=3).n_jobs, type(kind()._plan.backend).__name__, end=" ")
    print()

show()
thread = threading.Thread(target=show)
thread.start()
thread.join()
with shoal.parallel_config(n_jobs=5):
    show()
show()
"""


def test_options_are_the_defaults_in_all_threads(tmp_path: Path) -> None:
    name = script(tmp_path, DEFAULTS)
    code, stdout, stderr = run((*SHOAL, "run"), "--n-jobs", "2", "--backend=threading", name, cwd=tmp_path)
    two = "2 3 ThreadingBackend 2 3 ThreadingBackend \n"
    assert (code, stdout, stderr) == (0, two + two + two.replace("2 3", "5 3") + two, "")


@pytest.mark.skipif(not GIL, reason="the default backend is another one")
def test_without_options_nothing_changes(tmp_path: Path) -> None:
    name = script(tmp_path, DEFAULTS)
    one = "1 3 LokyBackend 1 3 LokyBackend \n"
    assert run((*SHOAL, "run"), name, cwd=tmp_path) == (0, one + one + one.replace("1 3", "5 3") + one, "")


def test_options_do_not_reach_nested_runs(tmp_path: Path) -> None:
    name = script(
        tmp_path,
        """
        from joblib import Parallel, delayed
        def inner():
            return Parallel().n_jobs
        if __name__ == '__main__':
            print(Parallel(n_jobs=2)(delayed(inner)() for _ in range(2)))
        """,
    )
    for backend in ("threading", "loky"):
        assert run((*SHOAL, "run"), "--n-jobs=3", "--backend", backend, name, cwd=tmp_path) == (0, "[1, 1]\n", "")


@pytest.mark.parametrize("library", ["joblib", "shoal"])
def test_progress_is_shown_for_each_run(tmp_path: Path, library: str) -> None:
    name = script(
        tmp_path,
        f"""
        import threading
        from {library} import Parallel, delayed
        def work():
            print(Parallel(n_jobs=2)(delayed(abs)(-i) for i in range(4)))
        if __name__ == '__main__':
            work()
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
        """,
    )
    code, stdout, stderr = run((*SHOAL, "run"), "--progress", name, cwd=tmp_path)
    assert (code, stdout) == (0, "[0, 1, 2, 3]\n" * 2)
    assert stderr.count("4/4") == 2
    assert run((*SHOAL, "run"), name, cwd=tmp_path)[2] == ""
