"""Calls on threads see the context variables of the thread that makes the run."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import Any

import pytest

from _faults_util import PATIENCE
from shoal import Parallel, delayed, executor

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
