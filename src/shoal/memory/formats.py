"""The formats in which results are saved: ``Memory.cache(format="parquet")``.

::

    pickle           output.pkl                        as shoal.dump writes it; for any object
    parquet, arrow   output-0f2b8227db95aa11.parquet   tables, which other programs read; the name holds the checksum
    registered ones  output-....extension

An entry has one of these files. Its name tells how to read it. So results of one function may be in several formats.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

from shoal._hints import hint
from shoal.errors import MissingExtra

#: The format of results for which no other is chosen. Stores have it built in.
PICKLE = "pickle"


class Format(NamedTuple):
    """How results are written to files and read from them.

    Attributes
    ----------
    extension : str
        The end of the file's name, without the dot: ``"parquet"``. It consists of letters and digits.
    write : callable
        Writes a result to a binary file, ``write(result, file)``. It raises TypeError if the format cannot hold the
        result: then the result is not saved, and a warning shows the message.
    read : callable
        Reads a result from a binary file, ``read(file)``, which is a ``BytesIO``. It should return an object of the
        type that was written.
    """

    extension: str
    write: Callable[[Any, BinaryIO], Any]
    read: Callable[[BinaryIO], Any]


def _has_pyarrow() -> bool:
    try:
        return importlib.util.find_spec("pyarrow") is not None
    except ValueError:  # a program has put something else into its place
        return False


class _OfTables(Format):
    """A format of tables, whose functions need pyarrow."""

    __slots__ = ()

    @classmethod
    def named(cls, name: str) -> _OfTables:
        def late(function: str) -> Callable[..., Any]:
            def call(*args: Any) -> Any:
                if not _has_pyarrow():
                    raise MissingExtra(f"format={name!r}", "pyarrow", "arrow")
                return getattr(importlib.import_module("shoal.memory._tables"), function)(*args)

            return call

        return cls(name, late(f"write_{name}"), late(f"read_{name}"))


_formats: dict[str, Format] = {name: _OfTables.named(name) for name in ("parquet", "arrow")}


def register_format(format_name: str, format: Format, force: bool = False) -> None:
    """Add a format in which results can be saved: ``Memory.cache(format=format_name)``.

    Parameters
    ----------
    format_name : str
        The name.
    format : Format
        Its functions, and the extension of its files. Processes that load the results must register it as well.
    force : bool, default False
        Replace the format that has this name, if there is one.

    Raises
    ------
    ValueError
        If an argument is of the wrong type, or the name or the extension is taken and `force` is false.

    Notes
    -----
    Thread-safe. It is in effect for the whole process. The functions of the format may run in several threads at once.

    Examples
    --------
    >>> import numpy
    >>> from shoal import register_format
    >>> from shoal.memory.formats import Format
    >>> register_format("npy", Format("npy", lambda array, file: numpy.save(file, array), numpy.load))
    """
    given: Any = format
    if not isinstance(format_name, str):
        raise ValueError(f"the name of a format must be a string, not {format_name!r}")
    if not isinstance(given, Format) or not all(map(callable, given[1:])):
        raise ValueError(f"a format must be a Format of an extension and two functions, not {given!r}")
    extension: Any = format.extension
    if not (isinstance(extension, str) and extension.isascii() and extension.isalnum()):
        raise ValueError(f"the extension of a format must consist of letters and digits, unlike {extension!r}")
    if format_name == PICKLE or (format_name in _formats and not force):
        remedy = "choose another name" if format_name == PICKLE else "force=True replaces it"
        raise ValueError(f"a format named {format_name!r} is registered already; {remedy}")
    other = format_with(extension)
    if other not in (None, format_name):
        raise ValueError(f"the format {other!r} has the extension {extension!r} already: choose another one")
    _formats[format_name] = format


def format_named(name: str) -> Format:
    """Return the format with a name, other than "pickle". Raise ValueError if there is none."""
    try:
        return _formats[name]
    except (KeyError, TypeError):  # TypeError: it cannot be hashed
        known = [PICKLE, *_formats]
        message = f"format={name!r} is not a format of results: the known ones are {known}{hint(name, known)}"
        raise ValueError(message) from None


def format_with(extension: str) -> str | None:
    """Return the name of the format whose files have an extension, or None."""
    return next((name for name, known in list(_formats.items()) if known.extension == extension), None)


def checked_format(name: Any, mmap_mode: str | None = None, supported: bool = True) -> str:
    """Return the name of a format of results, if the store supports it.

    Raises
    ------
    ValueError
        If the name is unknown, or the format does not go together with `mmap_mode` or the store.
    MissingExtra
        If the format needs a package that is not installed.
    """
    if isinstance(name, str) and name == PICKLE:
        return name
    found = format_named(name)
    if mmap_mode is not None:
        raise ValueError(
            f"results in format={name!r} cannot be mapped: pass mmap_mode=None, or leave format out and keep "
            f"mmap_mode={mmap_mode!r}"
        )
    if not supported:
        raise ValueError(f"the store of this Memory keeps pickles only: leave format={name!r} out")
    if isinstance(found, _OfTables) and not _has_pyarrow():
        raise MissingExtra(f"format={name!r}", "pyarrow", "arrow")
    return str(name)
