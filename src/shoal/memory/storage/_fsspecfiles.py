"""The files below a folder of a file system of fsspec: read whole, written in one step, and removed.

::

    object store (s3, gs, ...)    a file is written at once: its readers see the old one or the new one
    other file systems            it is written under a name of its own, and then renamed

The clients of object stores raise errors of their own when a server fails or is away. Here, each is an OSError.
"""

from __future__ import annotations

import errno
import itertools
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from shoal._platform.files import replace
from shoal.memory.storage._paths import OWN, refuse_links

_ATTEMPTS = 5
#: The protocols of object stores.
_OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oci", "oss"})


@contextmanager
def _reporting(path: str) -> Iterator[None]:
    """Raise OSErrors in place of other errors, which the clients of object stores have."""
    try:
        yield
    except (OSError, MemoryError):
        raise
    except Exception as error:
        raise OSError(errno.EIO, f"{type(error).__name__}: {error}", path) from error


class FsspecFiles:
    """The files below a location. Thread-safe. Each method raises OSError if the file system fails."""

    def __init__(self, location: str, storage_options: dict[str, Any]) -> None:
        from fsspec.core import url_to_fs  # an extra, which may not be installed
        from fsspec.implementations.local import LocalFileSystem

        # An instance of its own: a cached listing would be wrong, because other processes write too.
        self._fs, root = url_to_fs(location, **{**storage_options, "skip_instance_cache": True})
        listings: Any = getattr(self._fs, "dircache", None)
        if hasattr(listings, "use_listings_cache"):
            listings.use_listings_cache = False
        protocol = self._fs.protocol
        self._writes_at_once = not _OBJECT_STORES.isdisjoint([protocol] if isinstance(protocol, str) else protocol)
        # If a local folder was just removed, so that a file cannot be renamed into it, fsspec copies the file instead,
        # and readers see half of it. So local files are renamed as those of a FileStore are.
        self._is_local = isinstance(self._fs, LocalFileSystem)
        self._move: Any = replace if self._is_local else self._fs.mv
        self.prefix = root.rstrip("/") + "/"
        self._counter = itertools.count()
        self._token = secrets.token_hex(8)

    def read(self, path: str) -> bytes | None:
        """Return the content of a file, or None if there is none."""
        with _reporting(path):
            try:
                data: bytes = self._fs.cat_file(path)
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                return None
        return data

    def write(self, path: str, data: bytes) -> None:
        """Write a file, or replace it, in one step for its readers."""
        with _reporting(path):
            if self._writes_at_once:
                self._fs.pipe_file(path, data)
            else:
                self._write_and_move(path, data)

    def _write_and_move(self, path: str, data: bytes) -> None:
        staged = f"{self.prefix}{OWN}/aside/{self._token}-{os.getpid()}-{next(self._counter)}"
        for written in (path, staged):
            self._refuse_links(written)
        for attempt in range(_ATTEMPTS):
            try:
                for folder in (path, staged):
                    self._fs.makedirs(folder.rpartition("/")[0], exist_ok=True)
                self._fs.pipe_file(staged, data)
                self._move(staged, path)
                return
            except BaseException as error:
                self._remove_quietly(staged)
                # Both errors occur when another process removes a folder meanwhile.
                if not isinstance(error, (FileNotFoundError, FileExistsError)) or attempt == _ATTEMPTS - 1:
                    raise

    def _remove_quietly(self, path: str) -> None:
        try:
            self.remove(path)
        except OSError:  # the error that is reported is that of writing
            pass

    def remove(self, path: str) -> None:
        """Remove a file, or a folder and its content. Of a link, remove the link and not its target."""
        try:
            self._refuse_links(path)
        except NotADirectoryError:
            return
        if self._is_local and os.path.islink(path):
            os.unlink(path)
            return
        for attempt in range(_ATTEMPTS):
            try:
                with _reporting(path):
                    self._fs.rm(path, recursive=True)
                return
            except FileNotFoundError:
                return
            except OSError as error:
                if error.errno != errno.ENOTEMPTY and attempt == (0 if self._writes_at_once else _ATTEMPTS - 1):
                    raise
                # Others write into the folder meanwhile. What they have written last may stay.

    def names(self, folder: str) -> list[str]:
        """Return the names of what a folder contains; nothing if there is none."""
        found = self._listed(self._fs.ls, folder, [], detail=False)
        return [path.rstrip("/").rpartition("/")[2] for path in found]

    def find(self) -> dict[str, dict[str, Any]]:
        """Return all files, by their paths below the location, with what the file system tells about them."""
        found = self._listed(self._fs.find, self.prefix, {}, detail=True)
        return {path[len(self.prefix) - len(path) :]: about for path, about in found.items()}

    @staticmethod
    def _listed(listing: Callable[..., Any], folder: str, nothing: Any, **options: Any) -> Any:
        """Return what a method that lists a folder returns, or `nothing` if there is no folder."""
        left = _ATTEMPTS
        with _reporting(folder):
            while True:
                try:
                    return listing(folder, **options)
                except (FileNotFoundError, NotADirectoryError):
                    return nothing
                except (KeyError, RuntimeError):  # memory:// lists a dictionary that other threads change
                    left -= 1
                    if not left:
                        raise

    def _refuse_links(self, path: str) -> None:
        """Raise NotADirectoryError if a local folder that leads to a path is a symbolic link."""
        if self._is_local:
            refuse_links(self.prefix[:-1], path[len(self.prefix) :].rpartition("/")[0])
