"""``dump``: what its arguments mean, and the file that is written."""

from __future__ import annotations

import io
import os
import pickle
from typing import Any

from shoal._files import replacement
from shoal._output import Output, putter, takes_all
from shoal._pickling import culprit
from shoal.errors import DumpPicklingError
from shoal.persistence.compression import COMPRESSORS
from shoal.persistence.writing._writer import Writer

#: Buffers are kept as they are from this one on; every Python that shoal runs on reads it.
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
    """Write an object to a file, in joblib's format.

    Parameters
    ----------
    value : object
        Anything that can be pickled. NumPy arrays are written as they lie in memory, and can be mapped when they are
        loaded, unless the file is compressed.
    filename : str, os.PathLike or file object
        Where to. A file object needs a method ``write``; several objects may follow each other in it. A path is
        replaced when everything is written: until then, and if anything goes wrong, what was there before stays.
        Without `compress`, its extension chooses a compressor: ".z", ".gz", ".bz2", ".lzma", ".xz", ".lz4" or ".zst".
    compress : bool, int, str or tuple
        0 or False for none; a level from 1 to 9, True for the default one, of the compressor that the extension names,
        else of zlib; the name of a compressor; or its name and a level.
    protocol : int, optional
        The protocol of pickle; 5 by default, the highest one if it is negative. With 0 and 1, arrays are pickled like
        other objects.
    durable : bool, default False
        Wait until the system has written the file to the disk, so that it survives a loss of power.

    Returns
    -------
    A list of the file's name; None if `filename` is a file object.

    Raises
    ------
    ValueError
        If an argument cannot be used, or the compressor is not installed.
    DumpPicklingError
        If something in the object cannot be pickled; it says where that is. It is a PicklingError, a TypeError and an
        AttributeError, as pickle raises. What a class raises of its own comes as it is.
    OSError
        If the file cannot be written.

    Notes
    -----
    Thread-safe, as long as no other thread changes the object. Large payloads are compressed by zlib and gzip in
    several threads.

    The file ends with checksums and the versions of the libraries whose classes are stored, which joblib does not see
    and :func:`load` heeds. `docs/persistence.md` says more.

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
    filename = os.fspath(filename) if isinstance(filename, os.PathLike) else filename
    writable = hasattr(filename, "write")
    if not (writable or isinstance(filename, str)):
        raise ValueError(
            f"Second argument should be a filename or a file-like object, {filename!r} (type {type(filename)}) was "
            "given: dump(value, filename)"
        )
    if isinstance(filename, io.TextIOBase):
        raise TypeError(f"dump() writes bytes, and {filename!r:.80} takes text: open the file with mode 'wb'")
    protocol = _protocol(protocol)
    compression = compression_of(compress, "" if writable else filename)
    try:
        if writable:
            write(value, filename, compression, protocol)
            return None
        with replacement(filename, durable) as file:
            if compression is None:
                with Output(file.fileno(), closefd=False) as output:
                    write(value, output, None, protocol)
            else:
                write(value, file, compression, protocol)
        return [filename]
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        path, reason = culprit(value, "value", dump=lambda part: write(part, _Nowhere(), None, protocol))
        if not reason:  # it is the file's fault
            raise
        raise DumpPicklingError(path, reason) from error


class _Nowhere:
    """A file that forgets what is written to it."""

    def write(self, data: Any) -> None:
        pass


def write(value: Any, file: Any, compression: Compression | None, protocol: int = PROTOCOL) -> None:
    """Write an object to a file object."""
    if compression is None:
        put = putter(file)
        writer = Writer(put, protocol, mappable=True, position=_position(file))
        writer.dump(value)
        put(writer.footer.encoded())
        return
    name, level = compression
    compressed = COMPRESSORS[name].compressor_file(file if takes_all(file) else _Patient(file), level)
    try:
        writer = Writer(putter(compressed), protocol, mappable=False)
        writer.dump(value)
        if hasattr(compressed, "finish"):
            compressed.finish(writer.footer.with_blocks)
        else:
            putter(compressed)(writer.footer.encoded())
    except BaseException:
        abandon = getattr(compressed, "abandon", compressed.close)
        abandon()
        raise
    compressed.close()


class _Patient:
    """A file as compressors need it: what is written to it is written as a whole, and it can be flushed."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.write = putter(file)

    def flush(self) -> None:
        getattr(self._file, "flush", int)()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _position(file: Any) -> int:
    try:
        return int(file.tell())
    except (AttributeError, OSError, TypeError):
        return 0


def _protocol(protocol: int | None) -> int:
    if protocol is None:
        return PROTOCOL
    if protocol > pickle.HIGHEST_PROTOCOL:
        raise ValueError(f"pickle protocol must be <= {pickle.HIGHEST_PROTOCOL}, got: {protocol!r}")
    return pickle.HIGHEST_PROTOCOL if protocol < 0 else protocol


def compression_of(compress: Any, filename: str) -> Compression | None:
    """Return the compressor and the level that are asked for; None for none."""
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
        raise ValueError(f'Non valid compression method given: "{name}". Possible values are {list(COMPRESSORS)}.')
    if not isinstance(compress, (tuple, str)):
        by_extension = [known for known, record in COMPRESSORS.items() if _ends(filename, record.extension)]
        if by_extension:
            name = by_extension[-1]
            level = None if level == 0 else level
    return None if level == 0 else (name, None if level is None else int(level))


def _ends(filename: str, extension: str) -> bool:
    return bool(extension) and filename.endswith(extension)
