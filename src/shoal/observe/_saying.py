"""What calls say in a worker: log records, warnings and output, on their way to the caller.

::

    caller: conditions() ── with the run ──> worker: adopt()       its levels, filters and streams are the caller's
                                                     collecting()  ┌ logging: records that no handler there handles
                                                        Recorder <─┤ warnings: those that the filters show
    caller: deliver() <── with the results of a batch ──┘          └ print: where the caller has replaced a stream

In the caller, handlers, filters and streams receive what was said as if the call had run there.
"""

from __future__ import annotations

import io
import logging
import os
import pickle
import sys
import threading
import warnings
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from shoal._pickling import dumps, loads
from shoal._tracebacks import in_a_line
from shoal.errors import FallbackWarning

_ALL = 2**63  # no buffer is left out of the stream

#: What can be forwarded to the caller.
KINDS = ("logging", "warnings", "output")
#: A name of this process that no other process has, on any machine. A forked child has its parent's.
HOME = os.urandom(16).hex()

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
        One of :data:`KINDS`.
    call
        The index of the call.
    what
        For "logging", the attributes of the record. For "warnings", the message, category, file, line and module. For
        "output", the name of the stream and the pieces of text.
    """

    kind: str
    call: int
    what: Any


def kinds_of(forward: Any) -> tuple[str, ...]:
    """Return what the argument `forward` of ``Parallel`` names: all of :data:`KINDS` for True, none for False."""
    if isinstance(forward, bool):
        return KINDS if forward else ()
    return (forward,) if isinstance(forward, str) else tuple(forward)


#: What :func:`conditions` has found last, and the pickled conditions for it.
_found: tuple[Any, ...] = ()
_pickled = b""
#: The process id and the handlers of this process. A forked worker inherits them; its records go to the caller instead.
_handlers: tuple[int, list[tuple[logging.Logger, logging.Handler]]] = 0, []


def conditions(kinds: tuple[str, ...]) -> bytes | None:
    """Return the pickled :class:`Conditions` of a run that begins now.

    Parameters
    ----------
    kinds
        What the run forwards, of :data:`KINDS`. Without any, the result is None.
    """
    global _found, _handlers, _pickled
    if not kinds:
        return None
    root = logging.root
    levels = [("", root.level)]
    handlers: list[tuple[logging.Logger, logging.Handler]] = [(root, handler) for handler in root.handlers]
    for name, logger in list(root.manager.loggerDict.items()):
        if isinstance(logger, logging.Logger):
            if logger.level:
                levels.append((name, logger.level))
            handlers += [(logger, handler) for handler in logger.handlers]
    _handlers = os.getpid(), handlers
    streams = sys.stdout is not sys.__stdout__, sys.stderr is not sys.__stderr__
    found = kinds, levels, root.manager.disable, warnings.filters[:], sys.warnoptions[:], streams
    if found != _found:
        _found = found
        present = Conditions(
            tuple(levels) if "logging" in kinds else None,
            root.manager.disable,
            tuple(map(_described, warnings.filters)) if "warnings" in kinds else None,
            tuple(sys.warnoptions),
            tuple(name for name, replaced in zip(("stdout", "stderr"), streams, strict=True) if replaced)
            if "output" in kinds
            else (),
        )
        _pickled = pickle.dumps(present, pickle.HIGHEST_PROTOCOL)
    return _pickled


def _described(entry: Any) -> Filter:
    action, message, category, module, line = entry
    named = category.__module__, category.__qualname__
    return action, getattr(message, "pattern", message), named, getattr(module, "pattern", module), line


class Recorder:
    """Collects what calls say in a worker.

    Parameters
    ----------
    call
        Returns the index of the call that runs.
    worker
        The index of the worker; log records get it as the attribute ``shoal_worker``.

    Attributes
    ----------
    said
        What was said, in order.
    """

    def __init__(self, call: Callable[[], int], worker: int | None) -> None:
        self.said: list[Said] = []
        self._call = call
        self._worker = worker

    def log(self, record: logging.LogRecord) -> None:
        """Add a log record. What may be impossible to pickle becomes text: arguments and exceptions."""
        attributes = vars(record).copy()
        call = self._call()
        if record.args and not _is_plain(record.args):
            attributes.update(msg=record.getMessage(), args=None)
        if record.exc_info:
            attributes.update(exc_text=record.exc_text or logging.Formatter().formatException(record.exc_info))
            attributes.update(exc_info=None)
        attributes.update(shoal_call=call, shoal_worker=self._worker)
        self.said.append(Said("logging", call, attributes))

    def warn(self, message: Warning | str, category: type[Warning], filename: str, line: int) -> None:
        """Add a warning."""
        frame = sys._getframe(1)
        while frame.f_back is not None and frame.f_code.co_filename != filename:
            frame = frame.f_back
        module = frame.f_globals.get("__name__") if frame.f_code.co_filename == filename else None
        self.said.append(Said("warnings", self._call(), (message, category, filename, line, module)))

    def write(self, stream: str, text: str) -> None:
        """Add text that was written to a standard stream."""
        call = self._call()
        last = self.said[-1] if self.said else None
        if last is not None and last.call == call and last.kind == "output" and last.what[0] == stream:
            last.what[1].append(text)
        else:
            self.said.append(Said("output", call, (stream, [text])))


def _is_plain(args: Any) -> bool:
    values = args.values() if isinstance(args, dict) else args
    return all(type(value) in (str, int, float, bool, type(None)) for value in values)


_of_process: Recorder | None = None
_of_thread = threading.local()


def _recorder() -> Recorder | None:
    return getattr(_of_thread, "recorder", None) or _of_process


class _Unhandled(logging.Handler):
    """Takes the place of ``logging.lastResort``: it receives the records that no handler has handled."""

    def __init__(self, usual: logging.Handler | None) -> None:
        super().__init__()
        self._usual = usual

    def handle(self, record: logging.LogRecord) -> bool:
        recorder = _recorder()
        if recorder is not None:
            try:
                recorder.log(record)
            except Exception:  # its arguments do not fit its message
                self.handleError(record)
        elif self._usual is not None and record.levelno >= self._usual.level:
            self._usual.handle(record)
        return True


_usual_show = warnings.showwarning


def _show(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None
) -> None:
    recorder = _recorder()
    if recorder is None or file is not None:
        _usual_show(message, category, filename, lineno, file, line)
    else:
        recorder.warn(message, category, filename, lineno)


class _Raw(io.RawIOBase):
    """The bytes below :class:`_Collecting`."""

    def __init__(self, name: str, usual: Any) -> None:
        self._name, self._usual = name, usual

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        text = bytes(data).decode("utf-8", "backslashreplace")
        recorder = _recorder()
        if recorder is not None:
            recorder.write(self._name, text)
        elif self._usual is not None:
            self._usual.write(text)
        return len(data)

    def fileno(self) -> int:
        return int(self._usual.fileno())


class _Collecting(io.TextIOWrapper):
    """A standard stream whose text goes to the recorder, and without one to the stream that was there before."""

    def __init__(self, name: str) -> None:
        super().__init__(_Raw(name, getattr(sys, name)), encoding="utf-8", write_through=True)  # type: ignore[arg-type]


_streams: dict[str, _Collecting] = {}

#: The filters with which this process has started, and those that were adopted.
_filters_at_start = set(map(_described, warnings.filters))
_adopted_filters: set[Filter] = set()
_adopted_levels: set[str] = set()
_adopted: tuple[bytes, Conditions | None] = b"", None


def adopt(pickled: bytes) -> Conditions:
    """Let this process, a worker, have the caller's levels and filters, and return the conditions.

    Levels and filters that code in this process has set stay, and so do those of a worker with other ``-W`` options.
    """
    global _adopted, _handlers
    given = _adopted[1]
    if pickled == _adopted[0] and given is not None:
        return given
    given = pickle.loads(pickled)
    assert isinstance(given, Conditions)
    complete = True
    if given.levels is not None:
        parent, inherited = _handlers
        if parent != os.getpid():
            for logger, handler in inherited:
                logger.removeHandler(handler)
            _handlers = os.getpid(), []
        if not logging.root.handlers:
            _adopt_levels(given.levels, given.disabled)
    if given.filters is not None and given.options == tuple(sys.warnoptions):
        complete = _adopt_filters(given.filters)
    _adopted = pickled if complete else b"", given
    return given


def _adopt_levels(levels: Iterable[tuple[str, int]], disabled: int) -> None:
    names = {name for name, _ in levels}
    for name in _adopted_levels - names:
        logging.getLogger(name).setLevel(logging.NOTSET)
    for name, level in levels:
        logger = logging.getLogger(name)
        if not logger.handlers:
            logger.setLevel(level)
    logging.disable(disabled)
    _adopted_levels.clear()
    _adopted_levels.update(names)


def _adopt_filters(filters: tuple[Filter, ...]) -> bool:
    """Set the filters; return whether the modules of all categories are imported. Others can have no warning here."""
    ours = _filters_at_start | _adopted_filters | set(filters)
    own = [described for described in map(_described, warnings.filters) if described not in ours]
    complete = True
    warnings.resetwarnings()
    for action, message, (module, name), where, line in reversed([*own, *filters]):
        category: Any = sys.modules.get(module)
        for part in name.split("."):
            category = getattr(category, part, None)
        if category is None:
            complete = False
            continue
        warnings.filterwarnings(action, message or "", category, where or "", line)  # type: ignore[arg-type]
    _adopted_filters.clear()
    _adopted_filters.update(filters)
    return complete


class collecting:
    """A block in which a recorder receives what is said.

    Parameters
    ----------
    recorder
        The recorder.
    given
        The conditions of the caller.
    in_thread
        Whether only this thread works for the caller; else the whole process does.
    """

    def __init__(self, recorder: Recorder, given: Conditions, in_thread: bool = False) -> None:
        self._recorder, self._given, self._in_thread = recorder, given, in_thread

    def __enter__(self) -> None:
        given = self._given
        if given.levels is not None and not isinstance(logging.lastResort, _Unhandled):
            logging.lastResort = _Unhandled(logging.lastResort)
        if given.filters is not None and warnings.showwarning is _usual_show:
            warnings.showwarning = _show
        self._before = [(name, getattr(sys, name)) for name in given.streams]
        for name in given.streams:
            if name not in _streams:
                _streams[name] = _Collecting(name)
            setattr(sys, name, _streams[name])
        self._set(self._recorder)

    def __exit__(self, *_: object) -> None:
        self._set(None)
        for name, stream in self._before:
            if getattr(sys, name) is _streams[name]:
                setattr(sys, name, stream)

    def _set(self, recorder: Recorder | None) -> None:
        global _of_process
        if self._in_thread:
            _of_thread.recorder = recorder
        else:
            _of_process = recorder


_registries: dict[str, dict[Any, Any]] = {}


def deliver(said: Iterable[Said]) -> None:
    """Give log records to the loggers, warnings to the filters, and output to the streams of this process.

    Raises
    ------
    Exception
        A warning that a filter turns into an exception, or an exception of a stream.
    """
    for kind, _, what in said:
        if kind == "logging":
            record = logging.makeLogRecord(what)
            logger = logging.getLogger(record.name)
            if logger.isEnabledFor(record.levelno):
                logger.handle(record)
        elif kind == "warnings":
            message, category, filename, line, module = what
            known = vars(sys.modules[module]) if module in sys.modules else _registries.setdefault(filename, {})
            registry = known.setdefault("__warningregistry__", {})
            warnings.warn_explicit(message, category, filename, line, module, registry)
        else:
            name, pieces = what
            stream = getattr(sys, name)
            if stream is not None:
                stream.write("".join(pieces))
                stream.flush()


def packed(said: list[Said]) -> bytes:
    """Pickle what was said; text replaces what cannot be pickled."""
    try:
        return dumps(said, out_of_band=_ALL)[0]
    except Exception:
        return dumps([_picklable(each) for each in said], out_of_band=_ALL)[0]


def _picklable(said: Said) -> Said:
    try:
        dumps(said, out_of_band=_ALL)
    except Exception:
        if said.kind == "logging":
            return said._replace(
                what={name: value if _is_plain((value,)) else repr(value) for name, value in said.what.items()}
            )
        message, _, filename, line, module = said.what
        return said._replace(what=(str(message), UserWarning, filename, line, module))
    return said


def unpacked(data: bytes) -> list[Said]:
    """Unpickle what was said. If it cannot be unpickled here, a warning says so instead."""
    try:
        said: list[Said] = loads(data)
    except Exception as error:
        text = f"what calls have said in a worker cannot be unpickled here: {in_a_line(error)}"
        return [Said("warnings", 0, (text, FallbackWarning, __file__, 0, __name__))]
    return said
