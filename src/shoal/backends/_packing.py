"""The pickles that the backends over engines exchange with their workers: of batches, of stored objects, of results."""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import Future
from pickle import PickleBuffer
from typing import Any, NamedTuple, TypeVar

from shoal._pickling import OUT_OF_BAND_BYTES, as_usual, culprit, dumps, loads
from shoal.errors import CallPicklingError, CallUnpicklingError

T = TypeVar("T")

#: Arguments of at least this size are stored. For smaller ones, a copy in each batch costs less.
STORED_BYTES = 2**20
#: The maximum number of functions and classes by value that one run stores. A run may make a new one for each call.
ONCE = 64


class Packed(NamedTuple):
    """A pickle."""

    stream: bytes
    buffers: list[Any]  # for engines that transfer them without pickling them


def pack(obj: Any, by_value: Callable[[Any], Any] = as_usual, out_of_band: int = OUT_OF_BAND_BYTES) -> Packed:
    """Pickle `obj`; `by_value` and `out_of_band` as for :func:`shoal._pickling.dumps`."""
    stream, buffers = dumps(obj, by_value=by_value, out_of_band=out_of_band)
    return Packed(stream, [PickleBuffer(buffer) for buffer in buffers])


def pack_results(returned: Any, out_of_band: int = OUT_OF_BAND_BYTES) -> Packed:
    """Pickle what a batch has returned: an object whose `values` are the results, or any other.

    Raises
    ------
    CallPicklingError
        If a part cannot be pickled; the message names it.
    """
    try:
        return pack(returned, out_of_band=out_of_band)
    except Exception as error:
        values = getattr(returned, "values", None)
        path, reason = culprit(values if type(values) is list else returned, "results")
        raise CallPicklingError("the results of a batch of calls", path, reason) from error


def unpack(packed: Packed, description: str, place: str, copy: bool = True) -> Any:
    """Unpickle an object, by default with copies of its buffers, so that they are writable.

    If that fails, raise CallUnpicklingError, whose message contains `description` and `place`.
    """
    try:
        buffers = [bytearray(buffer) for buffer in packed.buffers] if copy else packed.buffers
        return loads(packed.stream, buffers=buffers)
    except Exception as error:
        raise CallUnpicklingError(description, place, f"{type(error).__name__}: {error}") from error


class PackedFuture(Future[T]):
    """The future of a task. It unpacks the result in the thread that calls :meth:`result`, not in the engine's."""

    def result(self, timeout: float | None = None) -> T:
        """Return the unpacked result."""
        packed: Any = super().result(timeout)
        value: T = unpack(packed, "the results of a batch of calls", "the calling process")
        return value


def nbytes_of(obj: Any) -> int:
    """Return the bytes of an array, or of an object made of arrays; 0 for others."""
    nbytes = getattr(obj, "nbytes", None)
    if isinstance(nbytes, int) and not isinstance(obj, memoryview):
        return nbytes
    if hasattr(obj, "memory_usage"):  # a DataFrame, for example
        usage = obj.memory_usage(index=False)
        return int(getattr(usage, "sum", lambda: usage)())
    return nbytes_of(obj.data) if hasattr(obj, "indptr") else 0  # a sparse matrix


_SIMPLE = frozenset({bool, float, complex, type(None)})


def room_left(value: Any, room: int) -> int:
    """Return how many bytes of `room` the pickle of a value leaves.

    The result is 0 or less if the value does not fit, or is more than numbers, texts, arrays and containers of them.
    """
    kind = type(value)
    if kind in _SIMPLE:
        return room - 20
    if kind is int:
        return room - 10 - int(value.bit_length()) // 8
    if kind is str or kind is bytes:
        return room - 10 - 4 * len(value)
    if kind is dict:
        return room_left([*value.keys(), *value.values()], room) if len(value) < room else 0
    if kind is list or (issubclass(kind, tuple) and (kind is tuple or kind.__module__.startswith("shoal."))):
        room -= 80
        for item in value:
            room = room_left(item, room) if room > 0 else 0
        return room
    numpy = sys.modules.get("numpy")
    if numpy is not None and (kind is numpy.ndarray or issubclass(kind, numpy.generic)) and not value.dtype.hasobject:
        return room - 300 - int(value.nbytes)
    return 0
