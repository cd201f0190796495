"""Rows of hash()."""

from __future__ import annotations

import hashlib
import pickle
from importlib import import_module
from typing import Any

from benchmarks._registry import Measured, faster, row, timed
from benchmarks.contenders import LIBRARIES


def hash_of(contender: str, value: Any, repeat: int, **options: Any) -> float:
    """Time the hash of a value. The floor `bytes` is the hash of its pickle, which is made by the C pickler."""
    if contender == "bytes":
        digest = hashlib.md5 if options else import_module("xxhash").xxh3_128
        return timed(lambda: digest(pickle.dumps(value, pickle.HIGHEST_PROTOCOL)).hexdigest(), repeat)
    return timed(lambda: import_module(contender).hash(value, **options), repeat)


def buffers(table: Any) -> list[Any]:
    """Return the buffers of a table of pyarrow."""
    chunks = [chunk for column in table.columns for chunk in column.chunks]
    dictionaries = [chunk.dictionary for chunk in chunks if hasattr(chunk, "dictionary")]
    return [buffer for array in (*chunks, *dictionaries) for buffer in array.buffers() if buffer is not None]


def hash_of_table(contender: str, value: Any, table: Any) -> float:
    """Time the hash of a table. The floor `xxh3` is xxhash alone, on the buffers of the table in Arrow's format."""
    if contender == "xxh3":
        parts = buffers(table)

        def digest() -> str:
            state = import_module("xxhash").xxh3_128()
            for part in parts:
                state.update(part)
            return str(state.hexdigest())

        return timed(digest, 10)
    return timed(lambda: import_module(contender).hash(value), 10)


@row("hash of an array of 100 MB", LIBRARIES, faster(25), floors=("xxh3",))
def hash_100mb(contender: str) -> Measured:
    import numpy as np

    array = np.random.default_rng(0).random(12_500_000)
    if contender == "xxh3":
        digest = import_module("xxhash").xxh3_128_hexdigest
        return timed(lambda: digest(array), 20)
    return timed(lambda: import_module(contender).hash(array), 20)


@row("hash of a dict of 20,000 lists", LIBRARIES, faster(8), floors=("bytes",))
def hash_dict(contender: str) -> Measured:
    return hash_of(contender, {i: [i, str(i), i / 2] for i in range(20_000)}, 7)


@row("hash of a dict of 20,000 lists, md5", LIBRARIES, faster(1), floors=("bytes",))
def hash_dict_md5(contender: str) -> Measured:
    return hash_of(contender, {i: [i, str(i), i / 2] for i in range(20_000)}, 7, hash_name="md5")


def mixed_frame() -> Any:
    """Return a pandas frame of 300,000 rows: numbers, texts of which some are missing, categories, times, booleans."""
    import numpy as np
    import pandas as pd

    rng, rows = np.random.default_rng(0), 300_000
    return pd.DataFrame(
        {
            "number": rng.random(rows),
            "integer": rng.integers(0, 100, rows),
            "text": pd.Series(rng.choice(["alpha", "beta", "a text of twenty bytes", None], rows), dtype="str"),
            "category": pd.Categorical(rng.choice(list("xyz"), rows)),
            "time": pd.date_range("2020", periods=rows, freq="s"),
            "flag": rng.random(rows) > 0.5,
        }
    )


def as_arrow(frame: Any) -> Any:
    return import_module("pyarrow").Table.from_pandas(frame)


@row("hash of a pandas frame of 300,000 rows", LIBRARIES, faster(5), floors=("xxh3",))
def hash_pandas(contender: str) -> Measured:
    frame = mixed_frame()
    return hash_of_table(contender, frame, as_arrow(frame))


@row("hash of a polars frame of 300,000 rows", LIBRARIES, faster(5), floors=("xxh3",))
def hash_polars(contender: str) -> Measured:
    frame = import_module("polars").from_pandas(mixed_frame())
    return hash_of_table(contender, frame, frame.to_arrow())


@row("hash of a pyarrow table of 300,000 rows", LIBRARIES, faster(5), floors=("xxh3",))
def hash_arrow(contender: str) -> Measured:
    table = as_arrow(mixed_frame())
    return hash_of_table(contender, table, table)


@row("hash of two arguments", LIBRARIES, faster(3), floors=("bytes",), unit="us")
def hash_small(contender: str) -> Measured:
    arguments = {"x": 3, "y": "abc"}
    if contender == "bytes":
        xxh3 = import_module("xxhash").xxh3_128_hexdigest
        return timed(lambda: [xxh3(pickle.dumps(arguments)) for _ in range(1000)], 20) * 1e3
    digest = import_module(contender).hash
    return timed(lambda: [digest(arguments) for _ in range(1000)], 20) * 1e3
