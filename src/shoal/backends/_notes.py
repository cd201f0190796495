"""The notes of calls to one run from one worker, and how far the worker may run ahead of the run with them.

::

    run <── on_note ── Notes.noted <── a note from the process, such as a message of a call
     └───── handled ──> Notes: too many notes are not handled: the pool does not read from the process until some are

A process that is not read from fills its socket, and then waits in the sending of a note. So a run that is slow to
handle notes slows its workers down, and no note is lost.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from shoal.backends._process import Process

#: The pool stops reading from a process when notes of this weight are not handled, and goes on at half of it. In bytes.
MOST_WEIGHT = 64 * 1024
#: The weight of a short note, in bytes: it takes memory, and time to handle.
LEAST_WEIGHT = 1024


class Notes:
    """The notes that calls of one run send from one worker."""

    def __init__(self) -> None:
        self._on_note: Callable[[Notes, bytes], object] | None = None
        self._counting = threading.Lock()  # guards the following two
        self._weight = 0  # of the notes that are not handled
        self._paused: Process | None = None  # the process that was paused because of them

    def listen(self, on_note: Callable[[Notes, bytes], object] | None) -> None:
        """Pass the notes of calls to `on_note`, with this object, in the loop's thread; None drops them.

        Whatever takes a note calls :meth:`handled` when it has done so. Notes of an earlier listener do not count.
        """
        if on_note is self._on_note is None:
            return
        with self._counting:
            self._on_note = on_note
            self._weight = 0
            if self._paused is not None:
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

    def _resume(self) -> None:
        process, self._paused = self._paused, None
        if process is not None:
            process.resume()
