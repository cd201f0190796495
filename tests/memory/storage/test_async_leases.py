"""Cached coroutine functions compute a result once in all processes, and the event loop goes on meanwhile."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from _memory_util import RUNS, make_memory, ran
from _store_util import PATIENCE, Start, heard, make_start, tell
from shoal import Memory
from shoal.memory.store import Key

memory, start = pytest.fixture(make_memory), pytest.fixture(make_start)

_PROGRAM = """
    import asyncio
    from shoal import Memory
    memory = Memory(store, verbose=0)

    async def f(x, seconds=0.3):
        say("computes")
        if seconds is None:
            await asyncio.get_running_loop().run_in_executor(None, input)
        else:
            await asyncio.sleep(seconds)
        return 2 * x
    f.__module__ = "module"
    f = memory.cache(f, version=1, ignore=["seconds"])

    async def tick():
        for _ in range(5):
            await asyncio.sleep(0.001)
        say("ticked")

    async def main(x, seconds=0.3):
        results = await asyncio.gather(f(x, seconds), f(x, seconds), tick())
        say(*results[:2])
    """


def test_one_process_computes_while_all_loops_go_on(start: Start) -> None:
    first = start(_PROGRAM + "asyncio.run(main(21, None))")
    assert [heard(first), heard(first)] == ["computes", "ticked"]
    others = [start(_PROGRAM + "asyncio.run(main(21))") for _ in range(2)]
    assert [heard(process) for process in others] == ["ticked"] * 2
    tell(first, "go on")
    assert [process.communicate(timeout=PATIENCE)[0] for process in (first, *others)] == ["42 42\n"] * 3


def test_processes_that_begin_together_compute_once(start: Start) -> None:
    processes = [start(_PROGRAM + "say('ready'); input(); asyncio.run(main(21))") for _ in range(3)]
    assert [heard(process) for process in processes] == ["ready"] * 3
    for process in processes:
        tell(process, "go")
    said = [process.communicate(timeout=PATIENCE)[0].split() for process in processes]
    assert [words[-2:] for words in said] == [["42", "42"]] * 3
    assert sum(words.count("computes") for words in said) == 1


def test_another_process_takes_over_from_a_killed_one(start: Start) -> None:
    first = start(_PROGRAM + "asyncio.run(main(21, 1000))")
    assert heard(first) == "computes"
    others = [start(_PROGRAM + "say('ready'); asyncio.run(main(21, 0.3))") for _ in range(2)]
    assert [heard(process) for process in others] == ["ready"] * 2
    first.kill()
    said = [process.communicate(timeout=PATIENCE)[0].split() for process in others]
    assert sorted(words.count("computes") for words in said) == [0, 1]
    assert [words[-2:] for words in said] == [["42", "42"]] * 2


def test_a_cancelled_task_gives_its_lease_back(start: Start) -> None:
    first = start(
        _PROGRAM
        + """
    async def cancelled():
        task = asyncio.ensure_future(f(21, 1000))
        await asyncio.get_running_loop().run_in_executor(None, input)
        task.cancel()
        await asyncio.wait([task])
        say("cancelled")
    asyncio.run(cancelled())
    input()
    """
    )
    assert heard(first) == "computes"
    others = [start(_PROGRAM + "say('ready'); asyncio.run(main(21))") for _ in range(2)]
    assert [heard(process) for process in others] == ["ready"] * 2
    tell(first, "cancel")
    assert heard(first) == "cancelled"
    said = [process.communicate(timeout=PATIENCE)[0].split() for process in others]
    assert sorted(words.count("computes") for words in said) == [0, 1]


@pytest.mark.parametrize("kinds", [("async", "async"), ("async", "sync")])
def test_a_circle_of_processes_is_no_deadlock(start: Start, kinds: tuple[str, str]) -> None:
    """Each has a lease and wants that of the other. The last one to ask computes instead of waiting."""
    tasks = """
    import asyncio
    me = int(sys.argv[1])
    async def main():
        async with store.lease(key(me)) as mine:
            say(mine)
            input()
            async with store.lease(key(1 - me)) as other:
                say(other)
    asyncio.run(main())
    """
    threads = """
    me = int(sys.argv[1])
    with store.lease(key(me)) as mine:
        say(mine)
        input()
        with store.lease(key(1 - me)) as other:
            say(other)
    """
    processes = [start(tasks if kind == "async" else threads, number) for number, kind in enumerate(kinds)]
    assert [heard(process) for process in processes] == ["True"] * 2
    for process in processes:
        tell(process, "go on")
    said = [process.communicate(timeout=PATIENCE)[0].split()[-1] for process in processes]
    assert "True" in said


def test_a_thread_that_blocks_its_loop_does_not_wait_for_a_task_of_it(memory: Memory) -> None:
    """Neither for that task, nor for a caller who waits for it."""
    store: Any = memory.store_backend
    key, other = Key("module/f", "a" * 32), Key("module/f", "b" * 32)
    begun, given = threading.Event(), []

    def elsewhere() -> None:
        with store.lease(other) as mine:
            begun.set()
            given.append(mine)
            with store.lease(key) as mine:
                given.append(mine)

    async def owns() -> None:
        async with store.lease(key) as mine:
            given.append(mine)
            await asyncio.sleep(0.2)

    async def main() -> None:
        owner = asyncio.ensure_future(owns())
        await asyncio.sleep(0)
        with store.lease(key) as mine:
            given.append(mine)
        thread.start()
        begun.wait()
        with store.lease(other):  # blocks the loop, until the other thread computes without waiting, or this one does
            pass
        await owner

    thread = threading.Thread(target=elsewhere)
    asyncio.run(asyncio.wait_for(main(), PATIENCE))
    thread.join()
    assert given[:3] == [True, True, True]


def test_tasks_and_their_children(memory: Memory) -> None:
    """Cached calls await others: common ones, and what is computed already by the caller of their caller."""

    @memory.cache
    async def leaf(x: int) -> int:
        await asyncio.sleep(0.05)
        return ran(x)

    @memory.cache
    async def outer(x: int, depth: int = 1) -> int:
        inner = [outer(x), outer(x)] if RUNS.count("outer") == 0 and RUNS.append("outer") is None else []
        return sum(await asyncio.gather(leaf(1), leaf(2), leaf(x), *inner))

    async def main() -> list[int]:
        return await asyncio.gather(outer(3), outer(4), leaf(4))

    assert asyncio.run(asyncio.wait_for(main(), PATIENCE)) == [18, 7, 4]
    assert sorted(run for run in RUNS if run != "outer") == [1, 2, 3, 4]


def test_a_circle_of_tasks_is_no_deadlock(memory: Memory) -> None:
    asked: list[str] = []

    async def ask(name: str, other: Any) -> int:
        asked.append(name)
        await asyncio.sleep(0.05)
        return (await other(0)) + 1 if asked.count(name) == 1 else 0

    @memory.cache
    async def one(x: int) -> int:
        return await ask("one", other)

    @memory.cache
    async def other(x: int) -> int:
        return await ask("other", one)

    async def main() -> list[int]:
        return await asyncio.gather(one(0), other(0))

    assert sum(asyncio.run(asyncio.wait_for(main(), PATIENCE))) in (1, 2, 3)
    assert 2 <= len(asked) <= 4


def test_loops_in_several_threads(memory: Memory) -> None:
    @memory.cache
    async def slow(x: int) -> int:
        await asyncio.sleep(0.1)
        return ran(x)

    async def main() -> list[int]:
        return await asyncio.gather(slow(1), slow(1))

    results: list[Any] = []
    threads = [threading.Thread(target=lambda: results.append(asyncio.run(main()))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [[1, 1]] * 3
    assert RUNS == [1]
