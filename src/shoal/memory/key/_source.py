"""The path of a function in a store, and its source.

::

    a callable ──> Subject      the function that is called in the end, and the arguments that precede those of a call
                     ├─> path   from its module and name, as joblib makes it, because both share folders
                     └─> Source its text, file and line; read from the file, not from Python's cache of its lines
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import io
import os
import re
import tokenize
import types
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, NamedTuple
from urllib.parse import quote

from shoal.hashing._functions import is_found
from shoal.memory.key._freshness import digest_of_namespace, is_code_of, is_namespace_of, may_have_changed, text_of
from shoal.memory.storage._paths import quoted

_HEADER = "# first line:"
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


@dataclass(frozen=True, slots=True)
class Subject:
    """The function, or other callable with a name and a source, that a callable finally calls."""

    function: Any
    #: The arguments that precede those of a call: ``self``, and those of a partial.
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    #: Whether the parameters are unknown, like those of a compiled function or a class.
    opaque: bool = False
    #: Objects that the result depends on and that are not arguments, such as the string of ``"ab".join``.
    state: tuple[Any, ...] = ()


def subject_of(func: Callable[..., Any]) -> Subject:
    """Return the subject of a callable. Raise TypeError if it is not callable."""
    if isinstance(func, types.FunctionType):
        return Subject(func)
    if isinstance(func, functools.partial) and type(func).__call__ is functools.partial.__call__:
        inner = subject_of(func.func)
        return replace(inner, args=(*inner.args, *func.args), kwargs={**inner.kwargs, **func.keywords})
    if isinstance(func, types.MethodType):
        inner = subject_of(func.__func__)
        return replace(inner, args=(*inner.args, func.__self__))
    if not callable(func):
        raise TypeError(f"{func!r:.80} ({type(func).__name__}) cannot be cached: it is not callable")
    if isinstance(func, type):
        return Subject(func, opaque=True)
    of_class = getattr(type(func), "__call__", None)  # noqa: B004
    if isinstance(of_class, types.FunctionType) and not hasattr(func, "__code__"):
        return Subject(of_class, (func,))
    wrapped = getattr(func, "__wrapped__", None)  # functools.lru_cache sets it
    if callable(wrapped) and not hasattr(func, "__code__"):
        return subject_of(wrapped)
    owner = getattr(func, "__self__", None)
    if owner is not None and not isinstance(owner, types.ModuleType):
        return Subject(func, opaque=True, state=(owner,))
    name = getattr(func, "__qualname__", None) or getattr(func, "__name__", None)
    known = name is not None and (owner is not None or is_found(func, getattr(func, "__module__", None), name))
    return Subject(func, opaque=True, state=() if known else (func,))


def wrapped_by(function: Any) -> Iterator[Any]:
    """Yield the functions inside a decorated function, outermost first: their sources count together with its own."""
    for _ in range(100):  # bounded, because a function may have wrapped itself
        function = getattr(function, "__wrapped__", None)
        if function is None:
            return
        yield function


def name_of(function: Any) -> str:
    """Return the name of a function as it is, also on Windows, where that of a folder must not contain ``<``."""
    return str(getattr(function, "__name__", "unknown"))


def names_of(function: Any) -> tuple[list[str], str]:
    """Return the parts of a function's path, and its name, as joblib does.

    The parts are those of its module, and the class or the functions around it. In ``__main__`` they contain the file,
    in a notebook the digest of the cell's text.
    """
    module = function.__module__ if hasattr(function, "__module__") else type(function).__module__
    module = module or ""
    if module == "__main__":
        module += _file_in_name(function)
    parts = module.split(".")
    name = name_of(function)
    qualified = getattr(function, "__qualname__", name)
    if qualified != name:
        parts += qualified.split(".")[:-1]
    if os.name == "nt":
        return [_for_windows(part) for part in parts], _for_windows(name)
    return parts, name


def path_of(function: Any) -> str:
    """Return the path of a function's entries in a store."""
    parts, name = names_of(function)
    return "/".join(map(quoted, [part for part in parts if part] + [name]))


def shown(path: str) -> str:
    """Return the path of a function as joblib shows it: with the separator of the system."""
    return path.replace("/", os.sep)


def _file_in_name(function: Any) -> str:
    try:
        file = inspect.getsourcefile(function)
    except TypeError:
        return ""
    if file is None:
        return ""
    parts = os.path.abspath(file).split(os.sep)
    if parts[-1].startswith("<ipython-input"):
        # <ipython-input-NUMBER-DIGEST>: the number counts the runs of cells, the digest is that of the text
        number = parts[-1].split("-")
        parts[-1] = "-".join(number[:2] + number[3:])
    elif len(parts) > 2 and parts[-2].startswith("ipykernel_"):
        parts[-2] = "ipykernel"  # without the number of the kernel's process
    return "-" + "-".join(parts).removesuffix(".py")


def _for_windows(part: str) -> str:
    return "".join(quote(char) if char in "<>!:\\" else char for char in part)


class Source(NamedTuple):
    """The source of a function."""

    text: str  # its lines; or, without lines, a fingerprint of its code; or, without code, its repr
    file: str | None
    line: int  # the number of the first line; -1 if `text` is not a source

    @property
    def as_stored(self) -> str:
        """The text that a store gets, in joblib's form."""
        return f"{_HEADER} {self.line}\n{self.text}"

    def is_text_of(self, stored: str) -> bool:
        """Return whether a stored source has the same text."""
        return parse_stored(stored)[0].rstrip() == self.text.rstrip()


def parse_stored(stored: str) -> tuple[str, int]:
    """Return the text of a stored source, and the number of its first line, or -1."""
    if not stored.startswith(_HEADER):
        return stored, -1
    line, _, text = stored.partition("\n")
    try:
        return text, int(line[len(_HEADER) :])
    except ValueError:
        return stored, -1


#: The source of each function, with the code that it belongs to. Like joblib, read once: the file may change later.
_sources: weakref.WeakKeyDictionary[Any, tuple[Any, Source]] = weakref.WeakKeyDictionary()


def source_of(function: Any) -> Source:
    """Return the source of a function. It is read once, and again if the ``__code__`` of the function is exchanged."""
    code = getattr(function, "__code__", None)
    try:
        known = _sources.get(function)
    except TypeError:  # it cannot be hashed, or does not support weak references
        return _read_source(function, code)
    if known is not None and known[0] is code:
        return known[1]
    source = _read_source(function, code)
    _sources[function] = code, source
    return source


def remember_source(function: Any, source: Source) -> None:
    """Set the source of an unpickled function, as it was read where the function was defined."""
    try:
        _sources.setdefault(function, (getattr(function, "__code__", None), source))
    except TypeError:
        pass


def _read_source(function: Any, code: Any) -> Source:
    if not isinstance(code, types.CodeType):
        return _source_without_code(function)
    file = code.co_filename
    try:
        if os.path.exists(file):
            text = _lines_in_file(code)
            if text:
                return Source(text, file, code.co_firstlineno)
        else:
            text = "".join(inspect.getsourcelines(function)[0])
            if file == "<string>" and not is_code_of(code, "".join(inspect.findsource(function)[0])):
                # Since Python 3.13, "<string>" is the program of `python -c`; but all code from exec() is named so too.
                return Source(fingerprint(code), file, -1)
            doctest = re.match(r"<doctest (.*\.rst)\[(.*)\]>", file)
            if doctest is not None:
                return Source(text, f"<doctest {doctest[1]}>", int(doctest[2]))
            if not file.startswith("<doctest "):
                return Source(text, file, 1)
    except (OSError, SyntaxError, ValueError, IndexError, TypeError):  # no lines, or no longer Python
        pass
    return Source(fingerprint(code), file, -1)


def _source_without_code(function: Any) -> Source:
    try:
        if isinstance(function, type):
            file = inspect.getsourcefile(function)
            if file is not None and _is_outdated(vars(function), file, tuple(function.__qualname__.split("."))):
                return Source(digest_of_namespace(vars(function), file), file, -1)
            return Source(inspect.getsource(function), None, -1)
    except (OSError, SyntaxError, ValueError, TypeError):
        pass
    shown = _ADDRESS.sub("", repr(function)).encode("utf-8", "backslashreplace").decode()
    return Source(shown, None, -1)


def source_of_module(module: types.ModuleType) -> Any:
    """Return a value that changes when the source of a module changes."""
    try:
        file = str(module.__file__)
        if file.endswith(".py") and _is_outdated(vars(module), file):
            return digest_of_namespace(vars(module), file)
        with open(file, "rb") as opened:
            return opened.read()
    except (AttributeError, OSError):  # it is built in, or in an archive
        return repr(module), getattr(module, "__version__", None)


def _is_outdated(values: Any, file: str, path: tuple[str, ...] = ()) -> bool:
    """Return whether a module, or a class in it, was made from an earlier text of its file."""
    try:
        text = text_of(file)
        if not may_have_changed(file) or "<locals>" in path:
            return False
        return not is_namespace_of(values, text, file, path)
    except FileNotFoundError:
        return False
    except (OSError, SyntaxError, ValueError):
        return True


def _lines_in_file(code: types.CodeType) -> str:
    """Return the lines of a function; "" if the file was edited and has another function there."""
    text = text_of(code.co_filename)
    # The text is read before the times: an edit between the two is noticed.
    if may_have_changed(code.co_filename) and not is_code_of(code, text):
        return ""
    lines = io.StringIO(text).readlines()  # splitlines() would also split at form feeds and other characters
    return "".join(inspect.getblock(lines[code.co_firstlineno - 1 :]))


def fingerprint(code: types.CodeType) -> str:
    """Return joblib's fingerprint of a code object. It replaces the source of a function that has none."""
    names = [*code.co_names, *code.co_varnames, *code.co_cellvars, *code.co_freevars]
    numbers = [code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags]
    exceptions: bytes = getattr(code, "co_exceptiontable", b"")
    constants = [fingerprint(c) if isinstance(c, types.CodeType) else repr(c) for c in code.co_consts]
    parts = [code.co_name, code.co_code.hex(), exceptions.hex(), *names, *map(repr, numbers), *constants]
    return hashlib.md5("\n".join(parts).encode("utf-8", "replace"), usedforsecurity=False).hexdigest()


def is_elsewhere(stored: str, source: Source) -> bool | None:
    """Return whether a stored source is that of another function, still in the same file; None if that is unknown."""
    text, line = parse_stored(stored)
    if line == source.line or source.file is None:
        return False
    if not os.path.exists(source.file):
        return True if source.file.startswith("<doctest ") else None
    # joblib's rule: as many lines are read as the function of `source` has line ends, so its last line may be missing.
    count = source.text.count("\n")
    try:
        with tokenize.open(source.file) as file:
            there = "".join(islice(file, max(line - 1, 0), max(line - 1, 0) + count))
    except (OSError, SyntaxError, UnicodeDecodeError):
        return None
    return there.rstrip() == text.rstrip()
