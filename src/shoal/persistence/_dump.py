"""``dump``: what its arguments mean, and the file that is written."""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Callable
from typing import Any

from shoal._files import replacement
from shoal._hints import hint
from shoal._output import putter, writes_all
from shoal._pickling import culprit
from shoal.errors import DumpPicklingError
from shoal.persistence._format import Footer
from shoal.persistence.compression import COMPRESSORS, SMALL, Deflate, extensions
from shoal.persistence.writing._writer import Writer

#: The first protocol that keeps buffers as they are. Every Python that shoal runs on reads it.
PROTOCOL = 5

Compression = tuple[str, int | None]


def dump(
    value: Any,
    filename: Any,
    compress: bool | int | str | tuple[str, int | None] = 0,
    protocol: int | None = None,
    *,
    durable: bool = False,
) -> list[str] | None:
    """Write an object to a file in joblib's format.

    Parameters
    ----------
    value : object
        Any object that can be pickled. The bytes of NumPy arrays are written as they are in memory. If the file is not
        compressed, :func:`load` can map them.
    filename : str, os.PathLike or file object
        The file. A path is replaced only after everything was written, so the old file stays if anything goes wrong.
        Without `compress`, the extension chooses a compressor: ".z", ".gz", ".bz2", ".lzma", ".xz", ".lz4" or ".zst".
        A file object needs a method ``write``. Several objects can be written to it one after the other.
    compress : bool, int, str or tuple, default 0
        False or 0: do not compress. True, or a level from 1 to 9: use the compressor that the extension names, else
        zlib, with its default level or this one. A str: the name of a compressor. A tuple: a name and a level.
    protocol : int, optional
        The protocol of pickle: 5 by default, the highest one if it is negative. With protocols 0 and 1, arrays are
        pickled like other objects.
    durable : bool, default False
        Wait until the system has written the file to the disk, so that it survives a power failure.

    Returns
    -------
    A list with the path; None if `filename` is a file object.

    Raises
    ------
    ValueError
        If an argument is not valid, or the compressor is not installed.
    TypeError
        If `filename` is a file object for text.
    DumpPicklingError
        If a part of the object cannot be pickled. The message says which part. The error is a PicklingError, a
        TypeError and an AttributeError, because pickle raises any of these. Other exceptions of classes are raised as
        they are.
    OSError
        If the file cannot be written.

    Notes
    -----
    Thread-safe, as long as no other thread changes the object or writes to the same file object. zlib and gzip compress
    large objects on several threads.

    The file ends with checksums and with the versions of the libraries whose classes are stored. joblib ignores them;
    :func:`load` compares them. `docs/persistence.md` describes the file.

    Examples
    --------
    >>> import os, tempfile
    >>> from shoal import dump, load
    >>> path = os.path.join(tempfile.mkdtemp(), "model.pkl")
    >>> len(dump({"weights": [1, 2]}, path))
    1
    >>> load(path)
    {'weights': [1, 2]}
    """
    writable = False
    if type(filename) is not str:
        filename = os.fspath(filename) if isinstance(filename, os.PathLike) else filename
        writable = hasattr(filename, "write")
        if not (writable or isinstance(filename, str)):
            raise ValueError(
                f"Second argument should be a filename or a file-like object, {filename!r} (type {type(filename)}) "
                "was given: dump(value, filename)"
            )
        if isinstance(filename, io.TextIOBase):
            raise TypeError(f"dump() writes bytes, but {filename!r:.80} takes text: open the file with mode 'wb'")
    protocol = _protocol(protocol)
    compression = compression_of(compress, "" if writable else filename)
    try:
        if writable:
            write(value, filename, compression, protocol)
            return None
        with replacement(filename, durable) as output:
            if compression is None or isinstance(COMPRESSORS[compression[0]], Deflate):
                write(value, output, compression, protocol)
            else:  # other compressors may need more of a file than a method write
                with open(output.fileno(), "wb", closefd=False) as file:
                    write(value, file, compression, protocol)
        return [filename]
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        path, reason = culprit(value, "value", dump=lambda part: write(part, _Nowhere(), None, protocol))
        if not reason:  # all parts can be pickled, so the file has raised the error
            raise
        raise DumpPicklingError(path, reason) from error


class _Nowhere:
    """A file that discards what is written to it."""

    def write(self, data: Any) -> None:
        pass


def write(value: Any, file: Any, compression: Compression | None, protocol: int = PROTOCOL) -> None:
    """Write an object to a file object.

    Parameters
    ----------
    value, file
        The object and the file object.
    compression
        The name of the compressor and the level; None for no compression.
    protocol
        The protocol of pickle.
    """
    if compression is None:
        put = putter(file)
        last, footer = Writer(put, protocol, file).dump(value)
        put(last + footer.encoded())
        return
    stream = _Stream(file, *compression)
    try:
        stream.finish(*Writer(stream.put, protocol).dump(value))
    except BaseException:
        stream.abandon()
        raise
    stream.close()


class _Stream:
    """A compressed stream in a file. Its compressor is made when it is clear that the stream will not be a small one.

    Parameters
    ----------
    file
        The file object.
    name, level
        The name of the compressor, and the level.
    """

    def __init__(self, file: Any, name: str, level: int | None) -> None:
        self._file, self._level = file, level
        self._record = COMPRESSORS[name]
        self._small: list[bytes] = []  # what was put, as long as it is small
        self._nbytes = 0
        self._compressed: Any = None
        self._put = self._gather if isinstance(self._record, Deflate) else self._opened()

    def _opened(self) -> Callable[[Any], None]:
        """Make the compressor, and return a function that writes all bytes of a buffer to it."""
        file = self._file
        self._compressed = self._record.compressor_file(file if writes_all(file) else _ForCompressor(file), self._level)
        return putter(self._compressed)

    def put(self, data: Any) -> None:
        """Write all bytes of a buffer."""
        self._put(data)

    def _gather(self, data: Any) -> None:
        self._nbytes += len(data)
        if self._nbytes < SMALL:
            self._small.append(bytes(data))
        else:
            self._put = self._opened()
            self._put(b"".join(self._small))
            self._put(data)

    def finish(self, last: bytes, footer: Footer) -> None:
        """Write the last bytes and the footer, and end the stream if the compressor can."""
        if last:
            self._put(last)
        if isinstance(self._record, Deflate) and self._compressed is None:
            putter(self._file)(self._record.small(b"".join(self._small), self._level, footer.with_blocks))
        elif hasattr(self._compressed, "finish"):
            self._compressed.finish(footer.with_blocks)
        else:
            self._put(footer.encoded())

    def close(self) -> None:
        """End the stream."""
        if self._compressed is not None:
            self._compressed.close()

    def abandon(self) -> None:
        """Give the stream up, so that it does not look complete."""
        if self._compressed is not None:
            getattr(self._compressed, "abandon", self._compressed.close)()


class _ForCompressor:
    """A file object for compressors, which need one whose ``write`` writes all bytes, and that has ``flush``."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.write = putter(file)

    def flush(self) -> None:
        getattr(self._file, "flush", int)()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _protocol(protocol: int | None) -> int:
    if protocol is None:
        return PROTOCOL
    if protocol > pickle.HIGHEST_PROTOCOL:
        raise ValueError(f"pickle protocol must be <= {pickle.HIGHEST_PROTOCOL}, got: {protocol!r}")
    return pickle.HIGHEST_PROTOCOL if protocol < 0 else int(protocol)


def compression_of(compress: Any, filename: str) -> Compression | None:
    """Return the compressor and the level that ``compress=`` and the extension ask for; None for no compression.

    Raises
    ------
    ValueError
        If `compress` is not valid.
    """
    # Most calls end here.
    if isinstance(compress, int) and not compress and not filename.endswith(extensions(*COMPRESSORS.values())):
        return None
    name, level = "zlib", compress
    if isinstance(compress, tuple):
        if len(compress) != 2:
            raise ValueError(
                "Compress argument tuple should contain exactly 2 elements: (compress method, compress level), you "
                f"passed {compress}"
            )
        name, level = compress
    elif isinstance(compress, str):
        name, level = compress, None
    elif compress is True:
        level = None
    if level is not None and level is not False and level not in range(10):
        raise ValueError(f'Non valid compress level given: "{level}". Possible values are {list(range(10))}.')
    if name not in COMPRESSORS:
        possible = f"Possible values are {list(COMPRESSORS)}{hint(name, COMPRESSORS) or '.'}"
        raise ValueError(f'Non valid compression method given: "{name}". {possible}')
    if not isinstance(compress, (tuple, str)):
        known = list(COMPRESSORS.items())
        by_extension = [key for key, record in known if record.extension and filename.endswith(record.extension)]
        if by_extension:
            name, level = by_extension[-1], level or None
    return None if level == 0 else (name, None if level is None else int(level))
