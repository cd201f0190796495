"""Tracebacks and warnings that show the user's own code, and not the frames of shoal that carry it.

::

    in a worker        text_of(error)       the traceback as text, from the first frame of the user's code
    in the caller      with_source(text)    adds source lines that only the calling process has, as in notebooks
                       shorten(error)       removes the frames that brought the exception from the worker to the caller
    for every warning  warn(message, ...)   points at the line of the user's code that called into shoal
"""

from __future__ import annotations

import functools
import os
import sys
import warnings

from shoal import errors
from shoal._typing import TYPE_CHECKING

if TYPE_CHECKING:
    import re
    from types import TracebackType

_STANDARD_LIBRARY = os.path.dirname(os.__file__) + os.sep

#: Files whose frames are not the user's code: those of shoal, and contextlib, which calls context managers of shoal.
_NOT_THE_USERS = (os.path.dirname(os.path.abspath(__file__)) + os.sep, f"{_STANDARD_LIBRARY}contextlib.py")
#: Modules that carry calls and exceptions between the user's code in this process and the user's code in a worker.
_MACHINERY = (
    r"(shoal\.(parallel|backends|observe\._(messages|receiving)|_pickling|_tracebacks|_context)"
    r"|concurrent\.futures|cloudpickle|copyreg|pickle|_?loky)(\.|$)"
)
_FRAME = r'(?P<indent>[ |]*)File "(?P<file>.+)", line (?P<line>\d+), in '
#: Longer texts are cut in the middle. In characters.
_LONGEST_TEXT = 200_000


@functools.cache
def _pattern(text: str) -> re.Pattern[str]:
    import re  # not at the top: it takes two milliseconds, and few programs read a traceback

    return re.compile(text)


def from_user(trace: TracebackType | None) -> TracebackType | None:
    """Return the part of a traceback that begins with the first frame of the user's code; None if there is none."""
    while trace is not None and _pattern(_MACHINERY).match(str(trace.tb_frame.f_globals.get("__name__"))):
        trace = trace.tb_next
    return trace


#: The warning filters of this process when it imported shoal: in a worker, before code of the user ran.
FILTERS_AT_START = tuple(warnings.filters)


def warn(message: str, category: type[Warning] = UserWarning, source: object = None) -> None:
    """Issue a warning that points at the line of the user's code that called into shoal, however deep shoal is.

    The message says what happened, why, and what to do. `source` is the unclosed object of a ``ResourceWarning``.
    """
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_NOT_THE_USERS):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level, source=source)


def shorten(error: BaseException) -> None:
    """Remove the frames of shoal from an exception that a call, other code of the user, or shoal on purpose raised.

    Any other exception keeps its frames, because they may show a bug of shoal.
    """
    trace = from_user(error.__traceback__)
    if (
        isinstance(vars(error).get("call"), errors.FailedCall)
        or type(error).__module__ == errors.__name__
        or isinstance(error.__cause__, errors.RemoteTraceback)
        or (trace is not None and not _is_library(trace.tb_frame.f_code.co_filename))
    ):
        error.with_traceback(trace)
    if isinstance(error, errors.WorkerStartError):  # its message contains that of its cause
        error.__context__, error.__cause__ = error.__cause__ or error.__context__, None


def cause_of(error: Exception) -> Exception | None:
    """Return `error`, to be shown as the cause of another, if the user's code has raised it; else None."""
    trace = from_user(error.__traceback__)
    return None if trace is None else error.with_traceback(trace)


def _is_library(file: str) -> bool:
    """Return whether a file belongs to the standard library or to an installed package."""
    return file.startswith((_STANDARD_LIBRARY, "<frozen ")) or "-packages" in file


def text_of(error: BaseException) -> str:
    """Return the traceback of an exception as text, from the first frame of the user's code.

    If it cannot be formatted, return only the type and the message. Long texts are cut in the middle.
    """
    import traceback

    try:
        text = "".join(traceback.format_exception(type(error), error, from_user(error.__traceback__)))
    except Exception:  # the formatter reads attributes that may run the user's code
        text = f"{in_a_line(error)}\n"
    if len(text) > _LONGEST_TEXT:
        half = _LONGEST_TEXT // 2
        text = f"{text[:half]}\n... {len(text) - 2 * half} characters are left out ...\n{text[-half:]}"
    return text


def in_a_line(error: BaseException) -> str:
    """Return the type and the message of an exception: ``"ValueError: no such model"``."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:
        return f"{type(error).__name__}, whose message cannot be shown"


def with_source(text: str) -> str:
    """Return a worker's traceback with the source lines that the worker could not read and this process can.

    Cells of a notebook and input at a prompt are in no file, so only the process that runs them has their source.
    """
    import linecache  # importing it takes a millisecond, and few runs need it

    lines = text.splitlines(keepends=True)
    whole = []
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        whole.append(line)
        frame = _pattern(_FRAME).match(line)
        if frame is not None and not following.startswith(frame["indent"] + "  "):
            source = linecache.getline(frame["file"], int(frame["line"])).strip()
            if source:
                whole.append(f"{frame['indent']}  {source}\n")
    return "".join(whole)
