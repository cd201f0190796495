"""What a task of ray's does in a worker, and what its pickles look like."""

from __future__ import annotations

from collections.abc import Callable
from pickle import PickleBuffer
from typing import Any, NamedTuple

import ray

from shoal._pickling import culprit, dumps, loads
from shoal.errors import CallPicklingError, CallUnpicklingError


class Packed(NamedTuple):
    """A pickle."""

    stream: bytes
    buffers: list[Any]  # which ray ships as they are


def pack(obj: Any, by_value: Callable[[Any], Any] = lambda _function: NotImplemented) -> Packed:
    """Pickle `obj`; `by_value` as for :func:`shoal._pickling.dumps`."""
    stream, buffers = dumps(obj, by_value=by_value)
    return Packed(stream, [PickleBuffer(buffer) for buffer in buffers])


def unpack(packed: Packed, what: str, place: str = "a worker of ray's", copy: bool = True) -> Any:
    """Rebuild what was packed.

    Parameters
    ----------
    packed
        The pickle.
    what, place
        What cannot be rebuilt where, if that fails.
    copy
        Whether the buffers are copied, so that they can be written to.

    Raises
    ------
    CallUnpicklingError
        If it cannot be rebuilt.
    """
    try:
        buffers = [bytearray(buffer) for buffer in packed.buffers] if copy else packed.buffers
        return loads(packed.stream, buffers=buffers)
    except Exception as error:
        raise CallUnpicklingError(what, place, f"{type(error).__name__}: {error}") from error


class Stored(NamedTuple):
    """What stands for an object in ray's store."""

    reference: Any  # the ObjectRef
    key: int | None  # under which workers keep the object; None if each batch has its own


class _Kept:
    """The objects that a worker keeps decoded: those of the executor whose task it has run last."""

    def __init__(self) -> None:
        self._token: str | None = None
        self._objects: dict[int, Any] = {}

    def learn(self, token: str, stored: list[Stored]) -> None:
        """Fetch what of an executor's objects is missing; let go of those of others."""
        if token != self._token:
            self._token, self._objects = token, {}
        for reference, key in stored:
            if key is not None and key not in self._objects:
                what = "a function, or a shared object,"
                self._objects[key] = unpack(ray.get(reference), what, copy=False)  # nobody may change it

    def get(self, key: int) -> Any:
        """Return an object."""
        return self._objects[key]


_kept = _Kept()


def kept_object(key: int) -> Any:
    """Return an object that this worker keeps; what stands in pickles for functions by value."""
    return _kept.get(key)


def run_task(token: str, packed: Packed, kept: list[Stored], places: list[int | None], *stored: Any) -> Packed:
    """Run a call in a worker of ray's.

    Parameters
    ----------
    token, kept
        Whose call it is, and what this worker is to keep decoded for it.
    packed
        The call.
    places
        What stands at the end of its positional arguments: a key of `kept`, or None for the next of `stored`.
    """
    _kept.learn(token, kept)
    fn, args, kwargs = unpack(packed, "a batch of calls")
    rest = iter(stored)
    for key in places:
        value = next(rest) if key is None else _kept.get(key)
        if key is None and type(value) is Packed:
            value = unpack(value, "an argument")
        args += (value,)
    returned = fn(*args, **kwargs)
    try:
        return pack(returned)
    except Exception as error:
        path, reason = culprit(returned, "results")
        raise CallPicklingError("what came of a batch of calls", path, reason) from error
