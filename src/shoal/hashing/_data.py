"""Bytes that go into a node: as they are or, if they are many, the digests of their blocks, which threads can share."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

import xxhash

from shoal._cpus import cpu_budget

#: Data of more bytes than this are hashed in blocks of so many.
BLOCK_BYTES = 2**20
#: Blocks that are worth a thread: they take a third of a millisecond, a thread less than a tenth to start.
_BLOCKS_PER_THREAD = 4
_MOST_THREADS = 8


def feed(node: Any, nbytes: int, pieces: Iterable[Any]) -> None:
    """Feed data into a node.

    What is fed depends on the bytes alone, not on how they are cut into pieces.

    Parameters
    ----------
    node : xxhash.xxh3_128
        What takes them.
    nbytes : int
        How many bytes there are.
    pieces : iterable of buffers
        Them, in order; contiguous, of bytes.
    """
    if nbytes <= BLOCK_BYTES:
        for piece in pieces:
            node.update(piece)
        return
    block, missing = xxhash.xxh3_128(), BLOCK_BYTES
    for piece in pieces:
        view = memoryview(piece)
        if missing == BLOCK_BYTES and len(view) > BLOCK_BYTES:
            whole = len(view) - len(view) % BLOCK_BYTES
            node.update(b"".join(_digests(view[:whole])))
            view = view[whole:]
        while len(view) >= missing:
            block.update(view[:missing])
            node.update(block.digest())
            view = view[missing:]
            block, missing = xxhash.xxh3_128(), BLOCK_BYTES
        block.update(view)
        missing -= len(view)
    if missing < BLOCK_BYTES:
        node.update(block.digest())


def _digests(view: memoryview) -> list[bytes]:
    """Return the digests of whole blocks."""
    n_blocks = len(view) // BLOCK_BYTES
    digests = [b""] * n_blocks
    # Cut by one thread, since without a GIL (CPython 3.13) a memoryview must not be by several.
    blocks = [view[start : start + BLOCK_BYTES] for start in range(0, len(view), BLOCK_BYTES)]
    n_threads = min(n_blocks // _BLOCKS_PER_THREAD, _MOST_THREADS)
    n_threads = min(n_threads, cpu_budget()) if n_threads > 1 else 1

    def take(first: int) -> None:
        for number in range(first, n_blocks, n_threads):  # xxhash lets other threads run meanwhile
            digests[number] = xxhash.xxh3_128_digest(blocks[number])

    threads: list[threading.Thread] = []
    try:
        for first in range(1, n_threads):
            thread = threading.Thread(target=take, args=(first,), name="shoal-hash")
            try:
                thread.start()
            except RuntimeError:  # the system grants no more
                take(first)
            else:
                threads.append(thread)
        take(0)
    finally:
        for thread in threads:
            thread.join()
    return digests
