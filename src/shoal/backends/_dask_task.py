"""What runs on a worker of dask for shoal, and the events that bring its news to the client.

::

    worker: run_task ── the result ──> dask's store        posted while it runs, or a small result
                 └───── log_event(topic, (run, key, content)) ──> the scheduler ──> Events ──> the executor of the run

Events and the news that a task has ended take the same way, so they arrive in their order.
"""

from __future__ import annotations

import asyncio
import pickle
import platform
from collections.abc import Callable
from typing import Any

import distributed

from shoal.backends._packing import Packed, room_left, unpack

_WORKER = f"a dask worker with Python {platform.python_version()}"
#: A result whose pickle has certainly no more bytes is also sent as an event, which arrives with the news that the task
#: has ended. To fetch a result takes two more round trips: from the scheduler, and from the worker.
EVENT_BYTES = 4096
#: The seconds between two messages of a client to its scheduler. By default a client waits 10 ms, which is as long as
#: all else that a short run does.
MESSAGE_SECONDS = 0.002
#: The seconds for which tasks with small results are collected before they are released together. The scheduler tells
#: their workers, and then sends these nothing else for 5 ms: a task that is submitted next would wait so long.
RELEASE_SECONDS = 0.1


def run_task(topic: str, run: str, stream: Any, *stored: Any) -> Any:
    """Run a submitted call, in a worker. A small result is also sent as an event."""
    function, args, kwargs = unpack(Packed(stream, []), "a batch of calls", _WORKER)
    worker = distributed.get_worker()
    key = worker.get_current_task()
    if hasattr(function, "given_up"):
        state = worker.state
        function.given_up = lambda: (task := state.tasks.get(key)) is None or task.state == "cancelled"
    result = function(*args, *stored, **kwargs)
    if room_left(result, EVENT_BYTES) > 0:
        worker.log_event(topic, (run, key, pickle.dumps(result, pickle.HIGHEST_PROTOCOL)))
    return result


class DaskPostbox:
    """Posts by events of dask, which travel from the worker to the client as the news that a task has ended do.

    The scheduler keeps the last ones of each topic: 1,000 by default (``distributed.admin.low-level-log-length``).
    """

    def __init__(self, topic: str, run: str) -> None:
        self._worker, self._topic, self._run = distributed.get_worker(), topic, run

    def post(self, content: bytes) -> bool:
        self._worker.log_event(self._topic, (self._run, None, content))
        return True

    def withdraw(self) -> None:
        """Do nothing: what was posted arrives."""


class Events:
    """The events that arrive at a client, for its runs.

    There is one topic for each client, because neither the scheduler nor the client forgets a topic.
    """

    def __init__(self, client: Any) -> None:
        self.topic = f"shoal-{client.id}"
        self.receivers: dict[str, Callable[[str | None, bytes], object]] = {}  # by run
        self._stream: Any = None
        self._ended: list[Any] = []  # dask's futures of tasks that have ended

    def subscribe(self, client: Any) -> None:
        """Have the events sent, and messages sent soon, unless both is so already.

        The stream to the scheduler is another one if the scheduler is.
        """
        stream = client.scheduler_comm
        if stream is not self._stream:
            self._stream = stream
            if hasattr(stream, "interval"):
                stream.interval = min(stream.interval, MESSAGE_SECONDS)
            client.subscribe_topic(self.topic, self.received)

    def release_later(self, future: Any) -> None:
        """Release the future of a task that has ended, together with others; called on the client's event loop."""
        self._ended.append(future)
        if len(self._ended) == 1:
            try:
                asyncio.get_running_loop().call_later(RELEASE_SECONDS, self.release)
            except RuntimeError:  # the loop has ended
                self.release()

    def release(self) -> None:
        """Release the futures of tasks that have ended; called on the client's event loop."""
        ended, self._ended = self._ended, []
        for future in ended:
            future.release()

    def received(self, event: tuple[float, tuple[str, str | None, bytes]]) -> None:
        """Pass on an event; called on the client's event loop."""
        run, key, content = event[1]
        if run in self.receivers:
            self.receivers[run](key, content)
