"""What a pattern such as ``sklearn.*`` covers beside classes: functions, and calls of classes, that honest files need.

A pattern covers a class only for ``__new__`` without arguments, which runs no ``__init__``. What is listed here is
called with arguments when pickle rebuilds an object, and each entry says with which. Where something is called in any
other way, or is not listed, the pattern does not cover it; its exact name does.

The names are those of scikit-learn 1.3 to 1.9, numpy 1.26 to 2.4, scipy 1.11 to 1.17, pandas 1.5 to 3.1 and pyarrow,
found by fitting all estimators and dumping frames, indexes, dtypes, scalars and arrays of every kind.
"""

from __future__ import annotations

from typing import Any

from shoal.persistence.trust._dtypes import need
from shoal.persistence.trust._standins import Global, Rule

_PLAIN = (int, float, complex, str, bytes, bytearray, bool, type(None))


def _data(*args: Any) -> None:
    """Take data and rebuilt objects, and nothing that could be called."""
    for arg in args:
        if type(arg) in (tuple, list):
            need(not any(isinstance(item, Global) for item in arg), "a class or function")
        else:
            need(not isinstance(arg, Global), "a class or function")


def _no_arguments(*args: Any) -> None:
    need(not args, "arguments")


def _new(kind: Any) -> None:
    """Take a class of which an instance is made without arguments."""
    need(isinstance(kind, Global) and kind.rule is None, "no class of the package")


def _cython(kind: Any, checksum: Any, state: Any) -> None:
    """Take what Cython writes for an object whose state follows by BUILD."""
    _new(kind)
    need(type(checksum) is int and state is None, "another state than Cython writes")


def _index(kind: Any, arguments: Any) -> None:
    """Take a class of pandas' indexes, which is called with the arguments."""
    need(isinstance(kind, Global) and kind.module.split(".")[0] == "pandas", "no index of pandas")
    need(kind.qualname.endswith("Index") and type(arguments) is dict, "no index of pandas")


def _bit_generator(kind: Any = "MT19937") -> None:
    """Take a class of numpy's bit generators, or its name."""
    need(type(kind) is str or (isinstance(kind, Global) and kind.module.startswith("numpy.random._")), "no generator")


def _generator(bits: Any = "MT19937", make: Any = None) -> None:
    """Take a bit generator or its name, and what makes one of a name: no other callable."""
    need(not isinstance(bits, Global), "no bit generator")
    need(make is None or (isinstance(make, Global) and make.name == _BITS), "another callable")


def _string_dtype(storage: Any, missing: Any = None) -> None:
    need(type(storage) is str, "no storage")
    need(not isinstance(missing, Global) or missing.qualname == "NA", "no missing value")


_BITS = "numpy.random._pickle.__bit_generator_ctor"
_OFFSETS = (
    "Day Hour Minute Second Milli Micro Nano BusinessDay BusinessHour CustomBusinessDay CustomBusinessHour MonthEnd "
    "MonthBegin BusinessMonthEnd BusinessMonthBegin CustomBusinessMonthEnd CustomBusinessMonthBegin SemiMonthEnd "
    "SemiMonthBegin Week WeekOfMonth LastWeekOfMonth YearEnd YearBegin BYearEnd BYearBegin QuarterEnd QuarterBegin "
    "BQuarterEnd BQuarterBegin HalfYearEnd HalfYearBegin BHalfYearEnd BHalfYearBegin FY5253 FY5253Quarter Easter"
)
_LOSSES = (
    "CyAbsoluteError CyExponentialLoss CyHalfBinomialLoss CyHalfGammaLoss CyHalfMultinomialLoss CyHalfPoissonLoss "
    "CyHalfSquaredError CyHalfTweedieLoss CyHalfTweedieLossIdentity CyHuberLoss CyPinballLoss"
)
_SGD_LOSSES = (
    "EpsilonInsensitive Hinge Huber Log ModifiedHuber SquaredEpsilonInsensitive SquaredHinge SquaredLoss "
    "CyHalfBinomialLoss CyHalfSquaredError"
)
_ARROW_TYPES = (
    "type_for_alias binary binary_view string_view timestamp time32 time64 duration decimal32 decimal64 decimal128 "
    "decimal256 list_ large_list list_view large_list_view struct map_ dictionary union dense_union sparse_union "
    "run_end_encoded field schema"
)
_METRICS = {
    "_classification": "accuracy_score balanced_accuracy_score brier_score_loss d2_brier_score d2_log_loss_score "
    "f1_score fbeta_score jaccard_score log_loss matthews_corrcoef precision_score recall_score",
    "_ranking": "average_precision_score roc_auc_score top_k_accuracy_score",
    "_regression": "d2_absolute_error_score explained_variance_score max_error mean_absolute_error "
    "mean_absolute_percentage_error mean_gamma_deviance mean_poisson_deviance mean_squared_error "
    "mean_squared_log_error median_absolute_error r2_score root_mean_squared_error root_mean_squared_log_error",
    "_scorer": "negative_likelihood_ratio positive_likelihood_ratio",
    "cluster._supervised": "adjusted_mutual_info_score adjusted_rand_score completeness_score fowlkes_mallows_score "
    "homogeneity_score mutual_info_score normalized_mutual_info_score rand_score v_measure_score",
}

#: Is held by an estimator that computes with it, and never called while the file is loaded.
_HELD = Rule()


def _each(module: str, names: str, rule: Rule) -> dict[str, Rule]:
    return {f"{module}.{name}": rule for name in names.split()}


#: What patterns cover beside classes, by the names that files give it.
RECONSTRUCTORS: dict[str, Rule] = {
    # numpy: random generators are made of a bit generator, which is made by its class and given its state.
    _BITS: Rule(_bit_generator),
    "numpy.random._pickle.__generator_ctor": Rule(_generator),
    "numpy.random._pickle.__randomstate_ctor": Rule(_generator),
    "numpy.random.bit_generator.__pyx_unpickle_SeedSequence": Rule(_cython),
    # scikit-learn: trees know their sizes before they have a state; losses are values of Cython without one.
    "sklearn.tree._tree.Tree": Rule(_data),
    **_each("sklearn._loss._loss", _LOSSES, Rule(_data)),
    **_each("_loss", _LOSSES, Rule(_data)),  # what some releases call that module
    **_each("sklearn.linear_model._sgd_fast", _SGD_LOSSES, Rule(_data)),
    # ... trees of neighbours and distances: newObj(cls) is cls.__new__(cls).
    **{f"sklearn.neighbors.{module}.newObj": Rule(_new) for module in ("_kd_tree", "_ball_tree")},
    **{f"sklearn.metrics.{module}.newObj": Rule(_new) for module in ("_dist_metrics", "_pairwise_fast")},
    # ... functions that compute numbers of numbers, which scorers and selectors hold by default.
    **{name: _HELD for part, names in _METRICS.items() for name in _each(f"sklearn.metrics.{part}", names, _HELD)},
    **_each("sklearn.feature_selection._univariate_selection", "chi2 f_classif f_regression r_regression", _HELD),
    **_each("sklearn.feature_selection._mutual_info", "mutual_info_classif mutual_info_regression", _HELD),
    **_each("sklearn.cluster._kmeans", "_kmeans_single_lloyd _kmeans_single_elkan", _HELD),
    # scipy: splines hold the module's asarray, interp1d its own method.
    "scipy._lib.array_api_compat.numpy._aliases.asarray": _HELD,
    **_each("scipy.interpolate._interpolate.interp1d", "_call_linear_np _call_linear _call_nearest", _HELD),
    **_each("scipy.interpolate._interpolate.interp1d", "_call_spline _call_previousnext _call_nan_spline", _HELD),
    # pandas: a frame is its manager of blocks; indexes are made anew of their arguments.
    "pandas.core.internals.managers.BlockManager": Rule(_data),
    "pandas._libs.internals._unpickle_block": Rule(_data),
    "pandas.core.indexes.base._new_Index": Rule(_index),
    "pandas.core.indexes.datetimes._new_DatetimeIndex": Rule(_index),
    "pandas.core.indexes.interval._new_IntervalIndex": Rule(_index),
    "pandas.core.indexes.timedeltas._new_TimedeltaIndex": Rule(_index),
    "pandas.core.indexes.frozen.FrozenList": Rule(_data),
    # ... arrays whose classes are Cython's.
    "pandas._libs.arrays.__pyx_unpickle_NDArrayBacked": Rule(_cython),
    "pandas._libs.interval.__pyx_unpickle_IntervalMixin": Rule(_cython),
    **_each("pandas._libs.sparse", "IntIndex BlockIndex", Rule(_data)),
    # ... dtypes and scalars, which cannot change.
    **_each("pandas", "StringDtype", Rule(_string_dtype)),
    **_each("pandas.core.arrays.string_", "StringDtype", Rule(_string_dtype)),
    **_each("pandas", "PeriodDtype Interval Period", Rule(_data)),
    "pandas.core.dtypes.dtypes.PeriodDtype": Rule(_data),
    "pandas._libs.interval.Interval": Rule(_data),
    **_each("pandas._libs.tslibs.period", "Period", Rule(_data)),
    "pandas._libs.tslibs.nattype._nat_unpickle": Rule(_data),
    "pandas._libs.tslibs.timedeltas._timedelta_unpickle": Rule(_data),
    "pandas._libs.tslibs.timestamps._unpickle_timestamp": Rule(_data),
    **{f"{module}.NA": _HELD for module in ("pandas", "pandas._libs.missing")},
    # ... offsets of dates, of numbers and names.
    **_each("pandas._libs.tslibs.offsets", _OFFSETS, Rule(_data)),
    **{f"{module}.DateOffset": Rule(_no_arguments) for module in ("pandas", "pandas._libs.tslibs.offsets")},
    # pyarrow: types are made of their parts, arrays of a type and buffers.
    **_each("pyarrow.lib", _ARROW_TYPES, Rule(_data)),
    **_each("pyarrow.lib", "py_buffer scalar chunked_array _restore_array DictionaryScalar._reconstruct", Rule(_data)),
    **_each("pyarrow.lib", "_reconstruct_table _reconstruct_record_batch", Rule(_data)),
    # Time zones, by their key in the database.
    "zoneinfo.ZoneInfo._unpickle": Rule(_data),
}
