"""Asynchronous iterables as the input of ``Parallel.acall``, and ``async with Parallel()``."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import pytest

from _faults_util import until
from shoal import Parallel, delayed

PLACES = [("threading", 1), ("threading", 2), ("loky", 1), ("loky", 2)]
RETURNS = ["list", "generator", "generator_unordered"]
everywhere = pytest.mark.parametrize(("backend", "n_jobs"), PLACES)
however = pytest.mark.parametrize("return_as", RETURNS)


def square(x: int) -> int:
    return x * x


def fails(x: int) -> int:
    raise LookupError(x)


class Source:
    """An asynchronous iterable that notes what is done with it."""

    def __init__(self, n: int, pause: bool = False, bad: int | None = None, item: Callable[[int], Any] | None = None):
        self.n, self.pause, self.bad = n, pause, bad
        self.item = item or (lambda number: delayed(square)(number))
        self.given = 0
        self.closed = 0
        self.threads: set[threading.Thread] = set()

    async def __aiter__(self) -> AsyncIterator[Any]:
        try:
            for number in range(self.n):
                self.threads.add(threading.current_thread())
                if self.pause:
                    await asyncio.sleep(0)
                if number == self.bad:
                    raise KeyError(number)
                self.given += 1
                yield self.item(number)
        finally:
            self.closed += 1


async def results(parallel: Parallel, calls: Any) -> list[Any]:
    if parallel.return_as == "list":
        made: list[Any] = await parallel.acall(calls)
        return made
    return [result async for result in parallel.acall(calls)]


def run(main: Callable[[], Any]) -> Any:
    """Run a coroutine function to its end; nothing may be left of it."""
    before = set(threading.enumerate())

    async def alone() -> Any:
        result = await asyncio.wait_for(main(), 100)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return result

    result = asyncio.run(alone())
    left = [thread for thread in set(threading.enumerate()) - before if thread.name == "shoal-run"]
    assert until(lambda: not any(thread.is_alive() for thread in left), 10), left
    return result


@everywhere
@however
@pytest.mark.parametrize("pause", [False, True])
@pytest.mark.parametrize(
    "options", [{}, {"batch_size": 5}, {"pre_dispatch": 1}, {"pre_dispatch": "all"}, {"retries": 1}, {"timeout": 60}]
)
def test_results(backend: str, n_jobs: int, return_as: str, pause: bool, options: Any) -> None:
    async def main() -> None:
        source = Source(100, pause)
        got = await results(Parallel(n_jobs=n_jobs, backend=backend, return_as=return_as, **options), source)
        if return_as == "generator_unordered":
            got.sort()
        assert got == [square(number) for number in range(100)]
        assert source.closed == 1
        assert source.threads == {threading.current_thread()}  # the iterable is the event loop's

    run(main)


@everywhere
@however
def test_an_empty_input(backend: str, n_jobs: int, return_as: str) -> None:
    assert run(lambda: results(Parallel(n_jobs=n_jobs, backend=backend, return_as=return_as), Source(0))) == []


@everywhere
@pytest.mark.parametrize("return_as", ["generator", "generator_unordered"])
@pytest.mark.parametrize("pre_dispatch", [1, 2, 4])
def test_the_input_is_read_no_faster_than_pre_dispatch_allows(
    backend: str, n_jobs: int, return_as: str, pre_dispatch: int
) -> None:
    async def main() -> None:
        source = Source(200, pause=True)
        done = taken = 0

        def progress(completed: int, _total: int | None) -> None:
            nonlocal done
            done = completed

        parallel = Parallel(
            n_jobs,
            backend,
            return_as=return_as,
            pre_dispatch=pre_dispatch,
            batch_size=1,
            max_pending=4,
            progress=progress,
        )
        async with aclosing(parallel.acall(source)) as generator:
            async for _ in generator:
                taken += 1
                for _ in range(3):  # the input has every chance to be read
                    await asyncio.sleep(0)
                # What may be pending, and what is read ahead for batches that may begin. In order, results that wait
                # for an earlier one do not count as pending: a worker that starts late holds up many.
                begun = taken if return_as == "generator_unordered" else done
                assert source.given - begun <= 4 + 2 * pre_dispatch
        assert taken == 200

    run(main)


@everywhere
@however
def test_results_are_there_while_the_input_waits(backend: str, n_jobs: int, return_as: str) -> None:
    """The next call may depend on the results of those before."""
    if return_as == "list":
        pytest.skip("a list has no results before its end")

    async def main() -> None:
        answered: asyncio.Queue[int] = asyncio.Queue()

        async def questions() -> AsyncIterator[Any]:
            number = 2
            for _ in range(4):
                yield delayed(square)(number)
                number = await answered.get()

        got = []
        async for answer in Parallel(n_jobs=n_jobs, backend=backend, return_as=return_as).acall(questions()):
            got.append(answer)
            answered.put_nowait(answer)
        assert got == [4, 16, 256, 65536]

    run(main)


@everywhere
@however
@pytest.mark.parametrize("bad", [0, 5])
def test_what_the_input_raises_arrives(backend: str, n_jobs: int, return_as: str, bad: int) -> None:
    async def main() -> None:
        source = Source(9, bad=bad)
        parallel = Parallel(n_jobs=n_jobs, backend=backend, return_as=return_as)
        with pytest.raises(KeyError) as caught:
            await results(parallel, source)
        assert caught.value.args == (bad,)
        assert source.closed == 1
        assert sorted(await results(parallel, Source(2))) == [0, 1]

    run(main)


@everywhere
@however
def test_a_call_that_fails_closes_the_input(backend: str, n_jobs: int, return_as: str) -> None:
    async def main() -> None:
        # It never ends by itself. How far it is read depends on when the worker starts that runs the call which fails.
        source = Source(sys.maxsize, item=lambda number: delayed(fails if number == 3 else square)(number))
        with pytest.raises(LookupError):
            await results(Parallel(n_jobs=n_jobs, backend=backend, return_as=return_as), source)
        assert source.closed == 1

    run(main)


@everywhere
def test_a_cancelled_task_closes_the_input(backend: str, n_jobs: int) -> None:
    async def main() -> None:
        closed = 0
        begun = asyncio.Event()

        async def endless() -> AsyncIterator[Any]:
            nonlocal closed
            begun.set()
            try:
                yield delayed(square)(1)
                await asyncio.sleep(1000)
            finally:
                closed += 1
                await asyncio.sleep(0)

        parallel = Parallel(n_jobs=n_jobs, backend=backend)
        task = asyncio.create_task(parallel.acall(endless()))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert closed == 1
        assert await parallel.acall(Source(3)) == [0, 1, 4]

    run(main)


@everywhere
def test_a_generator_that_is_left_closes_the_input(backend: str, n_jobs: int) -> None:
    async def main() -> None:
        source = Source(10**6)
        parallel = Parallel(n_jobs=n_jobs, backend=backend, return_as="generator")
        async with aclosing(parallel.acall(source)) as generator:
            async for result in generator:
                if result == 9:
                    break
        assert source.closed == 1

    run(main)


@everywhere
def test_what_the_input_raises_while_it_is_closed_arrives(backend: str, n_jobs: int) -> None:
    async def main() -> None:
        async def sore() -> AsyncIterator[Any]:
            try:
                while True:
                    yield delayed(square)(1)
            finally:
                raise KeyError("closing")

        generator = Parallel(n_jobs=n_jobs, backend=backend, return_as="generator").acall(sore())
        assert await generator.__anext__() == 1
        with pytest.raises(KeyError, match="closing"):
            await generator.aclose()

    run(main)


class Broken:
    """Is no asynchronous iterable, though it looks like one."""

    def __aiter__(self) -> Any:
        return 5


@everywhere
def test_what_only_looks_like_an_asynchronous_iterable_is_told_so(backend: str, n_jobs: int) -> None:
    with pytest.raises(TypeError, match=r"aiter\(\) returned not an async iterator of type 'int'"):
        run(lambda: Parallel(n_jobs, backend).acall(Broken()))


@everywhere
def test_stop_ends_the_run_and_the_input(backend: str, n_jobs: int) -> None:
    async def main() -> None:
        source = Source(10**6)
        parallel = Parallel(
            n_jobs=n_jobs, backend=backend, progress=lambda done, _: parallel.stop() if done > 5 else None
        )
        got = await parallel.acall(source)
        assert len(got) > 3
        assert got == sorted(got)
        assert source.closed == 1

    run(main)


@everywhere
def test_an_item_that_is_no_call_is_named(backend: str, n_jobs: int) -> None:
    async def main() -> None:
        source = Source(5, item=lambda number: number if number == 2 else delayed(square)(number))
        with pytest.raises(TypeError, match="item 2 of the input is no delayed call but 2"):
            await Parallel(n_jobs=n_jobs, backend=backend).acall(source)
        assert source.closed == 1

    run(main)


def drawn(rng: Any) -> int:
    return int(rng.integers(10**9))


class Kept(dict[Any, Any]):
    """A cache of results."""

    def get(self, call: Any, default: Any = None) -> Any:
        return super().get(call[1], default)

    def put(self, call: Any, value: Any) -> None:
        self[call[1]] = value


@everywhere
def test_seeds_and_known_results_are_as_of_other_inputs(backend: str, n_jobs: int) -> None:
    async def main() -> None:
        expected = Parallel(n_jobs=1, seed=7)(delayed(drawn)() for _ in range(9))
        source = Source(9, item=lambda _: delayed(drawn)())
        assert await Parallel(n_jobs=n_jobs, backend=backend, seed=7).acall(source) == expected
        kept = Kept({(2,): "known"})
        assert await Parallel(n_jobs=n_jobs, backend=backend, memory=kept).acall(Source(4)) == [0, 1, "known", 9]
        assert kept == {(0,): 0, (1,): 1, (2,): "known", (3,): 9}

    run(main)


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_run_without_an_event_loop_says_what_takes_such_an_input(n_jobs: int) -> None:
    with pytest.raises(TypeError, match=r"which only acall takes: await Parallel\(...\).acall\(calls\)"):
        Parallel(n_jobs=n_jobs)(Source(3))  # type: ignore[arg-type]


@pytest.mark.parametrize("backend", ["loky", "threading", "multiprocessing"])
def test_async_with_keeps_the_workers(backend: str) -> None:
    async def main() -> None:
        async with Parallel(n_jobs=2, backend=backend) as parallel:
            assert await parallel.acall(Source(3)) == [0, 1, 4]
            kept = parallel._runner._slots
            assert kept
            assert await parallel.acall(Source(3)) == [0, 1, 4]
            assert parallel._runner._slots is kept
        assert parallel._runner._slots == []
        assert parallel(delayed(square)(number) for number in range(3)) == [0, 1, 4]

    run(main)


def test_async_with_lets_an_exception_pass() -> None:
    async def main() -> None:
        with pytest.raises(LookupError):
            async with Parallel(n_jobs=2, backend="threading") as parallel:
                await parallel.acall([delayed(fails)(1)])
        assert parallel._runner._slots == []

    run(main)
