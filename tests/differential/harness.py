"""Runs the programs of a script with the library that the environment names, and prints the outcome of each.

A program is a function without arguments. Its outcome, as JSON, is the value that it returned or the error that it
raised, and its warnings. Types are written with all their base classes, which show which handlers would catch them.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import shutil
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

lib = importlib.import_module(os.environ["DIFFERENTIAL_LIBRARY"])
Parallel, delayed = lib.Parallel, lib.delayed

BACKENDS = ("sequential", "threading", "loky", "multiprocessing")
PROCESSES = ("loky", "multiprocessing")
PARALLEL = ("threading", *PROCESSES)

_programs: dict[str, Callable[[], Any]] = {}


def program(function: Callable[..., Any], *args: Any, name: str = "", **kwargs: Any) -> None:
    """Register a call as a program, whose default name consists of the function and the arguments."""
    values = [*map(str, args), *(f"{key}={value!r}" for key, value in kwargs.items())]
    name = name or f"{function.__name__}({', '.join(values)})"
    assert name not in _programs, name
    _programs[name] = lambda: function(*args, **kwargs)


def main() -> None:
    """Run the programs in the order of their registration."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DIFFERENTIAL_FOLDER"] = folder
        for name, run in _programs.items():
            shutil.rmtree(_notes(), ignore_errors=True)  # a call that was given up may write at the same time
            print(json.dumps([name, outcome(run)]), flush=True)


def outcome(run: Callable[[], Any]) -> dict[str, Any]:
    """Run a program and return its outcome."""
    result: dict[str, Any] = {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        # Python 3.12 warns of a fork while threads run. joblib does not suppress it, and different programs get it.
        warnings.filterwarnings("ignore", r"This process \(pid=\d+\) is multi-threaded", DeprecationWarning)
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            result["value"] = describe(run())
        except BaseException as error:
            result["error"] = ancestry(type(error))
    result["warnings"] = sorted({tuple(ancestry(warning.category)) for warning in caught})
    return result


def ancestry(cls: type) -> list[str]:
    """Return the names of a class and its base classes."""
    return [f"{base.__module__}.{base.__qualname__}" for base in cls.__mro__ if base is not object]


def describe(value: Any) -> Any:
    """Describe the type and the value of an object, in a form that JSON can hold."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    cls = f"{type(value).__module__}.{type(value).__qualname__}"
    if type(value) in (list, tuple):
        return [type(value).__name__, *map(describe, value)]
    if type(value) is dict:
        return {str(key): describe(item) for key, item in value.items()}
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.ndarray):
        return [cls, *_array(value)]
    if numpy is not None and isinstance(value, numpy.generic):
        return [cls, repr(value)]
    if hasattr(value, "to_dict"):  # pandas
        return [cls, str(value.to_dict()), str(getattr(value, "dtypes", None))]
    if hasattr(value, "tocoo"):  # scipy
        return [cls, *_array(value.toarray())]
    if isinstance(value, BaseException):
        attributes = {name: item for name, item in vars(value).items() if name not in ("call", "results")}
        return [cls, describe(value.args), describe(attributes)]
    return [cls, describe(vars(value))] if hasattr(value, "__dict__") else [cls]


def _array(array: Any) -> list[Any]:
    layout = [name for name in ("c_contiguous", "f_contiguous") if getattr(array.flags, name)]
    items = repr(array.tolist()) if array.dtype.hasobject else array.tobytes().hex()
    return [str(array.dtype), list(array.shape), layout, hashlib.sha256(items.encode()).hexdigest()[:12]]


def here() -> tuple[int, int]:
    """Return the ids of the current process and thread."""
    return os.getpid(), threading.get_ident()


def relation(there: tuple[int, int]) -> str:
    """Compare a process and thread with the current ones."""
    if there[0] != os.getpid():
        return "another process"
    return "this thread" if there == here() else "another thread"


def note(item: Any) -> Any:
    """Record that a call has run, in any process; `noted` returns the records."""
    # A file for each thread: on some systems, what two processes append at a time overwrites each other.
    with open(_notes() / "-".join(map(str, here())), "a", encoding="utf-8") as file:
        file.write(f"{item}\n")
    return item


def noted() -> list[str]:
    """Return what the calls of this program have recorded, sorted."""
    return sorted(word for path in _notes().iterdir() for word in path.read_text(encoding="utf-8").split())


def _notes() -> Path:
    folder = Path(os.environ["DIFFERENTIAL_FOLDER"], "notes")
    folder.mkdir(exist_ok=True)
    return folder


def numbers(count: int, fails_at: int | None = None) -> Iterator[Any]:
    """Yield delayed calls of `note`; the iterator raises before the call `fails_at`."""
    for number in range(count):
        if number == fails_at:
            raise KeyError(f"before {number}")
        yield delayed(note)(number)
