"""The bytes of one array: what says how they are to be read, and their way out of an array and into one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

#: Bytes travel in pieces of so many: small enough to be in the processor's cache still when they are used again.
PIECE = 2**18
#: What is not contiguous is copied in pieces of so many bytes.
SLAB = 2**22


class ArraySpec(NamedTuple):
    """What is to be known of an array beside its bytes.

    Attributes
    ----------
    dtype
        Its :class:`numpy.dtype`.
    shape
        Its shape.
    order
        ``"F"`` if the first index is the one that varies fastest, else ``"C"``.
    """

    dtype: Any
    shape: tuple[int, ...]
    order: Any

    @classmethod
    def of(cls, array: Any) -> ArraySpec:
        """Return that of an array; of one that is not contiguous, that of a copy."""
        flags = array.flags
        return cls(array.dtype, array.shape, "F" if flags.f_contiguous and not flags.c_contiguous else "C")

    @property
    def nbytes(self) -> int:
        """The number of bytes."""
        return math.prod(self.shape) * int(self.dtype.itemsize)

    def empty(self) -> Any:
        """Return an array whose values are whatever was there."""
        import numpy as np

        return np.empty(self.shape, self.dtype, order=self.order)

    def over(self, memory: Any, offset: int = 0, kind: Any = None) -> Any:
        """Return the array that lies in some memory; as an instance of `kind`, if that is given."""
        import numpy as np

        return np.ndarray.__new__(kind or np.ndarray, self.shape, self.dtype, memory, offset, order=self.order)


def flat(array: Any) -> Any:
    """Return the bytes of a contiguous array, in the order in which they lie, as an array of them: not a copy."""
    import numpy as np

    return np.asarray(array).reshape(-1, order="A").view(np.uint8)


def pieces(array: Any) -> Iterator[memoryview]:
    """Yield the bytes of an array of any layout, in the order that its :class:`ArraySpec` says, in small pieces."""
    if array.flags.forc:
        yield from cut(memoryview(flat(array)))
        return
    import numpy as np

    flags = ["external_loop", "buffered", "zerosize_ok"]
    size = max(SLAB // array.itemsize, 1)
    for slab in np.nditer(array, flags=flags, buffersize=size, order="C"):  # type: ignore[call-overload]
        yield from cut(memoryview(flat(np.ascontiguousarray(slab))))


def cut(memory: memoryview) -> Iterator[memoryview]:
    """Yield the parts of some memory that are a piece each."""
    for start in range(0, memory.nbytes, PIECE):
        yield memory[start : start + PIECE]
