"""What is written of functions, methods, classes and modules.

::

    importable      its module and qualified name, as a pickle has it
    anything else   by value: lambdas, what a function has defined, and all of __main__, whose names mean
                    something else in the next script and nothing in a worker process
        function    names, code, defaults, values of its closure, attributes; not the globals that it reads
        class       names, bases, attributes, of which those count by their type alone that cannot be hashed
        code        bytecode, constants, names; no file and no line. So it changes with Python's minor version
"""

from __future__ import annotations

import functools
import pickle
import sys
import types
from collections.abc import Callable
from typing import Any

from ._refusal import refusal
from ._walk import Node, Walk, Writer

# Modules that go by another name in other versions of Python or of shoal, or in processes that multiprocessing spawns.
_HOMES = {
    "__mp_main__": "__main__",
    "pathlib._local": "pathlib",
    "shoal.memory.key._arguments": "shoal.memory._arguments",
    "shoal.memory.storage._filestore": "shoal.memory._filestore",
    "shoal.memory.storage._fsspecstore": "shoal.memory._fsspecstore",
}
# What Python enters into a class by itself, and what says nothing of what the class does.
_NOT_COUNTED = frozenset(
    f"__{name}__"
    for name in (
        *("dict", "weakref", "module", "qualname", "doc", "abstractmethods", "firstlineno", "static_attributes"),
        *("annotate", "annotate_func", "annotations_cache", "slotnames"),
    )
) | {"_abc_impl"}
_HEAP_TYPE = 1 << 9
_CODE_PARTS = tuple(
    f"co_{part}"
    for part in (
        *("code", "consts", "names", "varnames", "freevars", "cellvars", "argcount", "posonlyargcount"),
        *("kwonlyargcount", "flags", "name", "exceptiontable"),
    )
    if hasattr(types.CodeType, f"co_{part}")
)


def is_found(obj: Any, module: Any, name: str) -> bool:
    """Tell whether a module that is loaded has an object under a name."""
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found is obj or getattr(found, "__func__", None) is obj  # a class method is found bound to its class


def _home_of(obj: Any, name: str) -> str:
    module: str = getattr(obj, "__module__", None) or pickle.whichmodule(obj, name)  # type: ignore[attr-defined]
    return module


def named(walk: Walk, node: Node, obj: Any, name: str) -> None:
    """Write an object whose ``__reduce__`` gives the name by which its module has it."""
    module = _home_of(obj, name)
    wrapped = getattr(obj, "__wrapped__", None)  # as lru_cache leaves it
    if module not in _HOMES.values() and is_found(obj, module, name):
        walk.elements(node, [_HOMES.get(module, module), name])
    elif wrapped is not None:
        walk.elements(node, [type(obj), module, name, wrapped])
    elif is_found(obj, module, name):
        walk.elements(node, [module, name])
    else:
        raise refusal(obj, f"it says that it is {module}.{name}, which it is not")


def _write_function(walk: Walk, node: Node, function: types.FunctionType) -> None:
    name = function.__qualname__
    module = _home_of(function, name)
    home = _HOMES.get(module, module)
    if home != "__main__" and is_found(function, module, name):
        walk.elements(node, [home, name])
        return
    node.update(b"by value")
    cells = [_contents_of(cell) for cell in function.__closure__ or ()]
    walk.elements(
        node,
        [
            home,
            name,
            function.__code__,
            function.__defaults__,
            function.__kwdefaults__,
            function.__dict__ or None,
            cells,
        ],
    )


def _contents_of(cell: Any) -> list[Any]:
    try:
        return [cell.cell_contents]
    except ValueError:  # not filled yet
        return []


@functools.lru_cache(1024)
def _code_digest(code: types.CodeType, writer_of: Callable[[type], tuple[bytes, Writer]]) -> bytes:
    return Walk(writer_of).block([[getattr(code, part) for part in _CODE_PARTS]])


def _write_code(walk: Walk, node: Node, code: types.CodeType) -> None:
    node.update(_code_digest(code, walk.writer_of))


def write_class(walk: Walk, node: Node, cls: type) -> None:
    """Write a class."""
    name = cls.__qualname__
    home = _HOMES.get(cls.__module__, cls.__module__)
    if not cls.__flags__ & _HEAP_TYPE or (home != "__main__" and is_found(cls, cls.__module__, name)):
        walk.elements(node, [home, name])
        return
    node.update(b"by value")
    walk.elements(node, [home, name, cls.__bases__, type(cls)])
    for attribute in sorted(set(vars(cls)) - _NOT_COUNTED):
        value = vars(cls)[attribute]
        written = walk.attempt(value)
        node.update(walk.block([attribute, type(value)]) if written is None else walk.block([attribute]) + written)


def _write_method(walk: Walk, node: Node, method: types.MethodType) -> None:
    walk.elements(node, [method.__func__, method.__self__])


def _write_builtin(walk: Walk, node: Node, function: types.BuiltinFunctionType) -> None:
    owner = function.__self__
    if owner is None or isinstance(owner, types.ModuleType):
        walk.elements(node, [function.__module__ or getattr(owner, "__name__", None), function.__qualname__])
    else:
        node.update(b"of")
        walk.elements(node, [function.__name__, owner])


def _write_module(walk: Walk, node: Node, module: types.ModuleType) -> None:
    walk.elements(node, [_HOMES.get(module.__name__, module.__name__)])


def _write_property(walk: Walk, node: Node, obj: property) -> None:
    walk.elements(node, [obj.fget, obj.fset, obj.fdel])


def _write_wrapped(walk: Walk, node: Node, obj: Any) -> None:
    walk.elements(node, [obj.__func__])


def _write_cached_property(walk: Walk, node: Node, obj: functools.cached_property[Any]) -> None:
    walk.elements(node, [obj.func])


WRITERS: dict[type, tuple[bytes, Writer]] = {
    types.FunctionType: (b"function\n", _write_function),
    types.CodeType: (b"code\n", _write_code),
    type: (b"class\n", write_class),
    types.MethodType: (b"method\n", _write_method),
    types.BuiltinFunctionType: (b"builtin\n", _write_builtin),
    types.ModuleType: (b"module\n", _write_module),
    property: (b"property\n", _write_property),
    staticmethod: (b"staticmethod\n", _write_wrapped),
    classmethod: (b"classmethod\n", _write_wrapped),
    functools.cached_property: (b"cached_property\n", _write_cached_property),
}
