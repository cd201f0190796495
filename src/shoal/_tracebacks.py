"""What a user sees of a traceback: the frames and source lines of their own code, not those that carry it around.

::

    in a worker   text_of(error)       the traceback as text, from the first frame of the user's on
    on the way    with_source(text)    the lines of notebooks and the like, which only the calling process has
    at the end    shorten(error)       without the frames that took the exception from the worker to the caller
    a warning     warn(message, ...)   is shown at the line of the user's that has called into shoal
"""

from __future__ import annotations

import os
import re
import sys
import warnings
from types import TracebackType

from shoal import errors

_HERE = os.path.dirname(os.path.abspath(__file__)) + os.sep
#: The modules that carry calls, and exceptions, between the user's code here and the user's code in a worker.
_MACHINERY = re.compile(
    r"(shoal\.(parallel|backends|_pickling|_tracebacks)|concurrent\.futures|cloudpickle|copyreg|pickle|_?loky)(\.|$)"
)
_FRAME = re.compile(r'(?P<indent>[ |]*)File "(?P<file>.+)", line (?P<line>\d+), in ')
_STANDARD_LIBRARY = os.path.dirname(os.__file__) + os.sep
#: A text above so many characters is cut in its middle.
_MOST_TEXT = 200_000


def from_user(trace: TracebackType | None) -> TracebackType | None:
    """Return a traceback from the first frame of the user's on; None if it has no such frame."""
    while trace is not None and _MACHINERY.match(str(trace.tb_frame.f_globals.get("__name__"))):
        trace = trace.tb_next
    return trace


def warn(message: str, category: type[Warning]) -> None:
    """Warn of something at the line that has called into shoal."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_HERE):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


def shorten(error: BaseException) -> None:
    """Take the frames of the machinery from an exception of a call, of other code of the user's, or of shoal's own.

    All others keep them: they may tell of a bug of ours.
    """
    trace = from_user(error.__traceback__)
    if (
        isinstance(vars(error).get("call"), errors.FailedCall)
        or type(error).__module__ == errors.__name__
        or isinstance(error.__cause__, errors.RemoteTraceback)
        or (trace is not None and not _is_library(trace.tb_frame.f_code.co_filename))
    ):
        error.with_traceback(trace)
    if isinstance(error, errors.WorkerStartError):  # its message says all of its cause
        error.__context__, error.__cause__ = error.__cause__ or error.__context__, None


def _is_library(file: str) -> bool:
    """Tell whether a file is one of the standard library, or of a package that is installed."""
    return file.startswith((_STANDARD_LIBRARY, "<frozen ")) or "-packages" in file


def text_of(error: BaseException) -> str:
    """Return the traceback of an exception as text, from the first frame of the user's on."""
    import traceback

    try:
        text = "".join(traceback.format_exception(type(error), error, from_user(error.__traceback__)))
    except Exception:  # attributes that the formatter reads may be the user's code
        text = f"{in_a_line(error)}\n"
    if len(text) > _MOST_TEXT:
        half = _MOST_TEXT // 2
        text = f"{text[:half]}\n... {len(text) - 2 * half} characters are left out ...\n{text[-half:]}"
    return text


def in_a_line(error: BaseException) -> str:
    """Return the type and the message of an exception: ``"ValueError: no such model"``."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:
        return f"{type(error).__name__}, whose message cannot be shown"


def with_source(text: str) -> str:
    """Add to the traceback of a worker the source lines that the worker could not read, where this process can.

    The cells of a notebook, and what is typed at a prompt, are in no file: only the process that runs them knows them.
    """
    import linecache  # which few runs need, and takes a millisecond

    lines = text.splitlines(keepends=True)
    whole = []
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        whole.append(line)
        frame = _FRAME.match(line)
        if frame is not None and not following.startswith(frame["indent"] + "  "):
            source = linecache.getline(frame["file"], int(frame["line"])).strip()
            if source:
                whole.append(f"{frame['indent']}  {source}\n")
    return "".join(whole)
