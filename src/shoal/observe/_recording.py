"""Collects what calls say in a worker: log records, warnings and output.

::

    Recorder  logging.lastResort:    records that no handler here handles ──┐
              warnings.showwarning:  warnings that the filters show ────────┼──> Recorder.end() ──> the caller
              sys.stdout, stderr:    where the caller has replaced its own ─┘

What handlers and filters that code in this process has set handle or hide is not forwarded. The levels and filters are
those of the caller (_adopting).
"""

from __future__ import annotations

import contextlib
import io
import logging
import pickle
import queue
import sys
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from shoal._forks import CALLERS, after_fork_in_child, before_fork
from shoal.observe._saying import Conditions, Said, sealed

#: The context of calls of which nothing is collected.
NOT_RECORDING: Any = contextlib.nullcontext()

#: What a call has said is sent after this time, if the call still runs. In seconds.
FLUSH_SECONDS = 1.0


class Recorder:
    """Collects what calls say in a worker, while it is entered as a context.

    Parameters
    ----------
    conditions
        Those of the caller. They say what is collected.
    worker
        The index of the worker; log records get it as the attribute ``shoal_worker``.
    send
        Sends pickled bytes to the caller. A second after something was said, it is sent, if the calls still run. None
        if all of it goes with the results.
    in_thread
        Whether only this thread works for the caller; else the whole process does.

    Attributes
    ----------
    conditions
        As above.
    call
        Returns the index of the call that runs.
    entered
        Whether the context is entered.

    Notes
    -----
    Thread-safe, except for the context.
    """

    def __init__(
        self,
        conditions: Conditions,
        worker: int | None,
        send: Callable[[bytes], object] | None = None,
        in_thread: bool = False,
    ) -> None:
        self.conditions = conditions
        self.call: Callable[[], int] = int
        self._said: list[Said] = []
        self.entered = False
        self._worker = worker
        self._send = send
        self._in_thread = in_thread
        self._lock = threading.RLock()  # reentrant, because a finalizer may log something at any time
        self._before: list[tuple[str, Any]] = []  # the streams that were replaced
        listen()

    def __enter__(self) -> None:
        global _of_process
        self.entered = True
        if self._in_thread:
            _of_thread.recorder = self
        else:
            _of_process = self
        for name in self.conditions.streams:
            if name not in _streams:
                _streams[name] = _Collecting(name)
            self._before.append((name, getattr(sys, name)))
            setattr(sys, name, _streams[name])

    def __exit__(self, *_: object) -> None:
        self.entered = False
        while self._before:
            name, stream = self._before.pop()
            if getattr(sys, name) is _streams[name]:
                setattr(sys, name, stream)

    def log(self, record: logging.LogRecord) -> None:
        """Add a log record. Its exception becomes text."""
        attributes = vars(record).copy()
        call = self.call()
        if record.exc_info:
            attributes["exc_text"] = record.exc_text or logging.Formatter().formatException(record.exc_info)
            attributes["exc_info"] = None
        args = record.args.values() if isinstance(record.args, Mapping) else record.args or ()
        if not all(type(value) in (str, int, float) for value in args):
            attributes.update(msg=record.getMessage(), args=None)
        attributes.update(shoal_call=call, shoal_worker=self._worker)
        args = attributes.pop("args")
        self._add(Said("logging", call, {name: sealed(value) for name, value in attributes.items()} | {"args": args}))

    def warn(self, message: Warning | str, category: type[Warning], filename: str, line: int) -> None:
        """Add a warning."""
        frame = sys._getframe(1)
        while frame.f_back is not None and frame.f_code.co_filename != filename:
            frame = frame.f_back
        module = frame.f_globals.get("__name__") if frame.f_code.co_filename == filename else None
        what = sealed(message), sealed(category), filename, line, module
        self._add(Said("warnings", self.call(), what))

    def write(self, stream: str, text: str) -> None:
        """Add text that was written to a standard stream."""
        call = self.call()
        with self._lock:
            last = self._said[-1] if self._said else None
            if last is not None and last.call == call and last.kind == "output" and last.what[0] == stream:
                last.what[1].append(text)
                return
            self._add(Said("output", call, (stream, [text])))

    def tell(self, kind: str, what: Any) -> None:
        """Add something else that the call tells the caller."""
        self._add(Said(kind, self.call(), what))

    def end(self) -> bytes | None:
        """Return what was said and not sent, pickled, or None if that is nothing; after the context has ended."""
        if not self._said and _flusher.thread is None:
            return None
        with self._lock:
            said, self._said = self._said, []
        return pickle.dumps(said, pickle.HIGHEST_PROTOCOL) if said else None

    def flush(self) -> None:
        """Send what was said, unless the calls have ended."""
        with self._lock:
            if self._send is not None and self._said and self.entered:
                said, self._said = self._said, []
                self._send(pickle.dumps(said, pickle.HIGHEST_PROTOCOL))

    def _add(self, said: Said) -> None:
        with self._lock:
            self._said.append(said)
            first = len(self._said) == 1
        if first and self._send is not None and self.entered:
            _flusher.watch(self)


class _Flusher:
    """A thread that flushes recorders. It begins when a call says something, and ends before the process is forked.

    Python warns of a fork in a process with several threads.
    """

    def __init__(self) -> None:
        self.thread: threading.Thread | None = None
        self._watched: queue.SimpleQueue[Recorder | None] = queue.SimpleQueue()

    def watch(self, recorder: Recorder) -> None:
        """Flush a recorder after a second."""
        if self.thread is None:
            thread = threading.Thread(target=self._run, name="shoal-said", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # no more threads: all goes with the results
                return
            self.thread = thread
        self._watched.put(recorder)

    def _run(self) -> None:
        due: dict[Recorder, float] = {}
        while True:
            wait = max(min(due.values()) - time.monotonic(), 0) if due else None
            try:
                recorder = self._watched.get(timeout=wait)
            except queue.Empty:
                recorder = min(due, key=lambda watched: due[watched])
                del due[recorder]
                with contextlib.suppress(OSError):  # the caller has ended
                    recorder.flush()
            else:
                if recorder is None:
                    return
                due[recorder] = time.monotonic() + FLUSH_SECONDS  # what it was watched for before has been sent

    def stop(self) -> None:
        """End the thread."""
        thread, self.thread = self.thread, None
        if thread is not None and thread is not threading.current_thread():
            self._watched.put(None)
            thread.join()


_flusher = _Flusher()
before_fork(_flusher.stop)


_of_process: Recorder | None = None
_of_thread = threading.local()


def _forget() -> None:
    """Forget the recorder, in a child that a call forks: it has no way to the caller, and says things itself."""
    global _of_process, _of_thread
    _of_process, _of_thread = None, threading.local()


after_fork_in_child(_forget, CALLERS)


def present_recorder() -> Recorder | None:
    """Return what records the call in which this is called; None if nothing does."""
    recorder: Recorder | None = getattr(_of_thread, "recorder", None) or _of_process
    return recorder if recorder is not None and recorder.entered else None


class _Unhandled(logging.Handler):
    """Takes the place of ``logging.lastResort``: it receives the records that no handler has handled."""

    def __init__(self, usual: logging.Handler | None) -> None:
        super().__init__()
        self._usual = usual

    def handle(self, record: logging.LogRecord) -> bool:
        recorder = present_recorder()
        if recorder is not None and recorder.conditions.levels is not None:
            try:
                recorder.log(record)
            except Exception:  # its arguments do not fit its message
                self.handleError(record)
        elif self._usual is not None and record.levelno >= self._usual.level:
            self._usual.handle(record)
        return True


_usual_show = warnings.showwarning
_usual_set_up = logging.basicConfig


def listen() -> None:
    """Let log records that no handler handles, and warnings, reach the recorder."""
    if not isinstance(logging.lastResort, _Unhandled):
        logging.lastResort = _Unhandled(logging.lastResort)
    if warnings.showwarning is _usual_show:
        warnings.showwarning = _show
    if logging.basicConfig is _usual_set_up:
        logging.basicConfig = _set_up


def _set_up(**options: Any) -> None:
    """Do as ``logging.basicConfig``, unless ``logging.info`` or the like calls it where records are collected.

    They call it as long as the root logger has no handler. The handler that it adds would keep all records here.
    """
    recorder = present_recorder()
    if recorder is None or recorder.conditions.levels is None or sys._getframe(1).f_globals is not vars(logging):
        _usual_set_up(**options)


def _show(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None
) -> None:
    recorder = present_recorder()
    if recorder is None or recorder.conditions.filters is None or file is not None:
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
        try:
            text = bytes(data).decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:  # written to `buffer`
            text = bytes(data).decode("utf-8", "backslashreplace")
        recorder = present_recorder()
        if recorder is not None:
            recorder.write(self._name, text)
        elif self._usual is not None:
            self._usual.write(text)
        return len(data)

    def flush(self) -> None:
        if self._usual is not None and present_recorder() is None:
            self._usual.flush()

    def fileno(self) -> int:
        return int(self._usual.fileno())


class _Collecting(io.TextIOWrapper):
    """A standard stream whose text goes to the recorder, and without one to the stream that was there before."""

    def __init__(self, name: str) -> None:
        raw: Any = _Raw(name, getattr(sys, name))
        # The caller's stream turns line ends into those of the system; here they stay what the call has written.
        # Whether it takes surrogates, as in names of files, is known there.
        super().__init__(raw, encoding="utf-8", errors="surrogatepass", newline="\n", write_through=True)


_streams: dict[str, _Collecting] = {}
