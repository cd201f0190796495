"""``inspect``: what a file holds, without rebuilding it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from shoal.errors import UntrustedFile, printable
from shoal.persistence._load import surveyed
from shoal.persistence.trust._dtypes import SurveyedArray
from shoal.persistence.trust._limits import checked_limit
from shoal.persistence.trust._safe import SAFE
from shoal.persistence.trust._survey import Survey

#: So many arrays are shown.
_SHOWN = 10


@dataclass(frozen=True, repr=False)
class FileInfo:
    """What a file holds.

    Attributes
    ----------
    name
        Its name, or what the file object calls itself.
    size
        The number of its bytes; None for what cannot seek.
    uncompressed
        The bytes of the object and of what stands with it, after decompression.
    compressor
        The name of the compressor; None for none.
    protocol
        That of pickle.
    imports
        The dotted names of all classes and functions that loading it would import, sorted.
    untrusted
        Those of them that ``load(trusted=[])`` refuses.
    misuses
        What it would do that no pickle of data does, in words: no `trusted` allows it.
    arrays
        The arrays that it stores.
    versions
        Of Python, of numpy and of the packages whose classes are stored, when it was written; empty if joblib wrote it.
    checksums
        Whether it has such, by which damage is found.
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
    """Return a name as people can read it: in quotes, with escapes, if no import could find it."""
    return name if name.isascii() and all(part.isidentifier() for part in name.split(".")) else ascii(name)


def inspect(filename: Any, *, max_bytes: int | None = None) -> FileInfo:
    """Say what a file holds and what it would import, without importing or running any of that.

    Parameters
    ----------
    filename : str, os.PathLike or file object
        The file. A file object is left where it stands, if it can seek, and else behind the object.
    max_bytes : int, optional
        How many bytes the object may take, as for :func:`load`. By default 64 MB and 4,000 for each byte of the file.

    Returns
    -------
    FileInfo
        Its `repr` is for people to read.

    Raises
    ------
    CorruptFile
        If the file is damaged, ends too soon (TruncatedFile), or is none of shoal's or joblib's.
    UntrustedFile
        If it is none that anybody should load, and cannot be gone through to its end.
    FileLimitError
        If it would take more than `max_bytes`.

    Notes
    -----
    Thread-safe. The file is read as a whole, but for arrays where it can seek; memory is taken for everything but
    those. NumPy is imported where there are arrays.

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
        name = str(getattr(filename, "name", ""))
        return _info(name, None, surveyed(filename, name, max_bytes))
    path = os.fspath(filename)
    with open(path, "rb", buffering=0) as file:
        return _info(path, os.fstat(file.fileno()).st_size, surveyed(file, path, max_bytes))


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
