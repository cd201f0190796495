"""What stands for arrays and tables of pyarrow, whose pickles differ between equal ones: by chunks and offsets.

An array is its type, its length and runs of its values, the same whatever chunks it is in. What lies beneath a missing
value does not count.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ._walk import Writer
from ._writers import standing_in

ROWS = 64 * 1024


def _array(array: Any) -> Iterator[Any]:
    yield [str(array.type), len(array)]
    if isinstance(array.type, pa.BaseExtensionType) or array.type.num_fields:
        yield array.type  # its text leaves out parameters, and what is said of fields
    if pa.types.is_dictionary(array.type):
        if isinstance(array, pa.ChunkedArray):
            array = array.unify_dictionaries()
            yield array.chunk(0).dictionary if array.num_chunks else None
        else:
            yield array.dictionary
    for start in range(0, len(array), ROWS):
        run = array.slice(start, ROWS)
        if isinstance(run, pa.ChunkedArray):
            run = run.combine_chunks()
            if isinstance(run, pa.ChunkedArray):  # pyarrow < 8 returned chunks where there were none
                run = pa.concat_arrays(run.chunks)
        yield from _run(run)


def _run(run: Any) -> Iterator[Any]:
    kind = run.type
    if isinstance(kind, pa.BaseExtensionType):
        yield from _run(run.storage)
    elif pa.types.is_time64(kind):
        yield from _run(run.view(pa.int64()))  # time of Python's has no nanoseconds
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind) or _is_binary(kind):
        yield _plain(run.is_null())
        filled = pc.fill_null(run, "" if not _is_binary(kind) else b"")
        yield _plain(pc.binary_length(filled))
        yield _text_of(filled)
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind):
        yield _plain(run.is_null())
        yield _plain(pc.fill_null(run, pa.scalar(0, kind)) if run.null_count else run)
    elif pa.types.is_dictionary(kind):
        yield from _run(run.indices)
    elif "time64[ns]" in str(kind):
        yield _serialized(run)
    else:
        yield run.to_pylist()


def _serialized(run: Any) -> Any:
    """Return the bytes of an array, in which what lies beneath a missing value counts."""
    sink = pa.BufferOutputStream()
    batch = pa.RecordBatch.from_arrays([pa.concat_arrays([run])], names=[""])
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    return memoryview(sink.getvalue())


def _is_binary(kind: Any) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _plain(array: Any) -> Any:
    return np.ascontiguousarray(array.to_numpy(zero_copy_only=False))


def _text_of(array: Any) -> Any:
    """Return all bytes of an array of strings in which none is missing, one after the other."""
    _, offsets, data = array.buffers()
    if data is None:
        return b""
    large = pa.types.is_large_string(array.type) or pa.types.is_large_binary(array.type)
    places = np.frombuffer(offsets, dtype=np.int64 if large else np.int32)[array.offset : array.offset + len(array) + 1]
    return np.frombuffer(data, dtype=np.uint8)[places[0] : places[-1]]


def _table(table: Any) -> Iterator[Any]:
    yield dict(table.schema.metadata or {})
    for field, column in zip(table.schema, table.columns, strict=True):
        yield field.name
        if field.metadata or not field.nullable:
            yield [dict(field.metadata or {}), field.nullable]
        yield column


def writers() -> dict[type, tuple[bytes, Writer]]:
    """Return the writers of pyarrow's types."""
    functions = {pa.Array: _array, pa.ChunkedArray: _array, pa.Table: _table, pa.RecordBatch: _table}
    return {cls: (b"pyarrow\n", standing_in(function)) for cls, function in functions.items()}
