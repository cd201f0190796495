"""dump and load of what other libraries make: estimators, frames, sparse matrices."""

from __future__ import annotations

import functools
import pickle
import sys
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest

import shoal
from _persistence_zoo import portrait
from shoal import VersionWarning, dump, load

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

stored = functools.partial(portrait, stored=True)


def check(path: Path, value: Any, compress: Any = 0) -> Any:
    """Send an object from shoal to shoal, to joblib, and back; return what shoal has loaded of its own file."""
    dump(value, path, compress=compress)
    ours = load(path, ensure_native_byte_order=False, verify=True)
    # Some objects are not the same when they come out of pickle: masked arrays have a fill value then.
    assert portrait(ours) == stored(pickle.loads(pickle.dumps(value)))
    assert portrait(joblib.load(path)) == portrait(load(path))
    joblib.dump(value, path, compress=compress)
    assert portrait(load(path)) == portrait(joblib.load(path))
    return ours


# scikit-learn


@pytest.fixture(scope="module")
def data() -> tuple[Any, Any]:
    chance = np.random.default_rng(0)
    features = np.abs(chance.standard_normal((60, 6)))
    return features, (features[:, 0] > 0.6).astype(int)


ESTIMATORS = {
    "LogisticRegression": ("linear_model", {}),
    "Lasso": ("linear_model", {}),
    "SGDClassifier": ("linear_model", {"random_state": 0}),
    "BayesianRidge": ("linear_model", {}),
    "SVC": ("svm", {"probability": False}),
    "LinearSVR": ("svm", {}),
    "DecisionTreeClassifier": ("tree", {"random_state": 0}),
    "RandomForestClassifier": ("ensemble", {"n_estimators": 5, "random_state": 0}),
    "GradientBoostingRegressor": ("ensemble", {"n_estimators": 5, "random_state": 0}),
    "HistGradientBoostingClassifier": ("ensemble", {"max_iter": 5, "random_state": 0}),
    "IsolationForest": ("ensemble", {"n_estimators": 5, "random_state": 0}),
    "KNeighborsClassifier": ("neighbors", {"algorithm": "kd_tree"}),
    "KernelDensity": ("neighbors", {}),
    "GaussianNB": ("naive_bayes", {}),
    "MultinomialNB": ("naive_bayes", {}),
    "GaussianProcessRegressor": ("gaussian_process", {}),
    "MLPClassifier": ("neural_network", {"max_iter": 3, "random_state": 0, "hidden_layer_sizes": (200, 30)}),
    "KMeans": ("cluster", {"n_clusters": 3, "n_init": 1, "random_state": 0}),
    "DBSCAN": ("cluster", {}),
    "AgglomerativeClustering": ("cluster", {}),
    "PCA": ("decomposition", {"n_components": 2}),
    "NMF": ("decomposition", {"n_components": 2, "max_iter": 50, "random_state": 0}),
    "GaussianMixture": ("mixture", {"n_components": 2, "random_state": 0}),
    "LinearDiscriminantAnalysis": ("discriminant_analysis", {}),
    "PLSRegression": ("cross_decomposition", {}),
    "StandardScaler": ("preprocessing", {}),
    "OneHotEncoder": ("preprocessing", {"handle_unknown": "ignore"}),
    "SelectKBest": ("feature_selection", {"k": 2}),
    "IsotonicRegression": ("isotonic", {}),
    "SimpleImputer": ("impute", {}),
    "Isomap": ("manifold", {"n_components": 2}),
    "RBFSampler": ("kernel_approximation", {"random_state": 0}),
    "CalibratedClassifierCV": ("calibration", {"cv": 2}),
    "DummyClassifier": ("dummy", {}),
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_estimators(tmp_path: Path, data: tuple[Any, Any], name: str) -> None:
    module, options = ESTIMATORS[name]
    pytest.importorskip("sklearn")
    features, target = data
    if name == "IsotonicRegression":
        features = features[:, 0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kind = getattr(__import__(f"sklearn.{module}", fromlist=[name]), name)
        model = kind(**options).fit(features, target)
        again = check(tmp_path / "x.pkl", model, "lz4" if len(name) % 3 == 0 else 0)
        for method in ("predict", "transform", "score_samples", "predict_proba"):
            if hasattr(model, method):
                expected = getattr(model, method)(features)
                assert portrait(getattr(again, method)(features)) == portrait(expected)
        mapped = load(tmp_path / "x.pkl", mmap_mode="r")
        for method in ("predict", "transform"):
            if hasattr(model, method) and name != "CalibratedClassifierCV":
                np.testing.assert_allclose(
                    _dense(getattr(mapped, method)(features)), _dense(getattr(model, method)(features))
                )


def _dense(array: Any) -> Any:
    return array.toarray() if hasattr(array, "toarray") else array


def test_a_search_over_a_pipeline(tmp_path: Path, data: tuple[Any, Any]) -> None:
    pytest.importorskip("sklearn")
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    forest = RandomForestClassifier(n_estimators=3, random_state=0)
    pipeline = make_pipeline(FunctionTransformer(np.log1p), forest)
    search = GridSearchCV(pipeline, {"randomforestclassifier__max_depth": [1, 2]}, cv=2).fit(*data)
    again = check(tmp_path / "x.pkl", search)
    assert (again.predict(data[0]) == search.predict(data[0])).all()


# pandas and scipy


def frames() -> dict[str, Callable[[Any], Any]]:
    def frame(pd: Any) -> Any:
        return pd.DataFrame(
            {
                "numbers": np.arange(9000.0),
                "integers": np.arange(9000, dtype="i2"),
                "text": [f"row {n}" for n in range(9000)],
                "missing": [None, 1.0, "x"] * 3000,
                "times": pd.date_range("2020", periods=9000, freq="h", tz="Europe/Berlin"),
                "spans": pd.timedelta_range("1s", periods=9000),
                "category": pd.Categorical(list("abc") * 3000, ordered=True),
                "nullable": pd.array([1, None, 3] * 3000, dtype="Int64"),
            },
            index=pd.RangeIndex(5, 9005),
        )

    return {
        "frame": frame,
        "part": lambda pd: frame(pd).iloc[5:50:3],
        "empty": lambda pd: pd.DataFrame(),
        "one block": lambda pd: pd.DataFrame(np.arange(60_000.0).reshape(-1, 6), columns=list("abcdef")),
        "series": lambda pd: pd.Series(np.arange(10), name="s"),
        "levels": lambda pd: pd.DataFrame({"a": [1, 2]}, pd.MultiIndex.from_tuples([("x", 1), ("y", 2)])),
        "periods": lambda pd: pd.Series(pd.period_range("2020-01", periods=4, freq="M")),
        "intervals": lambda pd: pd.cut(pd.Series([1.0, 2.0, 3.0]), 2),
        "sparse": lambda pd: pd.Series(pd.arrays.SparseArray([0, 0, 1.5])),
        "stamps": lambda pd: [pd.Timestamp("2020-01-01", tz="UTC"), pd.Timedelta("1s"), pd.NaT, pd.NA],
    }


@pytest.mark.parametrize("name", frames())
def test_frames(tmp_path: Path, name: str) -> None:
    pd = pytest.importorskip("pandas")
    value = frames()[name](pd)
    for compress in (0, "zlib"):
        dump(value, tmp_path / "x", compress=compress)
        joblib.dump(value, tmp_path / "y", compress=compress)
        for again in (load(tmp_path / "x"), joblib.load(tmp_path / "x"), load(tmp_path / "y")):
            assert type(again) is type(value)
            if isinstance(value, pd.DataFrame):
                pd.testing.assert_frame_equal(again, value, check_freq=True)
            elif isinstance(value, pd.Series):
                pd.testing.assert_series_equal(again, value)
            else:
                assert again[:2] == value[:2]
                assert [item is other for item, other in zip(again, value, strict=True)][2:] == [True, True]
    dump(value, tmp_path / "x")
    mapped = load(tmp_path / "x", mmap_mode="r")
    if isinstance(value, pd.DataFrame):
        assert mapped.equals(value)


@pytest.mark.parametrize("kind", ["csr", "csc", "coo", "bsr", "dia", "dok", "lil"])
@pytest.mark.parametrize("container", ["matrix", "array"])
@pytest.mark.filterwarnings("ignore:Constructing a DIA matrix")
def test_sparse_matrices(tmp_path: Path, container: str, kind: str) -> None:
    sparse = pytest.importorskip("scipy.sparse")
    random = sparse.random(90, 60, 0.2, random_state=np.random.RandomState(0))
    value = getattr(sparse, f"{kind}_{container}")(random)
    for compress in (0, "zlib"):
        again = check(tmp_path / "x", [value, value, {"again": value}], compress)
        assert again[0] is again[1] is again[2]["again"]
        assert (again[0] != value).nnz == 0
        assert again[0].format == kind


# Versions


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A package of which the file holds a class."""
    module = types.ModuleType("measured")
    module.__version__ = "1.2.0"  # type: ignore[attr-defined]
    module.Thing = type("Thing", (), {"__module__": "measured"})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "measured", module)
    return module


@pytest.mark.parametrize("compress", [0, "zlib", "lz4"])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_other_versions_are_warned_of_once(tmp_path: Path, package: Any, protocol: int, compress: Any) -> None:
    path = tmp_path / "model.pkl"
    things = [package.Thing() for _ in range(5)]
    dump([things, np.arange(9000.0), package.Thing], path, compress=compress, protocol=protocol)
    load(path)
    package.__version__ = "1.3.0"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load(path)
    (warning,) = caught
    assert warning.category is VersionWarning
    assert warning.filename == __file__
    assert "measured 1.2.0 (here: 1.3.0)" in str(warning.message)
    assert str(path) in str(warning.message)
    assert "numpy" not in str(warning.message)


def test_versions_of_packages_that_were_removed(tmp_path: Path, package: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    dump(package.Thing(), tmp_path / "x")
    monkeypatch.delitem(sys.modules, "measured")
    with pytest.raises(ModuleNotFoundError, match="measured"):
        load(tmp_path / "x")
    monkeypatch.setitem(sys.modules, "measured", package)
    del package.Thing
    with pytest.raises(AttributeError, match="Thing"):
        load(tmp_path / "x")


def test_other_versions_of_python_and_numpy_cause_no_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dump(np.arange(9000.0), tmp_path / "x")
    major = np.__version__.partition(".")[0]
    monkeypatch.setattr(np, "__version__", f"{major}.999.0")
    load(tmp_path / "x")
    monkeypatch.setattr(np, "__version__", "9.0.0")
    with pytest.warns(VersionWarning, match=r"numpy .* \(here: 9\.0\.0\)"):
        load(tmp_path / "x")


def test_the_names_are_public() -> None:
    assert {"dump", "load", "CorruptFile", "DamagedFile", "TruncatedFile", "VersionWarning"} <= set(shoal.__all__)
