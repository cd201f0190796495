"""joblib's own tests, from its wheel, with shoal in its place: ``python tests/compat/joblib_suite.py [arguments]``.

An environment of its own is made around the running one, in build/joblib-suite, so that whatever starts a bare Python,
as many of these tests and all workers do, has shoal in joblib's place by a ``.pth`` file. Of the wheel, only
``joblib/test`` is served.

A failure that expected.txt names is no failure here; a line there that stands for nothing any more is one.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
EXPECTED = HERE / "expected.txt"

SERVED = """\
import sys
from importlib.util import spec_from_file_location

from shoal.compat import install_as_joblib

TESTS = {tests!r}


class Finder:
    @staticmethod
    def find_spec(fullname, path=None, target=None):
        if fullname == "joblib.test":
            return spec_from_file_location(fullname, TESTS + "/__init__.py", submodule_search_locations=[TESTS])
        return None


install_as_joblib()
sys.meta_path.insert(1, Finder)
"""


def tests_of_the_wheel() -> Path:
    """Return the folder of joblib's tests."""
    path = importlib.metadata.distribution("joblib").locate_file("joblib/test")
    assert os.path.isdir(path), "joblib is not installed from its wheel"
    return Path(str(path))


def environment() -> Path:
    """Make an environment in which shoal is in joblib's place; return its Python."""
    folder = ROOT / "build" / "joblib-suite" / "{}.{}.{}".format(*sys.version_info)
    venv.create(folder, symlinks=True, with_pip=False)
    paths = sysconfig.get_paths(vars={"base": str(folder), "platbase": str(folder)})
    site = Path(paths["purelib"])
    site.joinpath("_shoal_as_joblib.py").write_text(SERVED.format(tests=str(tests_of_the_wheel())))
    here = sysconfig.get_paths()["purelib"]
    source = str(ROOT / "src")
    lines = [f"import site, sys; site.addsitedir({here!r}); sys.path.insert(0, {source!r})", "import _shoal_as_joblib"]
    site.joinpath("shoal_as_joblib.pth").write_text("\n".join(lines) + "\n")
    python = Path(paths["scripts"]) / "python"
    shown = subprocess.run([python, "-c", "import joblib; print(joblib.__file__)"], capture_output=True, text=True)
    assert shown.stdout.startswith(source), f"shoal is not in joblib's place: {shown.stdout} {shown.stderr}"
    return python


def expected() -> dict[str, str]:
    """Return what may fail, or cannot be collected: the reason of each test, or file, by its name."""
    lines = [line for line in EXPECTED.read_text().splitlines() if line and not line.startswith("#")]
    return dict(re.split(r"\s{2,}", line, maxsplit=1) for line in lines)


def main(arguments: list[str]) -> int:
    """Run the tests; return 0 if they are as they should be."""
    python, known, tests = environment(), expected(), tests_of_the_wheel()
    left_out = [name for name in known if "::" not in name]
    chosen = [argument for argument in arguments if argument.startswith("test_")]
    options = [argument for argument in arguments if argument not in chosen]
    names = chosen or sorted(path.name for path in tests.glob("test_*.py") if path.name not in left_out)
    command = [
        *(
            str(python),
            "-m",
            "pytest",
            "-c",
            os.devnull,
            f"--rootdir={tests}",
            "-p",
            "no:cacheprovider",
            *(("-p", "distributed.utils_test") if importlib.util.find_spec("distributed") else ()),
            "-q",
            "-rfExX",
            "-o",
            "asyncio_default_fixture_loop_scope=function",
        ),
        *("--timeout=120", *options, *(f"{tests}/{name}" for name in names)),
    ]
    work = ROOT / "build" / "joblib-suite" / "work"
    work.mkdir(parents=True, exist_ok=True)
    clean = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    clean.pop("PYTHONPATH", None)
    run = subprocess.run(command, cwd=work, env=clean, stdout=subprocess.PIPE, text=True)
    print(run.stdout)
    failed = re.findall(
        r"^(?:FAILED|ERROR) \S*?(test_\w+\.py(?:::[^\s\[]+(?:\[.*?\](?= - |$))?)?)", run.stdout, re.MULTILINE
    )
    surprises = [name for name in failed if not any(name == line or name.split("[")[0] == line for line in known)]
    for name in surprises:
        print(f"not expected to fail: {name}")
    stale = (
        []
        if arguments
        else [
            name
            for name in known
            if "::" in name and not any(name in (failure, failure.split("[")[0]) for failure in failed)
        ]
    )
    for name in stale:
        print(f"expected to fail, and does not: {name}")
    broken = run.returncode not in (0, 1) or not re.search(r"\d+ passed", run.stdout)
    return int(bool(surprises or stale) or broken)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
