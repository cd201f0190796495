"""Calls see the context variables of the thread that makes the run: on threads all, in processes those asked for."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from contextvars import Context, ContextVar, copy_context
from pathlib import Path
from typing import Any

import numpy
import pytest

from _capabilities import KILL
from _faults_util import PATIENCE, Child
from shoal import CallPicklingError, CallUnpicklingError, Parallel, delayed, executor, parallel_config, shared
from shoal._context import home_of, reduce_variable, variable_at

VARIABLE: ContextVar[str] = ContextVar("variable of the tests", default="unset")


def get() -> str:
    return VARIABLE.get()


def set_and_get(value: str) -> str:
    VARIABLE.set(value)
    return VARIABLE.get()


@pytest.fixture(autouse=True)
def variable() -> Any:
    token = VARIABLE.set("of the caller")
    yield
    VARIABLE.reset(token)


@pytest.mark.parametrize("n_jobs", [1, 3])
@pytest.mark.parametrize("return_as", ["list", "generator", "generator_unordered"])
def test_calls_see_the_variables_of_the_caller(n_jobs: int, return_as: str) -> None:
    parallel = Parallel(n_jobs=n_jobs, backend="threading", return_as=return_as)
    assert set(parallel(delayed(get)() for _ in range(20))) == {"of the caller"}
    token = VARIABLE.set("later")
    try:
        assert set(parallel(delayed(get)() for _ in range(20))) == {"later"}
    finally:
        VARIABLE.reset(token)


def test_what_a_call_sets_stays_in_its_thread() -> None:
    parallel = Parallel(n_jobs=2, backend="threading")
    assert parallel(delayed(set_and_get)(str(number)) for number in range(9)) == [str(number) for number in range(9)]
    assert VARIABLE.get() == "of the caller"
    assert parallel([delayed(get)()]) == ["of the caller"]


def test_acall_and_executors() -> None:
    async def main() -> Any:
        return await Parallel(n_jobs=2, backend="threading").acall([delayed(get)(), delayed(get)()])

    assert asyncio.run(main()) == ["of the caller"] * 2
    with executor(max_workers=2, backend="threading") as workers:
        assert workers.submit(get).result(PATIENCE) == "of the caller"


# Processes

OTHER: ContextVar[Any] = ContextVar("other name")
NEVER_SET: ContextVar[Any] = ContextVar("NEVER_SET")


def get_all() -> tuple[Any, ...]:
    return tuple(variable.get("none") for variable in (VARIABLE, OTHER, NEVER_SET))


def in_context(function: Any, *args: Any, **values: Any) -> Any:
    """Call a function in a context of its own, in which OTHER is set."""

    def run() -> Any:
        OTHER.set(values["other"])
        return function(*args)

    return copy_context().run(run)


PROCESSES = pytest.mark.parametrize("backend", ["loky", "multiprocessing"])


@PROCESSES
@pytest.mark.parametrize(
    ("context", "seen"),
    [
        ([VARIABLE, OTHER, NEVER_SET], ("of the caller", [1], "none")),
        ((OTHER,), ("none", [1], "none")),
        ({VARIABLE}, ("of the caller", "none", "none")),
        (OTHER, ("none", [1], "none")),
        (True, ("of the caller", [1], "none")),
        (False, ("none", "none", "none")),
        ([], ("none", "none", "none")),
        (None, ("none", "none", "none")),
    ],
)
def test_processes_see_the_variables_that_are_asked_for(backend: str, context: Any, seen: Any) -> None:
    def run() -> Any:
        calls = [delayed(get_all)() for _ in range(10)]
        first = Parallel(n_jobs=2, backend=backend, context=context)(calls)
        with parallel_config(context=context):
            assert Parallel(n_jobs=2, backend=backend)(calls) == first
            return first + Parallel(n_jobs=2, backend=backend, context=None)(calls[:3])

    assert in_context(run, other=[1]) == [seen] * 10 + [("none", "none", "none")] * 3


@pytest.mark.parametrize("return_as", ["generator", "generator_unordered"])
def test_generators(return_as: str) -> None:
    parallel = Parallel(n_jobs=2, context=[VARIABLE], return_as=return_as)
    results = parallel(delayed(get)() for _ in range(50))
    VARIABLE.set("later")  # the run was made before
    assert set(results) == {"of the caller"}


def test_acall_and_executors_with_processes() -> None:
    async def main() -> Any:
        return await Parallel(n_jobs=2, context=[VARIABLE]).acall([delayed(get)(), delayed(get)()])

    assert asyncio.run(main()) == ["of the caller"] * 2
    with executor(max_workers=2, context=True) as workers:
        VARIABLE.set("after the executor was made")
        assert [workers.submit(get).result(PATIENCE) for _ in range(3)] == ["of the caller"] * 3


def test_a_call_in_a_process_leaves_the_value_to_the_next_batch() -> None:
    parallel = Parallel(n_jobs=2, context=[VARIABLE], batch_size=1)
    assert parallel(delayed(set_and_get)(str(number)) for number in range(9)) == [str(number) for number in range(9)]
    assert parallel(delayed(get)() for _ in range(4)) == ["of the caller"] * 4


class Heavy:
    """Counts how often it is pickled here."""

    pickled = 0

    def __reduce__(self) -> Any:
        Heavy.pickled += 1
        return Arrived, (os.getpid(),)


class Arrived:
    """Counts how often it is unpickled here."""

    number = 0

    def __init__(self, caller: int) -> None:
        Arrived.number += os.getpid() != caller


def arrivals() -> tuple[int, int]:
    assert isinstance(OTHER.get(), Arrived)
    return os.getpid(), Arrived.number


def test_values_are_sent_once_to_each_worker() -> None:
    def run() -> Any:
        Heavy.pickled = 0
        parallel = Parallel(n_jobs=2, context=[OTHER], batch_size=1, initializer=get)  # with workers of their own
        return parallel(delayed(arrivals)() for _ in range(20))

    seen = in_context(run, other=Heavy())
    assert Heavy.pickled == 1
    assert {number for _, number in seen} == {1}
    assert len(set(seen)) <= 2


def kill_itself(path: Path) -> str:
    if not path.exists():
        path.touch()
        os.kill(os.getpid(), KILL)
    return VARIABLE.get()


def test_a_worker_that_replaces_another_gets_the_values(tmp_path: Path) -> None:
    parallel = Parallel(n_jobs=2, context=[VARIABLE], retries=1, batch_size=1)
    calls = [delayed(kill_itself)(tmp_path / "killed"), *(delayed(get)() for _ in range(8))]
    assert parallel(calls) == ["of the caller"] * 9
    parallel = Parallel(n_jobs=2, context=[VARIABLE], max_tasks_per_worker=1)
    assert parallel(delayed(get)() for _ in range(4)) == ["of the caller"] * 4


def test_large_values_and_shared_arguments() -> None:
    array = numpy.arange(300_000.0)

    def run() -> Any:
        return Parallel(n_jobs=2, context=[OTHER])(delayed(sum_of_both)(shared(array)) for _ in range(4))

    assert in_context(run, other=array) == [2 * array.sum()] * 4


def sum_of_both(array: Any) -> float:
    return float(OTHER.get().sum() + array.sum())


def get_in_nested(n_jobs: int, backend: str) -> Any:
    return Parallel(n_jobs=n_jobs, backend=backend)(delayed(get)() for _ in range(2))


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_nested_runs_on_threads(n_jobs: int) -> None:
    parallel = Parallel(n_jobs=2, context=[VARIABLE])
    assert parallel([delayed(get_in_nested)(n_jobs, "threading")] * 2) == [["of the caller"] * 2] * 2


def test_a_value_that_cannot_be_pickled() -> None:
    def run(context: Any) -> Any:
        return Parallel(n_jobs=2, context=context)([delayed(get_all)()])

    said = r"the context variable test_context.OTHER .*: its value\[1\] cannot be pickled \(TypeError"
    with pytest.raises(CallPicklingError, match=said):
        in_context(run, [VARIABLE, OTHER], other=[1, threading.Lock()])
    assert in_context(run, True, other=threading.Lock()) == [("of the caller", "none", "none")]


def test_a_variable_of_no_module(caplog: pytest.LogCaptureFixture) -> None:
    local: ContextVar[int] = ContextVar("local")
    token = local.set(3)
    try:
        with pytest.raises(CallPicklingError, match=r"the context variable 'local' .* none has this one"):
            Parallel(n_jobs=2, context=[local])([delayed(get)()])
        with caplog.at_level(logging.DEBUG, "shoal.context"):
            assert Parallel(n_jobs=2, context=True)([delayed(get)()]) == ["of the caller"]
    finally:
        local.reset(token)
    assert "context=True leaves out 'local': " in caplog.text


class Hostile:
    def __reduce__(self) -> Any:
        return int, ("no number",)


def test_a_value_that_workers_cannot_unpickle() -> None:
    def run() -> Any:
        return Parallel(n_jobs=2, context=[OTHER])([delayed(get)()])

    with pytest.raises(
        CallUnpicklingError, match=r"the context variable test_context.OTHER .* in a worker: ValueError"
    ):
        in_context(run, other=Hostile())


def test_a_variable_is_found_in_its_module() -> None:
    assert home_of(OTHER) == (__name__, "OTHER")
    function, args = reduce_variable(OTHER)
    assert function(*args) is OTHER
    with pytest.raises(AttributeError, match=r"test_context\.get is no context variable here"):
        variable_at(__name__, "get")
    made = variable_at("__main__", "a name of the tests", 7)
    assert made is variable_at("__main__", "a name of the tests", 7)
    assert (Context().run(made.get), home_of(made)) == (7, ("__main__", "a name of the tests"))


def test_a_variable_that_moves_is_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    moving: ContextVar[int] = ContextVar("moving")
    assert home_of(moving) is None
    for name in ("FIRST", "SECOND"):
        with monkeypatch.context() as patch:
            patch.setattr(sys.modules[__name__], name, moving, raising=False)
            assert home_of(moving) == (__name__, name)
    assert home_of(moving) is None


PROGRAM = """
import sys
from contextvars import ContextVar
from shoal import Parallel, delayed

REQUEST = ContextVar("request", default="default")
PLAIN = ContextVar("plain")

def get():
    return REQUEST.get(), PLAIN.get(None), REQUEST

if __name__ == "__main__":
    print([each[:2] for each in Parallel(n_jobs=2)(delayed(get)() for _ in range(2))])
    REQUEST.set("r7")
    PLAIN.set(3)
    for backend in ("loky", "multiprocessing"):
        for context in ([REQUEST, PLAIN], True):
            print([each[:2] for each in Parallel(n_jobs=2, backend=backend, context=context)([delayed(get)()] * 2)])
    print(Parallel(n_jobs=2)([delayed(get)()])[0][2] is REQUEST)
"""


def test_variables_of_the_main_module(tmp_path: Path) -> None:
    with Child(PROGRAM, tmp_path) as program:
        code, out, err = program.wait()
    assert (code, err) == (0, "")
    expected = ["[('default', None), ('default', None)]", *["[('r7', 3), ('r7', 3)]"] * 4, "True"]
    assert out.splitlines() == expected


@pytest.mark.parametrize("value", ["REQUEST", 7, 1, ["REQUEST"], [VARIABLE, 3], iter([VARIABLE])])
def test_context_takes_variables(value: Any) -> None:
    with pytest.raises(TypeError, match=r"context must be a list of context variables, .*, got: "):
        Parallel(n_jobs=2, context=value)
    with pytest.raises(TypeError, match="context must be a list of context variables"):
        parallel_config(context=value)


def test_a_context_of_multiprocessing_goes_to_its_backend() -> None:
    import multiprocessing

    spawn = multiprocessing.get_context("spawn")
    parallel = Parallel(n_jobs=2, backend="multiprocessing", context=spawn)
    assert (parallel._plan.options["context"], parallel._plan.settings.context) == (spawn, None)
    with parallel_config(backend="multiprocessing", context=spawn):
        assert Parallel()._plan.backend.given_options["context"] is spawn
