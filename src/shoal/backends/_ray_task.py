"""The function of a ray task, and the objects that its worker keeps."""

from __future__ import annotations

from typing import Any, NamedTuple

import ray

from shoal.backends._packing import Packed, pack_results, unpack

_WORKER = "a ray worker"


class StoredObject(NamedTuple):
    """A reference to an object in ray's store."""

    reference: Any  # the ObjectRef
    key: int | None  # under which workers keep the decoded object; None: they decode it for each batch


class _WorkerObjects:
    """The decoded objects that a worker keeps. They belong to the executor whose task it has run last."""

    def __init__(self) -> None:
        self._token: str | None = None
        self._objects: dict[int, Any] = {}

    def fetch(self, token: str, stored: list[StoredObject]) -> None:
        """Fetch the missing objects of an executor, and drop those of other executors."""
        if token != self._token:
            self._token, self._objects = token, {}
        for reference, key in stored:
            if key is not None and key not in self._objects:
                description = "a function or a shared object"
                self._objects[key] = unpack(ray.get(reference), description, _WORKER, copy=False)  # read-only

    def get(self, key: int) -> Any:
        """Return an object."""
        return self._objects[key]


_kept = _WorkerObjects()


def kept_object(key: int) -> Any:
    """Return an object that this worker keeps. Pickles contain a call of this in place of a function by value."""
    return _kept.get(key)


def run_task(token: str, packed: Packed, kept: list[StoredObject], keys: list[int | None], *stored: Any) -> Packed:
    """Run a packed call in a ray worker, which keeps the objects `kept` decoded for the executor with this token.

    `keys` and `stored` are further positional arguments of the call: a key selects a kept object, None the next item of
    `stored`.
    """
    _kept.fetch(token, kept)
    fn, args, kwargs = unpack(packed, "a batch of calls", _WORKER)
    rest = iter(stored)
    for key in keys:
        value = next(rest) if key is None else _kept.get(key)
        if key is None and type(value) is Packed:
            value = unpack(value, "an argument", _WORKER)
        args += (value,)
    return pack_results(fn(*args, **kwargs))
