"""``load``: what its arguments mean, how a file is opened, and what its errors say.

::

    load ── a small file of shoal's ──> rebuilt()                reading/_small.py
      │
      └──> load_from ──┬──> load_plain                           reading/_plain.py
                       ├──> load_compressed                      reading/_compressed.py
                       ├──> load_legacy: joblib before 0.10      reading/_plain.py
                       └──> load_trusted: with trusted=          trust/_trusted.py
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from typing import Any

from shoal._platform import files
from shoal.errors import CorruptFile, EmptyFile, ForeignFile, UntrustedFile, add_to_message
from shoal.persistence._format import differing_at_all
from shoal.persistence.compression import detect
from shoal.persistence.reading._compressed import load_compressed
from shoal.persistence.reading._foreign import foreign_error, seems_to_be
from shoal.persistence.reading._opening import footer_of
from shoal.persistence.reading._plain import load_legacy, load_plain
from shoal.persistence.reading._small import OTHER, rebuilt, rest_if_small, whole_if_small
from shoal.persistence.reading._start import Forwards, Start, name_of, start_of
from shoal.persistence.reading._steps import Options
from shoal.persistence.trust._limits import checked_limit
from shoal.persistence.trust._trust import Ask, Trust
from shoal.persistence.trust._trusted import load_trusted, surveyed

_MODES = (None, "r", "r+", "w+", "c")


def load(
    filename: Any,
    mmap_mode: str | None = None,
    ensure_native_byte_order: bool | str = "auto",
    *,
    verify: bool | None = None,
    trusted: Ask | Iterable[str | Ask] | None = None,
    max_bytes: int | None = None,
) -> Any:
    """Rebuild an object from a file that :func:`dump`, or joblib, has written.

    Parameters
    ----------
    filename : str, bytes, os.PathLike or file object
        The file. A file object needs a method ``read``. It is read from its current position to the end of the object,
        so several objects may follow each other in it; `docs/persistence.md` names the exceptions. The first bytes
        tell how the file is compressed.
    mmap_mode : {None, "r", "r+", "w+", "c"}
        Map arrays into memory instead of reading them: read-only ("r"), shared with the file ("r+" and "w+", which mean
        the same here), or copy-on-write ("c"). Ignored, with a warning, if the file is compressed or in memory. Arrays
        smaller than 64 kB are mapped only if they are among the first 16 of the file. If arrays are shared with the
        file, their checksums are removed from it, because the arrays may change.
    ensure_native_byte_order : bool or "auto"
        Whether arrays of another byte order are converted to this machine's. "auto" converts them unless they are
        mapped.
    verify : bool, optional
        Whether checksums are compared. By default, everything that is read is compared with its checksum; arrays that
        are mapped are not. True compares mapped arrays too, which reads them, and requires that the file has
        checksums: those of joblib do not. With False, no damage is searched for. If the file can seek, the pickle is
        compared before anything is imported, and each array before any class gets it; else both afterwards.
    trusted : str, iterable or callable, optional
        What the file may import, besides arrays and plain data. A preset, "numpy", "scipy", "scikit-learn" or "pandas",
        covers what objects of that library need. Items of an iterable are presets, dotted names
        (``"package.module.Class"``), patterns for the classes that a package and its modules define (``"package.*"``),
        and callables that are given a dotted name and return whether it is trusted. By default, the file may import
        anything. With `trusted`, the file is read twice; the contents of a file that cannot seek are kept in memory
        meanwhile. `docs/trust.md` says what is promised, and :func:`inspect` tells what a file would import.
    max_bytes : int, optional
        With `trusted`, the number of bytes that the object may take: the bytes of arrays and strings after
        decompression, of what is made of them, and 64 for each other byte. By default 64 MB, plus 4,000 for each byte
        of the file.

    Returns
    -------
    The object.

    Raises
    ------
    CorruptFile
        If the file is damaged (DamagedFile), ends too soon (TruncatedFile), is empty or was read to its end
        (EmptyFile), or was not written by shoal or joblib (ForeignFile, which says what the file looks like).
    UntrustedFile
        If the file would import a name that is not trusted. The error lists all such names. Nothing was imported or
        rebuilt.
    FileLimitError
        If the object would take more than `max_bytes`. Nothing was rebuilt.
    ValueError
        If the arguments contradict each other, or Python 2 has written the file.
    ImportError, AttributeError
        If a class or function that the file names does not exist here. Any error that is raised while the object is
        rebuilt says which libraries have written the file, if they are installed here in other versions.

    Warns
    -----
    VersionWarning
        If the file was written with other versions of the libraries whose classes it contains.

    Warnings
    --------
    Without `trusted`, a file can run any code while it is loaded.

    Notes
    -----
    Thread-safe, as long as each thread reads from a file object of its own. The garbage collector of the process is
    paused until the object is rebuilt.
    """
    if mmap_mode not in _MODES:
        raise ValueError(f"mmap_mode must be one of {_MODES}, got: {mmap_mode!r}")
    native = mmap_mode is None if ensure_native_byte_order == "auto" else bool(ensure_native_byte_order)
    if native and mmap_mode is not None:
        raise ValueError(
            "Native byte ordering can only be enforced if 'mmap_mode' parameter is set to None, but got "
            f"'mmap_mode={mmap_mode}' instead."
        )
    if trusted is None and max_bytes is not None:
        raise ValueError("max_bytes limits only what load(trusted=) reads: pass trusted=[...] as well")
    trust = None if trusted is None else Trust(trusted, checked_limit(max_bytes))
    several = hasattr(filename, "read")
    if several and isinstance(filename, io.TextIOBase):
        raise TypeError(f"load() reads bytes, but {filename!r:.80} returns text: open the file with mode 'rb'")
    path = name_of(filename) if several else path_of(filename)
    small = None
    if mmap_mode is None and trust is None and not verify:
        small = rest_if_small(filename) if several else whole_if_small(path)
    if small is not None:
        try:
            value = rebuilt(small)
        except Exception as error:
            _add_versions(error, start_of(io.BytesIO(small), path), path)
            raise
        if value is not OTHER:
            return value
        if several:
            filename.seek(-len(small), os.SEEK_CUR)
    options = Options(path, several, mmap_mode, native, verify)
    if several:
        return load_from(filename, options, trust)
    if small is not None:
        return load_from(io.BytesIO(small), options, trust)
    shared = mmap_mode in ("r+", "w+")
    with _open_to_share(path) if shared else open(path, "rb", 0, opener=files.opener) as file:
        return load_from(file, options, trust)


def load_from(file: Any, options: Options, trust: Trust | None) -> Any:
    """Rebuild an object from an open file, and leave the file behind the object.

    Parameters
    ----------
    file
        Has ``read``, and stands at the object.
    options
        The arguments of :func:`load`.
    trust
        What the file may import; None for anything.

    Raises
    ------
    CorruptFile, UntrustedFile, FileLimitError, ValueError
        As for :func:`load`.
    """
    start = start_of(file, options.name)
    try:
        if trust is not None:
            value = load_trusted(start, options, trust)
        elif start.legacy:
            value = load_legacy(start, options)
        elif start.compressor is None:
            value = load_plain(start, options)
        else:
            value = load_compressed(start, options)
    except (EmptyFile, UntrustedFile, MemoryError):
        raise
    except Exception as error:
        _explain(error, start, options.name)
        raise
    if options.several and isinstance(start.file, Forwards):
        start.file.end()
    return value


def path_of(filename: Any) -> str:
    """Return a path as a string.

    Raises
    ------
    TypeError
        If `filename` is not a path.
    ValueError
        If `filename` is bytes that are the contents of a file.
    """
    try:
        path = os.fspath(filename)
    except TypeError:
        raise TypeError(
            f"load() takes a path (str, bytes or os.PathLike) or a file object with a method read, not "
            f"{type(filename).__name__}: {filename!r:.60}"
        ) from None
    if isinstance(path, str):
        return path
    in_a_file = path.startswith(b"\x80") or detect(path) is not None
    if b"\0" in path or (in_a_file and not os.path.exists(path)):
        raise ValueError(
            "load() takes bytes as a path, but these are the contents of a file: load(io.BytesIO(data)) rebuilds it"
        )
    return os.fsdecode(path)


def _open_to_share(path: str) -> Any:
    """Open a file for reading and writing, because arrays that are mapped share it; only for reading if need be."""
    try:
        return open(path, "r+b", 0, opener=files.opener)
    except PermissionError:
        return open(path, "rb", 0, opener=files.opener)


def _explain(error: Exception, start: Start, name: str) -> None:
    """Raise ForeignFile instead of an error if the file was not written by dump or joblib; else add to its message."""
    if isinstance(error, CorruptFile):
        foreign = foreign_error(error, start)
        if foreign is not None:
            raise foreign from None
        return
    if start.left is None:
        return
    looks_like = seems_to_be(start.file, start.begin) if isinstance(error, ImportError) else None
    if looks_like is not None:
        raise ForeignFile(name, looks_like) from error
    _add_versions(error, start, name)


def _add_versions(error: Exception, start: Start, name: str) -> None:
    """Add to the message of an error which versions have written the file, if other ones are installed here."""
    try:
        start.file.seek(start.begin)
        footer = footer_of(start, name)
        if footer is None:  # other objects follow in the file
            start.file.seek(start.begin)
            footer = surveyed(start, name, None).footer
    except (CorruptFile, OSError):  # the first error tells more
        return
    unlike = differing_at_all(footer.versions) if footer is not None else []
    if unlike:
        text = f"{name or 'The stream'} was written with {', '.join(unlike)}: use the same versions, or write it again"
        add_to_message(error, text)
