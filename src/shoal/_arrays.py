"""The bytes of one numpy array: ArraySpec describes them; other functions give them as flat buffers, in pieces."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

#: The size of pieces, in bytes. A piece is small enough to be in the processor's cache when it is used again.
PIECE = 2**18
#: An array that is not contiguous is copied in parts of this many bytes.
SLAB = 2**22


class ArraySpec(NamedTuple):
    """Everything about an array except its bytes.

    Attributes
    ----------
    dtype : numpy.dtype
    shape : tuple of int
    order : {"C", "F"}
        The memory order: "F" if the first index varies fastest, else "C".
    """

    dtype: Any
    shape: tuple[int, ...]
    order: Any

    @classmethod
    def of(cls, array: Any) -> ArraySpec:
        """Return the spec of an array; for an array that is not contiguous, the spec of its contiguous copy."""
        flags = array.flags
        return cls(array.dtype, array.shape, "F" if flags.f_contiguous and not flags.c_contiguous else "C")

    @property
    def nbytes(self) -> int:
        """The number of bytes of the data."""
        return math.prod(self.shape) * int(self.dtype.itemsize)

    def empty(self) -> Any:
        """Return a new array whose values are not initialized."""
        import numpy as np

        return np.empty(self.shape, self.dtype, order=self.order)

    def over(self, memory: Any, offset: int = 0, kind: Any = None) -> Any:
        """Return an array, or an instance of its subclass `kind`, that uses the memory of a buffer from `offset` on."""
        import numpy as np

        return np.ndarray.__new__(kind or np.ndarray, self.shape, self.dtype, memory, offset, order=self.order)


def flat(array: Any) -> Any:
    """Return a view of a contiguous array: its bytes in memory order, as an array of uint8 with one dimension."""
    import numpy as np

    return np.asarray(array).reshape(-1, order="A").view(np.uint8)


def pieces(array: Any) -> Iterator[memoryview]:
    """Yield the bytes of an array of any layout in pieces, in the order of its :class:`ArraySpec`."""
    if array.flags.forc:
        yield from cut(memoryview(flat(array)))
        return
    import numpy as np

    flags = ["external_loop", "buffered", "zerosize_ok"]
    size = max(SLAB // array.itemsize, 1)
    for slab in np.nditer(array, flags=flags, buffersize=size, order="C"):  # type: ignore[call-overload]
        yield from cut(memoryview(flat(np.ascontiguousarray(slab))))


def cut(memory: memoryview, size: int = PIECE) -> Iterator[memoryview]:
    """Yield consecutive pieces of a buffer of bytes, each of `size` bytes; the last one may be shorter."""
    for start in range(0, memory.nbytes, size):
        yield memory[start : start + size]
