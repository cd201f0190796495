"""Runs other projects' tests with shoal in joblib's place, in an environment made for them.

The environment extends the running one by a ``.pth`` file. So every Python that the tests and workers start has shoal
in joblib's place, and cannot import the real joblib.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src"

IN_PLACE = """\
import sys

from shoal.compat import install_as_joblib


class Blocker:
    @staticmethod
    def find_spec(fullname, path=None, target=None):
        if fullname.partition(".")[0] == "joblib" and not any(str(p).startswith({allowed!r}) for p in path or ()):
            raise AssertionError(f"the real joblib is imported: {{fullname}}")
        return None


install_as_joblib()
sys.meta_path.insert(1, Blocker)
"""


def environment(name: str, *, shoal: bool = True, further: str = "", allowed: Iterable[Path] = ()) -> Path:
    """Make an environment that extends the running one; return its Python.

    Parameters
    ----------
    name
        Its folder in build/.
    shoal
        Whether shoal is in joblib's place there. If not, the environment is the same as the running one.
    further
        More code that each Python runs when it starts, if `shoal` is true.
    allowed
        Folders from which modules named joblib may be imported, besides shoal's.
    """
    folder = ROOT / "build" / name / "{}.{}.{}".format(*sys.version_info)
    venv.create(folder, symlinks=True, with_pip=False)
    name_of_python = "python.exe" if os.name == "nt" else "python"
    paths = sysconfig.get_paths(vars={"base": str(folder), "platbase": str(folder)})
    site = Path(paths["purelib"])
    lines = [f"import site, sys; site.addsitedir({sysconfig.get_paths()['purelib']!r})"]
    if shoal:
        places = str(SOURCE), *map(str, allowed)
        site.joinpath("_shoal_as_joblib.py").write_text(IN_PLACE.format(allowed=places) + further)
        lines += [f"import sys; sys.path.insert(0, {str(SOURCE)!r})", "import _shoal_as_joblib"]
    site.joinpath("shoal_as_joblib.pth").write_text("\n".join(lines) + "\n")
    python = Path(paths["scripts"]) / name_of_python
    if not python.exists():  # this Windows Python has no launchers for environments, but it runs in any folder
        for file in [Path(sys.executable), *Path(sys.executable).parent.glob("*.dll")]:
            shutil.copy(file, python.parent)
    shown = subprocess.run([python, "-c", "import joblib; print(joblib.__file__)"], capture_output=True, text=True)
    assert shown.stdout.startswith(str(SOURCE)) is shoal, f"joblib is {shown.stdout} {shown.stderr}"
    return python


def pytest(
    python: Path, rootdir: Path, arguments: Iterable[str | Path], work: Path
) -> subprocess.CompletedProcess[str]:
    """Run tests of another project in the folder `work`, without shoal's pytest settings."""
    work.mkdir(parents=True, exist_ok=True)
    settings = work / "pytest.ini"
    settings.write_text("[pytest]\n")
    options = ["-c", settings, f"--rootdir={rootdir}", "-p", "no:cacheprovider", "-q"]
    variables = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    variables.pop("PYTHONPATH", None)
    variables.setdefault("PYTHONHASHSEED", "0")  # pytest-xdist needs a fixed order, and some tests come from sets
    command = [python, "-m", "pytest", *options, *arguments]
    return subprocess.run(command, cwd=work, env=variables, stdout=subprocess.PIPE, text=True)


def outcomes_of(report: Path) -> dict[str, str]:
    """Read a report of pytest's (junit); return "passed", "skipped" or "failed" by the names of the tests."""
    outcomes: dict[str, str] = {}
    if report.exists():
        for case in ElementTree.parse(report).iter("testcase"):
            kinds = {child.tag for child in case}
            outcome = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
            outcomes[f"{case.get('classname')}::{case.get('name')}"] = outcome
    return outcomes


def worse(with_joblib: dict[str, str], with_shoal: dict[str, str]) -> list[str]:
    """Return the tests that pass with joblib and not with shoal."""
    return [name for name, outcome in with_joblib.items() if outcome == "passed" != with_shoal.get(name)]
