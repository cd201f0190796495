"""Rows that dump an object to a file, or load it."""

from __future__ import annotations

import os
import pickle
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks._registry import Measure, Row, Target, faster, timed
from benchmarks.contenders import WORKERS
from benchmarks.floors import written

if TYPE_CHECKING:
    from collections.abc import Iterator

REPEAT = 5
#: See :func:`floor_of_dump`. The time of `isal` is divided by the workers. Python objects have the floor "pickle".
FLOORS = ("bytes", "isal")


def floats() -> Any:
    import random

    numbers = random.Random(0)
    return [numbers.random() for _ in range(1_000_000)]


def tuples() -> Any:
    return {number: (number, str(number)) for number in range(200_000)}


def small_arrays() -> Any:
    import numpy as np

    return [np.arange(10.0) + number for number in range(20_000)]


def forest() -> Any:
    from sklearn.datasets import load_digits
    from sklearn.ensemble import RandomForestClassifier

    data, target = load_digits(return_X_y=True)
    return RandomForestClassifier(100, random_state=0).fit(data, target)


def doubles() -> Any:
    import numpy as np

    return np.random.default_rng(0).random(12_500_000)


def integers() -> Any:
    import numpy as np

    return np.random.default_rng(0).integers(0, 100, 12_500_000)


@contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def dump(contender: str, value: Any, path: Path, compress: Any) -> None:
    if contender == "pickle":
        with open(path, "wb") as file:
            pickle.dump(value, file, 5)
    elif contender == "numpy":
        import_module("numpy").save(path, value)
    elif contender == "skops":
        import_module("skops.io").dump(value, path)
    elif contender == "zstd":
        import_module("shoal").dump(value, path, compress="zstd")
    else:
        import_module(contender).dump(value, str(path), compress=compress)


def load(contender: str, path: Path) -> Any:
    if contender == "pickle":
        with open(path, "rb") as file:
            return pickle.load(file)
    if contender == "numpy":
        return import_module("numpy").load(path)
    if contender == "skops":
        skops = import_module("skops.io")
        return skops.load(path, trusted=skops.get_untrusted_types(file=path))
    return import_module("shoal" if contender == "zstd" else contender).load(str(path))


def path_in(directory: Path, contender: str) -> Path:
    return directory / ("object.npy" if contender == "numpy" else "object.pkl")


def deflated(data: bytes) -> bytes:
    """Compress bytes on one thread, by the fastest library for zlib's format."""
    compressed: bytes = import_module("isal.isal_zlib").compress(data, 1)
    return compressed


def floor_of_dump(contender: str, value: Any, path: Path) -> float:
    """Time the least that a dump must do: `bytes` writes a pickle that was made before; `isal` compresses it."""
    data = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    if contender == "bytes":
        return timed(lambda: written(path, data), REPEAT)
    return timed(lambda: deflated(data), REPEAT) / WORKERS


def floor_of_load(contender: str, value: Any, path: Path) -> float:
    """Time the least that a load must do: `bytes` reads a file into new memory; `isal` decompresses bytes."""
    data = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    if contender == "bytes":
        path.write_bytes(data)
        return timed(path.read_bytes, REPEAT)
    compressed = deflated(data)
    return timed(lambda: import_module("isal.isal_zlib").decompress(compressed), REPEAT) / WORKERS


def to_file(make: Callable[[], Any], compress: Any) -> Measure:
    """Return a function that times the writing of a new file: the median of a few, after one to warm up."""

    def measure(contender: str) -> float:
        value, times = make(), []
        with folder() as directory:
            if contender in FLOORS:
                return floor_of_dump(contender, value, directory / "file")
            path = path_in(directory, contender)
            for _ in range(REPEAT + 1):
                path.unlink(missing_ok=True)
                start = time.perf_counter()
                dump(contender, value, path, compress)
                times.append(time.perf_counter() - start)
        return median(times[1:])

    return measure


def from_file(make: Callable[[], Any], compress: Any, writer: str | None = None) -> Measure:
    def measure(contender: str) -> float:
        times = []
        with folder() as directory:
            if contender in FLOORS:
                return floor_of_load(contender, make(), directory / "file")
            path = path_in(directory, contender)
            dump(writer or contender, make(), path, compress)
            for _ in range(REPEAT + 1):
                start = time.perf_counter()
                value = load(contender, path)
                times.append(time.perf_counter() - start)
                del value
        return median(times[1:])

    return measure


def size_of(make: Callable[[], Any], compress: Any) -> Measure:
    def measure(contender: str) -> float:
        with folder() as directory:
            path = path_in(directory, contender)
            name, _, level = contender.partition("-")
            dump(name, make(), path, int(level) if level else compress)
            return os.path.getsize(path) / 1e6

    return measure


def dump_and_load(
    name: str,
    title: str,
    make: Callable[[], Any],
    dumped: float,
    loaded: float,
    floor: str,
    others: tuple[str, ...] = (),
    compress: Any = 0,
) -> list[Row]:
    contenders, floors = ("shoal", "joblib", *others), (floor,)
    return [
        Row(f"dump_{name}", f"dump {title}", to_file(make, compress), contenders, floors, (faster(dumped),), rounds=3),
        Row(
            f"load_{name}", f"load {title}", from_file(make, compress), contenders, floors, (faster(loaded),), rounds=3
        ),
    ]


def from_joblib(name: str, title: str, make: Callable[[], Any], loaded: float) -> Row:
    def measure(contender: str) -> float:
        return from_file(make, 0, writer="pickle" if contender == "pickle" else "joblib")(contender)

    targets = (faster(loaded),)
    return Row(f"theirs_{name}", f"load joblib's file of {title}", measure, ("shoal", "joblib"), ("pickle",), targets)


_SIZES = Target(numerator="shoal", denominator="joblib", maximum=1.05)

FILES = [
    *dump_and_load("floats", "a list of 1,000,000 floats", floats, 25, 5, "pickle"),
    *dump_and_load("tuples", "a dict of 200,000 tuples", tuples, 11, 6, "pickle"),
    *dump_and_load("small", "20,000 small arrays", small_arrays, 5, 5, "pickle"),
    *dump_and_load("forest", "a forest of 100 trees", forest, 3, 3, "pickle", ("skops",)),
    *dump_and_load("doubles", "100 MB of random doubles", doubles, 1, 1, "bytes", ("pickle", "numpy")),
    *dump_and_load("ints_z", "100 MB of small ints, compress=3", integers, 10, 1.5, "isal", ("zstd",), 3),
    *dump_and_load("doubles_z", "100 MB of random doubles, compress=3", doubles, 15, 2, "isal", (), 3),
    *dump_and_load("forest_z", "a forest of 100 trees, compress=3", forest, 3, 2, "isal", (), 3),
    Row(
        "size_ints_z",
        "size of 100 MB of small ints, compress=3",
        size_of(integers, 3),
        ("shoal", "joblib", "joblib-9", "zstd"),
        (),
        (_SIZES, Target(numerator="zstd", denominator="joblib-9", maximum=1)),
        unit="MB",
        rounds=1,
    ),
    Row(
        "size_doubles_z", "size of 100 MB of doubles", size_of(doubles, 3), ("shoal", "joblib"), (), (_SIZES,), "MB", 1
    ),
    Row("size_forest_z", "size of a forest", size_of(forest, 3), ("shoal", "joblib"), (), (_SIZES,), "MB", 1),
    from_joblib("tuples", "a dict of 200,000 tuples", tuples, 5),
    from_joblib("small", "20,000 small arrays", small_arrays, 4),
]
