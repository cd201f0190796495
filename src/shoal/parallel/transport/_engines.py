"""Brings batches to a backend that sends objects by itself, as engines of clusters do.

::

    calls ─> large arguments, shared() ─put, once per run─> the engine's store ─┐
      │         │                                                               │ once per worker
      │         └─ replaced by Stored(0), Stored(1), ...                        v
      └──> Task(options, calls) ─────────> executor.submit(task, *references)
    values, or the failure of a call <─── Outcome <──────────┘
"""

from __future__ import annotations

import math
import socket
import time
import weakref
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from shoal.backends import worker_index
from shoal.backends._failure import Failure, failure_of
from shoal.backends._notes import Notes
from shoal.backends.base import call_set, process_name
from shoal.backends.storing import Postbox, StoringExecutor
from shoal.observe._adopting import adopt
from shoal.observe._messages import Channel, channel_set, encoded
from shoal.observe._recording import NOT_RECORDING, Recorder
from shoal.parallel._batch import Batch
from shoal.parallel._delayed import Call, Placeholder, describe, resolved
from shoal.parallel.options._settings import Nested, nested_settings
from shoal.parallel.transport._contract import (
    Received,
    Request,
    Transport,
    Unsendable,
    failed_future,
    find_unsendable,
    raised,
)
from shoal.parallel.transport._live import LiveNotes, notes_in
from shoal.parallel.transport._published import RunRecord
from shoal.parallel.transport._shared import Shared, resolve_value
from shoal.parallel.transport._status import StatusRow, status_page
from shoal.parallel.transport._variables import variables_set
from shoal.parallel.transport._workspace import is_array

if TYPE_CHECKING:
    from shoal.reports._batch_meter import BatchMeter

#: Larger arrays are not copied for each batch that may write to them.
PRIVATE_BYTES = 32 * 2**20


class Outcome(NamedTuple):
    """The outcome of a task: the results of its first calls, and the exception of the next."""

    elapsed: float  # the seconds that the calls took
    values: list[Any]
    error: BaseException | Failure | None
    said: bytes | None = None  # what the calls have said: a pickled list of Said
    told: tuple[bytes, ...] = ()  # notes of the calls that were not sent before
    measured: tuple[Any, ...] | None = None  # the fields of what was measured, for a report


class TaskOptions(NamedTuple):
    """How the calls of a task are run."""

    nested: Nested  # the settings for runs inside the calls
    seconds: float = math.inf  # the time after which no further call is begun
    mode: str | None = None  # the `mmap_mode` of arrays from the store
    conditions: bytes | None = None  # of the caller, if what calls say is forwarded
    home: str = ""  # the caller's process, in which some engines have workers: there is nothing to forward
    machine: str = ""  # the caller's, whose CPUs `nested` divides up
    start: int = 0  # the index of the first call
    messages: bool = False  # whether the run takes messages
    steps: bool = False  # whether it takes steps
    variables: Any = None  # the context variables of the calls: Variables, or Stored; None for none
    slow_above: float | None = None  # as :attr:`Transport.slow_above`
    open_postbox: Callable[[], Postbox] | None = None  # see :meth:`StoringExecutor.open_postboxes`


class Stored(NamedTuple):
    """Stands for an argument that is in the engine's store."""

    number: int  # among the references that are sent with the task


class SubmittedRequest(Request):
    """A batch that an engine has. Until it is closed, ``shoal top`` shows it.

    Parameters
    ----------
    batch
        The calls.
    rows
        The rows of the status page that show no batch, of those that the run has.
    """

    def __init__(self, batch: Batch, rows: list[StatusRow]) -> None:
        super().__init__(batch)
        self._rows = rows
        self._row: StatusRow | None = None

    def show(self, record: RunRecord) -> None:
        """Show that the batch was submitted, if there is a row for it."""
        row = self._row = self._rows.pop() if self._rows else status_page.allocate()
        if row is not None:
            start, n_calls = self.batch.start, len(self.batch)
            record.sent(row.address[1], start, n_calls, self.batch.functions)
            row.write(start if n_calls == 1 else -1 - start, time.perf_counter())

    def close(self) -> None:
        """Show the batch no longer."""
        if self._row is not None:
            self._row.clear()
            self._rows.append(self._row)
            self._row = None


class ObjectTransport(Transport[SubmittedRequest]):
    """Gives batches to executors as objects. Large and shared arguments go to the engine's store once per run.

    Parameters
    ----------
    options
        How the calls are run.

    Notes
    -----
    Not thread-safe: it belongs to the thread that owns the run.
    """

    row_kind = "tasks"

    def __init__(self, options: TaskOptions) -> None:
        self._options = options
        self._rows: list[StatusRow] = []  # that show no batch
        self._listens_to: Executor | None = None
        # By id of the object: a function that returns the object as long as it exists, and its reference in the store.
        self._references: dict[int, tuple[Callable[[], Any], Any]] = {}

    def take_messages(self, messages: bool, steps: bool) -> None:
        """Let calls send messages, and steps, to the run."""
        self._options = self._options._replace(messages=messages, steps=steps)

    def encode(self, batch: Batch) -> SubmittedRequest:
        """Return a request with the batch as it is, since the engine encodes it."""
        return SubmittedRequest(batch, self._rows)

    def send(self, request: SubmittedRequest, executor: Executor) -> Future[Outcome]:
        """Submit a batch, with references to its arguments in the engine's store."""
        references: list[Any] = []
        if executor is not self._listens_to:
            self._listen(executor)
        options = self._options._replace(start=request.batch.start, slow_above=self.slow_above)
        try:
            if isinstance(executor, StoringExecutor):
                stored: dict[int, Stored] = {}
                if options.variables is not None:
                    references.append(self._reference(options.variables, executor, shared=True))
                    options = options._replace(variables=Stored(0))
                calls = [self._with_references(call, executor, stored, references) for call in request.batch]
            else:
                calls = [resolved(call) for call in request.batch]
            if self.record is not None:
                request.show(self.record)
            return executor.submit(Task(options, calls), *references)
        except Exception as error:
            return failed_future(error)

    def _listen(self, executor: Executor) -> None:
        """Let running batches of an executor send what they say."""
        self._listens_to, open_postbox = executor, None
        if isinstance(executor, StoringExecutor) and (self._options.messages or self._options.conditions is not None):
            open_postbox = executor.open_postboxes(self._posted)
        self._options = self._options._replace(open_postbox=open_postbox)

    def _posted(self, content: bytes) -> None:
        """Pass on what a running batch has posted; called in any thread."""
        if self.on_note is not None:
            for note in notes_in(content):
                self.on_note(_UNCOUNTED, note)

    def receive(self, request: SubmittedRequest, reply: Outcome) -> Received:
        """Return the results. If the exception is a :class:`Failure`, rebuild it."""
        values, error = reply.values, reply.error
        if isinstance(error, Failure):
            error = raised(error, request.batch, len(values))
        return Received(values, error, reply.elapsed, said=reply.said, told=reply.told, measured=reply.measured)

    def explain(self, batch: Batch, error: Exception) -> Unsendable:
        """Find the call because of which the executor has refused a batch."""
        return find_unsendable(batch, error)

    def forget(self, _executor: Executor) -> None:
        """Record that the engine may have lost its store: everything is stored again when it is next needed."""
        self._references.clear()

    def close(self) -> None:
        """End the run: the engine may drop the objects that were stored for it."""
        self._references.clear()
        while self._rows:
            status_page.free(self._rows.pop())

    def _with_references(
        self, call: Call, executor: StoringExecutor, stored: dict[int, Stored], references: list[Any]
    ) -> Call:
        """Return a call in which :class:`Stored` replaces the arguments that are in the store.

        Parameters
        ----------
        call, executor
            The call, and where it will run.
        stored, references
            Those of the batch. New ones are added.
        """

        def replaced(arg: Any) -> Any:
            shared = type(arg) is Shared
            if issubclass(type(arg), Placeholder):
                arg = arg.resolve()
            else:
                resolved = resolve_value(arg)
                if resolved is not arg:  # a copy for this call only, whose id may soon belong to another object
                    return resolved
            if id(arg) not in stored:
                reference = self._reference(arg, executor, shared)
                if reference is None:
                    return arg
                stored[id(arg)] = Stored(len(references))
                references.append(reference)
            return stored[id(arg)]

        function, args, kwargs = call
        return function, tuple(map(replaced, args)), {name: replaced(arg) for name, arg in kwargs.items()}

    def _reference(self, obj: Any, executor: StoringExecutor, shared: bool) -> Any:
        """Return the reference of an object in the engine's store; None if the object is sent with its batch.

        If the caller drops the object, the engine drops it as well, after the batches that need it. Values of shared()
        stay in the store until the run ends.
        """
        key = id(obj)
        known = self._references.get(key)
        if known is not None and known[0]() is obj:
            return known[1]
        alive: Callable[[], Any]
        if shared:
            alive = partial(_itself, obj)
        # Without a weak reference, it could not be told later whether an object with this id is the same object.
        elif type(obj).__weakrefoffset__ and executor.stores(obj):
            alive = weakref.ref(obj, partial(_forget, self._references, key))
        else:
            return None
        reference = executor.put(obj)
        self._references[key] = alive, reference
        return reference


def machine_name() -> str:
    """Return the name of this machine in its network."""
    return socket.gethostname()  # platform.node() asks WMI on Windows, which is slow and may hang


#: Notes that do not hold their worker back: :class:`LiveNotes` limits how much it posts.
_UNCOUNTED = Notes()


def _itself(obj: Any) -> Any:
    return obj


def _forget(references: dict[int, tuple[Callable[[], Any], Any]], key: int, dead: Any) -> None:
    known = references.get(key)
    if known is not None and known[0] is dead:
        del references[key]


class Task:
    """The calls of a batch. An engine brings the task to a worker and calls it there.

    Attributes
    ----------
    options
        How the calls are run.
    calls
        The calls. :class:`Stored` may stand for their arguments.
    given_up
        A function that is called after each call. It tells whether the results of the further calls are no longer
        wanted. An executor that knows this sets the attribute.
    """

    given_up: Callable[[], bool] = staticmethod(bool)

    def __init__(self, options: TaskOptions, calls: list[Call]) -> None:
        self.options, self.calls = options, calls

    @property
    def __name__(self) -> str:
        """The name that an engine may show for the task."""
        return task_name(self.calls)

    def __call__(self, *objects: Any) -> Outcome:
        """Run the calls. ``Stored(number)`` is replaced by the object of that number."""
        options = self.options
        if options.slow_above is None:
            return self._run(objects, None)
        from shoal.reports._batch_meter import BatchMeter

        meter = BatchMeter(options.start, options.slow_above, False, None)
        with meter:
            outcome = self._run(objects, meter)
        return outcome._replace(measured=meter.finish())

    def _run(self, objects: tuple[Any, ...], meter: BatchMeter | None) -> Outcome:
        options = self.options
        calls: Iterable[Call] = self.calls
        clock = time.perf_counter
        values: list[Any] = []

        def present() -> int:
            """Return the index of the call that runs."""
            return options.start + len(values)

        notes = LiveNotes(options.open_postbox)
        recorder = None
        at_home = options.home == process_name()
        if not at_home and (conditions := adopt(options.conditions)) is not None:
            recorder = Recorder(conditions, worker_index(), notes.add if notes.live else None, in_thread=True)
            recorder.call = present
        noted = call_set(present) if at_home else recorder or NOT_RECORDING
        channel = Channel(lambda told: notes.add(encoded(told)), options.messages, options.steps and notes.live)
        channel.index = present
        variables = objects[0] if type(options.variables) is Stored else options.variables
        backend, depth, cpus, n_first = options.nested
        settings = nested_settings(backend, depth, cpus if options.machine == machine_name() else None, n_first)
        with noted, settings, closing(channel), channel_set(channel):
            began = clock()
            failure: Failure | None = None
            try:
                if objects:
                    arguments = [_in_mode(obj, options.mode) for obj in objects]
                    calls = [_with_objects(call, arguments) for call in calls]
                end = began + options.seconds
                if meter is not None:
                    calls = meter.marked(iter(calls))
                with variables_set(variables):
                    for function, args, kwargs in calls:
                        if values and (clock() > end or self.given_up()):
                            break
                        values.append(function(*args, **kwargs))
            except BaseException as error:
                failure = failure_of(error, error)
            elapsed = clock() - began
            if meter is not None:
                meter.stop(elapsed)
        return Outcome(elapsed, values, failure, None if recorder is None else recorder.end(), notes.end())


def task_name(calls: list[Call]) -> str:
    """Return the name of a batch of calls, as engines show it: ``batch_of_f_3_calls``."""
    name = describe(calls[0][0]).rpartition(".")[2].strip("<>")
    mixed = any(function is not calls[0][0] for function, _, _ in calls)
    return f"{'mixed_' if mixed else ''}batch_of_{name}_{len(calls)}_calls"


def _with_objects(call: Call, objects: list[Any]) -> Call:
    """Return a call in which the objects replace :class:`Stored`."""
    function, args, kwargs = call
    return (
        function,
        tuple(objects[arg.number] if type(arg) is Stored else arg for arg in args),
        {name: objects[arg.number] if type(arg) is Stored else arg for name, arg in kwargs.items()},
    )


def _in_mode(obj: Any, mode: str | None) -> Any:
    """Return an array from the store in an `mmap_mode`. Other batches on this worker get the same array.

    For "c", an array of up to :data:`PRIVATE_BYTES` is copied, and a larger one is read-only. For "r", it is read-only.
    For other modes, it is the array itself, and whether calls can write to it depends on the engine.
    """
    if mode not in ("c", "r") or not is_array(obj):
        return obj
    if mode == "c" and obj.nbytes <= PRIVATE_BYTES:
        return obj.copy(order="K")
    view = obj.view()
    view.flags.writeable = False
    return view
