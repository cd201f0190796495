"""The files of values: ``output.pkl``, which contains checksums, or a file in another format, whose name is a checksum.

::

    value, "parquet" ── encoded ──> output-0f2b8227db95aa11.parquet, its bytes
                     <── decoded ── compares the bytes with the name

So such a file can be replaced in one step, together with its checksum, and other programs can read it.
"""

from __future__ import annotations

import errno
import io
import os
import shutil
from typing import Any, BinaryIO

import xxhash

from shoal._output import Output, write_new
from shoal._platform.files import open_shared
from shoal.errors import DamagedFile
from shoal.memory.formats import PICKLE, format_named, format_with
from shoal.memory.storage._paths import OUTPUT, is_value, value_among
from shoal.persistence._dump import write
from shoal.persistence._load import load
from shoal.persistence._verify import verify

_ATTEMPTS = 5
_PIECE = 1 << 20


class ValueFile:
    """A file of a value that another store has made. It takes the place of the value in :meth:`Store.save`."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file

    def copy_to(self, file: BinaryIO) -> None:
        """Write the content to a file, so that nothing of it is unpickled."""
        shutil.copyfileobj(self.file, file, _PIECE)


def write_value(folder: str, value: Any, format: str, compression: Any) -> int:
    """Write the file of a value into the folder of an entry; return its size in bytes."""
    path = f"{folder}/{OUTPUT}"
    if format != PICKLE:
        name, data = encoded(value, format)
        return write_new(f"{folder}/{name}", data)
    if compression is None and type(value) is not ValueFile:
        with Output.new(path) as output:
            write(value, output, None)
        return output.nbytes
    with open(path, "xb") as file:
        if type(value) is ValueFile:
            value.copy_to(file)
        else:
            write(value, file, compression)
    return os.path.getsize(path)


def encoded(value: Any, format: str) -> tuple[str, bytes]:
    """Return the name and the content of the file of a value, in a format other than "pickle".

    Raises
    ------
    Exception
        Those of the format. They are TypeErrors if it cannot hold the value.
    """
    found, file = format_named(format), io.BytesIO()
    if type(value) is ValueFile:
        value.copy_to(file)
    else:
        found.write(value, file)
    data = file.getvalue()  # which does not copy them
    return f"output-{xxhash.xxh3_64_hexdigest(data)}.{found.extension}", data


def decoded(path: str, data: bytes) -> Any:
    """Return the value in a file, whose name is that of a value.

    Raises
    ------
    DamagedFile
        If the content does not agree with the name.
    ValueError
        If the format is not registered in this process.
    """
    _, checksum, extension = _parts(path)
    _compare(path, checksum, xxhash.xxh3_64_hexdigest(data))
    name = format_with(extension)
    if name is None:
        raise ValueError(f"{path} is in a format that is unknown here: call register_format as its writer did")
    return format_named(name).read(io.BytesIO(data))


def _parts(path: str) -> tuple[str, str, str]:
    name, _, extension = path.replace(os.sep, "/").rpartition("/")[2].partition(".")
    return name, name.rpartition("-")[2], extension


def _compare(path: str, expected: str, found: str) -> None:
    if found != expected:
        raise DamagedFile(path, 0, f"content with the checksum {expected}", found)


def format_of(path: Any) -> str | None:
    """Return the name of the format of a value's file; None if the format is not registered in this process."""
    return PICKLE if _is_pickle(path) else format_with(_parts(path)[2])


def _is_pickle(path: Any) -> bool:
    """Return whether a file contains a pickle. What is not the name of another format, or no name at all, is one."""
    name = path.replace(os.sep, "/").rpartition("/")[2] if isinstance(path, str) else OUTPUT
    return name == OUTPUT or not is_value(name)


def verify_value(file: BinaryIO, name: str, path: str | None = None) -> bool:
    """Compare a file with its checksums, as ``verify`` of persistence does.

    `name` is for errors. Without the `path` of the value in its store, it is ``file.name``.
    """
    path = getattr(file, "name", OUTPUT) if path is None else path
    if _is_pickle(path):
        return verify(file, name)
    digest = xxhash.xxh3_64()
    while data := file.read(_PIECE):
        digest.update(data)
    _compare(name, _parts(path)[1], digest.hexdigest())
    return True


def rebuilt_value(file: BinaryIO) -> Any:
    """Return the value in a file that :meth:`Store.open_value` has opened."""
    path = getattr(file, "name", OUTPUT)
    return load(file) if _is_pickle(path) else decoded(path, file.read())


def value_in(folder: str) -> str | None:
    """Return the name of the file of the value in the folder of an entry, or None."""
    try:
        return value_among(os.listdir(folder))
    except OSError:
        return None


def load_in(folder: str, mmap_mode: str | None = None) -> Any:
    """Return the value in the folder of an entry.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        If there is none.
    Exception
        As for :func:`decoded` and :func:`shoal.load`.
    """
    for _ in range(_ATTEMPTS):
        name = value_among(os.listdir(folder))
        if name is None:
            break
        path = f"{folder}/{name}"
        try:
            if name == OUTPUT:
                return load(path, mmap_mode)
            with open(path, "rb", opener=open_shared) as file:
                data = file.read()
        except FileNotFoundError:
            if os.path.exists(path):  # an object in the value misses a file of its own
                raise
            continue  # replaced by a value in another file
        return decoded(path, data)
    raise FileNotFoundError(errno.ENOENT, "there is no value", folder)


def is_sound(folder: str) -> bool:
    """Return whether the value in the folder of an entry can be read. Of other formats, only the checksum counts."""
    try:
        load_in(folder)
    except DamagedFile:
        return False
    except Exception:
        return value_in(folder) not in (None, OUTPUT)
    return True
