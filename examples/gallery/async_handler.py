"""
In a web handler
================

A server under asyncio must answer while it computes. ``acall`` runs calls in worker processes, and the event loop goes
on. A plain loop in the handler would stop it.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

import matplotlib.pyplot as plt

from shoal import Parallel, delayed

# %%
# What a request asks for:


def primes(begin: int) -> int:
    numbers = range(begin, begin + 3000)
    return sum(all(number % divisor for divisor in range(2, int(number**0.5) + 1)) for number in numbers)


async def handler_that_blocks(request: int) -> int:
    return sum(primes(request + part) for part in range(0, 24_000, 3000))


async def handler(request: int) -> int:
    return sum(await Parallel(n_jobs=2).acall(delayed(primes)(request + part) for part in range(0, 24_000, 3000)))


# %%
# A heartbeat stands for all other requests: it wants to run every 5 ms, and notes how late it is.
# The servers uvicorn and aiohttp call handlers in the same way.


async def serve(handle: Callable[[int], Awaitable[int]]) -> tuple[list[float], list[float]]:
    times: list[float] = []
    late: list[float] = []

    async def heartbeat() -> None:
        while True:
            wanted = time.perf_counter() + 0.005
            await asyncio.sleep(0.005)
            times.append(time.perf_counter() - begin)
            late.append(1000 * (time.perf_counter() - wanted))

    begin = time.perf_counter()
    beat = asyncio.create_task(heartbeat())
    for request in (100_000, 200_000, 300_000):
        await asyncio.sleep(0.05)
        await handle(request)
    await asyncio.sleep(0.05)
    beat.cancel()
    return times, late


# %%
# In a program of your own, this is ``asyncio.run(serve(handler))``.

blocked = asyncio.run(serve(handler_that_blocks))
free = asyncio.run(serve(handler))
print(f"the heartbeat is late by at most {max(blocked[1]):.0f} ms, and with acall by {max(free[1]):.0f} ms")

figure, axis = plt.subplots(figsize=(8, 3.4), layout="constrained")
axis.plot(*blocked, "o-", markersize=3, label="a loop in the handler")
axis.plot(*free, "o-", markersize=3, label="await parallel.acall(...)")
axis.set(title="How late other requests are", xlabel="seconds", ylabel="ms")
axis.legend()
plt.show()
