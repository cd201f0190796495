"""The parts that are hashed in place of pyarrow's arrays and tables, and of what gives its data to pyarrow.

::

    table    metadata, then one column after the other: its name and its values
    array    type and length, then runs of rows, the same for every division into chunks
    run      where values are missing, then the memory of the others, which is not copied

Memory beneath a missing value does not count, and neither do offsets and spare bytes of buffers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ._reduced import substitute_writer
from ._walk import Writer

#: The number of rows of an array that are hashed at a time.
ROWS_PER_RUN = 64 * 1024
#: The number of bytes of a string or binary that is in its view: https://arrow.apache.org/docs/format/Columnar.html
_MOST_IN_VIEW = 12


def _array(array: Any) -> Iterator[Any]:
    import pyarrow as pa

    kind = array.type
    yield [str(kind), len(array)]
    if isinstance(kind, pa.BaseExtensionType) or kind.num_fields:
        yield kind  # str() of a type leaves out parameters, and metadata of fields
    if pa.types.is_dictionary(kind):
        if isinstance(array, pa.ChunkedArray):
            array = array.unify_dictionaries()
            yield array.chunk(0).dictionary if array.num_chunks else None
        else:
            yield array.dictionary
    for start in range(0, len(array), ROWS_PER_RUN):
        run = array.slice(start, ROWS_PER_RUN)
        if isinstance(run, pa.ChunkedArray):
            run = run.chunk(0) if run.num_chunks == 1 else pa.concat_arrays(run.chunks)
        yield from _run(run.indices if pa.types.is_dictionary(kind) else run)


def _run(run: Any) -> Iterator[Any]:
    """Yield the values of an array. Arrays of other types never yield the same: the type is hashed before."""
    import pyarrow as pa
    from pyarrow import types

    kind = run.type
    if isinstance(kind, pa.BaseExtensionType):
        yield from _run(run.storage)
        return
    if types.is_dictionary(kind):  # inside another array: its dictionary was not hashed, and may differ between chunks
        yield from _run(_without_views(run.dictionary).take(run.indices))
        return
    missing = run.is_null().to_numpy(zero_copy_only=False) if run.null_count else None
    yield missing
    if types.is_boolean(kind):
        yield (run.fill_null(False) if missing is not None else run).to_numpy(zero_copy_only=False)
    elif types.is_primitive(kind) or types.is_decimal(kind) or types.is_fixed_size_binary(kind):
        yield _fixed_width(run, kind.bit_width // 8, missing)
    elif str(kind) in ("string_view", "binary_view"):
        yield from _views(run, missing)
    elif types.is_string(kind) or types.is_binary(kind):
        yield from _texts(run, np.int32, missing)
    elif types.is_large_string(kind) or types.is_large_binary(kind):
        yield from _texts(run, np.int64, missing)
    elif types.is_struct(kind):
        for child in run.flatten():  # with what is missing in the struct
            yield from _run(child)
    elif types.is_list(kind) or types.is_large_list(kind):
        yield run.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
        yield len(values := run.flatten())  # without those of missing lists
        yield from _run(values)
    elif types.is_fixed_size_list(kind):
        yield from _run(run.flatten())
    elif not types.is_null(kind):
        if types.is_union(kind) and len(run):  # two fields may have the same value; type_codes ignores the offset
            yield np.frombuffer(run.buffers()[1], np.int8, len(run), run.offset)
        yield _serialized(run) if "[ns]" in str(kind) else run.to_pylist()  # Python's times have no nanoseconds


def _fixed_width(run: Any, width: int, missing: Any) -> Any:
    """Return the bytes of an array whose values have `width` bytes each, with zeros where values are missing."""
    data = run.buffers()[1]
    if data is None or not len(run) or not width:
        return b""
    first = run.offset * width
    found = np.frombuffer(data, np.uint8, len(run) * width, first)
    if missing is None:
        return found
    unit = next(unit for unit in (8, 4, 2, 1) if width % unit == 0)  # to multiply is faster than to index by a mask
    words = found.view(f"u{unit}").reshape(-1, width // unit)
    return (words * ~missing[:, None]).view(np.uint8)


def _texts(run: Any, integer: Any, missing: Any) -> Iterator[Any]:
    """Yield the lengths of strings or binaries, and their bytes one after the other."""
    _, offsets, data = run.buffers()
    if not len(run):
        return
    bounds = np.frombuffer(offsets, integer, len(run) + 1, run.offset * np.dtype(integer).itemsize)
    lengths = np.diff(bounds)
    if missing is not None and ((lengths != 0) & missing).any():  # there are bytes beneath missing values
        import pyarrow.compute as pc

        yield from _texts(pc.fill_null(run, b"" if "binary" in str(run.type) else ""), integer, None)
        return
    yield lengths
    yield b"" if data is None else np.frombuffer(data, np.uint8)[bounds[0] : bounds[-1]]


def _views(run: Any, missing: Any) -> Iterator[Any]:
    """Yield the views of strings or binaries, if their values are short; otherwise, lengths and bytes.

    A view has 16 bytes: the length, then the whole of a short value and zeros; or the first 4 bytes of a long one, and
    where the rest of it is.
    """
    if not len(run):
        return
    lengths = np.frombuffer(run.buffers()[1], np.int32, len(run) * 4, run.offset * 16)[::4]
    present = lengths if missing is None else lengths * ~missing  # faster than max(where=)
    if present.max() <= _MOST_IN_VIEW:
        yield _fixed_width(run, 16, missing)
    else:
        yield from _texts(_without_views(run), np.int64, missing)


def _without_views(array: Any) -> Any:
    """Return an array; if it has views, a copy with offsets, from which pyarrow can take values."""
    import pyarrow as pa

    target = {"string_view": pa.large_string(), "binary_view": pa.large_binary()}.get(str(array.type))
    return array if target is None else array.cast(target)


def _serialized(run: Any) -> Any:
    """Return the bytes of an array as an IPC stream. In it, the memory beneath a missing value counts."""
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    batch = pa.RecordBatch.from_arrays([pa.concat_arrays([run])], names=[""])
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    return memoryview(sink.getvalue())


def _table(table: Any) -> Iterator[Any]:
    yield dict(table.schema.metadata or {})
    for field, column in zip(table.schema, table.columns, strict=True):
        yield field.name
        if field.metadata or not field.nullable:
            yield [dict(field.metadata or {}), field.nullable]
        yield column


def pyarrow_writers() -> dict[type, tuple[bytes, Writer]]:
    """Return the tags and writers of pyarrow's types."""
    import pyarrow as pa

    functions = {pa.Array: _array, pa.ChunkedArray: _array, pa.Table: _table, pa.RecordBatch: _table}
    return {cls: (b"pyarrow\n", substitute_writer(function)) for cls, function in functions.items()}


def stream_function(kind: type) -> Callable[[Any], Any] | None:
    """Return a function that gives the pyarrow table of an object of a type; None if that is not possible.

    It takes the data from ``__arrow_c_stream__``, which many kinds of tables have. Objects that give their data only
    once, as readers of files do, are left alone.
    """
    if not hasattr(kind, "__arrow_c_stream__") or any(hasattr(kind, name) for name in ("__next__", "read_next_batch")):
        return None
    try:
        import pyarrow as pa
    except ImportError:
        return None
    return lambda obj: pa.table(obj)
