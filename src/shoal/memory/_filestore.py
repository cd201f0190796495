"""A store on a file system, in joblib's layout.

::

    location/
    ├── module/function/
    │   ├── func_code.py            the source of the function
    │   └── 0f2b8227db95.../        an entry: output.pkl (the value), metadata.json
    └── .shoal/
        ├── aside/                  entries that are being made, or removed
        ├── locks, waiting/         who computes what
        └── index.sqlite            how much there is, if there is a limit

    save     aside/x/ is written ── rename ──> module/function/0f2b.../
    remove   module/function/0f2b.../ ── rename ──> aside/y/ is deleted

So an entry is there as a whole or not at all. Where one is there already, its files are replaced one by one, the value
first: whoever has it open goes on with the old one.
"""

from __future__ import annotations

import errno
import json
import os
import re
import time
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NoReturn

from shoal._files import delete
from shoal._output import Output, write_new
from shoal._tracebacks import warn
from shoal.errors import CacheWarning
from shoal.memory._aside import Aside
from shoal.memory._eviction import excess
from shoal.memory._leases import leases_in
from shoal.memory._places import METADATA as _METADATA
from shoal.memory._places import OUTPUT as _OUTPUT
from shoal.memory._places import OWN as _OWN
from shoal.memory._places import SOURCE as _SOURCE
from shoal.memory._places import is_key, make_folder_below, make_location, refuse_links
from shoal.memory.store import Entry, Key, Limits, Meta, Store
from shoal.persistence._dump import compression_of, write
from shoal.persistence._load import load
from shoal.persistence.reading._small import OTHER, SMALL, read_small, rebuilt

if TYPE_CHECKING:
    from shoal.memory._index import Index

_IGNORE = "# Created by shoal automatically.\n*\n"
_encode = json.JSONEncoder().encode
#: Others may remove what is just being made; after so many times there is another reason.
_ATTEMPTS = 5


class FileStore(Store):
    """Keeps results in files.

    Parameters
    ----------
    location : str or os.PathLike
        The folder. It is made if it is not there, and the ".gitignore" in it; if it is called "joblib", beside it.
    compress : bool, int, str or tuple, default False
        How values are compressed, as for :func:`shoal.dump`. Compressed ones are not mapped.
    mmap_mode : {None, "r", "r+", "w+", "c"}
        What :meth:`load` is going to be asked for: there is a warning if that is in vain.
    verbose : int, default 0
        Not used: what there is to say, the caller says.
    limits : Limits, optional
        What it may hold. Entries go, least recently used first, before there is more. A value larger than the limit
        is not kept, with a warning.
    own : str, optional
        The folder of what is ours: of the same file system, and the same for all who use these results. By default it
        is ".shoal" in `location`.

    Attributes
    ----------
    location : str
        The folder, as an absolute path.

    Notes
    -----
    Thread-safe, and safe between processes. It can be pickled: the copy is a store of the same folder.
    """

    def __init__(
        self,
        location: str | os.PathLike[str],
        *,
        compress: bool | int | str | tuple[str, int | None] = False,
        mmap_mode: str | None = None,
        limits: Limits | None = None,
        verbose: int = 0,
        own: str | None = None,
    ) -> None:
        self._arguments = location, compress, limits, own
        self._compression = compression_of(compress, "")
        self.location = os.path.abspath(os.path.expanduser(os.fspath(location)))
        self._prefix = self.location + os.sep
        if self._compression is not None and mmap_mode is not None:
            warnings.warn(
                "Compressed items cannot be memmapped in a filesystem store. Option will be ignored.",
                UserWarning,
                stacklevel=2,
            )
        self._limits = Limits() if limits is None else limits
        own = os.path.join(self.location, _OWN) if own is None else own
        self._leases = leases_in(own)
        assert self._leases.locks is not None
        self._aside = Aside(os.path.join(own, "aside"), self._leases.locks)
        self._index: Index | None = None
        index = os.path.join(own, "index.sqlite")
        if self._limits != Limits() or os.path.lexists(index):  # others who have limits count on it
            from shoal.memory._index import Index

            self._index = Index(index, self._leases.locks, self._walk, self._measure, self._remove)
        self._prepare()

    def _prepare(self) -> None:
        """Make the folder. Where that cannot be done, saving will say so."""
        folder, name = os.path.split(self.location)
        try:
            make_location(self.location)
            with open(f"{folder if name == 'joblib' else self.location}/.gitignore", "x", encoding="ascii") as file:
                file.write(_IGNORE)
        except OSError:
            pass

    def __reduce__(self) -> Any:
        return _restored, self._arguments

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._arguments[0]!r})"

    def folder(self, key: Key) -> str:
        """Return the path of an entry, whether there is one or not."""
        return f"{self._prefix}{key.function}/{key.call}"

    # Values

    def load(self, key: Key, mmap_mode: str | None = None) -> Any:
        path = f"{self._prefix}{key[0]}/{key[1]}/output.pkl"
        try:
            value = OTHER
            if mmap_mode is None:
                data = read_small(path)
                if len(data) < SMALL:
                    value = rebuilt(data)
            if value is OTHER:
                value = load(path, None if self._compression else mmap_mode)
        except (FileNotFoundError, NotADirectoryError):
            raise KeyError(key) from None
        except Warning:  # of versions, where warnings are errors
            raise
        except Exception as error:
            return self._unreadable(key, mmap_mode, error)
        if self._index is not None:
            self._index.used(key)
        return value

    def _unreadable(self, key: Key, mmap_mode: str | None, error: Exception) -> Any:
        """Discard an entry that could not be read; return the value, if another has taken its place meanwhile."""
        folder = self.folder(key)
        if not isinstance(error, (OSError, MemoryError)) and self._is_ours(key):
            try:
                aside = self._aside.bring(folder)
            except OSError:
                pass
            else:
                if aside is None:
                    raise KeyError(key) from None
                if self._put_back(aside, folder):
                    return self._load_again(key, mmap_mode)
                delete(aside)
                if self._index is not None:
                    self._index.gone(key)
        return self._tell_unreadable(key, error)

    def _tell_unreadable(self, key: Key, error: Exception) -> NoReturn:
        warn(
            f"{self.folder(key)} cannot be read ({type(error).__name__}: {error}): it is discarded, and computed again",
            CacheWarning,
        )
        raise KeyError(key) from None

    def _load_again(self, key: Key, mmap_mode: str | None) -> Any:
        try:
            return load(f"{self.folder(key)}/{_OUTPUT}", mmap_mode)
        except (FileNotFoundError, NotADirectoryError):
            raise KeyError(key) from None

    def _put_back(self, aside: str, folder: str) -> bool:
        """Publish an entry again, if it is a whole one."""
        try:
            load(os.path.join(aside, _OUTPUT))
        except Exception:
            return False
        try:
            os.rename(aside, folder)
        except OSError:  # there is a new one already, or the folder was cleared
            delete(aside)
        return True

    def save(self, key: Key, value: Any, meta: Meta) -> None:
        refuse_links(self.location, key.function)
        for attempt in range(_ATTEMPTS):
            part = self._aside.folder()
            try:
                nbytes = self._write(part, value, meta)
                if self._admit(key, nbytes):
                    self._publish(part, key)
                else:
                    delete(part)
                return
            except FileNotFoundError:  # the folder was removed in the middle
                delete(part)
                if attempt == _ATTEMPTS - 1:
                    raise
            except BaseException:
                delete(part)
                raise

    def _write(self, part: str, value: Any, meta: Meta) -> int:
        """Write the files of an entry; return what they take."""
        path = f"{part}/{_OUTPUT}"
        if self._compression is None:
            with Output.new(path) as output:
                write(value, output, None)
            nbytes = output.nbytes
        else:
            with open(path, "xb") as file:
                write(value, file, self._compression)
            nbytes = os.path.getsize(path)
        return nbytes + write_new(f"{part}/{_METADATA}", _described(meta))

    def _admit(self, key: Key, nbytes: int) -> bool:
        if self._index is None or self._index.admit(Entry(key, nbytes, time.time()), self._limits):
            return True
        warn(
            f"a result of {key.function} is not kept: its {nbytes} bytes are more than the limit of the cache allows",
            CacheWarning,
        )
        return False

    def _publish(self, part: str, key: Key) -> None:
        folder = self.folder(key)
        for _ in range(_ATTEMPTS):
            try:
                os.rename(part, folder)
                break
            except FileNotFoundError:
                make_folder_below(self.location, key.function)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                if _replaced(part, folder):
                    break
        else:
            raise FileNotFoundError(errno.ENOENT, "the folder is removed again and again", folder)
        if self._index is not None:
            self._index.confirm(key)

    def contains(self, key: Key) -> bool:
        return os.access(f"{self.folder(key)}/{_OUTPUT}", os.F_OK)  # raises nothing inside, as exists() does

    def meta(self, key: Key) -> Meta:
        try:
            with open(f"{self.folder(key)}/{_METADATA}", "rb", 0) as file:
                fields = json.loads(file.read())
            return Meta(float(fields["duration"]), float(fields["time"]), dict(fields["input_args"]))
        except (OSError, ValueError, TypeError, KeyError):
            raise KeyError(key) from None

    # What goes

    def discard(self, key: Key) -> None:
        if self._index is not None:
            self._index.discard(key)
        else:
            self._remove(key)

    def _remove(self, key: Key) -> None:
        if self._is_ours(key):
            self._aside.remove(self.folder(key))

    def _is_ours(self, key: Key) -> bool:
        """Tell whether a key leads to an entry of this store, and to nothing else, whoever has made the key."""
        try:
            if is_key(key):
                refuse_links(self.location, key.function)
                return True
        except OSError:
            pass
        return False

    def clear(self, function: str | None = None) -> None:
        brought: list[str | None] = []
        if function is not None:
            refuse_links(self.location, function.rpartition("/")[0])  # of the last part, the link itself is removed

        def bring() -> None:
            paths = self._folders() if function is None else [self._prefix + function]
            brought.extend(self._aside.bring(path) for path in paths)

        if self._index is not None:
            self._index.clear(function, bring)
        else:
            bring()
        for aside in brought:
            if aside is not None:
                delete(aside)
        self._sweep()

    def _folders(self) -> list[str]:
        try:
            with os.scandir(self.location) as found:
                return [item.path for item in found if not item.name.startswith(".") and item.is_dir()]
        except OSError:
            return []

    def reduce(self, limits: Limits) -> None:
        if self._index is not None:
            self._index.reduce(limits)
        else:
            entries = sorted(self._walk(), key=lambda entry: entry.used)
            nbytes = sum(entry.nbytes for entry in entries)
            for entry in excess(entries, nbytes, len(entries), limits, time.time()):
                self._remove(entry.key)
        self._sweep()

    def _sweep(self) -> None:
        """Remove what killed processes have left."""
        self._aside.sweep()
        self._leases.sweep()

    # What there is

    def entries(self) -> Iterator[Entry]:
        uses: dict[Key, float] = {}
        if self._index is not None:
            try:
                uses = self._index.uses()
            except OSError:  # the times of the files will do
                pass
        for entry in self._walk():
            yield entry._replace(used=uses.get(entry.key, entry.used))

    def _walk(self) -> Iterator[Entry]:
        folders = [(self.location, "")]
        while folders:
            path, name = folders.pop()
            try:
                with os.scandir(path) as found:
                    items = list(found)
                if name and any(item.name == _OUTPUT for item in items):
                    key = Key(*name.rpartition("/")[::2])
                    if is_key(key):
                        yield _entry(key, items)
                    continue
                inside = [item for item in items if item.is_dir(follow_symlinks=False)]
            except OSError:  # removed in the meantime
                continue
            folders += [
                (item.path, f"{name}/{item.name}" if name else item.name) for item in inside if item.name != _OWN
            ]

    def _measure(self, key: Key) -> Entry | None:
        try:
            if self._is_ours(key):
                with os.scandir(self.folder(key)) as items:
                    return _entry(key, list(items))
        except OSError:
            pass
        return None

    # Sources

    def source(self, function: str) -> str | None:
        try:
            with open(f"{self._prefix}{function}/{_SOURCE}", encoding="utf-8", newline="") as file:
                return file.read()
        except (OSError, UnicodeDecodeError):
            return None

    def keep_source(self, function: str, source: str) -> None:
        path = f"{self._prefix}{function}/{_SOURCE}"
        refuse_links(self.location, function)
        for attempt in range(_ATTEMPTS):
            part = self._aside.file(source.encode())
            try:
                make_folder_below(self.location, function)
                os.replace(part, path)
                return
            except FileNotFoundError:  # a folder was removed in the middle
                delete(part)
                if attempt == _ATTEMPTS - 1:
                    raise
            except BaseException:
                delete(part)
                raise

    def foreign(self, function: str) -> bool:
        try:
            return any(_of_joblib(name) for name in os.listdir(self._prefix + function))
        except OSError:
            return False

    # Who computes

    def lease(self, key: Key) -> AbstractContextManager[bool]:
        return self._leases.lease(key)


# Beside these there are only files and keys of ours.
_of_joblib = re.compile("[0-9a-f]{32}").fullmatch


def _restored(location: Any, compress: Any, limits: Limits | None, own: str | None) -> FileStore:
    return FileStore(location, compress=compress, limits=limits, own=own)


def _entry(key: Key, items: list[os.DirEntry[str]]) -> Entry:
    nbytes, used = 0, 0.0
    for item in items:
        status = item.stat(follow_symlinks=False)
        nbytes += status.st_size
        if item.name == _OUTPUT:
            # Where the system keeps no times of reading, the time of writing is the later one.
            used = max(status.st_atime, status.st_mtime)
    return Entry(key, nbytes, used)


def _described(meta: Meta) -> bytes:
    """Return the JSON that is kept with a value."""
    arguments = ", ".join([f"{_encode(name)}: {_encode(text)}" for name, text in meta.arguments.items()])
    return f'{{"duration": {meta.duration}, "input_args": {{{arguments}}}, "time": {meta.created}}}'.encode()


def _replaced(part: str, folder: str) -> bool:
    """Replace the files of an entry by those of a new one; return whether there was still one."""
    try:
        os.replace(f"{part}/{_OUTPUT}", f"{folder}/{_OUTPUT}")
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        os.replace(f"{part}/{_METADATA}", f"{folder}/{_METADATA}")
    except (FileNotFoundError, NotADirectoryError):
        pass  # it was removed, as a whole, after its value was replaced
    delete(part)
    return True
