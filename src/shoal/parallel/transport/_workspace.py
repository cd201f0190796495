"""The arrays that the workers of a run share with the caller, and the segments of its batches.

::

    an array above max_nbytes ──reduce()──> written once into a segment ─> map_array(path, dtype, shape, ...)
    a memmap of the caller, or a view of one ────────────────────────────> map_array(its file, ...)
                                                                           the worker makes a numpy.memmap of it
    any other buffer ──stage()──> packed into the segment of its batch ──> mapped with the batch, freed with it
"""

from __future__ import annotations

import mmap
import os
import sys
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from shoal.parallel.transport._folders import Folder
from shoal.parallel.transport._segments import Segment, SegmentAllocator

#: The number of arrays that a run keeps although no batch in flight needs them, in case the next batch does. It is
#: small because each array costs a descriptor.
MOST_IDLE = 16
#: The number of arrays that a run shares at a time. Further arrays are sent with their batches.
MOST_SHARED = 256


def is_array(obj: Any) -> bool:
    """Tell whether `obj` is a numpy array. This does not import numpy: without it there are no arrays."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(obj, getattr(numpy, "ndarray", ()))


def backing_memmap(array: Any) -> Any:
    """Return the ``numpy.memmap`` of which `array` is a view, or `array` itself; None if it lies in no memmap."""
    while is_array(array):
        if isinstance(array.base, mmap.mmap):
            return array if hasattr(array, "filename") else None
        array = array.base
    return None


def reduce_memmap(array: Any) -> Any:
    """Reduce a memmap, or a view of one, to its file; return NotImplemented for any other array.

    A memmap in mode "c" is not reduced, because changes to it exist only in this process.
    """
    root = backing_memmap(array)
    if root is None or root.mode == "c" or root.filename is None or array.dtype.hasobject or not array.size:
        return NotImplemented
    if not os.path.exists(root.filename):
        return NotImplemented
    shift = array.__array_interface__["data"][0] - root.__array_interface__["data"][0]
    mode = "r+" if root.mode == "w+" else root.mode
    return map_array, (str(root.filename), mode, array.dtype, array.shape, array.strides, root.offset + shift)


def map_segment(*args: Any) -> Any:
    """Map an array in a segment like :func:`map_array`, and mark it for :func:`is_segment`."""
    array = map_array(*args)
    array.base.is_of_shoal = True
    return array


def is_segment(memmap: Any) -> bool:
    """Tell whether the file of a memmap is a segment, which is freed when its run ends."""
    return getattr(memmap, "is_of_shoal", False)


def map_array(path: str, mode: Any, dtype: Any, shape: tuple[int, ...], strides: tuple[int, ...], offset: int) -> Any:
    """Map the array that starts at byte `offset` of the file at `path`.

    Parameters
    ----------
    path, mode
        As for ``numpy.memmap``.
    dtype, shape, strides
        As of the array. Strides may be negative.
    offset
        The byte at which the element at index 0 begins.
    """
    import numpy

    # The array takes so many bytes before its first element, and so many after it.
    before = sum(stride * (length - 1) for stride, length in zip(strides, shape, strict=True) if stride < 0)
    after = sum(stride * (length - 1) for stride, length in zip(strides, shape, strict=True) if stride > 0)
    span: Any = numpy.memmap(path, numpy.uint8, mode, offset + before, (after - before + dtype.itemsize,))
    array = numpy.ndarray.__new__(numpy.memmap, shape, dtype, span, -before, strides)
    # numpy.memmap's own constructor would set these attributes. ndarray.__new__ leaves them empty.
    array._mmap, array.offset, array.mode, array.filename = span._mmap, offset, span.mode, span.filename
    return array


def as_class(array: Any, cls: type) -> Any:
    """Return `array` as an instance of a subclass of ``ndarray``."""
    return array.view(cls)


class _SharedArray:
    """An array of the caller that was written into a segment.

    Attributes
    ----------
    array
        A weak reference to the array.
    reduced
        The reduction by which workers map it.
    users
        The number of batches in flight that need it.
    """

    __slots__ = ("array", "key", "reduced", "segment", "users")

    def __init__(self, array: Any, segment: Segment, reduced: Any) -> None:
        self.array = weakref.ref(array)
        self.key = id(array)
        self.segment = segment
        self.reduced = reduced
        self.users = 0


class Workspace:
    """The shared arrays of one run, and the segments of its batches, in the parent.

    Parameters
    ----------
    max_nbytes
        Arrays of more bytes are written once for the whole run; None to write none.
    mmap_mode
        How workers map these arrays: "r", "r+" or "c"; None to write none.
    temp_folder
        The folder for segments; None for shared memory.
    most_idle
        The number of arrays that are kept although no batch in flight needs them.

    Notes
    -----
    Not thread-safe: it belongs to the thread that owns the run.
    """

    def __init__(
        self,
        max_nbytes: int | None,
        mmap_mode: str | None,
        temp_folder: str | Folder | None,
        most_idle: int = MOST_IDLE,
    ) -> None:
        self._most_idle = most_idle
        self._max_nbytes = sys.maxsize if max_nbytes is None or mmap_mode is None else max_nbytes
        self._mode = "r+" if mmap_mode == "w+" else mmap_mode
        self._segments = SegmentAllocator(temp_folder)
        self._by_id: dict[int, _SharedArray] = {}
        self._all: set[_SharedArray] = set()
        self._idle: OrderedDict[_SharedArray, None] = OrderedDict()
        self._needed: set[_SharedArray] = set()  # those that the batch which is being encoded needs

    def reduce(self, array: Any) -> Any:
        """Return the reduction by which workers map an array; NotImplemented if it is sent with its batch."""
        reduced = reduce_memmap(array)
        if reduced is not NotImplemented or array.nbytes <= self._max_nbytes:
            return reduced
        if array.dtype.hasobject or not _pickles_like_ndarray(type(array)):
            return NotImplemented
        shared = self._by_id.get(id(array))
        if shared is None or shared.array() is not array:
            if len(self._all) >= MOST_SHARED:
                return NotImplemented
            shared = self._share(array)
        self._needed.add(shared)
        return shared.reduced

    def stage(self, buffers: Sequence[memoryview]) -> tuple[Segment, list[tuple[int, int]]]:
        """Write buffers into a new segment; return the segment, and the offset and bytes of each buffer."""
        segment, offsets = self._segments.store(buffers)
        return segment, [(offset, view.nbytes) for offset, view in zip(offsets, buffers, strict=True)]

    def empty_segment(self) -> Segment:
        """Return an empty segment, into which a worker may write results."""
        return self._segments.empty()

    def recycle(self, segment: Segment, written: bool = False) -> None:
        """Keep an empty segment for another batch. With `written`, it holds results, which were read."""
        self._segments.recycle(segment, written)

    def acquire(self) -> list[_SharedArray]:
        """Return the shared arrays that were reduced since the last call. They are kept until they are released."""
        arrays = list(self._needed)
        self._needed.clear()
        for shared in arrays:
            shared.users += 1
            self._idle.pop(shared, None)
        return arrays

    def release(self, arrays: list[_SharedArray]) -> None:
        """Release shared arrays that a batch has needed. Those that the caller has dropped are freed."""
        for shared in arrays:
            shared.users -= 1
            if not shared.users:
                self._idle[shared] = None
        for shared in list(self._idle):
            if len(self._idle) > self._most_idle or shared.array() is None:
                self._free(shared)

    def close(self) -> None:
        """Free all shared arrays."""
        for shared in list(self._all):
            self._free(shared)
        self._segments.close()

    def _share(self, array: Any) -> _SharedArray:
        """Write an array into a segment."""
        import numpy

        flat = numpy.asarray(array)
        if not flat.flags.forc:
            flat = numpy.ascontiguousarray(flat)
        raw: Any = flat.reshape(-1, order="C" if flat.flags.c_contiguous else "F").view(numpy.uint8)
        segment, _ = self._segments.store([memoryview(raw)])
        reduced: Any = map_segment, (segment.path, self._mode, array.dtype, array.shape, flat.strides, 0)
        if type(array) not in (numpy.ndarray, numpy.memmap):
            reduced = as_class, (_Reduced(reduced), type(array))
        shared = _SharedArray(array, segment, reduced)
        self._by_id[shared.key] = shared
        self._all.add(shared)
        return shared

    def _free(self, shared: _SharedArray) -> None:
        self._idle.pop(shared, None)
        if self._by_id.get(shared.key) is shared:
            del self._by_id[shared.key]
        self._all.discard(shared)
        shared.segment.close()


class _Reduced:
    """Stands, in a pickle, for the object that a reduction rebuilds."""

    def __init__(self, reduced: Any) -> None:
        self._reduced = reduced

    def __reduce__(self) -> Any:
        return self._reduced


def _pickles_like_ndarray(cls: type) -> bool:
    """Tell whether a subclass of ndarray pickles its bytes and its class, and nothing else."""
    import numpy

    base: Any = numpy.ndarray
    return all(getattr(cls, name) is getattr(base, name) for name in ("__reduce__", "__reduce_ex__", "__setstate__"))
