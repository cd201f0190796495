"""Files that are made in few calls of the system: saving a small value is mostly these calls."""

from __future__ import annotations

import os
from typing import Any

_GATHERED = 2**16
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)


class Output:
    """A new file, to be written to from the beginning to the end.

    Parameters
    ----------
    path
        The file, which must not be there.

    Attributes
    ----------
    nbytes
        The number of bytes that were written.
    """

    __slots__ = ("_fd", "_gathered", "_parts", "nbytes")

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, _NEW, 0o666)
        self._parts: list[bytes] = []
        self._gathered = 0
        self.nbytes = 0

    def tell(self) -> int:
        """Return where the next byte goes."""
        return self.nbytes

    def write(self, data: Any) -> None:
        """Write all of some bytes."""
        size = data.nbytes if isinstance(data, memoryview) else len(data)
        self.nbytes += size
        if size < _GATHERED:
            self._parts.append(bytes(data))
            self._gathered += size
            if self._gathered >= _GATHERED:
                self._flush()
        else:
            self._flush()
            self._out(data)

    def _flush(self) -> None:
        if self._parts:
            self._out(b"".join(self._parts))
            self._parts, self._gathered = [], 0

    def _out(self, data: Any) -> None:
        left = memoryview(data).cast("B")
        while left:
            left = left[os.write(self._fd, left) :]

    def __enter__(self) -> Output:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._flush()
        finally:
            os.close(self._fd)
