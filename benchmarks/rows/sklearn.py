"""Rows in which scikit-learn runs on joblib, or on shoal in joblib's place.

The functions import scikit-learn themselves, because shoal must take joblib's place before that.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks._registry import Measured, faster, row, timed
from benchmarks.contenders import LIBRARIES, WORKERS

#: Half the time of the same calls with n_jobs=1, which is a plain loop: no division between two workers is faster.
HALF = "half"
#: Times two processes that do half of the fits each, until the slower one ends, and then the last fit.
HALVES = "halves"
#: Times a new interpreter that imports what a worker needs. The first worker cannot start faster.
IMPORTS = "imports"


def stand_in(contender: str) -> int:
    """Put shoal in joblib's place if the contender is shoal; return the number of workers."""
    if contender == "shoal":
        import shoal

        shoal.install_as_joblib()
    return 1 if contender == HALF else WORKERS


def work(contender: str, call: Callable[[], object], repeat: int) -> float:
    """Return the median time of `call`; half of it for HALF."""
    return timed(call, repeat) / (WORKERS if contender == HALF else 1)


def iris() -> Any:
    from sklearn.datasets import load_iris

    return load_iris(return_X_y=True)


def digits() -> Any:
    from sklearn.datasets import load_digits

    return load_digits(return_X_y=True)


@row("GridSearchCV, iris, 3 x 5 fits", LIBRARIES, faster(1.5), floors=(HALF, HALVES))
def sklearn_grid(contender: str) -> Measured:
    if contender == HALVES:
        return median(halves() for _ in range(9))
    n_jobs = stand_in(contender)
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV

    x, y = iris()
    model = LogisticRegression(max_iter=500)
    return work(contender, lambda: GridSearchCV(model, {"C": [0.1, 1.0, 10.0]}, n_jobs=n_jobs).fit(x, y), 15)


def halves() -> float:
    """Return the seconds of a grid search whose fits are divided between two processes, without any library.

    Unlike the searches of the libraries, this one is not slowed down by BLAS threads that the last fit of the search
    before has left awake (see docs/cpu-budget.md).
    """
    import multiprocessing

    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold
    from threadpoolctl import threadpool_limits

    x, y = iris()
    tasks = [(c, train, test) for train, test in StratifiedKFold(5).split(x, y) for c in (0.1, 1.0, 10.0)]

    def fits(part: list[Any], seconds: Any) -> None:
        with threadpool_limits(1):
            for _ in range(2):  # the first round warms up
                start = time.perf_counter()
                for c, train, test in part:
                    LogisticRegression(C=c, max_iter=500).fit(x[train], y[train]).score(x[test], y[test])
        seconds.put(time.perf_counter() - start)

    context = multiprocessing.get_context("fork")
    seconds = context.SimpleQueue()
    processes = [context.Process(target=fits, args=(tasks[first::2], seconds)) for first in range(2)]
    for process in processes:
        process.start()
    longer = max(seconds.get(), seconds.get())
    for process in processes:
        process.join()
    start = time.perf_counter()
    LogisticRegression(max_iter=500).fit(x, y)
    return longer + time.perf_counter() - start


@row("forest.predict, 10 rows, 100 trees", LIBRARIES, faster(2), floors=(HALF,))
def sklearn_predict(contender: str) -> Measured:
    n_jobs = stand_in(contender)
    from sklearn.ensemble import RandomForestClassifier

    x, y = iris()
    forest = RandomForestClassifier(100, random_state=0, n_jobs=n_jobs).fit(x, y)
    return work(contender, lambda: forest.predict(x[:10]), 30)


@row("IsolationForest.score_samples, 100 rows", LIBRARIES, faster(2), floors=(HALF,))
def sklearn_isolation(contender: str) -> Measured:
    n_jobs = stand_in(contender)
    import joblib
    from sklearn.ensemble import IsolationForest

    x = digits()[0][:500]
    forest = IsolationForest(random_state=0).fit(x)
    context: Any = contextlib.nullcontext()
    if n_jobs > 1:
        context = joblib.parallel_config("threading", n_jobs=n_jobs)
    with context:
        return work(contender, lambda: forest.score_samples(x[:100]), 30)


def no_ops(contender: str, **options: Any) -> Measured:
    n_jobs = stand_in(contender)
    from sklearn.utils.parallel import Parallel, delayed

    return work(contender, lambda: Parallel(n_jobs=n_jobs, **options)(delayed(abs)(i) for i in range(1_000)), 15)


@row("1,000 calls, sklearn's Parallel, threads", LIBRARIES, faster(2), floors=(HALF,))
def sklearn_threads(contender: str) -> Measured:
    return no_ops(contender, prefer="threads")


@row("1,000 calls, sklearn's Parallel", LIBRARIES, faster(2), floors=(HALF,))
def sklearn_processes(contender: str) -> Measured:
    return no_ops(contender)


@row("cross_val_score, digits", LIBRARIES, faster(1), floors=(HALF,))
def sklearn_cross_val(contender: str) -> Measured:
    n_jobs = stand_in(contender)
    from sklearn.model_selection import cross_val_score
    from sklearn.svm import SVC

    x, y = digits()
    return work(contender, lambda: cross_val_score(SVC(), x, y, n_jobs=n_jobs), 7)


@row("RFECV, digits", LIBRARIES, faster(1), floors=(HALF,))
def sklearn_rfecv(contender: str) -> Measured:
    n_jobs = stand_in(contender)
    from sklearn.feature_selection import RFECV
    from sklearn.tree import DecisionTreeClassifier

    x, y = digits()
    return work(contender, lambda: RFECV(DecisionTreeClassifier(random_state=0), step=8, n_jobs=n_jobs).fit(x, y), 5)


@row("RandomForestClassifier.fit, digits", LIBRARIES, faster(1), floors=(HALF,))
def sklearn_forest(contender: str) -> Measured:
    n_jobs = stand_in(contender)
    from sklearn.ensemble import RandomForestClassifier

    x, y = digits()
    return work(contender, lambda: RandomForestClassifier(random_state=0, n_jobs=n_jobs).fit(x, y), 5)


FIRST = """\
import sys
if sys.argv[1] == "shoal":
    import shoal
    shoal.install_as_joblib()
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV

if __name__ == "__main__":
    GridSearchCV(LogisticRegression(max_iter=500), {"C": [0.1, 1.0, 10.0]}, n_jobs=2).fit(*load_iris(return_X_y=True))
"""


@row("first fit: whole process, above its imports", LIBRARIES, faster(1.5), floors=(IMPORTS,), rounds=3)
def sklearn_first_fit(contender: str) -> Measured:
    """Time a script with one fit. The time of its imports with joblib is subtracted, for both contenders."""
    if contender == IMPORTS:
        return imports()
    with tempfile.TemporaryDirectory() as folder:
        path, bare = Path(folder, "script.py"), Path(folder, "bare.py")
        path.write_text(FIRST)
        bare.write_text(FIRST.partition("if __name__")[0])
        _seconds(path, contender)
        pairs = [(_seconds(bare, "joblib"), _seconds(path, contender)) for _ in range(3)]
        return median(fit - imports for imports, fit in pairs)


def _seconds(path: Path, contender: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, path, contender], check=True)
    return time.perf_counter() - start


def imports() -> float:
    command = [sys.executable, "-c", "import sklearn.model_selection, sklearn.linear_model"]
    return timed(lambda: subprocess.run(command, check=True), 3)
