"""What the worker of a plain executor runs for shoal, and the objects that it keeps."""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

from shoal._forks import BACKENDS, after_fork_in_child
from shoal.backends._failure import Failure, failure_of
from shoal.backends._packing import Packed, pack_results, unpack
from shoal.backends.base import process_name

_WORKER = "a worker"
#: Pickles contain everything, because an executor may pickle with a protocol that has no buffers.
IN_BAND = 2**63


class Parcel(NamedTuple):
    """A call for a worker.

    Attributes
    ----------
    stream
        The pickled function, positional arguments and keywords.
    caller, run
        The process, by its :func:`~shoal.backends.base.process_name`, and the run that it comes from.
    runs, keys
        The runs of that process that have not ended, and the keys of the objects of this run that are needed still. The
        worker drops all others.
    needed
        The keys of the objects without which the call cannot run.
    arguments
        The keys of further positional arguments, each with whether every call gets a new copy.
    objects
        The pickles of objects that the worker may not have.
    """

    stream: bytes
    caller: str
    run: int
    runs: list[int]
    keys: list[int]
    needed: list[int]
    arguments: list[tuple[int, bool]]
    objects: dict[int, bytes]


class Answer(NamedTuple):
    """What came of a call.

    Attributes
    ----------
    worker
        The process that has run it: its :func:`~shoal.backends.base.process_name`.
    stream
        The pickled result; None if the worker lacks an object that the call needs, or the call has failed.
    failure
        The exception of the call.
    """

    worker: str
    stream: bytes | None
    failure: Failure | None = None


class _Kept:
    """The objects that this worker keeps: pickled, and also decoded once a call has needed them so. Thread-safe."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Drop everything. A forked child also needs a new lock."""
        self._lock = threading.Lock()
        self._runs: dict[tuple[str, int], dict[int, _Object]] = {}

    def update(self, parcel: Parcel) -> dict[int, _Object]:
        """Keep the objects that came with a call, and drop those that nobody needs; return those of its run."""
        with self._lock:
            for caller, run in list(self._runs):
                if caller == parcel.caller and run not in parcel.runs:
                    del self._runs[caller, run]
            objects = self._runs.setdefault((parcel.caller, parcel.run), {})
            for key in objects.keys() - set(parcel.keys):
                del objects[key]
            for key, stream in parcel.objects.items():
                objects.setdefault(key, _Object(stream))
            return objects.copy()


class _Object:
    """An object of a run."""

    def __init__(self, stream: bytes) -> None:
        self._stream: bytes | None = stream
        self._value: Any = None

    def value(self, fresh: bool) -> Any:
        """Return the object: the same for all calls, or a new copy. It is always the one, or always the other."""
        stream = self._stream
        if stream is None:
            return self._value
        value = unpack(Packed(stream, []), "a function, an argument or a shared object", _WORKER)
        if not fresh:
            self._value, self._stream = value, None
        return value


_kept = _Kept()
after_fork_in_child(_kept.forget, BACKENDS)
_here = threading.local()


def kept_object(key: int) -> Any:
    """Return an object of the run whose call is unpickled in this thread.

    Pickles contain a call of this in place of a function by value.
    """
    return _here.objects[key].value(False)


def run_task(parcel: Parcel) -> Answer:
    """Run a call in a worker."""
    worker = process_name()
    objects = _kept.update(parcel)
    if not objects.keys() >= set(parcel.needed):
        return Answer(worker, None)
    try:
        _here.objects = objects
        try:
            function, args, kwargs = unpack(Packed(parcel.stream, []), "a batch of calls", _WORKER)
            args += tuple(objects[key].value(fresh) for key, fresh in parcel.arguments)
        finally:
            del _here.objects
        return Answer(worker, pack_results(function(*args, **kwargs), IN_BAND).stream)
    except BaseException as error:  # also Ctrl-C, which reaches all processes of a terminal
        return Answer(worker, None, failure_of(error, error))
