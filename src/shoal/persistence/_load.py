"""``load``: what its arguments mean, and the file that is read."""

from __future__ import annotations

import io
import mmap
import os
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import xxhash

from shoal._arrays import ArraySpec
from shoal._pickling import collecting_later
from shoal.errors import CorruptFile, DamagedFile, VersionWarning
from shoal.persistence._format import differing
from shoal.persistence._input import Input
from shoal.persistence._legacy import of_python_2
from shoal.persistence._opening import Forwards, Opened, check, find_footer, from_here, left_of, opened
from shoal.persistence._reader import Reader
from shoal.persistence._small import OTHER, load_small
from shoal.persistence._survey import Allowed, Survey, Watched, Woven
from shoal.persistence._trust import Ask, Trust

#: Files of so many bytes are read as a whole, once, to be checked and rebuilt.
WHOLE = 1048576
_MODES = (None, "r", "r+", "w+", "c")


def load(
    filename: Any,
    mmap_mode: str | None = None,
    ensure_native_byte_order: bool | str = "auto",
    *,
    verify: bool | None = None,
    trusted: Ask | Iterable[str | Ask] | None = None,
) -> Any:
    """Rebuild an object from a file that :func:`dump` has written, or joblib.

    Parameters
    ----------
    filename : str, os.PathLike or file object
        The file. A file object needs a method ``read``; it is read from where it stands, and no further than the object
        goes. The compressor is told from the first bytes.
    mmap_mode : {None, "r", "r+", "w+", "c"}
        How arrays are mapped into memory instead of being read: read-only, shared with the file ("r+", and "w+", which
        means the same here), or copy-on-write. Ignored, with a warning, where the file is compressed or in memory.
        Arrays below 64 kB beyond the first 16 are not mapped.
    ensure_native_byte_order : bool or "auto"
        Whether arrays of another byte order are turned into this machine's. By default they are, unless they are
        mapped.
    verify : bool, optional
        Whether the checksums of arrays are compared. By default where that costs little: of compressed files. What is
        not an array is compared in any case, before anything is rebuilt, where the file can seek; unless it is False.
    trusted : iterable or callable, optional
        What the file may import, beside arrays and plain data: dotted names (``"package.module.Class"``), everything
        that a package and its modules define (``"package.*"``), and callables that take a dotted name and tell. By
        default, anything. Where it is given, the file is gone through twice; of a file that cannot seek, what it holds
        is kept in memory meanwhile. `docs/trust.md` says what this is good for, :func:`inspect` what a file would
        import.

    Returns
    -------
    The object.

    Raises
    ------
    CorruptFile
        If the file is damaged, ends too soon (TruncatedFile), or is none of shoal's or joblib's.
    UntrustedFile
        If it would import what is not trusted; it says all that it would. Nothing was imported, nor rebuilt.
    ValueError
        If arguments cannot be used together, or the file was written by Python 2.
    ImportError, AttributeError
        If a class or function that the file names is not there.

    Warns
    -----
    VersionWarning
        If it was written with other versions of the libraries whose classes it holds.

    Warnings
    --------
    Without `trusted`, a file may run any code while it is loaded.

    Notes
    -----
    Thread-safe. The garbage collector of the process waits until the object is rebuilt.
    """
    if mmap_mode not in _MODES:
        raise ValueError(f"mmap_mode must be one of {_MODES}, got: {mmap_mode!r}")
    native = mmap_mode is None if ensure_native_byte_order == "auto" else bool(ensure_native_byte_order)
    if native and mmap_mode is not None:
        raise ValueError(
            "Native byte ordering can only be enforced if 'mmap_mode' parameter is set to None, but got "
            f"'mmap_mode={mmap_mode}' instead."
        )
    trust = None if trusted is None else Trust(trusted)
    if hasattr(filename, "read"):
        with from_here(filename) as file:
            return _load(file, str(getattr(filename, "name", "")), False, mmap_mode, native, verify, trust)
    path = os.fspath(filename)
    if mmap_mode is None and trust is None and not verify:
        value = load_small(path)
        if value is not OTHER:
            return value
    with _by_path(path, mmap_mode) as opened_file, from_here(opened_file) as file:
        return _load(file, path, True, mmap_mode, native, verify, trust)


def _by_path(path: Any, mmap_mode: str | None) -> Any:
    """Open a file, to be written to as well if what is mapped is shared with it and that is allowed."""
    if mmap_mode in ("r+", "w+"):
        try:
            return open(path, "r+b", buffering=0)
        except PermissionError:
            pass
    return open(path, "rb", buffering=0)


def _load(
    file: Any, name: str, whole: bool, mmap_mode: str | None, native: bool, verify: bool | None, trust: Trust | None
) -> Any:
    """Rebuild an object.

    Parameters
    ----------
    file, name
        Where it is, and what that is called.
    whole
        Whether it is all that the file holds, and `name` its path.
    mmap_mode, native, verify
        As for :func:`load`.
    trust
        What may be imported; None for anything.
    """
    survey, found = None, {}
    if trust is not None:
        record = bytearray()
        if isinstance(file, Forwards):
            file.record = record
        survey = surveyed(file, name)
        found = trust.found(name, survey)
        if isinstance(file, Forwards):
            file = io.BytesIO(record)
    with opened(file, name) as what:
        if what.old:
            _warn_of_age(name)
        if mmap_mode is not None and (what.old or _mapped_in_vain(what, name, mmap_mode)):
            mmap_mode = None
        if what.compressor is None and what.left is not None:
            _prepare(what, name, whole, verify is not False, bool(verify and mmap_mode))
        if survey is None:
            left = what.size if what.left is None else what.left
            source = Input(what.stream, name, left, what.ahead, exact=what.left is None and not what.compressor)
        else:
            woven = Woven(survey.opcodes, survey.notes.arrays, what.stream, None if what.left is None else what.begin)
            source = Input(woven, name, woven.size)
        if not what.sound and verify is not False:
            source.checksum = xxhash.xxh3_64()
        mapping = _mapping(what.stream, name, mmap_mode) if mmap_mode is not None and whole else None
        wanted = verify or (verify is None and what.compressor is not None and not what.sound)
        sums: dict[int, int] | None = {} if wanted else None
        if survey is None:
            reader = Reader(source, native, sums, mapping, mmap_mode)
        else:
            reader = Allowed(source, native, sums, mapping)
            reader.found = found
        value = _rebuilt(reader, source, what.sound)
        if reader.legacy and not what.old:
            _warn_of_age(name)
        if not whole:
            what.leave(source.position)
    footer = what.footer or source.footer
    if footer is None and source.promised and verify is not False:
        raise DamagedFile(name, source.position, "a footer", "the end of the object")
    if footer is None:
        if verify:
            raise ValueError(f"{name} has no checksums that verify=True could compare: shoal did not write it")
        return value
    footer.compare(name, source.before_footer, sums)
    _warn_of_versions(name, footer.versions)
    return value


def _prepare(what: Opened, name: str, whole: bool, verify: bool, arrays: bool) -> None:
    """Look at a file that is not compressed before it is read; if it is small, read it as a whole, once."""
    left, file = what.left or 0, what.stream
    file.seek(what.begin)
    what.ahead = b""
    if left <= WHOLE:
        what.ahead = file.read(left)
        file = io.BytesIO(what.ahead)
    what.footer = find_footer(file, name, left, whole)
    if what.footer is not None and verify:
        check(file, name, what.footer, arrays)
        what.sound = True


def surveyed(file: Any, name: str) -> Survey:
    """Go through a file without rebuilding anything; leave it where it stands, if it can seek.

    Raises
    ------
    CorruptFile
        If it is damaged: unless something was found before that is refused in any case.
    """
    left = left_of(file)
    begin = 0 if left is None else file.tell()
    with from_here(file) as source, opened(source, name) as what:
        exact = what.left is None and what.compressor is None
        survey = Survey(Watched(what.stream, name, what.left, what.ahead, exact=exact))
        survey.compressor = what.compressor
        survey.go_through()
        if left is None and survey.failure is None:
            what.leave(survey.size)
    if left is not None:
        file.seek(begin)
    return survey


def _rebuilt(reader: Reader, source: Input, checked: bool) -> Any:
    """Return the object that a reader rebuilds; tell what a damaged file leads to from what its classes raise.

    Where what is read is not checked yet, anything may come out of it: what was raised by no Python code of others is
    then put down to damage.
    """
    try:
        with collecting_later():
            return reader.load()
    except (CorruptFile, ImportError, AttributeError, RecursionError):
        raise
    except Exception as error:
        if source.failure is not None:
            raise source.failure from None
        if checked or _raised_elsewhere(error):
            raise
        if isinstance(error, UnicodeDecodeError) and error.encoding == "ascii" and not source.promised:
            raise of_python_2(source.name) from error
        found = f"what raises {type(error).__name__} ({error})"
        raise DamagedFile(source.name, source.position, "opcodes of pickle", found) from error


def _raised_elsewhere(error: BaseException) -> bool:
    """Tell whether Python code outside of this package has raised an exception."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_globals.get("__package__") != __package__


def _mapped_in_vain(what: Opened, name: str, mmap_mode: str) -> bool:
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


def _mapping(file: Any, path: str, mode: str) -> Callable[[ArraySpec, int], Any]:
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


def _warn_of_age(name: str) -> None:
    warnings.warn(
        f"The file '{name}' has been generated with a joblib version less than 0.10. Please regenerate this pickle "
        "file.",
        DeprecationWarning,
        stacklevel=4,
    )


def _warn_of_versions(name: str, stored: dict[str, str]) -> None:
    """Warn of packages that are not here in the version that wrote a file."""
    unlike, _ = differing(stored)
    if unlike:
        warnings.warn(
            f"{name or 'the stream'} was written with {', '.join(unlike)}: what is rebuilt may not work, or give "
            "other results. Use the same versions, or write it again",
            VersionWarning,
            stacklevel=4,
        )
