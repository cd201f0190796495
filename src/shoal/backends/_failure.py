"""Sends an exception from a worker to its parent.

::

    worker: failure_of(error) ── the first of these that can be pickled and unpickled:   parent: rebuilt(failure)
              exact      all parts; rebuilt without the class's own constructor, if the class has Python's own reduction
              own        by the class's own reduction
              portable   without the parts that cannot be pickled; a note lists them
            or, if all fail, a CallPicklingError
"""

from __future__ import annotations

import contextlib
import copyreg
from types import FunctionType, MemberDescriptorType
from typing import Any, NamedTuple

from shoal._pickling import culprit, dumps, loads
from shoal._tracebacks import from_user, in_a_line, text_of, with_source
from shoal.errors import CallPicklingError, CallUnpicklingError, RemoteTraceback


class Failure(NamedTuple):
    """An encoded exception."""

    stream: bytes  # the pickle
    remote: str  # its traceback; "" if it would be of no use
    note: str | None = None  # lists the parts that were left out


def failure_of(error: BaseException, shown: BaseException) -> Failure:
    """Encode an exception, with the traceback of `shown`: the exception itself or its cause."""
    text = text_of(shown) if shown is error or from_user(shown.__traceback__) is not None else ""
    error.with_traceback(None)
    portable = _Portable()
    for reduce in (_exact, _own, portable):
        try:
            stream, _ = dumps(error, reduce, out_of_band=2**63)
            loads(stream)
        except Exception as refusal:
            reason = in_a_line(refusal)
        else:
            return Failure(stream, text, portable.note)
    path, why = culprit(error, "exception", _own)
    stream, _ = dumps(CallPicklingError(f"the exception {in_a_line(error)[:200]}", path, why or reason))
    return Failure(stream, text)


def _own(value: Any) -> Any:
    """Return an exception's own reduction, not a registered one: tblib's, which dask uses, would add tracebacks."""
    return value.__reduce_ex__(5) if isinstance(value, BaseException) else NotImplemented


def _exact(value: Any) -> Any:
    """Return a reduction that keeps an exception's arguments, attributes, cause and context.

    Python's own reduction calls the constructor of the class with ``args``. If the class has its own constructor, that
    may take other arguments, so the call fails or changes the message. This reduction does not call it.
    """
    if not isinstance(value, BaseException):
        return NotImplemented
    cls = type(value)
    builtin = _builtin(cls)
    usual = cls.__reduce__ is builtin.__reduce__ and cls.__reduce_ex__ is object.__reduce_ex__
    constructed = isinstance(cls.__init__, FunctionType) or isinstance(cls.__new__, FunctionType)
    if usual and (constructed or copyreg._slotnames(cls)):  # type: ignore[attr-defined]
        _, args, *state = builtin.__reduce__(value)
        return _reduction(value, _make, (builtin, cls, args), state[0] if state else None, _others(value, args))
    reduced = value.__reduce_ex__(5)
    if type(reduced) is not tuple or len(reduced) > 3:
        return reduced
    make, args, *state = reduced
    return _reduction(value, make, args, state[0] if state else None, {})


class _Portable:
    """Reduces exceptions without the parts that cannot be pickled; `note` lists those."""

    def __init__(self) -> None:
        self.note: str | None = None
        self._known: dict[int, tuple[BaseException, Any]] = {}  # by id

    def __call__(self, value: Any) -> Any:
        """Return the reduction of an exception."""
        if not isinstance(value, BaseException):
            return NotImplemented
        if id(value) not in self._known:
            self._known[id(value)] = value, (Exception, ())  # for references back to it, until the line below is done
            self._known[id(value)] = value, self._reduced(value)
        return self._known[id(value)][1]

    def _reduced(self, error: BaseException) -> Any:
        cls = type(error)
        builtin = _builtin(cls)
        name = cls.__name__
        sent = next(base for base in cls.__mro__ if self._refusal(base) is None)
        if sent is not cls:
            self._leave_out(f"the class {name} ({self._refusal(cls)})")
        _, args, *state = builtin.__reduce__(error)
        kept = tuple(
            arg if self._sendable(arg, f"{name}.args[{place}]") else _text(arg) for place, arg in enumerate(args)
        )
        attributes = {**((state[0] if state else None) or {}), **_others(error, args)}
        attributes = {key: part for key, part in attributes.items() if self._sendable(part, f"{name}.{key}")}
        chain = [link if self._refusal(link) is None else None for link in (error.__cause__, error.__context__)]
        return _make, (builtin, sent, kept), (attributes, {}, *chain, error.__suppress_context__), None, None, _set

    def _sendable(self, part: Any, path: str) -> bool:
        """Return whether a part can be pickled; if not, add it to the note."""
        refusal = self._refusal(part)
        if refusal is not None:
            self._leave_out(f"{path} ({refusal})")
        return refusal is None

    def _refusal(self, part: Any) -> str | None:
        """Return the reason why a part cannot be pickled, or None."""
        try:
            loads(dumps(part, self, out_of_band=2**63)[0])
        except Exception as refusal:
            return in_a_line(refusal)
        return None

    def _leave_out(self, part: str) -> None:
        start = "Lost on the way from the worker, because it cannot be pickled: "
        self.note = f"{start}{part}" if self.note is None else f"{self.note}; {part}"


def _text(part: Any) -> str:
    """Return a text that replaces an argument that cannot be pickled."""
    try:
        return repr(part)
    except Exception:
        return f"<{type(part).__name__}>"


def _builtin(cls: type[BaseException]) -> Any:
    """Return the builtin exception from which a class derives."""
    return next(base for base in cls.__mro__ if base.__module__ == "builtins")


def _others(error: BaseException, args: tuple[Any, ...]) -> dict[str, Any]:
    """Return the attributes of an exception that are not in its ``__dict__``.

    These are attributes in slots, and attributes of the builtin class, such as ``errno``, if their values differ from
    what the builtin constructor makes of `args`.
    """
    builtin = _builtin(type(error))
    names: list[str] = list(copyreg._slotnames(type(error)))  # type: ignore[attr-defined]
    plain = builtin.__new__(builtin, *args)
    builtin.__init__(plain, *args)
    for base in builtin.__mro__:
        for name, kind in vars(base).items():
            # Python's own reduction does not keep the attribute `obj` of AttributeError, either.
            if type(kind) is MemberDescriptorType and name != "obj":
                made, now = getattr(plain, name, None), getattr(error, name, None)
                if made is not now and made != now:
                    names.append(name)
    return {name: getattr(error, name) for name in names if hasattr(error, name)}


def _reduction(error: BaseException, make: Any, args: Any, state: Any, slots: dict[str, Any]) -> Any:
    chain = error.__cause__, error.__context__, error.__suppress_context__
    if state is None and not slots and chain == (None, None, False):
        return make, args
    return make, args, (state, slots, *chain), None, None, _set


def _make(builtin: Any, cls: type[BaseException], args: tuple[Any, ...]) -> BaseException:
    """Make an exception with the constructor of its builtin base class, not its own."""
    error: BaseException = builtin.__new__(cls, *args)
    builtin.__init__(error, *args)
    return error


def _set(error: Any, given: tuple[Any, dict[str, Any], Any, Any, bool]) -> None:
    """Set the attributes, the cause and the context of a rebuilt exception."""
    state, slots, cause, context, suppress = given
    if state is not None and type(error).__setstate__ is not BaseException.__setstate__:
        error.__setstate__(state)
        state = None
    # Frozen dataclasses refuse plain assignment.
    for name, value in {**(state or {}), **slots}.items():
        BaseException.__setattr__(error, name, value)
    if isinstance(error, BaseException):
        _set_slot(error, "__cause__", cause)
        _set_slot(error, "__context__", context)
        _set_slot(error, "__suppress_context__", suppress)


def _set_slot(error: BaseException, name: str, value: Any) -> None:
    """Set an attribute of BaseException, even if the class refuses assignment."""
    BaseException.__dict__[name].__set__(error, value)


def rebuilt(failure: Failure, source: str) -> BaseException:
    """Return the exception. Its cause is the traceback in `source`, such as "a worker process"."""
    try:
        error: BaseException = loads(failure.stream)
    except Exception as refusal:
        last_line = failure.remote.rstrip().rpartition("\n")[2][:200]
        error = CallUnpicklingError(
            f"the exception of {source} ({last_line})", "the calling process", in_a_line(refusal)
        )
    if failure.note is not None:
        with contextlib.suppress(Exception):  # the user's code may have set __notes__ to any object
            error.__dict__.setdefault("__notes__", []).append(failure.note)
    if error.__context__ is None:  # the traceback replaces the cause, and shows it
        _set_slot(error, "__context__", error.__cause__)
    _set_slot(error, "__cause__", RemoteTraceback(source, with_source(failure.remote)) if failure.remote else None)
    return error
