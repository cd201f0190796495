"""Runs of calls: the type of the results follows from the function, from `return_as` and from `on_error`."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextvars import ContextVar
from typing import TYPE_CHECKING

from shoal import Parallel, delayed, effective_n_jobs, parallel_config, shared

if TYPE_CHECKING:
    from typing_extensions import assert_type
else:

    def assert_type(value, _kind):
        return value


LEVEL: ContextVar[int] = ContextVar("level", default=0)


def shown(number: int, *, width: int = 1) -> str:
    return str(number).rjust(width)


def half(number: int) -> float:
    return number / 2


def looked_up(table: dict[int, str], number: int) -> str:
    return table[number]


def a_list() -> None:
    results = Parallel(n_jobs=2, backend="threading")(delayed(shown)(number, width=3) for number in range(4))
    assert_type(results, list[str])
    assert results == ["  0", "  1", "  2", "  3"]
    mixed = Parallel(2, "threading")([delayed(shown)(1), delayed(shown)(2)], total=2)
    assert_type(mixed, list[str])
    squares = Parallel(n_jobs=2, prefer="threads")(delayed(pow)(number, 2) for number in range(4))
    assert_type(squares, list[int])


def generators() -> None:
    ordered = Parallel(2, "threading", "generator")(delayed(half)(number) for number in range(4))
    assert_type(ordered, Generator[float, None, None])
    unordered = Parallel(2, "threading", return_as="generator_unordered")(delayed(half)(number) for number in range(4))
    assert_type(unordered, Generator[float, None, None])
    assert sum(ordered) == sum(unordered) == 3
    ordered.close()


def exceptions_among_the_results() -> None:
    results = Parallel(2, "threading", on_error="return")(delayed(half)(number) for number in range(4))
    assert_type(results, list[float | Exception])
    assert [result for result in results if not isinstance(result, Exception)] == [0, 0.5, 1, 1.5]
    stream = Parallel(2, "threading", "generator", on_error="return")(delayed(half)(number) for number in range(4))
    assert_type(stream, Generator[float | Exception, None, None])
    assert [*stream] == results


def arguments() -> None:
    parallel = Parallel(
        n_jobs=-1,
        backend="threading",
        verbose=0,
        timeout=60.0,
        pre_dispatch="2 * n_jobs",
        batch_size=lambda pace: 1,
        max_nbytes="1M",
        mmap_mode="r",
        progress=lambda done, total: None,
        retries=2,
        retry_on=(OSError, ValueError),
        retry_wait=lambda attempts: 0.1,
        task_timeout=None,
        max_worker_memory=None,
        forward=["logging"],
        context=[LEVEL],
        on_message=lambda index, message: None,
    )
    assert_type(parallel.n_jobs, int)
    assert_type(parallel.total, int | None)
    with parallel as entered:
        assert_type(entered(delayed(half)(number) for number in range(2)), list[float])
    with parallel_config(backend="threading", n_jobs=2, retries=1):
        assert_type(effective_n_jobs(), int)


def wrong_arguments() -> None:
    delayed(shown)("one")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    delayed(shown)(1, widht=2)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    delayed(shown)()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def wrong_settings() -> None:
    Parallel(return_as="lst")  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
    Parallel(prefer="thread")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Parallel(retries="2")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Parallel(on_error="ignore")  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]


def a_shared_table() -> None:
    table = shared({1: "one", 2: "two"})
    results = Parallel(2, "threading")(delayed(looked_up)(table, number) for number in (1, 2))
    assert_type(results, list[str])
    assert results == ["one", "two"]
    delayed(looked_up)(shared([1]), 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def on_an_event_loop() -> None:
    results = await Parallel(2, "threading").acall(delayed(half)(number) for number in range(4))
    assert_type(results, list[float])
    async for result in Parallel(2, "threading", "generator").acall(delayed(half)(number) for number in range(4)):
        assert_type(result, float)
    async with Parallel(2, "threading", on_error="return") as parallel:
        assert_type(await parallel.acall(delayed(half)(number) for number in range(4)), list[float | Exception])


class Loud(Parallel):
    """A program may derive from Parallel."""


def takes_any(parallel: Parallel) -> list[float]:
    return parallel(delayed(half)(number) for number in range(2))


if __name__ == "__main__":
    a_list()
    generators()
    exceptions_among_the_results()
    arguments()
    a_shared_table()
    asyncio.run(on_an_event_loop())
    assert_type(Loud(2, "threading")(delayed(half)(number) for number in range(2)), list[float])
    assert takes_any(Parallel(2, "threading")) == [0, 0.5]
