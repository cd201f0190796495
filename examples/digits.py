"""Cross-validate ten models on scikit-learn's handwritten digits: with one worker, then with all of them.

Prints the accuracy of every model, how long each run took, and whether both agree to the last bit; exits
with 1 if they do not.
"""

from __future__ import annotations

import sys
import time

import numpy as np
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

from shoal import Parallel, cpu_count, delayed

Array = np.ndarray
FOLDS = 5


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
    """The accuracies, one row per model and one column per fold, and the seconds that they took."""
    x, y = load_digits(return_X_y=True)
    folds = list(StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(x, y))
    start = time.perf_counter()
    scores = Parallel(n_jobs=n_jobs)(
        delayed(accuracy)(model, x, y, train, test) for model in models().values() for train, test in folds
    )
    return np.reshape(scores, (-1, FOLDS)), time.perf_counter() - start


def main() -> int:
    print(f"{len(models())} models x {FOLDS} folds on scikit-learn's digits, one worker ...", flush=True)
    # One worker is to be one core: what is under numpy and scikit-learn would take all of them.
    with threadpool_limits(1):
        alone, seconds_alone = cross_validate(n_jobs=1)
    print(f"... and {cpu_count()} workers\n", flush=True)
    together, seconds_together = cross_validate(n_jobs=-1)

    for name, row in zip(models(), together, strict=True):
        print(f"  {name:<28} {row.mean():.4f} ± {row.std():.4f}")
    same = bool((alone == together).all())
    ratio = seconds_alone / seconds_together
    print(f"\n  one worker   {seconds_alone:6.2f} s")
    print(f"  all workers  {seconds_together:6.2f} s, their start included: {ratio:.2f} times as fast")
    print(f"  the scores are {'the same to the last bit' if same else 'NOT the same'}")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
