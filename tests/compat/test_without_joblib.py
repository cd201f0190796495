"""scikit-learn in an environment that has everything except the real joblib.

The commands of docs/joblib.md, section "Requires-Dist: joblib", are run here as they are.
"""

from __future__ import annotations

import os
import re
import subprocess
import sysconfig
import venv
from pathlib import Path

import pytest

from _capabilities import needs_links
from _docs import blocks_by

ROOT = Path(__file__).resolve().parents[2]
USES = ROOT / "examples" / "sklearn_uses.py"

pytestmark = needs_links


@pytest.fixture(scope="module")
def binaries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the bin folder of an environment with all packages of this one except joblib."""
    pytest.importorskip("sklearn")
    folder = tmp_path_factory.mktemp("without joblib")
    venv.create(folder, symlinks=True, with_pip=False)
    paths = sysconfig.get_paths(vars={"base": str(folder), "platbase": str(folder)})
    site = Path(paths["purelib"])
    for entry in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if not re.match(r"joblib\b", entry.name) and not (site / entry.name).exists():
            (site / entry.name).symlink_to(entry)
    site.joinpath("shoal-source.pth").write_text(f"{ROOT / 'src'}\n")  # in case shoal is not installed here
    return Path(paths["scripts"])


def run(binaries: Path, *command: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "SHOAL_AS_JOBLIB")}
    environment.update(variables, PATH=f"{binaries}{os.pathsep}{environment['PATH']}")
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=binaries.parent)


def lacks_joblib(binaries: Path) -> bool:
    done = run(binaries, binaries / "python", "-m", "pip", "--disable-pip-version-check", "check")
    if "No module named pip" in done.stderr:
        pytest.skip("there is no pip here")
    return "joblib" in done.stdout


@pytest.mark.thorough  # test_install.py runs scikit-learn on shoal too, where joblib is installed
def test_scikit_learn_runs_without_joblib_and_with_an_empty_distribution_of_that_name(binaries: Path) -> None:
    python = binaries / "python"
    alone = run(binaries, python, "-c", "import joblib")
    assert "No module named 'joblib'" in alone.stderr
    uses = run(binaries, python, USES, "shoal")
    assert uses.returncode == 0, uses.stderr
    assert len(uses.stdout.splitlines()) == 5
    assert lacks_joblib(binaries)

    pytest.importorskip("hatchling")
    (commands,) = blocks_by("docs/joblib.md", __file__)
    here = {"PIP_NO_BUILD_ISOLATION": "0", "PIP_NO_DEPS": "1", "PIP_NO_INDEX": "1"}  # all requirements are installed
    done = run(binaries, "sh", "-ec", commands.replace("pip install", "python -m pip install"), **here)
    assert done.returncode == 0, done.stderr
    assert not lacks_joblib(binaries)
    code = "import importlib.metadata as m, joblib, sys; print(m.version('joblib'), joblib.__file__)"
    version, _, file = run(binaries, python, "-c", code).stdout.strip().partition(" ")
    assert version == "1.6.0"
    assert file.startswith(str(ROOT / "src"))
    assert run(binaries, python, USES, "joblib").stdout == uses.stdout  # the program does not mention shoal
