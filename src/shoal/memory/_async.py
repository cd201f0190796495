"""Cached coroutine functions.

Of several tasks of one event loop that miss the same result, one computes it and the others wait for that task. No
lease is acquired, because waiting for another process would block the event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any

from shoal._typevars import P, R
from shoal.memory._cached import MemorizedFunc
from shoal.memory._calls import ABSENT, Computed
from shoal.memory._parts import describe
from shoal.memory._results import NotMemorizedResult, metadata_of
from shoal.memory.store import Key


class AsyncMemorizedFunc(MemorizedFunc[P, Coroutine[Any, Any, R]]):
    """A cached coroutine function. Await its calls, and those of its methods that call the function."""

    async def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Return the result of a call, loaded from the store or computed and saved."""
        key = self._key(args, kwargs)
        if key is None:
            return await self.func(*args, **kwargs)
        found: R = self._load(key, args, kwargs)
        if found is ABSENT:
            computed = await self._compute_or_await(key, args, kwargs)
            found = computed.value if self.mmap_mode is None else self._mapped(key, computed)
        return found

    async def call_and_shelve(  # type: ignore[override]
        self, /, *args: P.args, **kwargs: P.kwargs
    ) -> Any:
        """Return a reference to the result of a call, which is computed and saved if it is not in the store."""
        key = self._key(args, kwargs)
        if key is None:
            return NotMemorizedResult(await self.func(*args, **kwargs))
        found = self._refer(key, args, kwargs)
        return self._reference(key, await self._compute_or_await(key, args, kwargs)) if found is ABSENT else found

    async def call(  # type: ignore[override]
        self, /, *args: P.args, **kwargs: P.kwargs
    ) -> Any:
        """Compute the result of a call, even if it is in the store already, and save it; return it and its metadata."""
        key = self._key(args, kwargs)
        if key is None:
            return await self.func(*args, **kwargs), {}
        computed = await self._compute_async(key, args, kwargs)
        value = computed.value if self.mmap_mode is None else self._mapped(key, computed)
        return value, metadata_of(computed.meta)

    async def _compute_or_await(self, key: Key, args: Any, kwargs: Any) -> Computed:
        """Compute a result, or await the task that does. Compute it too if that task fails or is cancelled."""
        if not self._compute_once:
            return await self._compute_async(key, args, kwargs)
        pending = self.__dict__.setdefault("_pending", {})
        loop = asyncio.get_running_loop()
        known: asyncio.Future[Computed] | None = pending.get((id(loop), key))
        if known is not None:
            await asyncio.wait([known])
            if known.cancelled():
                return await self._compute_async(key, args, kwargs)
            computed = known.result()
            value = self._load(key, args, kwargs)  # an object of its own, as any later call gets
            return computed if value is ABSENT else computed._replace(value=value)
        future = pending[id(loop), key] = loop.create_future()
        try:
            computed = await self._compute_async(key, args, kwargs)
            future.set_result(computed)
            return computed
        finally:
            del pending[id(loop), key]
            if not future.done():
                future.cancel()

    async def _compute_async(self, key: Key, args: Any, kwargs: Any) -> Computed:
        """Await the function, and save the result: as :meth:`_compute` does."""
        self._counts.miss()
        if self._verbose > 0:
            self._print_call(key, args, kwargs)
        description = describe(self._identity, args, kwargs, self._saving.keep_arguments)
        started = time.perf_counter()
        return self._save(key, await self.func(*args, **kwargs), description, started)

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        state.pop("_pending", None)
        return state
