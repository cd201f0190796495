"""The way of a batch to a backend that ships objects by itself, as clusters do.

::

    calls ─> large arguments, shared() ─put, once per run─> the engine's store ─┐
      │         │                                                               │ once per worker
      │         └─ in their places: Stored(0), Stored(1), ...                   v
      └──> Task(options, calls) ─────────> executor.submit(work, *references)
    values, or the failure of a call <─── Outcome <──────────┘
"""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from typing import Any, NamedTuple

from shoal.backends._failure import Failure, failure_of
from shoal.backends.storing import StoringExecutor
from shoal.parallel._batch import Batch
from shoal.parallel._delayed import Call, StandIn, describe, plain
from shoal.parallel._failures import Unsendable, explain, raised
from shoal.parallel._settings import Nested, nested_settings
from shoal.parallel._shared import Shared, unmarked_value
from shoal.parallel._transport import Received, Request, Transport, refused
from shoal.parallel._workspace import is_array

#: What is so large is not copied for each batch that may write into it.
PRIVATE_BYTES = 32 * 2**20


class Outcome(NamedTuple):
    """What came of a batch: the results of its first calls, and the exception of the next."""

    elapsed: float  # seconds that the calls took
    values: list[Any]
    error: BaseException | Failure | None
    retiring: None = None  # workers that are not ours are not replaced


class TaskOptions(NamedTuple):
    """How the calls of a batch are to be run."""

    nested: Nested
    seconds: float = math.inf  # after which no call is begun
    mode: str | None = None  # of arrays from the store, as `mmap_mode`


class Stored(NamedTuple):
    """Stands for an argument that is in the engine's store."""

    place: int  # among the references that are sent with the batch


class ObjectTransport(Transport[Request]):
    """Hands the calls of batches to executors as they are, but for what is worth a place in the engine's store.

    Parameters
    ----------
    options
        How calls are to be run.

    Notes
    -----
    Not thread-safe: it belongs to the thread that owns the run.
    """

    def __init__(self, options: TaskOptions) -> None:
        self._options = options
        # By id: what gives the object while it lives, and what stands for it.
        self._references: dict[int, tuple[Callable[[], Any], Any]] = {}

    def encode(self, batch: Batch) -> Request:
        """Leave the batch as it is: the engine encodes it."""
        return Request(batch)

    def send(self, request: Request, executor: Executor) -> Future[Outcome]:
        """Submit a batch, with references to what is in the engine's store."""
        references: list[Any] = []
        try:
            if isinstance(executor, StoringExecutor):
                places: dict[int, Stored] = {}
                calls = [self._with_references(call, executor, places, references) for call in request.batch]
            else:
                calls = [plain(call) for call in request.batch]
            return executor.submit(Task(self._options, calls), *references)
        except Exception as error:
            return refused(error)

    def receive(self, request: Request, reply: Outcome) -> Received:
        """Return the results, and rebuild an exception that came as a :class:`Failure`."""
        values, error = reply.values, reply.error
        return Received(values, raised(error, request.batch, len(values)) if isinstance(error, Failure) else error)

    def explain(self, batch: Batch, error: Exception) -> Unsendable:
        """Find the call of a batch for which the executor has refused it."""
        return explain(batch, error, lambda obj: (int, ()) if type(obj) is Shared else NotImplemented)

    def forget(self, _executor: Executor) -> None:
        """Take note that the engine may have lost what is in its store: it is put there again."""
        self._references.clear()

    def close(self) -> None:
        """End the run: the engine may drop what was stored for it."""
        self._references.clear()

    def _with_references(
        self, call: Call, executor: StoringExecutor, places: dict[int, Stored], references: list[Any]
    ) -> Call:
        """Return a call with what stands for its arguments that are in the store."""

        def instead(arg: Any) -> Any:
            always = type(arg) is Shared
            if issubclass(type(arg), StandIn):
                arg = arg.resolve()
            else:
                whole = unmarked_value(arg)
                if whole is not arg:  # a copy for this call, whose id says nothing once it is gone
                    return whole
            if id(arg) not in places:
                reference = self._reference(arg, executor, always)
                if reference is None:
                    return arg
                places[id(arg)] = Stored(len(references))
                references.append(reference)
            return places[id(arg)]

        function, args, kwargs = call
        return function, tuple(map(instead, args)), {name: instead(arg) for name, arg in kwargs.items()}

    def _reference(self, obj: Any, executor: StoringExecutor, always: bool) -> Any:
        """Return what stands for an object in the engine's store; None if it travels with its batch.

        What the caller drops is dropped from the store, when the batches that need it are done; what is shared stays.
        """
        key = id(obj)
        known = self._references.get(key)
        if known is not None and known[0]() is obj:
            return known[1]
        alive: Callable[[], Any]
        if always:
            alive = partial(_itself, obj)
        # Of what no reference can be weak, nobody could tell later whether it is the same object.
        elif type(obj).__weakrefoffset__ and executor.stores(obj):
            alive = weakref.ref(obj, partial(_forget, self._references, key))
        else:
            return None
        reference = executor.put(obj)
        self._references[key] = alive, reference
        return reference


def _itself(obj: Any) -> Any:
    return obj


def _forget(references: dict[int, tuple[Callable[[], Any], Any]], key: int, dead: Any) -> None:
    known = references.get(key)
    if known is not None and known[0] is dead:
        del references[key]


class Task:
    """The calls of a batch, which it runs when it is called, wherever the executor has brought it.

    Attributes
    ----------
    options
        How they are to be run.
    calls
        In the places of arguments there may be :class:`Stored`.
    given_up
        Tells, after each call, whether nobody wants the others. An executor that knows puts its own in this place.
    """

    given_up: Callable[[], bool] = staticmethod(bool)

    def __init__(self, options: TaskOptions, calls: list[Call]) -> None:
        self.options, self.calls = options, calls

    @property
    def __name__(self) -> str:
        """What an engine may show for it."""
        return task_name(self.calls)

    def __call__(self, *stored: Any) -> Outcome:
        """Run the calls; `stored` is what each :class:`Stored` stands for."""
        options, calls = self.options, self.calls
        clock = time.perf_counter
        with nested_settings(*options.nested):
            began = clock()
            values: list[Any] = []
            failure: Failure | None = None
            try:
                if stored:
                    objects = [_in_mode(obj, options.mode) for obj in stored]
                    calls = [_with_objects(call, objects) for call in calls]
                end = began + options.seconds
                for function, args, kwargs in calls:
                    if values and (clock() > end or self.given_up()):
                        break
                    values.append(function(*args, **kwargs))
            except BaseException as error:
                failure = failure_of(error, error)
            return Outcome(clock() - began, values, failure)


def task_name(calls: list[Call]) -> str:
    """Name a batch of calls for whoever looks at an engine: ``batch_of_f_3_calls``."""
    name = describe(calls[0][0]).rpartition(".")[2].strip("<>")
    mixed = any(function is not calls[0][0] for function, _, _ in calls)
    return f"{'mixed_' if mixed else ''}batch_of_{name}_{len(calls)}_calls"


def _with_objects(call: Call, objects: list[Any]) -> Call:
    function, args, kwargs = call
    return (
        function,
        tuple(objects[arg.place] if type(arg) is Stored else arg for arg in args),
        {name: objects[arg.place] if type(arg) is Stored else arg for name, arg in kwargs.items()},
    )


def _in_mode(obj: Any, mode: str | None) -> Any:
    """Return an array from the store as a batch may use it: other batches of this worker have the same one.

    For "c" it is a copy, if it is no larger than :data:`PRIVATE_BYTES`; else, and for "r", it is read-only; for other
    modes it is the one that all share, to be written to if the engine lets one.
    """
    if mode not in ("c", "r") or not is_array(obj):
        return obj
    if mode == "c" and obj.nbytes <= PRIVATE_BYTES:
        return obj.copy(order="K")
    view = obj.view()
    view.flags.writeable = False
    return view
