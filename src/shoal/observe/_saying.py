"""What calls say in a worker: log records, warnings and output, as it travels to the caller.

::

    caller: conditions() ── with the run ──> worker: adopt (_adopting), Recorder (_recording)
    caller: deliver()   <── packed(said) ─── with the results of a batch, or after a second

In the caller, handlers, filters and streams receive what was said as if the call had run there.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import sys
import warnings
from typing import Any, NamedTuple

from shoal._pickling import dumps, loads
from shoal.observe._rich_bars import Bar, display

#: A warning filter: action, pattern of the message, module and name of the category, pattern of the module, line.
Filter = tuple[str, "str | None", tuple[str, str], "str | None", int]


class Conditions(NamedTuple):
    """The state of the caller that decides what is said and seen.

    Attributes
    ----------
    levels
        The names and levels of the loggers that have a level, the root logger as ""; None: records are not forwarded.
    disabled
        The level of ``logging.disable()``.
    filters
        The warning filters; None: warnings are not forwarded.
    options
        The ``-W`` options. A worker with other options keeps its own filters.
    streams
        Those of "stdout" and "stderr" that the program has replaced, if output is forwarded.
    """

    levels: tuple[tuple[str, int], ...] | None
    disabled: int
    filters: tuple[Filter, ...] | None
    options: tuple[str, ...]
    streams: tuple[str, ...]


class Said(NamedTuple):
    """Something that a call has said.

    Attributes
    ----------
    kind
        "logging", "warnings", "output"; or "progress": that of a run inside the call.
    call
        The index of the call.
    what
        For "logging", the attributes of the record. For "warnings", the message, category, file, line and module. For
        "output", the name of the stream and the pieces of text. Objects are a :class:`Blob` each. For "progress", a
        :class:`Bar` as a tuple.
    """

    kind: str
    call: int
    what: Any


#: What :func:`conditions` has found last, and the pickled conditions for it. Threads replace both at once.
_last: tuple[tuple[Any, ...], bytes] = (), b""
#: The process id and the handlers of this process. A forked worker inherits them; its records go to the caller instead.
of_process: tuple[int, list[tuple[logging.Logger, logging.Handler]]] = 0, []


def conditions(kinds: tuple[str, ...]) -> bytes | None:
    """Return the pickled :class:`Conditions` of a run that begins now.

    Parameters
    ----------
    kinds
        What the run forwards: some of "logging", "warnings" and "output". Without any, the result is None.
    """
    global _last
    if not kinds:
        return None
    root = logging.root
    levels = [("", root.level)]
    for name, logger in list(root.manager.loggerDict.items()):
        if getattr(logger, "level", 0):  # a placeholder of a parent has none
            levels.append((name, logger.level))  # type: ignore[union-attr]
    streams = sys.stdout is not sys.__stdout__, sys.stderr is not sys.__stderr__
    found = kinds, levels, root.manager.disable, warnings.filters, sys.warnoptions, streams
    known, pickled = _last
    if found != known:
        filters, options = warnings.filters[:], sys.warnoptions[:]
        present = Conditions(
            tuple(levels) if "logging" in kinds else None,
            root.manager.disable,
            tuple(map(described, filters)) if "warnings" in kinds else None,
            tuple(options),
            tuple(name for name, replaced in zip(("stdout", "stderr"), streams, strict=True) if replaced)
            if "output" in kinds
            else (),
        )
        pickled = pickle.dumps(present, pickle.HIGHEST_PROTOCOL)
        _last = (*found[:3], filters, options, streams), pickled
    return pickled


def note_handlers() -> None:
    """Note the log handlers of this process, before workers are forked, which must not handle records themselves."""
    global of_process
    root = logging.root
    loggers = [
        root,
        *(logger for logger in list(root.manager.loggerDict.values()) if isinstance(logger, logging.Logger)),
    ]
    of_process = os.getpid(), [(logger, handler) for logger in loggers for handler in logger.handlers]


def described(entry: Any) -> Filter:
    """Describe an entry of ``warnings.filters``."""
    action, message, category, module, line = entry
    named = category.__module__, category.__qualname__
    return action, getattr(message, "pattern", message), named, getattr(module, "pattern", module), line


_PLAIN = (str, int, float, bool, type(None))


class Blob(NamedTuple):
    """A pickled object, and the text that replaces it if it could not be pickled, or cannot be unpickled."""

    data: bytes | None
    text: str


def sealed(value: Any) -> Any:
    """Return an object that any process can unpickle: `value` itself if it is a number or text, else a Blob."""
    if type(value) in _PLAIN:
        return value
    text = str(value) if isinstance(value, Warning) else f"<{type(value).__qualname__}>"
    try:
        return Blob(dumps(value, out_of_band=2**63)[0], text)
    except Exception:
        return Blob(None, text)


def _opened(value: Any) -> Any:
    if type(value) is not Blob:
        return value
    if value.data is not None:
        with contextlib.suppress(Exception):  # its class is unknown here, or cannot be rebuilt: the text says enough
            return loads(value.data)
    return value.text


def _warning(message: Any, category: Any) -> tuple[Any, Any]:
    """Return the message and the category; if the message is only text that no category was made for, a UserWarning."""
    if isinstance(message, Warning):
        return message, type(message)
    try:
        return category(message), category
    except Exception:
        return f"{getattr(category, '__name__', category)}: {message}", UserWarning


_registries: dict[str, dict[Any, Any]] = {}


def deliver(pickled: bytes) -> None:
    """Give log records to the loggers, warnings to the filters, and output to the streams of this process.

    Parameters
    ----------
    pickled
        A pickled list of :class:`Said`.

    Raises
    ------
    Exception
        A warning that a filter turns into an exception, or an exception of a stream.
    """
    said: list[Said] = pickle.loads(pickled)
    for kind, call, what in said:
        if kind == "logging":
            record = logging.makeLogRecord({})
            marks = vars(record).keys() & {"shoal_call", "shoal_worker"}  # those of a call around the run, which count
            vars(record).update({name: _opened(value) for name, value in what.items() if name not in marks})
            logger = logging.getLogger(record.name)
            if logger.isEnabledFor(record.levelno):
                logger.handle(record)
        elif kind == "warnings":
            message, category, filename, line, module = map(_opened, what)
            known = vars(sys.modules[module]) if module in sys.modules else _registries.setdefault(filename, {})
            registry = known.setdefault("__warningregistry__", {})
            warnings.warn_explicit(*_warning(message, category), filename, line, module, registry)
        elif kind == "progress":
            display.show_of_worker(Bar(*what), call)
        else:
            name, pieces = what
            stream = getattr(sys, name)
            if stream is not None:
                _write(stream, "".join(pieces))


def _write(stream: Any, text: str) -> None:
    """Write text to a stream of the user, which may lack characters, and all methods but ``write``."""
    try:
        stream.write(text)
    except UnicodeEncodeError:
        encoding = getattr(stream, "encoding", None) or "ascii"
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
    if hasattr(stream, "flush"):
        stream.flush()
