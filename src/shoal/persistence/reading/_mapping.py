"""Arrays that are mapped into memory where they lie in a file."""

from __future__ import annotations

import io
import mmap
import os
import warnings
from collections.abc import Callable
from typing import Any

from shoal._arrays import ArraySpec
from shoal.persistence.reading._opening import Opened


def mapped_in_vain(what: Opened, name: str, mmap_mode: str) -> bool:
    """Tell whether arrays cannot be mapped, and warn of it."""
    file = what.stream
    if what.compressor is not None:
        message = (
            f'mmap_mode "{mmap_mode}" is not compatible with compressed file {name}. "{mmap_mode}" flag will be '
            "ignored."
        )
    elif isinstance(file, io.BytesIO):
        message = (
            f'In memory persistence is not compatible with mmap_mode "{mmap_mode}" flag passed. mmap_mode option will '
            "be ignored."
        )
    elif not isinstance(getattr(file, "raw", file), io.FileIO):
        message = f'"{file!r}" is not a raw file, mmap_mode "{mmap_mode}" flag will be ignored.'
    else:
        return False
    warnings.warn(message, UserWarning, stacklevel=4)
    return True


def mapping_of(file: Any, path: str, mode: str) -> Callable[[ArraySpec, int], Any]:
    """Return what maps arrays of a file, all in one mapping of it, which the arrays keep alive."""
    import numpy as np

    mode = "r+" if mode == "w+" else mode
    access = {"r": mmap.ACCESS_READ, "r+": mmap.ACCESS_WRITE, "c": mmap.ACCESS_COPY}[mode]
    memory: list[mmap.mmap] = []

    def mapped(spec: ArraySpec, position: int) -> Any:
        if not memory:
            # The file that is being read: another may have its path by now.
            memory.append(mmap.mmap(file.fileno(), 0, access=access))
        array = spec.over(memory[0], position, np.memmap)
        array._mmap, array.offset, array.mode, array.filename = memory[0], position, mode, os.path.abspath(path)
        if position % spec.dtype.alignment:
            warnings.warn(
                f"the memmapped array in {path} is not aligned, at offset {position}: libraries such as BLAS may end "
                "with a segmentation fault when they use it. Load the file and write it again",
                UserWarning,
                stacklevel=6,
            )
        return array

    return mapped
