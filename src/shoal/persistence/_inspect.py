"""``inspect``: a description of a file, without rebuilding its object."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from shoal.errors import UntrustedFile, printable
from shoal.persistence.reading._start import name_of, start_of
from shoal.persistence.trust._dtypes import SurveyedArray
from shoal.persistence.trust._limits import checked_limit
from shoal.persistence.trust._safe import SAFE
from shoal.persistence.trust._survey import Survey
from shoal.persistence.trust._trusted import surveyed

#: The number of arrays that the `repr` shows.
_SHOWN = 10


@dataclass(frozen=True, repr=False)
class FileInfo:
    """A description of a file. Immutable, and so thread-safe.

    Attributes
    ----------
    name
        The path of the file, or what the file object calls itself.
    size
        The number of bytes of the file; None if it was given as a file object.
    uncompressed
        The number of bytes of the object and of its footer, after decompression.
    compressor
        The name of the compressor; None if the file is not compressed.
    protocol
        The protocol of pickle; 0 also for 1, because files do not tell these apart.
    imports
        The dotted names of all classes and functions that loading the file would import, sorted.
    untrusted
        Those of `imports` that ``load(trusted=[])`` refuses.
    misuses
        Descriptions of what the file does that no pickle of data does. ``load(trusted=)`` refuses them in any case.
    arrays
        The arrays in the file.
    versions
        The versions of Python, of numpy and of the packages whose classes are stored, at the time of writing. Empty if
        joblib has written the file.
    checksums
        Whether the file has checksums, which reveal damage.
    """

    name: str
    size: int | None
    uncompressed: int
    compressor: str | None
    protocol: int
    imports: tuple[str, ...]
    untrusted: tuple[str, ...]
    misuses: tuple[str, ...]
    arrays: tuple[SurveyedArray, ...]
    versions: dict[str, str]
    checksums: bool

    def __repr__(self) -> str:
        size = "" if self.size is None else f"{self.size:,} bytes, "
        inner = f"{self.uncompressed:,} bytes by {self.compressor}" if self.compressor else "not compressed"
        checksums = f"{'with' if self.checksums else 'without'} checksums"
        name = printable(self.name) or "a stream"
        lines = [f"{name}: {size}{inner}, pickle protocol {self.protocol}, {checksums}"]
        if self.versions:
            lines.append("written with: " + ", ".join(_shown(name, version) for name, version in self.versions.items()))
        lines.append(f"imports: {len(self.imports) or 'nothing'}")
        lines += [f"  {_global(name)}{'' if name in self.untrusted else '  (safe)'}" for name in self.imports]
        lines += [f"WARNING: not what pickle writes of an object: {printable(misuse)}" for misuse in self.misuses]
        total = sum(array.nbytes for array in self.arrays)
        lines.append(f"arrays: {len(self.arrays)}, {total:,} bytes" if self.arrays else "arrays: none")
        for array in self.arrays[:_SHOWN]:
            where = "in the pickle" if array.position is None else f"at {array.position:,}"
            lines.append(f"  {printable(array.dtype)} {array.shape}, {array.nbytes:,} bytes {where}")
        if len(self.arrays) > _SHOWN:
            lines.append(f"  and {len(self.arrays) - _SHOWN} more")
        return "\n".join(lines)


def _shown(name: str, version: str) -> str:
    return printable(f"{name} {version}")


def _global(name: str) -> str:
    """Return a dotted name to be printed. A name that no import could find is quoted, with escapes."""
    return name if name.isascii() and all(part.isidentifier() for part in name.split(".")) else ascii(name)


def inspect(filename: Any, *, max_bytes: int | None = None) -> FileInfo:
    """Describe a file, and what loading it would import, without importing or running any of that.

    Parameters
    ----------
    filename : str, os.PathLike or file object
        The file. A file object that can seek is left where it stands; any other one, behind the object.
    max_bytes : int, optional
        The number of bytes that the object may take, as for :func:`load`. By default 64 MB, plus 4,000 for each byte of
        the file.

    Returns
    -------
    FileInfo
        Its `repr` is a report for people.

    Raises
    ------
    CorruptFile
        If the file is damaged, ends too soon (TruncatedFile), is empty (EmptyFile), or was not written by shoal or
        joblib (ForeignFile).
    UntrustedFile
        If the file does something that no pickle of data does, and therefore cannot be read to its end.
    FileLimitError
        If the object would take more than `max_bytes`.
    TypeError, ValueError
        If `max_bytes` is not a number of bytes.

    Notes
    -----
    Thread-safe, as long as each thread reads from a file object of its own. The file is read to the end of the object;
    arrays are skipped if it can seek. Everything except arrays is kept in memory meanwhile. NumPy is imported if there
    are arrays.

    Examples
    --------
    >>> import io
    >>> from shoal import dump, inspect
    >>> file = io.BytesIO()
    >>> dump({"rate": 0.5, "kind": complex}, file)
    >>> inspect(io.BytesIO(file.getvalue())).imports
    ('builtins.complex',)
    """
    max_bytes = checked_limit(max_bytes)
    if hasattr(filename, "read"):
        name = name_of(filename)
        return _info(name, None, surveyed(start_of(filename, name), name, max_bytes, leave=True))
    path = os.fspath(filename)
    with open(path, "rb", buffering=0) as file:
        return _info(path, os.fstat(file.fileno()).st_size, surveyed(start_of(file, path), path, max_bytes))


def _info(name: str, size: int | None, survey: Survey) -> FileInfo:
    imports = tuple(sorted({f"{module}.{qualname}" for module, qualname in survey.notes.globals}))
    untrusted = tuple(name for name in imports if name not in SAFE)
    if survey.failure is not None:
        if survey.notes.misuses:
            raise UntrustedFile(name, untrusted, tuple(survey.notes.misuses)) from survey.failure
        raise survey.failure
    return FileInfo(
        name,
        size,
        survey.size,
        survey.compressor,
        survey.protocol,
        imports,
        untrusted,
        tuple(survey.notes.misuses),
        tuple(survey.notes.arrays),
        {} if survey.footer is None else survey.footer.versions,
        survey.footer is not None,
    )
