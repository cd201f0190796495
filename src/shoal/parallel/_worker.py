"""What runs inside a worker process: decode a batch, run its calls, encode what came of them.

The parent calls everything here through :mod:`shoal.parallel._process_transport`. A worker runs one batch at a time.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

from shoal._pickling import collecting_later, culprit, dumps, loads
from shoal._tracebacks import in_a_line
from shoal.backends._bootstrap import interruptible
from shoal.backends._failure import Failure, failure_of
from shoal.errors import CallPicklingError, CallUnpicklingError
from shoal.observe._terminal import finish_lines, print_above
from shoal.parallel._batch import rows
from shoal.parallel._delayed import describe
from shoal.parallel._segments import attach, layout, write
from shoal.parallel._settings import Nested, nested_settings
from shoal.parallel._status import StatusWriter
from shoal.parallel._worker_limits import CHECK_SECONDS, WorkerLimits, usage
from shoal.parallel._workspace import backing_memmap, is_array, is_segment, reduce_memmap

#: Results' buffers of at least so many bytes come back through shared memory, each in its own; smaller ones through
#: the pipe, so that keeping one of them keeps nothing else.
RESULT_BYTES = 256 * 1024
#: Streams of at least so many bytes go through shared memory.
LONG_STREAM = 256 * 1024


#: After so many batches the interpreter has specialized the code that runs for each.
_REHEARSALS = 10

#: A run: the process id of its parent, and its number there.
RunId = tuple[int, int]


class Pickled(NamedTuple):
    """A pickled object: its stream, and where its large buffers are.

    A long stream lies in the segment too, before the buffers: the pipe copies five times what a segment copies once.
    """

    stream: bytes | None
    path: str | None = None
    places: tuple[tuple[int, int], ...] = ()

    def decode(self) -> Any:
        """Rebuild the object; its buffers are mapped privately."""
        memory = memoryview(b"") if self.path is None else attach(self.path)
        buffers = [memory[start : start + nbytes] for start, nbytes in self.places]
        stream = buffers.pop(0) if self.stream is None else self.stream
        with collecting_later():  # also where little is rebuilt, since it may import much
            return loads(stream, buffers=buffers)


class Payload(NamedTuple):
    """A batch on its way to a worker."""

    run: RunId
    live: tuple[RunId, ...]  # the runs of the parent's that go on, of those below the horizon
    horizon: RunId
    start: int
    seconds: float  # after which no call is begun
    calls: Pickled
    objects: dict[int, Pickled]  # what this worker does not have yet, by key
    outlets: tuple[str, ...]  # segments of the parent's for results
    nested: Nested
    cell: tuple[str, int] | None  # where to note which call runs
    limits: WorkerLimits | None  # how long this worker serves
    bars: int = 0  # that the parent draws on a terminal, which may be this worker's too


class Reply(NamedTuple):
    """What came of a batch, on its way back: the results of its first calls, and the exception of the next."""

    elapsed: float  # seconds that the calls took
    stream: bytes | None  # of the results; None: it is the first of the buffers
    places: tuple[tuple[int, int, int], ...] = ()  # outlet, offset and bytes of each buffer
    failure: Failure | None = None
    retiring: int | None = None  # the worker's process, if it is to be replaced


class Missing(Exception):
    """This worker was not sent an object that a batch needs: its predecessor was, and has died."""


_objects: dict[RunId, dict[int, Pickled]] = {}
_decoded: dict[RunId, dict[int, Any]] = {}
#: A backend's workers may be threads of one process. Reentrant, since an object that was sent may hold others.
_decoding = threading.RLock()


def fetch(run: RunId, key: int) -> Any:
    """Return an object that was sent once for a whole run."""
    known = _decoded.setdefault(run, {})
    if key not in known:
        with _decoding:
            if key not in known:
                try:
                    encoded = _objects[run].pop(key)
                except KeyError:
                    raise Missing(key) from None
                known[key] = encoded.decode()
    return known[key]


def forget(live: tuple[RunId, ...], horizon: RunId) -> None:
    """Drop what was sent for runs that have ended: those of a parent's below `horizon` that are not `live`."""
    for sent in (_objects, _decoded):
        for run in list(sent):
            if run[0] == horizon[0] and run < horizon and run not in live:
                sent.pop(run, None)


def rehearse() -> None:
    """Run batches of no consequence in a process that workers are forked from.

    What the first batches of a worker import, build and have the interpreter specialize is then there, in memory that
    all of them share.
    """
    if os.environ.get("LOKY_PICKLER", "").strip():  # it may be a module of the user's
        return
    calls = Pickled(dumps((abs, [(1,)], None))[0])
    payload = Payload((0, 0), (), (0, 0), 0, 1.0, calls, {}, (), ("sequential", 1, None), None, None)
    for _ in range(_REHEARSALS):
        loads(dumps(run_batch(loads(dumps(payload)[0])))[0])


def run_batch(payload: Payload) -> Reply:
    """Run the calls of a batch. Whatever they raise comes back as an reply.

    Raises
    ------
    Missing
        If the batch needs objects that another worker was sent.
    """
    limits = payload.limits
    if limits is None:
        return _run(payload)
    if usage.reached(limits):
        return Reply(0.0, dumps([])[0], retiring=os.getpid())
    reply = _run(payload)
    # Looked at now, since the arguments and results of the batch are gone.
    return reply._replace(retiring=os.getpid()) if usage.reached(limits) else reply


def _run(payload: Payload) -> Reply:
    """Run the calls of a batch, as many as this worker may still run."""
    note = StatusWriter(payload.cell)
    note.write_between_calls(payload.start)
    print_above(payload.bars)
    forget(payload.live, payload.horizon)
    if payload.objects:
        _objects.setdefault(payload.run, {}).update(payload.objects)
    clock = time.perf_counter
    began = clock()
    try:
        functions, arguments, keywords = payload.calls.decode()
    except Missing:
        raise
    except Exception as error:
        what = f"the calls from number {payload.start} on"
        refusal = CallUnpicklingError(what, "a worker", in_a_line(error))
        failure = failure_of(refusal, error, whole=True)
        return Reply(clock() - began, dumps([])[0], failure=failure)
    values: list[Any] = []
    append = values.append
    raised: Failure | None = None
    doubles, place = note.doubles, note.first
    since, index = place + 1, float(payload.start)
    limits = payload.limits
    calls: Iterator[Any] = rows(functions, arguments, keywords)
    if limits is not None:
        note.write_pid()
        calls = islice(calls, usage.calls_left(limits))
    with nested_settings(*payload.nested), interruptible():
        try:
            now = began = clock()
            until = end = began + payload.seconds
            if limits is not None and limits.memory is not None:
                until = min(end, now + CHECK_SECONDS)
            for function, args, kwargs in calls:
                doubles[since] = now
                doubles[place] = index
                append(function(*args, **kwargs))
                index += 1.0
                now = clock()
                if now > until:
                    if limits is None or now > end or limits.memory_exceeded("self"):
                        break
                    until = min(end, now + CHECK_SECONDS)
        except BaseException as error:
            raised = failure_of(error, error)
    elapsed = clock() - began
    note.write_between_calls(payload.start)
    usage.calls += len(values) + (raised is not None)
    if payload.bars:
        finish_lines()
    del arguments, keywords
    return _reply(values, elapsed, raised, functions, payload)


def _reply(values: list[Any], elapsed: float, failure: Failure | None, functions: Any, payload: Payload) -> Reply:
    """Encode the results of a batch, or those before the first that cannot be pickled."""
    try:
        stream, buffers = dumps(values, reduce_result, out_of_band=RESULT_BYTES if payload.outlets else 2**63)
    except Exception as error:
        index, failure = _unpicklable(values, error, payload.start, functions)
        return _reply(values[:index], elapsed, failure, functions, payload)
    long = len(stream) >= LONG_STREAM and bool(payload.outlets)
    if not buffers and not long:
        return Reply(elapsed, stream, failure=failure)
    try:
        places = _deliver([memoryview(stream), *buffers] if long else buffers, payload.outlets)
        return Reply(elapsed, None if long else stream, places, failure)
    except OSError:  # there is no room for them: they go through the pipe
        return Reply(elapsed, dumps(values, reduce_result, out_of_band=2**63)[0], failure=failure)


def reduce_result(obj: Any) -> Any:
    """Return the reduction of a user's memmap to its file, of one of ours to its bytes."""
    if is_array(obj):
        root = backing_memmap(obj)
        if root is not None and not is_segment(root):
            return reduce_memmap(obj)
        if isinstance(obj, sys.modules["numpy"].memmap):
            return obj.view(sys.modules["numpy"].ndarray).__reduce_ex__(5)
    return NotImplemented


def _deliver(buffers: list[memoryview], outlets: tuple[str, ...]) -> tuple[tuple[int, int, int], ...]:
    """Write buffers into the parent's segments, one each; those that are too many share the last."""
    places: list[tuple[int, int, int]] = []
    end = 0
    for number, view in enumerate(buffers):
        outlet = min(number, len(outlets) - 1)
        (offset,), end = layout([view], end if number > outlet else 0)
        fd = os.open(outlets[outlet], os.O_RDWR | getattr(os, "O_BINARY", 0))
        try:
            write(fd, view, offset)
        finally:
            os.close(fd)
        places.append((outlet, offset, view.nbytes))
    return tuple(places)


def _unpicklable(values: list[Any], error: Exception, start: int, functions: Any) -> tuple[int, Failure]:
    """Return the index of the result that cannot be pickled, and what says so and which part of it."""
    for index, value in enumerate(values):
        try:
            dumps(value, reduce_result)
        except Exception:
            path, reason = culprit(value, "result", reduce_result)
            function = functions[index] if type(functions) is list else functions
            refusal = CallPicklingError(f"the result of call {start + index}, {describe(function)}(...),", path, reason)
            return index, failure_of(refusal, error)
    return 0, failure_of(error, error)
