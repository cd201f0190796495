"""Which function it is: the path its results are kept under, its source, and whether that has changed.

::

    a callable ──> Subject      what is called in the end, and the arguments that go before: self, those of a partial
                     ├─> path   module and name, as joblib makes them of it: folders are shared
                     └─> Source its text, with file and line, from the file and not from what Python remembers of it
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
from collections.abc import Callable
from itertools import islice
from typing import Any, NamedTuple

from shoal.hashing._functions import is_found
from shoal.memory._freshness import described, is_code_of, is_namespace_of, may_have_changed, text_of
from shoal.memory._places import quoted

_HEADER = "# first line:"
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


class Subject(NamedTuple):
    """What a callable comes down to.

    Attributes
    ----------
    function
        What has a name and a source: a function, or a callable that is none.
    args, kwargs
        What it is called with before the arguments of a call.
    opaque
        Whether its parameters are unknown: something compiled, or a class.
    state
        What its answers depend on beside the arguments, if that is no argument: the string of ``"ab".join``.
    """

    function: Any
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}  # noqa: RUF012
    opaque: bool = False
    state: tuple[Any, ...] = ()


def subject_of(func: Callable[..., Any]) -> Subject:
    """Take a callable apart.

    Raises
    ------
    TypeError
        If it is not callable.
    """
    if isinstance(func, types.FunctionType):
        return Subject(func)
    if isinstance(func, functools.partial) and type(func).__call__ is functools.partial.__call__:
        inner = subject_of(func.func)
        return inner._replace(args=(*inner.args, *func.args), kwargs={**inner.kwargs, **func.keywords})
    if isinstance(func, types.MethodType):
        inner = subject_of(func.__func__)
        return inner._replace(args=(*inner.args, func.__self__))
    if not callable(func):
        raise TypeError(f"{func!r:.80} ({type(func).__name__}) cannot be cached: it is not callable")
    if isinstance(func, type):
        return Subject(func, opaque=True)
    of_class = getattr(type(func), "__call__", None)  # noqa: B004
    if isinstance(of_class, types.FunctionType) and not hasattr(func, "__code__"):
        return Subject(of_class, (func,))
    wrapped = getattr(func, "__wrapped__", None)  # as functools.lru_cache leaves it
    if callable(wrapped) and not hasattr(func, "__code__"):
        return subject_of(wrapped)
    owner = getattr(func, "__self__", None)
    if owner is not None and not isinstance(owner, types.ModuleType):
        return Subject(func, opaque=True, state=(owner,))
    name = getattr(func, "__qualname__", None) or getattr(func, "__name__", None)
    known = name is not None and (owner is not None or is_found(func, getattr(func, "__module__", None), name))
    return Subject(func, opaque=True, state=() if known else (func,))


def names_of(function: Any) -> tuple[list[str], str]:
    """Return the parts of a function's module, its class or outer functions among them, and its name, as joblib does.

    What is in ``__main__`` goes by its file, a cell of a notebook by its text.
    """
    module = function.__module__ if hasattr(function, "__module__") else type(function).__module__
    module = module or ""
    if module == "__main__":
        module += _file_in_name(function)
    parts = module.split(".")
    name = getattr(function, "__name__", "unknown")
    qualified = getattr(function, "__qualname__", name)
    if qualified != name:
        parts += qualified.split(".")[:-1]
    if os.name == "nt":
        return [_for_windows(part) for part in parts], _for_windows(name)
    return parts, name


def path_of(function: Any) -> str:
    """Return where the results of a function are."""
    parts, name = names_of(function)
    return "/".join(map(quoted, [part for part in parts if part] + [name]))


def _file_in_name(function: Any) -> str:
    try:
        file = inspect.getsourcefile(function)
    except TypeError:
        return ""
    if file is None:
        return ""
    parts = os.path.abspath(file).split(os.sep)
    if parts[-1].startswith("<ipython-input"):
        # <ipython-input-NUMBER-DIGEST>: the number is that of the run, the digest that of the text
        number = parts[-1].split("-")
        parts[-1] = "-".join(number[:2] + number[3:])
    elif len(parts) > 2 and parts[-2].startswith("ipykernel_"):
        parts[-2] = "ipykernel"  # what follows is the kernel's process
    return "-" + "-".join(parts).removesuffix(".py")


def _for_windows(part: str) -> str:
    from urllib.parse import quote

    return "".join(quote(char) if char in "<>!:\\" else char for char in part)


class Source(NamedTuple):
    """The source of a function.

    Attributes
    ----------
    text
        Its lines; a fingerprint of its code if there are none; its repr if it has no code.
    file
        Where it is from.
    line
        The number of the first line; -1 if `text` is no source.
    """

    text: str
    file: str | None
    line: int

    @property
    def kept(self) -> str:
        """What is kept of it, in joblib's form."""
        return f"{_HEADER} {self.line}\n{self.text}"


def source_kept(kept: str) -> tuple[str, int]:
    """Take apart what was kept: the text, and the number of its first line."""
    if not kept.startswith(_HEADER):
        return kept, -1
    line, _, text = kept.partition("\n")
    try:
        return text, int(line[len(_HEADER) :])
    except ValueError:
        return kept, -1


#: The source of each function, with the code that it belongs to. joblib too reads it once only: the file may change.
_sources: weakref.WeakKeyDictionary[Any, tuple[Any, Source]] = weakref.WeakKeyDictionary()


def source_of(function: Any) -> Source:
    """Return the source of a function, as it was when this was first asked, unless its ``__code__`` was exchanged."""
    code = getattr(function, "__code__", None)
    try:
        known = _sources.get(function)
    except TypeError:  # it cannot be hashed, or not be referred to weakly
        return _read_source(function, code)
    if known is not None and known[0] is code:
        return known[1]
    source = _read_source(function, code)
    _sources[function] = code, source
    return source


def remember_source(function: Any, source: Source) -> None:
    """Take a source that was read where the function was defined, for a process that cannot read it."""
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
                # Since Python 3.13, that is the program of `python -c`; but everything that is given to exec() says so.
                return Source(fingerprint(code), file, -1)
            doctest = re.match(r"<doctest (.*\.rst)\[(.*)\]>", file)
            if doctest is not None:
                return Source(text, f"<doctest {doctest[1]}>", int(doctest[2]))
            if not file.startswith("<doctest "):
                return Source(text, file, 1)
    except (OSError, SyntaxError, ValueError, IndexError, TypeError):  # no lines, or not Python's any more
        pass
    return Source(fingerprint(code), file, -1)


def _source_without_code(function: Any) -> Source:
    try:
        if isinstance(function, type):
            file = inspect.getsourcefile(function)
            if file is not None and _is_behind(vars(function), file, tuple(function.__qualname__.split("."))):
                return Source(described(vars(function), file), file, -1)
            return Source(inspect.getsource(function), None, -1)
    except (OSError, SyntaxError, ValueError, TypeError):
        pass
    shown = _ADDRESS.sub("", repr(function)).encode("utf-8", "backslashreplace").decode()
    return Source(shown, None, -1)


def source_of_module(module: types.ModuleType) -> Any:
    """Return what changes when the source of a module does."""
    try:
        file = str(module.__file__)
        if file.endswith(".py") and _is_behind(vars(module), file):
            return described(vars(module), file)
        with open(file, "rb") as opened:
            return opened.read()
    except (AttributeError, OSError):  # it is built in, or lies in an archive
        return repr(module), getattr(module, "__version__", None)


def _is_behind(values: Any, file: str, path: tuple[str, ...] = ()) -> bool:
    """Tell whether a module, or a class, is what an earlier text of its file has made."""
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
    """Return the lines of a function; "" where the file has changed since and has another function there."""
    text = text_of(code.co_filename)
    # In this order: should it change between the two, the change is seen.
    if may_have_changed(code.co_filename) and not is_code_of(code, text):
        return ""
    lines = io.StringIO(text).readlines()  # splitlines() would split at form feeds and others too
    return "".join(inspect.getblock(lines[code.co_firstlineno - 1 :]))


def fingerprint(code: types.CodeType) -> str:
    """Return joblib's fingerprint of a function whose source nobody has: it stands in the place of the source."""
    names = [*code.co_names, *code.co_varnames, *code.co_cellvars, *code.co_freevars]
    numbers = [code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags]
    exceptions: bytes = getattr(code, "co_exceptiontable", b"")
    constants = [fingerprint(c) if isinstance(c, types.CodeType) else repr(c) for c in code.co_consts]
    parts = [code.co_name, code.co_code.hex(), exceptions.hex(), *names, *map(repr, numbers), *constants]
    return hashlib.md5("\n".join(parts).encode("utf-8", "replace"), usedforsecurity=False).hexdigest()


def is_elsewhere(kept: str, source: Source) -> bool | None:
    """Tell whether a source that was kept is that of another function, which still stands in the file.

    Returns
    -------
    None where that cannot be told.
    """
    text, line = source_kept(kept)
    if line == source.line or source.file is None:
        return False
    if not os.path.exists(source.file):
        return True if source.file.startswith("<doctest ") else None
    # As many lines as the other function has, which is joblib's rule: the last one is not compared.
    count = source.text.count("\n")
    try:
        with tokenize.open(source.file) as file:
            there = "".join(islice(file, max(line - 1, 0), max(line - 1, 0) + count))
    except (OSError, SyntaxError, UnicodeDecodeError):
        return None
    return there.rstrip() == text.rstrip()
