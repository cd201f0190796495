"""The executor of a run on dask, which brings batches to the cluster and their results back.

::

    put(obj) ──> Client.scatter ──> dask's future ──┐
    submit(work, *references) ── pickled ──> Client.submit(run_task, bytes, *references) ──> a worker: work(*objects)
         └── our future <── awaited on the client's event loop <── Client.gather <───────┤ the result
                                         └──────────────────────── an event <────────────┘ and a copy, if it is small
    cancel ──> Client.cancel: waiting tasks do not start; a running batch stops after its current call
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, CancelledError, Future
from functools import partial
from typing import Any, TypeVar, cast
from uuid import uuid4

import distributed
from dask.sizeof import sizeof
from dask.utils import funcname
from distributed.scheduler import KilledWorker
from distributed.threadpoolexecutor import thread_state

from shoal._pickling import dumps, loads
from shoal.backends._dask_task import DaskPostbox, Events, run_task
from shoal.backends.storing import MOST_CANCELLED, Postbox, StoringExecutor

T = TypeVar("T")

#: Arguments above the first size are stored in the cluster when they occur again, above the second size at once.
#: joblib stores all arguments above the first size. But storing an argument of only one call costs one more transfer.
AGAIN_BYTES, AT_ONCE_BYTES = 1000, 100_000
#: Larger tasks are stored in the cluster's memory: above 10 MB, dask warns that the scheduler has to hold the task.
TASK_BYTES = 9_500_000
#: The seconds that each attempt to store an object waits for a worker, and the seconds after which none follows.
WORKER_SECONDS, STORE_SECONDS = 3.0, 120.0
#: The seconds between two looks whether a client that has lost its scheduler has found it again, or has given up.
RECONNECT_SECONDS = 0.05


_events: weakref.WeakKeyDictionary[Any, Events] = weakref.WeakKeyDictionary()


#: A task to submit: our future, its key, and the arguments of :func:`run_task`.
_Start = tuple["Future[Any]", str, tuple[Any, ...]]


class DaskExecutor(StoringExecutor):
    """Submits calls to a ``distributed.Client``, each with the same `keywords` of ``Client.submit``.

    `scattered` contains the objects that are stored in the cluster already, with their futures, by id.
    """

    def __init__(self, client: Any, scattered: dict[int, tuple[Any, Any]], keywords: dict[str, Any]) -> None:
        self._client = client
        self._scattered = scattered
        self._keywords = keywords
        self._pending: dict[Any, Any] = {}  # dask's futures, and what waits for each; of the event loop
        self._cancelled = 0
        self._seen: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
        self._seceded: threading.Thread | None = None
        self._run = uuid4().hex
        self._receive: Callable[[bytes], object] = bool
        self._waiting: deque[_Start | None] = deque()  # None: to cancel what was submitted before
        # By key of a task: its result, once an event has brought it; before that, the future of who waits for it.
        self._results: dict[str, bytes | asyncio.Future[bytes | None] | None] = {}
        events = _events.get(client)
        if events is None:
            events = _events[client] = Events(client)
        self._events = events
        events.receivers[self._run] = self.received

    def open_postboxes(self, receive: Callable[[bytes], object]) -> Callable[[], Postbox]:
        """Open a way for what running batches post."""
        self._receive = receive
        return partial(DaskPostbox, self._events.topic, self._run)

    def received(self, key: str | None, content: bytes) -> None:
        """Take the result of the task `key`, or what a batch has posted; called on the client's event loop."""
        if key is None:
            self._receive(content)
        elif key in self._results:
            waiting = self._results[key]
            if isinstance(waiting, asyncio.Future):
                _set_result(waiting, content)
            else:
                self._results[key] = content

    def stores(self, obj: Any) -> bool:
        """Return whether an argument is very large, or large and seen before, or in the cluster already."""
        if id(obj) in self._scattered or isinstance(obj, distributed.Future):
            return True
        nbytes = sizeof(obj)
        if nbytes <= AGAIN_BYTES:
            return False
        if nbytes > AT_ONCE_BYTES or self._seen.get(id(obj)) is obj:
            return True
        self._seen[id(obj)] = obj
        return False

    def put(self, obj: Any) -> Any:
        """Store an object in the memory of a worker, from which others fetch it; return its future."""
        if isinstance(obj, distributed.Future):
            return obj
        _, scattered = self._scattered.get(id(obj), (None, None))
        if scattered is not None and scattered.status == "finished":  # not lost with its workers
            return scattered
        # In a list, because dask scatters the items of lists and dicts one by one. Without a hash, because cancelling
        # another future with the same key would also cancel this one (dask/distributed#3703).
        deadline = time.monotonic() + STORE_SECONDS
        with contextlib.ExitStack() as probes:
            while True:
                try:
                    return self._client.scatter([obj], hash=False, timeout=WORKER_SECONDS)[0]
                except (OSError, distributed.TimeoutError):
                    # The worker that was to get it has died: the scheduler soon knows, and takes another. Or there is
                    # none: an adaptive cluster starts one for a task, and keeps it while somebody has its future.
                    if time.monotonic() > deadline:
                        raise
                probe = self._client.submit(int, pure=False)
                probes.callback(probe.release)  # not by the garbage collector: exceptions of dask refer to themselves
                with contextlib.suppress(OSError, distributed.TimeoutError):
                    probe.result(timeout=WORKER_SECONDS)
                time.sleep(0.1)

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Submit a call. Dask futures at the end of the positional arguments are replaced by their objects."""
        references = [arg for arg in args if isinstance(arg, distributed.Future)]
        plain = args[: len(args) - len(references)]
        # Pickled here, because dask would search the arguments for futures.
        stream: Any = dumps((fn, plain, kwargs), out_of_band=2**63)[0]
        if len(stream) > TASK_BYTES:
            stream = self.put(stream)
        key = f"{funcname(fn)}-{uuid4().hex}"  # unique, because functions may not be pure
        self._results[key] = None
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()
        self._waiting.append((future, key, (self._events.topic, self._run, stream, *references)))
        self._client.loop.asyncio_loop.call_soon_threadsafe(self._start)
        return future

    def _start(self) -> None:
        """Submit the tasks that wait, and cancel them where that is asked for; called on the client's event loop.

        Tasks that are submitted in a row then travel in one message. Those without references are one graph, for which
        the scheduler needs less time.
        """
        waiting, nbytes = self._waiting, 0
        alike: list[_Start] = []
        while waiting:
            start = waiting.popleft()
            size = 0 if start is None or len(start[2]) > 3 or type(start[2][2]) is not bytes else len(start[2][2])
            if alike and (not size or nbytes + size > TASK_BYTES):
                self._submit(alike)
                alike, nbytes = [], 0
            if start is None:
                self._cancel()
            elif size:
                alike.append(start)
                nbytes += size
            else:
                self._submit([start])
        if alike:
            self._submit(alike)

    def _submit(self, starts: list[_Start]) -> None:
        """Submit tasks; those of several ones must have no references."""
        futures, keys, arguments = zip(*starts, strict=True)
        try:
            self._events.subscribe(self._client)  # again, if the scheduler is another one than at the start of the run
            if len(starts) == 1:
                tasks = [self._client.submit(run_task, *arguments[0], key=keys[0], pure=False, **self._keywords)]
            else:
                columns = zip(*arguments, strict=True)
                tasks = self._client.map(run_task, *columns, key=list(keys), pure=False, **self._keywords)
        except Exception as error:
            for future, key in zip(futures, keys, strict=True):
                del self._results[key]
                future.set_exception(error)
            return
        for future, key, task in zip(futures, keys, tasks, strict=True):
            self._pending[task] = asyncio.ensure_future(self._complete(future, key, task))

    async def _complete(self, future: Future[Any], key: str, task: Any) -> None:
        try:
            result = await self._outcome(key, task)
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)

    async def _outcome(self, key: str, future: Any) -> Any:
        """Wait for a task; return its result."""
        losses = self._cancelled
        content: bytes | None = None
        try:
            content = await self._from_event(key)
            if content is None:
                result = await self._client.gather(future, asynchronous=True)
            else:
                result = loads(content)
        except KilledWorker as error:
            raise BrokenExecutor(str(error)) from None
        except distributed.CancelledError as error:
            # By `cancel`; or a worker has died with the only copy of an argument; or the cluster was restarted. What is
            # lost at once counts once.
            self._cancelled += future in self._pending and losses == self._cancelled
            while self._client.status == "connecting":  # to a scheduler that restarts; the client tells nobody of it
                await asyncio.sleep(RECONNECT_SECONDS)
            if self._cancelled < MOST_CANCELLED and self._client.status == "running":
                raise CancelledError(str(error)) from None
            raise RuntimeError(f"the dask cluster cancels all tasks or is closed (client: {self._client})") from error
        finally:
            self._pending.pop(future, None)
            if content is None:
                future.release()
            else:
                self._events.release_later(future)
        self._cancelled = 0
        return result

    async def _from_event(self, key: str) -> bytes | None:
        """Return the pickled result of a task, if an event brings it; None when the task has ended without."""
        try:
            content = self._results[key]
            state = self._client.futures.get(key)
            if state is None or isinstance(content, bytes):
                return cast("bytes | None", content)
            waiter: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
            self._results[key] = waiter
            ended = asyncio.ensure_future(state.wait())
            ended.add_done_callback(lambda _: _set_result(waiter, None))
            try:
                return await waiter
            finally:
                ended.cancel()
        finally:
            del self._results[key]

    def cancel(self) -> None:
        """Cancel all submitted tasks: waiting tasks do not start, and a running batch stops after its current call."""
        loop = self._client.loop.asyncio_loop
        if not loop.is_closed():
            self._waiting.append(None)
            loop.call_soon_threadsafe(self._start)

    def _cancel(self) -> None:
        pending, self._pending = self._pending, {}
        if pending:
            self._cancelling = asyncio.ensure_future(self._client.cancel(list(pending), asynchronous=True))

    def secede(self) -> None:
        """If this thread runs a dask task, let the worker run other tasks meanwhile, because this one will wait."""
        if getattr(thread_state, "proceed", False):
            distributed.secede()
            self._seceded = threading.current_thread()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Undo :meth:`secede`, if the same thread calls this; receive nothing more that batches post."""
        self._events.receivers.pop(self._run, None)
        if cancel_futures:
            self.cancel()
        if self._seceded is threading.current_thread():
            self._seceded = None
            distributed.rejoin()


def _set_result(future: asyncio.Future[bytes | None], result: bytes | None) -> None:
    if not future.done():
        future.set_result(result)
