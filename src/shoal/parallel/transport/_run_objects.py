"""Objects that each worker process receives once per run: functions and classes by value, and values of shared().

::

    parent: RunObjects                                           worker: _worker
    a batch needs an object for the first time
      └─ it is pickled once, and gets a key
    in the pickle of each batch: fetch(run, key) ──────────────> fetch: decodes the object once
    with the first batch for a worker: the pickled object ─────> keeps it under (run, key)
    with later batches: the runs that are live ────────────────> forget: drops the objects of ended runs
"""

from __future__ import annotations

import contextlib
import os
import threading
from concurrent.futures import Executor
from typing import Any, NamedTuple

from shoal._forks import CALLERS, after_fork_in_child
from shoal._pickling import as_usual, dumps
from shoal.parallel.transport._segments import Segment
from shoal.parallel.transport._shared import Shared
from shoal.parallel.transport._worker import LONG_STREAM, Pickled, RunId, fetch, forget
from shoal.parallel.transport._workspace import Workspace, is_array

#: If a run has sent more bytes than this, its workers are told at once that it has ended, not with their next batch.
FORGET_AT_ONCE = 2**20


class _LiveRuns:
    """The runs of this process that have not ended.

    Notes
    -----
    Thread-safe.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all runs. In a forked child they belong to the parent, and one of its threads may hold the lock."""
        self._lock = threading.Lock()
        self._latest = 0
        self._runs: set[RunId] = set()

    def begin(self) -> RunId:
        """Return the identity of a new run."""
        with self._lock:
            self._latest += 1
            run = os.getpid(), self._latest
            self._runs.add(run)
            return run

    def end(self, run: RunId) -> None:
        """Record that a run has ended."""
        with self._lock:
            self._runs.discard(run)

    def now(self) -> tuple[tuple[RunId, ...], RunId]:
        """Return the live runs, and the horizon: a run that begins later has this number or a higher one."""
        with self._lock:
            return tuple(self._runs), (os.getpid(), self._latest + 1)


live_runs = _LiveRuns()
after_fork_in_child(live_runs.reset, CALLERS)


class _RunObject(NamedTuple):
    """An object that is sent once per worker."""

    key: int
    obj: Any  # kept, so that no other object gets its id
    pickled: Pickled
    needs: frozenset[int]  # the keys of the objects inside it


class RunObjects:
    """The objects that each worker receives once, of one run.

    Parameters
    ----------
    workspace
        The shared arrays of the run.
    most_by_value
        The number of objects up to which functions and classes by value are sent once per worker. After that, they
        are sent with each batch, because a run may make a new function for each call.

    Attributes
    ----------
    run
        The identity of the run.

    Notes
    -----
    Not thread-safe: it belongs to the thread that owns the run. Only :meth:`forget` may be called by any thread.
    """

    def __init__(self, workspace: Workspace, most_by_value: int) -> None:
        self.run = live_runs.begin()
        self._workspace = workspace
        self._most_by_value = most_by_value
        self._by_id: dict[int, _RunObject] = {}
        self._by_key: list[_RunObject] = []
        self._needed: set[int] = set()  # the keys of the objects inside what is being pickled
        self._sent: dict[Executor, set[int]] = {}
        self._segments: list[Segment] = []
        self._nbytes = 0

    def pickle(self, obj: Any, once_by_value: bool = True) -> tuple[bytes, list[memoryview], frozenset[int]]:
        """Pickle an object that refers to others by their keys.

        Parameters
        ----------
        obj
            The object.
        once_by_value
            Whether functions and classes by value, inside the object, are sent once per worker.

        Returns
        -------
        The stream, the buffers beside it, and the keys of the objects that the worker needs to decode it.
        """
        outer, self._needed = self._needed, set()
        try:
            stream, buffers = dumps(obj, self.reduce, self.reduce_by_value if once_by_value else as_usual)
            return stream, buffers, frozenset(self._needed)
        finally:
            self._needed = outer

    def address(self, obj: Any) -> tuple[tuple[RunId, int], frozenset[int]]:
        """Return the arguments of :func:`fetch` for an object, and the keys of the objects that this needs."""
        outer, self._needed = self._needed, set()
        try:
            _, address = self._reduce_to_key(obj)
            return address, frozenset(self._needed)
        finally:
            self._needed = outer

    def reduce(self, obj: Any) -> Any:
        """Reduce arrays and values of shared(): the hook `reduce` of :func:`~shoal._pickling.dumps`."""
        if type(obj) is Shared:
            return self._reduce_to_key(obj.value)
        return self._workspace.reduce(obj) if is_array(obj) else NotImplemented

    def reduce_by_value(self, function: Any) -> Any:
        """Reduce functions and classes that no import finds: the hook `by_value` of :func:`~shoal._pickling.dumps`."""
        if id(function) not in self._by_id and len(self._by_id) >= self._most_by_value:
            return NotImplemented
        return self._reduce_to_key(function)

    def sent_to(self, executor: Executor) -> set[int]:
        """Return the keys of the objects that the worker of an executor has. The caller adds those that it sends.

        Each worker has a set of its own. If the worker is replaced while a batch is sent, the set that the caller has
        is no longer in use, and it does not matter what the caller adds.
        """
        return self._sent.setdefault(executor, set())

    def pickled(self, keys: frozenset[int]) -> dict[int, Pickled]:
        """Return pickled objects by their keys."""
        return {key: self._by_key[key].pickled for key in keys}

    def forget(self, executor: Executor) -> None:
        """Record that the worker of an executor has none of the objects."""
        self._sent.pop(executor, None)

    def close(self) -> None:
        """End the run: workers drop its objects."""
        live_runs.end(self.run)
        if self._nbytes > FORGET_AT_ONCE:
            for executor in self._sent:
                with contextlib.suppress(RuntimeError):  # the executor is gone, and its objects with it
                    executor.submit(forget, *live_runs.now())
        self._sent.clear()
        for segment in self._segments:
            segment.close()
        self._segments.clear()

    def _reduce_to_key(self, obj: Any) -> Any:
        """Reduce an object to its key, which the worker looks up."""
        known = self._by_id.get(id(obj))
        if known is None:
            stream, buffers, needs = self.pickle(obj, once_by_value=False)
            pickled, segment = pickled_in(self._workspace, stream, buffers)
            if segment is not None:
                self._segments.append(segment)
            self._nbytes += len(stream) + sum(view.nbytes for view in buffers)
            known = _RunObject(len(self._by_key), obj, pickled, needs)
            self._by_id[id(obj)] = known
            self._by_key.append(known)
        self._needed |= known.needs | {known.key}
        return fetch, (self.run, known.key)


def pickled_in(workspace: Workspace, stream: bytes, buffers: list[memoryview]) -> tuple[Pickled, Segment | None]:
    """Write a long stream and all buffers into a segment; return what is sent, and the segment if there is one."""
    long = len(stream) >= LONG_STREAM
    if not buffers and not long:
        return Pickled(stream), None
    segment, ranges = workspace.stage([memoryview(stream), *buffers] if long else buffers)
    return Pickled(None if long else stream, segment.path, tuple(ranges)), segment
