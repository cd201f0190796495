"""The bytes of a numpy array, as they are hashed: not copied where they lie in one piece, else a piece at a time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

# What is copied at a time of an array whose bytes do not lie in one piece.
PIECE_BYTES = 1024 * 1024


def data_of(array: Any) -> Iterator[Any]:
    """Yield the bytes of an array without Python objects, as buffers: in the order of memory, or else in C order."""
    import numpy as np

    array = array.view(np.ndarray)
    if array.size == 0 or array.itemsize == 0:
        return
    if not array.flags.c_contiguous and array.flags.f_contiguous:
        array = array.T
    if array.flags.c_contiguous:
        # Not every dtype offers a buffer (datetime64 does not), bytes do.
        yield memoryview(array.reshape(-1).view(np.uint8))
    else:
        for piece in pieces_of(array):
            yield memoryview(piece.reshape(-1).view(np.uint8))


def pieces_of(array: Any) -> Iterator[Any]:
    """Yield the elements in C order, as contiguous copies of at most some :data:`PIECE_BYTES`."""
    import numpy as np

    # Leading axes are walked until what is left is small enough, and the last of them is cut into slices.
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
