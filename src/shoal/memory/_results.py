"""A result that is kept, and read when it is asked for."""

from __future__ import annotations

import time
from typing import Any

from shoal.memory import _said
from shoal.memory.store import Key, Meta, Store, create, location_of
from shoal.observe._logger import Logger, pformat


def metadata_of(meta: Meta) -> dict[str, Any]:
    """Return what is kept with a result as joblib shows it."""
    return {"duration": meta.duration, "input_args": meta.arguments, "time": meta.created}


class MemorizedResult(Logger):
    """A result that is kept on disk: small, picklable, read by :meth:`get`.

    Parameters
    ----------
    location : str, os.PathLike or Store
        Where it is: the folder that has the functions' folders in it, or the store itself.
    call_id : (str, str), optional
        The function's path and the digest of the arguments. `func` and `args_id` may be given in its place.
    backend : str
        The kind of store.
    mmap_mode : {None, "r+", "r", "w+", "c"}
        How arrays are mapped.
    verbose : int
        What is printed when it is read.
    timestamp : float, optional
        When the Memory was made.
    metadata : dict, optional
        What is known of the call; else it is read.

    Attributes
    ----------
    func_id, args_id : str
        The function's path and the digest of the arguments; `func` is `func_id`.
    metadata : dict
        "duration" in seconds, "input_args" (texts by name) and "time" (since the epoch); empty if it is lost.
    duration : float or None
        The seconds that the call took.

    Notes
    -----
    Safe to use from several threads.
    """

    def __init__(
        self,
        location: Any = None,
        call_id: tuple[str, str] | None = None,
        backend: str = "local",
        mmap_mode: str | None = None,
        verbose: int = 0,
        timestamp: float | None = None,
        metadata: dict[str, Any] | None = None,
        *,
        func: str | None = None,
        args_id: str | None = None,
        nbytes: int | None = None,
        used: float | None = None,
    ) -> None:
        super().__init__()
        if call_id is None:
            if func is None or args_id is None:
                raise TypeError("give call_id, or func and args_id: they say which result it is")
            call_id = func, args_id
        store = create(backend, location)
        if store is None:
            raise TypeError(f"{location!r} is no place that results are kept in")
        self._call_id = Key(*call_id)
        self.store_backend: Store = store
        self.mmap_mode, self.verbose, self.timestamp = mmap_mode, verbose, timestamp
        self.metadata = metadata if metadata is not None else self._metadata()
        self.duration = self.metadata.get("duration")
        self.nbytes, self.used = nbytes, used

    def _metadata(self) -> dict[str, Any]:
        try:
            return metadata_of(self.store_backend.meta(self._call_id))
        except KeyError:
            return {}

    @property
    def func_id(self) -> str:
        """The function's path."""
        return self._call_id.function

    @property
    def func(self) -> str:
        """The function's path."""
        return self._call_id.function

    @property
    def args_id(self) -> str:
        """The digest of the arguments."""
        return self._call_id.call

    @property
    def arguments(self) -> dict[str, str]:
        """The arguments, as texts, by name."""
        arguments: dict[str, str] = self.metadata.get("input_args", {})
        return arguments

    @property
    def age(self) -> float | None:
        """The seconds since it was kept."""
        created = self.metadata.get("time")
        return None if created is None else time.time() - created

    def get(self) -> Any:
        """Read it.

        Raises
        ------
        KeyError
            If it is there no more, or cannot be read.
        """
        if self.verbose > 1:
            where = f"{location_of(self.store_backend)}/{self.func_id}/{self.args_id}"
            arguments = self.metadata.get("input_args")
            print(_said.loading(self.func_id, where, self.timestamp, arguments, self.verbose))  # noqa: T201
        try:
            return self.store_backend.load(self._call_id, self.mmap_mode)
        except KeyError:
            raise KeyError(
                f"Non-existing item (may have been cleared).\nThere is no result {self.args_id} of {self.func_id} "
                f"in {location_of(self.store_backend)}"
            ) from None

    def clear(self) -> None:
        """Remove it."""
        self.store_backend.discard(self._call_id)

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(location="{location_of(self.store_backend)}", '
            f'func="{self.func_id}", args_id="{self.args_id}")'
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "timestamp": None}


class NotMemorizedResult:
    """A result that is kept nowhere but here."""

    __slots__ = ("valid", "value")

    def __init__(self, value: Any) -> None:
        self.value, self.valid = value, True

    def get(self) -> Any:
        """Return it.

        Raises
        ------
        KeyError
            If it was cleared.
        """
        if not self.valid:
            raise KeyError("No value stored.")
        return self.value

    def clear(self) -> None:
        """Forget it."""
        self.value, self.valid = None, False

    def __repr__(self) -> str:
        if self.valid:
            return f"{type(self).__name__}({pformat(self.value)})"
        return f"{type(self).__name__} with no value"

    def __getstate__(self) -> dict[str, Any]:
        return {"valid": self.valid, "value": self.value}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.valid, self.value = state["valid"], state["value"]
