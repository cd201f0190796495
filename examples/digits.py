"""Cross-validate ten models on scikit-learn's handwritten digits, with one worker and with all; save the best forest.

1. Run the cross-validation with one worker and with all. Print the accuracy of each model, the time of each run, and
   whether both runs agree to the last bit. The result of one worker is stored in a folder beside this file, so that
   the next run finds it there.
2. Fit the best forest, write it to plain and compressed files by shoal and by joblib, and load them in new processes.
3. Run scikit-learn on shoal in joblib's place and on joblib (sklearn_uses.py).

The exit code is 1 if any results differ. If joblib is not installed, shoal is in its place from the beginning, and
there is nothing to compare with.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import shoal

HAS_JOBLIB = find_spec("joblib") is not None and "SHOAL_AS_JOBLIB" not in os.environ
if not HAS_JOBLIB:
    shoal.install_as_joblib()

import joblib
import numpy as np
import sklearn
from sklearn.base import ClassifierMixin, clone
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from threadpoolctl import threadpool_limits

from shoal import Memory, Parallel, cpu_count, delayed

Array = np.ndarray
FOLDS = 5
memory = Memory(Path(__file__).with_name("digits.cache"), verbose=0)


def models() -> dict[str, ClassifierMixin]:
    grid: dict[str, ClassifierMixin] = {}
    for c in (0.01, 0.1, 1.0):
        regression = LogisticRegression(C=c, max_iter=2000)
        grid[f"logistic regression, C={c:g}"] = make_pipeline(StandardScaler(), regression)
    for c in (1.0, 10.0):
        grid[f"support vectors, C={c:g}"] = make_pipeline(StandardScaler(), SVC(C=c))
    for k in (1, 5):
        grid[f"{k} nearest neighbours"] = KNeighborsClassifier(k)
    for depth in (4, 8, None):
        forest = RandomForestClassifier(300, max_depth=depth, random_state=0)
        grid[f"300 trees, depth {depth or 'any'}"] = forest
    return grid


def accuracy(model: ClassifierMixin, x: Array, y: Array, train: Array, test: Array) -> float:
    return float(clone(model).fit(x[train], y[train]).score(x[test], y[test]))


def cross_validate(n_jobs: int) -> tuple[Array, float]:
    """Return the accuracies, with one row per model and one column per fold, and the time in seconds."""
    x, y = load_digits(return_X_y=True)
    folds = list(StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(x, y))
    start = time.perf_counter()
    scores = Parallel(n_jobs=n_jobs)(
        delayed(accuracy)(model, x, y, train, test) for model in models().values() for train, test in folds
    )
    return np.reshape(scores, (-1, FOLDS)), time.perf_counter() - start


@memory.cache(depends=[models, accuracy, cross_validate, sklearn])  # sklearn's source contains its version
def cross_validate_alone() -> tuple[Array, float]:
    # One worker should use one core, but the libraries below numpy and scikit-learn would use all of them.
    with threadpool_limits(1):
        return cross_validate(n_jobs=1)


def digest(forest: Any) -> str:
    """Return a digest of the forest's predictions for the digits."""
    return hashlib.sha256(forest.predict_proba(load_digits(return_X_y=True)[0]).tobytes()).hexdigest()


def best_forest(scores: Array) -> tuple[str, Any]:
    """Return the name of the best forest, and the forest fitted to all digits."""
    forests = {name: model for name, model in models().items() if "trees" in name}
    means = dict(zip(models(), scores.mean(axis=1), strict=True))
    best = max(forests, key=lambda name: means[name])
    return best, forests[best].fit(*load_digits(return_X_y=True))


def dump_and_load(model: Any, folder: str) -> bool:
    """Dump a model in several ways, and load it in new processes; tell whether its predictions stay the same."""
    expected, same = digest(model), True
    print("                                   dump       load      size")
    for title, library, options, mmap_mode in (
        ("joblib", joblib, {}, None),
        ("shoal", shoal, {}, None),
        ("shoal, mapped", shoal, {}, "r"),
        ("joblib, compress=3", joblib, {"compress": 3}, None),
        ("shoal, compress=3", shoal, {"compress": 3}, None),
    ):
        if library is joblib and not HAS_JOBLIB:
            continue
        path = os.path.join(folder, "forest.pkl")
        start = time.perf_counter()
        library.dump(model, path, **options)
        seconds = time.perf_counter() - start
        loader = [sys.executable, __file__, library.__name__, path, mmap_mode or ""]
        found, loaded = subprocess.run(loader, check=True, capture_output=True, text=True).stdout.split()
        same = same and found == expected
        size = os.path.getsize(path) / 1e6
        print(f"  {title:<28} {1e3 * seconds:6.1f} ms  {1e3 * float(loaded):6.1f} ms  {size:5.1f} MB")
        os.unlink(path)
    return same


def compare_sklearn() -> bool:
    """Run scikit-learn on shoal and on joblib, each in a new process; tell whether the results are the same."""
    contenders = ("shoal", "joblib") if HAS_JOBLIB else ("shoal",)
    found: dict[str, list[list[str]]] = {}
    for contender in contenders:
        command = [sys.executable, Path(__file__).with_name("sklearn_uses.py"), contender, "times"]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found[contender] = [line.split(" ", 2) for line in printed.splitlines()]
    print(f"{'':<37}" + "".join(f"{contender:>10}" for contender in contenders))
    same = True
    for use in zip(*found.values(), strict=True):
        equal = len({digest for _, digest, _ in use}) == 1
        same = same and equal
        verdict = ("  the same" if equal else "  NOT the same") if HAS_JOBLIB else ""
        print(f"  {use[0][2]:<35}" + "".join(f"{float(seconds):8.2f} s" for seconds, _, _ in use) + verdict)
    if not HAS_JOBLIB:
        print("  joblib is not installed, so there is nothing to compare with")
    return same


def load_in_this_process(library: str, path: str, mmap_mode: str) -> None:
    """Load a forest, whose packages are imported already; print the digest of its predictions, and the seconds."""
    start = time.perf_counter()
    forest = {"shoal": shoal.load, "joblib": joblib.load}[library](path, mmap_mode=mmap_mode or None)
    seconds = time.perf_counter() - start
    print(digest(forest), seconds)


def main() -> int:
    if sys.argv[1:]:
        load_in_this_process(*sys.argv[1:])
        return 0
    print(f"{len(models())} models x {FOLDS} folds on scikit-learn's digits, one worker ...", flush=True)
    stored, start = cross_validate_alone.check_call_in_cache(), time.perf_counter()
    alone, seconds_alone = cross_validate_alone()
    if stored:
        print(f"    found in {memory.location.name}, {1e3 * (time.perf_counter() - start):.1f} ms")
    print(f"... and {cpu_count()} workers\n", flush=True)
    together, seconds_together = cross_validate(n_jobs=-1)

    for name, row in zip(models(), together, strict=True):
        print(f"  {name:<28} {row.mean():.4f} ± {row.std():.4f}")
    same = bool((alone == together).all())
    ratio = seconds_alone / seconds_together
    print(f"\n  one worker   {seconds_alone:6.2f} s{', in an earlier run' if stored else ''}")
    print(f"  all workers  {seconds_together:6.2f} s, including their start: {ratio:.2f} times as fast")
    print(f"  the scores are {'the same to the last bit' if same else 'NOT the same'}")

    name, forest = best_forest(together)
    print(f"\nThe best forest ({name}), written to a file and loaded by a new process:", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        same_forest = dump_and_load(forest, folder)
    print(f"  the predictions are {'the same' if same_forest else 'NOT the same'}")

    print("\nscikit-learn with shoal in joblib's place, and with joblib, each in a new process:", flush=True)
    return 0 if compare_sklearn() and same and same_forest else 1


if __name__ == "__main__":
    sys.exit(main())
