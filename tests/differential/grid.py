"""Plain calls on every backend with every setting: their results, and which of them ran."""

from __future__ import annotations

import functools
import os
import time
from typing import Any

from harness import BACKENDS, PARALLEL, PROCESSES, Parallel, delayed, here, lib, main, note, noted, program, relation

RETURNS = ("list", "generator", "generator_unordered")


def settings(backend: str, return_as: str, **options: Any) -> Any:
    results = Parallel(n_jobs=2, backend=backend, return_as=return_as, **options)(delayed(note)(i) for i in range(7))
    ordered = sorted(results) if return_as == "generator_unordered" else list(results)
    return type(results).__name__, ordered, noted()


for backend in BACKENDS:
    for return_as in RETURNS:
        if (backend, return_as) in {("multiprocessing", RETURNS[1]), ("multiprocessing", RETURNS[2])}:
            program(settings, backend, return_as)
            continue
        for batch_size in (1, 3, "auto"):
            for pre_dispatch in (1, "all", "2*n_jobs", "1.5*n_jobs"):
                program(settings, backend, return_as, batch_size=batch_size, pre_dispatch=pre_dispatch)


class Point:
    """A class of the script."""

    def __init__(self, x: int, y: int = 0) -> None:
        self.x, self.y = x, y

    def moved(self, by: int) -> Point:
        return Point(self.x + by, self.y)

    @classmethod
    def origin(cls) -> Point:
        return cls(0)

    @staticmethod
    def norm(x: int) -> int:
        return abs(x)

    def __call__(self, by: int) -> int:
        return self.x + by

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Point) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]


def same(*args: Any, **kwargs: Any) -> Any:
    return args, kwargs


def closures(backend: str) -> Any:
    base = 10

    def closure(x: int) -> int:
        return x + base

    def recursive(x: int) -> int:
        return x and x + recursive(x - 1)

    calls = [delayed(closure)(1), delayed(recursive)(4), delayed(lambda x: x * 2)(2)]
    return Parallel(n_jobs=2, backend=backend)(calls)


def functions(backend: str) -> Any:
    calls = [
        delayed(functools.partial(same, 1, key="v"))(3),
        delayed(Point(3).moved)(4),
        delayed(Point(3))(5),
        delayed(Point)(1, y=2),
        delayed(Point.origin)(),
        delayed(Point.norm)(-3),
        delayed(len)([1, 2, 3]),
        delayed("a-b".split)("-"),
        delayed(dict)(a=1, b=(2, 3)),
        delayed(sorted)([3, 1, 2], reverse=True, key=abs),
    ]
    return Parallel(n_jobs=2, backend=backend)(calls)


def values(backend: str) -> Any:
    sent = [1, -(2**70), 1.5, float("inf"), True, None, "ü\n", (), [], {}, ("a", [1]), {"k": (1,)}, Point(1)]
    got = Parallel(n_jobs=2, backend=backend)(delayed(same)(value, keyword=value) for value in sent)
    return got, [args[0] == value for value, (args, _) in zip(sent, got, strict=True)]


def returned_exceptions(backend: str) -> Any:
    """Return exceptions as values instead of raising them."""
    return Parallel(n_jobs=2, backend=backend)(delayed(same)(error) for error in [ValueError("v"), StopIteration(1)])


def shared_identity(backend: str) -> Any:
    """Tell whether calls get the caller's object, as on threads, or a copy, as in processes."""
    sent = Point(1)
    got = Parallel(n_jobs=2, backend=backend)(delayed(same)(sent) for _ in range(2))
    return [args[0] is sent for args, _ in got]


def mutation(backend: str) -> Any:
    """Change arguments in calls; the caller sees the changes if memory is shared."""
    lists: list[list[int]] = [[], []]
    Parallel(n_jobs=2, backend=backend)(delayed(list.append)(target, 1) for target in lists)
    return lists


def calls_as(backend: str, shape: str) -> Any:
    calls = [delayed(same)(i) for i in range(3)]
    inputs: dict[str, Any] = {
        "list": calls,
        "tuple": tuple(calls),
        "iterator": iter(calls),
        "generator": (call for call in calls),
        "map": map(delayed(same), range(3)),
        "dict": {0: calls[0]}.values(),
        "lists": [list(call) for call in calls],
        "empty list": [],
        "empty generator": (call for call in calls[:0]),
    }
    return Parallel(n_jobs=2, backend=backend)(inputs[shape])


def reuse(backend: str) -> Any:
    """Call one Parallel several times, without and with its context."""
    parallel = Parallel(n_jobs=2, backend=backend)
    first = [parallel(delayed(same)(i) for i in range(3)) for _ in range(2)]
    with parallel as entered:
        return first, entered is parallel, [parallel(delayed(note)(i) for i in range(3)) for _ in range(3)], noted()


def kept_workers(backend: str) -> Any:
    """Tell whether the same workers run all calls within the context."""
    n_workers = 1 if backend == "sequential" else 2
    with Parallel(n_jobs=n_workers, backend=backend, batch_size=1) as parallel:
        for _ in range(500):  # until all workers have started
            before = {pid for pid, _ in parallel(delayed(slow_place)() for _ in range(4))}
            if len(before) == n_workers:
                break
        after = {pid for pid, _ in parallel(delayed(slow_place)() for _ in range(4))}
    return before == after, len(before)


def slow_place() -> tuple[int, int]:
    time.sleep(0.02)
    return here()


def where(backend: str) -> Any:
    return sorted({relation(place) for place in Parallel(n_jobs=2, backend=backend)(delayed(here)() for _ in range(2))})


def delayed_object() -> Any:
    call = delayed(settings)
    return call.__name__, call.__doc__, call.__wrapped__ is settings, call("x", key=1) == (settings, ("x",), {"key": 1})


def wrapped_object(keep_wrapper: bool) -> Any:
    wrapped = lib.wrap_non_picklable_objects(lambda x: x + 1, keep_wrapper=keep_wrapper)
    made = lib.wrap_non_picklable_objects(Point)(2, y=3)
    got = Parallel(n_jobs=2, backend="loky")([delayed(wrapped)(2), delayed(getattr)(made, "y")])
    return wrapped(1), made.x, made.y, got


def wrapped_class() -> Any:
    """Call an instance of a wrapped class that has ``__call__``."""
    return lib.wrap_non_picklable_objects(Point)(2)(5)


for backend in BACKENDS:
    for function in (
        functions,
        closures,
        values,
        returned_exceptions,
        shared_identity,
        mutation,
        reuse,
        kept_workers,
        where,
    ):
        program(function, backend)
for backend in ("sequential", *PARALLEL):
    for shape in ("list", "tuple", "iterator", "generator", "map", "dict", "lists", "empty list", "empty generator"):
        program(calls_as, backend, shape)
program(delayed_object)
program(wrapped_object, True)
program(wrapped_object, False)
program(wrapped_class)


def initializer(level: str) -> None:
    os.environ["DIFFERENTIAL_INITIALIZED"] = level


def initialized() -> Any:
    return os.environ.get("DIFFERENTIAL_INITIALIZED")


def with_initializer(backend: str, by_config: bool = False) -> Any:
    options = {"initializer": initializer, "initargs": (f"{backend}-{by_config}",)}
    if by_config:
        with lib.parallel_config(backend, n_jobs=2, **options):
            return Parallel()(delayed(initialized)() for _ in range(3))
    return Parallel(n_jobs=2, backend=backend, **options)(delayed(initialized)() for _ in range(3))


def failing_initializer(backend: str) -> Any:
    return Parallel(n_jobs=2, backend=backend, initializer=divmod, initargs=(1, 0))(delayed(same)(i) for i in range(2))


def maxtasksperchild() -> Any:
    options = {"n_jobs": 2, "backend": "multiprocessing", "batch_size": 1}
    places = Parallel(**options, maxtasksperchild=1)(delayed(here)() for _ in range(4))
    return len({pid for pid, _ in places})


for backend in PROCESSES:
    program(with_initializer, backend)
    program(with_initializer, backend, by_config=True)
program(failing_initializer, "loky")
program(maxtasksperchild)

if __name__ == "__main__":
    main()
