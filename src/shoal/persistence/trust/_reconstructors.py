"""Functions, and calls of classes, that a pattern such as ``sklearn.*`` covers because honest files need them.

Of a class, a pattern covers only ``__new__`` without arguments, which runs no ``__init__``. The callables in this table
are called with arguments when an object is rebuilt, and each entry says with which arguments. A pattern does not cover
any other function, or any other call. Its exact name in ``trusted=`` does.

The names are those of scikit-learn 1.3 to 1.9, numpy 1.26 to 2.4, scipy 1.11 to 1.17, pandas 1.5 to 3.1 and pyarrow.
They were found by fitting all estimators, and by dumping frames, indexes, dtypes, scalars and arrays of every kind.
"""

from __future__ import annotations

from typing import Any

from shoal.persistence.trust._dtypes import need
from shoal.persistence.trust._standins import Global, Result, Rule

_PLAIN = (int, float, complex, str, bytes, bytearray, bool, type(None))


def _data(*args: Any) -> None:
    """Accept data and rebuilt objects, but no callables."""
    for arg in args:
        if type(arg) in (tuple, list):
            need(not any(isinstance(item, Global) for item in arg), "a class or function")
        else:
            need(not isinstance(arg, Global), "a class or function")


def _no_arguments(*args: Any) -> None:
    need(not args, "arguments")


def _new(kind: Any) -> Any:
    """Accept a class, of which an instance is made without arguments; return what stands for the instance."""
    need(isinstance(kind, Global) and kind.rule is None, "no class of the package")
    return kind.result


def _unchecked(kinds: str) -> Rule:
    """Return the rule of a compiled class that does not check the parts of its state, a tuple.

    `kinds` has a letter for each part: "n" for a number, "a" for an array or another rebuilt object, and "o" for one or
    None.
    """

    def change(state: Any) -> None:
        need(type(state) is tuple and len(state) == len(kinds), "no tuple of so many parts")
        for part, kind in zip(state, kinds, strict=True):
            plain = isinstance(part, (*_PLAIN, list, tuple, dict, set, frozenset, Global))
            if kind == "n":
                need(type(part) in (int, float, bool), "no number")
            else:
                need(not plain or (kind == "o" and part is None), "no array")

    return Rule(change=change)


def _cython(kind: Any, checksum: Any, state: Any) -> Any:
    """Accept the arguments that Cython writes for an object that has no state, or whose state follows by BUILD."""
    need(
        type(checksum) is int and (state is None or (type(state) is tuple and not state)),
        "another state than Cython writes",
    )
    return _new(kind)


def _index(kind: Any, arguments: Any) -> None:
    """Accept a class of pandas' indexes, and the keyword arguments that it is called with."""
    need(isinstance(kind, Global) and kind.module.split(".")[0] == "pandas", "no index of pandas")
    need(kind.qualname.endswith("Index") and type(arguments) is dict, "no index of pandas")
    # pandas would parse texts: of the name of a time zone or a dtype, it makes the path of a file to read.
    need(_OF_INDEXES.issuperset(arguments), "an argument that pickles of pandas do not have")
    for name in _DATA_OF_INDEXES.intersection(arguments):
        need(type(arguments[name]) not in (str, list, tuple, dict), f"{name} that pandas would parse")


_DATA_OF_INDEXES = frozenset(("data", "tz", "left", "right", "ordinal"))
_OF_INDEXES = _DATA_OF_INDEXES.union(
    ("name", "names", "levels", "codes", "labels", "sortorder", "start", "stop", "step", "freq", "closed")
)


def _bit_generator(kind: Any = "MT19937") -> None:
    """Accept a class of numpy's bit generators, or its name."""
    need(type(kind) is str or (isinstance(kind, Global) and kind.module.startswith("numpy.random._")), "no generator")


def _generator(bits: Any = "MT19937", make: Any = None) -> None:
    """Accept a bit generator or its name, and the function that makes one of a name, but no other callable."""
    need(not isinstance(bits, Global), "no bit generator")
    need(make is None or (isinstance(make, Global) and make.name == _BITS), "another callable")


def _string_dtype(storage: Any, missing: Any = None) -> None:
    need(type(storage) is str, "no storage")
    need(not isinstance(missing, Global) or missing.qualname == "NA", "no missing value")


def _timestamp(value: Any, freq: Any, tz: Any = None, *unit: Any) -> None:
    _data(value, freq, tz, *unit)
    need(type(tz) is not str, "a time zone that pandas would look up")


def _of_offsets(value: Any) -> bool:
    """Tell whether a value is plain data, or a time, a span of time or a date that numpy or pandas has written."""
    if type(value) in (tuple, list):
        return all(map(_of_offsets, value))
    if type(value) is dict:
        return all(type(key) is str and _of_offsets(item) for key, item in value.items())
    return type(value) in _PLAIN or (isinstance(value, Result) and value.name in _TIMES)


def _offset(text: int | None = None, calendar: int | None = None) -> Rule:
    """Return the rule of a date offset.

    Its argument at the index `text` may be a text, and no other one; that at the index `calendar` must be None. pandas
    would parse the text of a time with ``strptime``, which imports a module. It would import a module for a calendar,
    and call its methods. It never writes either: an offset has its times as times, and its holidays as dates.
    """

    def call(*args: Any) -> None:
        for index, arg in enumerate(args):
            parts = arg if type(arg) in (tuple, list) else (arg,)
            need(index == text or str not in map(type, parts), "a text")
            need(index != calendar or arg is None, "a calendar")
            need(_of_offsets(arg), "something else than numbers and times")

    def change(state: Any) -> None:
        need(type(state) is dict and _of_offsets(state), "something else than numbers, texts and times")

    return Rule(call, change)


def _partial(function: Any) -> Partial:
    """Accept the function of scikit-learn that checks data; return what stands for the partial function."""
    need(isinstance(function, Global) and function.name == _CHECK_ARRAY, "another function")
    return Partial(function)


class Partial:
    """Stands for a partial function that checks data. It is not called while the file is loaded.

    Its state follows. If that is not what scikit-learn writes, ``functools.partial`` must be named exactly.
    """

    def __init__(self, function: Global) -> None:
        self._function = function

    def __setstate__(self, state: Any) -> None:
        right = type(state) is tuple and len(state) == 4 and state[0] is self._function
        right = right and state[1] == () and type(state[2]) is dict and state[3] is None
        if not (right and all(_of_check(*keyword) for keyword in state[2].items())):
            self._function.notes.stand_in("functools", "partial").uses.add("called freely")


def _of_check(keyword: Any, value: Any) -> bool:
    """Tell whether scikit-learn gives this keyword argument to the function that checks data."""
    if keyword == "dtype":
        return type(value) is list and all(isinstance(item, Global) and item.name in _FLOATS for item in value)
    return keyword in ("ensure_all_finite", "force_all_finite") and type(value) is bool


_CHECK_ARRAY = "sklearn.utils.validation.check_array"
_FLOATS = ("numpy.float64", "numpy.float32")
#: What makes the dates, times and spans of time that date offsets hold.
_TIMES = (
    *("datetime.time", "datetime.timedelta", "pandas._libs.tslibs.timedeltas._timedelta_unpickle"),
    *("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"),
)
_BITS = "numpy.random._pickle.__bit_generator_ctor"
_OFFSETS = (
    "Day Hour Minute Second Milli Micro Nano BusinessDay BusinessHour MonthEnd MonthBegin BusinessMonthEnd "
    "BusinessMonthBegin SemiMonthEnd SemiMonthBegin Week WeekOfMonth LastWeekOfMonth YearEnd YearBegin BYearEnd "
    "BYearBegin QuarterEnd QuarterBegin BQuarterEnd BQuarterBegin HalfYearEnd HalfYearBegin BHalfYearEnd "
    "BHalfYearBegin Easter"
)
_CUSTOM_OFFSETS = "CustomBusinessDay CustomBusinessHour CustomBusinessMonthEnd CustomBusinessMonthBegin"
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
_DISTANCES = (
    "Euclidean SEuclidean Manhattan Chebyshev Minkowski Mahalanobis Hamming Canberra BrayCurtis Jaccard Matching Dice "
    "Kulsinski RogersTanimoto RussellRao SokalMichener SokalSneath Haversine"
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

#: For a function that is an attribute of an estimator, and that is never called while the file is loaded.
_VALUE = Rule()


def _each(module: str, names: str, rule: Rule) -> dict[str, Rule]:
    return {f"{module}.{name}": rule for name in names.split()}


#: The callables that patterns cover besides classes, by the names that files give them.
RECONSTRUCTORS: dict[str, Rule] = {
    # numpy: a random generator is made of a bit generator, which is made by its class and then gets its state.
    _BITS: Rule(_bit_generator),
    "numpy.random._pickle.__generator_ctor": Rule(_generator),
    "numpy.random._pickle.__randomstate_ctor": Rule(_generator),
    "numpy.random.bit_generator.__pyx_unpickle_SeedSequence": Rule(_cython),
    # scikit-learn: trees get their sizes as arguments, and then their state; losses are Cython objects without a state.
    "sklearn.tree._tree.Tree": Rule(_data),
    **_each("sklearn._loss._loss", _LOSSES, Rule(_data)),
    **_each("_loss", _LOSSES, Rule(_data)),  # some releases give that module this name
    **{f"{module}.__pyx_unpickle_CyHalfMultinomialLoss": Rule(_cython) for module in ("sklearn._loss._loss", "_loss")},
    **_each("sklearn.linear_model._sgd_fast", _SGD_LOSSES, Rule(_data)),
    # ... trees of neighbours and distances: newObj(cls) is cls.__new__(cls).
    **{f"sklearn.neighbors.{module}.newObj": Rule(_new) for module in ("_kd_tree", "_ball_tree")},
    **{f"sklearn.metrics.{module}.newObj": Rule(_new) for module in ("_dist_metrics", "_pairwise_fast")},
    **{
        f"sklearn.metrics._dist_metrics.{name}Distance{bits}": _unchecked("naa")
        for name in _DISTANCES.split()
        for bits in ("", "32", "64")
    },
    **_each("sklearn.neighbors._kd_tree", "KDTree KDTree32 KDTree64", _unchecked("aaaannnnnnnao")),
    **_each("sklearn.neighbors._ball_tree", "BallTree BallTree32 BallTree64", _unchecked("aaaannnnnnnao")),
    # ... numeric functions that are attributes of scorers and selectors by default.
    **{name: _VALUE for part, names in _METRICS.items() for name in _each(f"sklearn.metrics.{part}", names, _VALUE)},
    **_each("sklearn.feature_selection._univariate_selection", "chi2 f_classif f_regression r_regression", _VALUE),
    **_each("sklearn.feature_selection._mutual_info", "mutual_info_classif mutual_info_regression", _VALUE),
    **_each("sklearn.cluster._kmeans", "_kmeans_single_lloyd _kmeans_single_elkan", _VALUE),
    # ... and the function that gradient boosting of histograms applies to columns of numbers beside categories.
    _CHECK_ARRAY: _VALUE,
    "functools.partial": Rule(_partial),
    # ... of which FeatureAgglomeration has one of numpy's.
    "numpy.mean": _VALUE,
    # scipy: splines have the module's asarray as an attribute, and interp1d its own method.
    "scipy._lib.array_api_compat.numpy._aliases.asarray": _VALUE,
    "scipy._external.array_api_compat.numpy._aliases.asarray": _VALUE,
    **_each("scipy.interpolate._interpolate.interp1d", "_call_linear_np _call_linear _call_nearest", _VALUE),
    **_each("scipy.interpolate._interpolate.interp1d", "_call_spline _call_previousnext _call_nan_spline", _VALUE),
    # pandas: a frame is stored as its manager of blocks, an index as the arguments of its class.
    "pandas.core.internals.managers.BlockManager": Rule(_data),
    "pandas._libs.internals._unpickle_block": Rule(_data),
    "pandas.core.indexes.base._new_Index": Rule(_index),
    "pandas.core.indexes.datetimes._new_DatetimeIndex": Rule(_index),
    "pandas.core.indexes.interval._new_IntervalIndex": Rule(_index),
    "pandas.core.indexes.timedeltas._new_TimedeltaIndex": Rule(_index),
    "pandas.core.indexes.frozen.FrozenList": Rule(_data),
    # ... arrays whose classes are written in Cython.
    "pandas._libs.arrays.__pyx_unpickle_NDArrayBacked": Rule(_cython),
    "pandas._libs.interval.__pyx_unpickle_IntervalMixin": Rule(_cython),
    **_each("pandas._libs.sparse", "IntIndex BlockIndex", Rule(_data)),
    # ... dtypes and scalars, which are immutable.
    **_each("pandas", "StringDtype", Rule(_string_dtype)),
    **_each("pandas.core.arrays.string_", "StringDtype", Rule(_string_dtype)),
    **_each("pandas", "PeriodDtype Interval Period", Rule(_data)),
    "pandas._libs.tslibs.nattype.__nat_unpickle": Rule(_data),
    "pandas.core.dtypes.dtypes.PeriodDtype": Rule(_data),
    "pandas._libs.interval.Interval": Rule(_data),
    **_each("pandas._libs.tslibs.period", "Period", Rule(_data)),
    "pandas._libs.tslibs.nattype._nat_unpickle": Rule(_data),
    "pandas._libs.tslibs.timedeltas._timedelta_unpickle": Rule(_data),
    "pandas._libs.tslibs.timestamps._unpickle_timestamp": Rule(_timestamp),
    **{f"{module}.NA": _VALUE for module in ("pandas", "pandas._libs.missing")},
    # ... date offsets, which are made of numbers and times; the text is a mask of days, or the name of a variant.
    **_each("pandas._libs.tslibs.offsets", _OFFSETS, _offset()),
    **_each("pandas._libs.tslibs.offsets", _CUSTOM_OFFSETS, _offset(text=2, calendar=4)),
    "pandas._libs.tslibs.offsets.FY5253": _offset(text=4),
    "pandas._libs.tslibs.offsets.FY5253Quarter": _offset(text=5),
    **{f"{module}.DateOffset": Rule(_no_arguments) for module in ("pandas", "pandas._libs.tslibs.offsets")},
    # pyarrow: a type is made of its parts, an array of a type and buffers; _arrow.py checks these.
    **_each("pyarrow.lib", _ARROW_TYPES, Rule(_data)),
    **_each("pyarrow.lib", "py_buffer scalar chunked_array _restore_array DictionaryScalar._reconstruct", Rule(_data)),
    **_each("pyarrow.lib", "_reconstruct_table _reconstruct_record_batch", Rule(_data)),
    # Time zones are stored as their key in the database.
    "zoneinfo.ZoneInfo._unpickle": Rule(_data),
}
