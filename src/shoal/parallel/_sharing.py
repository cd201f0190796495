"""The arrays of a run that its workers share.

::

    an array above max_nbytes ──place()──> written once into a segment ──> MappedArray(path, dtype, shape, ...)
    a memmap of the caller, or a view of one ─────────────────────────────> MappedArray(its file, ...)
                                                                            in the worker: numpy.memmap
    any other buffer ──stage()──> packed into the segment of its batch ───> mapped with the batch, gone with it
"""

from __future__ import annotations

import mmap
import os
import sys
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from shoal.parallel._segments import Folder, Places, Segment

#: Arrays that no batch in flight needs are kept for the next, so many at most: each costs a descriptor.
KEPT = 16
#: So many arrays are placed at a time; what is more travels with its batch.
PLACED = 256


def is_array(obj: Any) -> bool:
    """Tell whether `obj` is a numpy array; it can only be one once numpy is imported."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(obj, getattr(numpy, "ndarray", ()))


def backing_memmap(array: Any) -> Any:
    """Return the ``numpy.memmap`` whose mapping holds `array`, or None."""
    while is_array(array):
        if isinstance(array.base, mmap.mmap):
            return array if hasattr(array, "filename") else None
        array = array.base
    return None


def by_reference(array: Any) -> Any:
    """Return the reduction of a memmap, or of a view of one, to its file; NotImplemented if it is neither.

    A memmap in mode "c" is left out, since what was written into it is nowhere but in this process.
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
    """Map an array of ours: as :func:`map_array`, and :func:`is_ours` knows it again."""
    array = map_array(*args)
    array.base.is_of_shoal = True
    return array


def is_ours(memmap: Any) -> bool:
    """Tell whether the file behind a memmap is a segment, which goes when its run ends."""
    return getattr(memmap, "is_of_shoal", False)


def map_array(path: str, mode: Any, dtype: Any, shape: tuple[int, ...], strides: tuple[int, ...], offset: int) -> Any:
    """Map the array that starts at byte `offset` of the file at `path`.

    Parameters
    ----------
    path, mode
        As for ``numpy.memmap``.
    dtype, shape, strides
        Of the array; `strides` may be negative.
    offset
        Where the element at index 0 is.
    """
    import numpy

    # The bytes that the array touches, before and after its first element.
    before = sum(stride * (length - 1) for stride, length in zip(strides, shape, strict=True) if stride < 0)
    after = sum(stride * (length - 1) for stride, length in zip(strides, shape, strict=True) if stride > 0)
    span: Any = numpy.memmap(path, numpy.uint8, mode, offset + before, (after - before + dtype.itemsize,))
    array = numpy.ndarray.__new__(numpy.memmap, shape, dtype, span, -before, strides)
    # What numpy.memmap's own constructor sets; made this way, it would be left empty.
    array._mmap, array.offset, array.mode, array.filename = span._mmap, offset, span.mode, span.filename
    return array


def as_class(array: Any, cls: type) -> Any:
    """Return `array` as an instance of a subclass of ``ndarray``."""
    return array.view(cls)


class _Placed:
    """An array in a segment."""

    __slots__ = ("array", "key", "nbytes", "reduced", "segment", "users")

    def __init__(self, array: Any, segment: Segment, reduced: Any) -> None:
        self.array = weakref.ref(array)
        self.key = id(array)
        self.nbytes = array.nbytes
        self.segment = segment
        self.reduced = reduced
        self.users = 0


class Workspace:
    """The shared arrays of one run, in the parent.

    Parameters
    ----------
    max_nbytes
        Arrays of more bytes are written once for the whole run; None: none is.
    mmap_mode
        How workers map them: "r", "r+" or "c"; None: none is written.
    temp_folder
        Where they go; None for shared memory.
    kept
        The arrays that no batch in flight needs and that are kept for the next, at most.

    Notes
    -----
    Not thread-safe: it belongs to the thread that owns the run.
    """

    def __init__(
        self, max_nbytes: int | None, mmap_mode: str | None, temp_folder: str | Folder | None, kept: int = KEPT
    ) -> None:
        self._kept = kept
        self._limit = sys.maxsize if max_nbytes is None or mmap_mode is None else max_nbytes
        self._mode = "r+" if mmap_mode == "w+" else mmap_mode
        self._places = Places(temp_folder)
        self._placed: dict[int, _Placed] = {}
        self._all: set[_Placed] = set()
        self._idle: OrderedDict[_Placed, None] = OrderedDict()
        self._in_use: set[_Placed] = set()

    def reduce(self, array: Any) -> Any:
        """Return the reduction of an array that workers map, or NotImplemented for one that travels with its batch."""
        reduced = by_reference(array)
        if reduced is not NotImplemented or array.nbytes <= self._limit:
            return reduced
        if array.dtype.hasobject or not _plainly_reduced(type(array)):
            return NotImplemented
        placed = self._placed.get(id(array))
        if placed is None or placed.array() is not array:
            if len(self._all) >= PLACED:
                return NotImplemented
            placed = self._place(array)
        self._in_use.add(placed)
        return placed.reduced

    def stage(self, buffers: Sequence[memoryview]) -> tuple[Segment, list[tuple[int, int]]]:
        """Write the buffers of a batch into a segment of their own; return it and each buffer's offset and bytes."""
        segment, offsets = self._places.store(buffers)
        return segment, [(offset, view.nbytes) for offset, view in zip(offsets, buffers, strict=True)]

    def outlet(self) -> Segment:
        """Return an empty segment, for a worker to write results into."""
        return self._places.empty()

    def take_back(self, outlet: Segment) -> None:
        """Take back an outlet into which nothing was written."""
        self._places.take_back(outlet)

    def lease(self) -> list[_Placed]:
        """Keep the arrays that were reduced since the last lease until it is released."""
        leased = list(self._in_use)
        self._in_use.clear()
        for placed in leased:
            placed.users += 1
            self._idle.pop(placed, None)
        return leased

    def release(self, leased: list[_Placed]) -> None:
        """Let go of arrays that a batch has used; those that the caller has dropped are freed."""
        for placed in leased:
            placed.users -= 1
            if not placed.users:
                self._idle[placed] = None
        for placed in list(self._idle):
            if len(self._idle) > self._kept or placed.array() is None:
                self._free(placed)

    def close(self) -> None:
        """Free all that is left."""
        for placed in list(self._all):
            self._free(placed)
        self._places.close()

    def _place(self, array: Any) -> _Placed:
        import numpy

        flat = numpy.asarray(array)
        if not flat.flags.forc:
            flat = numpy.ascontiguousarray(flat)
        raw: Any = flat.reshape(-1, order="C" if flat.flags.c_contiguous else "F").view(numpy.uint8)
        segment, _ = self._places.store([memoryview(raw)])
        reduced: Any = map_segment, (segment.path, self._mode, array.dtype, array.shape, flat.strides, 0)
        if type(array) not in (numpy.ndarray, numpy.memmap):
            reduced = as_class, (_Reduced(reduced), type(array))
        placed = _Placed(array, segment, reduced)
        self._placed[placed.key] = placed
        self._all.add(placed)
        return placed

    def _free(self, placed: _Placed) -> None:
        self._idle.pop(placed, None)
        if self._placed.get(placed.key) is placed:
            del self._placed[placed.key]
        self._all.discard(placed)
        placed.segment.close()


class _Reduced:
    """Stands, in a pickle, for what a reduction rebuilds."""

    def __init__(self, reduced: Any) -> None:
        self._reduced = reduced

    def __reduce__(self) -> Any:
        return self._reduced


def _plainly_reduced(cls: type) -> bool:
    """Tell whether a subclass of ndarray is pickled as its bytes and its class, and nothing else."""
    import numpy

    base: Any = numpy.ndarray
    return all(getattr(cls, name) is getattr(base, name) for name in ("__reduce__", "__reduce_ex__", "__setstate__"))
