"""Five common uses of scikit-learn and joblib, on scikit-learn's handwritten digits.

``python sklearn_uses.py joblib`` uses joblib, and ``python sklearn_uses.py shoal`` puts shoal in joblib's place. Each
line of output is a digest of the result and the name of the use. With the argument ``times``, the seconds come first.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

if __name__ == "__main__" and sys.argv[1] == "shoal":
    import shoal

    shoal.install_as_joblib()  # before anything imports joblib

import joblib
import numpy as np
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_selection import RFECV
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier


def score(c: float, x: Any, y: Any) -> float:
    return float(cross_val_score(SVC(C=c), x, y, cv=3).mean())


def uses() -> Iterator[tuple[str, Any]]:
    """Yield the name and the result of each use."""
    x, y = load_digits(return_X_y=True)
    yield "Parallel(n_jobs=-1)", joblib.Parallel(n_jobs=-1)(joblib.delayed(score)(c, x, y) for c in (0.1, 1, 10))
    forest = RandomForestClassifier(200, random_state=0, n_jobs=-1).fit(x, y)
    yield "RandomForestClassifier(n_jobs=-1)", forest.predict_proba(x)
    search = GridSearchCV(SVC(), {"C": [1, 10], "gamma": [0.001, 0.0005]}, n_jobs=-1).fit(x, y)
    yield "GridSearchCV(SVC(), n_jobs=-1)", search.cv_results_["mean_test_score"]
    yield "RFECV(n_jobs=-1)", RFECV(DecisionTreeClassifier(random_state=0), step=8, n_jobs=-1).fit(x, y).ranking_
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "forest.pkl")
        joblib.dump(forest, path)
        yield "dump and load of the forest", joblib.load(path).predict_proba(x)


def main() -> None:
    start = time.perf_counter()
    for name, result in uses():
        seconds = f"{time.perf_counter() - start:.3f} " if "times" in sys.argv else ""
        print(f"{seconds}{hashlib.sha256(np.ascontiguousarray(result).tobytes()).hexdigest()[:16]} {name}")
        start = time.perf_counter()


if __name__ == "__main__":
    main()
