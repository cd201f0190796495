"""The deliberate differences from joblib 1.6, by program: what joblib must give, and what shoal.

Each belongs to a row of docs/differences.md, which is named by words of its first cell.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

from shoal import cpu_count

Outcome = dict[str, Any]


class Difference(NamedTuple):
    """What differs in one program."""

    row: str
    joblib: Outcome | None  # None: it depends on timing or other luck, or `shoal` is a function of it
    shoal: Outcome | Callable[[Outcome], Outcome]  # a function makes it of joblib's


def value(it: Any, *warnings: str) -> Outcome:
    return {"value": it, "warnings": list(warnings)}


def error(name: str) -> Outcome:
    return {"error": name if "." in name else f"builtins.{name}", "warnings": []}


def items(*values: Any) -> list[Any]:
    return ["list", *values]


def ends_with(*changed: Any) -> Callable[[Outcome], Outcome]:
    """Return what gives joblib's outcome with other last items."""
    return lambda outcome: {**outcome, "value": [*outcome["value"][: -len(changed)], *changed]}


PARALLEL = ("threading", "loky", "multiprocessing")
PROCESSES = ("loky", "multiprocessing")
RETURNS = ("generator", "generator_unordered")
BROKEN = error("concurrent.futures.process.BrokenProcessPool")
UNPICKLING, PICKLING = error("_pickle.UnpicklingError"), error("_pickle.PicklingError")
WARNED = "builtins.UserWarning"
RAN = value(["tuple", "ThreadingBackend", 2, 0, None, items(0, 1, 2)])
RAN_NOTHING = value(["tuple", "ThreadingBackend", 2, 0, None, items()])

GRID = {
    "closures(multiprocessing)": Difference("cannot send lambdas", error("AttributeError"), value(items(11, 10, 4))),
    "wrapped_class()": Difference("loses `__call__`", error("TypeError"), value(7)),
    "failing_initializer(loky)": Difference("an initializer that raises", BROKEN, error("ZeroDivisionError")),
}


def _view(cls: str, mode: str | None) -> Outcome:
    array, flags = items(cls, "float64", items(37, 50), items(), "e15592a36a5e"), ["tuple", True, mode, True]
    return value(["tuple", items(array, flags), array, items(flags), False])


_LARGE = ["list", "numpy.ndarray", "float64", items(40, 100), items("c_contiguous"), "22966fb5d439"]
_PLAIN = ["tuple", True, None, True]
PAYLOADS = {
    "there_and_back(loky, large, mmap_mode=None)": Difference(
        "`mmap_mode=None`, breaks",
        BROKEN,
        value(["tuple", items(_LARGE, _PLAIN), _LARGE, items(_PLAIN), False]),
    ),
    "written(loky, None)": Difference(
        "`mmap_mode=None`, breaks", BROKEN, value(["tuple", items(14950.0, 14950.0), 0.0])
    ),
    "right(loky, reversed)": Difference("with other numbers", None, value(True)),
    "options_after_error()": Difference(
        "loses options of the pool", value(items("ndarray", "ndarray")), value(items("memmap", "memmap"))
    ),
}
for backend in PROCESSES:
    PAYLOADS |= {
        f"by_default({backend})": Difference(
            'read-only (`mmap_mode="r"`)', error("ValueError"), value(["tuple", items(0.0, 0.0), 0.0])
        ),
        f"written_private({backend})": Difference(
            "maps the file anew", value(["tuple", items(14950.0, 14950.0), 0.0]), ends_with(items(200.0, 200.0), 0.0)
        ),
        f"there_and_back({backend}, memmap view)": Difference(
            "as a plain array", _view("numpy.ndarray", None), _view("numpy.memmap", "r+")
        ),
        f"subclass_is_mapped({backend})": Difference(
            "sends a copy of each subclass", value(items(False, False)), value(items(True, True))
        ),
        f"right({backend}, transposed)": Difference("with other numbers", value(False), value(True)),
    }

FAILURES = {
    **{
        f"caught({backend}, stop iteration)": Difference(
            "`StopIteration`",
            None,
            value(["tuple", ["builtins.StopIteration", ["tuple", 5], {}], True, False, backend not in PROCESSES]),
        )
        for backend in ("sequential", *PARALLEL)
    },
    "caught(loky, constructor)": Difference(
        "cannot rebuild",
        BROKEN,
        value(["tuple", ["__main__.Built", ["tuple", "name 7"], {"code": 7}], True, False, False]),
    ),
    "caught(loky, unpicklable)": Difference("cannot rebuild", BROKEN, value(["tuple", "Locked", True, False, False])),
    "cannot_be_rebuilt(loky, False)": Difference("cannot rebuild", None, UNPICKLING),
    "cannot_be_rebuilt(loky, True)": Difference("cannot rebuild", None, UNPICKLING),
    "unpicklable_result(multiprocessing)": Difference(
        "`MaybeEncodingError`", error("multiprocessing.pool.MaybeEncodingError"), PICKLING
    ),
    "goes_on(loky, unpicklable)": Difference(
        "results of the failed one", None, value(items("failed", items(0, 1, 2), "failed", items(0, 1, 2)))
    ),
}
for backend in PARALLEL:
    FAILURES |= {
        f"goes_on({backend}, plain)": Difference(
            "results of the failed one", None, value(items("ValueError", items(0, 1, 2), "ValueError", items(0, 1, 2)))
        ),
        f"goes_on_within({backend})": Difference("results of the failed one", None, value(items(0, 1, 2))),
    }
for kind in ("plain", "attributes", "group", "constructor", "interrupt", "system exit", "unpicklable"):
    FAILURES[f"caught(threading, {kind})"] = Difference("`__cause__`", None, ends_with(True))
for return_as in RETURNS:
    FAILURES[f"caught(threading, plain, {return_as})"] = Difference("`__cause__`", None, ends_with(True))
for backend in ("threading", "loky"):
    for return_as in RETURNS:
        for taken in (0, 3):
            FAILURES[f"dropped({backend}, {return_as}, {taken})"] = Difference(
                "results of the failed one", None, value(["tuple", taken, items(0, 1, 2)], WARNED)
            )
for program in (
    *(f"from_iterator({backend}, 4)" for backend in PARALLEL),
    *(f"from_iterator({backend}, 4, generator)" for backend in ("threading", "loky")),
):
    FAILURES[program] = Difference(
        "reads `n_jobs` batches at once",
        value(["tuple", ["tuple", "before 4"], items("0", "1", "2")]),
        ends_with(items("0", "1", "2", "3")),
    )


def _context(backend: str, n_jobs: int, effective: int) -> Any:
    return ["tuple", backend, n_jobs, 0, ["tuple", effective, 3]]


def _of_the_context(outcome: Outcome) -> Outcome:
    """Return the outcome with the context's two workers for the threads that a hint asks for; joblib has one."""
    outcome = copy.deepcopy(outcome)
    told: Any = outcome["value"]
    while told[1] != "ThreadingBackend":
        told = told[1]
    told[2], told[4] = max(told[2], 2), ["tuple", 2, 3]
    return outcome


SETTINGS = {
    "made(n_jobs=inf)": Difference("`OverflowError`", error("OverflowError"), error("ValueError")),
    "asyncio_tasks()": Difference(
        "threading.local", value(["tuple", items(4, 4), 3]), value(["tuple", items(3, 4), 1])
    ),
    "context(loky) backend and require": Difference(
        "takes 1 in place",
        value(["tuple", _context("ThreadingBackend", 1, 2), _context("ThreadingBackend", 1, 1)]),
        value(["tuple", _context("ThreadingBackend", 2, 2), _context("ThreadingBackend", 1, 1)]),
    ),
    "context(None)": Difference(
        "`parallel_config(backend=None)`",
        error("AttributeError"),
        value(["tuple", _context("LokyBackend", 2, 2), _context("LokyBackend", 1, 1)]),
    ),
    "exit_handlers()": Difference("`atexit`", value(2), value(0)),
    "settings_inside(multiprocessing)": Difference("limits BLAS", value(["tuple", 1, 1, 0, None]), ends_with("1")),
}
for argument in ("batch_size=True", "mmap_mode='x'", "max_nbytes=-1", "max_nbytes='-1K'"):
    SETTINGS[f"made(n_jobs=2, {argument})"] = Difference("accepts `batch_size=True`", RAN, error("ValueError"))
for argument in ("'2n_jobs'", "'True'"):
    SETTINGS[f"made(n_jobs=2, pre_dispatch={argument})"] = Difference("accepts `2n_jobs`", RAN, error("ValueError"))
for argument in ("'+n_jobs'", "' n_jobs '"):
    SETTINGS[f"made(n_jobs=2, pre_dispatch={argument})"] = Difference("accepts `2n_jobs`", error("ValueError"), RAN)
for argument in ("0", "'0'"):
    SETTINGS[f"made(n_jobs=2, pre_dispatch={argument})"] = Difference("runs nothing", RAN_NOTHING, error("ValueError"))
for program in ("sharedmem within loky)", "prefer threads)", "loky) require"):
    for beside in ("", " beside arguments"):
        if f"{program}{beside}" != "loky) require beside arguments":
            SETTINGS[f"context({program}{beside}"] = Difference("takes 1 in place", None, _of_the_context)
for program in ("made(n_jobs=2, bogus=1)", "made(initializer)"):
    SETTINGS[program] = Difference("any keyword", RAN, error("TypeError"))


def _limited(outcome: Outcome) -> Outcome:
    """Return what each of two workers is told on two CPUs; what the user has set stays."""
    told = {name: number or "1" for name, number in outcome["value"][1].items()}
    return value(items(told, told))


ENVIRONMENT = {"inside(multiprocessing)": Difference("limits BLAS", None, _limited)}

_CPUS = min(cpu_count(), 2)  # LOKY_MAX_CPU_COUNT is 2
_SERIAL = value(["tuple", "SequentialBackend", "this thread", 1, 1])
_ONE_THREAD = ["tuple", "ThreadingBackend", "this thread", 1, 1]


def _warned(outcome: Outcome) -> Outcome:
    return {**outcome, "warnings": [WARNED]}


# A worker of multiprocessing, and one below any worker, cannot have worker processes of multiprocessing, and says so.
for program in ("loky, multiprocessing", "multiprocessing, loky", "multiprocessing, multiprocessing"):
    SETTINGS[f"nested_explicitly({program})"] = Difference("leaves log records, warnings", None, _warned)

_UNSET = {
    **dict.fromkeys(f"{name}_NUM_THREADS" for name in ("OMP", "OPENBLAS", "MKL", "BLIS", "NUMBA", "NUMEXPR")),
    "VECLIB_MAXIMUM_THREADS": None,
    "ENABLE_IPC": None,
    "KMP_INIT_AT_FORK": "FALSE",
}
_NO_PROCESSES = "`JOBLIB_MULTIPROCESSING=0`"
WITHOUT_PROCESSES = {
    "inside_limited(3)": Difference(_NO_PROCESSES, error("AssertionError"), value(items(_UNSET, _UNSET), WARNED)),
    "nested(2)": Difference(_NO_PROCESSES, None, _warned),
}
for backend in PROCESSES:
    WITHOUT_PROCESSES |= {
        f"inside({backend})": Difference(_NO_PROCESSES, None, _warned),
        f"temp_folder({backend})": Difference(_NO_PROCESSES, None, _warned),
    }
for backend in PARALLEL:
    threads = value(_ONE_THREAD, *([WARNED] if backend in PROCESSES else []))
    for program in (f"default_backend(backend='{backend}')", f"by_config({backend})"):
        WITHOUT_PROCESSES[program] = Difference(_NO_PROCESSES, _SERIAL, threads)
for hint in ("", "prefer='threads'", "prefer='processes'", "require='sharedmem'"):
    WITHOUT_PROCESSES[f"default_backend({hint})"] = Difference(_NO_PROCESSES, _SERIAL, value(_ONE_THREAD))

PICKLER = {
    "inside(multiprocessing)": Difference("limits BLAS", None, _limited),
    **{
        name: Difference("cannot rebuild", BROKEN, UNPICKLING)
        for name in ("inside_limited(3)", "inside(loky)", "temp_folder(loky)", "nested(2)")
    },
    **{
        name: Difference(
            "`JOBLIB_TESTS_DEFAULT_PARALLEL_BACKEND`",
            value(["tuple", "LokyBackend", "another process", _CPUS, 3]),
            value(["tuple", "MultiprocessingBackend", "another process", _CPUS, 3]),
        )
        for name in ("default_backend()", "default_backend(prefer='processes')")
    },
}
