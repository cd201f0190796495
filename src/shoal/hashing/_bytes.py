"""Large data on its way into a node: bytes, buffers, and the memory of numpy arrays.

::

    data_of(array) ──> its memory as buffers ──> feed(node, ...) ──> up to 1 MiB: the bytes themselves
                                                                 └─> more: the digest of each block of 1 MiB, by threads
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import xxhash

from shoal._cpus import cpu_budget

#: Data of more bytes than this is hashed in blocks of this size.
BLOCK_BYTES = 2**20
# A block takes a third of a millisecond; starting a thread takes less than a tenth.
_BLOCKS_PER_THREAD = 4
_MOST_THREADS = 8
# An array whose bytes are not in one piece is copied in pieces of this many bytes.
PIECE_BYTES = 1024 * 1024


def feed(node: Any, nbytes: int, pieces: Iterable[Any]) -> None:
    """Feed contiguous buffers, of `nbytes` in total, into a node. Their boundaries do not affect the result."""
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
    """Return the digest of each whole block of a buffer; several threads compute them if there are many blocks."""
    n_blocks = len(view) // BLOCK_BYTES
    digests = [b""] * n_blocks
    # One thread slices the buffer, because in free-threaded CPython 3.13 several threads must not slice one memoryview.
    blocks = [view[start : start + BLOCK_BYTES] for start in range(0, len(view), BLOCK_BYTES)]
    n_threads = min(n_blocks // _BLOCKS_PER_THREAD, _MOST_THREADS)
    n_threads = min(n_threads, cpu_budget()) if n_threads > 1 else 1

    def hash_every_nth(first: int) -> None:
        for number in range(first, n_blocks, n_threads):  # xxhash releases the GIL
            digests[number] = xxhash.xxh3_128_digest(blocks[number])

    threads: list[threading.Thread] = []
    try:
        for first in range(1, n_threads):
            thread = threading.Thread(target=hash_every_nth, args=(first,), name="shoal-hash")
            try:
                thread.start()
            except RuntimeError:  # the system allows no further thread
                hash_every_nth(first)
            else:
                threads.append(thread)
        hash_every_nth(0)
    finally:
        for thread in threads:
            thread.join()
    return digests


def data_of(array: Any) -> Iterator[Any]:
    """Yield the bytes of a numpy array without Python objects, as buffers: in memory order if contiguous, else C order.

    A contiguous array is not copied. Any other array is copied one piece at a time.
    """
    import numpy as np

    array = array.view(np.ndarray)
    if array.size == 0 or array.itemsize == 0:
        return
    if not array.flags.c_contiguous and array.flags.f_contiguous:
        array = array.T
    if array.flags.c_contiguous:
        # The view is of bytes, because some dtypes, such as datetime64, offer no buffer.
        yield memoryview(array.reshape(-1).view(np.uint8))
    else:
        for piece in pieces_of(array):
            yield memoryview(piece.reshape(-1).view(np.uint8))


def pieces_of(array: Any) -> Iterator[Any]:
    """Yield the elements of a numpy array in C order, as contiguous copies of about :data:`PIECE_BYTES` at most."""
    import numpy as np

    # Walk along the leading axes until what remains is small enough, then cut the last of these axes into slices.
    axis, nbytes = 0, array.nbytes
    while axis < array.ndim and nbytes > PIECE_BYTES:
        nbytes //= max(array.shape[axis], 1)
        axis += 1
    if axis == 0:
        yield np.ascontiguousarray(array)
        return
    step = max(PIECE_BYTES // max(nbytes, 1), 1)
    for index in itertools.product(*map(range, array.shape[: axis - 1])):
        part = array[index]
        for start in range(0, len(part), step):
            yield np.ascontiguousarray(part[start : start + step])
