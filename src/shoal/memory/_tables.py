"""Tables as Parquet and Arrow files, which come back as the type that they were.

::

    DataFrame ──> pyarrow.Table, with a note of the type in its metadata ──> file     other programs read it as a table
              <── pyarrow.Table, and the type from the note ────────────────┘

What is written is read again and compared with the result before it is saved: neither format holds everything that a
pandas.DataFrame can.
"""

from __future__ import annotations

import base64
import io
import json
import sys
from collections.abc import Callable
from typing import Any, BinaryIO

import pyarrow as pa

from shoal.hashing import hash

#: The key of the note in the metadata of a table.
_NOTE = b"shoal"
_PANDAS, _POLARS, _TABLE, _BATCH = "pandas.DataFrame", "polars.DataFrame", "pyarrow.Table", "pyarrow.RecordBatch"


def write_parquet(value: Any, file: BinaryIO) -> None:
    """Write a table as Parquet. Raise TypeError if it is no table, or if it would come back as another one."""
    import pyarrow.parquet as parquet

    parquet.write_table(_table_of(value), file, write_page_checksum=True)
    _compare(value, file, read_parquet)


def read_parquet(file: BinaryIO) -> Any:
    """Return the table in a Parquet file."""
    import pyarrow.parquet as parquet

    source = parquet.ParquetFile(pa.BufferReader(file.read()), page_checksum_verification=True)
    table = source.read()
    # Parquet lacks some types of Arrow, such as times in seconds. The original schema is in the file, too.
    stored = (source.metadata.metadata or {}).get(b"ARROW:schema")
    if stored is not None:
        schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(stored)))
        if table.schema.types != schema.types:
            table = table.cast(schema)
    return _value_of(table)


def write_arrow(value: Any, file: BinaryIO) -> None:
    """Write a table as an Arrow file, also known as Feather. Raise TypeError as :func:`write_parquet` does."""
    table = _table_of(value)
    with pa.ipc.new_file(file, table.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
        writer.write_table(table)
    _compare(value, file, read_arrow)


def read_arrow(file: BinaryIO) -> Any:
    """Return the table in an Arrow file."""
    return _value_of(pa.ipc.open_file(pa.BufferReader(file.read())).read_all())


def _table_of(value: Any) -> Any:
    """Return a result as a table of pyarrow, with a note of its type."""
    kind = type(value)
    # What is not imported cannot have made the result.
    pandas, polars = sys.modules.get("pandas"), sys.modules.get("polars")
    note: dict[str, Any] = {}
    if pandas is not None and kind is getattr(pandas, "DataFrame", None):
        table, note = pa.Table.from_pandas(value), _of_axes(value, pandas)
        note["type"] = _PANDAS
    elif polars is not None and kind is getattr(polars, "DataFrame", None):
        table, note["type"] = value.to_arrow(), _POLARS
    elif kind is pa.Table:
        table, note["type"] = value, _TABLE
    elif kind is pa.RecordBatch:
        table, note["type"] = pa.Table.from_batches([value]), _BATCH
    else:
        raise TypeError(
            f"it is of type {kind.__module__}.{kind.__qualname__}, and not a table: return a {_PANDAS}, a {_POLARS}, a "
            f"{_TABLE} or a {_BATCH}, or leave format= out"
        )
    return table.replace_schema_metadata({**(table.schema.metadata or {}), _NOTE: json.dumps(note).encode()})


def _of_axes(frame: Any, pandas: Any) -> dict[str, Any]:
    """Return what pandas' own metadata leave out: the frequency of the index, and columns that are a range."""
    note: dict[str, Any] = {}
    freq = getattr(frame.index, "freqstr", None)
    if freq is not None and isinstance(frame.index, (pandas.DatetimeIndex, pandas.TimedeltaIndex)):
        note["freq"] = freq
    if isinstance(frame.columns, pandas.RangeIndex):
        note["columns"] = [frame.columns.start, frame.columns.stop, frame.columns.step]
    return note


def _value_of(table: Any) -> Any:
    """Return a table as the type that its note names; without a note, which other programs do not write, as it is."""
    metadata = dict(table.schema.metadata or {})
    note = json.loads(metadata.pop(_NOTE, b"{}"))
    table = table.replace_schema_metadata(metadata or None)
    kind = note.get("type", _TABLE)
    if kind == _PANDAS:
        return _frame_of(table, note)
    if kind == _POLARS:
        import polars

        return polars.from_arrow(table)
    if kind == _BATCH:
        return pa.RecordBatch.from_arrays([column.combine_chunks() for column in table.columns], schema=table.schema)
    return table


def _frame_of(table: Any, note: dict[str, Any]) -> Any:
    import pandas

    frame = table.to_pandas()
    if "freq" in note:
        frame.index.freq = note["freq"]
    if "columns" in note:
        frame.columns = pandas.RangeIndex(*note["columns"], name=frame.columns.name)
    return frame


def _compare(value: Any, file: BinaryIO, read: Callable[[BinaryIO], Any]) -> None:
    """Raise TypeError if a file does not contain the value that was written to it."""
    end = file.tell()
    file.seek(0)
    found = read(io.BytesIO(file.read()))
    file.seek(end)
    if hash(found) != hash(value):
        reason = _difference(value, found)
        raise TypeError(f"it would come back as another one: {reason}. Change it, or leave format= out")


def _difference(value: Any, found: Any) -> str:
    """Describe in what two tables differ."""
    is_pandas = type(value).__module__.startswith("pandas")
    if is_pandas:
        for axis, what in (("index", "its index"), ("columns", "the labels of its columns")):
            if hash(getattr(value, axis)) != hash(getattr(found, axis)):
                return f"{what} would differ"
    for name in value.columns if is_pandas or type(value).__module__.startswith("polars") else value.column_names:
        before, after = value[name], found[name]
        if is_pandas:  # without the attributes of the frame
            before, after = (type(each)(each.array, dtype=each.dtype) for each in (before, after))
        if hash(before) != hash(after):
            types = [getattr(column, "dtype", getattr(column, "type", None)) for column in (before, after)]
            kind = f" as {types[1]}" if types[0] != types[1] else " with other values"
            return f"its column {name!r} ({types[0]}) would be read{kind}"
    return "its attributes or metadata would differ"
