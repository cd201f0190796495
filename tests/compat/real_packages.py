"""Other projects, as they are released, with shoal in joblib's place: ``make test-downstream``.

Each of programs/ runs twice, under joblib and under shoal, and has to print the same. Under shoal, an import of the
real joblib fails, and is told of, in every Python that starts: the workers of ray, ipyparallel, lithops and Spark too.

They run in an environment of their own, since these projects are heavy; real_packages.txt names them. What they start
hears loopback only, and what they write is written to the test's own folder.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from _ray_util import VARIABLES

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parent.parent / "src"
PROGRAMS = sorted(HERE.joinpath("programs").glob("with_*.py"))

PRELUDE = """\
import functools, sys
print = functools.partial(print, file=open(sys.argv[1], "w"), flush=True)
"""

#: What every Python of the environment does first, if shoal is to be in joblib's place.
BARRING = """\
import importlib.abc, os, sys

sys.path.insert(0, os.environ["SHOAL_SOURCE"])
import shoal

class Bar(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] != "joblib":
            return None
        if path and str(list(path)[0]).startswith(os.environ["SHOAL_SOURCE"]):
            return None
        note("imports the real " + name)
        raise AssertionError(f"the real joblib is imported: {name}")

def note(what):
    with open(os.environ["SHOAL_NOTES"], "a") as notes:
        notes.write(f"{os.getpid()} {what}\\n")

sys.meta_path.insert(1, Bar())
note("has shoal in joblib's place")
"""

#: The processes at least in which shoal stands in for joblib: those of the engine are among them.
PROCESSES = {"with_ray": 3, "with_ipyparallel": 3, "with_lithops": 2, "with_joblibspark": 2}


@pytest.fixture(scope="session", autouse=True)
def barring() -> None:
    """Have the environment bar the real joblib where it is asked to."""
    site = Path(sysconfig.get_paths()["purelib"])
    site.joinpath("_shoal_bars_joblib.py").write_text(BARRING)
    line = "import os; os.environ.get('SHOAL_NOTES') and __import__('_shoal_bars_joblib')"
    site.joinpath("shoal_bars_joblib.pth").write_text(line + "\n")


def printed(program: Path, folder: Path, **variables: str) -> str:
    """Run a program in a folder; return what it prints."""
    folder.mkdir()
    environment = {
        **os.environ,
        **VARIABLES,
        **dict.fromkeys(("HOME", "TMPDIR", "IPYTHONDIR"), str(folder)),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(HERE.parent),
        "NUMBA_CACHE_DIR": str(Path(sys.prefix) / "numba"),
        **variables,
    }
    for name in ("SHOAL_AS_JOBLIB", "SHOAL_NOTES"):
        if name not in variables:
            environment.pop(name, None)
    command = [sys.executable, program, folder / "printed"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr + done.stdout
    return folder.joinpath("printed").read_text()


@pytest.mark.timeout(1100)
@pytest.mark.parametrize("source", PROGRAMS, ids=[path.stem for path in PROGRAMS])
def test_a_program_prints_what_it_does_under_joblib(source: Path, tmp_path: Path) -> None:
    if source.stem == "with_joblibspark" and shutil.which("java") is None:
        pytest.skip("Spark needs Java, which is not installed")
    program = tmp_path / "program.py"
    program.write_text(PRELUDE + source.read_text())
    notes = tmp_path / "notes"
    settings = {"SHOAL_AS_JOBLIB": "1", "SHOAL_NOTES": str(notes), "SHOAL_SOURCE": str(SOURCE)}
    under_shoal = printed(program, tmp_path / "shoal", **settings)
    noted = notes.read_text().splitlines()
    assert not [line for line in noted if "imports" in line]
    assert len(noted) >= PROCESSES.get(source.stem, 1)
    assert under_shoal
    assert under_shoal == printed(program, tmp_path / "joblib")
