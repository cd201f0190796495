"""The objects of each library whose files tell what the presets of ``load(trusted=)`` contain."""

from __future__ import annotations

import pickle
import unittest
from collections.abc import Iterator
from contextlib import suppress
from typing import Any


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
    from sklearn.experimental import enable_halving_search_cv, enable_iterative_imputer  # noqa: F401
    from sklearn.gaussian_process import kernels
    from sklearn.metrics import DistanceMetric, get_scorer, get_scorer_names
    from sklearn.utils import all_estimators

    for name, kind in all_estimators():
        fitted = [estimator for estimator in made(kind) if fit(estimator)]
        if not fitted:
            print(f"scikit-learn: {name} could not be fitted")
        yield from fitted
    yield from more_estimators()
    with suppress(ImportError):
        yield from of_frames()
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


def of_frames() -> Iterator[Any]:
    """Estimators that were fitted on frames with columns of numbers, texts and categories."""
    import numpy as np
    import pandas as pd
    from sklearn import compose, ensemble, linear_model, pipeline, preprocessing

    classes = np.array(["no", "yes"] * 30)
    frame = pd.DataFrame({"number": np.arange(60.0), "category": pd.Categorical(["a", "b"] * 30)})
    texts = frame.assign(text=["c", "d"] * 30)
    for kind in (ensemble.HistGradientBoostingRegressor, ensemble.HistGradientBoostingClassifier):
        yield kind(max_iter=2).fit(frame, np.arange(60) % 2)
        with suppress(ValueError):  # before 1.4, categories are not recognised
            yield kind(max_iter=2, categorical_features="from_dtype").fit(frame, np.arange(60) % 2)
    for encoder in (preprocessing.OneHotEncoder(sparse_output=False), preprocessing.OrdinalEncoder()):
        yield encoder.set_output(transform="pandas").fit(texts[["category", "text"]])
    yield preprocessing.TargetEncoder().fit(texts[["category", "text"]], classes)
    numbers = compose.make_column_selector(dtype_include="number")
    others = compose.make_column_selector(pattern="c|t", dtype_exclude=np.number)
    columns = compose.make_column_transformer(
        (preprocessing.StandardScaler(), numbers), (preprocessing.OneHotEncoder(), others), remainder="passthrough"
    )
    yield pipeline.make_pipeline(columns, linear_model.LogisticRegression()).fit(texts, classes)


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
        **{name: pd.array([1, None, 1], dtype=name) for name in nullable()},
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
    yield pd.DateOffset(months=1)
    for offset in offsets():
        yield offset
        yield pd.date_range("2020", periods=3, freq=offset)
        for make, start in ((pd.timedelta_range, 0), (pd.period_range, "2020")):
            with suppress(ValueError, AttributeError, TypeError, NotImplementedError):  # not every offset has both
                index = make(start, periods=3, freq=offset)
                yield pickle.loads(pickle.dumps(index))  # pandas can not pickle periods of a few offsets


def nullable() -> list[str]:
    """Return the names of all public dtypes of pandas for numbers and flags that may be missing."""
    import pandas as pd

    public = [getattr(pd, name) for name in dir(pd) if name.endswith("Dtype")]
    names = [getattr(kind, "name", None) for kind in public]
    return sorted(name for name in names if isinstance(name, str) and name not in ("category", "interval", "string"))


def offsets() -> Iterator[Any]:
    """All public date offsets of pandas, with default arguments, and with those that lead to other pickles."""
    from datetime import time

    import numpy as np
    from pandas.tseries import offsets
    from pandas.tseries.holiday import USFederalHolidayCalendar

    for name in offsets.__all__:
        if name in ("BaseOffset", "Tick", "DateOffset"):  # nobody makes objects of the first two
            continue
        kind = getattr(offsets, name)
        yield from (kind(), kind(2))
        for argument in (
            {"weekday": 2},
            {"week": 1, "weekday": 2},
            {"startingMonth": 2},
            {"month": 2},
            {"offset": np.timedelta64(1, "h").astype(object)},
            {"start": ["09:00", time(13)], "end": ["12:00", "17:00"]},
            {"weekmask": "Mon Tue", "holidays": ["2020-01-01"]},
            {"calendar": USFederalHolidayCalendar()},
            {"calendar": np.busdaycalendar(holidays=["2020-01-01"])},
        ):
            with suppress(TypeError):  # it has no such argument
                yield kind(**argument)


OBJECTS = {"numpy": of_numpy, "scipy": of_scipy, "scikit-learn": of_scikit_learn, "pandas": of_pandas}
