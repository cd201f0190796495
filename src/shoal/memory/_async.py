"""Coroutine functions whose results are kept.

Of the tasks of one event loop that miss the same result at a time, one computes it and the others wait for it. No
lease is taken: waiting for another process would keep the loop.
"""

from __future__ import annotations

import asyncio
from typing import Any

from shoal.memory._cached import ABSENT, MemorizedFunc
from shoal.memory._results import NotMemorizedResult, metadata_of
from shoal.memory.store import Key, Meta


class AsyncMemorizedFunc(MemorizedFunc):
    """A coroutine function whose results are kept; calls, and those of its methods that call it, are awaited."""

    async def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Return the result of a call: the one that is kept, or else a new one, which is then kept."""
        key = self._key(args, kwargs)
        if key is None:
            return await self.func(*args, **kwargs)
        value = self._load(key, args, kwargs)
        return self._value(await self._awaited(key, args, kwargs)) if value is ABSENT else value

    async def call_and_shelve(self, /, *args: Any, **kwargs: Any) -> Any:
        """Make sure that the result of a call is kept, and return a reference to it."""
        key = self._key(args, kwargs)
        if key is None:
            return NotMemorizedResult(await self.func(*args, **kwargs))
        result = self._shelf(key, args, kwargs)
        return self._reference(await self._awaited(key, args, kwargs)) if result is ABSENT else result

    async def call(self, /, *args: Any, **kwargs: Any) -> Any:
        """Compute the result of a call, whether or not it is known, and keep it."""
        key = self._key(args, kwargs)
        if key is None:
            return await self.func(*args, **kwargs), {}
        computed = await self._computed(key, args, kwargs)
        return self._value(computed), metadata_of(computed[1])

    async def _awaited(self, key: Key, args: Any, kwargs: Any) -> tuple[Any, Meta, Key | None]:
        """Compute a result, unless another task does; should that fail, or be cancelled, each tries for itself."""
        if not self._compute_once:
            return await self._computed(key, args, kwargs)
        under_way = self.__dict__.setdefault("_under_way", {})
        place = id(asyncio.get_running_loop()), key
        known: asyncio.Future[tuple[Any, Meta, Key | None]] | None = under_way.get(place)
        if known is not None:
            await asyncio.wait([known])
            if not known.cancelled():
                computed: tuple[Any, Meta, Key | None] = known.result()
                value = self._load(key, args, kwargs)  # an object of its own, as from any later call
                return (computed[0] if value is ABSENT else value), *computed[1:]
            return await self._computed(key, args, kwargs)
        future = under_way[place] = asyncio.get_running_loop().create_future()
        try:
            computed = await self._computed(key, args, kwargs)
            future.set_result(computed)
            return computed
        finally:
            del under_way[place]
            if not future.done():
                future.cancel()

    async def _computed(self, key: Key, args: Any, kwargs: Any) -> tuple[Any, Meta, Key | None]:
        arguments, started = self._begun(key, args, kwargs)
        return self._done(key, await self.func(*args, **kwargs), arguments, started)

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        state.pop("_under_way", None)
        return state
