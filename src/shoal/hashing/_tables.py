"""The parts that are hashed in place of tables, columns and arrays of pandas and pyarrow.

Equal objects of these libraries have different pickles, which depend on blocks, chunks, caches and offsets. Memory
beneath a missing value does not count, and neither does the memory layout.

::

    pandas    frame    labels, then one column after the other: its dtype and its values
    pyarrow   array    type, length, then runs of values, the same for every division into chunks
              table    names and columns

Each function yields the parts of one kind of object. The libraries are imported only when an object of theirs is met.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ._reduced import substitute_writer
from ._walk import Writer

# The maximum number of rows of a pyarrow array that are hashed at a time.
ROWS_PER_RUN = 64 * 1024


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
    zone = getattr(dates, "tz", None)
    if zone is not None:
        yield zone
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
    yield array.to_numpy(dtype=array.dtype.numpy_dtype, na_value=0)


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


def _arrow_array(array: Any) -> Iterator[Any]:
    import pyarrow as pa

    yield [str(array.type), len(array)]
    if isinstance(array.type, pa.BaseExtensionType) or array.type.num_fields:
        yield array.type  # str() of a type leaves out parameters, and metadata of fields
    if pa.types.is_dictionary(array.type):
        if isinstance(array, pa.ChunkedArray):
            array = array.unify_dictionaries()
            yield array.chunk(0).dictionary if array.num_chunks else None
        else:
            yield array.dictionary
    for start in range(0, len(array), ROWS_PER_RUN):
        run = array.slice(start, ROWS_PER_RUN)
        if isinstance(run, pa.ChunkedArray):
            run = run.combine_chunks()
            if isinstance(run, pa.ChunkedArray):  # pyarrow < 8, for no chunks
                run = pa.concat_arrays(run.chunks)
        yield from _arrow_run(run)


def _arrow_run(run: Any) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = run.type
    if isinstance(kind, pa.BaseExtensionType):
        yield from _arrow_run(run.storage)
    elif pa.types.is_time64(kind):
        yield from _arrow_run(run.view(pa.int64()))  # datetime.time has no nanoseconds
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind) or _arrow_is_binary(kind):
        yield _arrow_to_numpy(run.is_null())
        filled = pc.fill_null(run, "" if not _arrow_is_binary(kind) else b"")
        yield _arrow_to_numpy(pc.binary_length(filled))
        yield _arrow_text(filled)
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind):
        yield _arrow_to_numpy(run.is_null())
        yield _arrow_to_numpy(pc.fill_null(run, pa.scalar(0, kind)) if run.null_count else run)
    elif pa.types.is_dictionary(kind):
        yield from _arrow_run(run.indices)
    elif "time64[ns]" in str(kind):
        yield _arrow_serialized(run)
    else:
        yield run.to_pylist()


def _arrow_serialized(run: Any) -> Any:
    """Return the bytes of an array as an IPC stream. In it, the memory beneath a missing value counts."""
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    batch = pa.RecordBatch.from_arrays([pa.concat_arrays([run])], names=[""])
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    return memoryview(sink.getvalue())


def _arrow_is_binary(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _arrow_to_numpy(array: Any) -> Any:
    return np.ascontiguousarray(array.to_numpy(zero_copy_only=False))


def _arrow_text(array: Any) -> Any:
    """Return the concatenated bytes of an array of strings or binaries without missing values."""
    import pyarrow as pa

    _, offsets, data = array.buffers()
    if data is None:
        return b""
    large = pa.types.is_large_string(array.type) or pa.types.is_large_binary(array.type)
    bounds = np.frombuffer(offsets, dtype=np.int64 if large else np.int32)[array.offset : array.offset + len(array) + 1]
    return np.frombuffer(data, dtype=np.uint8)[bounds[0] : bounds[-1]]


def _arrow_table(table: Any) -> Iterator[Any]:
    yield dict(table.schema.metadata or {})
    for field, column in zip(table.schema, table.columns, strict=True):
        yield field.name
        if field.metadata or not field.nullable:
            yield [dict(field.metadata or {}), field.nullable]
        yield column


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


def pyarrow_writers() -> dict[type, tuple[bytes, Writer]]:
    """Return the tags and writers of pyarrow's types."""
    import pyarrow as pa

    functions = {
        pa.Array: _arrow_array,
        pa.ChunkedArray: _arrow_array,
        pa.Table: _arrow_table,
        pa.RecordBatch: _arrow_table,
    }
    return {cls: (b"pyarrow\n", substitute_writer(function)) for cls, function in functions.items()}
