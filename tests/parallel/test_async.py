"""``Parallel.acall``: runs that an event loop waits for, and that end with who waits."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from _faults_util import until, wait_for, works
from shoal import Parallel, RunTimeout, WorkerDied, delayed
from shoal.errors import TaskTimeout

#: The backends, and numbers of workers.
WORKERS = [("loky", 2), ("multiprocessing", 2), ("threading", 2), ("loky", 1), ("sequential", 1)]
#: Those that can give results while others are computed, and how.
STREAMS = [
    (backend, n_jobs, return_as)
    for backend, n_jobs in WORKERS
    if backend != "multiprocessing"
    for return_as in ("generator", "generator_unordered")
]
#: Every way to wait for a run.
FORMS = [*((backend, n_jobs, "list") for backend, n_jobs in WORKERS), *STREAMS]

#: Those of `make test`: with them, each way to wait and each of WORKERS occurs.
SOME = [
    ("loky", 2, "list"),
    ("loky", 2, "generator_unordered"),
    ("multiprocessing", 2, "list"),
    ("threading", 2, "generator"),
    ("loky", 1, "generator"),
    ("sequential", 1, "list"),
]

each_form = pytest.mark.parametrize(
    ("backend", "n_jobs", "return_as"),
    [pytest.param(*form, marks=[] if form in SOME else pytest.mark.thorough) for form in FORMS],
)
each_stream = pytest.mark.parametrize(("backend", "n_jobs", "return_as"), STREAMS)


def square(x: int) -> int:
    return x * x


def fail_at(x: int, bad: int) -> int:
    if x == bad:
        raise LookupError(x)
    return x


def gated(gate: Path, folder: Path, number: int) -> int:
    """Tell that it runs, by a file; return when `gate` is there."""
    (folder / f"runs-{number}").touch()
    wait_for(gate)
    return number


def begun(folder: Path) -> int:
    return len(list(folder.glob("runs-*")))


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    """A gate that is opened at the end in any case, so that no thread waits for ever."""
    path = tmp_path / "gate"
    yield path
    path.touch()


async def results(parallel: Parallel, calls: Any) -> list[Any]:
    """Return all results, whatever their form."""
    if parallel.return_as == "list":
        return await parallel.acall(calls)  # type: ignore[no-any-return]
    found = [result async for result in parallel.acall(calls)]
    return sorted(found) if parallel.return_as == "generator_unordered" else found


def run(main: Callable[[], Any]) -> Any:
    """Run `main` in an event loop; nothing of its runs may be left when it ends."""
    before = set(threading.enumerate())

    async def watched() -> Any:
        value = await main()
        left = [thread for thread in set(threading.enumerate()) - before if thread.name == "shoal-run"]
        assert until(lambda: not any(thread.is_alive() for thread in left), 5), left
        return value

    return asyncio.run(watched())


@each_form
@pytest.mark.parametrize("n", [0, 1, 500])
def test_results(backend: str, n_jobs: int, return_as: str, n: int) -> None:
    parallel = Parallel(n_jobs, backend, return_as)
    for _ in range(2):
        assert run(lambda: results(parallel, (delayed(square)(x) for x in range(n)))) == [x * x for x in range(n)]


def test_a_list_is_a_coroutine() -> None:
    """So that it may be run, or made a task, as it is."""
    assert asyncio.run(Parallel(2, "threading").acall([delayed(square)(3)])) == [9]


@each_form
def test_the_event_loop_goes_on(backend: str, n_jobs: int, return_as: str, gate: Path, tmp_path: Path) -> None:
    """The calls wait for what only the event loop does; so does the input."""

    def calls() -> Iterator[Any]:
        wait_for(gate.with_name("input"))
        yield delayed(gated)(gate, tmp_path, 1)

    async def main() -> None:
        task = asyncio.create_task(results(Parallel(n_jobs, backend, return_as), calls()))
        await asyncio.sleep(0.05)
        assert not task.done()
        gate.with_name("input").touch()
        while not begun(tmp_path):
            await asyncio.sleep(0.01)
        gate.touch()
        assert await task == [1]

    run(main)


@each_form
def test_exceptions(backend: str, n_jobs: int, return_as: str) -> None:
    parallel = Parallel(n_jobs, backend, return_as, batch_size=1)

    async def main() -> None:
        with pytest.raises(LookupError) as caught:
            await results(parallel, (delayed(fail_at)(x, 20) for x in range(40)))
        assert caught.value.call.index == 20  # type: ignore[attr-defined]
        if return_as == "list" and n_jobs == 1:
            assert caught.value.results == {x: x for x in range(20)}  # type: ignore[attr-defined]
        with pytest.raises(TypeError, match="no delayed call"):
            await results(parallel, [delayed(square)(1), 5])
        assert await results(parallel, [delayed(square)(3)]) == [9]

    run(main)


@each_form
def test_a_cancelled_task_ends_its_run(backend: str, n_jobs: int, return_as: str, gate: Path, tmp_path: Path) -> None:
    parallel = Parallel(n_jobs, backend, return_as, batch_size=1)

    async def main() -> None:
        task = asyncio.create_task(results(parallel, (delayed(gated)(gate, tmp_path, x) for x in range(20))))
        while begun(tmp_path) < n_jobs:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await results(parallel, [delayed(square)(3)]) == [9]  # it, and its workers, are free again

    run(main)
    gate.touch()
    assert begun(tmp_path) <= 2 * n_jobs
    assert works(backend=backend)


@each_form
def test_cancelled_before_it_began(backend: str, n_jobs: int, return_as: str, tmp_path: Path, gate: Path) -> None:
    parallel = Parallel(n_jobs, backend, return_as)

    async def main() -> None:
        for turns in range(4):
            task = asyncio.create_task(results(parallel, (delayed(gated)(gate, tmp_path, x) for x in range(20))))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert await results(parallel, [delayed(square)(3)]) == [9]

    run(main)


@each_stream
@pytest.mark.parametrize("how", ["close", "raise", "break"])
def test_a_generator_that_is_left_ends_its_run(
    backend: str, n_jobs: int, return_as: str, how: str, gate: Path, tmp_path: Path
) -> None:
    parallel = Parallel(n_jobs, backend, return_as, batch_size=1)
    calls = [delayed(square)(7), *(delayed(gated)(gate, tmp_path, x) for x in range(20))]

    async def leave() -> None:
        arriving = parallel.acall(calls)
        async with aclosing(arriving):
            async for result in arriving:
                assert result == 49
                if how == "raise":
                    raise ZeroDivisionError
                if how == "break":
                    break
                await arriving.aclose()

    async def main() -> None:
        if how == "raise":
            with pytest.raises(ZeroDivisionError):
                await leave()
        else:
            await leave()
        assert await results(parallel, [delayed(square)(3)]) == [9]

    run(main)


def test_a_generator_that_is_dropped_ends_its_run(gate: Path, tmp_path: Path) -> None:
    """By the event loop, which closes asynchronous generators that nobody holds."""
    parallel = Parallel(2, return_as="generator", batch_size=1)

    async def main() -> None:
        async for _ in parallel.acall([delayed(square)(7), *(delayed(gated)(gate, tmp_path, x) for x in range(20))]):
            break
        while parallel._runner.running:
            await asyncio.sleep(0.01)

    run(main)
    assert works()


def test_a_coroutine_that_outlives_its_loop_ends_its_run(gate: Path, tmp_path: Path) -> None:
    """As after a second Ctrl-C: nothing can be awaited when it is closed, and nothing is."""
    parallel = Parallel(2, "threading")
    loop = asyncio.new_event_loop()
    waiting = parallel.acall([delayed(gated)(gate, tmp_path, x) for x in range(20)])
    task = loop.create_task(waiting)
    loop.call_later(0.1, loop.stop)
    loop.run_forever()
    waiting.close()
    loop.close()
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    gate.touch()
    assert until(lambda: not parallel._runner.running, 5)


@each_stream
def test_a_generator_that_is_open_when_the_loop_ends(
    backend: str, n_jobs: int, return_as: str, gate: Path, tmp_path: Path
) -> None:
    parallel = Parallel(n_jobs, backend, return_as, batch_size=1)
    arriving = parallel.acall([delayed(square)(7), *(delayed(gated)(gate, tmp_path, x) for x in range(20))])
    troubles: list[Any] = []

    async def main() -> int:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: troubles.append(context))
        return await anext(arriving)  # type: ignore[no-any-return]

    assert asyncio.run(main()) == 49
    assert asyncio.run(results(parallel, [delayed(square)(3)])) == [9]
    assert troubles == []


@each_form
def test_timeout(backend: str, n_jobs: int, return_as: str, gate: Path, tmp_path: Path) -> None:
    parallel = Parallel(n_jobs, backend, return_as, timeout=0.3, batch_size=1)
    calls = [delayed(square)(1), delayed(gated)(gate, tmp_path, 0), delayed(square)(2)]

    async def main() -> None:
        with pytest.raises(RunTimeout):
            await results(parallel, calls)
        parallel.timeout = None
        assert await results(parallel, [delayed(square)(3)]) == [9]

    run(main)


@each_form
def test_a_timeout_of_the_event_loops_own(
    backend: str, n_jobs: int, return_as: str, gate: Path, tmp_path: Path
) -> None:
    async def main() -> None:
        waiting = results(Parallel(n_jobs, backend, return_as), [delayed(gated)(gate, tmp_path, 0)])
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(waiting, 0.3)

    run(main)


@pytest.mark.parametrize("return_as", ["list", "generator"])
def test_failures_are_handled_as_in_other_runs(return_as: str) -> None:
    import os

    async def main() -> None:
        died, stuck, fine = await results(
            Parallel(2, return_as=return_as, on_error="return", task_timeout=1, batch_size=1),
            [delayed(os._exit)(3), delayed(time.sleep)(1000), delayed(square)(3)],
        )
        assert isinstance(died, WorkerDied)
        assert isinstance(stuck, TaskTimeout)
        assert fine == 9

    run(main)


@each_form
def test_stop(backend: str, n_jobs: int, return_as: str, gate: Path, tmp_path: Path) -> None:
    async def main() -> None:
        parallel = Parallel(n_jobs, backend, return_as, batch_size=1)
        calls = [delayed(square)(3), *(delayed(gated)(gate, tmp_path, x) for x in range(20))]
        task = asyncio.create_task(results(parallel, calls))
        while begun(tmp_path) < n_jobs:  # then the first call is done
            await asyncio.sleep(0.01)
        parallel.stop()
        assert await task == [9]

    run(main)


@each_stream
def test_calls_wait_until_results_are_taken(backend: str, n_jobs: int, return_as: str) -> None:
    given = 0

    def calls() -> Iterator[Any]:
        nonlocal given
        for x in range(200):
            given += 1
            yield delayed(square)(x)

    async def main() -> None:
        taken = 0
        async for _ in Parallel(n_jobs, backend, return_as, max_pending=8, batch_size=1).acall(calls()):
            taken += 1
            if taken in (1, 50):
                await asyncio.sleep(0.2)
                if return_as == "generator_unordered":  # else what waits behind an unfinished call is not counted
                    assert given <= taken + 8 + 8  # those read ahead are no calls yet
        assert taken == 200

    run(main)


def test_many_runs_at_once() -> None:
    async def main() -> None:
        runs = [
            results(Parallel(2, backend), [delayed(square)(x) for x in range(n)])
            for n, (backend, _) in enumerate(WORKERS * 3)
        ]
        found = await asyncio.gather(*runs)
        assert found == [[x * x for x in range(n)] for n in range(len(runs))]

    run(main)


def test_one_run_at_a_time(gate: Path, tmp_path: Path) -> None:
    async def main() -> None:
        parallel = Parallel(2)
        task = asyncio.create_task(results(parallel, [delayed(gated)(gate, tmp_path, 1)]))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="already running"):
            await results(parallel, [delayed(square)(1)])
        gate.touch()
        assert await task == [1]

    run(main)


def test_kept_workers() -> None:
    async def main() -> None:
        with Parallel(2, "multiprocessing") as parallel:
            import os

            pids = {*await results(parallel, [delayed(os.getpid)() for _ in range(20)])}
            assert {*await results(parallel, [delayed(os.getpid)() for _ in range(20)])} <= pids
            assert len(pids) <= 2

    run(main)


def drawn(rng: Any) -> int:
    return int(rng.integers(1000))


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_seeds_and_known_results_are_as_without_an_event_loop(n_jobs: int) -> None:
    class Known:
        def get(self, call: Any, default: Any) -> Any:
            return -1 if call[0] is abs and call[1] == (2,) else default

        def put(self, call: Any, value: Any) -> None:
            pass

    options: Any = {"n_jobs": n_jobs, "backend": "threading"}
    seeded = [delayed(drawn)() for _ in range(5)]
    assert asyncio.run(Parallel(seed=1, **options).acall(seeded)) == Parallel(seed=1, **options)(seeded)
    plain = [delayed(abs)(i) for i in range(4)]
    assert asyncio.run(Parallel(memory=Known(), **options).acall(plain)) == [0, 1, -1, 3]
