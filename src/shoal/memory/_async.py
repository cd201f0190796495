"""Cached coroutine functions.

They differ from other cached functions in that they wait for leases without blocking the event loop.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from typing import Any

from shoal._typing import P, R
from shoal.memory._cached import MemorizedFunc
from shoal.memory._calls import ABSENT, Computed, Unsaved
from shoal.memory._parts import describe
from shoal.memory._results import NotMemorizedResult, metadata_of
from shoal.memory.storage._leases import Leases
from shoal.memory.store import Key

#: For stores whose leases tasks cannot wait for: other processes do not know of them.
_leases = Leases(None)


class AsyncMemorizedFunc(MemorizedFunc[P, Coroutine[Any, Any, R]]):
    """A cached coroutine function. Await its calls, and those of its methods that call the function."""

    async def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Return the result of a call, loaded from the store or computed and saved."""
        key = self._key(args, kwargs)
        if key is None:
            return await self.func(*args, **kwargs)
        found: R = self._load(key, args, kwargs)
        if found is ABSENT:
            found, computed = await self._compute_or_await(key, args, kwargs, self._load)
            if computed is not None:
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
        if found is ABSENT:
            found, computed = await self._compute_or_await(key, args, kwargs, self._refer)
            if computed is not None:
                return self._reference(key, computed)
        return found

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

    async def _compute_or_await(
        self, key: Key, args: Any, kwargs: Any, lookup: Callable[..., Any]
    ) -> tuple[Any, Computed | None]:
        """Compute and save a result, or wait while another caller does: as :meth:`_compute_or_wait` does."""
        if not self._compute_once:
            return ABSENT, await self._compute_async(key, args, kwargs)
        while True:
            try:
                async with self._lease(key) as ours:
                    found = ABSENT if ours and not self._contains(key) else lookup(key, args, kwargs)
                    if found is not ABSENT:
                        return found, None
                    if ours:
                        computed = await self._compute_async(key, args, kwargs)
                        if computed.saved:
                            return ABSENT, computed
                        raise Unsaved
            except Unsaved:
                return ABSENT, computed

    def _lease(self, key: Key) -> Any:
        """Return the lease of a key; one for the tasks of this process if those of the store would block the loop."""
        lease = self.store_backend.lease(key)
        return lease if hasattr(lease, "__aenter__") else _leases.lease(key)

    async def _compute_async(self, key: Key, args: Any, kwargs: Any) -> Computed:
        """Await the function, and save the result: as :meth:`_compute` does."""
        self._counts.miss()
        if self._verbose > 0:
            self._print_call(key, args, kwargs)
        description = describe(self._identity, args, kwargs, self._saving.keep_arguments)
        started = time.perf_counter()
        return self._save(key, await self.func(*args, **kwargs), description, started)
