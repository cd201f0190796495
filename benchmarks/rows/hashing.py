"""Rows of hash()."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from benchmarks._registry import Measured, faster, row, timed
from benchmarks.contenders import LIBRARIES


@row("hash of an array of 100 MB", LIBRARIES, faster(25), floors=("xxh3",))
def hash_100mb(contender: str) -> Measured:
    import numpy as np

    array = np.random.default_rng(0).random(12_500_000)
    if contender == "xxh3":
        digest = import_module("xxhash").xxh3_128_hexdigest
        return timed(lambda: digest(array), 20)
    return timed(lambda: import_module(contender).hash(array), 20)


@row("hash of a dict of 20,000 lists", LIBRARIES, faster(8))
def hash_dict(contender: str) -> Measured:
    table = {i: [i, str(i), i / 2] for i in range(20_000)}
    return timed(lambda: import_module(contender).hash(table), 7)


@row("hash of a dict of 20,000 lists, md5", LIBRARIES, faster(1))
def hash_dict_md5(contender: str) -> Measured:
    table = {i: [i, str(i), i / 2] for i in range(20_000)}
    return timed(lambda: import_module(contender).hash(table, hash_name="md5"), 7)


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


@row("hash of a pandas frame of 300,000 rows", LIBRARIES, faster(5))
def hash_pandas(contender: str) -> Measured:
    frame = mixed_frame()
    return timed(lambda: import_module(contender).hash(frame), 10)


@row("hash of a polars frame of 300,000 rows", LIBRARIES, faster(5))
def hash_polars(contender: str) -> Measured:
    frame = import_module("polars").from_pandas(mixed_frame())
    return timed(lambda: import_module(contender).hash(frame), 10)


@row("hash of a pyarrow table of 300,000 rows", LIBRARIES, faster(5))
def hash_arrow(contender: str) -> Measured:
    table = import_module("pyarrow").Table.from_pandas(mixed_frame())
    return timed(lambda: import_module(contender).hash(table), 10)


@row("hash of two arguments", LIBRARIES, faster(3), unit="us")
def hash_small(contender: str) -> Measured:
    digest, arguments = import_module(contender).hash, {"x": 3, "y": "abc"}
    return timed(lambda: [digest(arguments) for _ in range(1000)], 20) * 1e3
