"""Exceptions that travel from a worker process to the caller keep their type and everything that can be pickled."""

from __future__ import annotations

import builtins
import concurrent.futures
import dataclasses
import errno
import json
import linecache
import pickle
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from shoal import CallUnpicklingError, Parallel, delayed, executor
from shoal._tracebacks import with_source
from shoal.backends._failure import failure_of, rebuilt
from shoal.errors import NoSpaceError, RemoteTraceback, cannot_start

#: Of Python 3.11 and later.
Group: Any = getattr(builtins, "ExceptionGroup", None)


class Coded(Exception):
    """An exception whose constructor passes another argument to the base class than it receives."""

    def __init__(self, code: int) -> None:
        super().__init__(f"code {code}")
        self.code = code


class ByKeyword(Exception):
    def __init__(self, *, code: int) -> None:
        super().__init__()
        self.code = code

    def __str__(self) -> str:
        return f"code {self.code}"


class Slotted(Exception):
    __slots__ = ("__hidden", "code")

    def __init__(self, code: int) -> None:
        super().__init__()
        self.code = code
        self.__hidden = code

    def hidden(self) -> int:
        return self.__hidden


class Unreducible(Exception):
    def __reduce__(self) -> Any:
        raise RuntimeError("I will not be reduced")


class OwnMaking(Exception):
    """An exception whose ``__new__`` needs an argument that a pickle does not contain."""

    def __new__(cls, *, code: int) -> OwnMaking:
        error = super().__new__(cls, "made")
        error.code = code
        return error

    def __init__(self, *, code: int) -> None:
        super().__init__("made")

    code: int


class OwnOSError(OSError):
    def __init__(self, name: str, device: Any) -> None:
        super().__init__(2, "gone", name)
        self.device = device


class OwnNumber(OSError):
    """An exception whose errno is neither in its ``__dict__`` nor in its ``args``."""

    def __init__(self, text: str, number: int) -> None:
        super().__init__(text)
        self.errno = number


class OwnKeyError(KeyError):
    def __init__(self, key: str, *, table: str) -> None:
        super().__init__(key)
        self.table = table


class OwnDecodeError(UnicodeDecodeError):
    def __init__(self, data: bytes) -> None:
        super().__init__("ascii", data, 0, 1, "too high")
        self.data = data


class OwnExit(SystemExit):
    def __init__(self, code: int, why: str) -> None:
        super().__init__(code)
        self.why = why


class OwnCancelled(concurrent.futures.CancelledError):
    def __init__(self, *, why: str) -> None:
        super().__init__(why)
        self.why = why


class WithCall(Exception):
    """An exception that itself has attributes of the names that shoal attaches."""

    def __init__(self, call: str) -> None:
        super().__init__(call)
        self.call = call
        self.results = [call]


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    code: int


class Unsayable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words for it")


class HoldsALock(type):
    lock = threading.Lock()


def local_class() -> type[Exception]:
    class Local(ValueError):
        def __init__(self, code: int, *, where: str) -> None:
            super().__init__(f"{code} at {where}")
            self.code = code

    return Local


def class_that_cannot_travel() -> type[Exception]:
    class Local(ValueError):
        lock = threading.Lock()

    return Local


def with_attributes(error: BaseException, **attributes: Any) -> BaseException:
    error.__dict__.update(attributes)
    return error


def chained() -> BaseException:
    try:
        try:
            raise Coded(1)
        except Coded as error:
            raise ByKeyword(code=2) from error
    except ByKeyword as outer:
        return outer


def in_circles() -> BaseException:
    first, second = Coded(1), Coded(2)
    first.__context__, second.__context__ = second, first
    first.lock = threading.Lock()  # type: ignore[attr-defined]
    return first


def with_its_frame() -> BaseException:
    return with_attributes(ValueError("framed"), frame=sys._getframe(), trace=chained().__traceback__, code=4)


def makes(make: Callable[[], BaseException]) -> None:
    raise make()


#: What raises it; its type; its attributes; what was left out.
ZOO: dict[str, tuple[Callable[[], BaseException], type[BaseException], dict[str, Any], tuple[str, ...]]] = {
    "coded": (lambda: Coded(3), Coded, {"code": 3, "args": ("code 3",)}, ()),
    "by keyword": (lambda: ByKeyword(code=3), ByKeyword, {"code": 3, "args": ()}, ()),
    "slots": (lambda: Slotted(3), Slotted, {"code": 3, "_Slotted__hidden": 3}, ()),
    "unreducible": (lambda: with_attributes(Unreducible("no"), code=3), Unreducible, {"code": 3, "args": ("no",)}, ()),
    "own __new__": (lambda: OwnMaking(code=3), OwnMaking, {"code": 3, "args": ("made",)}, ()),
    "OSError": (
        lambda: OwnOSError("file", threading.Lock()),
        OwnOSError,
        {"errno": 2, "filename": "file", "strerror": "gone"},
        ("OwnOSError.device",),
    ),
    "OSError's number": (lambda: OwnNumber("gone", 2), OwnNumber, {"errno": 2, "args": ("gone",)}, ()),
    "KeyError": (lambda: OwnKeyError("k", table="t"), OwnKeyError, {"table": "t", "args": ("k",)}, ()),
    "UnicodeDecodeError": (lambda: OwnDecodeError(b"\xff"), OwnDecodeError, {"object": b"\xff", "data": b"\xff"}, ()),
    "SystemExit": (lambda: OwnExit(3, "why"), OwnExit, {"code": 3, "why": "why"}, ()),
    "CancelledError": (lambda: OwnCancelled(why="why"), OwnCancelled, {"why": "why"}, ()),
    "own reduction": (lambda: json.JSONDecodeError("bad", "{", 1), json.JSONDecodeError, {"pos": 1, "doc": "{"}, ()),
    "frozen": (lambda: Frozen(3), Frozen, {"code": 3}, ()),
    "unsayable": (
        lambda: with_attributes(Unsayable(), lock=threading.Lock(), code=3),
        Unsayable,
        {"code": 3},
        ("Unsayable.lock",),
    ),
    "argument": (
        lambda: Coded.__new__(Coded, "text", threading.Lock()),  # type: ignore[arg-type, call-arg]
        Coded,
        {},
        ("Coded.args[1]",),
    ),
    "socket": (
        lambda: with_attributes(ConnectionError(104, "reset"), peer=socket.socket(), code=3),
        ConnectionError,
        {"errno": 104, "code": 3},
        ("ConnectionError.peer",),
    ),
    "frames": (with_its_frame, ValueError, {"code": 4, "args": ("framed",)}, ("ValueError.frame",)),
    "class": (lambda: class_that_cannot_travel()("text"), ValueError, {"args": ("text",)}, ("the class Local",)),
    "circle": (in_circles, Coded, {"code": 1}, ("Coded.lock",)),
    "huge": (lambda: ValueError("x" * 10**7), ValueError, {"args": ("x" * 10**7,)}, ()),
    "own call": (lambda: WithCall("mine"), WithCall, {"call": "mine", "results": ["mine"]}, ()),
}


def check(error: BaseException, name: str) -> None:
    _, cls, attributes, left_out = ZOO[name]
    assert type(error) is cls
    assert {attribute: getattr(error, attribute) for attribute in attributes} == attributes
    notes = getattr(error, "__notes__", [])
    assert len(notes) == bool(left_out)
    assert all(part in notes[0] for part in left_out)
    assert isinstance(error.__cause__, RemoteTraceback)
    assert len(str(error.__cause__)) < 10**6


def caught_by(run: Callable[[], Any]) -> BaseException:
    try:
        run()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


@pytest.mark.parametrize("backend", ["loky", "multiprocessing"])
@pytest.mark.parametrize("name", ZOO)
def test_exceptions_keep_their_type_and_state(name: str, backend: str) -> None:
    calls = [delayed(makes)(ZOO[name][0])]
    check(caught_by(lambda: Parallel(n_jobs=2, backend=backend)(calls)), name)


@pytest.mark.parametrize("error", [Coded(1), Frozen(3)])
def test_exceptions_of_threads_are_those_that_were_raised(error: Exception) -> None:
    assert caught_by(lambda: Parallel(n_jobs=2, backend="threading")([delayed(makes)(lambda: error)])) is error


def test_exceptions_keep_their_type_and_state_in_futures_and_results() -> None:
    with executor(2) as pool:
        futures = {name: pool.submit(makes, make) for name, (make, *_) in ZOO.items()}
        for name, future in futures.items():
            check(caught_by(future.result), name)
    kept = {name: make for name, (make, cls, *_) in ZOO.items() if issubclass(cls, Exception)}
    errors = Parallel(n_jobs=2, on_error="return")(delayed(makes)(make) for make in kept.values())
    for name, error in zip(kept, errors, strict=True):
        check(error, name)


@pytest.mark.parametrize("backend", ["loky", "multiprocessing"])
def test_exceptions_of_initializers_keep_their_type_and_state(backend: str) -> None:
    for name in ("coded", "OSError"):
        options = {"initializer": makes, "initargs": (_Makes(name),)}
        check(caught_by(lambda: Parallel(n_jobs=2, backend=backend, **options)([delayed(abs)(1)])), name)  # noqa: B023


class _Makes:
    """A factory of one exception of the zoo, which can be pickled without cloudpickle."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self) -> BaseException:
        return ZOO[self.name][0]()


def test_local_classes_keep_their_type() -> None:
    cls = local_class()

    def fail() -> None:
        raise cls(3, where="here")  # type: ignore[call-arg]

    with pytest.raises(cls) as caught:
        Parallel(n_jobs=2)([delayed(fail)()])
    assert caught.value.code == 3
    assert str(caught.value) == "3 at here"


def test_cause_and_context_are_kept() -> None:
    error = rebuilt(failure_of(chained(), chained()), "a call")
    assert type(error) is ByKeyword
    assert isinstance(error.__cause__, RemoteTraceback)
    inner = error.__context__
    assert type(inner) is Coded
    assert inner.code == 1
    error = rebuilt(failure_of(in_circles(), in_circles()), "a call")
    assert isinstance(error.__context__, Coded)


def test_os_errors_keep_their_errno() -> None:
    full = NoSpaceError(3, ("here",), "no room")
    refused = cannot_start(OSError(errno.EMFILE, "too many"))
    for error, number in ((full, errno.ENOSPC), (refused, errno.EMFILE)):
        arrived = rebuilt(failure_of(error, error), "a call")
        assert isinstance(arrived, OSError)
        assert (type(arrived), str(arrived)) == (type(error), str(error))
        assert arrived.errno == error.errno == number  # type: ignore[attr-defined]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups")
@pytest.mark.parametrize("backend", ["loky", "multiprocessing"])
def test_exception_groups_keep_their_exceptions(backend: str) -> None:
    def fail() -> None:
        lock = with_attributes(Coded(4), lock=threading.Lock(), after=1)
        inner = Group("inner", [ByKeyword(code=2), chained(), lock])
        raise Group("outer", [Coded(1), inner, OwnKeyError("k", table="t")])

    with pytest.raises(Group, match="outer") as caught:
        Parallel(n_jobs=2, backend=backend)([delayed(fail)()])
    first, inner, last = caught.value.exceptions
    assert (type(first), str(first), first.code) == (Coded, "code 1", 1)
    assert [type(error) for error in inner.exceptions] == [ByKeyword, ByKeyword, Coded]
    assert inner.exceptions[1].__cause__.code == 1
    assert inner.exceptions[2].after == 1
    assert (type(last), last.table) == (OwnKeyError, "t")
    assert "Coded.lock" in caught.value.__notes__[0]


def test_notes_of_exceptions_are_kept() -> None:
    error = with_attributes(Coded(3), __notes__=["mine"], lock=threading.Lock())
    arrived = rebuilt(failure_of(error, error), "a call")
    assert arrived.__notes__[0] == "mine"
    assert "Coded.lock" in arrived.__notes__[1]


def test_an_exception_class_that_cannot_be_imported_is_named() -> None:
    stream = pickle.dumps(Coded(3)).replace(b"test_exceptions", b"test_exception_")
    raised = Coded(3)
    failure = failure_of(raised, raised)._replace(stream=stream)
    error = rebuilt(failure, "call 3, f(...)")
    assert type(error) is CallUnpicklingError
    said = "the exception of call 3, f(...) (test_exceptions.Coded: code 3) cannot be unpickled in the calling process"
    assert str(error).startswith(said)
    assert "must be importable there" in str(error)


def test_source_lines_that_only_the_caller_has_are_added(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["def f():\n", "    raise ValueError\n"]
    monkeypatch.setitem(linecache.cache, "<ipython-input-3-abc>", (0, None, lines, "<ipython-input-3-abc>"))
    text = (
        "Traceback (most recent call last):\n"
        '  File "<ipython-input-3-abc>", line 2, in f\n'
        '  File "/known.py", line 2, in g\n'
        "    f()\n"
        '  File "<unknown>", line 2, in h\n'
        "  + Exception Group\n"
        '  |   File "<ipython-input-3-abc>", line 2, in f\n'
        "  | ValueError\n"
    )
    assert with_source(text) == (
        "Traceback (most recent call last):\n"
        '  File "<ipython-input-3-abc>", line 2, in f\n'
        "    raise ValueError\n"
        '  File "/known.py", line 2, in g\n'
        "    f()\n"
        '  File "<unknown>", line 2, in h\n'
        "  + Exception Group\n"
        '  |   File "<ipython-input-3-abc>", line 2, in f\n'
        "  |     raise ValueError\n"
        "  | ValueError\n"
    )
