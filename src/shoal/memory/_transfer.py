"""Export of results as a tar, and their import into another cache.

::

    store ──> module/function/func_code.py                 the source
              module/function/0f2b.../metadata.json        each entry: its metadata, then its value
              module/function/0f2b.../output.pkl ──> store     or output-....parquet, ...

A tar from elsewhere may contain any names: what a cache would not contain is refused. Nothing is unpickled, and values
are compared with their checksums.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterable
from typing import IO, Any, BinaryIO, NamedTuple

from shoal.errors import CorruptFile
from shoal.memory.formats import PICKLE
from shoal.memory.storage._paths import METADATA, OUTPUT, SOURCE, is_key, is_value
from shoal.memory.storage._values import format_of, verify_value
from shoal.memory.store import Entry, Key, Meta, Store

#: The largest size of a source, or of metadata, that is imported, in bytes.
_MOST_TEXT = 1 << 24
#: Values up to this size are checked in memory, in bytes; larger ones in a temporary file.
_IN_MEMORY = 1 << 24
#: What reading a damaged tar raises.
_DAMAGES: tuple[type[Exception], ...] = (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile)
with contextlib.suppress(ImportError):  # some Pythons are built without it
    from lzma import LZMAError

    _DAMAGES += (LZMAError,)
_MODES = {".gz": "w:gz", ".tgz": "w:gz", ".bz2": "w:bz2", ".xz": "w:xz"}


class Imported(NamedTuple):
    """What an import has done.

    Attributes
    ----------
    added : int
        The number of results that were added.
    known : int
        The number of results that were stored already. They stay as they are.
    damaged : int
        The number of results that do not agree with their checksums, and were left out.
    """

    added: int
    known: int
    damaged: int


def export_entries(store: Store, path: str | os.PathLike[str], entries: Iterable[Entry]) -> int:
    """Write entries to a tar; return their number. Entries that are removed meanwhile are left out.

    Raises
    ------
    OSError
        If the tar cannot be written. Then there is none.
    """
    path = os.fspath(path)
    number, functions = 0, set[str]()
    partial = f"{path}.part-{os.getpid()}"
    try:
        with tarfile.open(partial, _MODES.get(os.path.splitext(path)[1], "w")) as tar:  # type: ignore[call-overload]
            for entry in entries:
                key = entry.key
                if key.function not in functions:
                    functions.add(key.function)
                    _add(tar, f"{key.function}/{SOURCE}", (store.source(key.function) or "").encode(), 0.0)
                try:
                    with store.open_value(key) as file:
                        try:
                            meta = store.meta(key)
                        except KeyError:  # they are lost
                            meta = Meta(0.0, entry.used, {})
                        _add(tar, f"{key.function}/{key.call}/{METADATA}", meta.as_json(), meta.created)
                        name = os.path.basename(str(getattr(file, "name", OUTPUT)))
                        name = name if is_value(name) else OUTPUT
                        _add(tar, f"{key.function}/{key.call}/{name}", file, meta.created)
                except KeyError:
                    continue
                number += 1
        os.replace(partial, path)
    except BaseException:
        if os.path.exists(partial):
            os.unlink(partial)
        raise
    return number


def _add(tar: tarfile.TarFile, name: str, content: bytes | BinaryIO, created: float) -> None:
    """Add a file to a tar. An empty source, which stands for none, is left out."""
    file = io.BytesIO(content) if isinstance(content, bytes) else content
    member = tarfile.TarInfo(name)
    member.size = file.seek(0, io.SEEK_END)
    file.seek(0)
    member.mtime, member.mode = int(created) if 0 < created < 1 << 33 else 0, 0o644
    if member.size:
        tar.addfile(member, file)


def import_entries(store: Store, path: str | os.PathLike[str]) -> Imported:
    """Add the entries of a tar to a store.

    Raises
    ------
    ValueError
        If the file is not a tar, is damaged or cut off, or contains what no cache contains. The entries before that
        have been added.
    OSError
        If the tar cannot be read, or the store not be written.
    """
    counts = {"added": 0, "known": 0, "damaged": 0}
    metas: dict[Key, Meta] = {}
    try:
        with tarfile.open(path, "r:*") as tar:
            for member in tar:
                if member.isdir():
                    continue
                key, name = _place_of(member, path)
                file = tar.extractfile(member)
                assert file is not None  # it is a file
                if name == SOURCE:
                    _add_source(store, key.function, file.read())
                elif name == METADATA:
                    metas = {key: _meta_of(file.read())}  # that of the next value
                else:
                    meta = metas.get(key, Meta(0.0, float(member.mtime), {}))
                    counts[_add_value(store, key, file, member, meta)] += 1
            _check_end(tar)
    except _DAMAGES as error:
        raise ValueError(f"{os.fspath(path)} is not a tar of results, or is damaged: {error}") from error
    return Imported(**counts)


def _check_end(tar: Any) -> None:
    """Raise ReadError unless the tar ends with its mark: tarfile takes a damaged header for the end.

    What compresses the tar compares its own checksum when it is read to its end.
    """
    tar.fileobj.seek(tar.offset)
    block = tar.fileobj.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE or any(block):
        raise tarfile.ReadError(f"no entry and no end at byte {tar.offset}")
    while tar.fileobj.read(1 << 20):
        pass


def _place_of(member: tarfile.TarInfo, path: object) -> tuple[Key, str]:
    """Return the key that a member of a tar belongs to, and its file's name; raise ValueError if there is no place."""
    folder, _, name = member.name.removeprefix("./").rpartition("/")
    key = Key(folder, "0" * 32) if name == SOURCE else Key(*folder.rpartition("/")[::2])
    known = (name in (SOURCE, METADATA) or is_value(name)) and is_key(key)
    if not known or not member.isreg() or member.issparse() or (not is_value(name) and member.size > _MOST_TEXT):
        kind = "" if member.isreg() else ", which is not a file"
        raise ValueError(
            f"{path} contains {member.name!r}{kind}: no cache contains that, so nothing of it is imported. Import only "
            "what Memory.export_entries has written"
        )
    return key, name


def _add_source(store: Store, function: str, source: bytes) -> None:
    if store.source(function) is None:
        store.keep_source(function, source.decode("utf-8", "replace"))


def _meta_of(data: bytes) -> Meta:
    try:
        return Meta.from_json(data)
    except (ValueError, TypeError, KeyError):
        return Meta(0.0, 0.0, {})


def _add_value(store: Store, key: Key, file: IO[bytes], member: tarfile.TarInfo, meta: Meta) -> str:
    """Add a value unless it is there or damaged; return what was done."""
    if store.contains(key):
        return "known"
    format = format_of(member.name)
    if format is None or (format != PICKLE and not store.formats):
        lacks = "is not registered in this process: call shoal.register_format" if format is None else "the store lacks"
        raise ValueError(f"{member.name!r} is in a format that {lacks}")
    with io.BytesIO() if member.size <= _IN_MEMORY else tempfile.TemporaryFile() as made:
        copy: Any = made
        shutil.copyfileobj(file, copy, 1 << 20)
        copy.seek(0)
        try:
            verify_value(copy, f"{key.function}/{key.call}", member.name)
        except CorruptFile:
            return "damaged"
        except (ValueError, RecursionError):  # which says nothing about damage
            pass
        copy.seek(0)
        store.save_file(key, copy, meta._replace(format=format))
    return "added"
