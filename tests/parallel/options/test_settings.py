"""What a Parallel takes from its arguments, its context and the defaults, compared with joblib."""

from __future__ import annotations

import asyncio
import inspect
import json
import re
import threading
from typing import Any

import numpy
import pytest

from conftest import FreshPython
from shoal import (
    Parallel,
    backends,
    cpu_count,
    delayed,
    effective_n_jobs,
    parallel_backend,
    parallel_config,
    register_parallel_backend,
)
from shoal.backends._processes import LokyBackend
from shoal.backends._threads import ThreadingBackend


def setting(parallel: Parallel, name: str) -> Any:
    return parallel._backend.name if name == "backend" else getattr(parallel._plan.settings, name)


def backend_and_n_jobs(**arguments: Any) -> tuple[str, int]:
    parallel = Parallel(**arguments)
    return parallel._backend.name, parallel.n_jobs


@pytest.mark.parametrize(
    ("name", "default", "outer", "inner", "argument"),
    [
        ("n_jobs", 1, 2, 3, 4),
        ("backend", backends.default_name(), "sequential", "multiprocessing", "threading"),
        ("verbose", 0, 1, 2, 3),
        ("temp_folder", None, "/tmp/outer", "/tmp/inner", "/tmp/argument"),
        ("max_nbytes", "1M", 1000, "10K", None),
        ("mmap_mode", "c", "r", "r+", None),
        ("prefer", None, "threads", "processes", None),
        ("require", None, "sharedmem", None, "sharedmem"),
        ("progress", False, True, print, False),
    ],
)
def test_an_argument_goes_before_the_context_and_that_before_the_default(
    name: str, default: Any, outer: Any, inner: Any, argument: Any
) -> None:
    assert setting(Parallel(), name) == default
    with parallel_config(**{name: outer}):
        assert setting(Parallel(), name) == outer
        with parallel_config(**{name: inner}):
            assert setting(Parallel(), name) == inner
            assert setting(Parallel(**{name: argument}), name) == argument
            other = "verbose" if name != "verbose" else "max_nbytes"
            with parallel_config(**{other: 9}):
                assert setting(Parallel(), name) == inner
        assert setting(Parallel(), name) == outer
    assert setting(Parallel(), name) == default


def test_none_as_an_argument_is_a_context_s_choice_for_some() -> None:
    with parallel_config("threading", n_jobs=3):
        assert backend_and_n_jobs(n_jobs=None, backend=None) == ("threading", 3)


def test_a_context_is_left_after_an_error() -> None:
    with pytest.raises(LookupError), parallel_config(n_jobs=3):
        raise LookupError
    assert Parallel().n_jobs == 1
    with pytest.raises(ValueError, match="nothing"):
        parallel_config("nothing", n_jobs=3)
    assert Parallel().n_jobs == 1


def test_a_configuration_can_stay_until_it_is_unregistered() -> None:
    first = parallel_config("threading", n_jobs=3)
    second = parallel_config(n_jobs=2)
    assert backend_and_n_jobs() == ("threading", 2)
    second.unregister()
    assert backend_and_n_jobs() == ("threading", 3)
    first.unregister()
    assert backend_and_n_jobs() == (backends.default_name(), 1)


def test_parallel_backend_takes_all_workers() -> None:
    with parallel_backend("threading") as (backend, n_jobs):
        assert isinstance(backend, ThreadingBackend)
        assert n_jobs == -1
        assert backend_and_n_jobs() == ("threading", -1)
    with parallel_backend("loky", 3, inner_max_num_threads=2, idle_worker_timeout=7) as (backend, n_jobs):
        assert backend_and_n_jobs() == ("loky", 3)
        assert backend is Parallel()._backend
        assert backend.inner_max_num_threads == 2
        assert backend.given_options == {"idle_worker_timeout": 7}


def test_a_context_is_of_its_thread() -> None:
    seen: list[int] = []

    def look() -> None:
        seen.append(Parallel().n_jobs)
        parallel_config(n_jobs=7)
        seen.append(Parallel().n_jobs)

    with parallel_config(n_jobs=3):
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        assert Parallel().n_jobs == 3
    assert seen == [1, 7]
    assert Parallel().n_jobs == 1


def test_a_context_is_of_its_asyncio_task() -> None:
    async def task(n_jobs: int, mine: asyncio.Event, other: asyncio.Event) -> tuple[int, int, int]:
        before = Parallel().n_jobs
        with parallel_config(n_jobs=n_jobs):
            mine.set()
            await other.wait()
            inside = Parallel().n_jobs
        return before, inside, Parallel().n_jobs

    async def main() -> list[tuple[int, int, int]]:
        first, second = asyncio.Event(), asyncio.Event()
        with parallel_config(n_jobs=9):
            return list(await asyncio.gather(task(2, first, second), task(3, second, first)))

    assert asyncio.run(main()) == [(9, 2, 9), (9, 3, 9)]


@pytest.mark.parametrize("backend", ["threading", "loky", "multiprocessing"])
def test_a_context_does_not_reach_into_calls(backend: str) -> None:
    with parallel_config(n_jobs=2, verbose=0, max_nbytes=7):
        nested = Parallel(backend=backend)([delayed(nested_settings)()] * 2)
    assert nested == [("threading", 1, "1M")] * 2


def nested_settings() -> tuple[str, int, Any]:
    parallel = Parallel()
    return parallel._backend.name, parallel.n_jobs, parallel._plan.settings.max_nbytes


@pytest.mark.parametrize(
    ("n_jobs", "means"),
    [(2, 2), (2.9, 2), ("2", 2), (" 3 ", 3), (numpy.int64(3), 3), (numpy.float32(2.5), 2), (True, 1), (None, 1)],
)
def test_forms_of_n_jobs(n_jobs: Any, means: int) -> None:
    parallel = Parallel(n_jobs=n_jobs)
    assert parallel.n_jobs == means
    assert type(parallel.n_jobs) is int
    assert repr(parallel) == f"Parallel(n_jobs={means})"


@pytest.mark.parametrize("n_jobs", ["x", "", "2.5", float("nan"), float("inf")])
def test_an_n_jobs_that_is_no_number(n_jobs: Any) -> None:
    with pytest.raises(ValueError, match="n_jobs could not be converted to int"):
        Parallel(n_jobs=n_jobs)


def test_no_workers_make_no_sense() -> None:
    for n_jobs in (0, 0.9):
        with pytest.raises(ValueError, match="n_jobs == 0 in Parallel has no meaning"):
            Parallel(n_jobs=n_jobs)([])
    with pytest.raises(ValueError, match="n_jobs == 0"):
        effective_n_jobs(0)


def test_effective_n_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")
    assert effective_n_jobs() == cpu_count() == 1
    monkeypatch.delenv("LOKY_MAX_CPU_COUNT")
    assert effective_n_jobs() == effective_n_jobs(-1) == cpu_count()
    assert effective_n_jobs(5) == 5
    assert effective_n_jobs(None) == 1
    with parallel_config(n_jobs=3):
        assert effective_n_jobs(None) == 3
    with parallel_config("sequential", n_jobs=3):
        assert effective_n_jobs(5) == effective_n_jobs(None) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"pre_dispatch": 0}, "at least 1"),
        ({"pre_dispatch": -3}, "at least 1"),
        ({"pre_dispatch": "n_jobs - 2"}, "at least 1"),
        ({"pre_dispatch": "every"}, "pre_dispatch='every' cannot be computed"),
        ({"pre_dispatch": "__import__('os')"}, "cannot be computed"),
        ({"batch_size": 0}, "batch_size must be 'auto', a positive integer or a callable, got: 0"),
        ({"batch_size": -1}, "batch_size"),
        ({"batch_size": 1.5}, "batch_size"),
        ({"batch_size": "many"}, "batch_size.*'many'"),
        ({"batch_size": None}, "batch_size"),
        ({"mmap_mode": "w"}, r"mmap_mode must be one of .*'w'"),
        ({"max_nbytes": "1 bushel"}, "bushel"),
        ({"return_as": "set"}, "return_as.*'set'"),
        ({"prefer": "fibres"}, "prefer='fibres'.*'processes', 'threads' or None"),
        ({"require": "speed"}, "require='speed'.*'sharedmem' or None"),
        ({"prefer": "processes", "require": "sharedmem"}, "prefer.*require"),
        ({"backend": "loky", "require": "sharedmem"}, "LokyBackend.*shared"),
    ],
)
def test_bad_arguments_are_told_what_would_be_right(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Parallel(**{"n_jobs": 2, "backend": "threading", **arguments})([delayed(abs)(1)])


@pytest.mark.parametrize("pre_dispatch", [None, []])
def test_a_pre_dispatch_of_another_type(pre_dispatch: Any) -> None:
    with pytest.raises(TypeError, match="pre_dispatch must be 'all', a number or an expression like '2"):
        Parallel(n_jobs=2, backend="threading", pre_dispatch=pre_dispatch)([delayed(abs)(1)])


@pytest.mark.parametrize(
    ("name", "meant"), [("n_job", "n_jobs"), ("batchsize", "batch_size"), ("verbosity", "verbose"), ("zzz", None)]
)
def test_an_unknown_keyword_is_answered_with_the_nearest(name: str, meant: str | None) -> None:
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'") as caught:
        Parallel(**{name: 1})
    assert ("did you mean" in str(caught.value)) is (meant is not None)
    assert meant is None or f"did you mean '{meant}'?" in str(caught.value)


def test_a_backend_may_take_any_keyword() -> None:
    class Any_(ThreadingBackend):
        options = None

    assert Parallel(backend=Any_(), whatever=1)([delayed(abs)(-1)]) == [1]


@pytest.mark.parametrize(
    ("context", "arguments", "chosen"),
    [
        ({}, {"prefer": "threads", "n_jobs": 2}, ("threading", 2)),
        ({}, {"prefer": "processes", "n_jobs": 2}, ("loky", 2)),
        ({}, {"require": "sharedmem", "n_jobs": 2}, ("threading", 2)),
        ({"prefer": "threads"}, {"n_jobs": 2}, ("threading", 2)),
        ({"backend": "loky", "n_jobs": 2}, {"prefer": "threads"}, ("loky", 2)),  # a hint gives way to a context
        ({"backend": "threading", "n_jobs": 2}, {"prefer": "processes"}, ("threading", 2)),
        ({"backend": "loky", "n_jobs": 2}, {"require": "sharedmem"}, ("threading", 2)),  # a requirement does not
        ({"n_jobs": 2}, {"require": "sharedmem"}, ("threading", 2)),
        ({"n_jobs": 2}, {"prefer": "threads"}, ("threading", 2)),
        ({"n_jobs": 2}, {"prefer": "threads", "n_jobs": None}, ("threading", 2)),
        ({"backend": "loky"}, {"require": "sharedmem"}, ("threading", 1)),
        ({"backend": "loky", "n_jobs": 2}, {"require": "sharedmem", "n_jobs": 3}, ("threading", 3)),
        ({"backend": "sequential", "n_jobs": 2}, {"require": "sharedmem"}, ("sequential", 2)),
        ({}, {"backend": "loky", "prefer": "threads", "n_jobs": 2}, ("loky", 2)),  # a hint gives way to an argument
    ],
)
def test_prefer_and_require(context: dict[str, Any], arguments: dict[str, Any], chosen: tuple[str, int]) -> None:
    with parallel_config(**context):
        assert backend_and_n_jobs(**arguments) == chosen


def test_a_backend_that_is_replaced_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with parallel_config("loky"):
        Parallel(require="sharedmem", verbose=10)
        assert "ThreadingBackend" in capsys.readouterr().out
        Parallel(require="sharedmem", verbose=9)
        assert capsys.readouterr().out == ""


def test_inner_threads_need_a_backend_that_limits_them() -> None:
    with parallel_config("loky", inner_max_num_threads=3):
        assert Parallel()._backend.inner_max_num_threads == 3
    with parallel_config(LokyBackend(), inner_max_num_threads=2):
        assert Parallel()._backend.inner_max_num_threads == 2
    with pytest.raises(AssertionError, match="inner_max_num_threads"):
        parallel_config("threading", inner_max_num_threads=3)
    with pytest.raises(ValueError, match="only supported when backend is not None"):
        parallel_config(inner_max_num_threads=3)


def test_parameters_of_a_backend_need_its_name() -> None:
    with pytest.raises(ValueError, match="only supported when backend is not None"):
        parallel_config(idle_worker_timeout=3)
    with pytest.raises(ValueError, match="only supported when backend is a string"):
        parallel_config(LokyBackend(), idle_worker_timeout=3)


def test_a_backend_has_its_own_default_of_n_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wide(ThreadingBackend):
        default_n_jobs = 5

    monkeypatch.setattr(backends, "_factories", dict(backends._factories))
    register_parallel_backend("wide", Wide)
    assert backend_and_n_jobs(backend="wide") == ("threading", 5)
    with parallel_config("wide"):
        assert backend_and_n_jobs() == ("threading", 5)
        assert effective_n_jobs(None) == 5
        assert backend_and_n_jobs(n_jobs=2) == ("threading", 2)


def test_signatures_show_the_defaults() -> None:
    shown = str(inspect.signature(Parallel))
    for name, default in (("n_jobs", "default(None)"), ("max_nbytes", "default('1M')"), ("mmap_mode", "default('c')")):
        assert re.search(rf"\b{name}: '[^']+' = {re.escape(default)}", shown)


# Each line of its output: [context, arguments, what came of it].
GRID = """
import importlib, json, math, os, sys, warnings

os.environ["JOBLIB_TESTS_DEFAULT_PARALLEL_BACKEND"] = "loky"  # also where the interpreter has no GIL
library = importlib.import_module({name!r})
warnings.simplefilter("ignore")
BACKENDS = ["loky", "threading", "multiprocessing", "sequential"]

def each(name, values, **others):
    return [dict(others, **{{name: value}}) for value in values]

CONTEXTS = [
    {{}},
    *each("n_jobs", [None, 1, 2, 3, -1, -2, 0]),
    *each("backend", [*BACKENDS, "nothing"]),
    *each("backend", BACKENDS, n_jobs=3),
    *each("prefer", ["threads", "processes", None, "bad"]),
    *each("prefer", ["threads", "processes"], n_jobs=3),
    *each("require", ["sharedmem", None, "bad"]),
    *each("require", ["sharedmem"], n_jobs=3),
    *each("backend", BACKENDS, prefer="threads", n_jobs=3),
    *each("backend", BACKENDS, prefer="processes"),
    *each("backend", BACKENDS, require="sharedmem", n_jobs=3),
    dict(prefer="processes", require="sharedmem"),
    dict(verbose=5, max_nbytes=10, mmap_mode="r+", temp_folder="/tmp"),
    dict(max_nbytes=None, mmap_mode=None, temp_folder=None),
    *each("inner_max_num_threads", [1]),
    *each("backend", BACKENDS, inner_max_num_threads=1),
    dict(backend="loky", n_jobs=2, idle_worker_timeout=3),
    dict(n_jobs=2, idle_worker_timeout=3),
    *each("backend", BACKENDS, legacy=True),
    *each("backend", BACKENDS, legacy=True, n_jobs=2),
    *each("backend", BACKENDS, legacy=True, n_jobs=None),
]
ARGUMENTS = [
    {{}},
    *each("n_jobs", [None, 1, 2, 4, -1, -2, -100, 2.9, "2", " 3 ", 0, "x", math.inf, True]),
    *each("backend", [None, *BACKENDS, "nothing", 3]),
    *each("backend", BACKENDS, n_jobs=2),
    *each("prefer", ["threads", "processes", None, "bad"]),
    *each("prefer", ["threads", "processes", None], n_jobs=2),
    *each("require", ["sharedmem", None, "bad"]),
    *each("require", ["sharedmem", None], n_jobs=2),
    *each("prefer", ["threads", "processes"], require="sharedmem"),
    *each("backend", BACKENDS, require="sharedmem"),
    *each("backend", BACKENDS, prefer="threads"),
    *each("backend", BACKENDS, prefer="processes"),
    dict(verbose=7, max_nbytes="2M", mmap_mode="r", temp_folder="/var/tmp"),
    dict(max_nbytes=None, mmap_mode=None, temp_folder=None, verbose=0),
    *each("max_nbytes", ["bad", 0, "10K"]),
    *each("mmap_mode", ["bad", "w+"]),
    *each("batch_size", [0, -1, 1.5, "x", None, True, 3]),
    *each("return_as", ["generator", "set", None]),
    *each("return_as", ["generator", "generator_unordered"], backend="multiprocessing"),
]

def settings(parallel):
    if library.__name__ == "joblib":
        kept = parallel._backend_kwargs
        return [kept["max_nbytes"], kept["mmap_mode"], kept["temp_folder"]]
    kept = parallel._plan.settings
    sizes = importlib.import_module("shoal._sizes")
    nbytes = kept.max_nbytes if kept.max_nbytes is None else sizes.parse_size(kept.max_nbytes)
    return [nbytes, kept.mmap_mode, kept.temp_folder]

def workers(parallel):
    backend = parallel._backend
    count = backend.effective_n_jobs if library.__name__ == "joblib" else backend.workers
    return count(parallel.n_jobs)

def describe(arguments):
    parallel = library.Parallel(**arguments)
    name = type(parallel._backend).__name__
    return [parallel.n_jobs, workers(parallel), name, parallel.verbose, *settings(parallel)]

def evaluate(context, function, *arguments):
    context = dict(context)
    enter = library.parallel_backend if context.pop("legacy", False) else library.parallel_config
    try:
        if not context:
            return function(*arguments)
        with enter(**context):
            return function(*arguments)
    except Exception as error:
        return type(error).__name__

for context in CONTEXTS:
    for arguments in ARGUMENTS:
        print(json.dumps([context, arguments, evaluate(context, describe, arguments)]))
    for n_jobs in (None, 0, 1, 2, -1, -2):
        print(json.dumps([context, n_jobs, evaluate(context, library.effective_n_jobs, n_jobs)]))
"""


def wanted_in(context: dict[str, Any]) -> Any:
    """Return the n_jobs that a context sets."""
    return context.get("n_jobs", -1 if "legacy" in context else None)


def workers_in(context: dict[str, Any], otherwise: Any, serial: bool) -> Any:
    """Return the number of workers that the n_jobs of a context means."""
    wanted = wanted_in(context)
    if wanted == 0:
        return "ValueError"
    if wanted is None or serial:
        return otherwise if wanted is None else 1
    return wanted if wanted > 0 else max(cpu_count() + 1 + wanted, 1)


def as_in_shoal(context: dict[str, Any], arguments: Any, joblib: Any) -> Any:
    """Turn what joblib makes of arguments into what shoal is to make of them: the list of all differences."""
    if not isinstance(arguments, dict):
        # With n_jobs=1, joblib does not look at what the context asks for.
        refused = "bad" in context.values() or {"prefer", "require"} <= set(context)
        if arguments is None and joblib == 1 and {"prefer", "require"} & set(context):
            return workers_in(context, 1, context.get("backend") == "sequential")
        return "ValueError" if arguments == 1 and refused else joblib
    if joblib == "OverflowError":
        return "ValueError"  # n_jobs=inf, a bad number like others
    if not isinstance(joblib, list):
        return joblib
    if arguments.get("batch_size") is True or "bad" in (arguments.get("mmap_mode"), *context.values()):
        return "ValueError"  # joblib takes them, and fails later or not at all
    if {"prefer": "processes", "require": "sharedmem"}.items() <= context.items():
        return "ValueError"  # joblib takes them where a Parallel says otherwise
    n_jobs, workers, backend, verbose, max_nbytes, mmap_mode, temp_folder = joblib
    if "mmap_mode" not in arguments and "mmap_mode" not in context:
        mmap_mode = "c"
    if arguments.get("n_jobs") is None and n_jobs == 1:
        # joblib forgets the n_jobs of the context where `prefer` or `require` mean another backend than its own.
        workers = workers_in(context, workers, backend == "SequentialBackend")
        if workers == "ValueError":
            return workers
        n_jobs = n_jobs if wanted_in(context) is None else wanted_in(context)
    return [n_jobs, workers, backend, verbose, max_nbytes, mmap_mode, temp_folder]


def test_settings_are_those_of_joblib(fresh_python: FreshPython) -> None:
    joblib, shoal = (
        [json.loads(line) for line in fresh_python(GRID.format(name=name)).splitlines()] for name in ("joblib", "shoal")
    )
    assert len(joblib) > 3000
    assert [line[:2] for line in joblib] == [line[:2] for line in shoal]
    wrong = [
        (context, arguments, theirs, ours)
        for (context, arguments, theirs), (_, _, ours) in zip(joblib, shoal, strict=True)
        if as_in_shoal(context, arguments, theirs) != ours
    ]
    assert wrong == []
