"""The presets of ``load(trusted=)``: ``python -m scripts.trust_presets [--write]``.

It makes objects of each library, dumps them, and collects the names in their files. It prints what is new since the
last time, and why names are left out. With ``--write``, it writes them to ``trust/_presets.py``. Names are only added:
files of earlier releases have to load too. Look at each new class before you commit it: what do its methods
``__setstate__``, ``__hash__``, ``__eq__``, ``__setitem__`` and ``append`` do with a state that an attacker has chosen?
"""

from __future__ import annotations

import importlib
import io
import sys
import unittest
import warnings
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import shoal
from shoal.persistence.trust._presets import PRESETS
from shoal.persistence.trust._reconstructors import RECONSTRUCTORS

TABLE = Path(shoal.__file__).parent / "persistence" / "trust" / "_presets.py"

#: What the names of a preset belong to: the preset contains those of these presets as well.
INCLUDED = {"numpy": (), "scipy": ("numpy",), "scikit-learn": ("numpy", "scipy"), "pandas": ("numpy",)}
#: The packages whose classes a preset may contain. Some releases of scikit-learn call one of its modules ``_loss``.
PACKAGES = {
    "numpy": ("numpy",),
    "scipy": ("scipy",),
    "scikit-learn": ("sklearn", "_loss"),
    "pandas": ("pandas", "pyarrow"),
}

#: Methods that run while a file is loaded. A class that defines one of them in Python is reported.
RUNS = ("__setstate__", "__new__", "__setitem__", "__hash__", "__eq__", "append", "extend", "add")


def of_numpy() -> Iterator[Any]:
    """Random generators and polynomials. Arrays, dtypes and scalars need no preset."""
    import numpy as np

    for bits in (np.random.MT19937, np.random.PCG64, np.random.PCG64DXSM, np.random.Philox, np.random.SFC64):
        yield np.random.Generator(bits(1))
    yield from (np.random.RandomState(1), np.random.SeedSequence(1), np.mean)
    for kind in ("Polynomial", "Chebyshev", "Legendre", "Laguerre", "Hermite", "HermiteE"):
        yield getattr(np.polynomial, kind)([1, 2, 3])


def of_scipy() -> Iterator[Any]:
    """Sparse matrices and arrays, interpolators, results."""
    import numpy as np
    from scipy import interpolate, optimize, sparse

    dense = np.eye(4)
    for layout in ("csr", "csc", "coo", "bsr", "dia", "dok", "lil"):
        yield getattr(sparse, f"{layout}_matrix")(dense)
        yield getattr(sparse, f"{layout}_array")(dense)
    x = np.arange(9.0)
    for kind in ("linear", "nearest", "previous", "next", "zero", "slinear", "quadratic", "cubic"):
        yield interpolate.interp1d(x, x**2, kind=kind)
    for curve in (interpolate.CubicSpline, interpolate.PchipInterpolator, interpolate.Akima1DInterpolator):
        yield curve(x, x**2)
    spline = interpolate.make_interp_spline(x, x**2)
    yield from (spline, interpolate.PPoly.from_spline(spline), interpolate.UnivariateSpline(x, x**2))
    yield interpolate.RegularGridInterpolator((x, x), np.outer(x, x))
    yield optimize.OptimizeResult(x=x, success=True)


def of_scikit_learn() -> Iterator[Any]:
    """Each public estimator, fitted; and what estimators hold: kernels, distances, losses, scorers, pipelines."""
    from sklearn.gaussian_process import kernels
    from sklearn.metrics import DistanceMetric, get_scorer, get_scorer_names
    from sklearn.utils import all_estimators

    for name, kind in all_estimators():
        fitted = [estimator for estimator in made(kind) if fit(estimator)]
        if not fitted:
            print(f"scikit-learn: {name} could not be fitted")
        yield from fitted
    yield from more_estimators()
    for metric in ("euclidean", "manhattan", "chebyshev", "hamming", "canberra", "braycurtis", "jaccard", "dice"):
        yield DistanceMetric.get_metric(metric)
    yield DistanceMetric.get_metric("minkowski", p=3)
    yield from (get_scorer(name) for name in get_scorer_names())
    simple = [
        kernels.RBF(),
        kernels.Matern(),
        kernels.RationalQuadratic(),
        kernels.ExpSineSquared(),
        kernels.WhiteKernel(),
    ]
    yield from (*simple, kernels.DotProduct(), kernels.PairwiseKernel(), kernels.CompoundKernel(simple))
    yield 2.0 * simple[0] ** 2 + simple[1]


def made(kind: Any) -> list[Any]:
    """Return instances of an estimator's class, as scikit-learn's own tests make them."""
    from sklearn.frozen import FrozenEstimator
    from sklearn.linear_model import LogisticRegression
    from sklearn.utils._test_common.instance_generator import _construct_instances

    if kind is FrozenEstimator:
        model = LogisticRegression()
        fit(model)
        return [FrozenEstimator(model)]
    try:
        return list(_construct_instances(kind))
    except unittest.SkipTest:  # scikit-learn's own tests skip this class
        return []


def fit(estimator: Any) -> bool:
    """Fit an estimator on the first of several data sets that it accepts; return whether there was one."""
    import numpy as np
    from sklearn.utils.estimator_checks import _enforce_estimator_tags_X

    x = np.abs(np.random.RandomState(0).normal(size=(60, 4))) + 0.1
    classes = (x[:, 0] > x[:, 0].mean()).astype(int)
    texts = ["a word", "and a word", "word by word"] * 20
    several = np.c_[classes, 1 - classes]
    for data, target in (
        *((x, y) for y in (classes, x[:, 1], several, x[:, :2])),
        (x[:, 0], x[:, 1]),
        (x[:, :3], None),
        (texts, None),
        ([{"a": 1, "b": 2}] * 9, None),
        (classes, None),
        ([{"a"}, {"b"}], None),
    ):
        try:
            matrix = isinstance(data, np.ndarray) and data.ndim == 2
            data = _enforce_estimator_tags_X(estimator, data) if matrix else data
            estimator.fit(data) if target is None else estimator.fit(data, target)
            return True
        except Exception:  # it needs other data
            continue
    return False


def more_estimators() -> Iterator[Any]:
    """Estimators with other parameters and data than the default ones, where these lead to other classes."""
    import numpy as np
    from scipy import sparse
    from sklearn import ensemble, gaussian_process, linear_model, neighbors, pipeline, preprocessing, svm
    from sklearn.model_selection import GridSearchCV, KFold

    random = np.random.RandomState(0)
    x = np.abs(random.normal(size=(60, 4))) + 0.1
    y = (x[:, 0] > x[:, 0].mean()).astype(int)
    for loss in ("hinge", "log_loss", "modified_huber", "squared_hinge", "perceptron"):
        yield linear_model.SGDClassifier(loss=loss).fit(x, y)
    for loss in ("squared_error", "huber", "epsilon_insensitive", "squared_epsilon_insensitive"):
        yield linear_model.SGDRegressor(loss=loss).fit(x, y)
    for loss in ("squared_error", "absolute_error", "huber", "quantile"):
        yield ensemble.GradientBoostingRegressor(loss=loss, n_estimators=2, random_state=random).fit(x, x[:, 1])
    for loss in ("squared_error", "absolute_error", "gamma", "poisson"):
        yield ensemble.HistGradientBoostingRegressor(loss=loss, max_iter=2).fit(x, x[:, 1])
    yield ensemble.HistGradientBoostingRegressor(loss="quantile", quantile=0.5, max_iter=2).fit(x, x[:, 1])
    yield ensemble.GradientBoostingClassifier(loss="exponential", n_estimators=2).fit(x, y)
    for model in (
        ensemble.GradientBoostingClassifier(n_estimators=2),
        ensemble.HistGradientBoostingClassifier(max_iter=2),
    ):
        yield model.fit(x, np.arange(60) % 3)
    for power in (0, 1, 1.5, 2, 3):
        yield linear_model.TweedieRegressor(power=power).fit(x, x[:, 1])
        yield linear_model.TweedieRegressor(power=power, link="log").fit(x, x[:, 1])
    for algorithm in ("kd_tree", "ball_tree", "brute"):
        for metric in ("euclidean", "manhattan", "chebyshev", "minkowski"):
            yield neighbors.KNeighborsClassifier(algorithm=algorithm, metric=metric).fit(x, y)
    for kind in (sparse.csr_matrix, sparse.csc_matrix, sparse.csr_array, sparse.csc_array):
        yield svm.SVC().fit(kind(x), y)
        yield neighbors.NearestNeighbors().fit(kind(x))
        yield preprocessing.OneHotEncoder().fit(kind(x).toarray())
    kernel = gaussian_process.kernels.RBF() + gaussian_process.kernels.WhiteKernel()
    yield gaussian_process.GaussianProcessRegressor(kernel).fit(x, x[:, 1])
    steps = pipeline.make_pipeline(preprocessing.StandardScaler(), linear_model.LogisticRegression())
    grid = {"logisticregression__C": [0.1, 1.0]}
    yield GridSearchCV(steps, grid, cv=KFold(3, shuffle=True, random_state=random), scoring="accuracy").fit(x, y)


def of_pandas() -> Iterator[Any]:
    """Frames, series and indexes of each dtype that pandas has itself, and of texts and numbers that pyarrow holds."""
    import numpy as np
    import pandas as pd

    days = pd.date_range("2020", periods=3, tz="UTC")
    columns: dict[str, Any] = {
        "integers": [1, 2, 3],
        "floats": [1.5, np.nan, 3],
        "flags": [True, False, True],
        "objects": pd.Series([1, "a", None], dtype=object),
        "days": pd.date_range("2020", periods=3),
        "utc": days,
        "spans": pd.to_timedelta([1, 2, 3], unit="D"),
        "periods": pd.period_range("2020", periods=3, freq="M"),
        "categories": pd.Categorical(["a", "b", "a"]),
        "intervals": pd.interval_range(0, 3),
        "Int64": pd.array([1, None, 3], dtype="Int64"),
        "Float32": pd.array([1, None, 3], dtype="Float32"),
        "boolean": pd.array([True, None, False], dtype="boolean"),
        "string": pd.array(["a", None, "b"], dtype=pd.StringDtype("python")),
        "sparse": pd.arrays.SparseArray([0, 0, 1]),
        "texts": ["a", "bc", None],
    }
    for dtype in (
        "string[pyarrow]",
        "string[pyarrow_numpy]",
        "int64[pyarrow]",
        "bool[pyarrow]",
        "large_string[pyarrow]",
    ):
        with suppress(ImportError, TypeError):  # without pyarrow, or in a release that does not have it
            columns[dtype] = pd.array([None, None, None], dtype=dtype)
    with suppress(ImportError):
        columns["of pyarrow"] = pd.array(["a", "bc", None], dtype=pd.StringDtype("pyarrow"))
    frame = pd.DataFrame({name: pd.Series(values) for name, values in columns.items()})
    yield frame
    yield pd.concat([frame, frame])  # the columns that pyarrow holds are in two chunks
    frame.columns = pd.Index(list(columns), dtype=object)
    yield from (frame, *(frame[name] for name in frame), *(pd.Index(values) for values in columns.values()))
    yield pd.MultiIndex.from_product([[1, 2], [3.0, 4.0]])
    yield from (pd.Timestamp("2020"), pd.Timestamp("2020", tz="UTC"), pd.Timedelta(1), pd.NaT, pd.NA)
    yield from (pd.Period("2020"), pd.Interval(0, 1), pd.CategoricalDtype(["a"]), pd.RangeIndex(3), pd.Index([1, 2]))
    yield from (pd.offsets.MonthEnd(2), pd.offsets.BusinessDay(), pd.offsets.Week(weekday=1), pd.DateOffset(months=1))


OBJECTS = {"numpy": of_numpy, "scipy": of_scipy, "scikit-learn": of_scikit_learn, "pandas": of_pandas}


def names_in(value: Any) -> tuple[str, ...]:
    """Return the names in the file of an object, except those that every file may contain."""
    file = io.BytesIO()
    shoal.dump(value, file)
    file.seek(0)
    return shoal.inspect(file).untrusted


def collected(preset: str) -> dict[str, str]:
    """Return the names in the files of a library's objects, and an example of a class for each."""
    found: dict[str, str] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for value in OBJECTS[preset]():
            for name in names_in(value):
                found.setdefault(name, type(value).__qualname__)
    return found


def reason_against(name: str, preset: str) -> str | None:
    """Return why a name is no part of a preset: it is neither a class of the library, nor in the table of callables."""
    libraries = {package for part in (preset, *INCLUDED[preset]) for package in PACKAGES[part]}
    if name.split(".")[0] not in libraries:
        return "it belongs to another library"
    if name in RECONSTRUCTORS:
        return None
    module, _, qualname = name.rpartition(".")
    value = getattr(importlib.import_module(module), qualname)
    if not isinstance(value, type):
        return "it is not a class, and not in _reconstructors.py"
    if value.__module__.split(".")[0] not in libraries:
        return f"{value.__module__} defines it"
    if issubclass(value, BaseException) or any(part.startswith("test") for part in module.split(".")):
        return "no object needs it"
    return None


def methods_that_run(name: str) -> list[str]:
    """Return the methods of a class, written in Python, that run while a file is loaded."""
    if name in RECONSTRUCTORS:
        return []
    module, _, qualname = name.rpartition(".")
    value = getattr(importlib.import_module(module), qualname)
    if not isinstance(value, type):
        return []
    found = [(method, getattr(value, method, None)) for method in RUNS]
    return [method for method, function in found if hasattr(function, "__code__")]


def table(names: dict[str, set[str]]) -> str:
    """Return the text of ``_presets.py``."""
    lines = [TABLE.read_text(encoding="utf-8").partition("\n_NAMES")[0], "_NAMES: dict[str, dict[str, str]] = {"]
    for preset, found in names.items():
        lines.append(f'    "{preset}": {{')
        modules: dict[str, list[str]] = defaultdict(list)
        for name in sorted(found):
            module, _, last = name.rpartition(".")
            modules[module].append(last)
        for module, members in modules.items():
            lines += entry(module, members)
        lines.append("    },")
    lines.append("}\n")
    lines.append(TABLE.read_text(encoding="utf-8").partition("\n}\n")[2].lstrip("\n"))
    return "\n".join(lines)


def entry(module: str, members: list[str]) -> list[str]:
    """Return the lines of one module."""
    line = f'        "{module}": "{" ".join(members)}",'
    if len(line) <= 120:
        return [line]
    lines, text = [f'        "{module}": "'], ""
    for member in members:
        if len(text) + len(member) > 95:
            lines.append(f'        "{text}')
            text = ""
        text += f"{member} "
    parts = [part.removeprefix('        "') for part in lines[1:]] + [text.rstrip()]
    return [f'        "{module}": (', *(f'            "{part}"' for part in parts), "        ),"]


def main(arguments: list[str]) -> int:
    """Collect the names, report what is new, and write the table."""
    names: dict[str, set[str]] = {}
    for preset, included in INCLUDED.items():
        known = set().union(*(names[other] for other in included))
        names[preset] = set(PRESETS.get(preset, ())) - set().union(*(PRESETS.get(other, ()) for other in included))
        for name, example in sorted(collected(preset).items()):
            if name in known or name in names[preset]:
                continue
            reason = reason_against(name, preset)
            if reason is not None:
                print(f"{preset}: {name} ({example}) is left out: {reason}")
                continue
            print(f"{preset}: {name} ({example}) is new; {', '.join(methods_that_run(name)) or 'nothing'} would run")
            names[preset].add(name)
    if "--write" in arguments:
        TABLE.write_text(table(names), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
