"""Every exception and warning of shoal.

::

    PicklingError, TypeError ── CallPicklingError     an argument, function, result or exception cannot be pickled
              ├──────────────── DumpPicklingError     ... an object that is dumped cannot; it is an AttributeError too
              └──────────────── HashingError          something cannot be hashed
    UnpicklingError ─────────── CallUnpicklingError   a worker cannot rebuild a call, or the caller a result
    ValueError ──────────────── CorruptFile           a file is not what was written, or is none of shoal's or joblib's
      ├─ EOFError ───────────── TruncatedFile         ... it ends too soon
      │                └─────── EmptyFile             ... there is nothing in it, or nothing more
      ├─ UnpicklingError ────── DamagedFile           ... something else stands in it
      └─ UnpicklingError ────── ForeignFile           ... it is no file of shoal's or joblib's at all
    OSError ─────────────────── NoSpaceError          neither shared memory nor the temporary folder has room
        └────────────────────── WorkerStartError      the system refuses what a worker process or a thread takes
    RuntimeError ────────────── MissingMainGuard      a worker would start workers while it imports the program
    Exception ───────────────── RemoteTraceback       the cause of a task's exception: its traceback in the worker
    RuntimeError ────────────── CallStopped           a call has raised StopIteration, which a generator cannot raise
    TimeoutError ────────────── TaskTimeout           a call has run longer than ``Parallel(task_timeout=)``
    multiprocessing.TimeoutError, TimeoutError
      └──────────────────────── RunTimeout            ``Parallel(timeout=)`` has run out
    BrokenProcessPool, loky's TerminatedWorkerError
      └──────────────────────── WorkerDied            a worker process ended while it ran a call
    UnpicklingError ─────────── UntrustedFile         a file would import what ``load(trusted=)`` does not name
    MemoryError ─────────────── FileLimitError        a file would take more than ``max_bytes=`` when it is loaded
    ImportError ─────────────── MissingExtra          what is asked for needs a package that is not installed
    TypeError, ValueError ───── ArgumentError         a cached function does not take the arguments of a call
    UserWarning ─────────────── CacheWarning          a result cannot be kept, or one that was kept cannot be read
                ├────────────── CollisionWarning      two functions keep their results in one place
                ├────────────── UnusedResultsWarning  a generator of results was dropped before its end
                ├────────────── VersionWarning        a file was written with other versions of libraries
                └────────────── FallbackWarning       a run falls back to fewer workers or to another backend

An exception that a call has raised, or that tells of its end, carries ``call``, a :class:`FailedCall`; one that ends a
run that returns a list carries ``results``, a dictionary of those that were ready, by the index of their calls.

``RunTimeout`` and ``WorkerDied`` are built on first use: the modules of their parents take longer to import than
all of shoal's front end.
"""

from __future__ import annotations

import contextlib
import errno
import pickle
import sys
from typing import TYPE_CHECKING, Any

__all__ = [
    "ArgumentError",
    "CacheWarning",
    "CallPicklingError",
    "CallStopped",
    "CallUnpicklingError",
    "CollisionWarning",
    "CorruptFile",
    "DamagedFile",
    "DumpPicklingError",
    "EmptyFile",
    "FailedCall",
    "FallbackWarning",
    "FileLimitError",
    "ForeignFile",
    "HashingError",
    "MissingExtra",
    "MissingMainGuard",
    "NoSpaceError",
    "RemoteTraceback",
    "RunTimeout",
    "TaskTimeout",
    "TruncatedFile",
    "UntrustedFile",
    "UnusedResultsWarning",
    "VersionWarning",
    "WorkerDied",
    "WorkerStartError",
]


def printable(text: str) -> str:
    """Return a text with escapes in the place of what does not print, such as newlines and escape sequences."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


class CallPicklingError(pickle.PicklingError, TypeError):
    """Something that has to travel between processes cannot be pickled.

    It is a ``TypeError`` as well, since that is what ``pickle`` raises for most such objects.

    Parameters
    ----------
    what
        What was to be pickled, with its call: ``"the result of call 3, f(...)"``.
    path
        Where in it the culprit sits: ``"args[0]['model'].callback"``.
    reason
        What the pickler said of the culprit.
    """

    what: str
    path: str
    reason: str

    def __init__(self, what: str, path: str, reason: str) -> None:
        super().__init__(what, path, reason)
        self.what, self.path, self.reason = what, path, reason

    def __str__(self) -> str:
        return (
            f"{self.what} cannot be sent between processes: {self.path} cannot be pickled ({self.reason}). "
            "Leave it out, build it inside the call, or use backend='threading', which pickles nothing."
        )


class DumpPicklingError(pickle.PicklingError, TypeError, AttributeError):
    """Something cannot be dumped, because it, or a part of it, cannot be pickled.

    It is a ``TypeError`` and an ``AttributeError`` as well: what ``pickle`` raises depends on the object and on Python.

    Parameters
    ----------
    path
        Where in the object the culprit sits: ``"value[0]['model'].callback"``.
    reason
        What the pickler said of the culprit.
    """

    path: str
    reason: str

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return (
            f"the object cannot be dumped: {self.path} cannot be pickled ({self.reason}). Leave it out, or have "
            "something else stand for it (__getstate__, __reduce__)"
        )


class CallUnpicklingError(pickle.UnpicklingError):
    """Something that arrived from another process cannot be rebuilt there.

    Parameters
    ----------
    what
        What was to be rebuilt: ``"the calls 3 to 5"``.
    where
        The process that tried.
    reason
        The error that its pickle raised.
    """

    what: str
    where: str
    reason: str

    def __init__(self, what: str, where: str, reason: str) -> None:
        super().__init__(what, where, reason)
        self.what, self.where, self.reason = what, where, reason

    def __str__(self) -> str:
        if self.reason.startswith(("ImportError", "ModuleNotFoundError", "AttributeError")):
            advice = "Every module and class that it refers to must be importable there."
        else:
            advice = "What its classes do to be rebuilt (__init__, __reduce__, __setstate__) has to work there."
        return f"{self.what} cannot be unpickled in {self.where}: {self.reason}. {advice}"


class CorruptFile(ValueError):
    """A file is not what was written, or was never written by :func:`shoal.dump` or joblib.

    Parameters
    ----------
    name
        The file's name.
    offset
        The bytes before the place, from the beginning of the object; after decompression, if the file is compressed.
    expected
        What should be there.
    found
        What is.
    """

    def __init__(self, name: str, offset: int, expected: str, found: str) -> None:
        super().__init__(name, offset, expected, found)
        self.name, self.offset, self.expected, self.found = name, offset, expected, found

    def __str__(self) -> str:
        return printable(
            f"{self.name or 'the stream'} is damaged at offset {self.offset}: expected {self.expected}, "
            f"{self._said()}. It cannot be repaired: write it again, or fetch it again"
        )

    def _said(self) -> str:
        return f"found {self.found}"


class TruncatedFile(CorruptFile, EOFError):
    """A file ends too soon."""

    def _said(self) -> str:
        return f"but only {self.found} are left"


class EmptyFile(TruncatedFile):
    """A file is empty, or a file object was read to its end: there is nothing to load.

    Parameters
    ----------
    name
        The file's name.
    position
        Where in the file its end was met, in bytes.
    """

    def __init__(self, name: str, position: int) -> None:
        super().__init__(name, 0, "an object", "0 bytes")
        self.args, self.position = (name, position), position

    def __str__(self) -> str:
        name = self.name or "the stream"
        if self.position:
            return f"{name} holds no further object: it was read to its end, at byte {self.position}"
        return f"{name} is empty: there is no object in it. Write it again, or fetch it again"


class DamagedFile(CorruptFile, pickle.UnpicklingError):
    """Something stands in a file that was not written there."""


class ForeignFile(CorruptFile, pickle.UnpicklingError):
    """A file is none that :func:`shoal.dump` or joblib has written.

    Parameters
    ----------
    name
        The file's name.
    kind
        What it looks like: ``"a CSV table"``.
    """

    def __init__(self, name: str, kind: str) -> None:
        super().__init__(name, 0, "a file of dump's or joblib's", kind)
        self.args, self.kind = (name, kind), kind

    def __str__(self) -> str:
        return f"{self.name or 'the stream'} is no file of dump's or joblib's: it looks like {self.kind}"


class UntrustedFile(pickle.UnpicklingError):
    """A file would import what was not said to be trusted, or do what files do not; nothing of it was rebuilt.

    Parameters
    ----------
    name
        The file's name.
    imports
        The dotted names that are not trusted.
    misuses
        What it would do that no pickle of data does, in words; no list of names allows it.
    """

    def __init__(self, name: str, imports: tuple[str, ...], misuses: tuple[str, ...] = ()) -> None:
        super().__init__(name, imports, misuses)
        self.name, self.imports, self.misuses = name, imports, misuses

    def __str__(self) -> str:
        name, names = self.name or "the stream", ", ".join(map(ascii, self.imports))
        said = []
        if self.misuses:
            misuses = printable("; ".join(self.misuses))
            said.append(f"{name} is not what pickle writes of an object: {misuses}. Do not load it")
            if names:
                said.append(f"It would also import what is not trusted: {names}")
        else:
            said.append(
                f"{name} would import, or call with arguments, what is not trusted: [{names}]. If you know what these "
                "do, and who wrote the file, add them to trusted="
            )
        return ". ".join(said)


class FileLimitError(MemoryError):
    """Loading a file would take more memory or time than was allowed; nothing of it was rebuilt.

    Parameters
    ----------
    name
        The file's name.
    limit
        The number of bytes that it may take.
    """

    def __init__(self, name: str, limit: int) -> None:
        super().__init__(name, limit)
        self.name, self.limit = name, limit

    def __str__(self) -> str:
        return (
            f"{self.name or 'the stream'} would take more than {self.limit:,} bytes when it is loaded, or as much time "
            f"for the hashes of its keys. If you expect that much of it, pass a larger number as max_bytes="
        )


class VersionWarning(UserWarning):
    """A file was written with other versions of libraries than those that read it."""


class HashingError(pickle.PicklingError, TypeError):
    """Something cannot be hashed, because it, or a part of it, cannot be pickled.

    It is a ``TypeError`` as well, since that is what ``pickle`` raises for most such objects.

    Parameters
    ----------
    what
        What was to be hashed, with its type: ``"<generator object f at 0x7f> (of type generator)"``.
    reason
        Why it cannot.
    """

    what: str
    reason: str

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(what, reason)
        self.what, self.reason = what, reason

    def __str__(self) -> str:
        return (
            f"{self.what} cannot be hashed: {self.reason}. Leave it out (ignore= of Memory.cache), "
            "or say what stands for objects of its type by shoal.register_hasher()."
        )


class ArgumentError(TypeError, ValueError):
    """A cached function does not take the arguments of a call.

    It is a ``TypeError``, as from the function itself, and a ``ValueError``, as from joblib.

    Parameters
    ----------
    reason
        What is wrong with them: ``"Too many arguments"``.
    function
        The function, with its parameters.
    attempted
        The call that was made.
    """

    def __init__(self, reason: str, function: str, attempted: str) -> None:
        super().__init__(reason, function, attempted)
        self.reason, self.function, self.attempted = reason, function, attempted

    def __str__(self) -> str:
        return f"{self.reason} for {self.function}:\n    {self.attempted} was called."


class MissingExtra(ImportError):
    """What is asked for needs a package that is not installed.

    Parameters
    ----------
    what
        What is asked for.
    package
        The package.
    extra
        The extra of shoal that installs it.
    """

    def __init__(self, what: str, package: str, extra: str) -> None:
        super().__init__(what, package, extra)
        self.what, self.package, self.extra = what, package, extra

    def __str__(self) -> str:
        return f"{self.what} needs {self.package}, which is not installed. Run: pip install 'shoal[{self.extra}]'"


class NoSpaceError(OSError):
    """There is no room left for an array that workers were to share.

    Parameters
    ----------
    nbytes
        The bytes that were wanted.
    places
        Where they were wanted, in the order of the attempts.
    reason
        What the system said at the last place.
    """

    nbytes: int
    places: tuple[str, ...]
    reason: str

    def __init__(self, nbytes: int, places: tuple[str, ...], reason: str) -> None:
        super().__init__(nbytes, places, reason)
        self.nbytes, self.places, self.reason = nbytes, places, reason
        self.errno, self.strerror, self.filename = errno.ENOSPC, reason, None  # which are not what stands in `args`

    def __str__(self) -> str:
        return (
            f"no room for {self.nbytes} bytes that the workers share, neither in {' nor in '.join(self.places)} "
            f"({self.reason}). Free some space, or name a folder with room by temp_folder= or JOBLIB_TEMP_FOLDER."
        )


class WorkerStartError(OSError):
    """The system refuses what a worker process or a thread takes: a descriptor, a process, memory.

    It may allow it later: the next run tries again.

    Parameters
    ----------
    reason
        What the system said.
    advice
        What can be done.
    """

    reason: str
    advice: str

    def __init__(self, reason: str, advice: str) -> None:
        super().__init__(reason, advice)
        self.reason, self.advice = reason, advice
        self.errno, self.strerror = None, reason  # which are not what stands in `args`

    def __str__(self) -> str:
        return f"no worker can be started ({self.reason}). {self.advice}"


class MissingMainGuard(RuntimeError):
    """A program starts worker processes when it is imported, and these import it: by "spawn" and "forkserver".

    Parameters
    ----------
    path
        The program.
    """

    path: str

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path

    def __str__(self) -> str:
        return (
            f"worker processes that start by 'spawn' or 'forkserver' import {self.path}, which would start worker "
            "processes again. Put what it does when it is run, and not when it is imported, below a line\n\n"
            '    if __name__ == "__main__":\n\n'
            "or use backend='loky', whose workers do not import it."
        )


def cannot_start(error: BaseException) -> BaseException:
    """Return what is to be raised where a worker could not be started: `error`, unless it is the system's refusal."""
    number = getattr(error, "errno", None)
    if isinstance(error, RuntimeError) and "start new thread" in str(error):
        number = errno.EAGAIN
    elif not isinstance(error, (OSError, MemoryError)):
        return error
    if number in (errno.EMFILE, errno.ENFILE):
        advice = "Close files, raise the limit of open files (ulimit -n), or use fewer workers."
    elif number == errno.EAGAIN:
        advice = "Raise the limit of processes and threads (ulimit -u), or use fewer workers."
    elif number == errno.ENOENT:
        advice = "The working folder may have been removed: change to another by os.chdir()."
    else:
        advice = "Use fewer workers, or backend='threading'."
    refusal = WorkerStartError(f"{type(error).__name__}: {error}", advice)
    refusal.errno = number
    refusal.__cause__ = error
    return refusal


class RemoteTraceback(Exception):
    """The traceback of a task's exception, as text from the worker; it is the exception's ``__cause__``.

    Parameters
    ----------
    call
        Which call it was: ``"call 3, f(...)"``.
    text
        The traceback as the worker printed it.
    """

    call: str
    text: str

    def __init__(self, call: str, text: str) -> None:
        super().__init__(call, text)
        self.call, self.text = call, text

    def __str__(self) -> str:
        return f'\n\nin {self.call}:\n"""\n{self.text}"""'


class FailedCall:
    """Which call it was that failed.

    Attributes
    ----------
    index
        Its place in the input, from 0.
    function
        The name of its function, with the module.
    arguments
        What its arguments look like, cut to some 200 characters.
    """

    __slots__ = ("arguments", "function", "index")
    index: int
    function: str
    arguments: str

    def __init__(self, index: int, function: str, arguments: str) -> None:
        self.index, self.function, self.arguments = index, function, arguments

    def __repr__(self) -> str:
        return f"FailedCall({self.index}, {self.function!r}, {self.arguments!r})"

    def __str__(self) -> str:
        return f"call {self.index}, {self.function}({self.arguments})"


class CallStopped(RuntimeError):
    """A call has raised StopIteration, and its results come from a generator or a coroutine.

    Those cannot raise it, because it would look as if they had come to their end (PEP 479). The exception of the call
    is the ``__cause__``. The same holds for StopAsyncIteration and asynchronous generators.

    Parameters
    ----------
    call
        Which call it was.
    error
        What it has raised.
    """

    call: FailedCall
    error: BaseException

    def __init__(self, call: FailedCall, error: BaseException) -> None:
        super().__init__(call, error)
        self.call, self.error, self.__cause__ = call, error, error

    def __str__(self) -> str:
        return (
            f"{self.call} raised {self.error!r}, which neither a generator nor a coroutine can raise. Catch it in the "
            "function; next(iterator, default) does not raise it."
        )


class TaskTimeout(TimeoutError):
    """A call has run longer than ``Parallel(task_timeout=)`` allows; its worker process was killed.

    Parameters
    ----------
    call
        Which call it was. The attribute of this name tells the call of the outermost run, where runs are nested.
    seconds
        The limit.
    """

    call: FailedCall | str
    seconds: float

    def __init__(self, call: FailedCall | str, seconds: float) -> None:
        super().__init__(call, seconds)
        self.call, self.seconds = call, seconds

    def __str__(self) -> str:
        call, seconds = self.args
        return f"{call} ran for longer than task_timeout={seconds} seconds"


class UnusedResultsWarning(UserWarning):
    """A generator of results was dropped before its end: work was done for nothing, or cancelled."""


class CacheWarning(UserWarning):
    """Results are not kept, or those that are kept cannot be read: they are computed again."""


class CollisionWarning(UserWarning):
    """Two functions keep their results in one place, and each removes the other's."""


class FallbackWarning(UserWarning):
    """The backend cannot do here what was asked for, and something lesser is done."""


class PartialResults(dict[int, Any]):
    """The results that were ready when an exception ended a run, by the index of their calls."""


def attach(error: BaseException, name: str, value: Any) -> None:
    """Give an exception an attribute, unless it takes none or has one of its own there.

    What an inner run has attached, which is of the same type, is replaced.
    """
    with contextlib.suppress(Exception):  # attributes may be the user's code
        if type(error).__module__ == __name__ or isinstance(getattr(error, name, None), (type(value), type(None))):
            setattr(error, name, value)


def add_to_message(error: BaseException, text: str) -> None:
    """Have an exception say something more, and leave its type and traceback as they are."""
    if isinstance(error, ImportError):
        error.msg = f"{error.msg.rstrip('.')}. {text}"
    elif len(error.args) == 1 and type(error.args[0]) is str and str(error) == error.args[0]:
        error.args = (f"{error.args[0].rstrip('.')}. {text}",)
    elif hasattr(error, "add_note"):  # Python 3.11
        error.add_note(text)


def signal_in_words(exit_code: int | None) -> str:
    """Say what a process's exit code means: ``-9`` is "killed by SIGKILL", with the likely reason."""
    if exit_code is None:
        return "ended for a reason that the system did not report"
    if exit_code >= 0:
        return f"exited with code {exit_code}"
    import signal

    try:
        name = signal.Signals(-exit_code).name
    except ValueError:
        name = f"signal {-exit_code}"
    hints = {"SIGKILL": ": the system may have been out of memory", "SIGSEGV": ": a crash in compiled code"}
    return f"was killed by {name}{hints.get(name, '')}"


if TYPE_CHECKING:
    import multiprocessing
    from concurrent.futures.process import BrokenProcessPool

    class RunTimeout(multiprocessing.TimeoutError, TimeoutError):
        def __init__(self, seconds: float, awaited: str) -> None: ...

    class WorkerDied(BrokenProcessPool):
        exit_code: int | None
        call: FailedCall | str
        reason: str | None

        def __init__(
            self, call: FailedCall | str, exit_code: int | None, reason: str | None = None, doing: str = "it ran"
        ) -> None: ...


def _build_run_timeout() -> type[BaseException]:
    from multiprocessing.context import TimeoutError as ProcessTimeout

    class RunTimeout(ProcessTimeout, TimeoutError):
        """``Parallel(timeout=)`` has run out: the result that was due did not come in time.

        Parameters
        ----------
        seconds
            The limit.
        awaited
            What was waited for.
        """

        __module__ = __name__

        def __init__(self, seconds: float, awaited: str) -> None:
            super().__init__(seconds, awaited)
            self.seconds, self.awaited = seconds, awaited

        def __str__(self) -> str:
            return f"{self.awaited} did not come within timeout={self.seconds} seconds; the run was given up"

    RunTimeout.__qualname__ = "RunTimeout"
    return RunTimeout


def import_loky() -> Any:
    """Import ``loky.process_executor``, and leave no trace of it in ``multiprocessing``.

    Importing loky enters its contexts into ``multiprocessing`` under the names "loky" and "loky_init_main". joblib
    carries a loky of its own: were its contexts replaced, its workers would report to the wrong resource tracker.
    """
    loaded = sys.modules.get("loky.process_executor")
    if loaded is not None:
        return loaded
    import multiprocessing.context as contexts

    registry: dict[str, Any] = contexts._concrete_contexts  # type: ignore[attr-defined]
    before: dict[str, Any] = {name: registry[name] for name in ("loky", "loky_init_main") if name in registry}
    import loky.process_executor

    registry.update(before)
    return loky.process_executor


def _build_worker_died() -> type[BaseException]:
    terminated_worker: type[BaseException] = import_loky().TerminatedWorkerError

    class WorkerDied(terminated_worker):  # type: ignore[misc, valid-type]
        """A worker process ended while it ran a call: it crashed, was killed, or called ``os._exit``.

        Parameters
        ----------
        call
            The call that it ran. The attribute of this name tells the call of the outermost run, where runs are nested.
        exit_code
            The exit code of the process, negative for a signal; None if the system did not tell.
        reason
            Why shoal has killed it; None if it has not.
        doing
            What it did with the call, in words.
        """

        __module__ = __name__

        def __init__(
            self, call: FailedCall | str, exit_code: int | None, reason: str | None = None, doing: str = "it ran"
        ) -> None:
            super().__init__(call, exit_code, reason, doing)
            self.call, self.exit_code, self.reason = call, exit_code, reason

        def __str__(self) -> str:
            call, exit_code, reason, doing = self.args
            end = signal_in_words(exit_code) if reason is None else f"was killed: {reason}"
            return f"a worker process {end}; {doing} {call}"

    WorkerDied.__qualname__ = "WorkerDied"
    return WorkerDied


_LATE = {"RunTimeout": _build_run_timeout, "WorkerDied": _build_worker_died}


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # setdefault is atomic: of two threads that build the class at once, both get the same one.
    return globals().setdefault(name, _LATE[name]())
