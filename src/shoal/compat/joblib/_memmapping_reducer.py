"""Reducers that write large arrays to files in the folder of a ``Parallel`` and pickle the file name instead."""

from __future__ import annotations

import contextlib
import mmap
import os
import stat
import threading
import weakref
from collections.abc import Callable
from pickle import HIGHEST_PROTOCOL, PicklingError, dumps, loads
from typing import Any
from uuid import uuid4

from ._folders import (
    FOLDER_PERMISSIONS,
    SYSTEM_SHARED_MEM_FS,
    SYSTEM_SHARED_MEM_FS_MIN_SIZE,
    TemporaryFolder,
    TemporaryResourcesManager,
    _get_temp_dir,
)
from .backports import make_memmap
from .numpy_pickle import dump, load, load_temporary_memmap
from .numpy_pickle_utils import JOBLIB_MMAPS

__all__ = [
    "JOBLIB_MMAPS",
    "SYSTEM_SHARED_MEM_FS",
    "SYSTEM_SHARED_MEM_FS_MIN_SIZE",
    "ArrayMemmapForwardReducer",
    "TemporaryFolder",
    "TemporaryResourcesManager",
    "_get_temp_dir",
    "get_memmapping_reducers",
    "has_shareable_memory",
    "reduce_array_memmap_backward",
]

FILE_PERMISSIONS = stat.S_IRUSR | stat.S_IWUSR


def add_maybe_unlink_finalizer(memmap: Any) -> None:
    """Do nothing: the file is removed with its folder, and stays mapped where it is in use."""


def unlink_file(filename: str) -> None:
    """Remove a file if it exists."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(filename)


class _WeakArrayKeyMap:
    """A dictionary with weakly referenced arrays as keys, compared by identity."""

    def __init__(self) -> None:
        self._data: dict[int, tuple[weakref.ref[Any], Any]] = {}

    def get(self, obj: Any) -> Any:
        """Return the value of an array; raises KeyError if it has none."""
        reference, value = self._data[id(obj)]
        if reference() is not obj:
            raise KeyError(obj)
        return value

    def set(self, obj: Any, value: Any) -> None:
        """Set the value of an array."""
        key = id(obj)

        def forget(reference: Any) -> None:
            if key in self._data and self._data[key][0] is reference:
                del self._data[key]

        self._data[key] = weakref.ref(obj, forget), value

    def __getstate__(self) -> Any:
        raise PicklingError("_WeakArrayKeyMap is not pickleable")


def _get_backing_memmap(a: Any) -> Any:
    """Return the memory map whose memory `a` uses, or None."""
    while a is not None:
        base = getattr(a, "base", None)
        if isinstance(base, mmap.mmap):
            return a
        a = base
    return None


def has_shareable_memory(a: Any) -> bool:
    """Tell whether an array uses the memory of a mapped file."""
    return _get_backing_memmap(a) is not None


def _strided_from_memmap(
    filename: Any,
    dtype: Any,
    mode: Any,
    offset: int,
    order: str,
    shape: Any,
    strides: Any,
    total_buffer_len: int | None,
    unlink_on_gc_collect: bool,
) -> Any:
    """Map an array in a file; with `strides`, a view of `total_buffer_len` items."""
    if mode == "w+":
        mode = "r+"
    whole = shape if strides is None else total_buffer_len
    array = make_memmap(filename, dtype, mode, offset, whole, order, unlink_on_gc_collect)
    if strides is None:
        return array
    from numpy.lib.stride_tricks import as_strided

    return as_strided(array, shape=shape, strides=strides)


def _reduce_memmap_backed(a: Any, m: Any) -> Any:
    """Return the reduction of a view of a memory map to its file. Private changes ("c") are lost."""
    order = "F" if a.ndim > 1 and a.flags.f_contiguous and not a.flags.c_contiguous else "C"
    begin, end = _bounds(a)
    offset = m.offset + begin - _bounds(m)[0]
    strides = length = None
    if not a.flags.forc:
        strides, length = a.strides, (end - begin) // a.itemsize
    return _strided_from_memmap, (m.filename, a.dtype, m.mode, offset, order, a.shape, strides, length, False)


def _bounds(a: Any) -> tuple[int, int]:
    """Return the address of an array's first byte, and the address after its last byte."""
    begin = end = a.__array_interface__["data"][0]
    if a.size:
        steps = [stride * (length - 1) for stride, length in zip(a.strides, a.shape, strict=True)]
        begin += sum(step for step in steps if step < 0)
        end += sum(step for step in steps if step > 0) + a.itemsize
    return begin, end


def reduce_array_memmap_backward(a: Any) -> Any:
    """Return the reduction of an array in a result: to its file if the user mapped it, else to its bytes."""
    import numpy as np

    m = _get_backing_memmap(a)
    if isinstance(m, np.memmap) and m.filename not in JOBLIB_MMAPS:
        return _reduce_memmap_backed(a, m)
    return loads, (dumps(np.asarray(a), protocol=HIGHEST_PROTOCOL),)


class ArrayMemmapForwardReducer:
    """Reduces arrays for workers: memory maps to their file, large arrays to a new file, small ones to their bytes.

    Parameters
    ----------
    max_nbytes
        Arrays above this number of bytes are large. None: no array is.
    temp_folder_resolver
        The folder for the files, or a callable that returns it.
    mmap_mode
        The mode in which workers map the arrays.
    prewarm
        Whether a new file is read once in this process.
    unlink_on_gc_collect, verbose
        Accepted for compatibility.
    """

    def __init__(
        self,
        max_nbytes: int | float | None,
        temp_folder_resolver: Any,
        mmap_mode: Any,
        unlink_on_gc_collect: bool,
        verbose: int = 0,
        prewarm: Any = True,
    ) -> None:
        self._max_nbytes = max_nbytes
        self._temp_folder_resolver = temp_folder_resolver
        self._mmap_mode = mmap_mode
        self._unlink_on_gc_collect = unlink_on_gc_collect
        self.verbose = int(verbose)
        self._prewarm = prewarm
        self._files = _WeakArrayKeyMap()

    @property
    def _temp_folder(self) -> str:
        resolver = self._temp_folder_resolver
        return str(resolver() if callable(resolver) else resolver)

    def __reduce__(self) -> Any:
        # A worker has no folder, because it writes no files.
        arguments = self._max_nbytes, None, self._mmap_mode, self._unlink_on_gc_collect, self.verbose, self._prewarm
        return ArrayMemmapForwardReducer, arguments

    def __call__(self, a: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """Return a callable that rebuilds the array, and its arguments."""
        import numpy as np

        m = _get_backing_memmap(a)
        if isinstance(m, np.memmap):
            reduced: tuple[Callable[..., Any], tuple[Any, ...]] = _reduce_memmap_backed(a, m)
            return reduced if isinstance(a, np.memmap) else (_as_array, reduced[1])
        if a.dtype.hasobject or self._max_nbytes is None or a.nbytes <= self._max_nbytes:
            return loads, (dumps(a, protocol=HIGHEST_PROTOCOL),)
        return load_temporary_memmap, (self._file(a), self._mmap_mode, self._unlink_on_gc_collect)

    def _file(self, a: Any) -> str:
        """Return the path of an array's file; write it if it does not exist."""
        folder = self._temp_folder
        try:
            name = self._files.get(a)
        except KeyError:
            name = f"{os.getpid()}-{threading.get_ident()}-{uuid4().hex}.pkl"
            self._files.set(a, name)
        path = os.path.join(folder, name)
        if not os.path.exists(path):
            os.makedirs(folder, mode=FOLDER_PERMISSIONS, exist_ok=True)
            dump(a, path)
            os.chmod(path, FILE_PERMISSIONS)
            if self._prewarm:
                load(path, mmap_mode=self._mmap_mode).max()
        return path


def _as_array(*arguments: Any) -> Any:
    """Map an array in a file, and return it as a plain array."""
    import numpy as np

    return np.asarray(_strided_from_memmap(*arguments))


def get_memmapping_reducers(
    forward_reducers: dict[type, Any] | None = None,
    backward_reducers: dict[type, Any] | None = None,
    temp_folder_resolver: Any = None,
    max_nbytes: int | float | None = 1e6,
    mmap_mode: Any = "r",
    verbose: int = 0,
    prewarm: Any = False,
    unlink_on_gc_collect: bool = True,
    **_unused: Any,
) -> tuple[dict[type, Any], dict[type, Any]]:
    """Return the reducers of arrays, by class, for arguments and for results."""
    import numpy as np

    forward = {} if forward_reducers is None else forward_reducers
    backward = {} if backward_reducers is None else backward_reducers
    reducer = ArrayMemmapForwardReducer(
        max_nbytes, temp_folder_resolver, mmap_mode, unlink_on_gc_collect, verbose, prewarm=prewarm
    )
    for kind in (np.ndarray, np.memmap):
        forward[kind] = reducer
        backward[kind] = reduce_array_memmap_backward
    return forward, backward
