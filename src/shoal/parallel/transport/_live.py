"""Brings what calls on a cluster say and send to the run while they run, as far as the engine has a way for it.

::

    worker: send, step, print ... ──> LiveNotes ── post, ten times a second ──> the engine ──> the run's inbox
                                          └─ end: what was not posted ──> Outcome ──────────────┘

The notes of a batch arrive in their order, and before its results.
"""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable

from shoal.backends.storing import Postbox

#: The seconds between two posts of a batch.
POST_SECONDS = 0.1
#: At most so many bytes of notes are posted at a time, because dask keeps them for a while. A longer note, and all that
#: follows it, waits for the results.
MOST_BYTES = 16 * 1024


class LiveNotes:
    """The notes of one batch, in the worker.

    Parameters
    ----------
    open_postbox
        Opens the way to the run; None if the engine has none. Then all notes wait for the results.

    Notes
    -----
    Thread-safe.
    """

    def __init__(self, open_postbox: Callable[[], Postbox] | None) -> None:
        self._postbox = None if open_postbox is None else open_postbox()  # here: dask asks for the thread of the task
        self._waiting: list[bytes] = []
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def live(self) -> bool:
        """Whether the engine has a way for notes."""
        return self._postbox is not None

    def add(self, note: bytes) -> None:
        """Add a note. It is posted a moment later, unless the batch ends before."""
        with self._lock:
            self._waiting.append(note)
            if self._thread is None and self._postbox is not None and not self._ended.is_set():
                thread = threading.Thread(target=self._post, args=(self._postbox,), name="shoal-notes", daemon=True)
                self._thread = thread
                thread.start()

    def end(self) -> tuple[bytes, ...]:
        """End the batch; return the notes that the run does not get otherwise."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        return tuple(self._waiting)

    def _post(self, postbox: Postbox) -> None:
        while not self._ended.wait(POST_SECONDS):
            with self._lock:
                fitting = _fitting(self._waiting)
            if fitting and postbox.post(pickle.dumps(self._waiting[:fitting])):
                with self._lock:
                    del self._waiting[:fitting]
        withdrawn = postbox.withdraw()
        if withdrawn is not None:
            self._waiting[:0] = notes_in(withdrawn)


def _fitting(notes: list[bytes]) -> int:
    """Return how many notes, from the first on, can be posted at a time."""
    left = MOST_BYTES
    for number, note in enumerate(notes):
        left -= len(note)
        if left < 0:
            return number
    return len(notes)


def notes_in(posted: bytes) -> list[bytes]:
    """Return the notes that were posted at a time."""
    notes: list[bytes] = pickle.loads(posted)
    return notes
