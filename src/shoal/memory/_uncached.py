"""Functions whose results are not kept, with the methods of those whose are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from shoal.memory._results import NotMemorizedResult


class NotMemorizedFunc:
    """A function whose results are not kept: what :meth:`Memory.cache` makes where there is no location.

    Parameters
    ----------
    func : callable
        The function.
    """

    def __init__(self, func: Callable[..., Any]) -> None:
        self.func = func

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Call the function."""
        return self.func(*args, **kwargs)

    def call_and_shelve(self, /, *args: Any, **kwargs: Any) -> Any:
        """Call the function, and return its result in a :class:`NotMemorizedResult`."""
        return NotMemorizedResult(self.func(*args, **kwargs))

    def call(self, /, *args: Any, **kwargs: Any) -> Any:
        """Return the result of a call, and an empty dictionary."""
        return self.func(*args, **kwargs), {}

    def check_call_in_cache(self, /, *args: Any, **kwargs: Any) -> bool:
        """Return False."""
        return False

    def clear(self, warn: bool = True) -> None:
        """Do nothing."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(func={self.func})"


class AsyncNotMemorizedFunc(NotMemorizedFunc):
    """A coroutine function whose results are not kept."""

    async def call_and_shelve(self, /, *args: Any, **kwargs: Any) -> Any:
        """Await the function, and return its result in a :class:`NotMemorizedResult`."""
        return NotMemorizedResult(await self.func(*args, **kwargs))

    async def call(self, /, *args: Any, **kwargs: Any) -> Any:
        """Return the result of a call, and an empty dictionary."""
        return await self.func(*args, **kwargs), {}
