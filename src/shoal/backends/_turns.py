"""The part of one run on a worker, and how far the worker may run ahead of it with notes.

::

    run ── Turn.submit ──> Worker, its queue and its process
    run <── on_note ── Turn.noted <── a note from the process, such as a message of a call
      └──── handled ──> Turn: too many notes are not handled: the pool does not read from the process until some are

A process that is not read from fills its socket, and then waits in the sending of a note. So a run that is slow to
handle notes slows its workers down, and no note is lost.
"""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

from shoal.backends._process import Item, Process
from shoal.backends._surroundings import Surroundings
from shoal.backends._workers import Worker

#: The pool stops reading from a process when notes of this weight are not handled, and goes on at half of it. In bytes.
MOST_WEIGHT = 64 * 1024
#: The weight of a short note, in bytes: it takes memory, and time to handle.
LEAST_WEIGHT = 1024


class Turn(Executor):
    """The executor through which one run uses a worker, which it may share with other runs."""

    def __init__(self, worker: Worker, surroundings: Surroundings | None = None) -> None:
        self.worker = worker
        self.surroundings = surroundings  # that the calls are to have; None for those of the start of the process
        self._closed = False
        self._on_note: Callable[[Turn, bytes], object] | None = None
        self._counting = threading.Lock()  # guards the following two
        self._weight = 0  # of the notes that are not handled
        self._paused: Process | None = None  # the process that was paused because of them

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Submit a call to the worker. It runs after the items before it, when it is this run's turn."""
        if self._closed:
            raise RuntimeError("cannot submit to a slot that was closed")
        if kwargs:
            raise TypeError("a slot of processes takes positional arguments only")
        future: Future[Any] = Future()
        try:
            message = pickle.dumps((fn, args), pickle.HIGHEST_PROTOCOL)
        except Exception as error:
            future.set_exception(error)
            return future
        worker = self.worker
        with worker.lock:
            worker.waiting.append(Item(self, future, message))
            worker.send_next()
        return future

    def listen(self, on_note: Callable[[Turn, bytes], object] | None) -> None:
        """Pass the notes of calls to `on_note`, with this turn, in the loop's thread; None drops them.

        Whatever takes a note calls :meth:`handled` when it has done so. Notes of an earlier listener do not count.
        """
        with self._counting:
            self._on_note = on_note
            self._weight = 0
            self._resume()

    def noted(self, process: Process, note: bytes) -> None:
        """Pass a note to the listener; pause the process if it is too far ahead. Called in the loop's thread."""
        with self._counting:
            on_note = self._on_note
            if on_note is None:
                return
            self._weight += max(len(note), LEAST_WEIGHT)
            if self._weight >= MOST_WEIGHT:
                self._paused = process
                process.pause()
        on_note(self, note)

    def handled(self, note: bytes) -> None:
        """Record that a note was handled, so that the process may send more. Thread-safe."""
        with self._counting:
            self._weight -= max(len(note), LEAST_WEIGHT)
            if self._weight <= MOST_WEIGHT // 2:
                self._resume()

    def close(self) -> None:
        """Accept no more calls."""
        self._closed = True
        self.listen(None)

    def abort(self) -> None:
        """Accept no more calls, and cancel or kill those that have not ended."""
        self._closed = True
        self.worker.abort(self)
        self.listen(None)

    def _resume(self) -> None:
        process, self._paused = self._paused, None
        if process is not None:
            process.resume()
