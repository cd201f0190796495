"""The steps that all ways of loading share: rebuild the object, tell damage from other errors, compare checksums."""

from __future__ import annotations

import io
import mmap
import os
from collections.abc import Callable
from typing import Any, NamedTuple

from shoal._arrays import ArraySpec
from shoal._pickling import collecting_later
from shoal._tracebacks import warn
from shoal.errors import CorruptFile, DamagedFile, ForeignFile, UntrustedFile, VersionWarning
from shoal.persistence._format import Footer, differing
from shoal.persistence.reading._footers import forget_arrays
from shoal.persistence.reading._input import Input
from shoal.persistence.reading._legacy import of_python_2
from shoal.persistence.reading._reader import Reader

#: Files of early versions of torch.save() begin with a pickle of this number.
TORCH = 0x1950A86A20F9469CFC6C
_ROOM = "shoal.persistence."
#: The unpickler is Python code only on PyPy.
_UNPICKLERS = ("pickle", "shoal._platform.pickles_in_python")


class Options(NamedTuple):
    """The arguments of :func:`load`, checked.

    Attributes
    ----------
    name
        The path of the file, or what the file object calls itself.
    several
        Whether other objects may follow in the file: it was given as a file object, not as a path.
    mmap_mode
        How arrays are mapped; None to read them.
    native
        Whether arrays of another byte order are converted to this machine's.
    verify
        Whether the checksums of arrays are compared; None to compare them unless the arrays are mapped.
    """

    name: str
    several: bool
    mmap_mode: str | None
    native: bool
    verify: bool | None


def rebuild(reader: Reader, source: Input) -> Any:
    """Return the object that a reader rebuilds. The garbage collector waits meanwhile.

    Parameters
    ----------
    reader, source
        The reader, and the input that it reads from. If the pickle was not compared with its checksum, damaged opcodes
        can make any C function raise any exception. An exception that was not raised by Python code outside of this
        package is then taken for a consequence of damage.

    Raises
    ------
    CorruptFile
        If the file is damaged, or is a file of torch.save().
    Exception
        If a class of the object raises it.
    """
    try:
        with collecting_later():
            value = reader.load()
    except (CorruptFile, UntrustedFile):
        raise
    except Exception as error:
        if source.failure is not None and not isinstance(error, (ImportError, AttributeError, RecursionError)):
            raise source.failure from None
        source.check()
        if isinstance(error, (ImportError, AttributeError, RecursionError)):
            raise
        if source.checked or _raised_elsewhere(error):
            raise
        if isinstance(error, UnicodeDecodeError) and error.encoding == "ascii" and not source.promised:
            raise of_python_2(source.name) from error
        found = f"opcodes that raise {type(error).__name__} ({error})"
        raise DamagedFile(source.name, source.position, "opcodes of pickle", found) from error
    if type(value) is int and value == TORCH:
        raise ForeignFile(source.name, "a file of torch.save(), of an early version: torch.load() reads it")
    return value


def _raised_elsewhere(error: BaseException) -> bool:
    """Tell whether Python code outside of this package and of pickle has raised an exception."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return False
    module = str(trace.tb_frame.f_globals.get("__name__"))
    return module not in _UNPICKLERS and not module.startswith(_ROOM)


def compare_after(source: Input, footer: Footer | None, sums: dict[int, int] | None, options: Options) -> None:
    """Compare the checksums of what was read with the footer, and warn of other versions of packages.

    Parameters
    ----------
    source
        The input, read to the end of the object.
    footer
        The footer, if it was read before the object.
    sums
        The checksums of the arrays, by position; None if they are not compared.
    options
        The arguments of :func:`load`.

    Raises
    ------
    DamagedFile
        If a checksum differs, or the footer is missing.
    ValueError
        If checksums were asked for, and the file has none.
    """
    footer = footer or source.footer
    if footer is None:
        if source.promised and options.verify is not False:
            raise DamagedFile(options.name, source.position, "a footer", "the end of the object")
        if options.verify:
            raise ValueError(
                f"{options.name} has no checksums that verify=True could compare: shoal did not write it. "
                "Load it without verify=True"
            )
        return
    footer.compare(options.name, source.before_footer, sums)
    unlike, _ = differing(footer.versions)
    if unlike:
        warn(
            f"{options.name or 'The stream'} was written with {', '.join(unlike)}. The object may not work, or give "
            "other results. Use the same versions, or write the file again",
            VersionWarning,
        )


def warn_of_age(name: str) -> None:
    """Warn that joblib before 0.10 has written a file."""
    warn(
        f"The file '{name}' has been generated with a joblib version less than 0.10. Please regenerate this pickle "
        "file.",
        DeprecationWarning,
    )


def mappable(file: Any, options: Options, compressed: bool = False) -> str | None:
    """Return the ``mmap_mode`` of `options`; or None, with a warning, if arrays of the file cannot be mapped."""
    name, mmap_mode = options.name, options.mmap_mode
    if mmap_mode is None:
        return None
    if compressed:
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
        return mmap_mode
    warn(message, UserWarning)
    return None


def mapping_of(file: Any, path: str, mode: str, footer: Footer | None) -> Callable[[ArraySpec, int], Any]:
    """Return a function that maps an array of a file, given its spec and its position in bytes.

    All arrays share one mapping of the file, and keep it alive. If they can be changed in the file, their checksums are
    removed from its footer.
    """
    import numpy as np

    mode = "r+" if mode == "w+" else mode
    access = {"r": mmap.ACCESS_READ, "r+": mmap.ACCESS_WRITE, "c": mmap.ACCESS_COPY}[mode]
    memory: list[mmap.mmap] = []

    def mapped(spec: ArraySpec, position: int) -> Any:
        if not memory:
            # By its descriptor, because another file may be at the path by now. On Windows, mmap goes to the beginning.
            fd = file.fileno()
            if mode == "r+" and footer is not None and file.writable():
                forget_arrays(file, footer)
            here = os.lseek(fd, 0, os.SEEK_CUR)
            memory.append(mmap.mmap(fd, 0, access=access))
            os.lseek(fd, here, os.SEEK_SET)
        array = spec.over(memory[0], position, np.memmap)
        array._mmap, array.offset, array.mode, array.filename = memory[0], position, mode, os.path.abspath(path)
        if position % spec.dtype.alignment:
            warn(
                f"The memmapped array in {path} is not aligned (it begins at byte {position}). Libraries such as BLAS "
                "may crash with a segmentation fault when they use it. Load the file and write it again",
                UserWarning,
            )
        return array

    return mapped
