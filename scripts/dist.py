"""Builds the distributions and checks them as a user gets them: ``python -m scripts.dist [--release] [PYTHON ...]``.

::

    the checkout ──> sdist ──> unpacked elsewhere ──> wheel ──> a new environment of each Python: smoke test
                       └─ twine, its files              └─ twine, check-wheel-contents, metadata, licences
                       └─ some tests, on its own sources

The results are in dist/. With ``--release``, names that are still to be set (RELEASING.md) are errors too.
"""

from __future__ import annotations

import email
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from email.message import Message
from pathlib import Path

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"
#: What stands for the owner of the repository until there is one.
PLACEHOLDER = "github.com/OWNER/"
VERSIONS = ("3.10", "3.11", "3.12", "3.13", "3.13t", "3.14")
#: The tests that are run on the sources of the sdist: some seconds of each kind.
TESTS = ("tests/test_architecture.py", "tests/parallel/test_delayed.py", "tests/test_platforms.py")
#: Pages whose first commands install shoal. They are run as they are, with the wheel instead of the sources.
FIRST_PAGES = ("docs/index.md", "docs/start/first-run.md")
LICENCES = {"LICENSE": "BSD 3-Clause", "uplot.LICENSE": "Leon Sorokin"}

#: Run in an environment that has the wheel and what it requires, and nothing else.
SMOKE = """
import os, sys, tempfile
import numpy
import shoal
from shoal import Memory, Parallel, delayed, dump, load

def square(x):
    return x * x

if __name__ == "__main__":
    assert shoal.__version__ == sys.argv[1], shoal.__version__
    assert "site-packages" in shoal.__file__, shoal.__file__
    assert Parallel(n_jobs=2)(delayed(square)(x) for x in range(9)) == [x * x for x in range(9)]
    folder = tempfile.mkdtemp()
    path = os.path.join(folder, "value.pkl")
    dump({"a": numpy.arange(9)}, path, compress="gzip")
    assert load(path)["a"].sum() == 36
    assert Memory(folder, verbose=0).cache(square)(3) == 9
    assert "uPlot" in shoal.report()._repr_html_()
"""


def run(*command: str | Path, cwd: Path = ROOT, **environment: str) -> str:
    """Run a command; return what it printed. What it printed is shown if it fails, which ends this program."""
    env = {**os.environ, **environment}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=env, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"failed: {' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def version() -> str:
    """Return the version, which one file says; and check that files which must repeat it agree."""
    found = re.search(r'^__version__ = "(.+)"$', (ROOT / "src/shoal/__init__.py").read_text("utf-8"), re.M)
    assert found is not None
    for name, pattern in (("CITATION.cff", r"^version: (.+)$"), ("recipe/recipe.yaml", r'^  version: "(.+)"$')):
        repeated = re.search(pattern, (ROOT / name).read_text("utf-8"), re.M)
        if repeated is None or repeated[1] != found[1]:
            sys.exit(f"{name} has another version than src/shoal/__init__.py, which has {found[1]}")
    return found[1]


def build() -> tuple[Path, Path]:
    """Build the sdist, and the wheel from it, in dist/; return both paths."""
    shutil.rmtree(DIST, ignore_errors=True)
    run(sys.executable, "-m", "build", "--outdir", DIST)
    (sdist,), (wheel,) = DIST.glob("*.tar.gz"), DIST.glob("*.whl")
    return sdist, wheel


def check_contents(sdist: Path, wheel: Path, expected: str) -> Message:
    """Check names, metadata and licences; return the metadata of the wheel."""
    run(sys.executable, "-m", "twine", "check", "--strict", sdist, wheel)
    run(sys.executable, "-m", "check_wheel_contents", wheel)
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        folder = f"shoal-{expected}.dist-info"
        metadata = email.message_from_bytes(archive.read(f"{folder}/METADATA"))
        for name, text in LICENCES.items():
            paths = [path for path in names if path.startswith(f"{folder}/licenses/") and path.endswith(f"/{name}")]
            assert paths, f"the wheel lacks the licence {name}"
            assert text in archive.read(paths[0]).decode(), f"{paths[0]} is not the licence {name}"
    assert metadata["Version"] == expected, metadata["Version"]
    assert metadata["License-Expression"] == "BSD-3-Clause AND MIT", metadata["License-Expression"]
    assert {"shoal/py.typed", "shoal-as-joblib.pth"} <= {*names}, "the wheel lacks py.typed or shoal-as-joblib.pth"
    assert not [name for name in names if name.split("/")[0] not in ("shoal", "shoal-as-joblib.pth", folder)]
    with tarfile.open(sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    assert {"tests/conftest.py", "CHANGELOG.md", "docs/architecture.md", "Makefile"} <= inside, "the sdist lacks files"
    return metadata


def check_sdist(sdist: Path) -> None:
    """Run some tests on the sources of the sdist, with what this environment has."""
    with tempfile.TemporaryDirectory(prefix="shoal-sdist-") as folder:
        with tarfile.open(sdist) as archive:
            archive.extractall(folder, filter="data") if sys.version_info >= (3, 12) else archive.extractall(folder)
        (root,) = Path(folder).iterdir()
        said = run(sys.executable, "-m", "pytest", "-q", "-n", "2", *TESTS, cwd=root, PYTHONPATH=str(root / "src"))
    print("sdist:", said.strip().splitlines()[-1])


def interpreters() -> Iterator[Path]:
    """Yield the Pythons that are found, by the names and in the places where `make test-all` looks."""
    for name in VERSIONS:
        homes = [*Path.home().glob(f".pyenv/versions/{name}*/bin"), Path.home() / f".cache/python{name}/bin"]
        for path in (shutil.which(f"python{name}"), *(home / f"python{name}" for home in homes)):
            if path is not None and _is(path, name):
                yield Path(path)
                break
        else:
            print(f"{name}: not found")


def _is(python: str | Path, name: str) -> bool:
    """Tell whether an interpreter runs, and is of a version. pyenv puts names on PATH that do not run."""
    says = "import sys; print('%d.%d' % sys.version_info[:2] + sys.abiflags)"
    try:
        done = subprocess.run([str(python), "-c", says], capture_output=True, text=True)
    except OSError:
        return False
    return done.stdout.strip() == name


def check_wheel(wheel: Path, python: Path, expected: str) -> None:
    """Install the wheel in a new environment of an interpreter, and run what a user runs first."""
    with tempfile.TemporaryDirectory(prefix="shoal-wheel-") as folder:
        home = Path(folder)
        run(python, "-m", "venv", "--without-pip", home / "env")
        inside = home / "env" / "bin" / "python"
        pip = f"{sys.executable} -m pip --python {inside}"
        path = os.pathsep.join([str(inside.parent), os.environ["PATH"]])
        for page in FIRST_PAGES:
            (commands,) = re.findall(
                r"^<!-- test: by .*\n```sh\n((?:.*\n)*?)```$", (ROOT / page).read_text("utf-8"), re.M
            )
            commands = commands.replace("pip install .", f"{pip} install -q --only-binary=:all: {wheel}")
            said = run("sh", "-ec", commands, cwd=home, PATH=path)
            assert "shoal demo" not in commands or "times as fast" in said, said
        run(sys.executable, "-m", "pip", "--python", inside, "check")
        (home / "smoke.py").write_text(SMOKE, "utf-8")
        run(inside, "-W", "error", "smoke.py", expected, cwd=home)
        assert run(home / "env/bin/shoal", "--version", cwd=home).strip() == f"shoal {expected}"
        # joblib is not installed here: this imports shoal, if the file with the end .pth has its place.
        run(inside, "-c", "import joblib; joblib.Parallel", cwd=home, SHOAL_AS_JOBLIB="1")
    print(f"wheel: {python}: installed, and the smoke test has passed")


def main(arguments: list[str]) -> int:
    """Build the distributions and check them."""
    release = "--release" in arguments
    expected = version()
    sdist, wheel = build()
    metadata = check_contents(sdist, wheel, expected)
    if (tag := os.environ.get("GITHUB_REF_NAME", "")).startswith("v") and tag != f"v{expected}":
        sys.exit(f"the tag is {tag}, and src/shoal/__init__.py has the version {expected}")
    unset = [url for url in metadata.get_all("Project-URL", []) if PLACEHOLDER in url]
    if release and unset:
        sys.exit(f"these addresses are still to be set, see RELEASING.md: {unset}")
    check_sdist(sdist)
    given = [Path(path) for path in arguments if not path.startswith("-")]
    for python in given or interpreters():
        check_wheel(wheel, python, expected)
    print(*(f"{path.name}: {path.stat().st_size:,} bytes" for path in (sdist, wheel)), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
