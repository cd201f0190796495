"""Arrays and objects that contain arrays: as calls receive them, and as the caller gets them back."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse

from harness import PARALLEL, Parallel, delayed, describe, main, program

# LARGE is above MAX_NBYTES; the other arrays are below it.
MAX_NBYTES = 10_000
LARGE = np.arange(4_000.0).reshape(40, 100)
SMALL = np.arange(12.0).reshape(3, 4)


def seen(obj: Any) -> Any:
    """Describe an object as a worker sees it, and return the object too."""
    return [describe(obj), *(trait(part) for part in parts(obj))], obj


def parts(obj: Any) -> list[Any]:
    if isinstance(obj, dict):
        return list(obj.values())
    if isinstance(obj, (list, tuple)):
        return list(obj)
    if hasattr(obj, "array"):
        return [obj.array]
    return [obj.data] if scipy.sparse.issparse(obj) else [obj]


def trait(part: Any) -> Any:
    if not isinstance(part, np.ndarray):
        return None
    return part.flags.writeable, getattr(part, "mode", None), part.flags.aligned


class Model:
    """A class of the script."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Model)

    __hash__ = None  # type: ignore[assignment]


class Tagged(np.ndarray):
    """A subclass without attributes of its own."""


def memmap(mode: str, offset: int = 0) -> Any:
    path = os.path.join(tempfile.mkdtemp(dir=os.environ["DIFFERENTIAL_FOLDER"]), "data")
    filled = np.memmap(path, "f8", "w+", shape=(50, 100))
    filled[:] = np.arange(5_000.0).reshape(50, 100)
    filled.flush()
    return filled if mode == "w+" else np.memmap(path, "f8", mode, offset=offset, shape=(40, 100))


OBJECTS: dict[str, Callable[[], Any]] = {
    "small": lambda: SMALL,
    "large": lambda: LARGE,
    "empty": lambda: np.empty((0, 3)),
    "scalar array": lambda: np.array(3.0),
    "scalar": lambda: np.float32(1.5),
    "small fortran": lambda: np.asfortranarray(SMALL),
    "large fortran": lambda: np.asfortranarray(LARGE),
    "large view": lambda: LARGE[1:, ::2],
    "large reversed": lambda: LARGE[::-1, ::-1],
    "large broadcast": lambda: np.broadcast_to(np.arange(100.0), (40, 100)),
    "large read-only": lambda: _read_only(LARGE.copy()),
    "small read-only": lambda: _read_only(SMALL.copy()),
    "structured": lambda: np.zeros(2_000, [("a", "i4"), ("b", "f8", 2)]),
    "strings": lambda: np.full(2_000, "abc", "U8"),
    "dates": lambda: np.arange("2000-01-01", "2008-01-01", dtype="M8[D]"),
    "big-endian": lambda: LARGE.astype(">f8"),
    "objects": lambda: np.array([{"a": 1}, None, "x"] * 1_000, dtype=object),
    "masked": lambda: np.ma.masked_less(LARGE, 10.0),
    "matrix": lambda: LARGE.view(np.matrix),
    "subclass": lambda: LARGE.view(Tagged),
    "in a list": lambda: [LARGE, SMALL, LARGE],
    "in a dict": lambda: {"large": LARGE, "small": SMALL},
    "in an object": lambda: Model(LARGE),
    "frame": lambda: pd.DataFrame({"a": np.arange(3_000), "b": ["x"] * 3_000, "c": 1.5}),
    "series": lambda: pd.Series(np.arange(3_000.0), name="s"),
    "categories": lambda: pd.Series(["x", "y"] * 10, dtype="category"),
    "csr": lambda: scipy.sparse.random(200, 200, 0.2, "csr", rng=np.random.default_rng(0)),
    "csc array": lambda: scipy.sparse.csc_array(np.eye(50)),
    "memmap r": lambda: memmap("r"),
    "memmap r+": lambda: memmap("r+"),
    "memmap w+": lambda: memmap("w+"),
    "memmap offset": lambda: memmap("r", offset=800),
    "memmap view": lambda: memmap("r+")[3:, ::2],
    "memmap row": lambda: memmap("r")[2],
    "memmap as array": lambda: np.asarray(memmap("r+"))[5:],
}


def _read_only(array: Any) -> Any:
    array.flags.writeable = False
    return array


def there_and_back(backend: str, name: str, **options: Any) -> Any:
    obj = OBJECTS[name]()
    parallel = Parallel(n_jobs=2, backend=backend, **{"max_nbytes": MAX_NBYTES, "mmap_mode": "r", **options})
    (saw, got), (_, again) = parallel(delayed(seen)(obj) for _ in range(2))
    return saw, describe(got), [trait(part) for part in parts(got)], got is again


def right(backend: str, name: str) -> Any:
    """Tell whether a view of a memmap has the same contents in a worker as here."""
    obj = {"transposed": memmap("r").T, "reversed": memmap("r+")[:, ::-1]}[name]
    return all(np.array_equal(copy, obj) for copy in Parallel(n_jobs=2, backend=backend)([delayed(np.array)(obj)] * 2))


def subclass_is_mapped(backend: str) -> Any:
    parallel = Parallel(n_jobs=2, backend=backend, max_nbytes=MAX_NBYTES, mmap_mode="r")
    return [not flags[0] for flags in parallel([delayed(trait)(LARGE.view(Tagged))] * 2)]


for backend in PARALLEL:
    for name in OBJECTS:
        # joblib does not map subclasses, so the libraries would differ with mode "r".
        program(there_and_back, backend, name, **({"mmap_mode": "c"} if name in ("matrix", "subclass") else {}))
    program(subclass_is_mapped, backend)
    program(right, backend, "transposed")
# Without multiprocessing: joblib reads before the mapping, and would wait for ever if that killed a worker.
program(right, "loky", "reversed")
for backend in ("loky", "multiprocessing"):
    for mode in ("r", "r+", "w+", "c"):
        program(there_and_back, backend, "large", mmap_mode=mode)
    for limit in (None, "5K", 31_999, 32_000, 1e4, "1M"):
        program(there_and_back, backend, "large", max_nbytes=limit)


def write(array: Any) -> float:
    array[0] = -1.0
    return float(array[1].sum())


def written(backend: str, mode: str | None) -> Any:
    """Write into the caller's array in calls; return what they and the caller see."""
    array = LARGE.copy()
    sums = Parallel(n_jobs=2, backend=backend, max_nbytes=MAX_NBYTES, mmap_mode=mode)([delayed(write)(array)] * 2)
    return sums, float(array[0, 0])


def written_memmap(backend: str) -> Any:
    """Write into a writable memmap in calls; the caller shares its memory."""
    array = memmap("r+")
    Parallel(n_jobs=2, backend=backend)([delayed(write)(array)] * 2)
    return float(array[0, 0])


def written_private(backend: str) -> Any:
    """Write into a private memmap, here and in calls. Only the changes made here are seen by others."""
    array = memmap("c")
    array[1] = 2.0
    return Parallel(n_jobs=2, backend=backend)([delayed(write)(array)] * 2), float(array[0, 0])


def by_default(backend: str) -> Any:
    """Write into an argument above the default `max_nbytes`, with the default mode."""
    array = np.zeros((2, 200_000))
    return Parallel(n_jobs=2, backend=backend)([delayed(write)(array)] * 2), float(array[0, 0])


def result_can_be_changed(backend: str) -> Any:
    """Write into a result, which behaves like any array."""
    (got,) = Parallel(n_jobs=2, backend=backend)([delayed(np.ones)(50_000)])
    got[0] = 5.0
    return float(got.sum()), type(got).__name__, got.flags.writeable, got.dtype.str


def is_mapped(array: Any) -> Any:
    if array is None:
        raise KeyError("failed")
    return type(array).__name__


def options_after_error() -> Any:
    """Tell whether options still apply after an error within the context."""
    with Parallel(n_jobs=2, backend="loky", max_nbytes=MAX_NBYTES) as parallel:
        try:
            parallel([delayed(is_mapped)(None)])
        except KeyError:
            return parallel([delayed(is_mapped)(LARGE)] * 2)
    return None


def temp_folder(backend: str) -> Any:
    """Tell whether arrays are in the folder that the caller has named."""
    with tempfile.TemporaryDirectory() as folder:
        parallel = Parallel(n_jobs=2, backend=backend, max_nbytes=MAX_NBYTES, temp_folder=folder)
        return parallel(delayed(_lies_in)(LARGE, folder) for _ in range(2))


def _lies_in(array: Any, folder: str) -> bool:
    return str(array.filename).startswith(folder)


# Without multiprocessing: with mmap_mode=None joblib never returns, because its workers die of an AttributeError.
program(there_and_back, "loky", "large", mmap_mode=None)
program(written, "loky", None)
for backend in PARALLEL:
    for mode in ("r", "r+", "c"):
        program(written, backend, mode)
    for function in (written_memmap, written_private, by_default, result_can_be_changed):
        program(function, backend)
program(options_after_error)
program(temp_folder, "loky")
program(temp_folder, "multiprocessing")

if __name__ == "__main__":
    main()
