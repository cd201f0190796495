"""Brings batches to worker processes and back.

::

    calls ─> columns (functions, args, kwargs) ─dumps─> stream ──────────────┐
               │                 │                                           ├─ Payload ─> worker: run_batch ─┐
               │                 └─ large buffers ─> a segment of the batch ─┤                                │
               ├─ arrays above max_nbytes ─> Workspace, once per run         │                                │
               └─ functions by value, shared() ─> RunObjects, once per worker┘                                │
    values <─loads─ stream and mapped buffers <─ Reply <── segments that the parent made, filled by the worker┘
"""

from __future__ import annotations

import math
from collections.abc import Collection
from concurrent.futures import Executor, Future
from typing import Any

from shoal._pickling import loads
from shoal._tracebacks import cause_of, in_a_line
from shoal.backends._workers import Turn
from shoal.errors import CallUnpicklingError
from shoal.observe._terminal import bars_drawn
from shoal.parallel._batch import Batch, folded
from shoal.parallel.options._settings import Nested
from shoal.parallel.transport._contract import (
    Received,
    Request,
    Transport,
    Unsendable,
    failed_future,
    find_unsendable,
    raised,
    span,
)
from shoal.parallel.transport._run_objects import RunObjects, live_runs, pickled_in
from shoal.parallel.transport._scope import Scope, run_measured_batch, run_scoped_batch
from shoal.parallel.transport._segments import Segment, map_part
from shoal.parallel.transport._status import StatusRow, WorkerStatus, status_page
from shoal.parallel.transport._variables import Variables
from shoal.parallel.transport._worker import Payload, Pickled, Reply, run_batch
from shoal.parallel.transport._worker_limits import WorkerLimits
from shoal.parallel.transport._workspace import Workspace

#: The number of functions and classes by value that a run sends once per worker. It is limited, because a run may make
#: a new one for each call.
MOST_BY_VALUE = 64
#: The number of segments for results that a batch gets at most, and all batches in flight together.
RESULT_SEGMENTS, RESULT_SEGMENTS_IN_ALL = 32, 256


class ProcessRequest(Request):
    """A batch in flight to a worker process.

    Attributes
    ----------
    calls
        The pickled calls. They are empty if the request has a refusal.
    needed
        The keys of the :class:`RunObjects` that the calls refer to.
    result_segments
        The segments into which the worker may write results.

    Parameters
    ----------
    workspace
        The shared arrays of the run.
    arrays
        The shared arrays that the calls refer to.
    segment
        The segment of the large buffers of the calls; None if they have none.
    """

    def __init__(
        self,
        batch: Batch,
        workspace: Workspace,
        calls: Pickled,
        refusal: Unsendable | None = None,
        needed: frozenset[int] = frozenset(),
        arrays: Collection[Any] = (),
        segment: Segment | None = None,
    ) -> None:
        super().__init__(batch, refusal)
        self.calls, self.needed = calls, needed
        self.result_segments: list[Segment] = []
        self._workspace, self._arrays, self._segment = workspace, list(arrays), segment

    def release_result_segments(self, used: set[int]) -> None:
        """Give back the result segments. The worker has written into those with these numbers."""
        for number, segment in enumerate(self.result_segments):
            self._workspace.recycle(segment, number in used)
        self.result_segments = []

    def close(self) -> None:
        """Release the arrays and the segments of the batch."""
        self._workspace.release(self._arrays)
        self._arrays = []
        for segment in (self._segment, *self.result_segments):
            if segment is not None:
                segment.close()
        self._segment, self.result_segments = None, []


class ProcessTransport(Transport[ProcessRequest]):
    """Pickles the batches of one run for worker processes, and unpickles their results.

    Parameters
    ----------
    workspace
        The shared arrays of the run.
    nested
        The settings for runs inside the calls.
    conditions
        Those of :func:`~shoal.observe._saying.conditions`; None if what calls say is not forwarded.
    in_flight
        The number of batches that may be in flight at a time.
    seconds
        The time after which a worker begins no further call of a batch. It sends back the results up to then.
    writes_status
        Whether each executor has a single worker, so that it can have a row in the status page.
    limits
        When a worker asks to be replaced; None for no limits.
    most_by_value
        The number of functions and classes by value that are sent once per worker; others go with each batch.
    variables
        The context variables of the calls; None for none.

    Notes
    -----
    Not thread-safe: it belongs to the thread that owns the run. Only :meth:`replaced` may be called by any thread.
    """

    def __init__(
        self,
        workspace: Workspace,
        nested: Nested,
        conditions: bytes | None,
        in_flight: int,
        seconds: float,
        writes_status: bool,
        limits: WorkerLimits | None,
        most_by_value: int = MOST_BY_VALUE,
        variables: Variables | None = None,
    ) -> None:
        self._workspace = workspace
        self._objects = RunObjects(workspace, most_by_value)
        self._nested = nested
        self._conditions = conditions
        self._seconds = seconds
        self._limits = limits
        self._writes_status = writes_status
        self._status_rows: dict[Executor, StatusRow | None] = {}
        self._scope: Scope | None = None
        self._scope_needs: frozenset[int] = frozenset()
        if variables is not None:
            address, self._scope_needs = self._objects.address(variables)
            self._scope = Scope(False, False, address)
        self._result_segments_per_call = 0.0
        self._most_result_segments = max(1, min(RESULT_SEGMENTS, RESULT_SEGMENTS_IN_ALL // in_flight))

    def take_messages(self, messages: bool, steps: bool) -> None:
        """Let calls send messages, and steps, to the run."""
        self._scope = Scope(messages, steps, None if self._scope is None else self._scope.variables)

    def encode(self, batch: Batch) -> ProcessRequest:
        """Pickle a batch. Large arrays and buffers go to shared memory."""
        workspace, objects = self._workspace, self._objects
        try:
            functions = folded(batch.functions) if type(batch.functions) is list else batch.functions
            stream, buffers, needed = objects.pickle((functions, batch.args, batch.kwargs))
            calls, segment = pickled_in(workspace, stream, buffers)
        except Exception as error:
            workspace.release(workspace.acquire())
            refusal = find_unsendable(batch, error, objects.reduce, objects.reduce_by_value)
            return ProcessRequest(batch, workspace, Pickled(b""), refusal)
        request = ProcessRequest(
            batch, workspace, calls, None, needed | self._scope_needs, workspace.acquire(), segment
        )
        request.nbytes = len(stream) + (sum(view.nbytes for view in buffers) if buffers else 0)
        wanted = math.ceil(self._result_segments_per_call * len(batch))
        try:
            for _ in range(max(1, min(wanted, self._most_result_segments))):
                request.result_segments.append(workspace.empty_segment())
        except OSError:  # without segments, results come through the pipe
            pass
        except BaseException:
            request.close()
            raise
        return request

    def send(self, request: ProcessRequest, executor: Executor) -> Future[tuple[Any, ...]]:
        """Submit a batch, with the objects that the worker does not have yet."""
        if request.refusal is not None:
            return failed_future(request.refusal)
        if executor not in self._status_rows:
            self._status_rows[executor] = status_page.allocate() if self._writes_status else None
            if isinstance(executor, Turn):
                executor.notes.listen(self.on_note)
        row = self._status_rows[executor]
        if row is not None and self.record is not None:
            batch = request.batch
            self.record.sent(row.address[1], batch.start, len(batch), batch.functions)
        sent = self._objects.sent_to(executor)
        missing = request.needed - sent
        objects = self._objects.pickled(missing) if missing else {}
        payload = Payload(
            self._objects.run,
            *live_runs.now(),
            request.batch.start,
            self._seconds,
            tuple(request.calls),
            objects,
            tuple([segment.path for segment in request.result_segments]),  # a generator would take longer
            self._nested,
            None if row is None else row.address,
            self._limits,
            self._conditions,
            bars_drawn(),
        )
        scope = None if self._scope is None else tuple(self._scope)
        try:
            # As plain values: a class of tuples takes seven times as long to pickle.
            if self.slow_above is not None:
                future = executor.submit(run_measured_batch, self.slow_above, scope, *payload)
            elif scope is not None:
                future = executor.submit(run_scoped_batch, scope, *payload)
            else:
                future = executor.submit(run_batch, *payload)
        except BaseException:
            request.close()
            raise
        sent.update(objects)
        return future

    def receive(self, request: ProcessRequest, fields: tuple[Any, ...]) -> Received:
        """Unpickle the results. Large ones are mapped from the segments into which the worker has written them."""
        reply, batch, segments = Reply(*fields), request.batch, request.result_segments
        buffers: list[memoryview] = []
        used: set[int] = set()
        if reply.ranges:
            buffers = [map_part(segments[number].fd, offset, nbytes) for number, offset, nbytes in reply.ranges]
            used = {number for number, _, _ in reply.ranges}
        request.release_result_segments(used)
        stream = buffers.pop(0) if reply.stream is None else memoryview(reply.stream)
        request.returned = stream.nbytes + (sum(view.nbytes for view in buffers) if buffers else 0)
        values: list[Any] = []
        error: BaseException | None = None
        unknown = reply.call_unknown
        try:
            values = loads(stream, buffers=buffers)
        except Exception as failure:
            unknown = True
            error = CallUnpicklingError(f"the result of {span(batch)}", "the calling process", in_a_line(failure))
            error.__cause__ = cause_of(failure)
        else:
            if reply.failure is not None:
                error = raised(reply.failure, batch, None if unknown else len(values))
            if values and reply.ranges:
                used_per_call = len(reply.ranges) / len(values)
                self._result_segments_per_call = max(self._result_segments_per_call, used_per_call)
        return Received(values, error, reply.elapsed, unknown, reply.said, reply.retiring, reply.told, reply.measured)

    def explain(self, _batch: Batch, error: Exception) -> Unsendable:
        """Raise the error of a worker process: no call is to blame."""
        raise error

    def status(self, executor: Executor) -> WorkerStatus | None:
        """Return what the worker of an executor does; None if it does not write that."""
        row = self._status_rows.get(executor)
        return None if row is None else row.read()

    def forget(self, executor: Executor) -> None:
        """Record that the worker of an executor has none of the objects that were sent there."""
        self._objects.forget(executor)

    def replaced(self, executor: Executor) -> WorkerStatus | None:
        """Record that another worker has taken, or will take, an executor's place; return the last one's status.

        It has to be called before the new worker can run a batch. Any thread may call it.
        """
        self.forget(executor)
        row = self._status_rows.get(executor)
        if row is None:
            return None
        status = row.read()
        row.clear()
        return status

    def close(self) -> None:
        """End the run: workers drop its objects, and its arrays are freed."""
        self._objects.close()
        for row in self._status_rows.values():
            if row is not None:
                status_page.free(row)
        self._status_rows.clear()
        self._workspace.close()
