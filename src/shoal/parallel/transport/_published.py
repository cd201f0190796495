"""What a process publishes about its runs, in its status page. ``shoal top`` reads it from another process.

::

    the page       | rows of the workers | header | runs | batches |
    rows           what each worker does now; the workers write them (_status.py)
    header         a mark, the process id of the caller, and the descriptor of its pipe for requests (_stacks.py)
    runs           of each run: its number, workers, calls done, calls in all, start, and backend
    batches        of each row: the last two batches that were sent to its worker, with the number of their run

    caller   RunRecord.publish, sent ──> the page ──> read_runs   ``shoal top``, through /proc/PID/fd

The rows of threads are written by the caller, now and then (running/_watch.py). The workers of an engine have no rows:
its tasks have, from when they were submitted until their reply has come (_engines.py).

The page is a memfd: it is in no folder, only its owner can open it, and it ends with the process, however the process
ends. A write takes less than a microsecond. Nothing is locked: a reader may see a run between two writes.
"""

from __future__ import annotations

import struct
import weakref
from collections.abc import Callable
from functools import partial
from types import BuiltinFunctionType, FunctionType
from typing import Any, NamedTuple

#: The name that the system shows for the memfd of a status page.
PAGE_NAME = "status-of-shoal"
#: The number of rows, and of doubles per row.
ROWS, DOUBLES = 4096, 3
_ROW = struct.Struct(f"<{DOUBLES}d")

_MARK = b"shoal 2\0"
_HEADER = struct.Struct("<8sqq")
_HEADER_AT = ROWS * _ROW.size

#: Of what the rows of a run tell: of worker processes, of threads of the program, or of the tasks of an engine.
ROW_KINDS = "processes", "threads", "tasks"

#: The most runs at a time that are published. Further runs run as well, but `shoal top` does not see them.
MOST_RUNS = 256
# Number (0: the place is free), workers, done, total (-1: unknown), start, the index in ROW_KINDS, backend.
_RUN = struct.Struct("<qqqqdq64s")
_PROGRESS = struct.Struct("<qq")
_PROGRESS_AT = 16  # in a run
_RUN_BYTES = 128
_RUNS_AT = _HEADER_AT + 4096

_NAME_BYTES = 96
_NAMED = FunctionType, BuiltinFunctionType, type  # objects that have a name
# The number of the run, start, calls, whether they have several functions, and the name of the first.
_BATCH = struct.Struct(f"<qqqq{_NAME_BYTES}s")
_BATCHES_BYTES = 2 * _BATCH.size  # of one row
_BATCHES_AT = _RUNS_AT + MOST_RUNS * _RUN_BYTES

#: The size of the page. A system with memfds gives it memory only where something was written.
PAGE_BYTES = _BATCHES_AT + ROWS * _BATCHES_BYTES


class PublishedWorker(NamedTuple):
    """A worker, as its run's caller and itself describe it; or a task of an engine, which any worker may run.

    Attributes
    ----------
    pid
        The process id, as the worker sees it; 0 if it has received no batch yet. Of a thread, the system's id. Of a
        task, 0.
    call
        The index of the call that runs; None if no call runs.
    batch
        If no call runs: the start of the batch whose arguments the worker rebuilds, or whose results it has encoded;
        None if it has received no batch yet. Of a task of several calls, the first of them.
    n_calls
        The number of calls in the batch; 0 if it is unknown.
    function
        The name of the function of the call, or of the batch; None if it is unknown.
    several
        Whether the batch has several functions, of which `function` is the first.
    since
        When this began, in seconds of ``time.perf_counter()``. Of a task, when it was submitted.
    """

    pid: int
    call: int | None
    batch: int | None
    n_calls: int
    function: str | None
    several: bool
    since: float


class PublishedRun(NamedTuple):
    """A run, as its caller describes it.

    Attributes
    ----------
    number
        Its number in its process.
    backend
        The name of its backend.
    n_workers
        The number of batches that it runs at a time.
    done, total
        The number of calls that have a result, and of all calls; None if that is not known yet.
    began
        When it began, in seconds of ``time.perf_counter()``.
    kind
        What `workers` are, one of :data:`ROW_KINDS`.
    workers
        Its workers. Those of an engine are not known: they are the tasks that were submitted and have no reply yet.
    """

    number: int
    backend: str
    n_workers: int
    done: int
    total: int | None
    began: float
    kind: str
    workers: tuple[PublishedWorker, ...]


def _nothing() -> None:
    """Take the place of a weak reference to no function."""


def _reference(function: Any) -> Callable[[], Any]:
    try:
        return weakref.ref(function)
    except TypeError:
        return _nothing


#: A reference to the function that was sent last, of any run, and its name.
_named: tuple[Callable[[], Any], bytes] = _nothing, b""


class RunRecord:
    """What the caller writes about one run at a time.

    Parameters
    ----------
    memory
        The page.
    place
        The index of its place in the page.

    Notes
    -----
    It belongs to the thread that owns the run.
    """

    def __init__(self, memory: Any, place: int) -> None:
        self._memory = memory
        self._at = _RUNS_AT + place * _RUN_BYTES
        self._number = 0
        self._second: dict[int, bool] = {}  # by row: whether the next batch is noted in the second place

    def begin(
        self, number: int, backend: str, n_workers: int, total: int | None, began: float, kind: str = "processes"
    ) -> None:
        """Write that a run has begun. The parameters are those of :class:`PublishedRun`."""
        self._number = number
        self._second.clear()  # else it would come to have all rows of the page
        known = -1 if total is None else total
        name = backend.encode()[:64]
        _RUN.pack_into(self._memory, self._at, number, n_workers, 0, known, began, ROW_KINDS.index(kind), name)

    def publish(self, done: int, total: int | None) -> None:
        """Write how many calls have a result, and how many calls there are."""
        _PROGRESS.pack_into(self._memory, self._at + _PROGRESS_AT, done, -1 if total is None else total)

    def sent(self, row: int, start: int, number: int, functions: Any) -> None:
        """Write which batch is sent to the worker of a row. The batch before it may still run.

        Parameters
        ----------
        row
            The number of the row.
        start, number
            The index of the batch's first call, and the number of its calls.
        functions
            The function of all calls, or a list of the function of each.
        """
        global _named
        several = type(functions) is list
        function = functions[0] if several else functions
        reference, name = _named
        if reference() is not function:
            name = _name_of(function)
            _named = _reference(function), name
        second = self._second.get(row, False)
        self._second[row] = not second
        at = _BATCHES_AT + row * _BATCHES_BYTES + second * _BATCH.size
        _BATCH.pack_into(self._memory, at, self._number, start, number, several, name)

    def end(self) -> None:
        """Write that the run has ended."""
        _PROGRESS.pack_into(self._memory, self._at, 0, 0)


def write_header(memory: Any, pid: int, pipe: int) -> None:
    """Write that the page belongs to a process, and which descriptor its pipe for requests has; -1 for none."""
    _HEADER.pack_into(memory, _HEADER_AT, _MARK, pid, pipe)


def owner_of(page: bytes) -> tuple[int, int] | None:
    """Return the process id and the descriptor in the header of a page; None if it is no page of this version."""
    if len(page) < PAGE_BYTES:
        return None
    mark, pid, pipe = _HEADER.unpack_from(page, _HEADER_AT)
    return (pid, pipe) if mark == _MARK else None


def read_runs(page: bytes) -> list[PublishedRun]:
    """Return the runs in a copy of a page that :func:`owner_of` accepts."""
    runs = [_RUN.unpack_from(page, _RUNS_AT + place * _RUN_BYTES) for place in range(MOST_RUNS)]
    kinds = {number: ROW_KINDS[kind] for number, *_, kind, _ in runs if number}
    workers: dict[int, list[PublishedWorker]] = {number: [] for number in kinds}
    for row in range(ROWS):
        at = _BATCHES_AT + row * _BATCHES_BYTES
        batches = [_BATCH.unpack_from(page, at), _BATCH.unpack_from(page, at + _BATCH.size)]
        for number in {batch[0] for batch in batches} & workers.keys():
            worker = _worker(page, row, [batch[1:] for batch in batches if batch[0] == number])
            if kinds[number] != "tasks" or worker.n_calls:  # else the row is that of no task
                workers[number].append(worker)
    return [
        PublishedRun(
            number, _text(backend), n, done, total if total >= 0 else None, began, kinds[number], tuple(workers[number])
        )
        for number, n, done, total, began, _, backend in sorted(runs)
        if number
    ]


def _worker(page: bytes, row: int, batches: list[Any]) -> PublishedWorker:
    activity, since, pid = _ROW.unpack_from(page, row * _ROW.size)
    if not abs(activity) < 2**53:  # NaN: it has done nothing yet
        return PublishedWorker(int(pid), None, None, 0, None, False, since)
    call = int(activity) if activity >= 0 else None
    batch = -1 - int(activity) if call is None else None
    index = batch if call is None else call
    assert index is not None
    for start, number, several, name in batches:
        if start <= index < start + number:
            return PublishedWorker(int(pid), call, batch, number, _text(name), bool(several), since)
    return PublishedWorker(int(pid), call, batch, 0, None, False, since)


def _text(name: bytes) -> str:
    return name.rstrip(b"\0").decode(errors="ignore")


def _name_of(function: Any) -> bytes:
    """Return the name of a function; of a long one, the end. ``__getattr__`` of the user's classes is not called."""
    if type(function) is FunctionType:  # nearly all are, and exceptions take time
        inner = function.__dict__.get("__wrapped__")
    elif isinstance(function, partial):
        inner = function.func
    else:
        inner = _own(function, "__wrapped__") or _own(function, "__func__")
    named = inner if isinstance(inner, _NAMED) else function if isinstance(function, _NAMED) else type(function)
    module, name = named.__module__, named.__qualname__
    name = str(name) if module in (None, "builtins", "__main__") else f"{module}.{name}"
    return name.encode(errors="backslashreplace")[-_NAME_BYTES:]


def _own(obj: Any, name: str) -> Any:
    """Return an attribute of an object or its class; None if there is none."""
    try:
        return object.__getattribute__(obj, name)
    except Exception:
        return None
