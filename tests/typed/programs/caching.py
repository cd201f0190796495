"""Cached functions: they keep the parameters and the result of the function, as functions and as methods."""

from __future__ import annotations

import asyncio
import tempfile
from typing import TYPE_CHECKING, Any

from shoal import MemorizedFunc, MemorizedResult, Memory, NotMemorizedResult, Parallel, delayed, expires_after

if TYPE_CHECKING:
    from typing_extensions import assert_type
else:

    def assert_type(value, _kind):
        return value


MEMORY = Memory(tempfile.mkdtemp(), verbose=0)


@MEMORY.cache
def shown(number: int, *, width: int = 1) -> str:
    return str(number).rjust(width)


@MEMORY.cache(ignore=["verbose"], cache_validation_callback=expires_after(days=1))
def half(number: int, verbose: bool = False) -> float:
    return number / 2


@MEMORY.cache
async def fetched(name: str) -> bytes:
    return name.encode()


class Model:
    @MEMORY.cache
    def score(self, x: int) -> float:
        return x / 2

    @MEMORY.cache(ignore=["self"])
    def rank(self, x: int) -> int:
        return x

    @MEMORY.cache
    async def load(self, name: str) -> bytes:
        return name.encode()

    @classmethod
    @MEMORY.cache
    def named(cls, name: str) -> str:
        return name

    @staticmethod
    @MEMORY.cache
    def size(text: str) -> int:
        return len(text)


def functions() -> None:
    assert_type(shown(3, width=2), str)
    assert_type(half(3), float)
    assert_type(shown.call_and_shelve(3), MemorizedResult[str] | NotMemorizedResult[str])
    assert_type(shown.call_and_shelve(3).get(), str)
    assert_type(shown.call(3), tuple[str, dict[str, Any]])
    assert_type(half.check_call_in_cache(3), bool)
    assert_type(MEMORY.eval(pow, 2, 3), int)
    quiet = MEMORY.cache(len)
    assert_type(quiet("four"), int)


def wrong_arguments() -> None:
    shown("three")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    half(number=3, verbos=True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Model().score("three")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    MEMORY.cache(ignored=["x"])  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]


def methods() -> None:
    model = Model()
    assert_type(model.score(3), float)
    assert_type(model.score.call_and_shelve(3).get(), float)
    assert_type(model.rank(3), int)
    assert_type(Model.score(model, 3), float)
    assert_type(Model.named("a"), str)
    assert_type(Model.size("a"), int)


async def coroutines() -> None:
    assert_type(await fetched("a"), bytes)
    assert_type(await fetched.call(name="a"), tuple[bytes, dict[str, Any]])
    assert_type((await fetched.call_and_shelve("a")).get(), bytes)
    assert_type(await Model().load("a"), bytes)


def in_runs() -> None:
    results = Parallel(2, "threading", memory=MEMORY)(delayed(shown)(number) for number in range(3))
    assert_type(results, list[str])
    delayed(shown)("three")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def takes_any(function: MemorizedFunc) -> str:
    return function.func_id


if __name__ == "__main__":
    functions()
    methods()
    asyncio.run(coroutines())
    in_runs()
    takes_any(shown)
