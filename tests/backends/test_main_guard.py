"""Programs without a main guard, whose worker processes would start workers. The error is raised once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from _capabilities import SLOWNESS
from _children import path_of_tests, without_guard
from _python import needs_forks

METHODS = pytest.mark.parametrize("method", ["spawn", pytest.param("forkserver", marks=needs_forks)])


def run(folder: Path, source: str) -> tuple[int, str, str]:
    program = folder / "program.py"
    program.write_text(source)
    # The path of a fork server's socket must be short.
    paths = os.pathsep.join([path_of_tests(), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "TMPDIR": "/tmp", "PYTHONPATH": paths}
    command = [sys.executable, str(program)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100 * SLOWNESS, check=False)
    return done.returncode, done.stdout, done.stderr


FORMS = {
    "list": "print(Parallel(n_jobs=2, backend=context)(delayed(abs)(-i) for i in range(4)))",
    "with retries": "print(Parallel(n_jobs=2, backend=context, batch_size=1, retries=3)([delayed(abs)(-1)] * 4))",
    "exceptions as results": "print(Parallel(n_jobs=2, backend=context, on_error='return')([delayed(abs)(-1)] * 4))",
    "under the name joblib": """
from shoal import install_as_joblib

install_as_joblib()
import joblib

print(joblib.Parallel(n_jobs=2, backend=context)(joblib.delayed(abs)(-i) for i in range(4)))
""",
}


@METHODS
@pytest.mark.parametrize("form", FORMS)
def test_a_program_without_a_guard(tmp_path: Path, form: str, method: str) -> None:
    source = f"""
import multiprocessing
from shoal import Parallel, delayed

context = multiprocessing.get_context({method!r})
{FORMS[form]}
"""
    code, out, err = run(tmp_path, source)
    assert (code, out) == (1, "")
    assert err.count("Traceback") == 1
    assert err.count('if __name__ == "__main__":') == 1
    assert "shoal.errors.MissingMainGuard" in err
    assert str(tmp_path / "program.py") in err.rpartition("MissingMainGuard")[2]


@METHODS
def test_an_executor_without_a_guard(tmp_path: Path, method: str) -> None:
    source = f"""
import multiprocessing
from concurrent.futures import BrokenExecutor
from shoal import MissingMainGuard, executor

with executor(2, multiprocessing.get_context({method!r})) as workers:
    try:
        workers.submit(abs, -1).result()
    except BrokenExecutor as error:
        print(type(error.__cause__).__name__)
"""
    assert run(tmp_path, source) == (0, "MissingMainGuard\n", "")


@METHODS
def test_a_program_with_a_guard(tmp_path: Path, method: str) -> None:
    source = f"""
import multiprocessing
from shoal import Parallel, delayed


def square(x):
    return x * x


if __name__ == "__main__":
    print(Parallel(n_jobs=2, backend=multiprocessing.get_context({method!r}))(delayed(square)(i) for i in range(4)))
"""
    assert run(tmp_path, source) == (0, "[0, 1, 4, 9]\n", "")


@without_guard
def test_another_child_process_that_imports_a_program_without_a_guard(tmp_path: Path) -> None:
    """The child is not a shoal worker, so it raises the error itself."""
    source = """
import multiprocessing
from shoal import Parallel, delayed

print(Parallel(n_jobs=2)(delayed(abs)(-i) for i in range(4)))
if __name__ == "__main__":
    child = multiprocessing.get_context("spawn").Process(target=print, args=("child",))
    child.start()
    child.join()
    print(child.exitcode)
"""
    code, out, err = run(tmp_path, source)
    assert (code, out) == (0, "[0, 1, 2, 3]\n1\n")
    assert "shoal.errors.MissingMainGuard" in err
