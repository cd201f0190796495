"""What stands for objects of pandas, whose pickles differ between equal ones: by blocks, chunks and caches.

A frame is its labels and its columns, one after the other; a column is its dtype and values. What lies beneath a
missing value does not count, nor does the layout of memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from ._walk import Writer
from ._writers import standing_in


def _frame(frame: Any) -> Iterator[Any]:
    yield from _around(frame)
    yield frame.columns
    yield frame.index
    for _, column in frame.items():
        yield _values(column)


def _series(series: Any) -> Iterator[Any]:
    yield from _around(series)
    yield series.name
    yield series.index
    yield _values(series)


def _around(obj: Any) -> Iterator[Any]:
    yield obj.attrs
    yield obj.flags.allows_duplicate_labels
    yield {name: getattr(obj, name, None) for name in obj._metadata if name != "name"}


def _values(labelled: Any) -> Any:
    """Return the values of a column or an index: an array of pandas', or of numpy's in one piece."""
    if isinstance(labelled.dtype, np.dtype) and labelled.dtype.kind not in "mM":
        return np.ascontiguousarray(labelled.to_numpy())
    return labelled.array


def _index(index: Any) -> Iterator[Any]:
    yield list(index.names)
    yield getattr(index, "freqstr", None)
    yield from _rules_of(index)
    yield _values(index)


def _range_index(index: Any) -> Iterator[Any]:
    yield [index.name, index.start, index.stop, index.step]


def _multi_index(index: Any) -> Iterator[Any]:
    yield list(index.names)
    yield index.sortorder
    for level, codes in zip(index.levels, index.codes, strict=True):
        yield level
        yield np.ascontiguousarray(codes)


def _categorical(array: Any) -> Iterator[Any]:
    yield array.ordered
    yield array.categories
    yield np.ascontiguousarray(array.codes)


def _dates(array: Any) -> Iterator[Any]:
    yield [str(array.dtype), getattr(array, "freqstr", None)]
    yield from _rules_of(array)
    yield np.ascontiguousarray(array.asi8)


def _rules_of(dates: Any) -> Iterator[Any]:
    """Yield what the texts of the dtype and the frequency do not say: two of the same text may have other rules."""
    zone = getattr(dates, "tz", None)
    if zone is not None:
        yield zone
    freq = getattr(dates, "freq", None)
    if getattr(freq, "holidays", None) is not None or getattr(freq, "normalize", False):
        yield freq


def _interval(array: Any) -> Iterator[Any]:
    yield array.closed
    yield array.left
    yield array.right


def _masked(array: Any) -> Iterator[Any]:
    """Values with a mask: Int64, Float32, boolean and their like."""
    missing = np.ascontiguousarray(array.isna())
    yield str(array.dtype)
    yield missing
    yield array.to_numpy(dtype=array.dtype.numpy_dtype, na_value=0)


def _arrow(array: Any) -> Iterator[Any]:
    yield _dtype_of(array)
    yield array.__arrow_array__()


def _strings(array: Any) -> Iterator[Any]:
    yield _dtype_of(array)
    yield np.ascontiguousarray(array.to_numpy(dtype=object, na_value=None))


def _dtype_of(array: Any) -> list[Any]:
    dtype = array.dtype
    missing = getattr(dtype, "na_value", None)
    return [str(dtype), getattr(dtype, "storage", None), "nan" if isinstance(missing, float) else str(missing)]


def _sparse(array: Any) -> Iterator[Any]:
    yield [str(array.dtype), len(array), array.fill_value]
    yield np.ascontiguousarray(array.sp_index.indices)
    yield np.ascontiguousarray(array.sp_values)


def writers() -> dict[type, tuple[bytes, Writer]]:
    """Return the writers of pandas' types."""
    arrays: Any = pd.arrays
    functions = {
        pd.DataFrame: _frame,
        pd.Series: _series,
        pd.Index: _index,
        pd.RangeIndex: _range_index,
        pd.MultiIndex: _multi_index,
        pd.Categorical: _categorical,
        arrays.DatetimeArray: _dates,
        arrays.TimedeltaArray: _dates,
        arrays.PeriodArray: _dates,
        arrays.IntervalArray: _interval,
        arrays.IntegerArray: _masked,
        arrays.FloatingArray: _masked,
        arrays.BooleanArray: _masked,
        arrays.StringArray: _strings,
        arrays.ArrowExtensionArray: _arrow,
        arrays.ArrowStringArray: _arrow,
        arrays.SparseArray: _sparse,
    }
    return {cls: (b"pandas\n", standing_in(function)) for cls, function in functions.items()}
