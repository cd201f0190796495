"""Checksums of large buffers: computed on a second thread while the next piece is read or written.

::

    this thread     read piece 1 ── read piece 2 ── read piece 3 ── add what is left, or wait
                         └───────────────┬└───────────────┬└─────────┐
    second thread                   add piece 1 ──── add piece 2 ── add piece 3

Without a second CPU, or for smaller buffers, this thread adds each piece while it is in the processor's cache.
"""

from __future__ import annotations

from _thread import start_new_thread
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

from shoal._arrays import PIECE, SLAB
from shoal._cpus import cpu_budget

#: A buffer of fewer bytes is not worth a thread.
LARGE = 2**22


@contextmanager
def updating(checksum: Any, nbytes: int) -> Iterator[tuple[Callable[[Any], Any], int]]:
    """Open a checksum for the pieces of one buffer. At the end of the block, all pieces have been added.

    Parameters
    ----------
    checksum
        Has ``update``, which releases the interpreter's lock. Nothing else may use it meanwhile.
    nbytes
        The size of the buffer.

    Yields
    ------
    A function that adds a piece, a buffer that nobody may change until the block ends; and the size that pieces should
    have, in bytes.
    """
    if nbytes < LARGE or cpu_budget() < 2:
        yield checksum.update, PIECE
        return
    from queue import SimpleQueue

    pieces: deque[Any] = deque()
    adding = Lock()
    news: SimpleQueue[bool] = SimpleQueue()

    def add_all() -> None:
        with adding:
            while pieces:
                checksum.update(pieces.popleft())

    def serve() -> None:
        while news.get():
            add_all()

    def accept(piece: Any) -> None:
        pieces.append(piece)
        news.put(True)

    try:
        start_new_thread(serve, ())  # Thread.start() would wait until the thread runs
    except RuntimeError:  # the system grants no thread, or the interpreter is about to end
        yield checksum.update, PIECE
        return
    try:
        yield accept, SLAB
    except BaseException:
        pieces.clear()
        raise
    finally:
        news.put(False)
        add_all()  # on a busy machine, the thread may not have come to it
