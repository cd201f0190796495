"""Errors of calls, of the input, of arguments and of workers, and the state after them."""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any

from harness import BACKENDS, PARALLEL, PROCESSES, Parallel, delayed, main, note, noted, numbers, program

RETURNS = ("list", "generator", "generator_unordered")


class Coded(Exception):
    """An error of the script, with an attribute."""


class Built(Exception):
    """An error whose constructor takes other arguments than it passes to its base."""

    def __init__(self, name: str, code: int) -> None:
        super().__init__(f"{name} {code}")
        self.code = code


class Locked(Exception):
    """An error that cannot be pickled."""


def fails(kind: str) -> Any:
    if kind == "plain":
        raise ValueError("message", 3)
    if kind == "attributes":
        error = Coded("message")
        error.code = {"a": 1}  # type: ignore[attr-defined]
        raise error
    if kind == "constructor":
        raise Built("name", 7)
    if kind == "from another":
        try:
            raise KeyError("inner")
        except KeyError as inner:
            raise Coded("outer") from inner
    if kind == "system exit":
        sys.exit(3)
    if kind == "interrupt":
        raise KeyboardInterrupt
    if kind == "stop iteration":
        raise StopIteration(5)
    if kind == "group":
        raise OSError(2, "not there", "file")
    raise Locked(threading.Lock())


def caught(backend: str, kind: str, return_as: str = "list") -> Any:
    """Return the error with its arguments and attributes; whether the traceback shows the call and the context."""
    try:
        return list(Parallel(n_jobs=2, backend=backend, return_as=return_as)(delayed(fails)(kind) for _ in range(2)))
    except BaseException as error:
        if type(error).__module__ not in ("builtins", "__main__"):
            raise
        shown = "".join(traceback.format_exception(error))
        # The repr of a lock contains its address.
        what = type(error).__name__ if kind == "unpicklable" else error
        return what, "in fails" in shown, "KeyError" in shown, error.__cause__ is None


def goes_on(backend: str, kind: str) -> Any:
    """Use the same Parallel again after an error, with and without its context."""
    observed: list[Any] = []
    parallel = Parallel(n_jobs=2, backend=backend)
    for _ in range(2):
        try:
            parallel(delayed(fails)(kind) for _ in range(2))
        except BaseException as error:
            observed.append(type(error).__name__ if kind == "plain" else "failed")
        observed.append(parallel(delayed(abs)(i) for i in range(3)))
    return observed


def goes_on_within(backend: str) -> Any:
    """Use a Parallel again after an error within its context."""
    with Parallel(n_jobs=2, backend=backend) as parallel:
        try:
            parallel(delayed(fails)("plain") for _ in range(2))
        except ValueError:
            return parallel(delayed(abs)(i) for i in range(3))
    return None


for backend in BACKENDS:
    for kind in ("plain", "attributes", "from another", "group", "stop iteration"):
        program(caught, backend, kind)
    program(goes_on, backend, "plain")
    program(goes_on_within, backend)
for backend in ("sequential", "threading", "loky"):
    for kind in ("constructor", "interrupt", "system exit", "unpicklable"):
        program(caught, backend, kind)
    for return_as in RETURNS[1:]:
        program(caught, backend, "plain", return_as)
program(goes_on, "loky", "unpicklable")


def from_iterator(backend: str, fails_at: int, return_as: str = "list") -> Any:
    """Let the input raise; return which calls have run."""
    try:
        options = {"batch_size": 1, "pre_dispatch": 1, "return_as": return_as}
        return list(Parallel(n_jobs=2, backend=backend, **options)(numbers(8, fails_at)))
    except KeyError as error:
        return error.args, noted()


for backend in BACKENDS:
    for fails_at in (0, 4):
        program(from_iterator, backend, fails_at)
program(from_iterator, "threading", 4, "generator")
program(from_iterator, "loky", 4, "generator")


def not_calls(backend: str, items: Any) -> Any:
    return Parallel(n_jobs=2, backend=backend)(items)


def unpicklable_argument(backend: str) -> Any:
    return Parallel(n_jobs=2, backend=backend)(delayed(str)(threading.Lock()) for _ in range(2))


def unpicklable_result(backend: str) -> Any:
    return Parallel(n_jobs=2, backend=backend)(delayed(threading.Lock)() for _ in range(2))


def unpicklable_function(backend: str) -> Any:
    lock = threading.Lock()
    return Parallel(n_jobs=2, backend=backend)(delayed(lock.acquire)() for _ in range(2))


class Once:
    """An object that can be pickled, but not rebuilt."""

    def __reduce__(self) -> Any:
        return int, ("no number",)


def cannot_be_rebuilt(backend: str, as_result: bool) -> Any:
    calls = [delayed(Once)() if as_result else delayed(type)(Once()) for _ in range(2)]
    return Parallel(n_jobs=2, backend=backend)(calls)


def worker_exits(code: int) -> Any:
    return Parallel(n_jobs=2, backend="loky")(delayed(os._exit)(code) for _ in range(2))


def after_worker_exit() -> Any:
    try:
        worker_exits(1)
    except RuntimeError:
        return Parallel(n_jobs=2, backend="loky")(delayed(abs)(i) for i in range(3))
    return None


for backend in BACKENDS:
    program(not_calls, backend, [1, 2])
    program(not_calls, backend, 5)
for backend in PROCESSES:
    program(unpicklable_argument, backend)
    program(unpicklable_result, backend)
program(unpicklable_function, "loky")
# Without multiprocessing: joblib would wait for ever.
program(cannot_be_rebuilt, "loky", False)
program(cannot_be_rebuilt, "loky", True)
program(worker_exits, 1)
program(worker_exits, 0)
program(after_worker_exit)


def late(backend: str, return_as: str = "list", seconds: float = 1.5) -> Any:
    parallel = Parallel(n_jobs=2, backend=backend, timeout=0.2, return_as=return_as)
    return list(parallel(delayed(time.sleep)(seconds) for _ in range(2)))


def in_time(backend: str) -> Any:
    return Parallel(n_jobs=2, backend=backend, timeout=30)(delayed(abs)(i) for i in range(3))


for backend in BACKENDS:
    program(in_time, backend)
for backend in PARALLEL:
    program(late, backend)
program(late, "sequential", seconds=0.25)
for return_as in RETURNS[1:]:
    program(late, "threading", return_as)
    program(late, "loky", return_as)


def endless() -> Iterator[Any]:
    number = 0
    while True:
        yield delayed(note)(number)
        number += 1


def dropped(backend: str, return_as: str, taken: int) -> Any:
    """Drop a generator of results, and use the Parallel again."""
    parallel = Parallel(n_jobs=2, backend=backend, return_as=return_as, pre_dispatch=2, batch_size=1)
    results = parallel(endless())
    got = len([next(results) for _ in range(taken)])
    results.close()
    return got, sorted(parallel(delayed(abs)(i) for i in range(3)))


def all_taken(backend: str) -> Any:
    """Close a generator after its last result; it must not warn."""
    parallel = Parallel(n_jobs=2, backend=backend, return_as="generator")
    results = parallel(delayed(abs)(i) for i in range(3))
    got = [next(results) for _ in range(3)], next(results, "end")
    results.close()
    return got


def entered_twice(backend: str, seconds: float) -> Any:
    """Start a second run while calls of the first still run, or when all have ended but results are left."""
    parallel = Parallel(n_jobs=2, backend=backend, return_as="generator")
    list(parallel([delayed(abs)(1)] * 2))  # starts the workers
    results = parallel(delayed(time.sleep)(seconds) for i in range(6))
    try:
        time.sleep(0.1 if seconds else 1.5)  # too short for any call to end, or long enough for all
        next(results)
        return list(parallel(delayed(abs)(i) for i in range(3)))
    finally:
        list(results)


def starts_at_once(backend: str) -> Any:
    """Tell whether the calls begin before the first result is requested."""
    results = Parallel(n_jobs=2, backend=backend, return_as="generator")(delayed(note)(i) for i in range(2))
    for _ in range(200):
        if len(noted()) == 2:
            break
        time.sleep(0.01)
    return noted(), list(results)


for backend in ("threading", "loky"):
    for return_as in RETURNS[1:]:
        for taken in (0, 3):
            program(dropped, backend, return_as, taken)
    program(entered_twice, backend, 0.2)
    program(entered_twice, backend, 0.0)
    program(starts_at_once, backend)
    program(all_taken, backend)
program(entered_twice, "sequential", 0.0)
program(all_taken, "sequential")

if __name__ == "__main__":
    main()
