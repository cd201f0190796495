"""The way of a batch to a worker process and back.

::

    calls ─> columns (functions, args, kwargs) ─dumps─> stream ──────────────┐
               │                 │                                           ├─ Payload ─> worker: run_batch ─┐
               │                 └─ large buffers ─> a segment of the batch ─┤                                │
               ├─ arrays above max_nbytes ─> Workspace, once per run         │                                │
               └─ functions by value, shared() ─> objects, once per worker ──┘                                │
    values <─loads─ stream and mapped buffers <─ Reply <──────────── segments of the parent's, filled there ──┘
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
from concurrent.futures import Executor, Future
from typing import Any

from shoal._pickling import dumps, loads
from shoal._tracebacks import in_a_line
from shoal.errors import CallUnpicklingError
from shoal.observe._terminal import bars_drawn
from shoal.parallel._batch import Batch, folded
from shoal.parallel._failures import Unsendable, cause, explain, raised, span
from shoal.parallel._segments import Segment, map_part
from shoal.parallel._settings import Nested
from shoal.parallel._shared import Shared
from shoal.parallel._status import StatusRow, WorkerStatus, status_page
from shoal.parallel._transport import Received, Request, Transport, refused
from shoal.parallel._worker import LONG_STREAM, Payload, Pickled, Reply, RunId, fetch, forget, run_batch
from shoal.parallel._worker_limits import WorkerLimits
from shoal.parallel._workspace import Workspace, is_array

#: Objects that are sent once per worker, so many at most per run: a run may make a new function for each call.
ONCE = 64
#: Segments offered to a batch for its results, at most, and to all batches in flight.
OUTLETS, OUTLETS_IN_ALL = 32, 256

#: What runs have sent to workers in bytes, above which workers are told at once that a run has ended, and not with
#: their next batch.
FORGET_AT_ONCE = 2**20


class ProcessRequest(Request):
    """A batch on its way to a worker process.

    Attributes
    ----------
    calls
        The pickled calls; None if they could not be pickled.
    needed
        The keys of the objects that a worker receives once per run, and that the calls refer to.
    outlets
        The segments into which the worker may write results.

    Parameters
    ----------
    leased, segment
        Arrays of the workspace that the calls refer to, and the segment of their large buffers.
    """

    def __init__(
        self,
        batch: Batch,
        workspace: Workspace,
        calls: Pickled | None,
        refusal: Unsendable | None = None,
        needed: frozenset[int] = frozenset(),
        leased: list[Any] | None = None,
        segment: Segment | None = None,
    ) -> None:
        super().__init__(batch, refusal)
        self.calls, self.needed = calls, needed
        self.outlets: list[Segment] = []
        self._workspace, self._leased, self._segment = workspace, leased or [], segment

    def used(self, numbers: set[int]) -> None:
        """Release the outlets: the batch has ended, and wrote into those of these numbers."""
        for number, outlet in enumerate(self.outlets):
            if number in numbers:
                outlet.close()
            else:
                self._workspace.recycle(outlet)
        self.outlets = []

    def close(self) -> None:
        """Release all of it."""
        self._workspace.release(self._leased)
        self._leased = []
        for segment in (self._segment, *self.outlets):
            if segment is not None:
                segment.close()
        self._segment, self.outlets = None, []


class _Live:
    """The runs that go on in this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._latest = 0
        self._runs: set[RunId] = set()

    def begin(self) -> RunId:
        """Return the identity of a run that begins."""
        with self._lock:
            self._latest += 1
            run = os.getpid(), self._latest
            self._runs.add(run)
            return run

    def end(self, run: RunId) -> None:
        """Take note that a run has ended."""
        with self._lock:
            self._runs.discard(run)

    def now(self) -> tuple[tuple[RunId, ...], RunId]:
        """Return the runs that go on, and the horizon, from which on this says nothing."""
        with self._lock:
            return tuple(self._runs), (os.getpid(), self._latest + 1)


_live = _Live()

if hasattr(os, "register_at_fork"):
    # The runs are the parent's, and a thread of its may hold the lock.
    os.register_at_fork(after_in_child=_live.__init__)  # type: ignore[misc]


class ProcessTransport(Transport[ProcessRequest]):
    """Pickles the batches of one run for worker processes, and unpickles the results.

    Parameters
    ----------
    workspace
        The run's shared arrays.
    nested
        What runs that the calls make are to know.
    in_flight
        The number of batches that may be in flight at a time.
    seconds
        After which a worker begins no further call of a batch, and gives the rest back.
    noted
        Whether each executor has one worker, which can note what it runs.
    limits
        When a worker asks to be replaced; None for no limit.
    once
        The functions and classes by value that are sent once per worker, at most; others go with each batch.

    Notes
    -----
    Not thread-safe: it belongs to the thread that owns the run.
    """

    def __init__(
        self,
        workspace: Workspace,
        nested: Nested,
        in_flight: int,
        seconds: float,
        noted: bool,
        limits: WorkerLimits | None,
        once: int = ONCE,
    ) -> None:
        self._workspace = workspace
        self._most_once = once
        self._noted = noted
        self._nested = nested
        self._seconds = seconds
        self._limits = limits
        self._run = _live.begin()
        self._keys: dict[int, tuple[int, Any, frozenset[int]]] = {}  # by id: key, the object itself, what it needs
        self._objects: dict[int, Pickled] = {}
        self._segments: list[Segment] = []
        self._needed: set[int] = set()
        self._known: dict[Executor, set[int]] = {}
        self._cells: dict[Executor, StatusRow | None] = {}
        self._weight = 0
        self._outlets_per_call = 0.0
        self._most_outlets = max(1, min(OUTLETS, OUTLETS_IN_ALL // in_flight))

    def encode(self, batch: Batch) -> ProcessRequest:
        """Pickle a batch; what is large goes to shared memory."""
        self._needed.clear()
        try:
            functions = folded(batch.functions) if type(batch.functions) is list else batch.functions
            stream, buffers = dumps((functions, batch.args, batch.kwargs), self._reduce, self._once)
            calls, segment = self._pickled(stream, buffers)
        except Exception as error:
            self._workspace.release(self._workspace.acquire())
            return ProcessRequest(batch, self._workspace, None, explain(batch, error, self._reduce, self._once))
        leased = self._workspace.acquire()
        request = ProcessRequest(batch, self._workspace, calls, None, frozenset(self._needed), leased, segment)
        request.nbytes = len(stream) + sum(view.nbytes for view in buffers)
        try:
            wanted = math.ceil(self._outlets_per_call * len(batch))
            with contextlib.suppress(OSError):  # without outlets, results come through the pipe
                for _ in range(max(1, min(wanted, self._most_outlets))):
                    request.outlets.append(self._workspace.empty_segment())
        except BaseException:
            request.close()
            raise
        return request

    def send(self, request: ProcessRequest, executor: Executor) -> Future[Reply]:
        """Submit a batch, with the objects that the worker does not have yet."""
        if request.refusal is not None or request.calls is None:
            return refused(request.refusal or AssertionError("a request without calls"))
        known = self._known.setdefault(executor, set())
        if executor not in self._cells:
            self._cells[executor] = status_page.allocate() if self._noted else None
        cell = self._cells[executor]
        objects = {key: self._objects[key] for key in request.needed - known}
        payload = Payload(
            self._run,
            *_live.now(),
            request.batch.start,
            self._seconds,
            request.calls,
            objects,
            tuple(outlet.path for outlet in request.outlets),
            self._nested,
            None if cell is None else cell.address,
            self._limits,
            bars_drawn(),
        )
        try:
            future = executor.submit(run_batch, payload)
        except BaseException:
            request.close()
            raise
        known.update(objects)
        return future

    def explain(self, _batch: Batch, error: Exception) -> Unsendable:
        """Raise what a worker's process has failed with: no call is to blame."""
        raise error

    def status(self, executor: Executor) -> WorkerStatus | None:
        """Return what an executor's worker does; None where workers do not tell."""
        cell = self._cells.get(executor)
        return None if cell is None else cell.read()

    def forget(self, executor: Executor) -> None:
        """Take note that an executor's worker does not have what was sent there."""
        self._known.pop(executor, None)

    def replaced(self, executor: Executor) -> WorkerStatus | None:
        """Take note that an executor has, or will have, another worker; return what the last one did at its end.

        To be called before that worker can run a batch; from any thread.
        """
        self.forget(executor)
        running = self.status(executor)
        cell = self._cells.get(executor)
        if cell is not None:
            cell.clear()
        return running

    def receive(self, request: ProcessRequest, reply: Reply) -> Received:
        """Unpickle the results; large ones are mapped where the worker has written them."""
        batch = request.batch
        buffers = [map_part(request.outlets[outlet].fd, offset, nbytes) for outlet, offset, nbytes in reply.places]
        request.used({outlet for outlet, _, _ in reply.places})
        stream = buffers.pop(0) if reply.stream is None else memoryview(reply.stream)
        request.returned = stream.nbytes + sum(view.nbytes for view in buffers)
        try:
            values: list[Any] = loads(stream, buffers=buffers)
        except Exception as error:
            refusal = CallUnpicklingError(f"the result of {span(batch)}", "the calling process", in_a_line(error))
            refusal.__cause__ = cause(error)
            return Received([], refusal, True)
        if values:
            self._outlets_per_call = max(self._outlets_per_call, len(reply.places) / len(values))
        failure = reply.failure
        if failure is None:
            return Received(values, None)
        return Received(values, raised(failure, batch, len(values)), failure.whole)

    def close(self) -> None:
        """End the run: workers drop what was sent for it, and its arrays are freed."""
        _live.end(self._run)
        if self._weight > FORGET_AT_ONCE:
            for executor in self._known:
                with contextlib.suppress(RuntimeError):  # it is gone, and what it knew with it
                    executor.submit(forget, *_live.now())
        self._known.clear()
        for cell in self._cells.values():
            if cell is not None:
                status_page.free(cell)
        self._cells.clear()
        for segment in self._segments:
            segment.close()
        self._segments.clear()
        self._workspace.close()

    def _reduce(self, obj: Any) -> Any:
        if type(obj) is Shared:
            return self._send_once(obj.value)
        return self._workspace.reduce(obj) if is_array(obj) else NotImplemented

    def _once(self, function: Any) -> Any:
        if id(function) not in self._keys and len(self._keys) >= self._most_once:
            return NotImplemented
        return self._send_once(function)

    def _send_once(self, obj: Any) -> Any:
        """Return the reduction to an object that each worker receives once per run."""
        if id(obj) not in self._keys:
            outer, self._needed = self._needed, set()
            try:
                stream, buffers = dumps(obj, self._reduce)
                needs = frozenset(self._needed)
            finally:
                self._needed = outer
            pickled, segment = self._pickled(stream, buffers)
            if segment is not None:
                self._segments.append(segment)
            self._weight += len(stream) + sum(view.nbytes for view in buffers)
            key = len(self._keys)
            self._objects[key] = pickled
            self._keys[id(obj)] = key, obj, needs
        key, _, needs = self._keys[id(obj)]
        self._needed |= needs | {key}
        return fetch, (self._run, key)

    def _pickled(self, stream: bytes, buffers: list[memoryview]) -> tuple[Pickled, Segment | None]:
        """Put what is large of a pickle into a segment; return what is sent, and the segment."""
        long = len(stream) >= LONG_STREAM
        if not buffers and not long:
            return Pickled(stream), None
        segment, places = self._workspace.stage([memoryview(stream), *buffers] if long else buffers)
        return Pickled(None if long else stream, segment.path, tuple(places)), segment
