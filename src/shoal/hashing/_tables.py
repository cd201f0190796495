"""The parts that are hashed in place of tables, columns and arrays of pandas, polars and xarray.

Equal objects of these libraries have different pickles, which depend on blocks, chunks, caches and offsets. Memory
beneath a missing value does not count, and neither does the memory layout.

::

    pandas    frame     labels, then one column after the other: its dtype and its values
    polars    frame     one column after the other: its name, its dtype and its values, as pyarrow has them
    xarray    dataset   variables: dimensions, values and attributes; which of them are coordinates; attributes

Each function yields the parts of one kind of object. The libraries are imported only when an object of theirs is met.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from typing import Any

import numpy as np

from ._reduced import substitute_writer
from ._walk import Writer


def _pandas_frame(frame: Any) -> Iterator[Any]:
    yield from _pandas_extras(frame)
    yield frame.columns
    yield frame.index
    for _, column in frame.items():
        yield _pandas_values(column)


def _pandas_series(series: Any) -> Iterator[Any]:
    yield from _pandas_extras(series)
    yield series.name
    yield series.index
    yield _pandas_values(series)


def _pandas_extras(obj: Any) -> Iterator[Any]:
    yield obj.attrs
    yield obj.flags.allows_duplicate_labels
    yield {name: getattr(obj, name, None) for name in obj._metadata if name != "name"}


def _pandas_values(labelled: Any) -> Any:
    """Return the values of a column or an index, as a pandas array or as a contiguous numpy array."""
    if isinstance(labelled.dtype, np.dtype) and labelled.dtype.kind not in "mM":
        return np.ascontiguousarray(labelled.to_numpy())
    return labelled.array


def _pandas_index(index: Any) -> Iterator[Any]:
    yield list(index.names)
    yield getattr(index, "freqstr", None)
    yield from _pandas_zone_and_freq(index)
    yield _pandas_values(index)


def _pandas_range_index(index: Any) -> Iterator[Any]:
    yield [index.name, index.start, index.stop, index.step]


def _pandas_multi_index(index: Any) -> Iterator[Any]:
    yield list(index.names)
    yield index.sortorder
    for level, codes in zip(index.levels, index.codes, strict=True):
        yield level
        yield np.ascontiguousarray(codes)


def _pandas_categorical(array: Any) -> Iterator[Any]:
    yield array.ordered
    yield array.categories
    yield np.ascontiguousarray(array.codes)


def _pandas_dates(array: Any) -> Iterator[Any]:
    yield [str(array.dtype), getattr(array, "freqstr", None)]
    yield from _pandas_zone_and_freq(array)
    yield np.ascontiguousarray(array.asi8)


def _pandas_zone_and_freq(dates: Any) -> Iterator[Any]:
    """Yield the time zone and the frequency, if the names of the dtype and the frequency do not determine them."""
    import pandas as pd

    zone = getattr(dates, "tz", None)
    if zone is not None:
        # pandas takes all objects for UTC as the same, and pyarrow makes another one than pandas.
        yield datetime.timezone.utc if dates.dtype == pd.DatetimeTZDtype(dates.unit, "UTC") else zone
    freq = getattr(dates, "freq", None)
    if getattr(freq, "holidays", None) is not None or getattr(freq, "normalize", False):
        yield freq


def _pandas_intervals(array: Any) -> Iterator[Any]:
    yield array.closed
    yield array.left
    yield array.right


def _pandas_masked(array: Any) -> Iterator[Any]:
    """Yield the parts of an array of values with a mask, such as Int64, Float32 or boolean."""
    missing = np.ascontiguousarray(array.isna())
    yield str(array.dtype)
    yield missing
    yield np.ascontiguousarray(array.to_numpy(dtype=array.dtype.numpy_dtype, na_value=0))


def _pandas_arrow(array: Any) -> Iterator[Any]:
    yield _pandas_dtype(array)
    yield array.__arrow_array__()


def _pandas_strings(array: Any) -> Iterator[Any]:
    yield _pandas_dtype(array)
    yield np.ascontiguousarray(array.to_numpy(dtype=object, na_value=None))


def _pandas_dtype(array: Any) -> list[Any]:
    dtype = array.dtype
    missing = getattr(dtype, "na_value", None)
    return [str(dtype), getattr(dtype, "storage", None), "nan" if isinstance(missing, float) else str(missing)]


def _pandas_sparse(array: Any) -> Iterator[Any]:
    yield [str(array.dtype), len(array), array.fill_value]
    yield np.ascontiguousarray(array.sp_index.indices)
    yield np.ascontiguousarray(array.sp_values)


def pandas_writers() -> dict[type, tuple[bytes, Writer]]:
    """Return the tags and writers of pandas' types."""
    import pandas as pd

    arrays: Any = pd.arrays
    functions = {
        pd.DataFrame: _pandas_frame,
        pd.Series: _pandas_series,
        pd.Index: _pandas_index,
        pd.RangeIndex: _pandas_range_index,
        pd.MultiIndex: _pandas_multi_index,
        pd.Categorical: _pandas_categorical,
        arrays.DatetimeArray: _pandas_dates,
        arrays.TimedeltaArray: _pandas_dates,
        arrays.PeriodArray: _pandas_dates,
        arrays.IntervalArray: _pandas_intervals,
        arrays.IntegerArray: _pandas_masked,
        arrays.FloatingArray: _pandas_masked,
        arrays.BooleanArray: _pandas_masked,
        arrays.StringArray: _pandas_strings,
        arrays.ArrowExtensionArray: _pandas_arrow,
        arrays.ArrowStringArray: _pandas_arrow,
        arrays.SparseArray: _pandas_sparse,
    }
    return {cls: (b"pandas\n", substitute_writer(function)) for cls, function in functions.items()}


def _polars_frame(frame: Any) -> Iterator[Any]:
    yield len(frame)
    yield from frame.iter_columns()


def _polars_series(series: Any) -> Iterator[Any]:
    import polars as pl
    import pyarrow as pa

    yield [series.name, repr(series.dtype)]
    if not isinstance(series.dtype, pl.Categorical) or not len(series):
        try:
            content = pa.chunked_array(series)
        except pa.ArrowInvalid:  # pyarrow has no integers of 128 bits
            content = series.to_list()
        yield content
        return
    # The numbers of the categories depend on what the program did before: sort those that are used.
    physical = series.to_physical().cast(pl.UInt32)
    end = 0 if physical.null_count() == len(physical) else int(physical.max()) + 1
    numbers = physical.fill_null(end).to_numpy().astype(np.intp)
    places = np.full(end + 1, -1)  # where each number occurs; the last one is that of missing values
    places[numbers] = np.arange(len(numbers))
    used = np.flatnonzero(places[:-1] >= 0)
    texts = series.gather(places[used]).to_list()
    order = sorted(range(len(texts)), key=texts.__getitem__)
    ranks = np.full(end + 1, -1, np.int32)
    ranks[used[order]] = np.arange(len(order))
    yield [texts[number] for number in order]
    yield ranks.take(numbers)  # faster than to index


def polars_writers() -> dict[type, tuple[bytes, Writer]]:
    """Return the tags and writers of polars' types; none if pyarrow, which gives access to their memory, is missing."""
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        return {}
    import polars as pl

    functions = {pl.DataFrame: _polars_frame, pl.Series: _polars_series}
    return {cls: (b"polars\n", substitute_writer(function)) for cls, function in functions.items()}


def _xarray_variable(variable: Any) -> Iterator[Any]:
    import pandas as pd

    yield list(variable.dims)
    yield dict(variable.attrs)
    index = variable.to_index_variable().to_index() if _has_index(variable) else None
    yield index if isinstance(index, pd.MultiIndex) else variable.data


def _has_index(variable: Any) -> bool:
    import xarray as xr

    return isinstance(variable, xr.IndexVariable)


def _xarray_dataset(dataset: Any) -> Iterator[Any]:
    yield dict(dataset.attrs)
    yield set(dataset.coords)
    yield {name: type(index).__qualname__ for name, index in dataset.xindexes.items()}
    yield dict(dataset.sizes)
    for name in sorted(dataset.variables, key=repr):
        yield name
        yield dataset.variables[name]


def _xarray_array(array: Any) -> Iterator[Any]:
    yield array.name
    yield array.variable
    yield array.coords.to_dataset()


def xarray_writers() -> dict[type, tuple[bytes, Writer]]:
    """Return the tags and writers of xarray's types."""
    import xarray as xr

    functions = {xr.Variable: _xarray_variable, xr.Dataset: _xarray_dataset, xr.DataArray: _xarray_array}
    return {cls: (b"xarray\n", substitute_writer(function)) for cls, function in functions.items()}
