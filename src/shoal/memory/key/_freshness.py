"""Checks whether a file still has the text of the code that this process runs. It may have been edited.

::

    the file's last change    long before the start of the process that loaded the code, and not after the .pyc file
    (the later of its times)  was written ──> the text of the file is that of the code
                              otherwise   ──> the file is compiled, and compared with the code that runs

The last change is the later of a file's times of content and of inode, because ``rsync -a`` replaces a file by a new
one with an old time of content.
"""

from __future__ import annotations

import ast
import functools
import marshal
import os
import struct
import sys
import time
import tokenize
import types
from collections.abc import Iterator, Mapping
from importlib.util import MAGIC_NUMBER, cache_from_source
from typing import Any

from shoal._platform.files import HAS_CHANGE_TIMES
from shoal.backends.base import is_worker
from shoal.hashing import hash

#: Tolerance in seconds: the clock of a file server may be wrong, and the system's clock may be set at any time.
_MARGIN = 3600.0
_PLAIN = frozenset((bool, int, float, complex, str, bytes, type(None)))
_FORKED_WITHOUT_EXEC = 0x40  # PF_FORKNOEXEC of Linux


def _start_of_process() -> float:
    """Return when this process started, in seconds since the epoch, or 0.0 if it is unknown.

    The start of a forked process counts as unknown, because its code was loaded earlier, by its parent.
    """
    if sys.platform == "linux":
        try:
            with open("/proc/self/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
            flags, ticks = int(fields[6]), int(fields[19])
            if flags & _FORKED_WITHOUT_EXEC:
                return 0.0
            age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
            return time.time() - max(age, 0.0)
        except (OSError, ValueError, IndexError, AttributeError):
            pass
    return 0.0


_started = _start_of_process()  # a forked child inherits it together with the code


def code_started() -> float:
    """Return when the process started that loaded the code of this one, in seconds since the epoch.

    No code that this process runs was loaded before. The result is 0.0 if the start is unknown. It is also 0.0 in a
    worker process, because a function that no import finds was loaded by the process that sent it, before the worker
    started.
    """
    return 0.0 if is_worker() else _started


def may_have_changed(path: str) -> bool:
    """Return whether a file may have changed after this process loaded code from it. Raise OSError if it is missing."""
    changed = _changed(os.stat(path))
    if changed > code_started() - _MARGIN or not os.path.isabs(path):
        return True
    try:
        # Python uses a .pyc file if size and time of change, in whole seconds, agree: the text may be another one.
        return _changed(os.stat(cache_from_source(path))) < changed
    except (OSError, NotImplementedError):
        return False


def _changed(status: os.stat_result) -> float:
    return max(status.st_mtime, status.st_ctime)


def text_of(path: str) -> str:
    """Return the text of a Python file.

    Raise OSError if it cannot be read; SyntaxError or UnicodeDecodeError if it is not Python.
    """
    with tokenize.open(path) as file:
        return file.read()


def is_code_of(code: types.CodeType, text: str) -> bool:
    """Return whether a text contains a code object, at the line that the code object names.

    Raise SyntaxError or ValueError if the text is not Python.
    """
    found = _codes_in(text, code.co_filename).get((code.co_name, code.co_firstlineno), ())
    return any(hash(one) == hash(code) for one in found)


def is_namespace_of(values: Mapping[str, Any], text: str, file: str, path: tuple[str, ...] = ()) -> bool:
    """Return whether the namespace `values` has the functions and constants that the text of a file defines.

    It is the namespace of a module or of a class. `path` is the name of the class, after the names of the classes
    around it; it is empty for a module. Raise SyntaxError or ValueError if the text is not Python.
    """
    body = ast.parse(text).body
    for name in path:
        inside = [item for item in body if isinstance(item, ast.ClassDef) and item.name == name]
        if not inside:
            return False
        body = inside[-1].body
    return _has_constants(values, body) and all(is_code_of(code, text) for code in codes_of(values, file))


def _has_constants(values: Mapping[str, Any], body: list[ast.stmt]) -> bool:
    """Return whether the names of a namespace have the constant values that its body assigns to them."""
    assigned: dict[str, list[Any]] = {}
    for item in body:
        if isinstance(item, ast.Assign) and len(item.targets) == 1 and isinstance(item.targets[0], ast.Name):
            value = item.value.value if isinstance(item.value, ast.Constant) else ...
            assigned.setdefault(item.targets[0].id, []).append(value)
        elif isinstance(item, ast.ClassDef):
            inside = values.get(item.name)
            if isinstance(inside, type) and not _has_constants(vars(inside), item.body):
                return False
    # A name that is assigned twice may have either value, and a metaclass may exchange a value: both are left out.
    return all(
        (type(values[name]), values[name]) == (type(found[0]), found[0])
        for name, found in assigned.items()
        if len(found) == 1 and type(found[0]) in _PLAIN and type(values.get(name, ...)) in _PLAIN
    )


def codes_of(values: Mapping[str, Any], file: str, depth: int = 0) -> Iterator[types.CodeType]:
    """Yield the code objects of the functions in a namespace that come from a file, including those of its classes."""
    for value in list(values.values()):
        for part in (value, getattr(value, "__func__", None), *_accessors(value)):
            code = getattr(part, "__code__", None)
            if isinstance(code, types.CodeType) and code.co_filename == file:
                yield code
        home = values.get("__module__", values.get("__name__"))
        if isinstance(value, type) and value.__module__ == home and depth < 10:
            yield from codes_of(vars(value), file, depth + 1)


def _accessors(value: Any) -> tuple[Any, ...]:
    return (value.fget, value.fset, value.fdel) if isinstance(value, property) else ()


def digest_of_namespace(values: Mapping[str, Any], file: str) -> str:
    """Return a digest of the functions and plain values of a namespace. It replaces a text that no longer exists."""
    plain = {name: value for name, value in values.items() if not name.startswith("__") and type(value) in _PLAIN}
    return hash([plain, *sorted((code.co_name, code.co_firstlineno, hash(code)) for code in codes_of(values, file))])


@functools.lru_cache(16)
def _codes_in(text: str, file: str) -> dict[tuple[str, int], list[types.CodeType]]:
    """Return the code objects of a file by name and first line."""
    found: dict[tuple[str, int], list[types.CodeType]] = {}
    pending = [_compiled_by_python(file) or compile(text, file, "exec", dont_inherit=True)]
    while pending:
        code = pending.pop()
        found.setdefault((code.co_name, code.co_firstlineno), []).append(code)
        pending += [const for const in code.co_consts if isinstance(const, types.CodeType)]
    return found


def _compiled_by_python(file: str) -> types.CodeType | None:
    """Return the code of a file from its .pyc file, if that was certainly compiled from the file's present text."""
    if not HAS_CHANGE_TIMES:  # size and time of content agree also if a file was replaced by one with an old time
        return None
    try:
        path = cache_from_source(file)
        with open(path, "rb") as opened:
            data = opened.read()
        status = os.stat(file)
        made_of = (0).to_bytes(4, "little") + struct.pack("<LL", int(status.st_mtime) % 2**32, status.st_size % 2**32)
        if data[:16] == MAGIC_NUMBER + made_of and _changed(os.stat(path)) > _changed(status):
            code: types.CodeType = marshal.loads(data[16:])
            return code
    except (OSError, NotImplementedError, ValueError, EOFError, TypeError):
        pass
    return None
