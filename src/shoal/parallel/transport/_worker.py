"""What a worker process does with a batch: decode it, run its calls, encode their results.

::

    Payload ──> run_batch ── decode ── f(...), f(...), ... ── _encode ──> Reply
                               │                                │
                               └─ fetch: objects that were      └─ results' large buffers go to the parent's
                                  sent once per worker             segments

The parent submits these functions through :mod:`shoal.parallel.transport._processes`. A worker runs one batch at a
time.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from shoal._pickling import collecting_later, culprit, dumps, loads
from shoal._tracebacks import in_a_line
from shoal.backends import worker_index
from shoal.backends._bootstrap import can_tell, interruptible, tell
from shoal.backends._failure import Failure, failure_of
from shoal.backends.base import call_set
from shoal.errors import CallPicklingError, CallUnpicklingError
from shoal.observe._adopting import assume_adopted, recorder_of_process
from shoal.observe._messages import Channel
from shoal.observe._recording import NOT_RECORDING, Recorder
from shoal.observe._saying import Conditions, conditions
from shoal.observe._terminal import finish_lines, print_above
from shoal.parallel._batch import rows
from shoal.parallel._delayed import describe
from shoal.parallel.options._checks import FORWARDED
from shoal.parallel.options._settings import Nested, nested_settings
from shoal.parallel.transport._segments import attach, layout, write
from shoal.parallel.transport._status import StatusWriter
from shoal.parallel.transport._worker_limits import CHECK_SECONDS, WorkerLimits, usage
from shoal.parallel.transport._workspace import backing_memmap, is_array, is_segment, reduce_memmap

if TYPE_CHECKING:
    from shoal.reports._batch_meter import BatchMeter

#: Buffers of results of at least so many bytes come back through shared memory, each in a segment of its own. Smaller
#: ones come through the pipe: then, keeping one of them keeps no other memory.
RESULT_BYTES = 256 * 1024
#: Streams of at least so many bytes go through shared memory.
LONG_STREAM = 256 * 1024
#: The threshold for buffers with which all of them stay in the stream.
_ALL_IN_STREAM = 2**63

#: After so many batches, the interpreter has specialized the code that runs for each batch.
_REHEARSALS = 10

#: A run: the process id of the parent, and the number of the run there.
RunId = tuple[int, int]


class Pickled(NamedTuple):
    """A pickled object: its stream, and where its large buffers are.

    A long stream is in the segment as well, before the buffers, because a copy through the pipe takes five times as
    long as a copy into a segment.
    """

    stream: bytes | None  # None: it is the first range of the segment
    path: str | None = None  # of the segment
    ranges: tuple[tuple[int, int], ...] = ()  # in the segment: offset and bytes of each buffer

    def decode(self) -> Any:
        """Rebuild the object. Its buffers are mapped privately."""
        stream: Any = self.stream
        buffers: list[memoryview] = []
        if self.path is not None:
            memory = attach(self.path)
            buffers = [memory[start : start + nbytes] for start, nbytes in self.ranges]
            if stream is None:
                stream = buffers.pop(0)
        with collecting_later():  # also for few objects, since rebuilding them may import many modules
            return loads(stream, buffers=buffers)


class Payload(NamedTuple):
    """A batch, as it is sent to a worker: its fields are the arguments of :func:`run_batch`."""

    run: RunId
    live_runs: tuple[RunId, ...]  # those of the parent that have not ended, below the horizon
    horizon: RunId  # runs of the parent from this number on may be live as well
    start: int  # the index of the first call
    seconds: float  # the time after which no further call is begun
    calls: tuple[Any, ...]  # the fields of a Pickled
    objects: dict[int, Pickled]  # those that the worker does not have yet, by their keys
    result_segments: tuple[str, ...]  # their paths
    nested: Nested  # the settings for runs inside the calls
    status_address: tuple[str, int] | None  # of the worker's row in the parent's status page
    limits: WorkerLimits | None
    conditions: bytes | None = None  # of the caller, if what calls say is forwarded
    bars: int = 0  # the number of progress bars that the parent draws on a terminal, which may be this worker's too


class Reply(NamedTuple):
    """The outcome of a batch, as it is sent back: the results of its first calls, and the exception of the next."""

    elapsed: float  # the seconds that the calls took
    stream: bytes | None  # of the results; None: it is the first range
    ranges: tuple[tuple[int, int, int], ...] = ()  # of each buffer: number of the result segment, offset, bytes
    failure: Failure | None = None
    retiring: int | None = None  # the id of the worker's process, if it has to be replaced
    call_unknown: bool = False  # whether the failure may belong to any call of the batch
    said: bytes | None = None  # what the calls have said: a pickled list of Said
    told: tuple[bytes, ...] = ()  # messages of the calls, if this worker could not send them at once
    measured: tuple[Any, ...] | None = None  # the fields of what was measured, for a report


class Missing(Exception):
    """A batch needs an object that this worker does not have: it was sent to the worker before it, which has died."""


#: The objects that were sent once per worker, before and after they are decoded, by run and key.
_pickled: dict[RunId, dict[int, Pickled]] = {}
_decoded: dict[RunId, dict[int, Any]] = {}
#: The workers of a backend may be threads of one process. The lock is reentrant, since an object may contain others.
_decoding = threading.RLock()


def keep(run: RunId, objects: dict[int, Pickled]) -> None:
    """Keep objects that were sent to this worker, for :func:`fetch`."""
    _pickled.setdefault(run, {}).update(objects)


def fetch(run: RunId, key: int) -> Any:
    """Return an object that was sent once per worker; decode it if this is the first time.

    Raises
    ------
    Missing
        If this worker does not have it.
    """
    known = _decoded.setdefault(run, {})
    if key not in known:
        with _decoding:
            if key not in known:
                try:
                    pickled = _pickled[run].pop(key)
                except KeyError:
                    raise Missing(key) from None
                known[key] = pickled.decode()
    return known[key]


def forget(live_runs: tuple[RunId, ...], horizon: RunId) -> None:
    """Drop the objects of ended runs: runs of the same parent below the horizon that are not among `live_runs`."""
    for objects in (_pickled, _decoded):
        for run in list(objects):
            if run[0] == horizon[0] and run < horizon and run not in live_runs:
                objects.pop(run, None)


def rehearse() -> None:
    """Run batches that do nothing, in the process from which workers are forked.

    The first batches of a worker import modules, build classes and have the interpreter specialize code. If this is
    done before the fork, all workers share the memory that it takes.
    """
    if os.environ.get("LOKY_PICKLER", "").strip():  # it may be a module of the user's, which must not be imported here
        return
    calls = Pickled(dumps((abs, [(1,)], None))[0])
    payload = Payload((0, 0), (), (0, 0), 0, 1.0, tuple(calls), {}, (), ("sequential", 1, None, 0), None, None)
    for _ in range(_REHEARSALS):
        loads(dumps(run_batch(*loads(dumps(tuple(payload))[0])))[0])


def settle() -> None:
    """Spare the workers that are forked from this process what the first batch of each would do."""
    assume_adopted(conditions(FORWARDED))


def run_batch(*fields: Any, channel: Channel | None = None, meter: BatchMeter | None = None) -> tuple[Any, ...]:
    """Run a batch; return the fields of its :class:`Reply`, which asks for a new worker if a limit was reached.

    If this process has reached its limits before, it runs no call.

    Parameters
    ----------
    *fields
        Those of the :class:`Payload`.
    channel
        That of the calls; None if they have none.
    meter
        Measures the batch; None if nothing is measured.

    Raises
    ------
    Missing
        If the batch needs objects that were sent to another worker.
    """
    payload = Payload(*fields)
    limits = payload.limits
    if limits is None:
        return tuple(_run_calls(payload, channel, meter))
    if usage.reached(limits):
        return tuple(Reply(0.0, dumps([])[0], retiring=os.getpid()))
    reply = _run_calls(payload, channel, meter)
    # The memory is measured only now, because the arguments and results of the batch have been freed.
    return tuple(reply._replace(retiring=os.getpid()) if usage.reached(limits) else reply)


def _run_calls(payload: Payload, channel: Channel | None, meter: BatchMeter | None) -> Reply:
    """Run the calls of a batch; if it has limits, as many as this process may still run.

    An exception of a call is returned as the failure of the reply.
    """
    clock = time.perf_counter
    status = StatusWriter(payload.status_address)
    status.write_pid()
    status.write_between_calls(payload.start)
    print_above(payload.bars)
    if _decoded or _pickled:
        forget(payload.live_runs, payload.horizon)
    if payload.objects:
        keep(payload.run, payload.objects)
    began = clock()
    try:
        functions, arguments, keywords = Pickled(*payload.calls).decode()
    except Missing:
        raise
    except Exception as error:
        refusal = CallUnpicklingError(f"the calls from number {payload.start} on", "a worker", in_a_line(error))
        return Reply(clock() - began, dumps([])[0], failure=failure_of(refusal, error), call_unknown=True)
    values: list[Any] = []
    append = values.append
    failure: Failure | None = None
    doubles, activity = status.doubles, status.first
    since, index = activity + 1, float(payload.start)
    limits = payload.limits
    calls: Iterator[Any] = rows(functions, arguments, keywords)
    if limits is not None:
        calls = islice(calls, usage.calls_left(limits))
    if meter is not None:
        calls = meter.marked(calls)
    recorder = None
    noted: AbstractContextManager[object] = NOT_RECORDING
    if payload.run[0] == os.getpid():  # some workers are threads of the caller's process
        noted = call_set(status.call)
    elif (recorder := recorder_of_process(payload.conditions, _new_recorder)) is not None:
        recorder.call = lambda: int(doubles[activity])
        noted = recorder
    if channel is not None:
        channel.index = status.call
    with noted, nested_settings(*payload.nested), interruptible():
        try:
            now = began = clock()
            until = end = began + payload.seconds
            if limits is not None and limits.memory is not None:
                until = min(end, now + CHECK_SECONDS)
            for function, args, kwargs in calls:
                doubles[since] = now
                doubles[activity] = index
                append(function(*args, **kwargs))
                index += 1.0
                now = clock()
                if now > until:
                    if limits is None or now > end or limits.memory_exceeded("self"):
                        break
                    until = min(end, now + CHECK_SECONDS)
        except BaseException as error:
            if meter is not None:
                meter.leave_no_frames(error)
            failure = failure_of(error, error)
    elapsed = clock() - began
    status.write_between_calls(payload.start)
    usage.calls += len(values) + (failure is not None)
    if payload.bars:
        finish_lines()
    if meter is not None:
        meter.stop(elapsed)
    del arguments, keywords
    reply = _encode(values, elapsed, failure, functions, payload)
    said = None if recorder is None else recorder.end()
    return reply if said is None else reply._replace(said=said)


def _new_recorder(conditions: Conditions) -> Recorder:
    return Recorder(conditions, worker_index(), tell if can_tell() else None)


def _encode(values: list[Any], elapsed: float, failure: Failure | None, functions: Any, payload: Payload) -> Reply:
    """Encode the results of a batch. If one cannot be pickled, encode those before it, and a failure."""
    paths = payload.result_segments
    try:
        stream, buffers = dumps(values, reduce_result, out_of_band=RESULT_BYTES if paths else _ALL_IN_STREAM)
    except Exception as error:
        index, failure = _find_unpicklable(values, error, payload.start, functions)
        return _encode(values[:index], elapsed, failure, functions, payload)
    long = len(stream) >= LONG_STREAM and bool(paths)
    if not buffers and not long:
        return Reply(elapsed, stream, failure=failure)
    try:
        ranges = _write_to_segments([memoryview(stream), *buffers] if long else buffers, paths)
        return Reply(elapsed, None if long else stream, ranges, failure)
    except OSError:  # there is not enough shared memory, and so the results go through the pipe
        return Reply(elapsed, dumps(values, reduce_result, out_of_band=_ALL_IN_STREAM)[0], failure=failure)


def reduce_result(obj: Any) -> Any:
    """Reduce a memmap of the user to its file, and one of shoal's to its bytes, since its segment will be freed."""
    if is_array(obj):
        root = backing_memmap(obj)
        if root is not None and not is_segment(root):
            return reduce_memmap(obj)
        if isinstance(obj, sys.modules["numpy"].memmap):
            return obj.view(sys.modules["numpy"].ndarray).__reduce_ex__(5)
    return NotImplemented


def _write_to_segments(buffers: list[memoryview], paths: tuple[str, ...]) -> tuple[tuple[int, int, int], ...]:
    """Write each buffer into a segment of its own. If there are more buffers, the last segment takes all the others."""
    ranges: list[tuple[int, int, int]] = []
    end = 0
    for number, view in enumerate(buffers):
        segment = min(number, len(paths) - 1)
        (offset,), end = layout([view], end if number > segment else 0)
        fd = os.open(paths[segment], os.O_RDWR | getattr(os, "O_BINARY", 0))
        try:
            write(fd, view, offset)
        finally:
            os.close(fd)
        ranges.append((segment, offset, view.nbytes))
    return tuple(ranges)


def _find_unpicklable(values: list[Any], error: Exception, start: int, functions: Any) -> tuple[int, Failure]:
    """Return the index of the first result that cannot be pickled, and a failure that names the part to blame."""
    for index, value in enumerate(values):
        try:
            dumps(value, reduce_result)
        except Exception:
            path, reason = culprit(value, "result", reduce_result)
            function = functions[index] if type(functions) is list else functions
            refusal = CallPicklingError(f"the result of call {start + index}, {describe(function)}(...),", path, reason)
            return index, failure_of(refusal, error)
    return 0, failure_of(error, error)
