"""Writing Zstandard. Its library uses threads of its own if there is much to compress."""

from __future__ import annotations

import io
import operator
import pickle
from types import ModuleType
from typing import Any

from shoal._cpus import cpu_budget
from shoal.persistence.compression._stream import opened

# Starting the library's threads costs as much as compressing this many bytes.
_LARGE = 1 << 20

# The number of bytes that the library gets at a time: its output for them is one object in memory.
_PIECE = 8 << 20


class ZstdWriter(io.BufferedIOBase):
    """A file object that writes one Zstandard frame, with a checksum, of the bytes written to it. Not thread-safe.

    Parameters
    ----------
    module : module
        ``compression.zstd`` or ``backports.zstd``.
    fileobj : path or file object
        The file for the frame. A file object is left open.
    level : int
        A level of Zstandard. 0 is its default level, which is 3.

    Raises
    ------
    ValueError
        If Zstandard does not have this level.
    TypeError
        If `fileobj` is neither a path nor an object with ``write``.
    """

    def __init__(self, module: ModuleType, fileobj: Any, level: int) -> None:
        self._file: Any = None
        self._owned = False
        self._frame: Any = None
        parameter = module.CompressionParameter
        lowest, highest = parameter.compression_level.bounds()
        if not lowest <= operator.index(level) <= highest:
            raise ValueError(f"Zstandard has levels from {lowest} to {highest}, not {level!r}")
        self._module = module
        self._options = {parameter.compression_level: level, parameter.checksum_flag: 1}
        self._buffered = bytearray()
        self._position = 0
        self._file, self._owned = opened(fileobj, "wb")

    def write(self, buffer: Any) -> int:
        """Write all bytes of `buffer`, any object with a contiguous buffer; return their number."""
        if self.closed:
            raise ValueError("write to a closed file")
        view = pickle.PickleBuffer(buffer).raw()
        if self._frame is None and len(self._buffered) + len(view) < _LARGE:
            self._buffered += view
        else:
            self._begin(cpu_budget())
            for start in range(0, len(view), _PIECE):
                self._frame.write(view[start : start + _PIECE])
        self._position += len(view)
        return len(view)

    def _begin(self, n_threads: int) -> None:
        if self._frame is None:
            workers = self._module.CompressionParameter.nb_workers
            if n_threads > 1:
                self._options[workers] = min(n_threads, workers.bounds()[1])
            self._frame = self._module.ZstdFile(self._file, "wb", options=self._options)
            self._frame.write(self._buffered)
            self._buffered = bytearray()

    def close(self) -> None:
        """End the frame, and close the file if it was opened here."""
        if self.closed:
            return
        try:
            if self._file is not None:
                try:
                    self._begin(1)
                finally:
                    if self._frame is not None:
                        self._frame.close()
        finally:
            try:
                if self._owned:
                    self._file.close()
            finally:
                super().close()

    def tell(self) -> int:
        """Return the number of bytes that were written to this object so far."""
        return self._position

    def writable(self) -> bool:
        """Return True."""
        return True
