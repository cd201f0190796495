"""A cached function of a class, looked up in one of its instances."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shoal.memory._cached import MemorizedFunc


class BoundMemorizedFunc:
    __slots__ = ("__func__", "__self__")

    @property
    def __doc__(self) -> str | None:  # type: ignore[override]
        return self.__func__.__doc__

    def __init__(self, function: MemorizedFunc, instance: Any) -> None:
        self.__func__, self.__self__ = function, instance

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Return the result of a call."""
        return self.__func__(self.__self__, *args, **kwargs)

    def call_and_shelve(self, /, *args: Any, **kwargs: Any) -> Any:
        """Return a reference to the result of a call."""
        return self.__func__.call_and_shelve(self.__self__, *args, **kwargs)

    def check_call_in_cache(self, /, *args: Any, **kwargs: Any) -> bool:
        """Tell whether the result of a call is kept and valid."""
        return self.__func__.check_call_in_cache(self.__self__, *args, **kwargs)

    def call(self, /, *args: Any, **kwargs: Any) -> Any:
        """Compute the result of a call and keep it."""
        return self.__func__.call(self.__self__, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name in ("__func__", "__self__"):  # not there yet while it is being unpickled
            raise AttributeError(name)
        return getattr(self.__func__, name)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, BoundMemorizedFunc)
            and self.__func__ is other.__func__
            and self.__self__ is other.__self__
        )

    def __hash__(self) -> int:
        return hash((id(self.__func__), id(self.__self__)))

    def __repr__(self) -> str:
        return f"<bound {self.__func__!r} of {self.__self__!r}>"

    def __reduce__(self) -> Any:
        return BoundMemorizedFunc, (self.__func__, self.__self__)
