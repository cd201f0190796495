"""Checksums of large buffers: computed on a second thread while the next piece is read or written.

::

    this thread     read piece 1 ── read piece 2 ── read piece 3 ── wait
                         └───────────────┬└───────────────┬└─────────┐
    second thread                   add piece 1 ──── add piece 2 ── add piece 3

Without a second CPU, or for smaller buffers, this thread adds each piece while it is in the processor's cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from shoal._arrays import PIECE, SLAB
from shoal._cpus import cpu_budget

#: A buffer of fewer bytes is not worth a thread.
LARGE = 2**23


@contextmanager
def updating(checksum: Any, nbytes: int) -> Iterator[tuple[Callable[[memoryview], Any], int]]:
    """Open a checksum for the pieces of one buffer. At the end of the block, all pieces have been added.

    Parameters
    ----------
    checksum
        Has ``update``, which releases the interpreter's lock. Nothing else may use it meanwhile.
    nbytes
        The size of the buffer.

    Yields
    ------
    A function that adds a piece, which nobody may change until the block ends; and the size that pieces should have,
    in bytes.
    """
    if nbytes < LARGE or cpu_budget() < 2:
        yield checksum.update, PIECE
        return
    from queue import SimpleQueue
    from threading import Thread

    pieces: SimpleQueue[memoryview | None] = SimpleQueue()

    def add() -> None:
        while (piece := pieces.get()) is not None:
            checksum.update(piece)

    thread = Thread(target=add, name="shoal-checksum", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # the system grants no thread, or the interpreter is about to end
        yield checksum.update, PIECE
        return
    try:
        yield pieces.put, SLAB
    finally:
        pieces.put(None)
        thread.join()
