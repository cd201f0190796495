"""Every exception and warning of shoal.

::

    PicklingError, TypeError ── CallPicklingError     an argument, function, result or exception cannot be pickled
              ├──────────────── DumpPicklingError     an object cannot be dumped; it is also an AttributeError
              └──────────────── HashingError          an object cannot be hashed
    UnpicklingError ─────────── CallUnpicklingError   a worker cannot unpickle a call, or the caller a result
    ValueError ──────────────── CorruptFile           a file is damaged, or was not written by shoal or joblib
      ├─ EOFError ───────────── TruncatedFile         ... it ends too early
      │                └─────── EmptyFile             ... it is empty, or contains no further object
      ├─ UnpicklingError ────── DamagedFile           ... its content is not what was written
      └─ UnpicklingError ────── ForeignFile           ... it was not written by shoal or joblib
    OSError ─────────────────── NoSpaceError          neither shared memory nor the temporary folder has room
        └────────────────────── WorkerStartError      the system refuses to start a worker process or a thread
    PermissionError ─────────── FileInUse             Windows replaces or removes no file that is open or mapped
    RuntimeError ────────────── MissingMainGuard      a worker would start workers while it imports the program
    Exception ───────────────── RemoteTraceback       the cause of a call's exception: its traceback in the worker
    RuntimeError ────────────── CallStopped           a call raised StopIteration, which a generator cannot raise
    RuntimeError ────────────── RunEnded              a call on a thread sends a message to a run that has ended
    TimeoutError ────────────── TaskTimeout           a call ran longer than ``Parallel(task_timeout=)``
    multiprocessing.TimeoutError, TimeoutError
      └──────────────────────── RunTimeout            a result was not ready within ``Parallel(timeout=)``
    BrokenProcessPool, loky's TerminatedWorkerError
      └──────────────────────── WorkerDied            a worker process ended while it ran a call
    UnpicklingError ─────────── UntrustedFile         a file would import names that ``load(trusted=)`` does not allow
    MemoryError ─────────────── FileLimitError        loading a file would take more than ``max_bytes=``
    ImportError ─────────────── MissingExtra          a feature needs a package that is not installed
    TypeError, ValueError ───── ArgumentError         a cached function does not accept the arguments of a call
    UserWarning ─────────────── CacheWarning          a result cannot be stored, or a stored result cannot be read
                ├────────────── CollisionWarning      two functions store their results in the same place
                ├────────────── UnusedResultsWarning  a generator of results was dropped before its end
                ├────────────── VersionWarning        a file was written with other versions of libraries
                └────────────── FallbackWarning       a run uses fewer workers or another backend, or ignores an option

An exception that a call raised, or that says how a call ended, has the attribute ``call``, a :class:`FailedCall`. An
exception that ends a run that returns a list has the attribute ``results``: a dictionary of the results that were
ready, by the index of their calls.

``RunTimeout`` and ``WorkerDied`` are created on first use, because importing the modules of their parents takes longer
than importing all modules of shoal that a program needs before its first run.
"""

from __future__ import annotations

import errno
import sys

from shoal._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pickle import PicklingError, UnpicklingError
    from typing import Any
else:
    try:  # the same classes, without the rest of pickle, which takes as long as a third of shoal's modules
        from _pickle import PicklingError, UnpicklingError
    except ImportError:  # PyPy
        from pickle import PicklingError, UnpicklingError

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
    "FileInUse",
    "FileLimitError",
    "ForeignFile",
    "HashingError",
    "MissingExtra",
    "MissingMainGuard",
    "NoSpaceError",
    "RemoteTraceback",
    "RunEnded",
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
    """Return a text in which characters that do not print, such as newlines and control characters, are escaped."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


class CallPicklingError(PicklingError, TypeError):
    """An object that has to be sent between processes cannot be pickled.

    It is also a ``TypeError``, because that is what ``pickle`` raises for most such objects.

    Parameters
    ----------
    what : str
        The object and its call: ``"the result of call 3, f(...)"``.
    path : str
        The part of the object that cannot be pickled: ``"args[0]['model'].callback"``.
    reason : str
        The pickler's error for that part.
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


class DumpPicklingError(PicklingError, TypeError, AttributeError):
    """An object cannot be dumped, because the object, or a part of it, cannot be pickled.

    It is also a ``TypeError`` and an ``AttributeError``, because which of them ``pickle`` raises depends on the object
    and on the version of Python.

    Parameters
    ----------
    path : str
        The part of the object that cannot be pickled: ``"value[0]['model'].callback"``.
    reason : str
        The pickler's error for that part.
    """

    path: str
    reason: str

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return (
            f"the object cannot be dumped: {self.path} cannot be pickled ({self.reason}). Leave it out, or define "
            "__getstate__ or __reduce__ so that something else is pickled in its place"
        )


class CallUnpicklingError(UnpicklingError):
    """An object that was sent to another process cannot be unpickled there.

    Parameters
    ----------
    what : str
        The object: ``"the calls 3 to 5"``.
    where : str
        The process that tried to unpickle it.
    reason : str
        The error that it raised.
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
            advice = "The code that rebuilds its objects (__init__, __reduce__, __setstate__) must work there."
        return f"{self.what} cannot be unpickled in {self.where}: {self.reason}. {advice}"


class CorruptFile(ValueError):
    """A file is damaged, or was never written by :func:`shoal.dump` or joblib.

    Parameters
    ----------
    name : str
        The name of the file; "" for a stream.
    offset : int
        The position of the damage, in bytes from the beginning of the object, after decompression.
    expected : str
        What should be at that position.
    found : str
        What is at that position.
    """

    def __init__(self, name: str, offset: int, expected: str, found: str) -> None:
        super().__init__(name, offset, expected, found)
        self.name: str = name
        self.offset: int = offset
        self.expected: str = expected
        self.found: str = found

    def __str__(self) -> str:
        return printable(
            f"{self.name or 'the stream'} is damaged at offset {self.offset}: expected {self.expected}, "
            f"{self._found_text()}. It cannot be repaired: write it again, or download it again"
        )

    def _found_text(self) -> str:
        return f"found {self.found}"


class TruncatedFile(CorruptFile, EOFError):
    """A file ends too early."""

    def _found_text(self) -> str:
        return f"but only {self.found} are left"


class EmptyFile(TruncatedFile):
    """A file is empty, or a file object is at its end: there is no object to load.

    Parameters
    ----------
    name : str
        The name of the file; "" for a stream.
    position : int
        The position of the end of the file, in bytes.
    """

    def __init__(self, name: str, position: int) -> None:
        super().__init__(name, 0, "an object", "0 bytes")
        self.args: tuple[Any, ...] = (name, position)
        self.position: int = position

    def __str__(self) -> str:
        remedy = "Load only as many objects as were dumped, or catch EmptyFile to stop here"
        if self.position:
            name = self.name or "the stream"
            return f"{name} contains no further object: it ends at byte {self.position}. {remedy}"
        if not self.name:
            return f"the stream is empty, or at its end: it contains no further object. {remedy}"
        return f"{self.name} is empty: it contains no object. Write it again, or download it again"


class DamagedFile(CorruptFile, UnpicklingError):
    """The content of a file is not what was written."""


class ForeignFile(CorruptFile, UnpicklingError):
    """A file was not written by :func:`shoal.dump` or joblib.

    Parameters
    ----------
    name : str
        The name of the file; "" for a stream.
    kind : str
        What the file looks like: ``"a CSV table"``.
    """

    def __init__(self, name: str, kind: str) -> None:
        super().__init__(name, 0, "a file written by shoal.dump or joblib", kind)
        self.args: tuple[Any, ...] = (name, kind)
        self.kind: str = kind

    def __str__(self) -> str:
        return f"{self.name or 'the stream'} was not written by shoal.dump or joblib: it looks like {self.kind}"


class UntrustedFile(UnpicklingError):
    """A file would import names that are not trusted, or do something that a dump never does. Nothing was loaded.

    Parameters
    ----------
    name : str
        The name of the file; "" for a stream.
    imports : tuple of str
        The dotted names that are not trusted.
    misuses : tuple of str
        Descriptions of what the file would do that no dump of data does. ``trusted=`` cannot allow it.
    """

    def __init__(self, name: str, imports: tuple[str, ...], misuses: tuple[str, ...] = ()) -> None:
        super().__init__(name, imports, misuses)
        self.name: str = name
        self.imports: tuple[str, ...] = imports
        self.misuses: tuple[str, ...] = misuses

    def __str__(self) -> str:
        name, names = self.name or "the stream", ", ".join(map(ascii, self.imports))
        sentences = []
        if self.misuses:
            misuses = printable("; ".join(self.misuses))
            sentences.append(f"{name} is not what pickle writes for an object: {misuses}. Do not load it")
            if names:
                sentences.append(f"It would also import names that are not trusted: {names}")
        else:
            sentences.append(
                f"{name} would import, or call with arguments, names that are not trusted: [{names}]. If you know what "
                "these do, and who wrote the file, add them to trusted="
            )
        return ". ".join(sentences)


class FileLimitError(MemoryError):
    """Loading a file would take more memory or time than is allowed. Nothing was loaded.

    Parameters
    ----------
    name : str
        The name of the file; "" for a stream.
    limit : int
        The limit, in bytes.
    """

    def __init__(self, name: str, limit: int) -> None:
        super().__init__(name, limit)
        self.name: str = name
        self.limit: int = limit

    def __str__(self) -> str:
        return (
            f"{self.name or 'the stream'} would take more than {self.limit:,} bytes when it is loaded, or as much time "
            "to hash its keys. If you expect that much, pass a larger number as max_bytes="
        )


class VersionWarning(UserWarning):
    """A file was written with versions of libraries that differ from the installed ones."""


class HashingError(PicklingError, TypeError):
    """An object cannot be hashed, because the object, or a part of it, cannot be pickled.

    It is also a ``TypeError``, because that is what ``pickle`` raises for most such objects.

    Parameters
    ----------
    what : str
        The object, with its type: ``"<generator object f at 0x7f> (of type generator)"``.
    reason : str
        Why it cannot be hashed.
    """

    what: str
    reason: str

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(what, reason)
        self.what, self.reason = what, reason

    def __str__(self) -> str:
        return (
            f"{self.what} cannot be hashed: {self.reason}. Leave it out (ignore= of Memory.cache), "
            "or register a function that returns what to hash instead, by shoal.register_hasher()."
        )


class ArgumentError(TypeError, ValueError):
    """A cached function does not accept the arguments of a call.

    It is a ``TypeError``, which the function itself would raise, and a ``ValueError``, which joblib raises.

    Parameters
    ----------
    reason : str
        What is wrong with the arguments: ``"Too many arguments"``.
    function : str
        The function, with its parameters.
    attempted : str
        The call that was made.
    """

    def __init__(self, reason: str, function: str, attempted: str) -> None:
        super().__init__(reason, function, attempted)
        self.reason: str = reason
        self.function: str = function
        self.attempted: str = attempted

    def __str__(self) -> str:
        return f"{self.reason} for {self.function}:\n    {self.attempted} was called."


class MissingExtra(ImportError):
    """A feature needs a package that is not installed.

    Parameters
    ----------
    what : str
        The feature.
    package : str
        The name of the package.
    extra : str
        The extra of shoal that installs the package.
    """

    def __init__(self, what: str, package: str, extra: str) -> None:
        super().__init__(what, package, extra)
        self.what: str = what
        self.package: str = package
        self.extra: str = extra

    def __str__(self) -> str:
        return f"{self.what} needs {self.package}, which is not installed. Run: pip install 'shoal[{self.extra}]'"


class NoSpaceError(OSError):
    """There is no room for an array that the workers are to share.

    Parameters
    ----------
    nbytes : int
        The size of the array, in bytes.
    places : tuple of str
        The places that were tried, in this order.
    reason : str
        The error of the system at the last place.
    """

    nbytes: int
    places: tuple[str, ...]
    reason: str

    def __init__(self, nbytes: int, places: tuple[str, ...], reason: str) -> None:
        super().__init__(nbytes, places, reason)
        self.nbytes: int = nbytes
        self.places: tuple[str, ...] = places
        self.reason: str = reason
        # OSError would set them from `args`.
        self.errno: int | None = errno.ENOSPC
        self.strerror: str | None = reason
        self.filename: Any = None

    def __str__(self) -> str:
        return (
            f"there is no room for {self.nbytes} bytes that workers share, neither in {' nor in '.join(self.places)} "
            f"({self.reason}). Free some space, or set temp_folder= or JOBLIB_TEMP_FOLDER to a folder with room."
        )


class FileInUse(PermissionError):
    """A file cannot be replaced or removed, because a program has it open or mapped. Only Windows refuses that.

    Parameters
    ----------
    path : str
        The file.
    reason : str
        The error of the system.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        # OSError would set them from `args`.
        self.errno: int | None = errno.EACCES
        self.strerror: str | None = reason
        self.filename: Any = path

    def __str__(self) -> str:
        return (
            f"{self.filename} cannot be replaced or removed, because a program has it open or mapped "
            f"({self.strerror}). Close the file, and delete the arrays that were loaded from it with mmap_mode=."
        )


class WorkerStartError(OSError):
    """The system refuses to start a worker process or a thread: it has no descriptor, process or memory left for it.

    The refusal may be temporary, so the next run tries again.

    Parameters
    ----------
    reason : str
        The error of the system.
    advice : str
        What the user can do.
    """

    reason: str
    advice: str

    def __init__(self, reason: str, advice: str) -> None:
        super().__init__(reason, advice)
        self.reason: str = reason
        self.advice: str = advice
        # OSError would set them from `args`.
        self.errno: int | None = None
        self.strerror: str | None = reason

    def __str__(self) -> str:
        return f"no worker can be started ({self.reason}). {self.advice}"


class MissingMainGuard(RuntimeError):
    """A program starts worker processes when it is imported, and the worker processes import the program.

    Workers do so if they start by "spawn" or "forkserver".

    Parameters
    ----------
    path : str
        The file of the program.
    """

    path: str

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path

    def __str__(self) -> str:
        return (
            f"worker processes that start by 'spawn' or 'forkserver' import {self.path}, which would start worker "
            "processes again. Put the code that must run only when the program is run, not imported, below a line\n\n"
            '    if __name__ == "__main__":\n\n'
            "or use backend='loky', whose workers do not import the program."
        )


#: The message of the RuntimeError of a run that can have no workers any more.
AT_EXIT = "cannot run anything in worker processes while the interpreter shuts down"


def cannot_start(error: BaseException) -> BaseException:
    """Return the exception to raise if a worker could not be started.

    It is a :class:`WorkerStartError` if `error` says that the system refused to start it, and a RuntimeError with
    `AT_EXIT` if the interpreter refused because it shuts down; else it is `error` itself.
    """
    number = getattr(error, "errno", None)
    if isinstance(error, RuntimeError) and "at interpreter shutdown" in str(error):  # Python 3.12: no thread, no fork
        return RuntimeError(AT_EXIT)
    multiprocessing = sys.modules.get("multiprocessing.util")
    if number == errno.ENOENT and multiprocessing is not None and multiprocessing.is_exiting():
        return RuntimeError(AT_EXIT)  # multiprocessing has removed the socket of its fork server
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
    """The traceback of a call's exception, as text from the worker. It is the ``__cause__`` of that exception.

    Parameters
    ----------
    call : str
        The call: ``"call 3, f(...)"``.
    text : str
        The traceback, formatted by the worker.
    """

    call: str
    text: str

    def __init__(self, call: str, text: str) -> None:
        super().__init__(call, text)
        self.call, self.text = call, text

    def __str__(self) -> str:
        return f'\n\nin {self.call}:\n"""\n{self.text}"""'


class FailedCall:
    """The identity of a call that failed.

    Attributes
    ----------
    index : int
        Its position in the input, from 0.
    function : str
        The name of its function, with the module.
    arguments : str
        The reprs of its arguments, cut to about 200 characters.
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
    """A call raised StopIteration in a run whose results come from a generator or a coroutine.

    A generator cannot raise StopIteration itself, because that would look like its end (PEP 479). The exception of the
    call is the ``__cause__``. The same holds for StopAsyncIteration and asynchronous generators.

    Parameters
    ----------
    call : FailedCall
        The call.
    error : BaseException
        The exception that it raised.
    """

    call: FailedCall
    error: BaseException

    def __init__(self, call: FailedCall, error: BaseException) -> None:
        super().__init__(call, error)
        self.call: FailedCall = call
        self.error: BaseException = error
        self.__cause__: BaseException | None = error

    def __str__(self) -> str:
        return (
            f"{self.call} raised {self.error!r}, which neither a generator nor a coroutine can raise. Catch it in the "
            "function; next(iterator, default) does not raise it."
        )


class RunEnded(RuntimeError):
    """A call on a thread sends a message that nobody takes any more.

    Its run has ended, or the call has ended or has run longer than ``task_timeout``. A thread cannot be killed, so
    :func:`shoal.send` and :func:`shoal.step` raise this exception in the call.
    """

    def __init__(self) -> None:
        super().__init__(
            "the call or its run has ended, or the call has timed out: nobody takes its messages any more. End the "
            "thread that sends them when the call ends"
        )

    def __reduce__(self) -> Any:
        return RunEnded, ()


class TaskTimeout(TimeoutError):
    """A call ran longer than ``Parallel(task_timeout=)`` allows, and its worker process was killed.

    Parameters
    ----------
    call : FailedCall or str
        The call. If runs are nested, the attribute ``call`` is the call of the outermost run.
    seconds : float
        The limit, in seconds.
    """

    call: FailedCall | str
    seconds: float

    def __init__(self, call: FailedCall | str, seconds: float) -> None:
        super().__init__(call, seconds)
        self.call, self.seconds = call, seconds

    def __str__(self) -> str:
        call, seconds = self.args
        return (
            f"{call} ran for longer than task_timeout={seconds} seconds. Give calls more time, or pass "
            "on_error='return' to get the results of the others"
        )


class UnusedResultsWarning(UserWarning):
    """A generator of results was dropped before its end: calls were cancelled, or their results were not used."""


class CacheWarning(UserWarning):
    """A result cannot be stored, or a stored result cannot be read; such a result is computed again."""


class CollisionWarning(UserWarning):
    """Two functions store their results in the same place, and each removes the results of the other."""


class FallbackWarning(UserWarning):
    """A run does not follow its options: it has fewer workers or another backend, or ignores an option."""


class PartialResults(dict[int, "Any"]):
    """The results that were ready when an exception ended a run, by the index of their calls."""


def attach(error: BaseException, name: str, value: Any) -> None:
    """Set an attribute of an exception, unless that is impossible or the exception has its own attribute of that name.

    An attribute of the same type comes from an inner run and is replaced.
    """
    try:
        if type(error).__module__ == __name__ or isinstance(getattr(error, name, None), (type(value), type(None))):
            setattr(error, name, value)
    except Exception:  # attribute access may run the user's code
        pass


class attaching:
    """A block of a run. If an exception ends the block, it gets the results that are there.

    A StopIteration of a call, which passes through generators as a :class:`CallStopped`, leaves the block as the call
    raised it.

    Parameters
    ----------
    attach : callable
        Takes the exception, and attaches the results to it.
    """

    def __init__(self, attach: Callable[[BaseException], object]) -> None:
        self._attach = attach

    def __enter__(self) -> None:
        pass

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        raised = error.error if isinstance(error, CallStopped) else error
        if raised is None:
            return
        self._attach(raised)
        if raised is error:
            return
        context = raised.__context__
        try:
            raise raised
        finally:
            raised.__context__ = context
            del raised, error  # else they and this frame, which is in their tracebacks, would keep each other alive


def add_to_message(error: BaseException, text: str) -> None:
    """Append a sentence to the message of an exception. Its type and its traceback do not change."""
    if isinstance(error, ImportError):
        error.msg = f"{error.msg.rstrip('.')}. {text}"
    elif len(error.args) == 1 and type(error.args[0]) is str and str(error) == error.args[0]:
        error.args = (f"{error.args[0].rstrip('.')}. {text}",)
    elif hasattr(error, "add_note"):  # Python 3.11
        error.add_note(text)


def signal_in_words(exit_code: int | None) -> str:
    """Return the meaning of an exit code: ``-9`` gives "was killed by SIGKILL", with the likely reason."""
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
        """The next result was not ready within ``Parallel(timeout=)``, so the run was ended.

        Parameters
        ----------
        seconds : float
            The limit, in seconds.
        awaited : str
            The result that was awaited.
        """

        __module__ = __name__

        def __init__(self, seconds: float, awaited: str) -> None:
            super().__init__(seconds, awaited)
            self.seconds, self.awaited = seconds, awaited

        def __str__(self) -> str:
            return (
                f"{self.awaited} was not ready within timeout={self.seconds} seconds; the run was ended. Give results "
                "more time, or pass task_timeout= instead, which ends single calls"
            )

    RunTimeout.__qualname__ = "RunTimeout"
    return RunTimeout


def import_loky() -> Any:
    """Import ``loky.process_executor`` without changing the contexts of ``multiprocessing``, and return it.

    loky registers its contexts in ``multiprocessing`` as "loky" and "loky_init_main". joblib contains its own loky. If
    joblib's contexts were replaced, joblib's workers would report to the wrong resource tracker.
    """
    loaded = sys.modules.get("loky.process_executor")
    if loaded is not None:
        return loaded
    import multiprocessing.context as contexts

    registry: dict[str, Any] = contexts._concrete_contexts  # type: ignore[attr-defined]
    before: dict[str, Any] = {name: registry[name] for name in ("loky", "loky_init_main") if name in registry}
    try:
        import loky.process_executor
    finally:
        registry.update(before)
    return loky.process_executor


def _build_worker_died() -> type[BaseException]:
    parent: type[BaseException]
    try:
        parent = import_loky().TerminatedWorkerError
    except RuntimeError:  # while the interpreter shuts down, neither module can be imported any more
        from concurrent.futures import BrokenExecutor

        parent = getattr(sys.modules.get("concurrent.futures.process"), "BrokenProcessPool", BrokenExecutor)

    class WorkerDied(parent):  # type: ignore[misc, valid-type]
        """A worker process ended while it ran a call: it crashed, was killed, or called ``os._exit``.

        Parameters
        ----------
        call : FailedCall or str
            The call that it ran. If runs are nested, the attribute ``call`` is the call of the outermost run.
        exit_code : int or None
            The exit code of the process, negative for a signal; None if the system did not report it.
        reason : str, optional
            Why shoal killed the process; None if shoal did not kill it.
        doing : str
            What the process did with the call: ``"it ran"``.
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


_CREATED_ON_FIRST_USE = {"RunTimeout": _build_run_timeout, "WorkerDied": _build_worker_died}


def __getattr__(name: str) -> Any:
    if name not in _CREATED_ON_FIRST_USE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # setdefault is atomic, so two threads that create the class at the same time get the same class.
    return globals().setdefault(name, _CREATED_ON_FIRST_USE[name]())
