"""``load``: what its arguments mean, and the file that is read."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterable
from typing import Any

import xxhash

from shoal._pickling import collecting_later
from shoal.errors import (
    CorruptFile,
    DamagedFile,
    EmptyFile,
    ForeignFile,
    UntrustedFile,
    VersionWarning,
    add_to_message,
)
from shoal.persistence._format import differing, differing_at_all
from shoal.persistence.compression import detect
from shoal.persistence.reading._foreign import TORCH, seems_to_be
from shoal.persistence.reading._forwards import Forwards, from_here, left_of
from shoal.persistence.reading._input import Input
from shoal.persistence.reading._legacy import of_python_2
from shoal.persistence.reading._mapping import mapped_in_vain, mapping_of
from shoal.persistence.reading._opening import Opened, check, find_footer, footer_of, opened
from shoal.persistence.reading._reader import Reader
from shoal.persistence.reading._small import OTHER, rebuilt, whole_if_small
from shoal.persistence.trust._limits import Budget, checked_limit
from shoal.persistence.trust._rebuild import Rebuilder, Woven
from shoal.persistence.trust._survey import Survey, Watched
from shoal.persistence.trust._trust import Ask, Trust

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
    max_bytes: int | None = None,
) -> Any:
    """Rebuild an object from a file that :func:`dump` has written, or joblib.

    Parameters
    ----------
    filename : str, bytes, os.PathLike or file object
        The file. A file object needs a method ``read``; it is read from where it stands, and no further than the object
        goes: several may follow each other (`docs/persistence.md` names the exceptions). The compressor is told from
        the first bytes.
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
    max_bytes : int, optional
        With `trusted`, how many bytes the object may take: those of arrays and strings after decompression, what is
        made of them, and 64 for each other byte. By default 64 MB and 4,000 for each byte of the file.

    Returns
    -------
    The object.

    Raises
    ------
    CorruptFile
        If the file is damaged (DamagedFile), ends too soon (TruncatedFile), is empty or was read to its end
        (EmptyFile), or is none of shoal's or joblib's (ForeignFile, which says what it looks like).
    UntrustedFile
        If it would import what is not trusted; it says all that it would. Nothing was imported, nor rebuilt.
    FileLimitError
        If it would take more than `max_bytes`; nothing was rebuilt.
    ValueError
        If arguments cannot be used together, or the file was written by Python 2.
    ImportError, AttributeError
        If a class or function that the file names is not there. Whatever is raised while the object is rebuilt says
        which libraries have written the file, if they are here in other versions.

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
    if trusted is None and max_bytes is not None:
        raise ValueError("max_bytes is heeded only together with trusted=: pass trusted=[...] as well")
    trust = None if trusted is None else Trust(trusted, checked_limit(max_bytes))
    if hasattr(filename, "read"):
        if isinstance(filename, io.TextIOBase):
            raise TypeError(f"load() reads bytes, and {filename!r:.80} gives text: open the file with mode 'rb'")
        name = str(getattr(filename, "name", ""))
        file = from_here(filename)
        with _Explained(file, name):
            value = _load(file, name, False, mmap_mode, native, verify, trust)
        if isinstance(file, Forwards):
            file.end()
        return value
    path = path_of(filename)
    small = whole_if_small(path) if mmap_mode is None and trust is None and not verify else None
    if small is not None:
        try:
            value = rebuilt(small)
        except Exception as error:
            _tell_versions(error, io.BytesIO(small), 0, path)
            raise
        if value is not OTHER:
            return value
    with _by_path(path, mmap_mode) if small is None else io.BytesIO(small) as opened_file:
        file = from_here(opened_file)
        with _Explained(file, path):
            return _load(file, path, True, mmap_mode, native, verify, trust)


def path_of(filename: Any) -> str:
    """Return a path as a string.

    Raises
    ------
    TypeError
        If it is none.
    ValueError
        If it is what stands in a file, as bytes.
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
            "load() was given bytes that are no path, but what stands in a file: load(io.BytesIO(data)) rebuilds it"
        )
    return os.fsdecode(path)


def _by_path(path: Any, mmap_mode: str | None) -> Any:
    """Open a file, to be written to as well if what is mapped is shared with it and that is allowed."""
    if mmap_mode in ("r+", "w+"):
        try:
            return open(path, "r+b", buffering=0)
        except PermissionError:
            pass
    return open(path, "rb", buffering=0)


class _Explained:
    """A block in which a file is loaded: if that fails, more is said of what is wrong."""

    __slots__ = ("_begin", "_file", "_name")

    def __init__(self, file: Any, name: str) -> None:
        self._file, self._name = file, name
        self._begin: int | None = None if isinstance(file, Forwards) else file.tell()

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if not isinstance(error, Exception) or isinstance(error, (EmptyFile, UntrustedFile, MemoryError)):
            return
        file, begin = self._file, self._begin
        if isinstance(error, CorruptFile):
            _raise_if_foreign(error, file, begin)
            return
        looks_like = seems_to_be(file, begin) if begin is not None and isinstance(error, ImportError) else None
        if looks_like is not None:
            raise ForeignFile(self._name, looks_like) from error
        _tell_versions(error, file, begin, self._name)


def _raise_if_foreign(error: CorruptFile, file: Any, begin: int | None) -> None:
    """Raise ForeignFile in the place of an error, if the file is none of dump's or joblib's."""
    foreign = _foreign(error, file, begin)
    if foreign is not None:
        raise foreign from None


def _foreign(error: CorruptFile, file: Any, begin: int | None) -> ForeignFile | None:
    kind = None if begin is None else seems_to_be(file, begin)
    return None if kind is None else ForeignFile(error.name, kind)


def _tell_versions(error: Exception, file: Any, begin: int | None, name: str) -> None:
    """Have an exception say which versions have written a file that could not be rebuilt, if they differ from ours."""
    if begin is None:  # it cannot seek
        return
    try:
        file.seek(begin)
        footer = footer_of(file, name)
        if footer is None:  # other objects follow
            file.seek(begin)
            footer = surveyed(file, name, None).footer
    except (CorruptFile, OSError):  # what was raised first tells more
        return
    unlike = differing_at_all(footer.versions) if footer is not None else []
    if unlike:
        text = f"{name or 'The stream'} was written with {', '.join(unlike)}: use the same versions, or write it again"
        add_to_message(error, text)


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
        survey = surveyed(file, name, trust.max_bytes)
        found = trust.found(name, survey)
        if isinstance(file, Forwards):
            file = io.BytesIO(record)
    with opened(file, name) as what:
        if what.old:
            _warn_of_age(name)
        if mmap_mode is not None and (what.old or mapped_in_vain(what, name, mmap_mode)):
            mmap_mode = None
        if what.compressor is None and what.left is not None:
            _prepare(what, name, whole, verify is not False, bool(verify and mmap_mode))
        if survey is None:
            left = what.size if what.left is None else what.left
            exact = what.left is None and not what.compressor
            source = Input(what.stream, name, left, what.ahead, exact, what.footer)
        else:
            begin = None if what.left is None else what.begin
            woven = Woven(survey.opcodes, survey.met, what.stream, begin, name)
            source = Input(woven, name, woven.size)
        if not what.sound and verify is not False:
            source.checksum = xxhash.xxh3_64()
        mapping = mapping_of(what.stream, name, mmap_mode) if mmap_mode is not None and whole else None
        wanted = verify or (verify is None and what.compressor is not None and not what.sound)
        sums: dict[int, int] | None = {} if wanted else None
        if survey is None:
            reader = Reader(source, native, sums, mapping, mmap_mode)
        else:
            reader = Rebuilder(source, native, sums, mapping)
            reader.found, reader.woven = found, woven
        value = _rebuilt(reader, source, what.sound)
        if reader.legacy and not what.old:
            _warn_of_age(name)
        if not whole:
            what.leave(source.position)
    if type(value) is int and value == TORCH:
        raise ForeignFile(name, "a file of torch.save(), of an early version: torch.load() reads it")
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


def surveyed(file: Any, name: str, max_bytes: int | None) -> Survey:
    """Go through a file without rebuilding anything; leave it where it stands, if it can seek.

    Raises
    ------
    CorruptFile
        If it is damaged: unless something was found before that is refused in any case.
    """
    left = left_of(file)
    begin = 0 if left is None else file.tell()
    try:
        source = from_here(file)
        if isinstance(source, Forwards):
            source.counted = True
        with opened(source, name) as what:
            exact = what.left is None and what.compressor is None
            budget = Budget(name, max_bytes, left, source.count if isinstance(source, Forwards) else None)
            survey = Survey(Watched(what.stream, name, what.left, budget, what.ahead, exact=exact))
            survey.compressor = what.compressor
            survey.go_through()
            if left is None and survey.failure is None:
                what.leave(survey.size)
        if source is not file:
            source.end()
        if isinstance(survey.failure, CorruptFile):
            foreign = _foreign(survey.failure, file, None if left is None else begin)
            if foreign is not None and not survey.notes.globals:
                raise foreign
            survey.failure = foreign or survey.failure
    except (EmptyFile, ForeignFile):
        raise
    except CorruptFile as error:
        _raise_if_foreign(error, file, None if left is None else begin)
        raise
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
    return trace is not None and not str(trace.tb_frame.f_globals.get("__package__")).startswith("shoal.persistence")


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
