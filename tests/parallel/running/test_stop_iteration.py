"""Exceptions that mean something to Python itself, raised by calls: StopIteration, GeneratorExit, SystemExit."""

from __future__ import annotations

import asyncio
import builtins
from typing import Any

import pytest

from shoal import Parallel, delayed, executor
from shoal.errors import CallStopped, RemoteTraceback

PLACES = [("threading", 1), ("threading", 2), ("loky", 2), ("multiprocessing", 2)]
GENERATORS = ["generator", "generator_unordered"]
KINDS = ["StopIteration", "StopAsyncIteration", "GeneratorExit", "KeyboardInterrupt", "SystemExit"]


def ends(value: int, kind: str = "StopIteration") -> int:
    if value == 1:
        raise getattr(builtins, kind)(value)
    return value


def calls(kind: str = "StopIteration") -> list[Any]:
    return [delayed(ends)(value, kind) for value in range(3)]


async def awaited(parallel: Parallel, given: Any) -> Any:
    if parallel.return_as == "list":
        return await parallel.acall(given)
    return [result async for result in parallel.acall(given)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("backend", "n_jobs"), PLACES)
@pytest.mark.parametrize("options", [{}, {"retries": 1}, {"progress": print}], ids=["", "retries", "progress"])
def test_a_list_raises_what_the_call_has_raised(backend: str, n_jobs: int, kind: str, options: Any) -> None:
    with pytest.raises(getattr(builtins, kind)) as caught:
        Parallel(n_jobs=n_jobs, backend=backend, batch_size=1, **options)(calls(kind))
    error: Any = caught.value
    assert type(error) is getattr(builtins, kind)
    assert error.args == (1,)
    assert error.call.index == 1
    assert set(error.results) <= {0, 2}
    if n_jobs == 2 and backend != "threading":
        assert isinstance(error.__cause__, RemoteTraceback)
        assert "raise getattr(builtins, kind)(value)" in str(error.__cause__)


@pytest.mark.parametrize(("backend", "n_jobs"), PLACES)
def test_stop_iteration_may_stand_in_the_results(backend: str, n_jobs: int) -> None:
    results = Parallel(n_jobs=n_jobs, backend=backend, on_error="return")(calls())
    assert [results[0], type(results[1]), results[2]] == [0, StopIteration, 2]


@pytest.mark.parametrize("return_as", GENERATORS)
@pytest.mark.parametrize(("backend", "n_jobs"), PLACES[:3])
def test_a_generator_says_which_call_has_raised_stop_iteration(backend: str, n_jobs: int, return_as: str) -> None:
    with pytest.raises(CallStopped, match=r"call 1, .*ends\(1, 'StopIteration'\) raised StopIteration\(1\)") as caught:
        list(Parallel(n_jobs=n_jobs, backend=backend, return_as=return_as)(calls()))
    assert isinstance(caught.value, RuntimeError)
    assert caught.value.call.index == 1
    stop: Any = caught.value.__cause__
    assert type(stop) is StopIteration
    assert stop.call.index == 1
    assert isinstance(stop.__cause__, RemoteTraceback) is (backend == "loky")


@pytest.mark.parametrize("kind", KINDS[2:])
@pytest.mark.parametrize("return_as", GENERATORS)
@pytest.mark.parametrize(("backend", "n_jobs"), PLACES[:3])
def test_a_generator_raises_all_else_as_it_is_and_does_not_warn(
    backend: str, n_jobs: int, return_as: str, kind: str
) -> None:
    with pytest.raises(getattr(builtins, kind)) as caught:
        list(Parallel(n_jobs=n_jobs, backend=backend, return_as=return_as)(calls(kind)))
    assert caught.value.call.index == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("return_as", "kind"),
    [("list", "StopIteration"), ("generator", "StopIteration"), ("generator", "StopAsyncIteration")],
)
@pytest.mark.parametrize(("backend", "n_jobs"), PLACES[:3])
def test_who_awaits_is_told_which_call_has_raised_it(backend: str, n_jobs: int, return_as: str, kind: str) -> None:
    with pytest.raises(CallStopped) as caught:
        asyncio.run(awaited(Parallel(n_jobs=n_jobs, backend=backend, return_as=return_as), calls(kind)))
    assert caught.value.call.index == 1
    assert type(caught.value.__cause__) is getattr(builtins, kind)


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_the_iterator_of_an_executor_says_which_call_has_raised_it(backend: str) -> None:
    with executor(1, backend) as workers:
        results = workers.map(ends, [0, 1, 2], timeout=100)
        assert next(results) == 0
        with pytest.raises(CallStopped) as caught:
            next(results)
        assert caught.value.call.index == 1
        assert isinstance(caught.value.__cause__, StopIteration)
        with pytest.raises(KeyError):
            list(workers.map(ends, [1], ["KeyError"]))
        abandoned: Any = workers.map(ends, [0, 2, 3])
        assert next(abandoned) == 0
        abandoned.close()
        assert list(workers.map(ends, [4])) == [4]


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_a_future_raises_stop_iteration_as_it_is(backend: str) -> None:
    with executor(1, backend) as workers:
        error = workers.submit(ends, 1).exception()
    assert type(error) is StopIteration


class Ending:
    """An iterator whose end comes from within: as StopIteration is meant."""

    def __init__(self) -> None:
        self.left = 3

    def __iter__(self) -> Ending:
        return self

    def __next__(self) -> Any:
        self.left -= 1
        if self.left < 0:
            raise StopIteration
        return delayed(abs)(self.left)


@pytest.mark.parametrize(("backend", "n_jobs"), PLACES)
def test_stop_iteration_from_the_input_is_its_end(backend: str, n_jobs: int) -> None:
    assert Parallel(n_jobs=n_jobs, backend=backend)(Ending()) == [2, 1, 0]
