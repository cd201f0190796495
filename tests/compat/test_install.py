"""install_as_joblib(): its cost, its errors, the processes that it reaches, and scikit-learn on it."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from test_joblib_downstream import SOURCE, run

ROOT = Path(SOURCE).parent


def python(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": SOURCE, **variables}
    environment.pop("SHOAL_AS_JOBLIB", None) if "SHOAL_AS_JOBLIB" not in variables else None
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)


def test_it_imports_almost_nothing() -> None:
    done = python(
        "import sys, shoal.compat; before = set(sys.modules); shoal.compat.install_as_joblib();"
        "print(sorted(set(sys.modules) - before))"
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_importing_joblib_loads_neither_numpy_nor_loky() -> None:
    done = python(
        "import sys, shoal; shoal.install_as_joblib(); import joblib;"
        "print({'numpy', 'loky', 'cloudpickle', 'logging'} & set(sys.modules))"
    )
    assert done.stdout.strip() == "set()", done.stderr


def test_it_is_refused_after_an_import_of_joblib() -> None:
    done = python("import joblib, shoal; shoal.install_as_joblib()")
    assert done.returncode == 1
    assert "RuntimeError: joblib is imported already" in done.stderr
    assert "replace=True" in done.stderr


def test_replace_applies_to_later_imports() -> None:
    done = python(
        "import joblib, joblib.parallel, shoal; old = joblib; shoal.install_as_joblib(replace=True);"
        "import joblib; assert joblib is not old and 'shoal' in joblib.__file__;"
        "from joblib.parallel import Parallel; import inspect; assert 'shoal' in inspect.getfile(Parallel);"
        "print('swapped')"
    )
    assert done.stdout.strip() == "swapped", done.stderr


@pytest.mark.parametrize(
    ("filters", "said"),
    [
        ("simplefilter('error', UserWarning)", ["in the worker"]),
        ("simplefilter('error')", ["in the worker"]),
        ("simplefilter('ignore', DeprecationWarning)", ["in the caller"]),
        ("simplefilter('always')", ["in the caller"] * 4),
    ],
)
def test_a_filter_that_raises_ends_no_run(filters: str, said: list[str]) -> None:
    """As with joblib, whose workers do not have the filters of the program. Otherwise warnings are forwarded."""
    done = python(
        f"import shoal; shoal.install_as_joblib(); import joblib, warnings; warnings.{filters}\n"
        "seen = []; warnings.showwarning = lambda *_: seen.append('in the caller')\n"
        "joblib.Parallel(2, 'loky')([joblib.delayed(warnings.warn)('look')] * 4); print(seen or ['in the worker'])"
    )
    assert done.stdout.strip() == str(said), done.stderr
    assert ("UserWarning: look" in done.stderr) is (said == ["in the worker"])


def test_a_second_call_does_nothing() -> None:
    done = python("import shoal; shoal.install_as_joblib(); import joblib; shoal.install_as_joblib(); print('fine')")
    assert done.stdout.strip() == "fine", done.stderr


def test_the_variable_has_the_same_effect() -> None:
    done = python("import shoal, joblib; print(joblib.__file__)", SHOAL_AS_JOBLIB="1")
    assert done.stdout.startswith(SOURCE), done.stderr


def test_the_pth_file_needs_no_import(tmp_path: Path) -> None:
    (tmp_path / "shoal-as-joblib.pth").write_text((Path(SOURCE) / "shoal-as-joblib.pth").read_text())
    code = f"import site; site.addsitedir({str(tmp_path)!r}); import joblib; print(joblib.__file__)"
    assert python(code, SHOAL_AS_JOBLIB="1").stdout.startswith(SOURCE)
    assert not python(code).stdout.startswith(SOURCE)


def test_its_folder_can_be_on_the_path() -> None:
    folder = SOURCE + "/shoal/compat"
    code = f"import sys; sys.path.insert(0, {folder!r}); import joblib; print(joblib.__file__, joblib.dump)"
    assert python(code).stdout.startswith(SOURCE)


def test_there_is_a_distribution_if_none_is_installed(tmp_path: Path) -> None:
    run(
        tmp_path,
        "import importlib.metadata as m\n"
        "sys.path[:] = [p for p in sys.path if 'site-packages' not in p]\n"
        "assert m.version('joblib') == '1.6.0'\n"
        "assert m.metadata('joblib')['Name'] == 'joblib'\n",
    )


@pytest.mark.parametrize("backend", ["loky", "multiprocessing"])
def test_workers_have_it_too(tmp_path: Path, backend: str) -> None:
    printed = run(
        tmp_path,
        f"""
from joblib import Parallel, delayed
from joblib.hashing import _MyHash
def look(argument):
    import joblib, importlib.metadata
    files = [str(getattr(module, "__file__", "")) for name, module in sys.modules.items() if name.startswith("joblib")]
    assert not any("site-packages" in file for file in files), files
    return joblib.__file__, argument
if __name__ == "__main__":
    for file, back in Parallel(n_jobs=2, backend={backend!r})(delayed(look)(_MyHash(i)) for i in range(4)):
        assert file.startswith(os.environ["SHOAL"]) and type(back) is _MyHash
    import subprocess
    code = "import shoal, joblib; print(joblib.__file__)"
    print(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout)
""",
    )
    assert printed.startswith(SOURCE)


def test_scikit_learn_runs_on_it(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    run(
        tmp_path,
        """
warnings.simplefilter("default")
import numpy as np
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_selection import RFECV
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
import joblib
if __name__ == "__main__":
    assert joblib.__file__.startswith(os.environ["SHOAL"])
    X, y = load_iris(return_X_y=True)
    one, two = (RandomForestClassifier(20, random_state=0, n_jobs=n).fit(X, y) for n in (1, 2))
    assert np.array_equal(one.predict_proba(X), two.predict_proba(X))
    joblib.dump(two, "forest.pkl")
    assert np.array_equal(joblib.load("forest.pkl").predict(X), two.predict(X))
    grid = [GridSearchCV(LogisticRegression(max_iter=500), {"C": [0.1, 1, 10]}, n_jobs=n).fit(X, y) for n in (1, 2)]
    assert grid[0].best_params_ == grid[1].best_params_ and grid[0].best_score_ == grid[1].best_score_
    kept = [RFECV(LogisticRegression(max_iter=500), n_jobs=n).fit(X, y).support_ for n in (1, 2)]
    assert np.array_equal(*kept)
""",
    )


def test_the_wheel_contains_the_pth_file(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert "shoal-as-joblib.pth" in names
    assert "shoal/compat/joblib/parallel.py" in names
    assert {f"shoal/reports/assets/{name}" for name in ("page.js", "uplot.js", "uplot.LICENSE")} <= {*names}
