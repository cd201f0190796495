"""Released versions of other projects with shoal in joblib's place: ``make test-downstream``.

Each program of programs/ runs twice, with joblib and with shoal, and must print the same. With shoal, an import of the
real joblib fails and is recorded, in every Python that starts, including the workers of ray, ipyparallel, lithops and
Spark.

The programs run in an environment of their own, because these projects are large; real_packages.txt lists them. They
listen on loopback only, and write to the test's own folder.
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

#: The first code in every Python of the environment, if shoal is in joblib's place.
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

def note(text):
    with open(os.environ["SHOAL_NOTES"], "a") as notes:
        notes.write(f"{os.getpid()} {text}\\n")

sys.meta_path.insert(1, Bar())
note("has shoal in joblib's place")
"""

#: The minimum number of processes that use shoal in joblib's place, including the engine's.
PROCESSES = {"with_ray": 3, "with_ipyparallel": 3, "with_lithops": 2, "with_joblibspark": 2}


@pytest.fixture(scope="session", autouse=True)
def barring() -> None:
    """Make the environment refuse the real joblib if SHOAL_NOTES is set."""
    site = Path(sysconfig.get_paths()["purelib"])
    site.joinpath("_shoal_bars_joblib.py").write_text(BARRING)
    line = "import os; os.environ.get('SHOAL_NOTES') and __import__('_shoal_bars_joblib')"
    site.joinpath("shoal_bars_joblib.pth").write_text(line + "\n")


def printed(program: Path, folder: Path, **variables: str) -> str:
    """Run a program in a folder; return its output."""
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
